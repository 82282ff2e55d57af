//! The session gateway's API: a client registers, receives and reads the log.

use serde_json::{Value, json};

use crate::client::assert_members;
use crate::host_process::{ACME, BETA, HostProcess, line};
use crate::receiver::Receiver;

#[test]
fn a_session_webhook_is_delivered_logged_and_listed() {
    let (place, served) = HostProcess::fresh();
    let (receiver, other) = (Receiver::answering(200), Receiver::answering(200));
    let body = json!({
        "url": receiver.url("/hook"), "secret": "s3cret", "events": ["message.received"],
    });
    let answer = served.post("/webhooks", ACME, body.to_string()).with_status(201);
    let created = answer.json();
    assert_members(&created, json!({"status": true, "code": 201}));
    let id = created["data"]["id"].as_u64().unwrap();
    let bystander = served.subscribe(BETA, &other.url("/beta"), json!({}));
    let accepted = served.post("/events", ACME, line(1)).json();
    assert_eq!(accepted["owed"], 1);
    let attempt = receiver.next();
    assert_eq!(attempt.header("x-webhook-event"), Some("message.received"));
    assert!(attempt.header("x-webhook-signature").unwrap().starts_with("sha256="));
    let envelope: Value = serde_json::from_str(attempt.text()).unwrap();
    assert_eq!(envelope["event_type"], "message.received");
    assert_eq!(envelope["data"], json!({"n": 1}));
    served.until(|stats| stats["delivered"] == 1);
    let logs = served.get(&format!("/webhooks/{id}/logs"), ACME).json();
    let [log] = &logs["data"].as_array().unwrap()[..] else { panic!("{logs}") };
    assert_eq!((&log["event_id"], &log["status"]), (&accepted["id"], &json!("success")));
    assert_members(log, json!({"event_type": "message.received", "status_code": 200}));

    let tested = served.post(&format!("/webhooks/{id}/test"), ACME, "").json();
    assert_eq!((&tested["code"], &tested["data"]["status"]), (&json!(200), &json!("success")));
    assert_eq!(receiver.next().header("x-webhook-event"), Some("test.ping"));

    let item = served.get(&format!("/subscriptions/{id}"), ACME).json();
    assert_members(&item, json!({"profile": "session", "url": receiver.url("/hook")}));
    assert_eq!(served.items("/subscriptions", ACME)[0]["profile"], "session");
    served.get(&format!("/webhooks/{id}"), BETA).with_status(404);
    let beta = served.get("/webhooks", BETA).json();
    assert_members(&beta, json!({"code": 200, "data": []}));

    // An orderly end, so that no delivery is repeated.
    assert!(served.signal("TERM").success());
    let served = place.start();
    let shown = served.get(&format!("/webhooks/{id}"), ACME).json();
    assert_eq!(shown["data"], created["data"]);
    let logs = served.get(&format!("/webhooks/{id}/logs"), ACME).json();
    assert_eq!(logs["data"], json!([]), "remembered in memory alone");
    assert_eq!(served.delete(&format!("/webhooks/{id}"), ACME).json()["code"], 200);
    served.get(&format!("/webhooks/{id}"), ACME).with_status(404);
    served.get(&format!("/subscriptions/{bystander}"), BETA).with_status(200);
    assert!(other.arrived().is_empty());
}

#[test]
fn an_inactive_webhook_waits_and_then_goes_on() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    let register = |path: &str| {
        let body = json!({"url": receiver.url(path)});
        served.post("/webhooks", ACME, body.to_string()).json()["data"]["id"].as_u64().unwrap()
    };
    let (id, _bystander) = (register("/hook"), register("/bystander"));
    let switch = |active: bool| {
        let answer = served.patch(&format!("/webhooks/{id}"), ACME, &json!({"active": active}));
        assert_eq!(answer.json()["data"]["active"], active, "{answer:?}");
    };
    switch(false);
    assert_eq!(served.post("/events", ACME, line(1)).json()["owed"], 2);
    assert_eq!(receiver.next().path, "/bystander");
    served.until(|stats| stats["delivered"] == 1);
    assert!(receiver.arrived().is_empty());
    switch(true);
    assert_eq!(receiver.next().path, "/hook");
}
