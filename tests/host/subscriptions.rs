//! Routes, and the life of a subscription.

use serde_json::json;

use crate::client::assert_members;
use crate::host_process::{ACME, BETA, HostProcess};
use crate::receiver::Receiver;

#[test]
fn unknown_routes_and_methods_have_the_error_shape() {
    let (_place, served) = HostProcess::fresh();
    served.get("/nowhere", ACME).assert_refused(404, "not_found", None);
    served.post("/subscriptions/1/nap", ACME, "{}").assert_refused(404, "not_found", None);
    let answer = served.get("/purge", ACME);
    answer.assert_refused(405, "method_not_allowed", None);
    assert_eq!(answer.header("allow"), Some("POST"));
    let answer = served.request("PUT", "/subscriptions/1", &[("authorization", ACME)], b"{}");
    answer.assert_refused(405, "method_not_allowed", None);
}

#[test]
fn a_subscription_is_visible_to_its_account_only() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    let url = receiver.url("/hook?token=1");
    let bystander = served.subscribe(BETA, &receiver.url("/beta"), json!({}));
    let body = json!({
        "name": "crm", "url": url, "events": ["Message Received", "order.placed"],
        "numbers": ["+91 90000 00001"], "secret": "whsec_aGlkZGVuLXNlY3JldC1vZi10aGUtdGVzdA==",
        "headers": {"x-token": "hidden-value"}, "timeout_ms": 2_000, "accept": "200",
        "retry": {"kind": "linear", "step_ms": 50, "max_ms": 200, "attempts": 7},
    });
    let answer = served.post("/subscriptions", ACME, body.to_string()).with_status(201);
    let item = answer.json();
    let id = item["id"].as_u64().unwrap();
    let path = format!("/subscriptions/{id}");
    assert_eq!(answer.header("location"), Some(path.as_str()));
    assert_members(&item, json!({"name": "crm", "url": url}));
    assert_eq!(item["events"], json!(["MESSAGE_RECEIVED", "order.placed"]));
    assert_eq!(item["numbers"], json!(["919000000001"]));
    assert_members(
        &item,
        json!({"profile": "wabahook", "state": "active", "timeout_ms": 2_000, "accept": "200"}),
    );
    assert_members(&item["retry"], json!({"kind": "linear", "attempts": 7}));
    assert_members(&item, json!({"header_names": ["x-token"], "signed": true}));
    assert!(item["created_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{item}");
    assert_eq!(item["health"]["owed"], 0);

    let listed = served.get("/subscriptions", ACME);
    let read = served.get(&path, ACME);
    assert_eq!(read.json(), item);
    // A list leaves out what is worth knowing about the types.
    let mut shown = item.clone();
    assert!(shown.as_object_mut().unwrap().remove("hints").is_some(), "{item}");
    assert_eq!(listed.json()["items"], json!([shown]));
    for shown in [&answer.body, &listed.body, &read.body, &served.get("/stats", ACME).body] {
        assert!(!shown.contains("hidden-value") && !shown.contains("aGlkZGVu"), "{shown}");
    }

    let again = served.post("/subscriptions", ACME, body.to_string());
    again.assert_refused(409, "name_taken", Some("name"));
    served.get(&path, BETA).assert_refused(404, "not_found", None);
    served.delete(&path, BETA).assert_refused(404, "not_found", None);
    assert_eq!(served.items("/subscriptions", BETA)[0]["id"], bystander);
    assert!(!served.get("/stats", BETA).body.contains("crm"));
    assert_eq!(served.get(&path, ACME).json(), item);

    served.delete(&path, ACME).with_status(204);
    served.get(&path, ACME).assert_refused(404, "not_found", None);
    served.delete(&path, ACME).assert_refused(404, "not_found", None);
    assert!(served.items("/subscriptions", ACME).is_empty());
    served.get(&format!("/subscriptions/{bystander}"), BETA).with_status(200);
}

