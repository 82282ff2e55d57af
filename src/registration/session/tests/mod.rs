//! The session gateway as its clients see it: its documents' examples, its rules, and bad input.

mod refusals;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::clock::ManualClock;
use crate::config::{Config, Limits};
use crate::error::Error;
use crate::event::Event;
use crate::registration::BODY_BYTES_MAX;
use crate::registration::test_support::{GatewayResponse, NUMBER, TestGateway};
use crate::testing::ScriptedReply;
use crate::testing::{DEADLINE, is_within};

/// 2025-12-17T10:30:00Z
const BEGIN_WALL_MS: u64 = 1_765_967_400_000;
const ACME: &[(&str, &str)] = &[("authorization", "acme-key")];
const BETA: &[(&str, &str)] = &[("authorization", "Bearer beta-key")];

/// A gateway with a manual clock.
fn session_gateway(configure: impl FnOnce(Config) -> Config) -> (TestGateway, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(BEGIN_WALL_MS, 7));
    (TestGateway::with(|config| configure(config.clock(clock.clone()))), clock)
}

fn fresh() -> TestGateway {
    session_gateway(|config| config).0
}

impl TestGateway {
    /// The response to acme's call, whose envelope must match its status.
    fn enveloped(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        enveloped(&self.call(method, path, ACME, &body))
    }

    /// Registers a webhook of acme.
    fn created(&self, body: Value) -> u32 {
        let (code, answer) = self.enveloped("POST", "/webhooks", body);
        assert_eq!(code, 201, "{answer}");
        answer["data"]["id"].as_u64().unwrap().try_into().unwrap()
    }

