//! A TLS receiver is trusted by the roots of the configuration and of its subscription only.

use std::fs;

use serde_json::{Value, json};

use crate::authority::{Authority, Pair, self_signed};
use crate::host_process::{ACME, CONFIGURATION, HostDirectory, HostProcess, line};
use crate::support::http_receiver::Receiver;
use crate::tls_receiver::tls_receiver;

/// A receiver with this certificate, and its URL.
fn receiver(pair: &Pair, clients: Option<&Authority>) -> (Receiver, String) {
    let (receiver, _) = tls_receiver(pair, clients.map(|authority| (authority, true)));
    let url = format!("https://{}/hook", receiver.address);
    (receiver, url)
}

/// A directory whose configuration has these roots; `{here}` stands for its path.
fn trusting(roots: &str) -> HostDirectory {
    let place = HostDirectory::new("");
    let roots = roots.replace("{here}", &place.path("").display().to_string());
    let configuration =
        CONFIGURATION.replace("[network]", &format!("[network]\nroots = {roots:?}"));
    fs::write(place.path("wabahook.toml"), configuration).unwrap();
    place
}

/// Registers a subscription with one attempt and sends it a test; returns why that failed, if it did.
fn tested(served: &HostProcess, url: &str, tls: &Value) -> (u64, Value) {
    let retry = json!({"kind": "linear", "step_ms": 50, "max_ms": 50, "attempts": 1});
    let id = served.subscribe(ACME, url, json!({"retry": retry, "tls": tls}));
    let answer = served.post(&format!("/subscriptions/{id}/test"), ACME, "").with_status(200);
    (id, answer.json()["reason"].clone())
}

/// Publishes, waits until this many are dead and nothing is owed, and returns whose they are.
fn published(served: &HostProcess, dead: usize) -> Vec<(u64, String)> {
    served.post("/events", ACME, line(1)).with_status(202);
    let stats = served.until(|stats| stats["owed"] == 0);
    assert_eq!(stats["dead"], dead, "{stats}");
    let letter = |one: &Value| {
        let reason = one["reason"].as_str().unwrap().to_owned();
        (one["subscription"].as_u64().unwrap(), reason)
    };
    let mut found: Vec<_> = served.until_listed(ACME, dead).iter().map(letter).collect();
    found.sort_unstable();
    found
}

#[test]
fn only_the_authority_of_the_file_is_trusted() {
    let (ours, another) = (Authority::new("ours"), Authority::new("another"));
    let (trusted, trusted_url) = receiver(&ours.sign("127.0.0.1", |_| ()), None);
    let (stranger, stranger_url) = receiver(&another.sign("127.0.0.1", |_| ()), None);
    let (alone, alone_url) = receiver(&self_signed("127.0.0.1", false), None);
    let place = trusting("{here}ca.pem");
    fs::write(place.path("ca.pem"), &ours.pem).unwrap();
    let served = place.start();
    let (_, reason) = tested(&served, &trusted_url, &Value::Null);
    assert_eq!(reason, Value::Null);
    assert_eq!(trusted.next().header("x-webhook-event"), Some("TEST"));
    let (unknown, reason) = tested(&served, &stranger_url, &Value::Null);
    assert_eq!(reason, "tls:unknown_issuer");
    let (self_made, reason) = tested(&served, &alone_url, &Value::Null);
    assert_eq!(reason, "tls:self_signed");
    let dead = [(unknown, "tls:unknown_issuer"), (self_made, "tls:self_signed")];
    assert_eq!(published(&served, 2), dead.map(|(id, reason)| (id, reason.to_owned())));
    assert_eq!(trusted.next().text(), "{\"n\":1}");
    assert!(stranger.saw_nothing());
    assert!(alone.saw_nothing());
}

