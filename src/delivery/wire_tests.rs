//! Decides nothing: tests of the whole room against real sockets on loopback.
//!
//! Leaves to others: what each file can show without a socket. Invariant: no test sleeps; every
//! wait is on a channel and has a deadline.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver as Inbox, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::{Guard, Http, Request, Transport};
use crate::attempt::{Answered, Failure, Reply};
use crate::clock::System;
use crate::config::Network;

/// What is seen later than this never comes.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a receiver does with a request.
enum Answer {
    /// Sends these bytes and waits for the next request.
    Say(Vec<u8>),
    /// Sends these bytes and closes the connection.
    SayAndClose(Vec<u8>),
    /// Sends these bytes and then nothing, until the other side closes.
    SayAndHang(Vec<u8>),
}

fn say(text: &str) -> Answer {
    Answer::Say(text.as_bytes().to_vec())
}

fn close() -> Answer {
    Answer::SayAndClose(Vec::new())
}

fn hang() -> Answer {
    Answer::SayAndHang(Vec::new())
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A request as it came: over which connection, counted from 0, and its exact bytes.
struct Seen {
    connection: usize,
    head: String,
    body: Vec<u8>,
}

type Script = dyn Fn(usize) -> Answer + Send + Sync;

/// An HTTP receiver on loopback that answers its n-th request, from 0, as its script says.
struct Receiver {
    address: SocketAddr,
    seen: Inbox<Seen>,
    stopping: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Receiver {
    fn start(script: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, seen) = channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let script: Arc<Script> = Arc::new(script);
        let accepting = thread::spawn(move || accept(&listener, &stop, &tell, &script));
        Receiver { address, seen, stopping, accepting: Some(accepting) }
    }

    fn url(&self) -> String {
        format!("http://{}/hook?a=b", self.address)
    }

    fn next(&self) -> Seen {
        self.seen.recv_timeout(DEADLINE).expect("a request within the deadline")
    }

    /// Whether a request came that was not looked at.
    fn saw_nothing(&self) -> bool {
        self.seen.try_recv().is_err()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &TcpListener, stop: &AtomicBool, tell: &Sender<Seen>, script: &Arc<Script>) {
    let requests = Arc::new(AtomicUsize::new(0));
    for (connection, stream) in listener.incoming().enumerate() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let (tell, script, requests) = (tell.clone(), Arc::clone(script), Arc::clone(&requests));
        thread::spawn(move || serve(stream.unwrap(), connection, &tell, &*script, &requests));
    }
}

fn serve(
    mut stream: TcpStream,
    connection: usize,
    tell: &Sender<Seen>,
    script: &Script,
    requests: &AtomicUsize,
) {
    while let Some((head, body)) = read_request(&mut stream) {
        let answer = script(requests.fetch_add(1, Ordering::SeqCst));
        let _ = tell.send(Seen { connection, head, body });
        match answer {
            Answer::Say(bytes) => {
                let _ = stream.write_all(&bytes);
            }
            Answer::SayAndClose(bytes) => {
                let _ = stream.write_all(&bytes);
                return;
            }
            Answer::SayAndHang(bytes) => {
                let _ = stream.write_all(&bytes);
                let _ = stream.read_to_end(&mut Vec::new());
                return;
            }
        }
    }
}

fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn http(allow: &[&str]) -> Http {
    let allow = allow.iter().map(|range| range.parse().unwrap()).collect();
    let guard = Guard::new(Network { allow, allow_http: true });
    Http::new(Arc::new(guard), 16, Arc::new(System::new()))
}

/// A client that may reach the receivers of these tests.
fn client() -> Http {
    http(&["127.0.0.0/8", "::1/128"])
}

/// Wed, 21 Oct 2015 07:28:00 GMT.
const WALL_MS: u64 = 1_445_412_480_000;

fn request<'a>(url: &str, body: &'a [u8], timeout_ms: u64) -> Request<'a> {
    let header = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    Request {
        method: Method::POST,
        url: url.parse().unwrap(),
        headers: vec![
            header("content-type", "application/json"),
            header("x-tenant", "acme"),
            header("webhook-id", "evt_1"),
        ],
        body: body.into(),
        tls: None,
        timeout_ms,
        wall_ms: WALL_MS,
    }
}

fn send(client: &Http, url: &str) -> Reply {
    client.send(&request(url, b"{}", 5_000))
}

/// Sends on another thread, so that the test's own deadline holds whatever the client does.
fn send_aside(client: &Arc<Http>, url: String, timeout_ms: u64) -> Inbox<Reply> {
    let (tell, reply) = channel();
    let client = Arc::clone(client);
    thread::spawn(move || tell.send(client.send(&request(&url, b"{}", timeout_ms))));
    reply
}

