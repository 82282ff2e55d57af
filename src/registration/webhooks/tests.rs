//! The session gateway as its clients meet it: its documents' examples, its rules, and bad input.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use http::Request;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::account::Account;
use crate::attempt::{Answered, Reply};
use crate::clock::Manual;
use crate::config::{Config, Limits};
use crate::delivery::{Request as Sent, Transport};
use crate::engine::Engine;
use crate::event::Event;
use crate::registration::tests::{DEADLINE, wait_until};
use crate::registration::{BODY_BYTES_MAX, Registration};
use crate::stats::Stats;
use crate::store::Memory;

/// 2025-12-17T10:30:00Z
const BEGIN_WALL_MS: u64 = 1_765_967_400_000;
const ACME: Option<(&str, &str)> = Some(("authorization", "acme-key"));
const BETA: Option<(&str, &str)> = Some(("authorization", "Bearer beta-key"));

/// Host, headers and body of an attempt.
type Arrival = (String, Vec<(String, String)>, String);

/// Receivers by host: each answers with its statuses in turn, the last one for ever, or 200.
#[derive(Default)]
struct Scripted {
    statuses: Mutex<HashMap<&'static str, Vec<u16>>>,
    arrivals: Mutex<Vec<Arrival>>,
}

impl Transport for Scripted {
    fn send(&self, request: &Sent<'_>) -> Reply {
        let host = request.url.host().unwrap().to_owned();
        let header = |(name, value): &(http::HeaderName, http::HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        let headers = request.headers.iter().map(header).collect();
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        self.arrivals.lock().push((host.clone(), headers, body));
        let mut statuses = self.statuses.lock();
        let status = match statuses.get_mut(host.as_str()) {
            Some(statuses) if statuses.len() > 1 => statuses.remove(0),
            Some(statuses) => statuses[0],
            None => 200,
        };
        Reply::Answered(Answered::new(status).excerpt(b"what it said"))
    }

    fn interrupt(&self) {}
}

struct World {
    engine: Engine,
    registration: Registration,
    clock: Arc<Manual>,
    receivers: Arc<Scripted>,
}

fn world(change: impl FnOnce(Config) -> Config) -> World {
    let clock = Arc::new(Manual::new(BEGIN_WALL_MS, 7));
    let receivers = Arc::new(Scripted::default());
    let config = Config::new("unused")
        .store(Arc::new(Memory::default()))
        .clock(clock.clone())
        .transport(receivers.clone())
        .account(Account::new("acme").api_key("acme-key").waba("1", ["919000000001"]))
        .account(Account::new("beta").api_key("beta-key").waba("2", ["919000000002"]));
    let engine = Engine::open(change(config)).unwrap();
    World { registration: Registration::new(engine.clone()), engine, clock, receivers }
}

fn fresh() -> World {
    world(|config| config)
}

impl World {
    fn call(&self, method: &str, path: &str, key: Option<(&str, &str)>, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path);
        let request = key.into_iter().fold(request, |r, (name, value)| r.header(name, value));
        self.registration.answer(&request.body(body.as_bytes().to_vec()).unwrap())
    }

    /// The answer of acme's call, whose envelope must fit its status.
    fn acme(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        enveloped(&self.call(method, path, ACME, &body))
    }

    /// Registers a webhook of acme.
    fn register(&self, body: Value) -> u32 {
        let (code, answer) = self.acme("POST", "/webhooks", body);
        assert_eq!(code, 201, "{answer}");
        answer["data"]["id"].as_u64().unwrap().try_into().unwrap()
    }

