//! An attempt ends at its deadline whatever the receiver does, and at once when the engine closes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wabahook::{Failure, Reply, Transport};

use super::client::*;

/// Sends with this timeout. The attempt must end by then, and other attempts must not wait.
fn check(answer: Act, timeout_ms: u64, expected: &Reply) {
    check_after(answer, timeout_ms, timeout_ms, expected);
}

/// How much later a busy machine may notice an end.
const LATE_MS: u64 = 5_000;

/// As `check`, for an attempt that ends after `least_ms` and not at the timeout.
fn check_after(answer: Act, timeout_ms: u64, least_ms: u64, expected: &Reply) {
    let receiver = Receiver::start(move |_| answer.clone());
    let bystander = Receiver::start(|_| say(OK));
    let client = Arc::new(client());
    let started = Instant::now();
    let reply = send_aside(&client, receiver.url(), timeout_ms);
    assert_eq!(receiver.next().connection, 0);
    assert_eq!(send(&client, &bystander.url()), status(200));
    assert_eq!(reply.recv_timeout(DEADLINE).unwrap(), *expected);
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(least_ms), "{elapsed:?}");
    assert!(elapsed < Duration::from_millis(least_ms + LATE_MS), "{elapsed:?}");
}

#[test]
fn silence_ends_at_the_timeout() {
    check(hang(), 200, &failed(Failure::Timeout));
    check(Act::SayAndHang(b"HTTP/1.1 200 OK\r\nx-a: b".to_vec()), 200, &failed(Failure::Timeout));
}

#[test]
fn a_slow_head_ends_at_the_timeout() {
    let drops = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec();
    let slowly = Act::Drip(Vec::new(), drops, Duration::from_secs(1));
    check(slowly, 2_500, &failed(Failure::Timeout));
}

#[test]
fn an_endless_body_ends_after_250_ms_and_counts() {
    const DRAIN_MS: u64 = 250;
    let second = Duration::from_secs(1);
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1e\r\n",
    ] {
        let slowly = Act::Drip(head.as_bytes().to_vec(), vec![b'x'; 30], second);
        check_after(slowly, 10_000, DRAIN_MS, &status(200));
    }
    let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let drip = Act::Drip(head, vec![b'x'; 300], Duration::from_millis(50));
    check_after(drip.clone(), 10_000, DRAIN_MS, &status(200));
    check(drip, 100, &status(200));
}

#[test]
fn endless_interim_responses_end_at_the_timeout() {
    let advance = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000);
    let pause = Duration::from_millis(1);
    check(Act::Drip(Vec::new(), advance, pause), 400, &failed(Failure::Timeout));
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
fn an_unread_request_ends_at_the_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let body = vec![b'x'; 32 << 20];
    // The system accepts it, and nobody reads it.
    let reply = client().send(&request(&url, &body, 600));
    assert_eq!(reply, failed(Failure::Timeout));
}

#[test]
fn an_interrupt_ends_all_attempts_of_one_client() {
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
fn an_interrupted_connection_is_not_a_stale_one() {
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
