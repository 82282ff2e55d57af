//! The audit log: who changed what, from where, before and after, for the operator alone and without secrets.

use std::fs;

use serde_json::{Value, json};

use crate::client::assert_members;
use crate::host_process::{ACME, BETA, HostProcess, OPERATOR};
use crate::receiver::Receiver;

fn entries(served: &HostProcess, query: &str) -> Vec<Value> {
    served.items(&format!("/admin/audit{query}"), OPERATOR)
}

#[test]
fn every_change_is_in_the_audit_log_without_secrets() {
    let (place, served) = HostProcess::operated();
    let receiver = Receiver::answering(200);
    let url = receiver.url("/hook?token=hidden");
    let secret = json!({"secret": "hidden-secret", "name": "crm"});
    let id = served.subscribe(ACME, &url, secret);
    served
        .patch(&format!("/subscriptions/{id}"), ACME, &json!({"timeout_ms": 5_000}))
        .with_status(200);
    served.post(&format!("/subscriptions/{id}/pause"), ACME, "").with_status(200);
    let beta = served.subscribe(BETA, &receiver.url("/beta"), json!({"name": "bystander"}));
    let hook = json!({"url": receiver.url("/gateway")}).to_string();
    let headers = [("whizard-key", ACME), ("content-type", "application/json")];
    served.request("POST", "/v1/configs/webhook", &headers, hook.as_bytes()).with_status(200);
    // What changes nothing is not recorded: reads, refused requests, events and tests.
    served.get("/subscriptions", ACME).with_status(200);
    served.post("/subscriptions", ACME, "{}").with_status(400);
    served.post("/subscriptions", "wrong", "{}").with_status(401);
    served.post(&format!("/subscriptions/{beta}/test"), BETA, "").with_status(200);
    let purged = served.post("/purge", ACME, json!({"contact": "hidden"}).to_string());
    assert_eq!((purged.status, purged.json()["purged"].clone()), (202, json!(0)));
    served.delete(&format!("/subscriptions/{id}"), ACME).with_status(204);

    let all = entries(&served, "");
    let requests: Vec<_> = all.iter().map(|one| one["path"].as_str().unwrap()).collect();
    let own = format!("/subscriptions/{id}");
    let pause = format!("{own}/pause");
    let gateway = "/v1/configs/webhook";
    let expected = [&own, "/purge", gateway, "/subscriptions", &pause, &own, "/subscriptions"];
    assert_eq!(requests, expected);
    for entry in &all {
        assert_eq!(entry["address"], "127.0.0.1", "{entry}");
        assert!(entry["key"].as_str().is_some_and(|name| !name.is_empty()), "{entry}");
        assert_eq!(entry["changes"].as_array().unwrap().len(), 1, "{entry}");
        assert!(!entry.to_string().contains("hidden"), "{entry}");
    }
    let [removed, purged, gateway, _, paused, patched, created] = all.as_slice() else {
        panic!("{all:?}")
    };
    let change = |entry: &Value| entry["changes"][0].clone();
    assert_eq!(change(created)["after"]["name"], "crm");
    assert_eq!(change(created)["before"], Value::Null);
    assert_eq!(change(patched)["after"]["timeout_ms"], 5_000);
    assert_eq!(change(patched)["before"]["timeout_ms"], 300_000);
    assert_eq!(change(patched)["after"].as_object().unwrap().len(), 1, "{patched}");
    assert_eq!(change(paused)["after"], json!({"state": "paused"}));
    assert_eq!(change(purged)["after"]["purged"], 0);
    assert_eq!(change(gateway)["after"]["profile"], "business_api", "{gateway}");
    assert_eq!(change(removed)["before"]["name"], "crm");
    assert_eq!(change(removed)["after"], Value::Null);

    // Newest first, in pages; and the file can be read as well.
    let first = served.get("/admin/audit?limit=4", OPERATOR).json();
    let cursor = first["cursor"].as_str().unwrap();
    let rest = entries(&served, &format!("?limit=4&cursor={cursor}"));
    assert_eq!((first["items"].as_array().unwrap().len(), rest.len()), (4, 3));
    let text = fs::read_to_string(place.path("data/audit.log")).unwrap();
    assert_eq!(text.lines().count(), all.len());
    assert!(!text.contains("hidden") && !text.contains("acme-key"), "{text}");

    // An account reads none of it, and a restart keeps it.
    served.get("/admin/audit", ACME).assert_refused(403, "forbidden", None);
    assert!(served.signal("TERM").success());
    let again = place.start();
    assert_eq!(entries(&again, ""), all);
}

#[test]
fn a_change_of_the_operator_names_its_key() {
    let (_place, served) = HostProcess::operated();
    let body = json!({"name": "gamma", "wabas": []}).to_string();
    let answer = served.post("/admin/accounts", OPERATOR, body).with_status(201);
    let all = entries(&served, "");
    let entry = &all[0];
    assert_members(entry, json!({"method": "POST", "path": "/admin/accounts"}));
    assert!(entry["key"].as_str().is_some_and(|name| name.contains("operator")), "{entry}");
    let key = answer.json()["api_key"].as_str().unwrap().to_owned();
    assert!(!entry.to_string().contains(&key), "{entry}");
    let change = &entry["changes"][0];
    assert_eq!((&change["what"], &change["after"]["name"]), (&json!("account"), &json!("gamma")));
}

