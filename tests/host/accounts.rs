//! Accounts over HTTP: the operator creates, changes, suspends, moves and removes them while the host serves, and
//! has the configuration read again. Nobody but the operator sees another account.

use std::fs;

use serde_json::{Value, json};

use crate::client::{Pending, assert_members};
use crate::host_process::{ACME, BETA, CONFIGURATION, HostDirectory, HostProcess, OPERATOR};
use crate::receiver::Receiver;
use crate::support::wait_until;

/// Creates an account; its id and its key.
pub(crate) fn create(served: &HostProcess, name: &str, number: &str) -> (String, String) {
    let wabas = json!([{"id": format!("waba-{number}"), "numbers": [number]}]);
    let body = json!({"name": name, "wabas": wabas});
    let answer = served.post("/admin/accounts", OPERATOR, body.to_string()).with_status(201);
    let text = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
    (text("id"), text("api_key"))
}

fn event(number: &str, payload: &str) -> String {
    json!({"type": "MESSAGE_RECEIVED", "number": number, "payload": payload}).to_string()
}

#[test]
fn only_the_operator_names_an_account() {
    let (_place, served) = HostProcess::operated();
    let (id, _) = create(&served, "gamma", "919000000009");
    served.get(&format!("/stats?account={id}"), ACME).assert_refused(403, "forbidden", None);
    served.post("/events", OPERATOR, event("919000000001", "x")).assert_refused(
        400,
        "invalid",
        Some("account"),
    );
    served.post("/events?account=acme", OPERATOR, event("919000000001", "x")).with_status(202);
}

