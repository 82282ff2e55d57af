//! A receiver is trusted only for what its certificate says, each fault of a certificate has its own
//! reason, and a client certificate is only used by its subscription.

use std::borrow::Cow;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, date_time_ymd};
use rustls::{ServerConnection, StreamOwned};
use wabahook::clock::ManualClock;
use wabahook::store::Memory;
use wabahook::{
    Config, Engine, Failure, Http, Reply, Roots, Shortage, Subscription, Tls, Transport,
};

use super::authority::{Authority, Pair, self_signed, server_config};
use super::client::*;
use super::tls_receiver::{Shown, tls_receiver};

/// A receiver under TLS at the name `localhost`.
fn receiver(pair: &Pair, clients: Option<(&Authority, bool)>) -> (Receiver, String, Shown) {
    let (receiver, shown) = tls_receiver(pair, clients);
    let url = format!("https://localhost:{}/hook", receiver.address.port());
    (receiver, url, shown)
}

fn trusting(roots: Roots) -> Http {
    http(network(&["127.0.0.0/8", "::1/128"]).roots(roots))
}

fn send_with(client: &Http, url: &str, tls: Option<&Tls>) -> Reply {
    let mut request = request(url, b"{}", 10_000);
    request.tls = tls.map(Cow::Borrowed);
    client.send(&request)
}

fn tls_failure(word: &str) -> Reply {
    failed(Failure::Tls(word.to_owned()))
}

#[test]
fn each_certificate_fault_has_its_own_reason() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("another"));
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2001, 1, 1);
    let early = |params: &mut CertificateParams| params.not_before = date_time_ymd(3000, 1, 1);
    for (pair, word) in [
        (authority.sign("localhost", expired), "expired"),
        (authority.sign("localhost", early), "not_yet_valid"),
        (authority.sign("other.example", |_| ()), "name"),
        (stranger.sign("localhost", |_| ()), "unknown_issuer"),
        (self_signed("localhost", false), "self_signed"),
        (self_signed("localhost", true), "self_signed"),
    ] {
        let (receiver, url, _) = receiver(&pair, None);
        let client = trusting(Roots::Given(authority.pem.clone()));
        assert_eq!(send(&client, &url), tls_failure(word));
        assert!(receiver.saw_nothing(), "{word}");
    }
}

#[test]
fn a_trusted_receiver_is_reached_and_its_connection_used_again() {
    let authority = Authority::new("ours");
    let (receiver, url, _) = receiver(&authority.sign("localhost", |_| ()), None);
    let client = trusting(Roots::Given(authority.pem.clone()));
    for _ in 0..100 {
        assert_eq!(send(&client, &url), status(200));
        assert_eq!(receiver.next().connection, 0);
    }
    let body = vec![b'x'; 3 << 20];
    assert_eq!(client.send(&request(&url, &body, 10_000)), status(200));
    assert_eq!(receiver.next().body, body);
}

#[test]
fn a_receiver_that_pauses_in_a_request_has_not_answered() {
    let authority = Authority::new("ours");
    let (receiver, url, _) = receiver(&authority.sign("localhost", |_| ()), None);
    let client = trusting(Roots::Given(authority.pem.clone()));
    // More than the system's buffers hold. By then the receiver has only sent session tickets.
    let body = vec![b'x'; 24 << 20];
    receiver.pause_once(Duration::from_millis(700));
    assert_eq!(client.send(&request(&url, &body, 15_000)), status(200));
    assert_eq!(receiver.next().body.len(), body.len());
    assert_eq!(send(&client, &url), status(200));
    assert_eq!(receiver.next().connection, 0);
}

