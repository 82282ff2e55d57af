//! `wabahook accounts` against a running host, and `wabahook check` of a configuration file.

use std::fs;

use serde_json::json;

use crate::host_process::{CONFIGURATION, HostDirectory, HostProcess, OPERATOR};
use crate::program::{Ran, against, alone, as_operator, run};

#[test]
fn an_account_is_created_changed_and_removed() {
    let (place, served) = HostProcess::operated();
    let accounts = |args: &[&str]| as_operator(&served, &[&["accounts"], args].concat());
    run(&mut against(&served, &["accounts", "list"]), "").failed(4, &["operator"]);

    let waba = ["--waba", "900=919000000009,919000000008"];
    let created = accounts(&[&["create", "gamma"], &waba[..]].concat()).done();
    let key = created.says(&["account gamma is acct_", "not shown again"]);
    let key = key.out.lines().last().unwrap().to_owned();
    assert_eq!(served.get("/account", &key).json()["name"], "gamma");
    accounts(&[&["create", "delta"], &waba[..]].concat()).failed(2, &["\"900\" is invalid"]);
    accounts(&["create", "delta", "--waba", "900"]).failed(2, &["ID=NUMBER"]);

    let listed = accounts(&["list"]).done();
    let names = ["acme", "beta", "gamma"];
    assert_eq!(listed.out.lines().count(), 1 + names.len(), "{listed:?}");
    listed.says(&names);
    let one = accounts(&["list", "--name", "amm", "--json"]).done().json();
    assert_eq!(one["items"].as_array().unwrap().len(), 1, "{one}");
    let id = one["items"][0]["id"].as_str().unwrap().to_owned();
    let shown = accounts(&["show", "gamma"]).done();
    assert!(!shown.out.contains(&key), "a key is shown once");
    shown.says(&[&id, "WABA 900: 919000000009, 919000000008", "first key"]);

    let settings = place.path("settings.json");
    fs::write(&settings, r#"{"limits": {"owed_events_max": 7, "subscriptions_max": null}}"#)
        .unwrap();
    let settings = settings.display().to_string();
    let edited = accounts(&["edit", &id, "--name", "gamma two", "--settings", &settings, "--json"]);
    let edited = edited.done().json();
    assert_eq!(edited["name"], "gamma two", "{edited}");
    assert_eq!(edited["limits"]["owed_events_max"], 7, "{edited}");
    assert_eq!(edited["wabas"][0]["numbers"].as_array().unwrap().len(), 2, "kept: {edited}");
    let added = accounts(&["edit", &id, "--waba", "900=919000000007"]).done();
    added.says(&["WABA 900: 919000000009, 919000000008, 919000000007"]);
    let removed = accounts(&["edit", &id, "--remove-number", "919000000008"]).done();
    removed.says(&["WABA 900: 919000000009, 919000000007", "no longer its own: 900/919000000008"]);
    accounts(&["edit", &id, "--remove-number", "919000000008"]).failed(5, &["919000000008"]);
    fs::write(&settings, r#"{"wabas": [{"id": "901", "numbers": ["919000000006"]}]}"#).unwrap();
    let both = ["edit", &id, "--settings", &settings, "--waba", "900=919000000005"];
    accounts(&both).failed(2, &["--settings", "wabas"]);
    let replaced = accounts(&["edit", &id, "--settings", &settings]).done();
    replaced.says(&["WABA 901: 919000000006", "900/919000000009", "900/919000000007"]);
    accounts(&["create", "delta", "--waba", "910="]).done();
    let first = accounts(&["edit", "delta", "--waba", "910=919000000020"]).done();
    let first = first.says(&["WABA 910: 919000000020"]);
    assert!(!first.out.contains("no longer"), "{first:?}");
    fs::write(&settings, r#"{"limits": {"unknown": 1}}"#).unwrap();
    accounts(&["edit", &id, "--settings", &settings]).failed(2, &["unknown"]);
    accounts(&["edit", &id]).failed(2, &["--remove-waba"]);
    accounts(&["edit", "acme", "--name", "other"]).failed(2, &["configuration"]);

    accounts(&["suspend", "gamma two"]).done().says(&["is suspended"]);
    served.get("/account", &key).assert_refused(403, "forbidden", None);
    accounts(&["resume", "gamma two"]).done().says(&["is active"]);
    served.get("/account", &key).with_status(200);
    accounts(&["remove", "gamma two"]).done().says(&["is removed"]);
    served.get("/account", &key).assert_refused(401, "unauthorized", None);
    accounts(&["show", "gamma two"]).failed(5, &["no account gamma two"]);
    accounts(&["show", &id]).done().says(&["removed"]);
    accounts(&["remove", "acme"]).failed(2, &["configuration"]);
    assert_eq!(served.get("/account", crate::host_process::ACME).json()["name"], "acme");
}

#[test]
fn keys_are_made_and_revoked() {
    let (_place, served) = HostProcess::operated();
    let accounts = |args: &[&str]| as_operator(&served, &[&["accounts"], args].concat());
    let made = accounts(&["add-key", "acme", "ci", "--expires", "2099-01-31T12:00:00Z"]).done();
    let key = made.out.lines().last().unwrap().to_owned();
    assert_eq!(served.get("/account", &key).json()["name"], "acme");
    let made = accounts(&["add-key", "beta", "bystander", "--json"]).done().json();
    let bystander = made["api_key"].as_str().unwrap().to_owned();
    let shown = accounts(&["show", "acme", "--json"]).done().json();
    let ci = shown["keys"].as_array().unwrap().iter().find(|key| key["name"] == "ci").unwrap();
    assert_eq!(ci["expires_at"], "2099-01-31T12:00:00.000Z", "{ci}");
    accounts(&["add-key", "acme", "ci", "--expires", "tomorrow"]).failed(2, &["--expires"]);
    let passed = ["add-key", "acme", "ci", "--expires", "2020-01-01T00:00:00Z"];
    accounts(&passed).failed(2, &["--expires", "has passed"]);
    accounts(&["remove-key", "acme", ci["id"].as_str().unwrap()]).done().says(&["is removed"]);
    served.get("/account", &key).assert_refused(401, "unauthorized", None);
    assert_eq!(served.get("/account", &bystander).json()["name"], "beta");
    accounts(&["remove-key", "acme", "key_0"]).failed(5, &["key_0"]);
    accounts(&["add-key", "nobody", "ci"]).failed(5, &["no account nobody"]);
}

#[test]
fn a_removed_account_is_moved_or_forgotten() {
    let (place, served) = HostProcess::operated();
    let accounts = |args: &[&str]| as_operator(&served, &[&["accounts"], args].concat());
    let create = |name: &str| -> String {
        let made = accounts(&["create", name, "--json"]).done().json();
        made["id"].as_str().unwrap().to_owned()
    };
    let (first, second) = (create("first"), create("second"));
    accounts(&["move", "first", "second"]).failed(2, &["suspended or removed"]);
    accounts(&["suspend", "first"]).done();
    accounts(&["move", "first", "second"]).done().says(&["first"]);
    accounts(&["forget", "second"]).failed(2, &["removed account"]);
    accounts(&["forget", &first]).done().says(&["forgotten; ended: 0"]);
    accounts(&["show", &first]).failed(5, &["no account"]);
    accounts(&["show", &second]).done().says(&["active"]);
    let changed = CONFIGURATION.replace("name = \"beta\"", "name = \"other\"");
    let file = place.path("wabahook.toml");
    fs::write(&file, format!("operator_key = \"{OPERATOR}\"\n{changed}")).unwrap();
    as_operator(&served, &["reload"]).done().says(&["read again"]);
    accounts(&["list"]).done().says(&["other"]);
}

/// `check` of a file, for the data directory beside it.
fn check(place: &HostDirectory, more: &[&str]) -> Ran {
    let path = |name: &str| place.path(name).display().to_string();
    let args = ["check", "--config", &path("wabahook.toml"), "--data", &path("data")];
    alone(&[&args[..], more].concat())
}

#[test]
fn check_tells_what_a_file_would_change() {
    let place = HostDirectory::new(CONFIGURATION);
    check(&place, &[]).done().says(&["is valid", "acme would be created", "beta would be created"]);
    assert!(!place.path("data").exists(), "it changes nothing");
    let served = place.start();
    let same = check(&place, &[]).done();
    assert_eq!(same.out.lines().count(), 1, "also while a host runs: {same:?}");
    let file = place.path("wabahook.toml");
    let renamed = CONFIGURATION.replace("name = \"beta\"", "name = \"other\"");
    fs::write(&file, renamed.replace("919000000001", "919000000004")).unwrap();
    let changes = check(&place, &["--json"]).done().json();
    let replaced = changes["accounts"]["replaced"].as_object().unwrap();
    let (id, _) = replaced.iter().next().unwrap();
    let expected = json!({
        "created": ["other"], "changed": ["acme"], "removed": ["beta"], "replaced": {id: "other"},
    });
    assert_eq!(changes["accounts"], expected);
    let advice = format!("warning: the new account other has a number or WABA of {id}");
    check(&place, &[]).done().says(&[
        "other would be created",
        "acme would be changed",
        "beta would be removed",
        &advice,
    ]);
    assert_eq!(served.get("/account", crate::host_process::BETA).json()["name"], "beta");
}

#[test]
fn check_tells_what_is_wrong_with_a_file() {
    let place = HostDirectory::new(CONFIGURATION);
    for (from, to, says) in [
        ("verify_token", "verify_tokn", "verify_tokn"),
        ("name = \"beta\"", "name = \"acme\"", "account.name"),
        ("919000000003", "919000000001", "account.waba.numbers"),
        ("api_key = \"beta-key\"", "api_key = \"acme-key\"", "api_key"),
        ("listen = \"127.0.0.1:0\"", "listen = \"nowhere\"", "listen"),
        ("listen = ", "tls = { certificate = \"no.pem\", key = \"no.pem\" }\nlisten = ", "no.pem"),
    ] {
        fs::write(place.path("wabahook.toml"), CONFIGURATION.replace(from, to)).unwrap();
        let wrong = check(&place, &[]).failed(2, &["wabahook.toml", says]);
        assert!(!wrong.err.contains("acme-key") && !wrong.err.contains("app-secret"), "{wrong:?}");
    }
    fs::remove_file(place.path("wabahook.toml")).unwrap();
    check(&place, &[]).failed(2, &["cannot be read"]);
}