#[test]
fn an_account_lives_without_a_restart() {
    let (_place, served) = HostProcess::operated();
    let receiver = Receiver::answering(200);
    let (id, key) = create(&served, "gamma", "919000000009");
    let path = format!("/admin/accounts/{id}");
    served.subscribe(&key, &receiver.url("/gamma"), json!({"numbers": ["919000000009"]}));
    served.subscribe(BETA, &receiver.url("/beta"), json!({}));
    let taken = json!({"name": "delta", "wabas": [{"id": "9", "numbers": ["919000000009"]}]});
    let refused = served.post("/admin/accounts", OPERATOR, taken.to_string());
    refused.assert_refused(400, "invalid", Some("account.waba.numbers"));

    let made = served.post(&format!("{path}/keys"), OPERATOR, r#"{"name":"ci"}"#).json();
    let (ci, ci_id) = (made["api_key"].as_str().unwrap(), made["id"].as_str().unwrap());
    served.get("/stats", ci).with_status(200);
    let shown = served.get(&path, OPERATOR);
    assert!(!shown.body.contains(ci) && !shown.body.contains(&key), "a key is shown once");
    assert!(shown.json()["keys"][1]["last_used_at"].is_string(), "{shown:?}");
    served.delete(&format!("{path}/keys/{ci_id}"), OPERATOR).with_status(204);
    served.get("/stats", ci).assert_refused(401, "unauthorized", None);

    served.patch(&path, OPERATOR, &json!({"state": "suspended"})).with_status(200);
    served.get("/stats", &key).assert_refused(403, "forbidden", None);
    let held =
        served.post(&format!("/events?account={id}"), OPERATOR, event("919000000009", "held"));
    assert_eq!(held.json()["owed"], 1, "{held:?}");
    served.post("/events", BETA, event("919000000003", "b")).with_status(202);
    assert_eq!(receiver.next().path, "/beta");
    served
        .patch(&path, OPERATOR, &json!({"state": "active", "name": "gamma two"}))
        .with_status(200);
    assert_eq!(receiver.next().path, "/gamma");
    assert_eq!(served.get("/account", &key).json()["name"], "gamma two");

    served.delete(&path, OPERATOR).with_status(200);
    served.get("/stats", &key).assert_refused(401, "unauthorized", None);
    let (second, second_key) = create(&served, "gamma two", "919000000009");
    assert_ne!(second, id);
    let listed = served.get("/subscriptions", &second_key).json();
    assert_eq!(listed["items"], json!([]));
    assert_eq!(served.post("/events", &second_key, event("919000000009", "x")).json()["owed"], 0);
    let moved = served.post(&format!("{path}/move"), OPERATOR, json!({"to": second}).to_string());
    assert_eq!(moved.json()["moved_to"], json!(second), "{moved:?}");
    assert_eq!(served.post("/events", &second_key, event("919000000009", "y")).json()["owed"], 1);
    assert_eq!(receiver.next().path, "/gamma");
    served.post(&format!("{path}/forget"), OPERATOR, "{}").with_status(202);
    served.get(&path, OPERATOR).assert_refused(404, "not_found", None);
    let audit = served.get("/admin/audit", OPERATOR);
    assert!(!audit.body.contains(&second_key), "no key in the audit log");
    assert!(audit.body.contains("gamma two"), "{audit:?}");
}

#[test]
fn a_reload_is_whole_or_nothing() {
    let (place, served) = HostProcess::operated();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/acme"), json!({}));
    let file = place.path("wabahook.toml");
    let before = fs::read_to_string(&file).unwrap();
    for (from, to, says) in [
        ("name = \"beta\"", "name = \"acme\"", "account.name"),
        ("\"919000000003\"", "\"919000000001\"", "account.waba.numbers"),
        ("verify_token", "verify_tokn", "verify_tokn"),
    ] {
        fs::write(&file, before.replace(from, to)).unwrap();
        let answer = served.post("/admin/reload", OPERATOR, "{}");
        answer.assert_refused(400, "invalid", None);
        answer.assert_says(&[says]);
        served.get("/stats", BETA).with_status(200);
    }
    let acme_id = served.items("/admin/accounts?name=acme", OPERATOR)[0]["id"].clone();
    let acme_id = acme_id.as_str().unwrap();
    let digest = "5c1ec4b1ad7f5b1bff3b7ca37d1f6ef8e0a1c6f5a5ff2c6f2b8f0c7e5f2f1b3a";
    let acme = before.replace("api_key = \"beta-key\"", &format!("api_key_sha256 = \"{digest}\""));
    let acme =
        acme.replace("name = \"acme\"", "name = \"omega\"").replace(OPERATOR, "new-operator");
    fs::write(&file, acme).unwrap();
    let answer = served.post("/admin/reload", OPERATOR, "{}").with_status(200);
    let accounts = &answer.json()["accounts"];
    let expected = json!({
        "created": ["omega"], "changed": ["beta"], "removed": ["acme"], "replaced": {acme_id: "omega"},
    });
    assert_eq!(*accounts, expected);
    served.get("/stats", BETA).assert_refused(401, "unauthorized", None);
    served.get("/admin/accounts", OPERATOR).assert_refused(401, "unauthorized", None);
    // The key is now that of another account, which inherits nothing.
    assert!(served.items("/subscriptions", ACME).is_empty());
    assert_eq!(served.get("/account", ACME).json()["name"], "omega");
    let all = served.items("/admin/accounts", "new-operator");
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!(served.post("/events", ACME, event("919000000001", "x")).json()["owed"], 0);
    assert!(receiver.arrived().is_empty(), "the former account gets nothing");
}

#[test]
#[cfg(unix)]
fn a_hangup_reads_the_file_again_and_refuses_nobody() {
    let (place, served) = HostProcess::operated();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/acme"), json!({}));
    let file = place.path("wabahook.toml");
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, before.replace("name = \"beta\"", "name = \"other\"")).unwrap();
    served.send_signal("HUP");
    let mut accepted = 0;
    let is_read = wait_until(|| {
        served.post("/events", ACME, event("919000000001", "x")).with_status(202);
        accepted += 1;
        served.get("/account", BETA).json()["name"] == "other"
    });
    assert!(is_read, "the file is read again");
    served.until(|stats| stats["owed"] == 0);
    assert_eq!(receiver.arrived().len(), accepted);
    // It is written after the accounts have changed.
    let newest = || served.items("/admin/audit", OPERATOR)[0].clone();
    assert!(wait_until(|| newest()["key"] == "configuration"), "it is audited: {}", newest());
    let log = fs::read_to_string(place.path("stderr.log")).unwrap();
    let beta = served.items("/admin/accounts?state=removed", OPERATOR)[0]["id"].clone();
    let advice = format!("accounts move {} other", beta.as_str().unwrap());
    assert!(log.contains(&advice), "{log}");
    let entry = newest();
    assert_members(&entry, json!({"method": "SIGHUP", "address": ""}));
    let changes = entry["changes"].as_array().unwrap();
    let named = |state: &str, name: &str| {
        changes.iter().any(|one| one["what"] == "account" && one[state]["name"] == name)
    };
    assert!(named("after", "other"), "{entry}");
    assert!(changes.iter().any(|one| one["after"]["state"] == "removed"), "{entry}");
    assert!(!entry.to_string().contains("acme"), "it is not changed: {entry}");
}