fn status(status: u16) -> Reply {
    Reply::status(status)
}

fn failed(failure: Failure) -> Reply {
    Reply::Failed(failure)
}

#[test]
fn the_receiver_gets_the_bytes_and_the_headers_as_they_were_given_and_few_others() {
    let receiver = Receiver::start(|_| say(OK));
    let bystander = Receiver::start(|_| say(OK));
    let body = b" {\"text\" : \"\\u00e4\\/\"}\r\n\0\xff";
    let reply = client().send(&request(&receiver.url(), body, 5_000));
    assert_eq!(reply, status(200));
    let seen = receiver.next();
    assert_eq!(seen.body, body);
    let mut lines: Vec<_> = seen.head.trim_end().lines().collect();
    assert_eq!(lines.remove(0), "POST /hook?a=b HTTP/1.1");
    lines.sort_unstable();
    let host = format!("host: {}", receiver.address);
    let length = format!("content-length: {}", body.len());
    let agent = format!("user-agent: wabahook/{}", env!("CARGO_PKG_VERSION"));
    let expected = [
        length.as_str(),
        "content-type: application/json",
        &host,
        &agent,
        "webhook-id: evt_1",
        "x-tenant: acme",
    ];
    assert_eq!(lines, expected);
    assert!(bystander.saw_nothing());
}

#[test]
fn a_body_has_a_length_whatever_its_size_and_the_method() {
    let receiver = Receiver::start(|_| say(OK));
    let client = client();
    for (method, bytes) in
        [(Method::POST, 0), (Method::POST, 300_000), (Method::PUT, 5), (Method::DELETE, 5)]
    {
        let body = vec![b'x'; bytes];
        let url = receiver.url();
        let request = Request { method: method.clone(), ..request(&url, &body, 5_000) };
        assert_eq!(client.send(&request), status(200), "{method} {bytes}");
        let seen = receiver.next();
        assert!(seen.head.starts_with(method.as_str()), "{}", seen.head);
        assert!(!seen.head.contains("transfer-encoding"), "{}", seen.head);
        assert_eq!(seen.body, body);
    }
}

fn check_answer(answer: &str, expected: &Reply) {
    let owned = answer.to_owned();
    let receiver = Receiver::start(move |n| say(if n == 0 { &owned } else { OK }));
    let client = client();
    assert_eq!(send(&client, &receiver.url()), *expected, "{answer:?}");
    // What comes back once has no influence on the next attempt.
    assert_eq!(send(&client, &receiver.url()), status(200), "after {answer:?}");
}

#[test]
fn any_status_is_an_answer_and_retry_after_is_read_in_both_forms() {
    check_answer("HTTP/1.1 204 No Content\r\n\r\n", &status(204));
    check_answer("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", &status(404));
    check_answer("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", &status(410));
    check_answer(
        "HTTP/1.1 500 Oh\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        &Reply::Answered(Answered::new(500).excerpt(b"no")),
    );
    let asked = |retry_after_ms| {
        let answered = Answered { retry_after_ms, ..Answered::new(503) };
        Reply::Answered(answered)
    };
    for (value, expected_ms) in [
        ("7", Some(7_000)),
        ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30_000)),
        ("Wed, 21 Oct 2015 07:00:00 GMT", Some(0)),
        ("soon", None),
    ] {
        let head = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nRetry-After: ";
        check_answer(&format!("{head}{value}\r\n\r\n"), &asked(expected_ms));
    }
}

#[test]
fn a_redirect_is_an_answer_and_is_not_followed() {
    let elsewhere = Receiver::start(|_| say(OK));
    for code in [301, 302, 303, 307, 308] {
        let location = elsewhere.url();
        let redirect = format!(
            "HTTP/1.1 {code} Over There\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
        );
        check_answer(&redirect, &status(code));
    }
    assert!(elsewhere.saw_nothing());
}

#[test]
fn one_connection_carries_many_attempts() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n{}", "x".repeat(60_000));
    let receiver = Receiver::start(move |n| match n % 4 {
        0 => say(OK),
        1 => say("HTTP/1.1 204 No Content\r\n\r\n"),
        2 => say(chunked),
        _ => say(&long),
    });
    let client = client();
    for n in 0..20 {
        assert!(matches!(send(&client, &receiver.url()), Reply::Answered(_)), "attempt {n}");
        assert_eq!(receiver.next().connection, 0, "attempt {n}");
    }
}

