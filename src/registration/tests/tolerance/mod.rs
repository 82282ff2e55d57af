//! Requests as real clients send them, one rule for each test, at every gateway that it concerns.

mod items;
mod wire;

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::Request;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::span;

use crate::error::Error;
use crate::registration::test_support::{GatewayResponse, NUMBER, TestGateway};
use crate::registration::{Registration, SessionGateway};
use crate::subscription::{Authorization, Subscription, SubscriptionInfo};

const DOUBLETICK: (&str, &str) = ("authorization", "acme-key");
const PREMISES: (&str, &str) = ("whizard-key", "acme-key");
const DIALOG360: (&str, &str) = ("d360-api-key", "acme-key");
const SESSION: (&str, &str) = ("authorization", "Bearer acme-key");

const REGISTER: &str = "/v2/webhook/register";
const NUMBER_PATH: &str = "/v1/configs/webhook";

/// A request of each gateway that registers a webhook: method, path, key and body.
fn registrations() -> [(&'static str, &'static str, (&'static str, &'static str), Value); 5] {
    let url = "https://crm.example/hook";
    let doubletick = json!({
        "method": "POST", "url": url, "name": "crm",
        "webhookEvents": ["ADD_TAG"], "wabaNumbers": [NUMBER],
    });
    let destinations = json!({"enabled": true, "destinations": [{"name": "crm", "url": url}]});
    [
        ("POST", REGISTER, DOUBLETICK, doubletick),
        ("POST", NUMBER_PATH, PREMISES, json!({"url": url})),
        ("POST", NUMBER_PATH, DIALOG360, json!({"url": url})),
        ("POST", "/multi_webhook", DIALOG360, destinations),
        ("POST", "/webhooks", SESSION, json!({"url": url, "secret": "s"})),
    ]
}

impl TestGateway {
    /// A gateway with a bystander in the other account, which no request may change.
    fn with_bystander() -> TestGateway {
        let mut gateway = TestGateway::new();
        let other = Subscription::to("https://beta.example/").unwrap().account("beta");
        gateway.engine.subscribe(other).unwrap();
        gateway.bystanders = gateway.engine.subscriptions();
        gateway
    }

    fn accepts(
        &self,
        method: &str,
        path: &str,
        key: (&str, &str),
        body: impl ToString,
    ) -> GatewayResponse {
        let (path, body) = (path.to_owned(), body.to_string());
        let response = self.call(method, &path, &[key], body.as_str());
        assert!((200..300).contains(&response.status), "{method} {path} {body}: {response:?}");
        response
    }

    fn only(&self) -> Arc<SubscriptionInfo> {
        let all = self.engine.subscriptions_of("acme");
        assert_eq!(all.len(), 1, "{all:?}");
        Arc::clone(&all[0])
    }
}

/// Collects the values of what is logged at debug level.
#[derive(Clone, Default)]
struct DebugLog(Arc<Mutex<String>>);

impl Visit for DebugLog {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.lock().push_str(&format!("{field}={value:?}\n"));
    }
}