/// A SIGHUP that comes while the host starts does not end it, and is heeded once it serves.
#[cfg(unix)]
#[test]
fn a_sighup_during_the_start_reads_the_file_again() {
    let place = HostDirectory::new(CONFIGURATION);
    let (file, later) = (place.path("wabahook.toml"), place.path("later.toml"));
    fs::write(&later, CONFIGURATION.replace("name = \"beta\"", "name = \"other\"")).unwrap();
    fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    let (served, lines) = place.spawn(place.command());
    // Opens once the host reads its configuration, which waits for what is written here.
    let mut pipe = fs::OpenOptions::new().write(true).open(&file).unwrap();
    fs::rename(&later, &file).unwrap();
    served.send_signal("HUP");
    std::io::Write::write_all(&mut pipe, CONFIGURATION.as_bytes()).unwrap();
    drop(pipe);
    let served = place.listening(served, &lines);
    let is_read = || served.get("/account", BETA).json()["name"] == "other";
    assert!(wait_until(is_read), "the file is read again");
    assert_eq!(served.get("/account", ACME).json()["name"], "acme");
}

/// kill -9 at many moments of a run of changes: each is whole or not at all, and what was answered is there.
#[test]
fn a_kill_leaves_each_change_whole_or_absent() {
    let (place, mut served) = HostProcess::operated();
    for round in 0..4_u64 {
        let address = served.address;
        let (told, said) = std::sync::mpsc::channel();
        let changes = std::thread::spawn(move || {
            for n in 0.. {
                let number = format!("91777{round:03}{n:05}");
                let waba = json!([{"id": number, "numbers": [number]}]);
                let body = json!({"name": format!("{round}-{n}"), "wabas": waba}).to_string();
                let headers = [("authorization", OPERATOR)];
                let post = || {
                    crate::client::send(
                        address,
                        "POST",
                        "/admin/accounts",
                        &headers,
                        body.as_bytes(),
                    )
                };
                let Ok(answer) = std::panic::catch_unwind(post) else { return };
                if answer.status != 201 || told.send((n, answer.json())).is_err() {
                    return;
                }
            }
        });
        let wait = |count: usize| {
            let first = (0..count).map(|_| said.recv_timeout(crate::DEADLINE).unwrap());
            first.collect::<Vec<_>>()
        };
        let mut answered = wait(3 + usize::try_from(round).unwrap() * 5);
        served.kill();
        let _ = changes.join();
        answered.extend(said.try_iter());
        served = place.start();
        for (_, created) in answered {
            let path = format!("/admin/accounts/{}", created["id"].as_str().unwrap());
            assert_eq!(served.get(&path, OPERATOR).json()["name"], created["name"]);
            let key = created["api_key"].as_str().unwrap();
            assert_eq!(served.get("/account", key).json()["name"], created["name"]);
        }
        let all = served.items("/admin/accounts?limit=1000", OPERATOR);
        for one in all.iter().filter(|one| one["declared"] == false) {
            let whole = one["wabas"][0]["numbers"].as_array().map(Vec::len);
            assert_eq!((whole, one["keys"].as_array().map(Vec::len)), (Some(1), Some(1)), "{one}");
        }
    }
}

