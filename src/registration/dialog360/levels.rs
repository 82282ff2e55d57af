//! Decides how the main webhooks are set and shown: that of a number (`/v1/configs/webhook`) and that
//! of a WABA (`/waba_webhook`).
//!
//! Leaves to others: what setting one does to the others (`hooks`). Invariant: what an answer says was
//! set is in force and on the device.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::hooks::{self, Hooks};
use super::{Asked, fresh};
use crate::registration::fields::{Object, Problem, utf8};
use crate::registration::hook::{self, Answer, Hook, Refusal};

/// `/v1/configs/webhook`
pub(super) fn number(asked: &Asked<'_>) -> Answer {
    match *asked.call.method {
        Method::GET => {
            let all = asked.call.engine.subscriptions_of(asked.key.account.name());
            let set = hooks::named(&all, hooks::NUMBER).ok_or_else(Refusal::unset)?;
            Ok(Value::Object(hook::shown(&set.target)))
        }
        Method::POST => {
            let body = Object::read(utf8(asked.call.body)?, &["url", "headers"])?;
            set_number(asked, asked.reader().hook(&body)?)
        }
        _ => Err(Refusal::method(&[Method::GET, Method::POST])),
    }
}

fn set_number(asked: &Asked<'_>, hook: Hook) -> Answer {
    let Asked { call, key, options } = asked;
    let (_, shown) = call.engine.change(key.account.name(), |standing| {
        let hooks = Hooks::of(standing);
        let set = hook.subscription(hooks.number, fresh(hooks::NUMBER.to_owned()));
        let shown = hook::shown(&set.target);
        let changes = hooks.set_number(set.numbers_or_all(key.numbers()), options);
        Ok::<_, Refusal>((changes, shown))
    })?;
    Ok(Value::Object(shown))
}

/// `/waba_webhook`
pub(super) fn waba(asked: &Asked<'_>) -> Answer {
    match *asked.call.method {
        Method::GET => {
            let all = asked.call.engine.subscriptions_of(asked.key.account.name());
            let set = hooks::named(&all, hooks::WABA).ok_or_else(Refusal::unset)?;
            let mut shown = hook::shown(&set.target);
            if let Some(waba_id) = asked.key.waba_id() {
                shown.insert("waba_id".to_owned(), waba_id);
            }
            shown.insert("numbers_on_this_waba".to_owned(), asked.key.numbers_of(set).into());
            Ok(Value::Object(shown))
        }
        Method::POST => {
            let known = ["url", "headers", "override_all", "waba_id"];
            let body = Object::read(utf8(asked.call.body)?, &known)?;
            check_waba_id(asked, &body)?;
            let overrides = body.value("override_all", "true or false")?.unwrap_or(false);
            set_waba(asked, asked.reader().hook(&body)?, overrides)
        }
        _ => Err(Refusal::method(&[Method::GET, Method::POST])),
    }
}

/// A WABA's id as it is given: 360dialog shows numbers, everybody else texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum WabaId {
    Number(u64),
    Text(String),
}

/// The key says which WABA is meant; whoever names one as well must mean the same.
fn check_waba_id(asked: &Asked<'_>, body: &Object<'_>) -> Result<(), Problem> {
    let expected = "the id of the WABA that the key stands for";
    let is_meant = match body.value("waba_id", expected)? {
        None => true,
        Some(WabaId::Number(id)) => asked.key.is_waba(&id.to_string()),
        Some(WabaId::Text(id)) => asked.key.is_waba(&id),
    };
    match is_meant {
        true => Ok(()),
        false => Err(Problem::at("waba_id", format!("found another; expected {expected}"))),
    }
}

fn set_waba(asked: &Asked<'_>, hook: Hook, overrides: bool) -> Answer {
    let Asked { call, key, options } = asked;
    call.engine.change(key.account.name(), |standing| {
        let hooks = Hooks::of(standing);
        let set = hook.subscription(hooks.waba, fresh(hooks::WABA.to_owned()));
        let set = set.numbers_or_all(key.waba_filter());
        Ok::<_, Refusal>((hooks.set_waba(set, overrides, options), ()))
    })?;
    // Its document promises it within 15 to 20 seconds; it is in force by now.
    let message = match key.waba_id() {
        Some(id) => format!("Webhook will be set for waba_id: {}", shown_id(&id)),
        None => "Webhook will be set for all numbers of the account".to_owned(),
    };
    Ok(json!({"message": message}))
}

fn shown_id(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}
