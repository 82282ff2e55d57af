//! Sets and shows the main webhooks: that of a number (`/v1/configs/webhook`) and that of a WABA
//! (`/waba_webhook`). What a response reports as set is durable and in force.

use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::key_webhooks;
use super::request::{Dialog360Request, fresh};
use crate::registration::fields::{Problem, RequestObject, utf8};
use crate::registration::webhook_config::{self, ConfigError, ConfigResult};
use crate::subscription::Target;

/// `/v1/configs/webhook`
pub(super) fn number(request: &Dialog360Request<'_>) -> ConfigResult {
    match *request.http.method {
        Method::GET => {
            let all = request.http.engine.subscriptions_of(request.key.account.id());
            // Without a webhook the response has no URL: clients read it before they set theirs.
            let set = key_webhooks::named(&all, key_webhooks::NUMBER);
            Ok(Value::Object(set.map(|set| webhook_config::shown(&set.target)).unwrap_or_default()))
        }
        Method::POST => {
            let body = RequestObject::read(utf8(request.http.body)?, &["url", "headers"])?;
            if unsets(&body) {
                request.change(|webhooks| Ok(webhooks.unset_number(request.options)))?;
                return Ok(json!({}));
            }
            set_number(request, request.reader().config(&body)?)
        }
        _ => Err(ConfigError::method(&[Method::GET, Method::POST])),
    }
}

/// Whether a request removes the webhook: its URL is `null` or empty.
fn unsets(body: &RequestObject<'_>) -> bool {
    body.raw("url").is_some_and(|raw| matches!(raw.get(), "null" | "\"\""))
}

fn set_number(request: &Dialog360Request<'_>, target: Target) -> ConfigResult {
    let mut shown = Map::new();
    request.change(|webhooks| {
        let fresh = fresh(key_webhooks::NUMBER.to_owned());
        let set = webhook_config::subscription(target, webhooks.number, fresh);
        shown = webhook_config::shown(&set.target);
        Ok(webhooks.set_number(set.numbers_or_all(request.key.numbers()), request.options))
    })?;
    Ok(Value::Object(shown))
}

/// `/waba_webhook`
pub(super) fn waba(request: &Dialog360Request<'_>) -> ConfigResult {
    match *request.http.method {
        Method::GET => {
            let all = request.http.engine.subscriptions_of(request.key.account.id());
            let set =
                key_webhooks::named(&all, key_webhooks::WABA).ok_or_else(ConfigError::unset)?;
            let mut shown = webhook_config::shown(&set.target);
            if let Some(waba_id) = request.key.waba_id() {
                shown.insert("waba_id".to_owned(), waba_id);
            }
            shown.insert("numbers_on_this_waba".to_owned(), request.key.numbers_of(set).into());
            Ok(Value::Object(shown))
        }
        Method::POST => {
            let known = ["url", "headers", "override_all", "waba_id"];
            let body = RequestObject::read(utf8(request.http.body)?, &known)?;
            check_waba_id(request, &body)?;
            if unsets(&body) {
                request.change(|webhooks| Ok(webhooks.unset_waba(request.options)))?;
                return Ok(json!({"message": "Webhook will be unset"}));
            }
            let overrides = body.value("override_all", "true or false")?.unwrap_or(false);
            set_waba(request, request.reader().config(&body)?, overrides)
        }
        _ => Err(ConfigError::method(&[Method::GET, Method::POST])),
    }
}

/// A WABA's id as given: 360dialog uses numbers, others use texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum WabaId {
    Number(u64),
    Text(String),
}

/// The key decides the WABA; a request that names one must name the same.
fn check_waba_id(request: &Dialog360Request<'_>, body: &RequestObject<'_>) -> Result<(), Problem> {
    let expected = "the id of the WABA that the key stands for";
    let is_meant = match body.value("waba_id", expected)? {
        None => true,
        Some(WabaId::Number(id)) => request.key.is_waba(&id.to_string()),
        Some(WabaId::Text(id)) => request.key.is_waba(&id),
    };
    match is_meant {
        true => Ok(()),
        false => Err(Problem::at("waba_id", format!("found another id; expected {expected}"))),
    }
}

fn set_waba(request: &Dialog360Request<'_>, target: Target, overrides: bool) -> ConfigResult {
    let key = &request.key;
    request.change(|webhooks| {
        let fresh = fresh(key_webhooks::WABA.to_owned());
        let set = webhook_config::subscription(target, webhooks.waba, fresh);
        Ok(webhooks.set_waba(set.numbers_or_all(key.waba_filter()), overrides, request.options))
    })?;
    // 360dialog documents 15 to 20 seconds; here the webhook is already in force.
    let message = match key.waba_id() {
        Some(Value::String(id)) => format!("Webhook will be set for waba_id: {id}"),
        Some(id) => format!("Webhook will be set for waba_id: {id}"),
        None => "Webhook will be set for all numbers of the account".to_owned(),
    };
    Ok(json!({"message": message}))
}
