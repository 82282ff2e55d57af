//! A TLS receiver is trusted by the roots of the configuration and of its subscription only.

use std::fs;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver as Inbox, Sender};
use std::thread;
use std::time::Instant;

use rustls::{ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::authority::{Authority, Pair, self_signed, server_config};
use crate::host_process::{ACME, CONFIGURATION, HostDirectory, HostProcess, line};
use crate::receiver::{Attempt, read_attempt};

/// A TLS receiver on loopback that acknowledges everything.
struct Secured {
    address: SocketAddr,
    inbox: Inbox<Attempt>,
}

impl Secured {
    /// Uses this certificate, and requires a client certificate of the authority where one is given.
    fn showing(pair: &Pair, clients: Option<&Authority>) -> Secured {
        let config = Arc::new(server_config(pair, clients.map(|authority| (authority, true))));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, inbox) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (config, sender) = (Arc::clone(&config), sender.clone());
                thread::spawn(move || {
                    let session = ServerConnection::new(config).unwrap();
                    converse(StreamOwned::new(session, stream), &sender);
                });
            }
        });
        Secured { address, inbox }
    }

    fn url(&self) -> String {
        format!("https://{}/hook", self.address)
    }

    fn next(&self) -> Attempt {
        self.inbox.recv_timeout(DEADLINE).expect("an attempt should have arrived")
    }

    fn assert_saw_nothing(&self) {
        assert!(self.inbox.try_recv().is_err(), "a request reached one who is not trusted");
    }
}

/// Serves one connection until its peer closes it or a handshake fails.
fn converse(stream: StreamOwned<ServerConnection, TcpStream>, sender: &Sender<Attempt>) {
    let mut reader = BufReader::new(stream);
    while let Some(attempt) = read_attempt(&mut reader) {
        if sender.send(attempt).is_err() {
            return;
        }
        let stream = reader.get_mut();
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
        let _ = stream.flush();
    }
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
    let answer = served.post(&format!("/subscriptions/{id}/test"), ACME, "");
    assert_eq!(answer.status, 200, "{answer:?}");
    (id, answer.json()["reason"].clone())
}

/// Publishes, waits until this many are dead and nothing is owed, and returns whose they are.
fn published(served: &HostProcess, dead: usize) -> Vec<(u64, String)> {
    assert_eq!(served.post("/events", ACME, line(1)).status, 202);
    let stats = served.until(|stats| stats["owed"] == 0);
    assert_eq!(stats["dead"], dead, "{stats}");
    let started = Instant::now();
    loop {
        // Counted at once, listed when durable.
        let items = served.items("/dead-letters", ACME);
        if items.len() == dead {
            let letter = |one: &Value| {
                let reason = one["reason"].as_str().unwrap().to_owned();
                (one["subscription"].as_u64().unwrap(), reason)
            };
            let mut found: Vec<_> = items.iter().map(letter).collect();
            found.sort_unstable();
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "{items:?}");
    }
}

#[test]
fn only_the_authority_of_the_file_is_trusted() {
    let (ours, another) = (Authority::new("ours"), Authority::new("another"));
    let trusted = Secured::showing(&ours.sign("127.0.0.1", |_| ()), None);
    let stranger = Secured::showing(&another.sign("127.0.0.1", |_| ()), None);
    let alone = Secured::showing(&self_signed("127.0.0.1", false), None);
    let place = trusting("{here}ca.pem");
    fs::write(place.path("ca.pem"), &ours.pem).unwrap();
    let served = place.start();
    let (_, reason) = tested(&served, &trusted.url(), &Value::Null);
    assert_eq!(reason, Value::Null);
    assert_eq!(trusted.next().header("x-webhook-event"), Some("TEST"));
    let (unknown, reason) = tested(&served, &stranger.url(), &Value::Null);
    assert_eq!(reason, "tls:unknown_issuer");
    let (self_made, reason) = tested(&served, &alone.url(), &Value::Null);
    assert_eq!(reason, "tls:self_signed");
    let dead = [(unknown, "tls:unknown_issuer"), (self_made, "tls:self_signed")];
    assert_eq!(published(&served, 2), dead.map(|(id, reason)| (id, reason.to_owned())));
    assert_eq!(trusted.next().text(), "{\"n\":1}");
    stranger.assert_saw_nothing();
    alone.assert_saw_nothing();
}

#[test]
fn an_unnamed_authority_is_not_trusted() {
    let authority = Authority::new("ours");
    let receiver = Secured::showing(&authority.sign("127.0.0.1", |_| ()), None);
    for roots in ["system", "bundled"] {
        let place = trusting(roots);
        let served = place.start();
        let (id, reason) = tested(&served, &receiver.url(), &Value::Null);
        assert_eq!(reason, "tls:unknown_issuer", "{roots}");
        assert_eq!(published(&served, 1), [(id, "tls:unknown_issuer".to_owned())], "{roots}");
    }
    receiver.assert_saw_nothing();
}

#[test]
fn tls_settings_apply_to_their_subscription_only() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let private = Secured::showing(&theirs.sign("127.0.0.1", |_| ()), Some(&theirs));
    let bystander = Secured::showing(&ours.sign("127.0.0.1", |_| ()), None);
    let place = trusting("{here}ca.pem");
    fs::write(place.path("ca.pem"), &ours.pem).unwrap();
    let served = place.start();
    let pair = theirs.sign("client", |_| ());
    let tls = json!({
        "roots_pem": theirs.pem, "client_certificate_pem": pair.certificate,
        "client_key_pem": pair.key,
    });
    let (id, reason) = tested(&served, &private.url(), &tls);
    assert_eq!(reason, Value::Null);
    assert_eq!(private.next().path, "/hook");
    let (_, reason) = tested(&served, &bystander.url(), &Value::Null);
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