#[test]
fn an_answer_is_judged_on_its_head_however_its_body_ends() {
    let endless = "HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n";
    let cut = |bytes: usize| format!("{endless}{}", "x".repeat(bytes)).into_bytes();
    for (what, first) in [
        ("too long", Answer::SayAndHang(cut(200_000))),
        ("too slow", Answer::SayAndHang(cut(3))),
        ("cut off", Answer::SayAndClose(cut(3))),
    ] {
        let first = std::sync::Mutex::new(Some(first));
        let receiver = Receiver::start(move |_| first.lock().unwrap().take().unwrap_or(say(OK)));
        let client = Arc::new(client());
        let reply = send_aside(&client, receiver.url(), 300);
        assert_eq!(reply.recv_timeout(DEADLINE).unwrap(), status(200), "{what}");
        assert_eq!(receiver.next().connection, 0, "{what}");
        assert_eq!(send(&client, &receiver.url()), status(200), "{what}");
        assert_eq!(receiver.next().connection, 1, "{what}: a fresh connection");
    }
}

#[test]
fn a_receiver_that_does_not_speak_http_is_a_failure_of_the_protocol() {
    let long_head = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\n\r\n", "x".repeat(20_000));
    let many = "x-a: b\r\n".repeat(200);
    for bytes in
        [long_head, format!("HTTP/1.1 200 OK\r\n{many}\r\n"), "nonsense\r\n\r\n".to_owned()]
    {
        check_answer(&bytes, &failed(Failure::Protocol));
    }
}

#[test]
fn a_receiver_that_closes_before_it_answers_is_a_failed_connection_and_is_asked_once() {
    let receiver = Receiver::start(|_| close());
    let client = client();
    assert_eq!(send(&client, &receiver.url()), failed(Failure::Connect));
    assert_eq!(receiver.next().connection, 0);
    assert!(receiver.saw_nothing());
}

#[test]
fn a_port_that_nobody_listens_on_is_a_failed_connection() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(send(&client(), &format!("http://{free}/")), failed(Failure::Connect));
}

#[test]
fn a_stale_connection_is_replaced_at_once_by_a_fresh_one_that_is_kept() {
    let receiver = Receiver::start(|n| if n == 1 { close() } else { say(OK) });
    let client = client();
    assert_eq!(send(&client, &receiver.url()), status(200));
    assert_eq!(receiver.next().connection, 0);
    // The second attempt finds the connection open, and the receiver closes it unanswered.
    assert_eq!(send(&client, &receiver.url()), status(200));
    let (stale, fresh) = (receiver.next(), receiver.next());
    assert_eq!((stale.connection, fresh.connection), (0, 1));
    assert_eq!((stale.head, stale.body), (fresh.head, fresh.body));
    assert_eq!(send(&client, &receiver.url()), status(200));
    assert_eq!(receiver.next().connection, 1);
}

#[test]
fn a_stale_connection_is_replaced_once_and_not_again() {
    let receiver = Receiver::start(|n| if n == 0 { say(OK) } else { close() });
    let client = client();
    assert_eq!(send(&client, &receiver.url()), status(200));
    assert_eq!(send(&client, &receiver.url()), failed(Failure::Connect));
    let connections: Vec<_> = (0..3).map(|_| receiver.next().connection).collect();
    assert_eq!(connections, [0, 0, 1]);
    assert!(receiver.saw_nothing());
}

#[test]
fn a_stale_connection_is_not_replaced_by_another_kept_one() {
    let both_came = Barrier::new(2);
    let receiver = Receiver::start(move |n| {
        // The first two attempts are under way together, so that two connections are kept.
        if n < 2 {
            both_came.wait();
        }
        if n == 2 { close() } else { say(OK) }
    });
    let client = Arc::new(client());
    let replies = [0, 1].map(|_| send_aside(&client, receiver.url(), 5_000));
    for reply in replies {
        assert_eq!(reply.recv_timeout(DEADLINE).unwrap(), status(200));
    }
    assert_eq!(receiver.next().connection + receiver.next().connection, 1);
    assert_eq!(send(&client, &receiver.url()), status(200));
    assert!(receiver.next().connection < 2);
    assert_eq!(receiver.next().connection, 2);
}

#[test]
fn a_connection_that_breaks_within_the_head_was_not_stale() {
    let receiver = Receiver::start(|n| {
        if n == 0 { say(OK) } else { Answer::SayAndClose(b"HTTP/1.1 200 O".to_vec()) }
    });
    let client = client();
    assert_eq!(send(&client, &receiver.url()), status(200));
    assert_eq!(send(&client, &receiver.url()), failed(Failure::Connect));
    assert_eq!([receiver.next().connection, receiver.next().connection], [0, 0]);
    assert!(receiver.saw_nothing());
}

