//! The target of a subscription, changes of it, rotation of its secret, and test deliveries.

use serde_json::{Value, json};

use crate::client::{Answer, assert_members};
use crate::host_process::{ACME, BETA, HostProcess, line};
use crate::receiver::Receiver;

fn patch(served: &HostProcess, id: u64, key: &str, body: &Value) -> Answer {
    served.patch(&format!("/subscriptions/{id}"), key, body)
}

fn read(served: &HostProcess, id: u64, key: &str) -> Value {
    let answer = served.get(&format!("/subscriptions/{id}"), key).with_status(200);
    without_hints(answer.json())
}

/// A subscription without the hints about its event types, which `matching.rs` tests.
fn without_hints(mut item: Value) -> Value {
    item.as_object_mut().unwrap().remove("hints");
    item
}

/// A subscription without what deliveries change.
fn said(mut item: Value) -> Value {
    item["health"] = Value::Null;
    item
}

#[test]
fn requests_follow_the_target_and_hide_credentials() {
    let (place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    let sent = json!({
        "method": "PUT", "headers": {"x-token": "hidden-1"}, "body_format": "JSON",
        "query": {"key": "hidden-2", "n": 1.5, "on": true}, "body": {"static": ["hidden-3", 1]},
        "authorization": {"type": "BASIC", "payload": "user:hidden-4"}, "secret": "hidden-5",
    });
    let id = served.subscribe(ACME, &receiver.url("/hook?a=b"), sent);
    let bystander = served.subscribe(BETA, &receiver.url("/beta"), json!({}));
    let check = |served: &HostProcess| {
        let item = read(served, id, ACME);
        assert_members(&item, json!({"method": "PUT", "body_format": "JSON"}));
        assert_eq!(item["header_names"], json!(["x-token"]));
        assert_eq!(item["query_names"], json!(["key", "n", "on"]));
        assert_eq!(item["body_names"], json!(["static"]));
        assert_eq!(item["authorization"], json!({"type": "BASIC"}));
        assert_eq!(item["tls"], json!(null));
        for shown in [item.to_string(), served.get("/subscriptions", ACME).body] {
            assert!(!shown.contains("hidden") && !shown.contains("aGlkZGVu"), "{shown}");
        }
        let other = read(served, bystander, BETA);
        assert_members(&other, json!({"method": "POST", "authorization": null}));
        assert_eq!(other["query_names"], json!([]));
    };
    check(&served);
    assert!(served.signal("TERM").success());
    let served = place.start();
    check(&served);
    assert_eq!(served.post("/events", ACME, line(1)).json()["owed"], 1);
    let attempt = receiver.next();
    assert_eq!(attempt.method, "PUT");
    assert_eq!(attempt.path, "/hook?a=b&key=hidden-2&n=1.5&on=true");
    assert_eq!(attempt.header("authorization"), Some("Basic dXNlcjpoaWRkZW4tNA=="));
    assert_eq!(attempt.header("x-token"), Some("hidden-1"));
    let body: Value = serde_json::from_str(attempt.text()).unwrap();
    assert_eq!(body, json!({"n": 1, "static": ["hidden-3", 1]}));
}

/// The members with a default, and the member that shows each.
const WITH_DEFAULTS: [(&str, &str); 21] = [
    ("description", "description"),
    ("headers", "header_names"),
    ("query", "query_names"),
    ("body", "body_names"),
    ("secret", "signed"),
    ("method", "method"),
    ("body_format", "body_format"),
    ("authorization", "authorization"),
    ("tls", "tls"),
    ("retry", "retry"),
    ("retry_on_timeout", "retry_on_timeout"),
    ("timeout_ms", "timeout_ms"),
    ("accept", "accept"),
    ("retry_on", "retry_on"),
    ("honor_delivery_control", "honor_delivery_control"),
    ("ordering", "ordering"),
    ("rate_limit", "rate_limit"),
    ("after", "after"),
    ("breaker", "breaker"),
    ("disable_after_ms", "disable_after_ms"),
    ("retrying_max", "retrying_max"),
];

#[test]
fn a_change_keeps_other_members_and_null_resets_one() {
    let (place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    let all = json!({
        "events": ["ADD_TAG"], "numbers": ["919000000001"], "secret": "s", "method": "PUT",
        "description": "takes orders",
        "headers": {"x-a": "1"}, "query": {"q": "1"}, "body": {"b": 1}, "body_format": "FORM_DATA",
        "authorization": {"type": "BEARER", "payload": "t"}, "timeout_ms": 5, "accept": "200",
        "retry": {"kind": "list", "delays_ms": [7], "attempts": 3, "max_age_ms": 9_000},
        "retry_on_timeout": false, "retry_on": "all", "honor_delivery_control": false, "ordering": "strict",
        "rate_limit": {"events": 1, "per_ms": 2}, "disable_after_ms": "never", "retrying_max": 4,
        "breaker": {"failures": 3, "initial_ms": 1, "max_ms": 2},
    });
    let id = served.subscribe(ACME, &receiver.url("/hook"), all);
    let plain =
        served.subscribe(ACME, &receiver.url("/plain"), json!({"retry": null, "timeout_ms": null}));
    let bystander = read(&served, served.subscribe(BETA, &receiver.url("/beta"), json!({})), BETA);
    let default = read(&served, plain, ACME);
    let mut expected = read(&served, id, ACME);
    let step = |change: Value, expected: &Value| {
        let answer = patch(&served, id, ACME, &change);
        assert_eq!(answer.status, 200, "{change}: {answer:?}");
        assert_eq!(without_hints(answer.json()), *expected, "{change}");
        assert_eq!(read(&served, id, ACME), *expected, "{change}");
        assert_eq!(read(&served, bystander["id"].as_u64().unwrap(), BETA), bystander);
    };
    step(json!({}), &expected);
    for (field, value) in [
        ("name", json!("renamed")),
        ("url", json!(receiver.url("/new?x=1"))),
        ("events", json!("*")),
        ("events", json!(["REMOVE_TAG"])),
        ("numbers", json!("*")),
        ("timeout_ms", json!(6)),
        ("description", json!("\u{e4}".repeat(128))),
        ("ordering", json!("per_key")),
        ("method", json!("PATCH")),
        ("retry", json!({"kind": "linear", "step_ms": 1, "max_ms": 2, "max_age_ms": 86_400_000})),
    ] {
        expected[field] = value.clone();
        let mut change = json!({});
        change[field] = value;
        step(change, &expected);
    }
    expected["header_names"] = json!(["x-b"]);
    step(json!({"headers": {"x-b": "2"}}), &expected);
    for (field, shown) in WITH_DEFAULTS {
        expected[shown] = default[shown].clone();
        let mut change = json!({});
        change[field] = Value::Null;
        step(change, &expected);
    }
    served.kill();
    assert_eq!(read(&place.start(), id, ACME), expected);
}

#[test]
fn a_wrong_change_changes_nothing() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    let id = served.subscribe(ACME, &receiver.url("/hook"), json!({"name": "crm", "secret": "s"}));
    served.subscribe(ACME, &receiver.url("/other"), json!({"name": "other"}));
    let before = served.get("/subscriptions", ACME).json();
    for (field, value) in [
        ("name", json!("")),
        ("name", Value::Null),
        ("url", Value::Null),
        ("url", json!("ftp://hidden.example/")),
        ("events", Value::Null),
        ("events", json!([])),
        ("numbers", Value::Null),
        ("secret", json!("")),
        ("secret", json!("whsec_hidden!")),
        ("method", json!("TRACE")),
        ("method", json!(7)),
        ("headers", json!({"webhook-id": "hidden"})),
        ("query", json!({"": "hidden"})),
        ("body", json!("hidden")),
        ("body_format", json!("XML")),
        ("tls", json!({"client_key_pem": "hidden"})),
        ("authorization", json!({"type": "BEARER", "payload": "hidden\r\nx-a: 1"})),
        ("timeout_ms", json!(0)),
        ("after", json!(id)),
        ("description", json!("hidden".repeat(43))),
        ("colour", json!("hidden")),
        ("id", json!(7)),
        ("profile", json!("session")),
        ("state", json!("paused")),
    ] {
        // With valid members, which must not be applied either.
        let mut change = json!({"retrying_max": 77, "ordering": "strict"});
        change[field] = value;
        let answer = patch(&served, id, ACME, &change);
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(answer.json()["error"]["code"], "invalid", "{answer:?}");
        let named = answer.json()["error"]["field"].as_str().unwrap().to_owned();
        assert!(named.starts_with(field), "{answer:?}");
        assert!(field == "url" || !answer.body.contains("hidden"), "{answer:?}");
        if field == "state" {
            answer.assert_says(&["/pause", "/resume"]);
        }
    }
    let taken = json!({"name": "other", "ordering": "strict"});
    patch(&served, id, ACME, &taken).assert_refused(409, "name_taken", Some("name"));
    let foreign = json!({"numbers": ["919000000003"], "ordering": "strict"});
    patch(&served, id, ACME, &foreign).assert_refused(403, "forbidden", Some("numbers[0]"));
    let not_json =
        served.request("PATCH", &format!("/subscriptions/{id}"), &[("authorization", ACME)], b"{");
    not_json.assert_refused(400, "invalid", None);
    for (id, key) in [(id, BETA), (999, ACME)] {
        patch(&served, id, key, &json!({"ordering": "strict"})).assert_refused(
            404,
            "not_found",
            None,
        );
    }
    assert_eq!(served.get("/subscriptions", ACME).json(), before);
}

#[test]
fn an_old_secret_stays_valid_for_its_overlap() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    let id = served.subscribe(ACME, &receiver.url("/hook"), json!({"secret": "first"}));
    let bystander = served.subscribe(ACME, &receiver.url("/bystander"), json!({"secret": "other"}));
    let untouched = said(read(&served, bystander, ACME));
    let rotate = |id: u64, key: &str, body: Value| {
        served.post(&format!("/subscriptions/{id}/secret"), key, body.to_string())
    };
    let signatures = || {
        served.post("/events", ACME, line(1));
        let attempts = [receiver.next(), receiver.next()];
        let own = attempts.iter().find(|attempt| attempt.path == "/hook").unwrap();
        own.header("webhook-signature").unwrap().split(' ').count()
    };
    assert_eq!(signatures(), 1);
    let answer = rotate(id, ACME, json!({"secret": "second", "overlap_ms": 600_000}));
    assert_eq!((answer.status, answer.json()), (200, json!({"id": id, "secret": "second"})));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(signatures(), 2);
    let answer = rotate(id, ACME, json!({"overlap_ms": 0}));
    let fresh = answer.json()["secret"].as_str().unwrap().to_owned();
    assert!(fresh.starts_with("whsec_") && fresh.len() == 50, "{fresh}");
    assert_eq!(signatures(), 1);
    for shown in [served.get("/subscriptions", ACME).body, served.get("/stats", ACME).body] {
        assert!(!shown.contains(&fresh) && !shown.contains("second"), "{shown}");
    }
    for (body, field) in [
        (json!({}), "overlap_ms"),
        (json!({"overlap_ms": "hidden"}), "overlap_ms"),
        (json!({"overlap_ms": 31 * 86_400_000_u64}), "overlap_ms"),
        (json!({"overlap_ms": 0, "secret": "whsec_hidden!"}), "secret"),
        (json!({"overlap_ms": 0, "secret": ""}), "secret"),
        (json!({"overlap_ms": 0, "old": "hidden"}), "old"),
    ] {
        let answer = rotate(id, ACME, body);
        answer.assert_refused(400, "invalid", Some(field));
        assert!(!answer.body.contains("hidden"), "{answer:?}");
    }
    for (id, key) in [(id, BETA), (999, ACME)] {
        rotate(id, key, json!({"overlap_ms": 0})).assert_refused(404, "not_found", None);
    }
    assert_eq!(said(read(&served, bystander, ACME)), untouched);
}