impl tracing::Subscriber for DebugLog {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::DEBUG
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn unknown_members_are_ignored_and_named_in_the_log() {
    for (method, path, key, mut body) in registrations() {
        let client = TestGateway::with_bystander();
        body["colour"] = json!("hidden");
        if let Some(Value::Object(first)) = body.pointer_mut("/destinations/0") {
            first.insert("shape".into(), json!("hidden"));
        }
        let log = DebugLog::default();
        let path = format!("{path}?page=1");
        tracing::subscriber::with_default(log.clone(), || {
            client.accepts(method, &path, key, &body);
        });
        client.only();
        let logged = log.0.lock().clone();
        assert!(logged.contains("fields=colour"), "{path}: {logged}");
        assert!(logged.contains("parameters=page"), "{path}: {logged}");
        assert_eq!(logged.contains("fields=shape"), path.starts_with("/multi"), "{logged}");
        assert!(!logged.contains("hidden"), "{logged}");
    }
    let client = TestGateway::with_bystander();
    let log = DebugLog::default();
    tracing::subscriber::with_default(log.clone(), || {
        client.accepts("GET", "/v2/webhooks?page=hidden&sortBy=url", DOUBLETICK, "");
    });
    let logged = log.0.lock().clone();
    assert!(logged.contains("parameters=page\n") && !logged.contains("hidden"), "{logged}");
}

#[test]
fn names_of_members_may_have_any_case() {
    for (spelling, path, key) in [
        ("URL", NUMBER_PATH, PREMISES),
        ("Url", NUMBER_PATH, DIALOG360),
        ("Url", "/webhooks", SESSION),
    ] {
        let client = TestGateway::with_bystander();
        client.accepts("POST", path, key, json!({spelling: "https://crm.example/hook"}));
        assert_eq!(client.only().target.url(), "https://crm.example/hook", "{path}");
    }
}

#[test]
fn half_an_authorization_is_none() {
    for given in [
        json!(null),
        json!({}),
        json!([]),
        json!(""),
        json!({"type": "BASIC"}),
        json!({"payload": "token"}),
        json!({"type": "BASIC", "payload": ""}),
        json!({"type": "", "payload": "token"}),
        json!({"type": null, "payload": null, "note": 1}),
    ] {
        let client = TestGateway::with_bystander();
        let [(method, path, key, mut body), ..] = registrations();
        body["authorization"] = given.clone();
        client.accepts(method, path, key, body);
        assert_eq!(client.only().target.authorization(), None, "{given}");
    }
    let client = TestGateway::with_bystander();
    let [(method, path, key, mut body), ..] = registrations();
    body["authorization"] = json!({"type": "BASIC", "payload": "u:p"});
    client.accepts(method, path, key, body);
    assert_eq!(client.only().target.authorization(), Some(&Authorization::basic("u:p")));
}

#[test]
fn empty_arrays_nulls_and_numeric_ids_are_taken() {
    let client = TestGateway::with_bystander();
    let [(method, path, key, mut body), ..] = registrations();
    for name in ["headers", "query", "body", "authorization"] {
        body[name] = json!([]);
    }
    body["bodyFormat"] = json!(null);
    client.accepts(method, path, key, body);
    let id = client.only().id.0;
    client.accepts("DELETE", "/v2/webhook/deregister", DOUBLETICK, json!({"webhookId": id}));
    for (path, key) in
        [(NUMBER_PATH, PREMISES), (NUMBER_PATH, DIALOG360), ("/waba_webhook", DIALOG360)]
    {
        for headers in [json!([]), json!(null), json!({}), json!({"x-none": null})] {
            let client = TestGateway::with_bystander();
            let url = "https://crm.example/hook";
            client.accepts("POST", path, key, json!({"url": url, "headers": headers}));
            assert!(client.only().target.headers().is_empty());
        }
    }
}

#[test]
fn international_host_names_are_stored_in_ascii() {
    for (method, path, key, body) in registrations() {
        let client = TestGateway::with_bystander();
        let body = body.to_string().replace("crm.example", "b\u{fc}ro.example");
        client.accepts(method, path, key, body);
        assert_eq!(client.only().target.url(), "https://xn--bro-hoa.example/hook", "{path}");
    }
    // Dots and digits of other scripts are mapped before the address is judged.
    let [(method, path, key, body), ..] = registrations();
    let body = body.to_string().replace("crm.example", "\u{ff11}0\u{3002}0.0.1");
    assert_eq!(TestGateway::with_bystander().call(method, path, &[key], body).status, 422);
}

#[test]
fn errors_of_360dialog_have_its_own_shapes_for_401_and_409() {
    let client = TestGateway::with_bystander();
    let refused = client.call("GET", "/multi_webhook", &[("d360-api-key", "wrong")], "");
    assert_eq!(refused.status, 401);
    assert!(refused.body["error"].is_string() && refused.body.get("meta").is_none());
    let enable = json!({"enabled": true});
    client.accepts("POST", "/multi_webhook", DIALOG360, &enable);
    let refused = client.call("POST", "/multi_webhook", &[DIALOG360], enable.to_string());
    assert_eq!(refused.status, 409);
    assert!(refused.body["message"].is_string() && refused.body.get("meta").is_none());
    let premises = client.call("GET", NUMBER_PATH, &[("whizard-key", "wrong")], "");
    assert_eq!(premises.body["meta"]["http_code"], 401);
}

#[test]
fn a_bearer_token_is_the_key_of_360dialog() {
    let client = TestGateway::with_bystander();
    let bearer = ("authorization", "bearer acme-key");
    client.accepts("POST", NUMBER_PATH, bearer, json!({"url": "https://crm.example/"}));
    assert!(client.only().name.starts_with("360dialog"));
    let both = [("whizard-key", "acme-key"), bearer];
    assert_eq!(client.call("GET", NUMBER_PATH, &both, "").status, 404, "of the other gateway");
}

#[test]
fn main_webhooks_of_360dialog_can_be_unset() {
    let client = TestGateway::with_bystander();
    let set = |path: &str, url: Value| {
        client.accepts("POST", path, DIALOG360, json!({"url": url, "override_all": true})).body
    };
    let (number, waba) = ("360dialog (number)", "360dialog (WABA)");
    let list =
        json!({"enabled": true, "destinations": [{"name": "crm", "url": "https://d.example/"}]});
    client.accepts("POST", "/multi_webhook", DIALOG360, list);
    let after = |name: &str| client.named("acme", name).policy.after;
    let id = |name: &str| Some(client.named("acme", name).id);

    set(NUMBER_PATH, json!("https://n.example/"));
    set("/waba_webhook", json!("https://w.example/"));
    assert_eq!(after("360dialog: crm"), id(waba));
    let message = set("/waba_webhook", json!(""));
    assert_eq!(message, json!({"message": "Webhook will be unset"}));
    assert_eq!(client.call("GET", "/waba_webhook", &[DIALOG360], "").status, 404);
    assert_eq!(after("360dialog: crm"), id(number), "the masked one is in force again");
    let precedence = client.named("acme", number).precedence;
    assert_eq!(precedence, crate::subscription::Precedence::Number);

    assert_eq!(set(NUMBER_PATH, json!(null)), json!({}));
    assert_eq!(client.accepts("GET", NUMBER_PATH, DIALOG360, "").body, json!({}));
    assert_eq!(after("360dialog: crm"), None);
    assert_eq!(set(NUMBER_PATH, json!("")), json!({}), "again");
    client.only();
}

#[test]
fn the_short_form_of_a_public_doubletick_client_is_registered() {
    let client = TestGateway::with_bystander();
    let body = json!({
        "url": "https://crm.example/dt", "events": ["MESSAGE_RECEIVED"], "wabaNumber": NUMBER,
    });
    let answer = client.accepts("POST", REGISTER, DOUBLETICK, &body).body;
    let row = json!([{"wabaNumber": NUMBER, "webhookEventType": "MESSAGE_RECEIVED"}]);
    assert_eq!(answer["validWebhooks"], row);
    let known = client.only();
    assert_eq!(known.name.as_str(), "https://crm.example/dt");
    assert_eq!(known.target.method().as_str(), "POST");
    // Two URLs that differ only behind what fits into a name.
    for end in ["a", "b"] {
        let url = format!("https://crm.example/{}{end}", "x".repeat(200));
        let long = json!({"url": url, "events": ["MESSAGE_RECEIVED"], "wabaNumber": NUMBER});
        client.accepts("POST", REGISTER, DOUBLETICK, &long);
    }
    let listed = client.accepts("GET", "/v2/webhooks", DOUBLETICK, "").body;
    assert_eq!(listed.as_array().unwrap().len(), 3);
    for item in listed.as_array().unwrap() {
        let path = format!("/v2/webhook/{}", item["webhookId"].as_str().unwrap());
        client.accepts("POST", &path, DOUBLETICK, item);
    }
    let mut without = body;
    without.as_object_mut().unwrap().remove("wabaNumber");
    let refused = client.call("POST", REGISTER, &[DOUBLETICK], without.to_string());
    assert_eq!(refused.status, 400);
    assert_eq!(refused.body["message"], "wabaNumber: missing; expected a number");
}
