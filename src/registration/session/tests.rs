//! The session gateway as its clients see it: its documents' examples, its rules, and bad input.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::clock::ManualClock;
use crate::config::{Config, Limits};
use crate::error::Error;
use crate::event::Event;
use crate::registration::BODY_BYTES_MAX;
use crate::registration::test_support::{DEADLINE, GatewayResponse, NUMBER, TestGateway};

/// 2025-12-17T10:30:00Z
const BEGIN_WALL_MS: u64 = 1_765_967_400_000;
const ACME: Option<(&str, &str)> = Some(("authorization", "acme-key"));
const BETA: Option<(&str, &str)> = Some(("authorization", "Bearer beta-key"));

/// The accounts of [`TestGateway`] with a manual clock.
struct SessionGateway {
    gateway: TestGateway,
    clock: Arc<ManualClock>,
}

fn session_gateway(configure: impl FnOnce(Config) -> Config) -> SessionGateway {
    let clock = Arc::new(ManualClock::new(BEGIN_WALL_MS, 7));
    let gateway = TestGateway::with(|config| configure(config.clock(clock.clone())));
    SessionGateway { gateway, clock }
}

fn fresh() -> SessionGateway {
    session_gateway(|config| config)
}

impl Deref for SessionGateway {
    type Target = TestGateway;

    fn deref(&self) -> &TestGateway {
        &self.gateway
    }
}

impl SessionGateway {
    fn call(
        &self,
        method: &str,
        path: &str,
        key: Option<(&str, &str)>,
        body: &str,
    ) -> GatewayResponse {
        self.gateway.call(method, path, key.as_slice(), body)
    }

    /// The response to acme's call, whose envelope must match its status.
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
        let event = Event::new(event_type, r#"{"text":"hello"}"#).number(NUMBER);
        let receipt = self.engine.publish(event.account("acme")).unwrap();
        receipt.wait_timeout(DEADLINE).unwrap().unwrap();
    }