#[test]
fn a_test_reaches_its_subscription_only() {
    let (_place, served) = HostProcess::fresh();
    let (receiver, failing) = (Receiver::answering(204), Receiver::answering(404));
    let id = served.subscribe(ACME, &receiver.url("/hook"), json!({"secret": "s"}));
    let dead = served.subscribe(ACME, &failing.url("/dead"), json!({}));
    let test = |id: u64, key: &str| served.post(&format!("/subscriptions/{id}/test"), key, "");
    let answer = test(id, ACME);
    assert_eq!(answer.status, 200, "{answer:?}");
    let came = answer.json();
    assert_members(&came, json!({"outcome": "delivered", "status": 204}));
    assert_eq!((&came["reason"], came["took_ms"].is_u64()), (&Value::Null, true));
    let attempt = receiver.next();
    assert_eq!(came["event_id"], attempt.id());
    assert_eq!(attempt.header("x-webhook-event"), Some("TEST"));
    assert!(attempt.header("webhook-signature").is_some());
    assert!(failing.arrived().is_empty());
    let came = test(dead, ACME).json();
    assert_members(&came, json!({"outcome": "failed", "status": 404}));
    assert_eq!(came["reason"], "status:404");
    for (id, key) in [(id, BETA), (999, ACME)] {
        test(id, key).assert_refused(404, "not_found", None);
    }
    assert_eq!((receiver.arrived().len(), failing.arrived().len()), (0, 1));
    let stats = served.stats();
    assert_members(&stats, json!({"attempts": 0, "dead": 0}));
}

