//! `webhooks` lists, adds, removes, pauses and resumes the account's own, by id or by name.

use std::fs;

use serde_json::{Value, json};

use crate::client::assert_members;
use crate::host_process::{ACME, BETA, HostProcess, line};
use crate::program::{Ran, against, ask, run};
use crate::receiver::Receiver;

fn listed(served: &HostProcess) -> Vec<Value> {
    let ran = ask(served, &["webhooks", "list", "--json"]).done();
    ran.json()["items"].as_array().unwrap().clone()
}

#[test]
fn a_webhook_is_added_listed_paused_resumed_and_removed() {
    let (_place, served) = HostProcess::fresh();
    let receiver = Receiver::answering(200);
    served.subscribe(BETA, &receiver.url("/beta"), json!({}));
    ask(&served, &["webhooks", "list"]).done().says(&["no webhooks yet"]);
    let url = receiver.url("/crm");
    let add = ["webhooks", "add", &url, "--name", "crm", "--events", "MESSAGE_RECEIVED,ADD_TAG"];
    let mut command = against(&served, &add);
    command.args(["--secret-env", "HOOK_SECRET"]).env("HOOK_SECRET", "hidden-secret");
    let ran = run(&mut command, "").done().says(&[
        "webhook 2 (crm) is registered",
        "hint: ADD_TAG: no callback of Meta becomes this type; it must be published",
        "hint: secret: so short a text can be guessed; 24 bytes or more are advised",
    ]);
    assert!(!ran.out.contains("hidden"));
    ask(&served, &add).failed(1, &["crm"]);
    let items = listed(&served);
    assert_eq!(items.len(), 1, "{items:?}");
    assert_eq!(items[0]["events"], json!(["ADD_TAG", "MESSAGE_RECEIVED"]));
    assert_members(&items[0], json!({"numbers": "*", "signed": true}));

    ask(&served, &["webhooks", "pause", "crm"]).done().says(&["webhook 2 (crm) is paused"]);
    served.post("/events", ACME, line(1));
    ask(&served, &["webhooks", "list"]).done().says(&["ID", "crm", "paused", &url]);
    ask(&served, &["webhooks", "resume", "2"]).done();
    assert_eq!(receiver.next().path, "/crm");
    served.until(|stats| stats["owed"] == 0);

    ask(&served, &["webhooks", "remove", "crm"]).failed(2, &["--yes", "webhook 2 (crm)"]);
    assert_eq!(listed(&served).len(), 1);
    let ran = ask(&served, &["webhooks", "remove", "crm", "--yes", "--json"]).done();
    assert_eq!(ran.json(), json!({"removed": 2}));
    assert_eq!(listed(&served).len(), 0);
    served.get("/subscriptions/1", BETA).with_status(200);
}

#[test]
fn a_test_event_reports_the_response() {
    let (_place, served) = HostProcess::fresh();
    let (good, bad) = (Receiver::answering(200), Receiver::answering_with(404, "no such\nid"));
    served.subscribe(ACME, &good.url("/good"), json!({"name": "good"}));
    served.subscribe(ACME, &bad.url("/bad"), json!({"name": "bad"}));
    ask(&served, &["webhooks", "test", "good"])
        .done()
        .says(&["webhook 1 (good) accepted a test event"]);
    ask(&served, &["webhooks", "test", "bad"])
        .failed(1, &["webhook 2 (bad)", "status:404", "no such?id"]);
    let ran = ask(&served, &["webhooks", "test", "good", "--json"]).done();
    assert_eq!(ran.json()["outcome"], "delivered");
    assert_eq!((good.arrived().len(), bad.arrived().len()), (2, 1));
    assert_eq!(served.stats()["accepted"], 0);
}

#[test]
fn a_disabled_webhook_says_why_after_a_restart() {
    let (place, served) = HostProcess::fresh();
    let (gone, good) = (Receiver::answering(410), Receiver::answering(200));
    served.subscribe(ACME, &gone.url("/gone"), json!({"name": "gone"}));
    served.subscribe(ACME, &good.url("/good"), json!({"name": "good"}));
    served.post("/events", ACME, line(1)).with_status(202);
    served.until(|stats| stats["delivered"] == 1 && stats["dead"] == 1);
    served.kill();
    let served = place.start();
    let shown = ask(&served, &["webhooks", "show", "gone"]).done();
    let shown = shown.says(&["webhook 1 (gone): disabled (status:410); "]);
    assert!(!shown.out.contains("healthy"), "{shown:?}");
    ask(&served, &["webhooks", "show", "good"]).done().says(&["active, healthy"]);
}