    fn hosts(&self) -> Vec<String> {
        self.receivers.arrivals.lock().iter().map(|(host, ..)| host.clone()).collect()
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
    assert_eq!(gateway.acme("POST", "/webhooks", given), (201, created.clone()));
    (created["code"], created["message"]) = (200.into(), "Webhook retrieved successfully".into());
    assert_eq!(gateway.acme("GET", "/webhooks/1", Value::Null), (200, created.clone()));
    created["message"] = "Webhooks retrieved successfully".into();
    created["data"] = json!([created["data"]]);
    assert_eq!(gateway.acme("GET", "/webhooks", Value::Null), (200, created));
    let refused = json!({
        "code": 400, "error": "URL must be HTTPS", "status": false, "message": "Bad request",
    });
    let http = json!({"url": "http://your-server.com/webhook"});
    assert_eq!(gateway.acme("POST", "/webhooks", http), (400, refused));
    let unauthorized = json!({
        "status": false, "code": 401, "message": "Unauthorized",
        "error": "Invalid or missing authentication",
    });
    assert_eq!(enveloped(&gateway.call("POST", "/webhooks", None, "{}")), (401, unauthorized));
    assert_eq!(gateway.engine.subscriptions().len(), 1);
}

#[test]
fn a_failing_store_is_500_and_a_closed_engine_503() {
    let failing = Error::Directory {
        path: "/private/path".into(),
        doing: "writing",
        source: Arc::new(std::io::Error::other("full")),
    };
    let response = SessionError::from(failing).response();
    let code = response.status().as_u16();
    let answer: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!((code, &answer["message"]), (500, &json!("Internal server error")));
    assert!(!answer.to_string().contains("private"), "{answer}");
    let gateway = fresh();
    gateway.register(to("crm"));
    gateway.engine.close(DEADLINE).unwrap();
    let (code, answer) = gateway.acme("POST", "/webhooks", to("other"));
    assert_eq!((code, &answer["message"]), (503, &json!("Service unavailable")));
}

#[test]
fn a_generated_secret_is_shown_once_a_given_one_never() {
    let gateway = fresh();
    for (place, given) in
        [json!({}), json!({"secret": null}), json!({"secret": ""})].iter().enumerate()
    {
        let mut body = given.clone();
        body["url"] = format!("https://host{place}/").into();
        let (_, answer) = gateway.acme("POST", "/webhooks", body);
        let secret = answer["data"]["secret"].as_str().unwrap().to_owned();
        assert!(secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let path = format!("/webhooks/{}", answer["data"]["id"]);
        for (method, path) in [("GET", path.as_str()), ("GET", "/webhooks"), ("PATCH", &path)] {
            let body = if method == "PATCH" { json!({}) } else { Value::Null };
            let (code, shown) = gateway.acme(method, path, body);
            assert_eq!(code, 200);
            assert!(!shown.to_string().contains("secret") && !shown.to_string().contains(&secret));
        }
        let known = gateway.engine.subscriptions().pop().unwrap();
        assert_eq!(known.secret.as_ref().unwrap().reveal_text(), secret);
    }
    let (_, answer) = gateway.acme("POST", "/webhooks", to("crm"));
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
        let (code, answer) = gateway.acme("POST", "/webhooks", body);
        assert_eq!((code, &answer["data"]["events"]), (201, &shown));
    }
    let all = gateway.engine.subscriptions();
    assert_eq!(all[0].filter.events, None);
    assert!(all.iter().all(|one| one.filter.numbers.is_none() && one.profile == Profile::Session));
}

#[test]
fn an_account_has_at_most_the_configured_webhooks() {
    let limits = Limits { session_webhooks_max: 2, ..Limits::default() };
    let gateway = session_gateway(|config| config.limits(limits));
    // A subscription of the account outside this gateway, with the next free name.
    let other = Subscription::to("https://other/").unwrap().account("acme").name("webhook-1");
    gateway.engine.subscribe(other).unwrap();
    let (first, _) = (gateway.register(to("a")), gateway.register(to("a")));
    let (code, answer) = gateway.acme("POST", "/webhooks", to("c"));
    assert_eq!(code, 400);
    assert!(answer["error"].as_str().unwrap().contains("limit of 2"), "{answer}");
    let beta = gateway.call("POST", "/webhooks", BETA, &to("b").to_string());
    assert_eq!(enveloped(&beta).0, 201);
    let (code, answer) = gateway.acme("DELETE", &format!("/webhooks/{first}"), Value::Null);
    assert_eq!((code, &answer["data"]), (200, &Value::Null));
    gateway.register(to("c"));
    assert_eq!(gateway.engine.subscriptions().len(), 4);
    assert_eq!(Limits::default().session_webhooks_max, 5);
}

#[test]
fn the_limit_error_hides_the_count_of_all_accounts() {
    let limits = Limits { subscriptions_max: 1, ..Limits::default() };
    let gateway = session_gateway(|config| config.limits(limits));
    let beta = gateway.call("POST", "/webhooks", BETA, &to("beta").to_string());
    assert_eq!(enveloped(&beta).0, 201);
    let (code, answer) = gateway.acme("POST", "/webhooks", to("crm"));
    assert_eq!((code, &answer["error"]), (400, &json!("subscriptions: over the limit of 1")));
    assert_eq!(gateway.engine.subscriptions().len(), 1);
}

#[test]
fn a_patch_keeps_absent_fields() {
    let gateway = fresh();
    let mut body = to("crm");
    body["events"] = json!(["message.received"]);
    let id = gateway.register(body);
    let bystander = gateway.register(to("bystander"));
    let read =
        |id: u32| gateway.acme("GET", &format!("/webhooks/{id}"), Value::Null).1["data"].clone();
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
        let (code, answer) = gateway.acme("PATCH", &format!("/webhooks/{id}"), change.clone());
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
    assert_eq!(
        (known.policy.attempts_max, known.policy.timeout),
        (Some(3), Duration::from_secs(10))
    );
}

#[test]
fn a_webhook_disabled_by_its_receiver_stays_inactive() {
    let gateway = fresh();
    gateway.receivers.statuses.lock().insert("gone", vec![410, 200]);
    let (gone, bystander) = (gateway.register(to("gone")), gateway.register(to("bystander")));
    gateway.publish("message.received");
    let path = format!("/webhooks/{gone}");
    gateway.wait_until(|stats| stats.dead == 1 && stats.delivered == 1);
    let active = |path: &str| gateway.acme("GET", path, Value::Null).1["data"]["active"].clone();
    let deadline = Instant::now() + DEADLINE;
    while active(&path) == json!(true) {
        assert!(Instant::now() < deadline, "still active");
    }
    for (change, expected, state) in [
        (json!({"events": []}), false, SubscriptionState::Disabled),
        (json!({"active": false}), false, SubscriptionState::Disabled),
        (json!({"active": true}), true, SubscriptionState::Active),
        (json!({"active": false}), false, SubscriptionState::Paused),
    ] {
        let (_, answer) = gateway.acme("PATCH", &path, change.clone());
        assert_eq!(answer["data"]["active"], expected, "{change}");
        let known = gateway.engine.subscription(SubscriptionId(gone)).unwrap();
        assert_eq!(known.state, state, "{change}");
    }
    assert_eq!(active(&format!("/webhooks/{bystander}")), true);
}

#[test]
fn malformed_requests_are_refused_by_field() {
    let gateway = fresh();
    let id = gateway.register(to("bystander"));
    let path = format!("/webhooks/{id}");
    let before = gateway.acme("GET", &path, Value::Null);
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
        (with(r#""url":"https://hidden.example/""#), "url: given twice"),
    ];
    let at_post =
        [("{}".to_owned(), "url: missing"), (json!({"url": null}).to_string(), "url: missing")];
    let at_patch = [
        (r#"{"active":"hidden"}"#.to_owned(), "active: found a string"),
        (r#"{"active":1}"#.to_owned(), "active: found a number"),
        (r#"{"secret":""}"#.to_owned(), "secret"),
    ];
    let posts = both.iter().chain(&at_post).map(|case| ("POST", "/webhooks", case));
    let patches = both.iter().chain(&at_patch).map(|case| ("PATCH", path.as_str(), case));
    for (method, path, (body, says)) in posts.chain(patches) {
        let (code, answer) = enveloped(&gateway.call(method, path, ACME, body));
        assert_eq!((code, &answer["message"]), (400, &json!("Bad request")), "{body}: {answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(says), "{method} {body}: {error}");
        assert!(!error.contains("hidden"), "{error}");
    }
    let large = " ".repeat(BODY_BYTES_MAX + 1);
    assert_eq!(enveloped(&gateway.call("POST", "/webhooks", ACME, &large)).0, 413);
    let not_text = gateway.gateway.call("POST", "/webhooks", ACME.as_slice(), b"\xff{}");
    assert_eq!(enveloped(&not_text).0, 400);
    assert_eq!(gateway.acme("GET", &path, Value::Null), before);
    assert_eq!(gateway.engine.subscriptions().len(), 1);
}

#[test]
fn http_needs_permission_and_internal_addresses_are_refused() {
    let gateway = session_gateway(|config| config.allow_http(true));
    gateway.register(json!({"url": "http://crm.example/webhook"}));
    for (url, says) in [
        ("http://127.0.0.1/", "loopback"),
        ("http://u:hidden@crm.example/", "without user name"),
        ("ftp://crm.example/", "URL must be HTTPS"),
    ] {
        let (code, answer) = gateway.acme("POST", "/webhooks", json!({"url": url}));
        assert_eq!(code, 400);
        assert!(answer["error"].as_str().unwrap().contains(says), "{answer}");
    }
    assert_eq!(gateway.engine.subscriptions().len(), 1);
}

#[test]
fn every_path_needs_the_key_of_an_account() {
    let gateway = fresh();
    let id = gateway.register(to("bystander"));
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
                let (code, answer) = enveloped(&gateway.call(method, path, key, "{}"));
                assert_eq!((code, &answer["message"]), (401, &json!("Unauthorized")));
            }
        }
    }
    assert_eq!(gateway.engine.subscriptions().len(), 1);
}

#[test]
fn webhooks_of_other_accounts_and_gateways_are_not_found() {
    let gateway = fresh();
    let beta = enveloped(&gateway.call("POST", "/webhooks", BETA, &to("beta").to_string())).1;
    let other = Subscription::to("https://other/").unwrap().account("acme").name("crm");
    let other = gateway.engine.subscribe(other).unwrap();
    let own = gateway.register(to("own"));
    let missing = gateway.acme("GET", "/webhooks/999", Value::Null);
    assert_eq!((missing.0, &missing.1["error"]), (404, &json!("Webhook not found")));
    let ids = [beta["data"]["id"].to_string(), other.to_string()];
    let none = ["0", "-1", "+1", "1.0", "x", "4294967296", "%31"].map(str::to_owned);
    for id in ids.iter().chain(&none) {
        for (method, of_it) in
            [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/logs"), ("POST", "/test")]
        {
            let answer = gateway.call(method, &format!("/webhooks/{id}{of_it}"), ACME, "{}");
            assert_eq!(enveloped(&answer), missing, "{method} {id}{of_it}");
        }
    }
    let (_, listed) = gateway.acme("GET", "/webhooks", Value::Null);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert_eq!(listed["data"][0]["id"], own);
    assert_eq!(gateway.engine.subscriptions().len(), 3);
    assert!(gateway.hosts().is_empty());
}

#[test]
fn unknown_methods_and_paths_use_the_envelope() {
    let gateway = fresh();
    let id = gateway.register(to("bystander"));
    for (method, path, allow) in [
        ("PUT", "/webhooks".to_owned(), "GET, POST, HEAD"),
        ("POST", format!("/webhooks/{id}"), "GET, PATCH, DELETE, HEAD"),
        ("POST", format!("/webhooks/{id}/logs"), "GET, HEAD"),
        ("GET", format!("/webhooks/{id}/test"), "POST"),
    ] {
        let answer = gateway.call(method, &path, ACME, "{}");
        assert_eq!(enveloped(&answer).0, 405, "{method} {path}");
        assert_eq!(answer.headers["allow"], format!("{allow}, OPTIONS"));
    }
    for path in
        [format!("/webhooks/{id}/log"), format!("/webhooks/{id}/logs/1"), "/webhooks//".into()]
    {
        assert_eq!(gateway.acme("GET", &path, Value::Null).0, 404, "{path}");
    }
    assert_eq!(gateway.engine.subscriptions().len(), 1);
}

#[test]
fn three_attempts_2_and_4_seconds_apart_are_logged() {
    let gateway = fresh();
    gateway.receivers.statuses.lock().insert("crm", vec![503, 500, 429]);
    gateway.receivers.statuses.lock().insert("refusing", vec![404]);
    let (crm, refusing) = (gateway.register(to("crm")), gateway.register(to("refusing")));
    let bystander = gateway.register(to("bystander"));
    gateway.publish("message.received");
    gateway.wait_until(|stats| (stats.retried, stats.dead, stats.delivered) == (1, 1, 1));
    gateway.clock.advance(Duration::from_millis(1_999));
    assert_eq!(gateway.hosts().iter().filter(|host| *host == "crm").count(), 1);
    gateway.clock.advance(Duration::from_millis(1));
    gateway.wait_until(|stats| stats.retried == 2);
    gateway.clock.advance(Duration::from_millis(3_999));
    assert_eq!(gateway.hosts().iter().filter(|host| *host == "crm").count(), 2);
    gateway.clock.advance(Duration::from_millis(1));
    gateway.wait_until(|stats| stats.dead == 2);
    let logs = |id: u32| {
        let (code, answer) = gateway.acme("GET", &format!("/webhooks/{id}/logs"), Value::Null);
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
    let gateway = session_gateway(|config| config.limits(limits));
    let id = gateway.register(to("crm"));
    for _ in 0..120 {
        gateway.publish("message.received");
    }
    gateway.wait_until(|stats| stats.delivered == 120);
    let (_, answer) = gateway.acme("GET", &format!("/webhooks/{id}/logs"), Value::Null);
    assert_eq!(answer["data"].as_array().unwrap().len(), 100);
}

#[test]
fn a_test_event_goes_to_this_webhook_alone() {
    let gateway = fresh();
    let mut body = to("crm");
    body["events"] = json!(["call.offer"]);
    let crm = gateway.register(body);
    gateway.register(to("bystander"));
    let path = format!("/webhooks/{crm}/test");
    let (code, answer) = gateway.acme("POST", &path, Value::Null);
    assert_eq!((code, &answer["message"]), (200, &json!("Webhook test delivered")));
    let data = &answer["data"];
    assert_eq!((&data["status"], &data["status_code"]), (&json!("success"), &json!(200)));
    assert_eq!(data["event_type"], "test.ping");
    assert_eq!(gateway.hosts(), ["crm"]);
    let arrivals = gateway.receivers.arrivals.lock().clone();
    let (_, headers, body) = &arrivals[0];
    let value =
        |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, v)| v.clone());
    let sent: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&sent["event_type"], &sent["data"]["test"]), (&json!("test.ping"), &json!(true)));
    assert_eq!(value("x-webhook-event").unwrap(), "test.ping");
    let signature = value("x-webhook-signature").unwrap();
    assert_eq!(value("x-hub-signature-256").unwrap(), signature);
    assert!(signature.starts_with("sha256="), "{signature}");
    gateway.receivers.statuses.lock().insert("crm", vec![500]);
    let (code, answer) = gateway.acme("POST", &path, Value::Null);
    assert_eq!((code, &answer["message"]), (200, &json!("Webhook test failed")));
    let data = &answer["data"];
    assert_eq!((&data["status"], &data["last_error"]), (&json!("failed"), &json!("status:500")));
    assert_eq!(data["response"], "what it said");
    assert_eq!(gateway.engine.stats().attempts, 0);
}
