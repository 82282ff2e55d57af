//! `find`, `stats`, `deliveries list`, `webhooks edit` and `secret rotate`; options of the host stand anywhere.

use serde_json::json;

use crate::client::assert_members;
use crate::host_process::{ACME, BETA, HostProcess, line};
use crate::program::ask;
use crate::receiver::Receiver;

#[test]
fn a_message_is_found_by_its_id() {
    let (_place, served) = HostProcess::fresh();
    let (good, dead) = (Receiver::answering(200), Receiver::answering(404));
    served.subscribe(ACME, &good.url("/crm"), json!({"name": "crm"}));
    served.subscribe(ACME, &dead.url("/erp"), json!({"name": "erp"}));
    let paused = served.subscribe(ACME, &good.url("/paused"), json!({"name": "paused"}));
    served.post(&format!("/subscriptions/{paused}/pause"), ACME, "");
    let event = |id: &str| {
        let payload = json!({"id": id});
        json!({"type": "MESSAGE_RECEIVED", "number": "919000000001", "key": "919812300001", "payload": payload})
    };
    for id in ["wamid.CLI0001", "wamid.CLI0002"] {
        served.post("/events", ACME, event(id).to_string()).with_status(202);
    }
    served.until(|stats| stats["delivered"] == 2 && stats["dead"] == 2);
    let shown = ask(&served, &["find", "wamid.CLI0001", "--payload"]).done();
    shown.says(&[
        "MESSAGE_RECEIVED: dead",
        "crm: delivered",
        "erp: dead, status:404",
        "paused: blocked",
        "CLI0001",
    ]);
    let both = ask(&served, &["--json", "find", "--contact", "919812300001"]).done();
    assert_eq!(both.json()["items"].as_array().unwrap().len(), 2);
    let listed = ask(&served, &["find", "--contact", "919812300001"]).done();
    listed.says(&["1 of 3 delivered, 1 dead, 1 blocked", "wabahook find EVENT"]);
    let missed = ask(&served, &["find", "wamid.NOWHERE"]).failed(5, &["no event matches"]);
    assert!(!missed.err.contains("user_id"), "{missed:?}");
    ask(&served, &["find", "--contact", "nobody"]).failed(5, &["no event matches", "user_id"]);
    ask(&served, &["find", "evt_00000000000000000000000000000000"])
        .failed(5, &["there is no event"]);
    ask(&served, &["stats"]).done().says(&["delivered", "erp", "failing"]);
    let blocked =
        ask(&served, &["deliveries", "list", "--state", "blocked", "--webhook", "paused"]).done();
    blocked.says(&["NEXT ATTEMPT", "blocked", "MESSAGE_RECEIVED"]);
    ask(&served, &["dead", "replay", "--all", "--dry-run"])
        .done()
        .says(&["would be replayed: 2 dead letters"]);
}

#[test]
fn a_webhook_is_edited_and_its_secret_rotated() {
    let (_place, served) = HostProcess::fresh();
    let id = served.subscribe(ACME, "https://crm.example/hook", json!({"name": "crm"}));
    let bystander = served.subscribe(BETA, "https://crm.example/hook", json!({"name": "crm"}));
    let edited = [
        "webhooks",
        "edit",
        "crm",
        "--events",
        "ADD_TAG",
        "--target",
        "https://crm.example/new",
        "--name",
        "new crm",
    ];
    ask(&served, &edited).done().says(&["webhook", "(new crm) is changed"]);
    ask(&served, &["webhooks", "edit", "new crm"]).failed(2, &["--name", "--settings"]);
    let now = served.get(&format!("/subscriptions/{id}"), ACME).json();
    assert_members(&now, json!({"events": ["ADD_TAG"], "url": "https://crm.example/new"}));
    ask(&served, &["secret", "rotate", "new crm", "--overlap-s", "60"]).done().says(&["whsec_"]);
    assert_eq!(served.get(&format!("/subscriptions/{id}"), ACME).json()["signed"], true);
    let other = served.get(&format!("/subscriptions/{bystander}"), BETA).json();
    assert_members(&other, json!({"name": "crm", "signed": false}));
    ask(&served, &["webhooks", "list", "new", "--json"]).done().says(&["\"items\":[{"]);
    ask(&served, &["webhooks", "list", "--state", "disabled"]).done().says(&["no webhook matches"]);
}

#[test]
fn a_webhook_is_shown_and_many_are_paused() {
    let (_place, served) = HostProcess::fresh();
    let (dead, good) = (Receiver::answering(404), Receiver::answering(200));
    served.subscribe(ACME, &dead.url("/shops/1"), json!({"name": "shop 1"}));
    served.subscribe(ACME, &good.url("/shops/2"), json!({"name": "shop 2"}));
    let other = served.subscribe(BETA, &good.url("/shops/3"), json!({"name": "shop 3"}));
    served.post("/events", ACME, line(1));
    served.until(|stats| stats["dead"] == 1 && stats["delivered"] == 1);
    ask(&served, &["webhooks", "show", "shop 1"]).done().says(&[
        "webhook 1 (shop 1): active, failing",
        "last failed with status:404; 1 failure in a row",
        "ordering",
        "RESPONSE",
    ]);
    ask(&served, &["webhooks", "show", "shop 2"])
        .done()
        .says(&["active, healthy; 0 owed, 1 delivered"]);
    ask(&served, &["stats"]).done().says(&[
        "retried              0",
        "dead letters         1",
        "webhooks that need attention",
    ]);
    let pause = |more: &[&str]| {
        ask(&served, &[&["webhooks", "pause", "--matching", "/shops/"], more].concat()).done()
    };
    pause(&["--dry-run"]).says(&["would be paused: 2 webhooks\n"]);
    assert_eq!(served.get("/subscriptions/1", ACME).json()["state"], "active");
    pause(&[]).says(&["paused: 2 webhooks\n"]);
    let resumed = ask(&served, &["webhooks", "resume", "--health", "failing", "--json"]).done();
    assert_eq!(resumed.json(), json!({"changed": 1}));
    let state = |id: u64, key: &str| {
        served.get(&format!("/subscriptions/{id}"), key).json()["state"].clone()
    };
    assert_eq!((state(1, ACME), state(2, ACME)), (json!("active"), json!("paused")));
    assert_eq!(state(other, BETA), "active", "another account's is untouched");
    ask(&served, &["webhooks", "pause"]).failed(2, &["ID|NAME"]);
}
