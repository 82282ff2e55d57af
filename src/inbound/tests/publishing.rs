//! A callback published to an engine: who owes it to whom, and how what became no event is visible.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::account::AccountLimits;
use crate::clock::ManualClock;
use crate::config::{Config, Limits};
use crate::engine::Engine;
use crate::event::Accepted;
use crate::inbound::cloud_api::{CallbackError, publish};
use crate::notice::Notice;
use crate::stats::CallbackRefusal;
use crate::store::Memory;
use crate::subscription::Subscription;
use crate::testing::{DEADLINE, ScriptedTransport, is_within};

const WABA: &str = "123065260884961";
const FIRST: &str = "919999999999";
const SECOND: &str = "918888888888";
const BETAS: &str = "447700900000";

/// An engine with two accounts, of two numbers and of one.
struct CallbackHost {
    engine: Engine,
    clock: Arc<ManualClock>,
}

impl Drop for CallbackHost {
    fn drop(&mut self) {
        let _ = self.engine.close(Duration::from_secs(10));
    }
}

impl CallbackHost {
    fn new(limits: Limits) -> CallbackHost {
        let clock = Arc::new(ManualClock::new(1_700_000_000_000, 7));
        let config = Config::new("unused")
            .store(Arc::new(Memory::default()))
            .clock(clock.clone())
            .transport(Arc::new(ScriptedTransport::default()))
            .limits(limits)
            .account(Account::new("acme").waba(WABA, [FIRST, SECOND]))
            .account(Account::new("beta").waba("555", [BETAS]));
        CallbackHost { engine: Engine::open(config).unwrap(), clock }
    }

    /// Subscribes an account to whole callbacks, for some of its numbers or all.
    fn subscribe(&self, account: &str, name: &str, numbers: &[&str]) {
        let to = Subscription::to(format!("https://{name}.example/")).unwrap();
        let to = to.name(name).account(account).events(["RAW_CLOUD_API_WEBHOOK"]);
        let to = match numbers {
            [] => to,
            numbers => to.numbers(numbers.iter().copied()),
        };
        self.engine.subscribe(to).unwrap();
    }

    /// Subscribes an account to every event.
    fn subscribe_to_all(&self, account: &str) {
        let to = Subscription::to("https://all.example/").unwrap().name("all").account(account);
        self.engine.subscribe(to).unwrap();
    }

    fn publish(&self, body: &str) -> Vec<Accepted> {
        let receipt = publish(&self.engine, body.as_bytes()).unwrap();
        receipt.map_or_else(Vec::new, |receipt| receipt.wait_timeout(DEADLINE).unwrap().unwrap())
    }

    /// How many deliveries the raw event of a change owes.
    fn owed_by(&self, change: &Value) -> u32 {
        self.publish(&callback_of(WABA, std::slice::from_ref(change))).last().unwrap().owed
    }
}

fn text(number: &str, id: &str) -> Value {
    let message = json!({"from": "919812300001", "id": id, "type": "text", "text": {"body": "x"}});
    messages(number, json!([]), json!([message]))
}

#[test]
fn a_long_id_does_not_refuse_the_callback_of_another_account() {
    let host = CallbackHost::new(Limits::default());
    let long = format!("wamid.{}", "x".repeat(1_000));
    let entries = json!([
        {"id": WABA, "changes": [text(FIRST, &long)]},
        {"id": "555", "changes": [text(BETAS, "wamid.OTHER")]},
    ]);
    let body = json!({"entry": entries}).to_string();
    host.subscribe_to_all("acme");
    host.subscribe_to_all("beta");
    let accepted = host.publish(&body);
    assert_eq!(
        accepted.iter().map(|one| (one.owed, one.duplicate)).collect::<Vec<_>>(),
        [(1, false); 4]
    );
    assert!(host.publish(&body).iter().all(|accepted| accepted.duplicate));
}

