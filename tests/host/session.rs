//! The session gateway at the real program: a client written for it registers, receives and looks.

use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::served::{ACME, BETA, Served, line};

#[test]
fn what_is_registered_at_webhooks_is_delivered_logged_and_listed_with_its_profile() {
    let (place, served) = Served::fresh();
    let (receiver, other) = (Receiver::answering(200), Receiver::answering(200));
    let body = json!({
        "url": receiver.url("/hook"), "secret": "s3cret", "events": ["message.received"],
    });
    let answer = served.post("/webhooks", ACME, body.to_string());
    assert_eq!(answer.status, 201, "{answer:?}");
    let created = answer.json();
    assert_eq!((&created["status"], &created["code"]), (&json!(true), &json!(201)));
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
    assert_eq!(
        (&log["event_type"], &log["status_code"]),
        (&json!("message.received"), &json!(200))
    );

    let tested = served.post(&format!("/webhooks/{id}/test"), ACME, "").json();
    assert_eq!((&tested["code"], &tested["data"]["status"]), (&json!(200), &json!("success")));
    assert_eq!(receiver.next().header("x-webhook-event"), Some("test.ping"));

    let item = served.get(&format!("/subscriptions/{id}"), ACME).json();
    assert_eq!(
        (&item["profile"], &item["url"]),
        (&json!("session"), &json!(receiver.url("/hook")))
    );
    assert_eq!(served.get("/subscriptions", ACME).json()["items"][0]["profile"], "session");
    assert_eq!(served.get(&format!("/webhooks/{id}"), BETA).status, 404);
    let beta = served.get("/webhooks", BETA).json();
    assert_eq!((&beta["code"], &beta["data"]), (&json!(200), &json!([])));

    // In order, so that what was delivered is not delivered again.
    assert!(served.signal("TERM").success());
    let served = place.start();
    let shown = served.get(&format!("/webhooks/{id}"), ACME).json();
    assert_eq!(shown["data"], created["data"]);
    let logs = served.get(&format!("/webhooks/{id}/logs"), ACME).json();
    assert_eq!(logs["data"], json!([]), "remembered in memory alone");
    assert_eq!(served.delete(&format!("/webhooks/{id}"), ACME).json()["code"], 200);
    assert_eq!(served.get(&format!("/webhooks/{id}"), ACME).status, 404);
    assert_eq!(served.get(&format!("/subscriptions/{bystander}"), BETA).status, 200);
    assert!(other.arrived().is_empty());
}

#[test]
fn a_webhook_that_is_switched_off_waits_and_goes_on_where_it_was() {
    let (_place, served) = Served::fresh();
    let receiver = Receiver::answering(200);
    let register = |path: &str| {
        let body = json!({"url": receiver.url(path)});
        served.post("/webhooks", ACME, body.to_string()).json()["data"]["id"].as_u64().unwrap()
    };
    let (id, _bystander) = (register("/hook"), register("/bystander"));
    let switch = |active: bool| {
        let body = json!({"active": active}).to_string();
        let path = format!("/webhooks/{id}");
        let answer = served.request("PATCH", &path, &[("authorization", ACME)], body.as_bytes());
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