/// A change that another one got ahead of is made again on what that one left.
#[test]
fn changes_made_at_once_are_all_kept() {
    let (_place, served) = HostProcess::fresh();
    let url = "https://crm.example/hook";
    let id = served.subscribe(ACME, url, json!({}));
    let bystander = served.subscribe(BETA, url, json!({}));
    let before = served.get(&format!("/subscriptions/{bystander}"), BETA).json();
    for round in 1..=5 {
        let changes = [
            ("description", json!(format!("round {round}"))),
            ("timeout_ms", json!(1_000 + round)),
            ("retrying_max", json!(100 + round)),
        ];
        std::thread::scope(|scope| {
            for (name, value) in &changes {
                let (served, change) = (&served, json!({*name: value}));
                scope.spawn(move || assert_eq!(patch(served, id, ACME, &change).status, 200));
            }
        });
        let now = served.get(&format!("/subscriptions/{id}"), ACME).json();
        for (name, value) in changes {
            assert_eq!(now[name], value, "{name} of round {round}");
        }
    }
    assert_eq!(served.get(&format!("/subscriptions/{bystander}"), BETA).json(), before);
}

#[test]
fn hanging_tests_block_no_other_request() {
    let (_place, served) = HostProcess::fresh();
    let hanging = Receiver::answering(crate::receiver::HANG);
    let id = served.subscribe(ACME, &hanging.url("/hook"), json!({"timeout_ms": 300_000}));
    let path = format!("/subscriptions/{id}/test");
    let headers = [("authorization", ACME)];
    let open = || crate::client::Pending::open(served.address, "POST", &path, &headers, 0);
    // An account may have half of the four that run at once.
    let pending: Vec<_> = (0..2).map(|_| open()).collect();
    for _ in &pending {
        assert_eq!(hanging.next().path, "/hook");
    }
    served.post(&path, ACME, "").assert_refused(429, "limit_reached", Some("tests_at_once"));
    let of_gateway = served.post("/webhooks/1/test", ACME, "");
    assert_eq!((of_gateway.status, &of_gateway.json()["code"]), (429, &json!(429)));
    served.get("/subscriptions", ACME).with_status(200);
    assert_eq!(served.get("/stats", ACME).json()["attempts"], 0);
}