/// A copy of a running host, which a new host serves.
#[test]
fn the_operator_makes_a_backup_that_a_new_host_opens() {
    let (place, served) = HostProcess::operated();
    let receiver = Receiver::answering(200);
    served.subscribe(ACME, &receiver.url("/hook"), json!({}));
    let event = json!({"type": "T", "number": "919000000001", "payload": {"n": 1}}).to_string();
    let event = served.post("/events", ACME, event).json()["id"].as_str().unwrap().to_owned();
    served.until(|stats| stats["delivered"] == 1);
    let copy = place.path("copy");
    let body = json!({"directory": copy}).to_string();
    served.post("/admin/backup", ACME, &body).assert_refused(403, "forbidden", None);
    let relative = json!({"directory": "copy"}).to_string();
    served.post("/admin/backup", OPERATOR, relative).assert_refused(
        400,
        "invalid",
        Some("directory"),
    );
    served.post("/admin/backup", OPERATOR, &body).with_status(201);
    served.post("/admin/backup", OPERATOR, &body).assert_refused(400, "invalid", Some("backup"));
    assert!(served.signal("TERM").success());
    fs::rename(place.path("data"), place.path("old")).unwrap();
    fs::rename(copy, place.path("data")).unwrap();
    let restored = place.start();
    assert_eq!(restored.items("/subscriptions", ACME).len(), 1);
    let trace = restored.get(&format!("/events/{event}"), ACME).json();
    assert_eq!(trace["deliveries"][0]["state"], "delivered", "the history is in it: {trace}");
    restored.get(&format!("/events/{event}"), BETA).with_status(404);
    let all = entries(&restored, "");
    assert_eq!(all[all.len() - 1]["path"], "/subscriptions", "the audit log is in it: {all:?}");
}

/// What the operator does to an account is listed with that account, with the numbers that came and went.
#[test]
fn the_operators_changes_are_listed_with_their_account() {
    let (place, served) = HostProcess::operated();
    let body = json!({"name": "gamma", "wabas": [{"id": "900", "numbers": ["919000000009"]}]});
    let created = served.post("/admin/accounts", OPERATOR, body.to_string()).json();
    let (id, name) = (created["id"].as_str().unwrap().to_owned(), "gamma");
    let account = format!("/admin/accounts/{id}");
    let numbers = json!({"wabas": [{"id": "900", "numbers": ["919000000008", "919000000007"]}]});
    served.patch(&account, OPERATOR, &numbers).with_status(200);
    let key = served.post(&format!("{account}/keys"), OPERATOR, r#"{"name":"ci"}"#).json();
    let key_id = key["id"].as_str().unwrap();
    served.delete(&format!("{account}/keys/{key_id}"), OPERATOR).with_status(204);
    served.patch(&account, OPERATOR, &json!({"state": "suspended"})).with_status(200);
    let purge = json!({"account": name}).to_string();
    let other = served.post("/purge?account=beta", OPERATOR, &purge);
    other.assert_refused(400, "invalid", Some("account"));
    served.post("/purge", OPERATOR, purge).with_status(202);
    let of = |account: &str| entries(&served, &format!("?account={account}"));
    let all = of(name);
    let [purged, suspended, removed_key, added_key, changed, made] = all.as_slice() else {
        panic!("{all:?}")
    };
    assert_eq!(purged["path"], "/purge", "{purged}");
    assert_eq!(suspended["changes"][0]["after"], json!({"state": "suspended"}), "{suspended}");
    let key = json!([format!("{key_id} ci")]);
    assert_eq!(added_key["changes"][0]["after"], json!({"keys": key}), "{added_key}");
    assert_eq!(removed_key["changes"][0]["before"], json!({"keys": key}), "{removed_key}");
    let change = &changed["changes"][0];
    assert_eq!(change["before"], json!({"numbers": ["900/919000000009"]}), "{changed}");
    let added = json!({"numbers": ["900/919000000008", "900/919000000007"]});
    assert_eq!(change["after"], added, "{changed}");
    assert_eq!(made["account_name"], "gamma", "{made}");
    assert!(of("beta").is_empty());

    served.post("/admin/reload", OPERATOR, "").with_status(200);
    assert_eq!(entries(&served, "?limit=1")[0]["changes"], json!([]), "nothing changed");
    let file = place.path("wabahook.toml");
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, before.replace("919000000003", "919000000033")).unwrap();
    served.post("/admin/reload", OPERATOR, "").with_status(200);
    let reloaded = of("beta");
    let expected = json!({"numbers": ["100000000000002/919000000033"]});
    assert_eq!(reloaded[0]["changes"][0]["after"], expected, "{reloaded:?}");
    assert_eq!((reloaded.len(), of(name).len()), (1, all.len()));
}

/// A test delivery is not recorded. The name of a webhook may read like the end of its path.
#[test]
fn the_removal_of_a_webhook_named_test_is_recorded() {
    let (_place, served) = HostProcess::operated();
    let receiver = Receiver::answering(200);
    served.subscribe(BETA, &receiver.url("/beta"), json!({}));
    let headers = [("d360-api-key", ACME), ("content-type", "application/json")];
    let names = ["test", "match"];
    let list = names.map(|name| json!({"name": name, "url": receiver.url("/hook")}));
    let enabled = json!({"enabled": true, "destinations": list}).to_string();
    served.request("POST", "/multi_webhook", &headers, enabled.as_bytes()).with_status(200);
    let paths = names.map(|name| format!("/multi_webhook/{name}"));
    for path in &paths {
        served.request("DELETE", path, &headers, b"").with_status(200);
    }
    let all = entries(&served, "?account=acme&limit=2");
    let recorded: Vec<_> = all.iter().rev().map(|one| one["path"].as_str().unwrap()).collect();
    assert_eq!(recorded, paths);
    assert!(all.iter().all(|one| one["changes"][0]["before"]["url"].is_string()), "{all:?}");
    assert_eq!(entries(&served, "?account=beta").len(), 1);
}
