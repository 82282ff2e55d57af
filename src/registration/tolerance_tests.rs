//! Requests as real clients send them, one rule for each test, at every gateway that it concerns.

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

use super::test_support::{GatewayResponse, NUMBER, TestGateway};
use super::{Registration, SessionGateway};
use crate::error::Error;
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

/// A gateway with a bystander in the other account, which no request may change.
struct Guarded {
    gateway: TestGateway,
    bystander: Arc<SubscriptionInfo>,
}

impl Guarded {
    fn new() -> Guarded {
        let gateway = TestGateway::new();
        let other = Subscription::to("https://beta.example/").unwrap().account("beta");
        let id = gateway.engine.subscribe(other).unwrap();
        Guarded { bystander: gateway.engine.subscription(id).unwrap(), gateway }
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> GatewayResponse {
        let response = self.gateway.call(method, path, headers, body);
        let after = self.gateway.engine.subscription(self.bystander.id).unwrap();
        assert!(Arc::ptr_eq(&self.bystander, &after), "{method} {path} changed {after:?}");
        response
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

    /// The only subscription of acme.
    fn only(&self) -> Arc<SubscriptionInfo> {
        let all = self.gateway.engine.subscriptions_of("acme");
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
        let guarded = Guarded::new();
        body["colour"] = json!("hidden");
        if let Some(Value::Object(first)) = body.pointer_mut("/destinations/0") {
            first.insert("shape".into(), json!("hidden"));
        }
        let log = DebugLog::default();
        let path = format!("{path}?page=1");
        tracing::subscriber::with_default(log.clone(), || {
            guarded.accepts(method, &path, key, &body);
        });
        guarded.only();
        let logged = log.0.lock().clone();
        assert!(logged.contains("fields=colour"), "{path}: {logged}");
        assert!(logged.contains("parameters=page"), "{path}: {logged}");
        assert_eq!(logged.contains("fields=shape"), path.starts_with("/multi"), "{logged}");
        assert!(!logged.contains("hidden"), "{logged}");
    }
    let guarded = Guarded::new();
    let log = DebugLog::default();
    tracing::subscriber::with_default(log.clone(), || {
        guarded.accepts("GET", "/v2/webhooks?page=hidden&sortBy=url", DOUBLETICK, "");
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
        let guarded = Guarded::new();
        guarded.accepts("POST", path, key, json!({spelling: "https://crm.example/hook"}));
        assert_eq!(guarded.only().target.url(), "https://crm.example/hook", "{path}");
    }
}

#[test]
fn a_doubletick_item_is_edited_whole_or_merged() {
    let guarded = Guarded::new();
    let body = json!({
        "method": "PUT", "url": "https://crm.example/hook", "name": "crm", "headers": {"x-a": "1"},
        "webhookEvents": ["ADD_TAG", "NEW_LEAD"], "wabaNumbers": [NUMBER], "retryOnTimeout": true,
        "authorization": {"type": "BEARER", "payload": "token"},
    });
    guarded.accepts("POST", REGISTER, DOUBLETICK, &body);
    let before = guarded.only();
    let listed = guarded.accepts("GET", "/v2/webhooks", DOUBLETICK, "").body[0].clone();
    let path = format!("/v2/webhook/{}", listed["webhookId"].as_str().unwrap());
    let answer = guarded.accepts("POST", &path, DOUBLETICK, &listed);
    assert_eq!(answer.body["validWebhooks"].as_array().unwrap().len(), 2);
    assert_eq!(*guarded.only(), *before, "what the list does not show stays");

    let mut renamed = listed.clone();
    renamed["name"] = json!("renamed");
    renamed["eventTypes"] = json!(["REMOVE_TAG"]);
    guarded.accepts("PATCH", &path, DOUBLETICK, &renamed);
    let after = guarded.only();
    assert_eq!((after.name.as_str(), &after.target), ("renamed", &before.target));
    let events = after.filter.events.iter().flatten().map(ToString::to_string);
    assert_eq!(events.collect::<Vec<_>>(), ["REMOVE_TAG"]);

    // Merged into an edit, the documented fields count and the rest of the item is ignored.
    let mut merged = listed;
    merged.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    merged["headers"] = json!([]);
    guarded.accepts("POST", &path, DOUBLETICK, &merged);
    let after = guarded.only();
    assert!(after.target.headers().is_empty() && after.target.authorization().is_some());
    assert_eq!(after.filter, before.filter);
}

#[test]
fn a_star_that_the_list_shows_keeps_that_side() {
    let guarded = Guarded::new();
    let [(method, path, key, body), ..] = registrations();
    guarded.accepts(method, path, key, body);
    let id = guarded.only().id;
    let widened = |one: &SubscriptionInfo| {
        let all = Subscription::to(one.target.url().to_string())?.account("acme").name("crm");
        Ok::<_, Error>(all.profile(one.profile))
    };
    guarded.gateway.engine.revise(id, widened).unwrap();
    let listed = guarded.accepts("GET", "/v2/webhooks", DOUBLETICK, "").body[0].clone();
    assert_eq!((&listed["eventTypes"], &listed["wabaNumbers"]), (&json!(["*"]), &json!(["*"])));
    guarded.accepts("POST", &format!("/v2/webhook/{id}"), DOUBLETICK, &listed);
    let filter = guarded.only().filter.clone();
    assert_eq!((filter.events, filter.numbers), (None, None));
    // At a registration a star is no event and no number.
    let star = json!({
        "method": "POST", "url": "https://a.example/", "name": "star", "webhookEvents": ["*"],
        "wabaNumbers": ["*"],
    });
    let answer = guarded.accepts("POST", REGISTER, DOUBLETICK, star);
    assert_eq!(answer.body["invalidWabaNumbers"], json!(["*"]));
    guarded.only();
}

#[test]
fn listed_items_of_the_other_gateways_are_accepted_back() {
    let guarded = Guarded::new();
    for (method, path, key, body) in registrations() {
        guarded.accepts(method, path, key, body);
    }
    guarded.accepts("POST", "/waba_webhook", DIALOG360, json!({"url": "https://waba.example/"}));
    for (path, key) in
        [(NUMBER_PATH, PREMISES), (NUMBER_PATH, DIALOG360), ("/waba_webhook", DIALOG360)]
    {
        let shown = guarded.accepts("GET", path, key, "").body;
        guarded.accepts("POST", path, key, &shown);
        assert_eq!(guarded.accepts("GET", path, key, "").body, shown);
    }
    let shown = guarded.accepts("GET", "/multi_webhook", DIALOG360, "").body;
    guarded.accepts("PATCH", "/multi_webhook", DIALOG360, &shown["destinations"][0]);
    let mut disabled = shown.clone();
    disabled["enabled"] = json!(false);
    guarded.accepts("POST", "/multi_webhook", DIALOG360, &disabled);
    assert_eq!(guarded.accepts("GET", "/multi_webhook", DIALOG360, "").body, disabled);

    let shown = guarded.accepts("GET", "/webhooks", SESSION, "").body["data"][0].clone();
    let path = format!("/webhooks/{}", shown["id"]);
    assert_eq!(guarded.accepts("PATCH", &path, SESSION, &shown).body["data"], shown);
}

#[test]
fn one_slash_at_the_end_and_any_case_of_fixed_words() {
    for (method, path, key, body) in registrations() {
        for path in [format!("{path}/"), path.to_ascii_uppercase(), format!("{path}/?a=b")] {
            let guarded = Guarded::new();
            assert!(Registration::serves(path.split('?').next().unwrap()), "{path}");
            guarded.accepts(method, &path, key, &body);
            guarded.only();
        }
    }
    let guarded = Guarded::new();
    let list = json!({"enabled": true, "destinations": [
        {"name": "crm", "url": "https://a.example/"}, {"name": "CRM", "url": "https://b.example/"},
    ]});
    guarded.accepts("POST", "/Multi_Webhook/", DIALOG360, list);
    guarded.accepts("DELETE", "/MULTI_WEBHOOK/CRM/", DIALOG360, "");
    assert!(guarded.only().name.ends_with("crm"), "names keep their case");
}

#[test]
fn errors_under_a_gateways_path_have_its_shape() {
    let guarded = Guarded::new();
    for (path, key, pointer) in [
        ("/v2/templates", DOUBLETICK, "/statusCode"),
        ("/v1/configs/templates", DIALOG360, "/meta/http_code"),
        ("/v1/configs/templates", PREMISES, "/meta/http_code"),
        ("/waba_webhook/x", DIALOG360, "/meta/http_code"),
        ("/webhooks/1/2/3", SESSION, "/code"),
    ] {
        assert!(Registration::serves(path), "{path}");
        let refused = guarded.call("GET", path, &[key], "");
        assert_eq!(
            (refused.status, refused.body.pointer(pointer)),
            (404, Some(&json!(404))),
            "{path}"
        );
    }
    for path in ["/", "/v3/webhooks", "/events", "/webhook"] {
        assert!(!Registration::serves(path), "{path}");
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
        let guarded = Guarded::new();
        let [(method, path, key, mut body), ..] = registrations();
        body["authorization"] = given.clone();
        guarded.accepts(method, path, key, body);
        assert_eq!(guarded.only().target.authorization(), None, "{given}");
    }
    let guarded = Guarded::new();
    let [(method, path, key, mut body), ..] = registrations();
    body["authorization"] = json!({"type": "BASIC", "payload": "u:p"});
    guarded.accepts(method, path, key, body);
    assert_eq!(guarded.only().target.authorization(), Some(&Authorization::basic("u:p")));
}

#[test]
fn answers_echo_names_and_numbers_as_they_were_sent() {
    let guarded = Guarded::new();
    let [(method, path, key, mut body), ..] = registrations();
    body["webhookEvents"] = json!(["COVERSATION_OPENED", "message received", "NO_EVENT"]);
    body["wabaNumbers"] = json!(["+91 99999-99999", 918_888_888_888_u64, "917777777777"]);
    let answer = guarded.accepts(method, path, key, body).body;
    let named = |rows: &Value| -> Vec<(String, String)> {
        let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| (text(row, "wabaNumber"), text(row, "webhookEventType"))).collect()
    };
    let pair = |number: &str, event: &str| (number.to_owned(), event.to_owned());
    let valid = ["+91 99999-99999", "918888888888"].into_iter().flat_map(|number| {
        ["COVERSATION_OPENED", "message received"].map(|event| pair(number, event))
    });
    assert_eq!(named(&answer["validWebhooks"]), valid.collect::<Vec<_>>());
    assert_eq!(named(&answer["invalidWebhooks"])[0], pair("+91 99999-99999", "NO_EVENT"));
    assert_eq!(answer["invalidWabaNumbers"], json!(["917777777777"]));

    let guarded = Guarded::new();
    let url = "https://crm.example/";
    let given = json!(["Message Received", "message.ack"]);
    let created =
        guarded.accepts("POST", "/webhooks", SESSION, json!({"url": url, "events": given}));
    assert_eq!(created.body["data"]["events"], given);
    let path = format!("/webhooks/{}", created.body["data"]["id"]);
    let patched = guarded.accepts("PATCH", &path, SESSION, json!({"events": given}));
    assert_eq!(patched.body["data"]["events"], given);
    let read = guarded.accepts("GET", &path, SESSION, "");
    assert_eq!(read.body["data"]["events"], json!(["message.received", "message.ack"]));
}

#[test]
fn a_receipt_of_the_session_gateway_is_one_status() {
    let guarded = Guarded::new();
    let given = json!(["message.read", "call.accept"]);
    let body = json!({"url": "https://crm.example/", "events": given});
    let id = guarded.accepts("POST", "/webhooks", SESSION, body).body["data"]["id"].clone();
    let path = format!("/webhooks/{id}");
    let listed = |guarded: &Guarded| {
        let mut names: Vec<String> =
            guarded.accepts("GET", &path, SESSION, "").body["data"]["events"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one.as_str().unwrap().into())
                .collect();
        names.sort();
        names
    };
    assert_eq!(listed(&guarded), ["call.accept", "message.read"]);
    let statuses = |field: &str, status: &str| {
        let value = json!({"statuses": [{"id": "wamid.1", "status": status}]});
        json!({"entry": [{"changes": [{"field": field, "value": value}]}]}).to_string()
    };
    let passes = |payload: String| {
        let condition = guarded.only().filter.condition.clone();
        condition.is_none_or(|condition| condition.is_met_by(payload.as_bytes()))
    };
    assert!(passes(statuses("messages", "read")) && !passes(statuses("messages", "sent")));
    assert!(passes(statuses("calls", "ACCEPTED")) && passes("{}".to_owned()));
    let types = |guarded: &Guarded| -> Vec<String> {
        let events = guarded.only().filter.events.clone();
        events.into_iter().flatten().map(|kind| kind.to_string()).collect()
    };
    assert!(types(&guarded).contains(&"MESSAGE_STATUS_UPDATE".to_owned()));

    guarded.accepts("PATCH", &path, SESSION, json!({"events": ["message.received"]}));
    assert_eq!((guarded.only().filter.condition.clone(), listed(&guarded).len()), (None, 1));
    // The gateway's messages include those of groups.
    assert_eq!(types(&guarded), ["MESSAGE_RECEIVED", "WA_GROUP_MESSAGE_RECEIVED"]);
    let all = json!({"events": ["message.read", "MESSAGE_STATUS_UPDATE"]});
    guarded.accepts("PATCH", &path, SESSION, all);
    assert!(passes(statuses("messages", "sent")));
    assert_eq!(listed(&guarded), ["MESSAGE_STATUS_UPDATE", "message.read"]);

    // A condition of the host's stays, and counts alone.
    let id = guarded.only().id;
    let own = r#"{"pointer": "/a", "exists": true}"#;
    let with_own =
        |one: &SubscriptionInfo| Ok::<_, Error>(Subscription::from(one).condition(own.parse()?));
    guarded.gateway.engine.revise(id, with_own).unwrap();
    guarded.accepts("PATCH", &path, SESSION, json!({"events": ["message.played"]}));
    assert_eq!(guarded.only().filter.condition, Some(own.parse().unwrap()));
    assert_eq!(types(&guarded), ["message.played"]);
}

#[test]
fn compressed_bodies_and_byte_order_marks_are_read() {
    for (method, path, key, body) in registrations() {
        let marked = [b"\xef\xbb\xbf", body.to_string().as_bytes()].concat();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&marked).unwrap();
        let gzip = gzip.finish().unwrap();
        for (sent, headers) in
            [(&marked, vec![key]), (&gzip, vec![key, ("content-encoding", "gzip")])]
        {
            let guarded = Guarded::new();
            let answer = guarded.call(method, path, &headers, sent);
            assert!(answer.status < 300, "{path}: {answer:?}");
            guarded.only();
        }
        let refused = Guarded::new().call(method, path, &[key, ("content-encoding", "br")], "");
        assert_eq!(refused.status, 415, "{path}: {refused:?}");
    }
}

#[test]
fn the_session_gateway_takes_forms() {
    let urlencoded = "url=https%3A%2F%2Fcrm.example%2Fhook&secret=a+b&events=message.received&\
        events%5B%5D=call.offer";
    let multipart = "--b\r\nContent-Disposition: form-data; name=\"url\"\r\n\r\n\
        https://crm.example/hook\r\n--b\r\nContent-Disposition: form-data; name=\"secret\"\r\n\r\n\
        a b\r\n--b\r\nContent-Disposition: form-data; name=\"events[0]\"\r\n\r\nmessage.received\
        \r\n--b\r\nContent-Disposition: form-data; name=\"events[1]\"\r\n\r\ncall.offer\r\n--b--\r\n";
    for (content_type, body) in [
        ("application/x-www-form-urlencoded", urlencoded),
        ("multipart/form-data; boundary=b", multipart),
    ] {
        let guarded = Guarded::new();
        let headers = [SESSION, ("content-type", content_type)];
        let answer = guarded.call("POST", "/webhooks", &headers, body);
        assert_eq!(answer.status, 201, "{answer:?}");
        let data = &answer.body["data"];
        assert_eq!(data["events"], json!(["message.received", "call.offer"]));
        let known = guarded.only();
        assert_eq!(known.target.url(), "https://crm.example/hook");
        assert_eq!(known.secret.as_ref().unwrap().reveal_text(), "a b");
        let path = format!("/webhooks/{}", data["id"]);
        let headers = [SESSION, ("content-type", "application/x-www-form-urlencoded")];
        let patched = guarded.call("PATCH", &path, &headers, "active=false");
        assert_eq!(patched.body["data"]["active"], false, "{patched:?}");
    }
}

#[test]
fn empty_arrays_nulls_and_numeric_ids_are_taken() {
    let guarded = Guarded::new();
    let [(method, path, key, mut body), ..] = registrations();
    for name in ["headers", "query", "body", "authorization"] {
        body[name] = json!([]);
    }
    body["bodyFormat"] = json!(null);
    guarded.accepts(method, path, key, body);
    let id = guarded.only().id.0;
    guarded.accepts("DELETE", "/v2/webhook/deregister", DOUBLETICK, json!({"webhookId": id}));
    for (path, key) in
        [(NUMBER_PATH, PREMISES), (NUMBER_PATH, DIALOG360), ("/waba_webhook", DIALOG360)]
    {
        for headers in [json!([]), json!(null), json!({}), json!({"x-none": null})] {
            let guarded = Guarded::new();
            let url = "https://crm.example/hook";
            guarded.accepts("POST", path, key, json!({"url": url, "headers": headers}));
            assert!(guarded.only().target.headers().is_empty());
        }
    }
}

#[test]
fn head_is_answered_where_get_is() {
    let guarded = Guarded::new();
    for (method, path, key, body) in registrations() {
        guarded.accepts(method, path, key, body);
    }
    for (path, key) in [
        ("/v2/webhooks", DOUBLETICK),
        (NUMBER_PATH, PREMISES),
        (NUMBER_PATH, DIALOG360),
        ("/multi_webhook", DIALOG360),
        ("/webhooks", SESSION),
        ("/webhooks/99", SESSION),
    ] {
        let get = guarded.call("GET", path, &[key], "");
        let head = guarded.call("HEAD", path, &[key], "");
        assert_eq!((head.status, head.text.as_str()), (get.status, ""), "{path}");
        assert_eq!(head.headers["content-length"], get.text.len().to_string(), "{path}");
        assert_eq!(head.headers["content-type"], get.headers["content-type"], "{path}");
    }
    assert_eq!(guarded.call("HEAD", REGISTER, &[DOUBLETICK], "").status, 405);
}

/// The CORS headers of a response to a page of an origin.
fn cors(registration: &Registration, method: &str, origin: &str) -> (u16, Vec<String>) {
    let request = Request::builder().method(method).uri("/webhooks").header("origin", origin);
    let response = registration.respond(&request.body(Vec::new()).unwrap());
    let name = |name: &str| {
        let values = response.headers().get_all(name).iter();
        values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = ["access-control-allow-origin", "access-control-allow-methods", "vary"];
    (response.status().as_u16(), all.map(name).concat())
}

#[test]
fn the_session_gateway_has_the_cors_headers_of_its_source() {
    let gateway = TestGateway::new();
    let methods = "GET,POST,PUT,PATCH,DELETE".to_owned();
    let asked = ["access-control-request-method", "access-control-request-headers"];
    let (status, headers) = cors(&gateway.registration, "OPTIONS", "https://app.example");
    let expected = [vec!["*".to_owned(), methods], asked.map(str::to_owned).to_vec()].concat();
    assert_eq!((status, headers), (204, expected));
    assert_eq!(cors(&gateway.registration, "GET", "https://a"), (401, vec!["*".to_owned()]));

    let listed = SessionGateway { cors_origins: vec!["https://app.example".to_owned()] };
    let listed = Registration::new(gateway.engine.clone()).session(listed).unwrap();
    let (_, headers) = cors(&listed, "GET", "https://App.example");
    assert_eq!(headers, ["https://App.example", "origin"]);
    assert_eq!(cors(&listed, "GET", "https://other.example").1, ["origin"]);

    let off = SessionGateway { cors_origins: Vec::new() };
    let off = Registration::new(gateway.engine.clone()).session(off).unwrap();
    let (status, headers) = cors(&off, "OPTIONS", "https://app.example");
    assert_eq!((status, headers), (401, Vec::new()));

    for origin in ["app.example", "https://app.example/", "https://a\r\nb", ""] {
        let options = SessionGateway { cors_origins: vec![origin.to_owned()] };
        let refused = Registration::new(gateway.engine.clone()).session(options);
        assert_eq!(refused.unwrap_err().field(), Some("session.cors_origins"), "{origin:?}");
    }
    let other = Request::builder().method("OPTIONS").uri(REGISTER).body(Vec::new()).unwrap();
    assert!(gateway.registration.respond(&other).headers().get("vary").is_none());
}

#[test]
fn international_host_names_are_stored_in_ascii() {
    for (method, path, key, body) in registrations() {
        let guarded = Guarded::new();
        let body = body.to_string().replace("crm.example", "b\u{fc}ro.example");
        guarded.accepts(method, path, key, body);
        assert_eq!(guarded.only().target.url(), "https://xn--bro-hoa.example/hook", "{path}");
    }
    // Dots and digits of other scripts are mapped before the address is judged.
    let [(method, path, key, body), ..] = registrations();
    let body = body.to_string().replace("crm.example", "\u{ff11}0\u{3002}0.0.1");
    assert_eq!(Guarded::new().call(method, path, &[key], body).status, 422);
}

#[test]
fn errors_of_360dialog_have_its_own_shapes_for_401_and_409() {
    let guarded = Guarded::new();
    let refused = guarded.call("GET", "/multi_webhook", &[("d360-api-key", "wrong")], "");
    assert_eq!(refused.status, 401);
    assert!(refused.body["error"].is_string() && refused.body.get("meta").is_none());
    let enable = json!({"enabled": true});
    guarded.accepts("POST", "/multi_webhook", DIALOG360, &enable);
    let refused = guarded.call("POST", "/multi_webhook", &[DIALOG360], enable.to_string());
    assert_eq!(refused.status, 409);
    assert!(refused.body["message"].is_string() && refused.body.get("meta").is_none());
    let premises = guarded.call("GET", NUMBER_PATH, &[("whizard-key", "wrong")], "");
    assert_eq!(premises.body["meta"]["http_code"], 401);
}

#[test]
fn a_bearer_token_is_the_key_of_360dialog() {
    let guarded = Guarded::new();
    let bearer = ("authorization", "bearer acme-key");
    guarded.accepts("POST", NUMBER_PATH, bearer, json!({"url": "https://crm.example/"}));
    assert!(guarded.only().name.starts_with("360dialog"));
    let both = [("whizard-key", "acme-key"), bearer];
    assert_eq!(guarded.call("GET", NUMBER_PATH, &both, "").status, 404, "of the other gateway");
}

#[test]
fn main_webhooks_of_360dialog_can_be_unset() {
    let guarded = Guarded::new();
    let set = |path: &str, url: Value| {
        guarded.accepts("POST", path, DIALOG360, json!({"url": url, "override_all": true})).body
    };
    let (number, waba) = ("360dialog (number)", "360dialog (WABA)");
    let list =
        json!({"enabled": true, "destinations": [{"name": "crm", "url": "https://d.example/"}]});
    guarded.accepts("POST", "/multi_webhook", DIALOG360, list);
    let after = |name: &str| guarded.gateway.named("acme", name).policy.after;
    let id = |name: &str| Some(guarded.gateway.named("acme", name).id);

    set(NUMBER_PATH, json!("https://n.example/"));
    set("/waba_webhook", json!("https://w.example/"));
    assert_eq!(after("360dialog: crm"), id(waba));
    let message = set("/waba_webhook", json!(""));
    assert_eq!(message, json!({"message": "Webhook will be unset"}));
    assert_eq!(guarded.call("GET", "/waba_webhook", &[DIALOG360], "").status, 404);
    assert_eq!(after("360dialog: crm"), id(number), "the masked one is in force again");
    let precedence = guarded.gateway.named("acme", number).precedence;
    assert_eq!(precedence, crate::subscription::Precedence::Number);

    assert_eq!(set(NUMBER_PATH, json!(null)), json!({}));
    assert_eq!(guarded.accepts("GET", NUMBER_PATH, DIALOG360, "").body, json!({}));
    assert_eq!(after("360dialog: crm"), None);
    assert_eq!(set(NUMBER_PATH, json!("")), json!({}), "again");
    guarded.only();
}

#[test]
fn the_short_form_of_a_public_doubletick_client_is_registered() {
    let guarded = Guarded::new();
    let body = json!({
        "url": "https://crm.example/dt", "events": ["MESSAGE_RECEIVED"], "wabaNumber": NUMBER,
    });
    let answer = guarded.accepts("POST", REGISTER, DOUBLETICK, &body).body;
    let row = json!([{"wabaNumber": NUMBER, "webhookEventType": "MESSAGE_RECEIVED"}]);
    assert_eq!(answer["validWebhooks"], row);
    let known = guarded.only();
    assert_eq!(
        (known.name.as_str(), known.target.method().as_str()),
        ("https://crm.example/dt", "POST")
    );
    let mut without = body;
    without.as_object_mut().unwrap().remove("wabaNumber");
    let refused = guarded.call("POST", REGISTER, &[DOUBLETICK], without.to_string());
    assert_eq!(
        (refused.status, &refused.body["message"]),
        (400, &json!("wabaNumber: missing; expected a number"))
    );
}