    fn publish(&self, event_type: &str) {
        let event = Event::new(event_type, r#"{"text":"hello"}"#).number(NUMBER);
        let receipt = self.engine.publish(event.account("acme")).unwrap();
        receipt.wait_timeout(DEADLINE).unwrap().unwrap();
    }

    /// The receiver answers with these, and then with the last of them.
    fn answers(&self, host: &str, statuses: &[u16]) {
        let reply = |status: &u16| ScriptedReply::Says(*status, "what it said");
        self.receivers.script(host, &statuses.iter().map(reply).collect::<Vec<_>>());
    }

    fn hosts(&self) -> Vec<String> {
        self.receivers.arrivals().into_iter().map(|arrival| arrival.host).collect()
    }
}

fn enveloped(response: &GatewayResponse) -> (u16, Value) {
    let (code, envelope) = (response.status, response.body.clone());
    assert_eq!(envelope["code"], code, "{envelope}");
    assert_eq!(envelope["status"], code < 300, "{envelope}");
    let (there, other) = if code < 300 { ("data", "error") } else { ("error", "data") };
    let fields = envelope.as_object().unwrap();
    assert!(fields.contains_key(there) && !fields.contains_key(other), "{envelope}");
    (code, envelope)
}

fn to(host: &str) -> Value {
    json!({"url": format!("https://{host}/webhook"), "secret": "s3cret"})
}

#[test]
fn examples_of_the_documents_are_answered_with_their_status() {
    let gateway = fresh();
    let given = json!({
        "url": "https://your-server.com/webhook", "secret": "string",
        "events": ["message.received", "connection.connected"],
    });
    let mut created = json!({
        "code": 201,
        "data": {
            "id": 1, "url": "https://your-server.com/webhook", "active": true,
            "events": ["message.received", "connection.connected"],
            "created_at": "2025-12-17T10:30:00.000Z",
        },
        "status": true, "message": "Webhook created successfully",
    });
    assert_eq!(gateway.enveloped("POST", "/webhooks", given), (201, created.clone()));
    (created["code"], created["message"]) = (200.into(), "Webhook retrieved successfully".into());
    assert_eq!(gateway.enveloped("GET", "/webhooks/1", Value::Null), (200, created.clone()));
    created["message"] = "Webhooks retrieved successfully".into();
    created["data"] = json!([created["data"]]);
    assert_eq!(gateway.enveloped("GET", "/webhooks", Value::Null), (200, created));
    let refused = json!({
        "code": 400, "error": "URL must be HTTPS", "status": false, "message": "Bad request",
    });
    let http = json!({"url": "http://your-server.com/webhook"});
    assert_eq!(gateway.enveloped("POST", "/webhooks", http), (400, refused));
    let unauthorized = json!({
        "status": false, "code": 401, "message": "Unauthorized",
        "error": "Invalid or missing authentication",
    });
    assert_eq!(enveloped(&gateway.call("POST", "/webhooks", &[], "{}")), (401, unauthorized));
    assert_eq!(gateway.engine.subscriptions().len(), 1);
}

#[test]
fn a_generated_secret_is_shown_once_a_given_one_never() {
    let gateway = fresh();
    for (place, given) in
        [json!({}), json!({"secret": null}), json!({"secret": ""})].iter().enumerate()
    {
        let mut body = given.clone();
        body["url"] = format!("https://host{place}/").into();
        let (_, answer) = gateway.enveloped("POST", "/webhooks", body);
        let secret = answer["data"]["secret"].as_str().unwrap().to_owned();
        assert!(secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let path = format!("/webhooks/{}", answer["data"]["id"]);
        for (method, path) in [("GET", path.as_str()), ("GET", "/webhooks"), ("PATCH", &path)] {
            let body = if method == "PATCH" { json!({}) } else { Value::Null };
            let (code, shown) = gateway.enveloped(method, path, body);
            assert_eq!(code, 200);
            assert!(!shown.to_string().contains("secret") && !shown.to_string().contains(&secret));
        }
        let known = gateway.engine.subscriptions().pop().unwrap();
        assert_eq!(known.secret.as_ref().unwrap().reveal_text(), secret);
    }
    let (_, answer) = gateway.enveloped("POST", "/webhooks", to("crm"));
    assert!(!answer.to_string().contains("s3cret"), "{answer}");
    let known = gateway.engine.subscriptions().pop().unwrap();
    assert_eq!(known.secret.as_ref().unwrap().reveal_text(), "s3cret");
}

#[test]
fn no_events_mean_all_and_unknown_names_are_accepted() {
    let gateway = fresh();
    for (events, shown) in [
        (json!(null), json!([])),
        (json!([]), json!([])),
        (
            json!(["newsletter.join", "Message Received"]),
            json!(["newsletter.join", "Message Received"]),
        ),
        (
            json!(["message.received", "message.received"]),
            json!(["message.received", "message.received"]),
        ),
    ] {
        let mut body = to("crm");
        body["events"] = events;
        let (code, answer) = gateway.enveloped("POST", "/webhooks", body);
        assert_eq!((code, &answer["data"]["events"]), (201, &shown));
    }
    let all = gateway.engine.subscriptions();
    assert_eq!(all[0].filter.events, None);
    assert!(all.iter().all(|one| one.filter.numbers.is_none() && one.profile == Profile::Session));
}

#[test]
fn a_patch_keeps_absent_fields() {
    let gateway = fresh();
    let mut body = to("crm");
    body["events"] = json!(["message.received"]);
    let id = gateway.created(body);
    let bystander = gateway.created(to("bystander"));
    let read = |id: u32| {
        gateway.enveloped("GET", &format!("/webhooks/{id}"), Value::Null).1["data"].clone()
    };
    let untouched = read(bystander);
    let mut expected = read(id);
    for (change, field, value) in [
        (json!({}), "active", json!(true)),
        (json!({"active": false}), "active", json!(false)),
        (json!({"events": ["call.offer"]}), "events", json!(["call.offer"])),
        (json!({"url": "https://new.example/x"}), "url", json!("https://new.example/x")),
        (json!({"active": null, "url": null, "events": null}), "active", json!(false)),
        (json!({"secret": "another"}), "active", json!(false)),
        (json!({"events": [], "active": true}), "events", json!([])),
    ] {
        let (code, answer) = gateway.enveloped("PATCH", &format!("/webhooks/{id}"), change.clone());
        assert_eq!((code, &answer["message"]), (200, &json!("Webhook updated successfully")));
        expected[field] = value;
        expected["active"] =
            change["active"].as_bool().map_or(expected["active"].clone(), Value::from);
        assert_eq!(answer["data"], expected, "{change}");
        assert_eq!(read(id), expected, "{change}");
        assert_eq!(read(bystander), untouched);
    }
    let known = gateway.engine.subscription(SubscriptionId(id)).unwrap();
    assert_eq!(known.secret.as_ref().unwrap().reveal_text(), "another");
    assert_eq!(known.policy.attempts_max, Some(3));
    assert_eq!(known.policy.timeout, Duration::from_secs(10));
}

#[test]
fn a_webhook_disabled_by_its_receiver_stays_inactive() {
    let gateway = fresh();
    gateway.answers("gone", &[410, 200]);
    let (gone, bystander) = (gateway.created(to("gone")), gateway.created(to("bystander")));
    gateway.publish("message.received");
    let path = format!("/webhooks/{gone}");
    gateway.wait_until(|stats| stats.dead == 1 && stats.delivered == 1);
    let active =
        |path: &str| gateway.enveloped("GET", path, Value::Null).1["data"]["active"].clone();
    assert!(is_within(DEADLINE, || active(&path) != json!(true)), "still active");
    for (change, expected, state) in [
        (json!({"events": []}), false, SubscriptionState::Disabled),
        (json!({"active": false}), false, SubscriptionState::Disabled),
        (json!({"active": true}), true, SubscriptionState::Active),
        (json!({"active": false}), false, SubscriptionState::Paused),
    ] {
        let (_, answer) = gateway.enveloped("PATCH", &path, change.clone());
        assert_eq!(answer["data"]["active"], expected, "{change}");
        let known = gateway.engine.subscription(SubscriptionId(gone)).unwrap();
        assert_eq!(known.state, state, "{change}");
    }
    assert_eq!(active(&format!("/webhooks/{bystander}")), true);
}

#[test]
fn three_attempts_2_and_4_seconds_apart_are_logged() {
    let (gateway, clock) = session_gateway(|config| config);
    gateway.answers("crm", &[503, 500, 429]);
    gateway.answers("refusing", &[404]);
    let (crm, refusing) = (gateway.created(to("crm")), gateway.created(to("refusing")));
    let bystander = gateway.created(to("bystander"));
    gateway.publish("message.received");
    gateway.wait_until(|stats| (stats.retried, stats.dead, stats.delivered) == (1, 1, 1));
    clock.advance(Duration::from_millis(1_999));
    assert_eq!(gateway.hosts().iter().filter(|host| *host == "crm").count(), 1);
    clock.advance(Duration::from_millis(1));
    gateway.wait_until(|stats| stats.retried == 2);
    clock.advance(Duration::from_millis(3_999));
    assert_eq!(gateway.hosts().iter().filter(|host| *host == "crm").count(), 2);
    clock.advance(Duration::from_millis(1));
    gateway.wait_until(|stats| stats.dead == 2);
    let logs = |id: u32| {
        let (code, answer) = gateway.enveloped("GET", &format!("/webhooks/{id}/logs"), Value::Null);
        assert_eq!(code, 200);
        assert_eq!(answer["message"], "Webhook logs retrieved successfully");
        answer["data"].as_array().unwrap().clone()
    };
    let words = |id: u32| -> Vec<Value> {
        let word = |log: &Value| json!([log["status"], log["status_code"], log["attempt_count"]]);
        logs(id).iter().map(word).collect()
    };
    assert_eq!(
        words(crm),
        [json!(["failed", 429, 3]), json!(["retrying", 500, 2]), json!(["retrying", 503, 1])]
    );
    assert_eq!(words(refusing), [json!(["failed", 404, 1])]);
    assert_eq!(words(bystander), [json!(["success", 200, 1])]);
    let last = &logs(crm)[0];
    assert_eq!(last["webhook_id"], json!(crm));
    assert_eq!(last["event_type"], "message.received");
    assert_eq!(last["last_error"], "status:429");
    assert_eq!(last["response"], "what it said");
    assert_eq!(last["created_at"], "2025-12-17T10:30:06.000Z");
    let healthy = &logs(bystander)[0];
    assert_eq!((&healthy["last_error"], &healthy["response"]), (&Value::Null, &Value::Null));
    assert_eq!(healthy["event_id"], last["event_id"]);
}

#[test]
fn the_logs_show_the_newest_hundred() {
    let limits = Limits { recent_attempts_each_max: 150, ..Limits::default() };
    let gateway = session_gateway(|config| config.limits(limits)).0;
    let id = gateway.created(to("crm"));
    for _ in 0..120 {
        gateway.publish("message.received");
    }
    gateway.wait_until(|stats| stats.delivered == 120);
    let (_, answer) = gateway.enveloped("GET", &format!("/webhooks/{id}/logs"), Value::Null);
    assert_eq!(answer["data"].as_array().unwrap().len(), 100);
}

#[test]
fn a_test_event_goes_to_this_webhook_alone() {
    let gateway = fresh();
    let mut body = to("crm");
    body["events"] = json!(["call.offer"]);
    let crm = gateway.created(body);
    gateway.created(to("bystander"));
    let path = format!("/webhooks/{crm}/test");
    let (code, answer) = gateway.enveloped("POST", &path, Value::Null);
    assert_eq!((code, &answer["message"]), (200, &json!("Webhook test delivered")));
    let data = &answer["data"];
    assert_eq!((&data["status"], &data["status_code"]), (&json!("success"), &json!(200)));
    assert_eq!(data["event_type"], "test.ping");
    assert_eq!(gateway.hosts(), ["crm"]);
    let arrival = gateway.receivers.arrivals().remove(0);
    let sent: Value = serde_json::from_str(arrival.text()).unwrap();
    assert_eq!((&sent["event_type"], &sent["data"]["test"]), (&json!("test.ping"), &json!(true)));
    assert_eq!(arrival.event_type(), "test.ping");
    let signature = arrival.header("x-webhook-signature").unwrap();
    assert_eq!(arrival.header("x-hub-signature-256"), Some(signature));
    assert!(signature.starts_with("sha256="), "{signature}");
    gateway.answers("crm", &[500]);
    let (code, answer) = gateway.enveloped("POST", &path, Value::Null);
    assert_eq!((code, &answer["message"]), (200, &json!("Webhook test failed")));
    let data = &answer["data"];
    assert_eq!((&data["status"], &data["last_error"]), (&json!("failed"), &json!("status:500")));
    assert_eq!(data["response"], "what it said");
    assert_eq!(gateway.engine.stats().attempts, 0);
}
