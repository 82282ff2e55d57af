//! Promises that a connection that ends at any byte of a response gives the same verdict every time: the status
//! once the head is whole, and a failed connection before.

use std::time::Duration;

use wabahook::{Failure, Reply, Response, Transport};

use super::client::*;

const HEAD: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\nretry-after: 7\r\n\r\n";

fn expected(bytes: usize) -> Reply {
    if bytes < HEAD.len() {
        return failed(Failure::Connect);
    }
    let excerpt = &b"soon"[..(bytes - HEAD.len()).min(4)];
    Reply::Response(Response::new(503).retry_after(Duration::from_secs(7)).excerpt(excerpt))
}

/// Cuts a response after each byte, each time over a new connection.
fn check_each(cut: impl Fn(Vec<u8>) -> Act + Send + Sync + 'static) {
    let whole = format!("{HEAD}soon").into_bytes();
    let bytes = whole.len();
    let receiver = Receiver::start(move |n| cut(whole[..n % (bytes + 1)].to_vec()));
    let client = client();
    for sent in 0..=bytes {
        assert_eq!(send(&client, &receiver.url()), expected(sent), "{sent} bytes");
        assert_eq!(receiver.next().connection, sent);
    }
    assert!(receiver.saw_nothing());
}

#[test]
fn a_close_after_each_byte() {
    check_each(Act::SayAndClose);
}

#[test]
fn a_reset_after_each_byte() {
    check_each(Act::SayAndReset);
}

#[test]
fn a_response_byte_by_byte_keeps_its_connection() {
    let whole = format!("{HEAD}soon").into_bytes();
    let bytes = whole.len();
    let receiver =
        Receiver::start(move |_| Act::Drip(Vec::new(), whole.clone(), Duration::from_millis(1)));
    let client = client();
    for _ in 0..2 {
        assert_eq!(send(&client, &receiver.url()), expected(bytes));
        assert_eq!(receiver.next().connection, 0);
    }
}

#[test]
fn a_head_of_300_kb_is_judged_before_it_is_complete() {
    let head = format!("HTTP/1.1 200 OK\r\nx-long: {}", "x".repeat(300_000)).into_bytes();
    let receiver = Receiver::start(move |n| match n {
        0 => Act::SayAndHang(head.clone()),
        _ => say(OK),
    });
    let client = client();
    assert_eq!(client.send(&request(&receiver.url(), b"{}", 60_000)), status(200));
    assert_eq!(receiver.next().connection, 0);
    assert_eq!(send(&client, &receiver.url()), status(200));
    assert_eq!(receiver.next().connection, 1);
}
