//! Promises that an attempt ends at its deadline whatever the receiver does with its bytes, and at once
//! when the engine closes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wabahook::{Failure, Reply, Transport};

use super::receiver::*;

/// Sends with so much time, and shows that it is over by then, and that no other attempt waited.
fn check(answer: Answer, timeout_ms: u64, expected: &Reply) {
    let receiver = Receiver::start(move |_| answer.clone());
    let bystander = Receiver::start(|_| say(OK));
    let client = Arc::new(client());
    let started = Instant::now();
    let reply = send_aside(&client, receiver.url(), timeout_ms);
    assert_eq!(receiver.next().connection, 0);
    assert_eq!(send(&client, &bystander.url()), status(200));
    assert_eq!(reply.recv_timeout(DEADLINE).unwrap(), *expected);
    assert!(started.elapsed() >= Duration::from_millis(timeout_ms), "{:?}", started.elapsed());
}

#[test]
fn silence_ends_at_the_timeout() {
    check(hang(), 200, &failed(Failure::Timeout));
    check(
        Answer::SayAndHang(b"HTTP/1.1 200 OK\r\nx-a: b".to_vec()),
        200,
        &failed(Failure::Timeout),
    );
}

#[test]
fn a_head_of_a_byte_a_second_ends_at_the_timeout() {
    let drops = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec();
    let slowly = Answer::Drip(Vec::new(), drops, Duration::from_secs(1));
    check(slowly, 2_500, &failed(Failure::Timeout));
}

#[test]
fn a_body_of_a_byte_a_second_ends_at_the_timeout_and_the_answer_stands() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n".to_vec();
    check(Answer::Drip(head, vec![b'x'; 30], Duration::from_secs(1)), 2_500, &status(200));
    let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    check(Answer::Drip(head, vec![b'x'; 300], Duration::from_millis(50)), 500, &status(200));
}

#[test]
fn words_in_advance_without_end_end_at_the_timeout() {
    let advance = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000);
    let pause = Duration::from_millis(1);
    check(Answer::Drip(Vec::new(), advance, pause), 400, &failed(Failure::Timeout));
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
fn a_receiver_that_takes_nothing_more_of_the_request_ends_at_the_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let body = vec![b'x'; 32 << 20];
    // Accepted by the system and read by nobody.
    let reply = client().send(&request(&url, &body, 600));
    assert_eq!(reply, failed(Failure::Timeout));
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