#[test]
fn an_account_at_its_limit_does_not_affect_another() {
    let noisy = AccountLimits::default().publish_rate(2, Duration::from_secs(60));
    let config = Config::new("unused").store(Arc::new(Memory::default()));
    let config = config.account(Account::new("acme").waba(WABA, [FIRST]).limits(noisy));
    let config = config.account(Account::new("beta").waba("555", [BETAS]));
    let engine = Engine::open(config.transport(Arc::new(ScriptedTransport::default()))).unwrap();
    for account in ["acme", "beta"] {
        let to = Subscription::to("https://all.example/").unwrap().name("all").account(account);
        engine.subscribe(to).unwrap();
    }
    let callback = |id: &str| {
        let entries = json!([
            {"id": WABA, "changes": [text(FIRST, &format!("wamid.A{id}"))]},
            {"id": "555", "changes": [text(BETAS, &format!("wamid.B{id}"))]},
        ]);
        publish(&engine, json!({"entry": entries}).to_string().as_bytes())
    };
    let accepted = callback("1").unwrap().unwrap().wait_timeout(DEADLINE).unwrap().unwrap();
    assert_eq!(accepted.len(), 4);
    let Err(CallbackError::Publish(refused)) = callback("2") else {
        panic!("acme is at its limit")
    };
    assert!(refused.is_busy() && refused.events.len() == 2, "{refused}");
    let in_time = is_within(DEADLINE, || engine.stats().delivered >= 6);
    assert!(in_time, "{:?}", engine.stats());
    assert_eq!(engine.stats().accepted, 6, "beta's events of both callbacks");
}

/// The engine accepts no event of a WABA whose configured id is over its limit.
#[test]
fn an_event_that_the_engine_refuses_fails_alone() {
    let long = "7".repeat(600);
    let config = Config::new("unused").store(Arc::new(Memory::default()));
    let config = config.account(Account::new("acme").waba(WABA, [FIRST]));
    let config = config.account(Account::new("beta").waba(long.clone(), [BETAS]));
    let engine = Engine::open(config.transport(Arc::new(ScriptedTransport::default()))).unwrap();
    let entries = json!([
        {"id": long, "changes": [{"field": "x"}]},
        {"id": WABA, "changes": [text(FIRST, "wamid.1")]},
        {"id": long, "changes": [text(BETAS, "wamid.2")]},
    ]);
    let body = json!({"entry": entries}).to_string();
    let receipt = publish(&engine, body.as_bytes()).unwrap().unwrap();
    assert_eq!(receipt.wait_timeout(DEADLINE).unwrap().unwrap().len(), 2);
    assert_eq!(engine.stats().callback_parts_malformed, 3);
    let alone = json!({"entry": [entries[0]]}).to_string();
    assert!(publish(&engine, alone.as_bytes()).unwrap().is_none());
    engine.close(Duration::from_secs(10)).unwrap();
    let closed = publish(&engine, body.as_bytes()).unwrap_err();
    assert!(matches!(closed, CallbackError::Publish(_)), "{closed}");
}

#[test]
fn an_update_that_is_too_large_fails_alone() {
    let limits = Limits::default();
    let host = CallbackHost::new(limits.payload_bytes_max(2_000).queue_bytes_max(20_000));
    let large = text(FIRST, &"x".repeat(3_000));
    let body = callback_of(WABA, &[large, text(FIRST, "wamid.SMALL")]);
    assert_eq!(host.publish(&body).len(), 2);
    assert_eq!(host.engine.stats().callback_parts_malformed, 1);
    let error = publish(&host.engine, b"{}").unwrap_err();
    assert!(matches!(error, CallbackError::Malformed(_)), "{error}");
    assert_eq!(host.engine.stats().callbacks_refused_malformed, 1);
}

/// Also where the change names its number outside `metadata`, or one that is not configured.
#[test]
fn a_webhook_of_another_number_does_not_get_a_change() {
    let host = CallbackHost::new(Limits::default());
    host.subscribe("acme", "first", &[FIRST]);
    host.subscribe("acme", "second", &[SECOND]);
    host.subscribe("acme", "all", &[]);
    host.subscribe("beta", "beta", &[]);
    let about = |value: Value| json!({"field": "security", "value": value});
    let unknown = json!({"phone_number_settings": {"phone_number_id": "9"}});
    for (change, owed) in [
        (about(json!({"display_phone_number": FIRST})), 2),
        (text(FIRST, "wamid.1"), 2),
        // Of the WABA: for all of its numbers.
        (json!({"field": "flows", "value": {}}), 3),
        // Of a number that is not configured, or cannot be read.
        (text("919000000009", "wamid.2"), 1),
        (about(json!({"display_phone_number": "919000000009"})), 1),
        (json!({"field": "account_settings_update", "value": unknown}), 1),
        // Of another account's number, under this WABA.
        (text(BETAS, "wamid.3"), 1),
    ] {
        assert_eq!(host.owed_by(&change), owed, "{change}");
    }
    assert_eq!(host.engine.stats().unowned, 0);
}