#[test]
fn an_unnamed_authority_is_not_trusted() {
    let authority = Authority::new("ours");
    let (receiver, url) = receiver(&authority.sign("127.0.0.1", |_| ()), None);
    for roots in ["system", "bundled"] {
        let place = trusting(roots);
        let served = place.start();
        let (id, reason) = tested(&served, &url, &Value::Null);
        assert_eq!(reason, "tls:unknown_issuer", "{roots}");
        assert_eq!(published(&served, 1), [(id, "tls:unknown_issuer".to_owned())], "{roots}");
    }
    assert!(receiver.saw_nothing());
}

#[test]
fn tls_settings_apply_to_their_subscription_only() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (private, private_url) = receiver(&theirs.sign("127.0.0.1", |_| ()), Some(&theirs));
    let (bystander, bystander_url) = receiver(&ours.sign("127.0.0.1", |_| ()), None);
    let place = trusting("{here}ca.pem");
    fs::write(place.path("ca.pem"), &ours.pem).unwrap();
    let served = place.start();
    let pair = theirs.sign("client", |_| ());
    let tls = json!({
        "roots_pem": theirs.pem, "client_certificate_pem": pair.certificate,
        "client_key_pem": pair.key,
    });
    let (id, reason) = tested(&served, &private_url, &tls);
    assert_eq!(reason, Value::Null);
    assert_eq!(private.next().path, "/hook");
    let (_, reason) = tested(&served, &bystander_url, &Value::Null);
    assert_eq!(reason, Value::Null);
    assert_eq!(bystander.next().path, "/hook");
    assert_eq!(published(&served, 0), []);
    assert_eq!((private.next().text(), bystander.next().text()), ("{\"n\":1}", "{\"n\":1}"));
    let shown = served.get(&format!("/subscriptions/{id}"), ACME);
    assert_eq!(shown.json()["tls"], json!({"roots": true, "client_certificate": true}));
    assert!(!shown.body.contains("BEGIN"), "{shown:?}");
}

#[test]
fn unusable_tls_settings_are_refused_by_field() {
    let authority = Authority::new("ours");
    let (pair, another) = (authority.sign("a", |_| ()), authority.sign("b", |_| ()));
    let (_place, served) = HostProcess::fresh();
    let bystander = served.subscribe(ACME, "https://crm.example/", json!({}));
    let before = served.get("/subscriptions", ACME).json();
    for (tls, field) in [
        (
            json!({"client_certificate_pem": pair.certificate, "client_key_pem": another.key}),
            "tls.client_key_pem",
        ),
        (
            json!({"client_certificate_pem": "hidden", "client_key_pem": pair.key}),
            "tls.client_certificate_pem",
        ),
        (
            json!({"client_certificate_pem": pair.certificate, "client_key_pem": "hidden"}),
            "tls.client_key_pem",
        ),
        (json!({"client_certificate_pem": pair.certificate}), "tls.client_key_pem"),
        (json!({"roots_pem": "hidden"}), "tls.roots_pem"),
    ] {
        let body = json!({
            "name": "tls", "url": "https://crm.example/tls", "events": "*", "numbers": "*",
            "tls": tls,
        });
        let answer = served.post("/subscriptions", ACME, body.to_string());
        answer.assert_refused(400, "invalid", Some(field));
        assert!(!answer.body.contains("hidden") && !answer.body.contains("BEGIN PR"), "{answer:?}");
        let path = format!("/subscriptions/{bystander}");
        let answer = served.patch(&path, ACME, &json!({ "tls": tls }));
        answer.assert_refused(400, "invalid", Some(field));
    }
    assert_eq!(served.get("/subscriptions", ACME).json(), before);
}

#[test]
fn unusable_roots_are_refused_at_start_with_code_2() {
    let place = trusting("{here}ca.pem");
    for told in ["cannot be read", "network.roots"] {
        let output = place.command().output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(told) && said.contains("network.roots"), "{said}");
        assert!(!said.contains("hidden") && said.lines().count() == 1, "{said}");
        fs::write(place.path("ca.pem"), "hidden").unwrap();
    }
}