#[test]
fn a_subscriptions_roots_replace_the_hosts() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (private, private_url, _) = receiver(&theirs.sign("localhost", |_| ()), None);
    let (bystander, usual_url, _) = receiver(&ours.sign("localhost", |_| ()), None);
    let client = trusting(Roots::Given(ours.pem.clone()));
    let tls = Tls::default().roots(&theirs.pem);
    assert_eq!(send_with(&client, &private_url, Some(&tls)), status(200));
    assert_eq!(send_with(&client, &private_url, None), tls_failure("unknown_issuer"));
    assert_eq!(send_with(&client, &usual_url, Some(&tls)), tls_failure("unknown_issuer"));
    assert_eq!(send_with(&client, &usual_url, None), status(200));
    assert_eq!((private.next().connection, bystander.next().connection), (0, 1));
}

#[test]
fn a_receiver_is_not_trusted_by_roots_that_do_not_know_it() {
    let authority = Authority::new("ours");
    for roots in [Roots::System, Roots::Bundled] {
        let (receiver, url, _) = receiver(&authority.sign("localhost", |_| ()), None);
        assert_eq!(send(&trusting(roots), &url), tls_failure("unknown_issuer"));
        assert!(receiver.saw_nothing());
    }
}

#[test]
fn a_client_certificate_is_sent_on_request() {
    let authority = Authority::new("ours");
    let stranger = Authority::new("another").sign("client", |_| ());
    let (server, pair) = (authority.sign("localhost", |_| ()), authority.sign("client", |_| ()));
    let (receiver, url, shown) = receiver(&server, Some((&authority, true)));
    let client = trusting(Roots::Given(authority.pem.clone()));
    let with = |pair: &Pair| Tls::default().client(&pair.certificate, &pair.key);
    assert_eq!(send_with(&client, &url, None), tls_failure("alert"));
    assert_eq!(send_with(&client, &url, Some(&with(&stranger))), tls_failure("alert"));
    assert!(receiver.saw_nothing());
    assert_eq!(send_with(&client, &url, Some(&with(&pair))), status(200));
    assert_eq!(receiver.next().body, b"{}");
    assert_eq!(*shown.lock().unwrap(), [1]);
}

#[test]
fn client_certificates_never_share_connections() {
    let authority = Authority::new("ours");
    let (server, one) = (authority.sign("localhost", |_| ()), authority.sign("one", |_| ()));
    let other = authority.sign("other", |_| ());
    let (receiver, url, shown) = receiver(&server, Some((&authority, false)));
    let client = trusting(Roots::Given(authority.pem.clone()));
    let one = Tls::default().client(&one.certificate, &one.key);
    let other = Tls::default().client(&other.certificate, &other.key);
    for (tls, connection) in [
        (Some(&one), 0),
        (None, 1),
        (Some(&other), 2),
        (Some(&one), 0),
        (None, 1),
        (Some(&one.clone()), 0),
    ] {
        assert_eq!(send_with(&client, &url, tls), status(200));
        assert_eq!(receiver.next().connection, connection);
    }
    assert_eq!(*shown.lock().unwrap(), [1, 0, 1]);
}

#[test]
fn unusable_tls_settings_are_refused_at_registration() {
    let clock = Arc::new(ManualClock::new(WALL_MS, 1));
    let config = Config::new("unused").store(Arc::new(Memory::default())).clock(clock);
    let engine = Engine::open(config).unwrap();
    let authority = Authority::new("ours");
    let (pair, another) = (authority.sign("a", |_| ()), authority.sign("b", |_| ()));
    let bystander = engine.subscribe(Subscription::to("https://crm.example/").unwrap()).unwrap();
    let tls = Tls::default;
    for (tls, field) in [
        (tls().client(&pair.certificate, &another.key), "tls.client_key_pem"),
        (tls().client(&pair.certificate, "hidden"), "tls.client_key_pem"),
        (tls().client(&pair.certificate, &pair.certificate), "tls.client_key_pem"),
        (tls().client("hidden", &pair.key), "tls.client_certificate_pem"),
        (tls().client("", &pair.key), "tls.client_certificate_pem"),
        (tls().roots("hidden"), "tls.roots_pem"),
        (tls().roots(""), "tls.roots_pem"),
        (tls().roots(&pair.key), "tls.roots_pem"),
    ] {
        let given = Subscription::to("https://crm.example/tls").unwrap().tls(tls);
        let error = engine.subscribe(given).unwrap_err();
        assert_eq!(error.field(), Some(field), "{error}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hidden") && !shown.contains("PRIVATE"), "{shown}");
    }
    let whole = tls().roots(&authority.pem).client(&pair.certificate, &pair.key);
    let given = Subscription::to("https://crm.example/tls").unwrap().tls(whole);
    assert_ne!(engine.subscribe(given).unwrap(), bystander);
    assert_eq!(engine.subscriptions().len(), 2);
}

