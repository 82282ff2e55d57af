//! What an operator asks on the command line: the audit log, a backup, the health, and a log in JSON.

use std::fs;

use serde_json::{Value, json};

use crate::client::assert_members;
use crate::host_process::{ACME, BETA, CONFIGURATION, HostDirectory, HostProcess};
use crate::program::{against, alone, as_operator, run};
use crate::receiver::Receiver;

#[test]
fn audit_and_backup_need_the_operators_key() {
    let (place, served) = HostProcess::operated();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/hook"), json!({"name": "crm"}));
    let as_operator = |args: &[&str]| as_operator(&served, args);
    as_operator(&["audit"]).done().says(&["POST /subscriptions", "subscription 1 created"]);
    let entry = as_operator(&["audit", "--json"]).done().json()["items"][0].clone();
    assert_eq!(entry["changes"][0]["after"]["name"], "crm", "{entry}");
    as_operator(&["audit", "--before", "1"]).done().says(&["no changes"]);
    as_operator(&["accounts", "create", "gamma", "--waba", "900=919000000009"]).done();
    as_operator(&["accounts", "edit", "gamma", "--waba", "900=919000000008"]).done();
    as_operator(&["reload"]).done();
    let told = as_operator(&["audit", "--limit", "2"]).done();
    let told = told.says(&["POST /admin/reload", "numbers +900/919000000008", "older: --before '"]);
    assert!(!told.out.contains("created") && !told.out.contains("919000000009"), "{told:?}");
    as_operator(&["audit", "--account", "gamma"]).done().says(&["numbers +900/919000000008"]);
    let copy = place.path("copy").display().to_string();
    as_operator(&["backup", &copy]).done().says(&["written to", &copy]);
    assert!(place.path("copy/format").exists());
    as_operator(&["backup", &copy]).failed(2, &["empty or missing"]);
    run(&mut against(&served, &["audit"]), "").failed(4, &["operator"]);
    alone(&["health", "--url", &format!("http://{}", served.address)]).done().says(&["ok"]);
    let url = format!("http://{}", served.address);
    served.kill();
    alone(&["health", "--url", &url]).failed(3, &[&url]);
}

#[test]
fn the_log_is_json_on_request() {
    let place = HostDirectory::new(CONFIGURATION);
    let served = place.start_with(&["--log", "info", "--log-format", "json"]);
    let receiver = Receiver::answering(404);
    served.subscribe(ACME, &receiver.url("/hook"), json!({"name": "crm"}));
    for _ in 0..3 {
        let event = json!({"type": "T", "number": "919000000001", "payload": 1});
        served.post("/events", ACME, event.to_string()).with_status(202);
    }
    served.until(|stats| stats["dead"] == 3);
    assert!(served.signal("TERM").success());
    let text = fs::read_to_string(place.path("stderr.log")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let dead: Vec<_> = lines.iter().filter(|line| line["kind"] == "dead_lettered").collect();
    let [first, last] = dead.as_slice() else { panic!("one line, and one with a count: {text}") };
    for line in [first, last] {
        assert_members(
            line,
            json!({"level": "info", "subscription": 1, "name": "crm", "host": "127.0.0.1"}),
        );
        assert!(line["account"].is_string() && line["at"].is_string(), "{line}");
    }
    assert_eq!((&first["repeated"], &last["repeated"]), (&Value::Null, &json!(2)));
}

#[test]
fn the_operator_names_an_account() {
    let (_place, served) = HostProcess::operated();
    let (dead, good) = (Receiver::answering(404), Receiver::answering(200));
    served.subscribe(ACME, &dead.url("/hook"), json!({"name": "crm"}));
    served.subscribe(BETA, &good.url("/hook"), json!({"name": "crm"}));
    let event =
        json!({"type": "T", "number": "919000000001", "payload": {"id": "wamid.OPERATOR1"}});
    served.post("/events", ACME, event.to_string()).with_status(202);
    let as_operator = |args: &[&str]| as_operator(&served, args);
    let dead_letters = || as_operator(&["dead", "list", "--json"]).done().json()["items"].clone();
    served.until(|_| dead_letters().as_array().unwrap().len() == 1);
    as_operator(&["stats"]).done().says(&["ACCOUNT", "acme"]);
    as_operator(&["find", "wamid.OPERATOR1"])
        .done()
        .says(&["account acme, number 919000000001", "status:404"]);
    as_operator(&["find", "wamid.OPERATOR1", "--account", "beta"]).failed(5, &["no event matches"]);
    let add = ["webhooks", "add", "https://new.example/", "--name", "new"];
    as_operator(&add).failed(2, &["--account"]);
    as_operator(&[&["--account", "beta"], &add[..]].concat()).done().says(&["(new) is registered"]);
    let names = |key: &str| served.get("/subscriptions", key).json()["total"].clone();
    assert_eq!((names(ACME), names(BETA)), (json!(1), json!(2)));
    as_operator(&["webhooks", "pause", "crm", "--account", "beta"]).done();
    as_operator(&["dead", "discard", "--all", "--dry-run"]).done().says(&["would be discarded: 1"]);
    let audit = as_operator(&["audit"]).done();
    assert!(!audit.out.contains("/dead-letters/discard"), "counting is no change: {}", audit.out);
    as_operator(&["audit", "--account", "beta"]).done().says(&["beta", "state active -> paused"]);
    as_operator(&[
        "accounts",
        "edit",
        "beta",
        "--waba",
        "100000000000002=919000000003,919000000009",
    ])
    .failed(2, &["configuration"]);
    as_operator(&["stats", "--account", "nobody"]).failed(5, &["nobody"]);
    run(&mut against(&served, &["stats", "--account", "beta"]), "").failed(4, &["another account"]);
}
