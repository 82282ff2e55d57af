//! Conditions over HTTP, the dry run of a match, and what answers say of event types.

use serde_json::{Value, json};

use crate::host_process::{ACME, BETA, HostProcess};
use crate::receiver::Receiver;

const NUMBER: &str = "919000000001";

fn event(kind: &str, payload: &Value) -> String {
    json!({"type": kind, "number": NUMBER, "payload": payload}).to_string()
}

#[test]
fn a_condition_decides_what_is_delivered() {
    let (place, served) = HostProcess::fresh();
    let (receiver, other) = (Receiver::answering(200), Receiver::answering(200));
    served.subscribe(ACME, &other.url("/bystander"), json!({}));
    let condition = json!({"and": [{"pointer": "/type", "in": ["text", "button"]},
        {"not": {"pointer": "/text/body", "prefix": "STOP"}}]});
    let id = served.subscribe(ACME, &receiver.url("/hook"), json!({"condition": condition}));
    let path = format!("/subscriptions/{id}");
    assert_eq!(served.get(&path, ACME).json()["condition"], condition);
    let publish = |served: &HostProcess, payload: Value| {
        served.post("/events", ACME, event("MESSAGE_RECEIVED", &payload)).json()["owed"].clone()
    };
    assert_eq!(publish(&served, json!({"type": "text", "text": {"body": "hi"}})), 2);
    assert_eq!(publish(&served, json!({"type": "text", "text": {"body": "STOP"}})), 1);
    assert!(served.signal("TERM").success());

    let served = place.start();
    assert_eq!(served.get(&path, ACME).json()["condition"], condition, "after a restart");
    assert_eq!(publish(&served, json!({"type": "image"})), 1);
    let patched = |body: Value| served.patch(&path, ACME, &body).json();
    assert_eq!(patched(json!({"description": "all texts"}))["condition"], condition);
    assert_eq!(patched(json!({"condition": null})).get("condition"), None);
    assert_eq!(publish(&served, json!({"type": "image"})), 2);
    assert_eq!(receiver.next().text(), r#"{"text":{"body":"hi"},"type":"text"}"#);
    assert_eq!(receiver.next().text(), r#"{"type":"image"}"#);
    assert_eq!(served.all_arrived(&other).len(), 4);
}

#[test]
fn a_refused_condition_is_named_by_place_and_byte() {
    let (_place, served) = HostProcess::fresh();
    let register = |condition: &str| {
        let rest = r#""name":"crm","url":"https://crm.example/","events":"*","numbers":"*""#;
        served.post("/subscriptions", ACME, format!("{{{rest},\"condition\":{condition}}}"))
    };
    for (condition, field, says) in [
        (r#"{"and":[{"pointer":"/a","gt":"5"}]}"#, "condition.and[0].gt", "a string at byte 29"),
        (r#"{"pointer":"a","eq":1}"#, "condition.pointer", "a JSON pointer"),
        (r#""text""#, "condition", "a string at byte 0"),
        (r#"{"pointer":"/a","like":"x"}"#, "condition.like", "one of exists, eq, in"),
    ] {
        let answer = register(condition);
        answer.assert_refused(400, "invalid", Some(field));
        answer.assert_says(&[says]);
    }
    register("null").with_status(201);
}

#[test]
fn a_dry_run_says_which_check_decides() {
    let (_place, served) = HostProcess::fresh();
    let condition =
        json!({"and": [{"pointer": "/type", "eq": "text"}, {"pointer": "/n", "gt": 1}]});
    let more = json!({"events": ["MESSAGE_RECEIVED"], "numbers": [NUMBER], "condition": condition});
    let id = served.subscribe(ACME, "https://crm.example/hook", more);
    let path = format!("/subscriptions/{id}/match");
    let matched = |kind: &str, payload: Value| {
        let answer = served.post(&path, ACME, event(kind, &payload)).with_status(200);
        answer.json()
    };
    let checks = |kind: bool, condition: bool| json!({"active": true, "type": kind, "number": true, "precedence": true, "condition": condition});
    let good = json!({"type": "text", "n": 2});
    assert_eq!(
        matched("Message Received", good.clone()),
        json!({"matches": true, "checks": checks(true, true), "message": "the event matches"})
    );
    assert_eq!(
        matched("MESSAGE_RECEIVED", json!({"type": "text", "n": 1})),
        json!({"matches": false, "checks": checks(true, false), "failing_part": "condition.and[1].gt",
            "message": "condition.and[1].gt does not hold for the payload"})
    );
    assert_eq!(
        matched("MESSAGE_RECIEVED", good.clone()),
        json!({"matches": false, "checks": checks(false, true),
            "message": "the filter does not have the type of the event",
            "hints": ["MESSAGE_RECIEVED: did you mean MESSAGE_RECEIVED?"]})
    );
    let body = event("MESSAGE_RECEIVED", &good);
    served.post(&path, BETA, &body).assert_refused(404, "not_found", None);
    served.post(&path, ACME, "{}").assert_refused(400, "invalid", Some("type"));
    let foreign = json!({"type": "T", "number": "919000000003", "payload": {}}).to_string();
    served.post(&path, ACME, foreign).assert_refused(403, "forbidden", Some("number"));
    assert_eq!(served.stats()["accepted"], 0, "nothing is published");
}

#[test]
fn answers_say_what_is_worth_knowing_about_types() {
    let (_place, served) = HostProcess::fresh();
    let published = |kind: &str| served.post("/events", ACME, event(kind, &json!({}))).json();
    let meant = json!(["MESSAGE_RECIEVED: did you mean MESSAGE_RECEIVED?"]);
    assert_eq!(published("MESSAGE_RECIEVED")["hints"], meant);
    assert_eq!(published("ADD_TAG").get("hints"), None);
    let lines = ["ADD_TAG", "MESSAGE_RECIEVED", "MESSAGE_RECIEVED"];
    let lines: String = lines.map(|kind| event(kind, &json!({})) + "\n").concat();
    let answers = served.post_lines(ACME, &lines).json();
    let hints: Vec<_> = answers.as_array().unwrap().iter().map(|one| one.get("hints")).collect();
    assert_eq!(hints, [None, Some(&meant), None]);

    let names = json!({"events": ["MESSAGE_RECEIVED", "MESSAGE_RECIEVED", "ADD_TAG"]});
    let id = served.subscribe(ACME, "https://crm.example/hook", names);
    let hints = served.get(&format!("/subscriptions/{id}"), ACME).json()["hints"].clone();
    let published_only = "ADD_TAG: no callback of Meta becomes this type; it must be published";
    assert_eq!(hints, json!([published_only, meant[0]]));

    let account = served.get("/account", ACME).json();
    let types = account["event_types"].as_array().unwrap();
    let source = |name: &str| {
        let found = types.iter().find(|one| one["name"] == name);
        found.unwrap()["source"].as_str().unwrap().to_owned()
    };
    assert_eq!((source("FLOW_UPDATE"), source("ADD_TAG")), ("callbacks".into(), "publish".into()));
}

#[test]
fn gateways_say_it_in_a_header() {
    let (_place, served) = HostProcess::fresh();
    let webhook = json!({
        "method": "POST", "url": "https://crm.example/hook", "name": "crm", "wabaNumbers": [NUMBER],
        "webhookEvents": ["MESSAGE_RECEIVED", "ADD_TAG"],
    });
    let answer = served.post("/v2/webhook/register", ACME, webhook.to_string()).with_status(201);
    let hint = answer.header("x-wabahook-hint").unwrap();
    assert!(hint.starts_with("ADD_TAG: no callback of Meta"), "{hint}");

    let session = |events: Value| {
        let body = json!({"url": "https://crm.example/hook", "events": events}).to_string();
        served.post("/webhooks", ACME, body)
    };
    let answer = session(json!(["message.recieved"]));
    let meant = "message.recieved: did you mean message.received?";
    assert_eq!((answer.status, answer.header("x-wabahook-hint")), (201, Some(meant)));
    let answer = session(json!(["message.received", "message.read", "call.offer"]));
    assert_eq!((answer.status, answer.header("x-wabahook-hint")), (201, None));
}