    fn publish(&self, event_type: &str) {
        let event = Event::new(event_type, r#"{"text":"hello"}"#).number("919000000001");
        let receipt = self.engine.publish(event.account("acme")).unwrap();
        receipt.wait_timeout(DEADLINE).unwrap().unwrap();
    }

    fn wait_until(&self, is_so: impl Fn(&Stats) -> bool) {
        wait_until(&self.engine, is_so);
    }

    fn hosts(&self) -> Vec<String> {
        self.receivers.arrivals.lock().iter().map(|(host, ..)| host.clone()).collect()
    }
}

fn enveloped(answer: &Answer) -> (u16, Value) {
    assert_eq!(answer.headers()["content-type"], "application/json");
    let code = answer.status().as_u16();
    let envelope: Value = serde_json::from_slice(answer.body()).unwrap();
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
fn the_examples_of_the_documents_are_answered_as_they_say_with_the_code_that_is_the_status() {
    let world = fresh();
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
    assert_eq!(world.acme("POST", "/webhooks", given), (201, created.clone()));
    (created["code"], created["message"]) = (200.into(), "Webhook retrieved successfully".into());
    assert_eq!(world.acme("GET", "/webhooks/1", Value::Null), (200, created.clone()));
    created["message"] = "Webhooks retrieved successfully".into();
    created["data"] = json!([created["data"]]);
    assert_eq!(world.acme("GET", "/webhooks", Value::Null), (200, created));
    let refused = json!({
        "code": 400, "error": "URL must be HTTPS", "status": false, "message": "Bad request",
    });
    let http = json!({"url": "http://your-server.com/webhook"});
    assert_eq!(world.acme("POST", "/webhooks", http), (400, refused));
    let unauthorized = json!({
        "status": false, "code": 401, "message": "Unauthorized",
        "error": "Invalid or missing authentication",
    });
    assert_eq!(enveloped(&world.call("POST", "/webhooks", None, "{}")), (401, unauthorized));
    assert_eq!(world.engine.subscriptions().len(), 1);
}

#[test]
fn a_store_that_fails_is_told_as_500_without_its_text_and_a_closed_engine_as_503() {
    let failing = Error::Directory {
        path: "/private/path".into(),
        doing: "writing",
        source: Arc::new(std::io::Error::other("full")),
    };
    let (code, answer) = enveloped(&Refused::from(failing).answer());
    assert_eq!((code, &answer["message"]), (500, &json!("Internal server error")));
    assert!(!answer.to_string().contains("private"), "{answer}");
    let world = fresh();
    world.register(to("crm"));
    world.engine.close(DEADLINE).unwrap();
    let (code, answer) = world.acme("POST", "/webhooks", to("other"));
    assert_eq!((code, &answer["message"]), (503, &json!("Service unavailable")));
}

#[test]
fn a_secret_that_is_not_given_is_made_and_shown_once_and_one_that_is_given_never() {
    let world = fresh();
    for (place, given) in
        [json!({}), json!({"secret": null}), json!({"secret": ""})].iter().enumerate()
    {
        let mut body = given.clone();
        body["url"] = format!("https://host{place}/").into();
        let (_, answer) = world.acme("POST", "/webhooks", body);
        let secret = answer["data"]["secret"].as_str().unwrap().to_owned();
        assert!(secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let path = format!("/webhooks/{}", answer["data"]["id"]);
        for (method, path) in [("GET", path.as_str()), ("GET", "/webhooks"), ("PATCH", &path)] {
            let body = if method == "PATCH" { json!({}) } else { Value::Null };
            let (code, shown) = world.acme(method, path, body);
            assert_eq!(code, 200);
            assert!(!shown.to_string().contains("secret") && !shown.to_string().contains(&secret));
        }
        let known = world.engine.subscriptions().pop().unwrap();
        assert_eq!(known.secret.as_ref().unwrap().reveal_text(), secret);
    }
    let (_, answer) = world.acme("POST", "/webhooks", to("crm"));
    assert!(!answer.to_string().contains("s3cret"), "{answer}");
    let known = world.engine.subscriptions().pop().unwrap();
    assert_eq!(known.secret.as_ref().unwrap().reveal_text(), "s3cret");
}

#[test]
fn no_events_mean_all_and_names_that_nobody_knows_are_taken() {
    let world = fresh();
    for (events, shown) in [
        (json!(null), json!([])),
        (json!([]), json!([])),
        (
            json!(["newsletter.join", "Message Received"]),
            json!(["message.received", "newsletter.join"]),
        ),
        (json!(["message.received", "message.received"]), json!(["message.received"])),
    ] {
        let mut body = to("crm");
        body["events"] = events;
        let (code, answer) = world.acme("POST", "/webhooks", body);
        assert_eq!((code, &answer["data"]["events"]), (201, &shown));
    }
    let all = world.engine.subscriptions();
    assert_eq!(all[0].filter.events, None);
    assert!(all.iter().all(|one| one.filter.numbers.is_none() && one.profile == Profile::Session));
}

#[test]
fn an_account_has_as_many_webhooks_as_the_host_admits_and_no_more() {
    let limits = Limits { session_webhooks_max: 2, ..Limits::default() };
    let world = world(|config| config.limits(limits));
    // Of the same account and not of this gateway, under the name that would be next.
    let other = Subscription::to("https://other/").unwrap().account("acme").name("webhook-1");
    world.engine.subscribe(other).unwrap();
    let (first, _) = (world.register(to("a")), world.register(to("a")));
    let (code, answer) = world.acme("POST", "/webhooks", to("c"));
    assert_eq!(code, 400);
    assert!(answer["error"].as_str().unwrap().contains("at most 2"), "{answer}");
    let beta = world.call("POST", "/webhooks", BETA, &to("b").to_string());
    assert_eq!(enveloped(&beta).0, 201);
    let (code, answer) = world.acme("DELETE", &format!("/webhooks/{first}"), Value::Null);
    assert_eq!((code, &answer["data"]), (200, &Value::Null));
    world.register(to("c"));
    assert_eq!(world.engine.subscriptions().len(), 4);
    assert_eq!(Limits::default().session_webhooks_max, 5);
}

#[test]
fn a_full_house_is_told_without_how_many_webhooks_all_accounts_have() {
    let limits = Limits { subscriptions_max: 1, ..Limits::default() };
    let world = world(|config| config.limits(limits));
    let beta = world.call("POST", "/webhooks", BETA, &to("beta").to_string());
    assert_eq!(enveloped(&beta).0, 201);
    let (code, answer) = world.acme("POST", "/webhooks", to("crm"));
    assert_eq!((code, &answer["error"]), (400, &json!("subscriptions: over the limit of 1")));
    assert_eq!(world.engine.subscriptions().len(), 1);
}

#[test]
fn a_change_leaves_what_it_does_not_name_as_it_was() {
    let world = fresh();
    let mut body = to("crm");
    body["events"] = json!(["message.received"]);
    let id = world.register(body);
    let bystander = world.register(to("bystander"));
    let read =
        |id: u32| world.acme("GET", &format!("/webhooks/{id}"), Value::Null).1["data"].clone();
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
        let (code, answer) = world.acme("PATCH", &format!("/webhooks/{id}"), change.clone());
        assert_eq!((code, &answer["message"]), (200, &json!("Webhook updated successfully")));
        expected[field] = value;
        expected["active"] =
            change["active"].as_bool().map_or(expected["active"].clone(), Value::from);
        assert_eq!(answer["data"], expected, "{change}");
        assert_eq!(read(id), expected, "{change}");
        assert_eq!(read(bystander), untouched);
    }
    let known = world.engine.subscription(SubscriptionId(id)).unwrap();
    assert_eq!(known.secret.as_ref().unwrap().reveal_text(), "another");
    assert_eq!((known.policy.attempts_max, known.policy.timeout_ms), (Some(3), 10_000));
}

#[test]
fn one_that_its_receiver_switched_off_is_inactive_until_it_is_switched_on() {
    let world = fresh();
    world.receivers.statuses.lock().insert("gone", vec![410, 200]);
    let (gone, bystander) = (world.register(to("gone")), world.register(to("bystander")));
    world.publish("message.received");
    let path = format!("/webhooks/{gone}");
    world.wait_until(|stats| stats.dead == 1 && stats.delivered == 1);
    let active = |path: &str| world.acme("GET", path, Value::Null).1["data"]["active"].clone();
    let deadline = Instant::now() + DEADLINE;
    while active(&path) == json!(true) {
        assert!(Instant::now() < deadline, "still active");
    }
    for (change, expected, state) in [
        (json!({"events": []}), false, State::Disabled),
        (json!({"active": false}), false, State::Disabled),
        (json!({"active": true}), true, State::Active),
        (json!({"active": false}), false, State::Paused),
    ] {
        let (_, answer) = world.acme("PATCH", &path, change.clone());
        assert_eq!(answer["data"]["active"], expected, "{change}");
        let known = world.engine.subscription(SubscriptionId(gone)).unwrap();
        assert_eq!(known.state, state, "{change}");
    }
    assert_eq!(active(&format!("/webhooks/{bystander}")), true);
}

#[test]
fn what_is_malformed_is_refused_by_name_and_changes_nothing() {
    let world = fresh();
    let id = world.register(to("bystander"));
    let path = format!("/webhooks/{id}");
    let before = world.acme("GET", &path, Value::Null);
    let long = format!("https://crm.example/{}", "a".repeat(3_000));
    let url = |url: &str| json!({"url": url}).to_string();
    let with = |more: &str| format!("{{\"url\":\"https://crm.example/\",{more}}}");
    let both = [
        (String::new(), "JSON"),
        ("[]".to_owned(), "an array"),
        ("hidden".to_owned(), "JSON"),
        (url("http://crm.example/"), "URL must be HTTPS"),
        (url("crm.example/webhook"), "URL must be HTTPS"),
        (url("ftp://crm.example/"), "URL must be HTTPS"),
        (url(""), "URL must be HTTPS"),
        (url("https://u:hidden@crm.example/"), "without user name and password"),
        (url("https://crm.example/#x"), "without a fragment"),
        (url("https://crm.example:0/"), "absolute URL"),
        (url("https://crm.example/\r\nx: y"), "absolute URL"),
        (url(&long), "2048"),
        (url("https://127.0.0.1/"), "loopback"),
        (url("https://10.1.2.3/"), "private"),
        (url("https://[::ffff:10.0.0.1]/"), "private"),
        (json!({"url": 7}).to_string(), "url: found a number"),
        (with(r#""secret":7"#), "secret: found a number"),
        (with(r#""secret":"whsec_hidden!""#), "secret"),
        (with(r#""events":"hidden""#), "events: found a string"),
        (with(r#""events":["a",7]"#), "events[1]: found a number"),
        (with(r#""events":["*"]"#), "events[0]: found a pattern"),
        (with(r#""events":["message.*"]"#), "events[0]: found a pattern"),
        (with(r#""events":["a\nb"]"#), "events[0]"),
        (with(r#""events":[""]"#), "events[0]"),
        (with(r#""colour":"hidden""#), "colour: unknown field"),
        (with(r#""url":"https://hidden.example/""#), "url: given twice"),
    ];
    let at_post = [
        ("{}".to_owned(), "url: missing"),
        (json!({"url": null}).to_string(), "url: missing"),
        (with(r#""active":false"#), "active: unknown field"),
    ];
    let at_patch = [
        (r#"{"active":"hidden"}"#.to_owned(), "active: found a string"),
        (r#"{"active":1}"#.to_owned(), "active: found a number"),
        (r#"{"secret":""}"#.to_owned(), "secret"),
        (r#"{"id":9}"#.to_owned(), "id: unknown field"),
    ];
    let posts = both.iter().chain(&at_post).map(|case| ("POST", "/webhooks", case));
    let patches = both.iter().chain(&at_patch).map(|case| ("PATCH", path.as_str(), case));
    for (method, path, (body, says)) in posts.chain(patches) {
        let (code, answer) = enveloped(&world.call(method, path, ACME, body));
        assert_eq!((code, &answer["message"]), (400, &json!("Bad request")), "{body}: {answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(says), "{method} {body}: {error}");
        assert!(!error.contains("hidden"), "{error}");
    }
    let large = " ".repeat(BODY_BYTES_MAX + 1);
    assert_eq!(enveloped(&world.call("POST", "/webhooks", ACME, &large)).0, 413);
    let not_text = world.registration.answer(
        &Request::post("/webhooks")
            .header("authorization", "acme-key")
            .body(b"\xff{}".to_vec())
            .unwrap(),
    );
    assert_eq!(enveloped(&not_text).0, 400);
    assert_eq!(world.acme("GET", &path, Value::Null), before);
    assert_eq!(world.engine.subscriptions().len(), 1);
}

#[test]
fn http_is_taken_where_the_host_allows_it_and_internal_addresses_are_not() {
    let world = world(|config| config.allow_http(true));
    world.register(json!({"url": "http://crm.example/webhook"}));
    for (url, says) in [
        ("http://127.0.0.1/", "loopback"),
        ("http://u:hidden@crm.example/", "without user name"),
        ("ftp://crm.example/", "URL must be HTTPS"),
    ] {
        let (code, answer) = world.acme("POST", "/webhooks", json!({"url": url}));
        assert_eq!(code, 400);
        assert!(answer["error"].as_str().unwrap().contains(says), "{answer}");
    }
    assert_eq!(world.engine.subscriptions().len(), 1);
}

#[test]
fn without_the_key_of_an_account_nothing_is_answered_whatever_the_path() {
    let world = fresh();
    let id = world.register(to("bystander"));
    for path in ["/webhooks", &format!("/webhooks/{id}"), "/webhooks/9/logs", "/webhooks/x/y/z"] {
        for key in [
            None,
            Some(("authorization", "")),
            Some(("authorization", "acme-ke")),
            Some(("authorization", "Bearer acme-key2")),
            Some(("authorization", "Basic acme-key")),
            Some(("x-api-key", "acme-key")),
        ] {
            for method in ["GET", "POST", "PATCH", "DELETE"] {
                let (code, answer) = enveloped(&world.call(method, path, key, "{}"));
                assert_eq!((code, &answer["message"]), (401, &json!("Unauthorized")));
            }
        }
    }
    assert_eq!(world.engine.subscriptions().len(), 1);
}

#[test]
fn another_accounts_webhook_and_another_gateways_are_as_ones_that_are_not_there() {
    let world = fresh();
    let beta = enveloped(&world.call("POST", "/webhooks", BETA, &to("beta").to_string())).1;
    let other = Subscription::to("https://other/").unwrap().account("acme").name("crm");
    let other = world.engine.subscribe(other).unwrap();
    let own = world.register(to("own"));
    let missing = world.acme("GET", "/webhooks/999", Value::Null);
    assert_eq!((missing.0, &missing.1["error"]), (404, &json!("Webhook not found")));
    let ids = [beta["data"]["id"].to_string(), other.to_string()];
    let none = ["0", "-1", "+1", "1.0", "x", "", "4294967296", "%31"].map(str::to_owned);
    for id in ids.iter().chain(&none) {
        for (method, of_it) in
            [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/logs"), ("POST", "/test")]
        {
            let answer = world.call(method, &format!("/webhooks/{id}{of_it}"), ACME, "{}");
            assert_eq!(enveloped(&answer), missing, "{method} {id}{of_it}");
        }
    }
    let (_, listed) = world.acme("GET", "/webhooks", Value::Null);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert_eq!(listed["data"][0]["id"], own);
    assert_eq!(world.engine.subscriptions().len(), 3);
    assert!(world.hosts().is_empty());
}

#[test]
fn methods_and_paths_that_are_none_are_told_in_the_envelope() {
    let world = fresh();
    let id = world.register(to("bystander"));
    for (method, path, allow) in [
        ("PUT", "/webhooks".to_owned(), "GET, POST"),
        ("POST", format!("/webhooks/{id}"), "GET, PATCH, DELETE"),
        ("POST", format!("/webhooks/{id}/logs"), "GET"),
        ("GET", format!("/webhooks/{id}/test"), "POST"),
    ] {
        let answer = world.call(method, &path, ACME, "{}");
        assert_eq!(enveloped(&answer).0, 405, "{method} {path}");
        assert_eq!(answer.headers()["allow"], allow);
    }
    for path in
        [format!("/webhooks/{id}/log"), format!("/webhooks/{id}/logs/1"), "/webhooks/".into()]
    {
        assert_eq!(world.acme("GET", &path, Value::Null).0, 404, "{path}");
    }
    assert_eq!(world.engine.subscriptions().len(), 1);
}

#[test]
fn a_delivery_is_tried_three_times_2_and_4_seconds_apart_and_the_logs_say_how_each_went() {
    let world = fresh();
    world.receivers.statuses.lock().insert("crm", vec![503, 500, 429]);
    world.receivers.statuses.lock().insert("refusing", vec![404]);
    let (crm, refusing) = (world.register(to("crm")), world.register(to("refusing")));
    let bystander = world.register(to("bystander"));
    world.publish("message.received");
    world.wait_until(|stats| (stats.retried, stats.dead, stats.delivered) == (1, 1, 1));
    world.clock.advance_ms(1_999);
    assert_eq!(world.hosts().iter().filter(|host| *host == "crm").count(), 1);
    world.clock.advance_ms(1);
    world.wait_until(|stats| stats.retried == 2);
    world.clock.advance_ms(3_999);
    assert_eq!(world.hosts().iter().filter(|host| *host == "crm").count(), 2);
    world.clock.advance_ms(1);
    world.wait_until(|stats| stats.dead == 2);
    let logs = |id: u32| {
        let (code, answer) = world.acme("GET", &format!("/webhooks/{id}/logs"), Value::Null);
        assert_eq!(
            (code, &answer["message"]),
            (200, &json!("Webhook logs retrieved successfully"))
        );
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
    assert_eq!(
        (&last["webhook_id"], &last["event_type"]),
        (&json!(crm), &json!("message.received"))
    );
    assert_eq!(
        (&last["last_error"], &last["response"]),
        (&json!("status:429"), &json!("what it said"))
    );
    assert_eq!(last["created_at"], "2025-12-17T10:30:06.000Z");
    let healthy = &logs(bystander)[0];
    assert_eq!((&healthy["last_error"], &healthy["response"]), (&Value::Null, &Value::Null));
    assert_eq!(healthy["event_id"], last["event_id"]);
}

#[test]
fn the_logs_show_the_newest_hundred() {
    let limits = Limits { recent_attempts_each_max: 150, ..Limits::default() };
    let world = world(|config| config.limits(limits));
    let id = world.register(to("crm"));
    for _ in 0..120 {
        world.publish("message.received");
    }
    world.wait_until(|stats| stats.delivered == 120);
    let (_, answer) = world.acme("GET", &format!("/webhooks/{id}/logs"), Value::Null);
    assert_eq!(answer["data"].as_array().unwrap().len(), 100);
}

#[test]
fn a_test_goes_to_this_webhook_alone_through_the_same_envelope_whatever_it_asks_for() {
    let world = fresh();
    let mut body = to("crm");
    body["events"] = json!(["call.offer"]);
    let crm = world.register(body);
    world.register(to("bystander"));
    let path = format!("/webhooks/{crm}/test");
    let (code, answer) = world.acme("POST", &path, Value::Null);
    assert_eq!((code, &answer["message"]), (200, &json!("Webhook test delivered")));
    let data = &answer["data"];
    assert_eq!((&data["status"], &data["status_code"]), (&json!("success"), &json!(200)));
    assert_eq!(data["event_type"], "test.ping");
    assert_eq!(world.hosts(), ["crm"]);
    let arrivals = world.receivers.arrivals.lock().clone();
    let (_, headers, body) = &arrivals[0];
    let value =
        |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, v)| v.clone());
    let sent: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&sent["event_type"], &sent["data"]["test"]), (&json!("test.ping"), &json!(true)));
    assert_eq!(value("x-webhook-event").unwrap(), "test.ping");
    let signature = value("x-webhook-signature").unwrap();
    assert_eq!(value("x-hub-signature-256").unwrap(), signature);
    assert!(signature.starts_with("sha256="), "{signature}");
    world.receivers.statuses.lock().insert("crm", vec![500]);
    let (code, answer) = world.acme("POST", &path, Value::Null);
    assert_eq!((code, &answer["message"]), (200, &json!("Webhook test failed")));
    let data = &answer["data"];
    assert_eq!((&data["status"], &data["last_error"]), (&json!("failed"), &json!("status:500")));
    assert_eq!(data["response"], "what it said");
    assert_eq!(world.engine.stats().attempts, 0);
}