/// The operator sees at a webhook that its account is suspended, and no next attempt.
#[test]
fn a_suspended_account_is_shown_at_its_webhooks() {
    let (_place, served) = HostProcess::operated();
    let receiver = Receiver::answering(503);
    let (id, key) = create(&served, "gamma", "919000000009");
    let webhook = served.subscribe(&key, &receiver.url("/gamma"), json!({"name": "crm"}));
    let bystander = served.subscribe(BETA, &receiver.url("/beta"), json!({}));
    served.post("/events", &key, event("919000000009", "x")).with_status(202);
    let retrying = format!("/deliveries?account={id}&state=retrying");
    let first = |path: &str| served.get(path, OPERATOR).json()["items"][0].clone();
    served.until(|_| first(&retrying)["due_at"].is_string());
    let path = format!("/admin/accounts/{id}");
    served.patch(&path, OPERATOR, &json!({"state": "suspended"})).with_status(200);
    let shown = served.get(&format!("/subscriptions/{webhook}"), OPERATOR).json();
    let listed = served.get(&format!("/subscriptions?account={id}"), OPERATOR).json();
    let stats = served.get(&format!("/stats?account={id}"), OPERATOR).json();
    for item in [&shown, &listed["items"][0], &stats["subscriptions"][0]] {
        assert_members(item, json!({"state": "active", "account_state": "suspended"}));
    }
    let account = served.get(&path, OPERATOR).json();
    assert_eq!(shown["account_state_since"], account["state_since"], "{shown}");
    assert!(account["state_since"].as_str() > account["created_at"].as_str(), "{account}");
    let beta = served.get(&format!("/subscriptions/{bystander}"), OPERATOR).json();
    assert!(beta.get("account_state").is_none(), "{beta}");
    let waiting = first(&format!("/deliveries?account={id}"));
    assert_eq!(waiting["state"], "retrying", "{waiting}");
    assert!(waiting.get("due_at").is_none(), "no attempt is due: {waiting}");
    let state = served.get(&format!("/subscriptions?account={id}&state=active"), OPERATOR).json();
    assert_eq!(state["total"], 1, "the webhook itself is active: {state}");
    served.patch(&path, OPERATOR, &json!({"state": "active"})).with_status(200);
    assert!(
        served
            .get(&format!("/subscriptions/{webhook}"), &key)
            .json()
            .get("account_state")
            .is_none()
    );
}

#[test]
fn a_key_that_has_expired_is_not_made() {
    let (_place, served) = HostProcess::operated();
    let acme = served.items("/admin/accounts?name=acme", OPERATOR)[0].clone();
    let keys = format!("/admin/accounts/{}/keys", acme["id"].as_str().unwrap());
    let past = json!({"name": "ci", "expires_at": "2020-01-01T00:00:00Z"}).to_string();
    let answer = served.post(&keys, OPERATOR, past);
    answer.assert_refused(400, "invalid", Some("expires_at"));
    answer.assert_says(&["in the future"]);
    let later = json!({"name": "ci", "expires_at": "2999-01-01T00:00:00Z"}).to_string();
    served.post(&keys, OPERATOR, later).with_status(201);
    let after = served.items("/admin/accounts?name=acme", OPERATOR)[0].clone();
    let count = |account: &Value| account["keys"].as_array().unwrap().len();
    assert_eq!(count(&after), count(&acme) + 1);
}

#[test]
fn a_stream_of_notices_ends_with_its_key() {
    let (_place, served) = HostProcess::operated();
    let receiver = Receiver::answering(404);
    let (id, key) = create(&served, "gamma", "919000000009");
    let keys = format!("/admin/accounts/{id}/keys");
    let made = served.post(&keys, OPERATOR, r#"{"name":"ci"}"#).json();
    let (ci, ci_id) = (made["api_key"].as_str().unwrap(), made["id"].as_str().unwrap());
    served.subscribe(&key, &receiver.url("/gamma"), json!({}));
    served.subscribe(BETA, &receiver.url("/beta"), json!({}));
    let [revoked, mut kept, mut bystander] = [ci, &key, BETA].map(|key| {
        let headers = [("authorization", key)];
        let mut stream = Pending::open(served.address, "GET", "/notices", &headers, 0);
        stream.until_it_says("\r\n\r\n");
        stream
    });
    served.delete(&format!("{keys}/{ci_id}"), OPERATOR).with_status(204);
    served.post("/events", &key, event("919000000009", "x")).with_status(202);
    served.post("/events", BETA, event("919000000003", "x")).with_status(202);
    kept.until_it_says("dead_lettered");
    bystander.until_it_says("dead_lettered");
    revoked.ends_without("dead_lettered");
}