#[test]
fn settings_come_from_a_file_and_are_checked() {
    let (place, served) = HostProcess::fresh();
    let file = place.path("settings.json");
    let add = |settings: &str| -> Ran {
        fs::write(&file, settings).unwrap();
        let path = file.to_str().unwrap();
        ask(&served, &["webhooks", "add", "https://crm.example/hook", "--settings", path, "--json"])
    };
    let ran = add("[]");
    assert_eq!(ran.code, 2);
    ran.says(&["\"code\":\"usage\"", "found an array; expected an object"]);
    let ran = add("{\"ordering\":\"sideways\"}");
    assert_eq!(ran.code, 2);
    ran.says(&["\"code\":\"usage\"", "ordering: found \\\"sideways\\\""]);
    let ran = add("{\"timeout_ms\":0}");
    assert_eq!(ran.code, 2);
    ran.says(&["\"code\":\"usage\"", "timeout_ms"]);
    let ran = add("{\"ordering\":\"per_key\"}").done();
    let added = ran.json();
    assert_members(&added, json!({"ordering": "per_key", "name": "https://crm.example/hook"}));
    assert_eq!(listed(&served).len(), 1);
}

#[test]
fn names_are_printable_and_other_accounts_hidden() {
    let (_place, served) = HostProcess::fresh();
    let url = "https://crm.example/hook";
    served.subscribe(ACME, url, json!({"name": "crm\u{202e}\u{200f}gnp"}));
    served.subscribe(BETA, url, json!({"name": "theirs"}));
    let ran = ask(&served, &["webhooks", "list"]).done().says(&["crm??gnp"]);
    assert!(!ran.out.contains('\u{202e}') && !ran.out.contains("theirs"));
    for action in ["pause", "resume", "test"] {
        let ran = ask(&served, &["webhooks", action, "theirs"]);
        ran.failed(5, &["no webhook has the id or name", "crm"]);
    }
    let stats = served.get("/stats", BETA).json();
    assert_eq!(stats["subscriptions"][0]["state"], "active");
    (0..10).for_each(|n| _ = served.subscribe(ACME, url, json!({"name": format!("crm {n}")})));
    ask(&served, &["webhooks", "test", "theirs"]).failed(5, &["crm 8 and others"]);
}

#[test]
fn a_match_says_which_check_decides() {
    let (place, served) = HostProcess::fresh();
    let condition = json!({"pointer": "/n", "gt": 1});
    let more = json!({"name": "crm", "events": ["MESSAGE_RECEIVED"], "condition": condition});
    served.subscribe(ACME, "https://crm.example/hook", more);
    let file = place.path("payload.json");
    let ask_with = |payload: &str, kind: &[&str]| {
        fs::write(&file, payload).unwrap();
        let path = file.to_str().unwrap();
        ask(&served, &[&["webhooks", "match", "crm", path], kind].concat())
    };
    let typed = ["--type", "MESSAGE_RECEIVED", "--number", "919000000001"];
    ask_with("{\"n\": 2}", &typed).done().says(&["webhook 1 (crm): the event matches"]);
    ask_with("{\"n\": 1}", &typed).failed(1, &["webhook 1 (crm): condition.gt does not hold"]);
    let misspelt = ["--type", "MESSAGE_RECIEVED", "--number", "919000000001"];
    ask_with("{\"n\": 2}", &misspelt)
        .failed(1, &["the filter does not have the type", "did you mean MESSAGE_RECEIVED?"]);
    let whole = json!({"type": "MESSAGE_RECEIVED", "number": "919000000001", "payload": {"n": 2}});
    let ran = ask_with(&whole.to_string(), &["--json"]).done();
    assert_eq!(ran.json()["matches"], true);
    assert_eq!(ran.json()["checks"]["condition"], true);
    ask_with("{", &typed).failed(2, &["the payload is not JSON"]);
    assert_eq!(served.stats()["accepted"], 0, "nothing is published");
}

#[test]
fn an_edit_decides_what_a_gateways_webhook_receives() {
    let (_place, served) = HostProcess::fresh();
    for name in ["crm", "other"] {
        let webhook = json!({"method": "POST", "url": "https://crm.example/hook", "name": name,
            "webhookEvents": ["MESSAGE_RECEIVED"], "wabaNumbers": ["919000000001"]});
        served.post("/v2/webhook/register", ACME, webhook.to_string()).with_status(201);
    }
    ask(&served, &["webhooks", "edit", "crm", "--payload", "meta"]).done().says(&["is changed"]);
    let payloads: Vec<_> = listed(&served).iter().map(|one| one["payload"].clone()).collect();
    assert_eq!(payloads, ["meta", "gateway"]);
    ask(&served, &["webhooks", "edit", "crm", "--payload", "gateway"]).done();
    assert_eq!(listed(&served)[0]["payload"], "gateway");
    ask(&served, &["webhooks", "edit", "crm", "--payload", "mine"])
        .failed(2, &["expected one of gateway, meta"]);
}