#[test]
fn unowned_and_unsubscribed_are_two_counters() {
    let host = CallbackHost::new(Limits::default());
    let notices = host.engine.notices();
    host.publish(&callback_of(WABA, &[text(FIRST, "wamid.1")]));
    assert_eq!((host.engine.stats().unrouted, host.engine.stats().unowned), (2, 0));
    assert_eq!(notices.try_next(), None);

    let nobodys = |number: &str| callback_of("777", &[text(number, "wamid.1")]);
    host.publish(&nobodys("911111111111"));
    host.clock.advance(Duration::from_secs(60));
    host.publish(&nobodys("911111111111"));
    host.publish(&nobodys("912222222222"));
    assert_eq!((host.engine.stats().unrouted, host.engine.stats().unowned), (2, 6));
    let told = |number: &str| {
        let (number, waba) = (Some(number.to_owned()), Some("777".to_owned()));
        Some(Notice::Unowned { number, waba })
    };
    assert_eq!(notices.try_next(), told("911111111111"));
    assert_eq!(notices.try_next(), told("912222222222"), "once for each number");
    assert_eq!(notices.try_next(), None);
    let listed = host.engine.unowned();
    let first = listed.iter().find(|one| one.number.as_deref() == Some("911111111111")).unwrap();
    assert_eq!((first.events, first.last_at_ms - first.first_at_ms, listed.len()), (4, 60_000, 2));
}

#[test]
fn refusals_are_counted_by_reason_and_told_once_a_minute() {
    let host = CallbackHost::new(Limits::default());
    let notices = host.engine.notices();
    let refuse = |reason| host.engine.count_refused_callbacks(reason, 1, "why");
    for _ in 0..3 {
        refuse(CallbackRefusal::Signature);
    }
    refuse(CallbackRefusal::VerifyToken);
    let odd = r#"{"entry":[{"a":1,"a":2},{"b":1,"b":2}]}"#;
    assert!(host.publish(odd).is_empty());
    host.clock.advance(Duration::from_secs(60));
    refuse(CallbackRefusal::Signature);
    let stats = host.engine.stats();
    assert_eq!(stats.callbacks_refused_signature, 4);
    assert_eq!(stats.callbacks_refused_verify_token, 1);
    assert_eq!(stats.callback_parts_malformed, 2);
    let mut told = Vec::new();
    while let Some(Notice::CallbackRefused { reason, count, .. }) = notices.try_next() {
        told.push((reason.as_str(), count));
    }
    let first = [("signature", 1), ("verify_token", 1), ("malformed_part", 2)];
    assert_eq!(told, [first.as_slice(), &[("signature", 3)]].concat());
}

/// Meta sends a callback that was not answered with 200 again for 7 days.
#[test]
fn a_callback_is_a_duplicate_for_seven_days() {
    let host = CallbackHost::new(Limits::default());
    host.subscribe_to_all("acme");
    let body = callback_of(WABA, &[text(FIRST, "wamid.1")]);
    assert!(host.publish(&body).iter().all(|accepted| !accepted.duplicate));
    host.clock.advance(Duration::from_secs(7 * 24 * 3_600 - 60));
    assert!(host.publish(&body).iter().all(|accepted| accepted.duplicate));
    let other = callback_of(WABA, &[text(SECOND, "wamid.1")]);
    assert!(host.publish(&other).iter().all(|accepted| !accepted.duplicate), "another number");
    host.clock.advance(Duration::from_secs(24 * 3_600));
    assert!(host.publish(&body).iter().all(|accepted| !accepted.duplicate), "after the window");
}