#[test]
fn a_subscription_keeps_its_id_and_secret_over_a_restart() {
    let (place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    let id = served.subscribe(ACME, &receiver.url("/hook"), json!({"secret": "s3cret"}));
    let before = served.get("/subscriptions", ACME).json();
    assert!(served.signal("TERM").success());
    let served = place.start();
    assert_eq!(served.get("/subscriptions", ACME).json(), before);
    assert_eq!(before["items"][0]["id"], id);
    let event = r#"{"type":"T","number":"919000000001","payload":{}}"#;
    served.post("/events", ACME, event).with_status(202);
    assert!(receiver.next().header("x-hub-signature-256").is_some());
}

#[test]
fn ids_that_are_none_are_not_found() {
    let (_place, served) = HostProcess::fresh();
    for id in ["0", "999", "crm", "-1", "4294967296", "1.0", "%00"] {
        served.get(&format!("/subscriptions/{id}"), ACME).assert_refused(404, "not_found", None);
    }
}

#[test]
fn wrong_subscriptions_are_refused_by_field() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/bystander"), json!({}));
    let good = json!({"name": "a", "url": receiver.url("/a"), "events": "*", "numbers": "*"});
    let with = |name: &str, value: serde_json::Value| {
        let mut body = good.clone();
        body[name] = value;
        served.post("/subscriptions", ACME, body.to_string())
    };
    for (field, value, named) in [
        ("name", json!(""), "name"),
        ("name", json!(7), "name"),
        ("name", json!("n".repeat(3_000)), "name"),
        ("url", json!("crm.example"), "url"),
        ("url", json!("ftp://crm.example/"), "url"),
        ("url", json!("http://u:hidden@127.0.0.1/"), "url"),
        ("events", json!([]), "events"),
        ("events", json!("MESSAGE_RECEIVED"), "events"),
        ("events", json!(["A\nB"]), "events[0]"),
        ("numbers", json!([]), "numbers"),
        ("numbers", json!(["ninety"]), "numbers[0]"),
        ("numbers", json!([919_000_000_001_u64]), "numbers[0]"),
        ("secret", json!("whsec_!"), "secret"),
        ("headers", json!({"webhook-id": "1"}), "headers"),
        ("headers", json!({"x-a": "hidden\r\nx-b: 1"}), "headers.x-a"),
        ("timeout_ms", json!(0), "timeout_ms"),
        ("retry", json!({"kind": "list", "delays_ms": []}), "retry.delays_ms"),
        ("retry", json!({"kind": "linear", "step_ms": 0, "max_ms": 1}), "retry.step_ms"),
        ("rate_limit", json!({"events": 0, "per_ms": 1}), "rate_limit.events"),
        ("after", json!(99), "after"),
        ("breaker", json!({"failures": 0}), "breaker.failures"),
        ("disable_after_ms", json!(0), "disable_after_ms"),
        ("retrying_max", json!(0), "retrying_max"),
        ("method", json!("TRACE"), "method"),
        ("query", json!({"a": "v".repeat(5_000)}), "query"),
        ("authorization", json!({"type": "BASIC", "payload": ""}), "authorization.payload"),
        ("body_format", json!("XML"), "body_format"),
        ("colour", json!("red"), "colour"),
    ] {
        let answer = with(field, value);
        answer.assert_refused(400, "invalid", Some(named));
        assert!(!answer.body.contains("hidden"), "{answer:?}");
    }
    let refused = with("numbers", json!(["919000000003"]));
    refused.assert_refused(403, "forbidden", Some("numbers[0]"));
    served.post("/subscriptions", ACME, "no json").assert_refused(400, "invalid", None);
    served.post("/subscriptions", ACME, "[]").assert_refused(400, "invalid", None);
    served.post("/subscriptions", ACME, b"\xff{}").assert_refused(400, "invalid", None);
    let large = format!("{{\"name\":\"{}\"}}", "n".repeat(1024 * 1024));
    served.post("/subscriptions", ACME, large).assert_refused(413, "too_large", Some("body"));
    assert_eq!(served.items("/subscriptions", ACME).len(), 1);
    with("name", json!("a")).with_status(201);
}

#[test]
fn targets_outside_the_network_settings_are_refused() {
    let place = crate::host_process::HostDirectory::new(
        &crate::host_process::CONFIGURATION.replace("true", "false"),
    );
    let served = place.start();
    let body = json!({"name": "a", "url": "http://127.0.0.1:1/", "events": "*", "numbers": "*"});
    let answer = served.post("/subscriptions", ACME, body.to_string());
    answer.assert_refused(400, "invalid", Some("url"));
    assert!(served.items("/subscriptions", ACME).is_empty());
}