#[test]
fn unreadable_roots_are_refused_at_open() {
    let open = |roots| {
        let clock = Arc::new(ManualClock::new(WALL_MS, 1));
        let config = Config::new("unused").store(Arc::new(Memory::default())).clock(clock);
        Engine::open(config.roots(roots))
    };
    let error = open(Roots::Given("no certificate".to_owned())).unwrap_err();
    assert_eq!(error.field(), Some("network.roots"), "{error}");
    assert!(open(Roots::Given(Authority::new("ours").pem)).is_ok());
}

#[test]
fn a_peer_without_tls_is_a_tls_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    assert_eq!(send(&client(), &url), tls_failure("no_tls"));
    peer.join().unwrap();
}

#[test]
fn a_handshake_that_hangs_ends_at_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let reply = client().send(&request(&url, b"{}", 300));
    assert_eq!(reply, failed(Failure::Timeout));
}

/// Each costs as much as a small request, and they could be endless.
#[test]
fn a_receiver_that_floods_with_tickets_is_not_listened_to() {
    let authority = Authority::new("ours");
    let flooding = |tickets| {
        let mut config = server_config(&authority.sign("localhost", |_| ()), None);
        config.send_tls13_tickets = tickets;
        let config = Arc::new(config);
        let accepted = move |mut stream: TcpStream| {
            let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
            while session.is_handshaking() {
                session.complete_io(&mut stream).ok()?;
            }
            Some(Box::new(StreamOwned::new(session, stream)) as Box<dyn Duplex>)
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Receiver::over(listener, accepted, |_| say(OK))
    };
    let client = trusting(Roots::Given(authority.pem.clone()));
    for (tickets, expected) in [(8, status(200)), (600, failed(Failure::Connect))] {
        let receiver = flooding(tickets);
        let url = format!("https://localhost:{}/hook", receiver.address.port());
        assert_eq!(send(&client, &url), expected, "{tickets}");
    }
}

const CHILD: &str = "WABAHOOK_TEST_FILES";

/// The child: it runs out of files before it has read the authorities that the machine trusts or looked a name up.
/// Alone it does nothing.
#[test]
fn the_child_runs_out_of_files() {
    let Ok(ports) = std::env::var(CHILD) else { return };
    let (plain, secure) = ports.split_once(' ').unwrap();
    let client = trusting(Roots::System);
    // The threads start before.
    assert_eq!(send(&client, &format!("http://127.0.0.1:{plain}/")), status(200));
    let held: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    let urls = [format!("http://localhost:{plain}/"), format!("https://127.0.0.1:{secure}/")];
    for url in &urls {
        assert_eq!(send(&client, url), failed(Failure::Shortage(Shortage::Files)), "{url}");
    }
    drop(held);
    for url in &urls {
        assert_eq!(send(&client, url), status(200), "{url}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_shortage_of_files_is_no_failure_of_names_or_authorities() {
    let authority = Authority::new("ours");
    let (secure, _) = tls_receiver(&authority.sign("127.0.0.1", |_| ()), None);
    let plain = Receiver::start(|_| say(OK));
    let directory = tempfile::tempdir().unwrap();
    let trusted = directory.path().join("trusted.pem");
    std::fs::write(&trusted, &authority.pem).unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tls::the_child_runs_out_of_files", "--nocapture"])
        .env(CHILD, format!("{} {}", plain.address.port(), secure.address.port()))
        .env("SSL_CERT_FILE", trusted)
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}