#[test]
fn an_attempt_ends_at_its_timeout_and_delays_no_other() {
    for silence in [Vec::new(), b"HTTP/1.1 200 OK\r\nx-a: b".to_vec()] {
        let receiver = Receiver::start(move |_| Answer::SayAndHang(silence.clone()));
        let bystander = Receiver::start(|_| say(OK));
        let client = Arc::new(client());
        let reply = send_aside(&client, receiver.url(), 200);
        assert_eq!(receiver.next().connection, 0);
        assert_eq!(send(&client, &bystander.url()), status(200));
        assert_eq!(reply.recv_timeout(DEADLINE).unwrap(), failed(Failure::Timeout));
    }
}

#[test]
fn a_stale_connection_does_not_lengthen_the_attempt() {
    let receiver = Receiver::start(|n| match n {
        0 => say(OK),
        1 => close(),
        _ => hang(),
    });
    let client = Arc::new(client());
    let timeout_ms = 400;
    let first = send_aside(&client, receiver.url(), timeout_ms);
    assert_eq!(first.recv_timeout(DEADLINE).unwrap(), status(200));
    let second = send_aside(&client, receiver.url(), timeout_ms);
    assert_eq!(second.recv_timeout(DEADLINE).unwrap(), failed(Failure::Timeout));
    let connections: Vec<_> = (0..3).map(|_| receiver.next().connection).collect();
    assert_eq!(connections, [0, 0, 1]);
}

#[test]
fn the_guard_refuses_names_and_literals_and_nothing_is_sent() {
    let receiver = Receiver::start(|_| say(OK));
    let port = receiver.address.port();
    let loopback = failed(Failure::Guard("loopback".to_owned()));
    let guarded = http(&["10.0.0.0/8"]);
    for host in ["localhost", "127.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]"] {
        assert_eq!(send(&guarded, &format!("http://{host}:{port}/")), loopback, "{host}");
    }
    assert!(receiver.saw_nothing());
    assert_eq!(send(&client(), &format!("http://localhost:{port}/")), status(200));
    assert_eq!(receiver.next().connection, 0);
}

#[test]
fn a_name_that_cannot_be_looked_up_is_a_failure_of_dns() {
    // Too long for a label, so that the answer needs no network.
    let url = format!("http://{}.example/", "a".repeat(64));
    assert_eq!(send(&client(), &url), failed(Failure::Dns));
}

#[cfg(feature = "tls")]
#[test]
fn a_peer_without_tls_is_a_failure_of_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let reply = send(&client(), &format!("https://{address}/"));
    assert_eq!(reply, failed(Failure::Tls("no_tls".to_owned())));
    peer.join().unwrap();
}

#[test]
fn an_interrupt_ends_attempts_under_way_and_later_ones_and_nobody_elses() {
    let receiver = Receiver::start(|n| if n < 2 { hang() } else { say(OK) });
    let (stopped, other) = (Arc::new(client()), Arc::new(client()));
    let mine = send_aside(&stopped, receiver.url(), 60_000);
    receiver.next();
    let others = send_aside(&other, receiver.url(), 60_000);
    receiver.next();
    stopped.interrupt();
    assert_eq!(mine.recv_timeout(DEADLINE).unwrap(), failed(Failure::Interrupted));
    assert_eq!(send(&stopped, &receiver.url()), failed(Failure::Interrupted));
    assert!(receiver.saw_nothing());
    assert!(others.try_recv().is_err());
    assert_eq!(send(&other, &receiver.url()), status(200));
    other.interrupt();
    assert_eq!(others.recv_timeout(DEADLINE).unwrap(), failed(Failure::Interrupted));
}

#[test]
fn an_interrupt_of_a_kept_connection_is_no_stale_connection() {
    let receiver = Receiver::start(|n| if n == 0 { say(OK) } else { hang() });
    let client = Arc::new(client());
    let timeout_ms = 60_000;
    let first = send_aside(&client, receiver.url(), timeout_ms);
    assert_eq!(first.recv_timeout(DEADLINE).unwrap(), status(200));
    let second = send_aside(&client, receiver.url(), timeout_ms);
    assert_eq!([receiver.next().connection, receiver.next().connection], [0, 0]);
    client.interrupt();
    assert_eq!(second.recv_timeout(DEADLINE).unwrap(), failed(Failure::Interrupted));
    assert!(receiver.saw_nothing());
}
