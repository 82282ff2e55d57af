//! Every response that HTTP allows is read correctly, within the limits of time and size, and has no
//! influence on the next request.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use wabahook::{Failure, Reply, Response, Transport};

use super::client::*;

#[test]
fn the_receiver_gets_the_request_as_given() {
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
fn a_kept_connection_carries_the_same_bytes_as_a_new_one() {
    let receiver = Receiver::start(|_| say(OK));
    let header = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    for (method, path) in [
        (Method::POST, "/hook?a=b"),
        (Method::PUT, ""),
        (Method::PATCH, "?a=b"),
        (Method::DELETE, "/hook"),
    ] {
        for headers in [
            request(&receiver.url(), b"{}", 5_000).headers,
            vec![header("user-agent", "acme/1"), header("x-a", "1"), header("x-a", "2")],
        ] {
            let url = format!("http://{}{path}", receiver.address);
            let client = client();
            let mut request = request(&url, b"{}", 5_000);
            request.method = method.clone();
            request.headers = headers;
            let seen = [0, 1, 2].map(|_| {
                assert_eq!(client.send(&request), status(200), "{method} {path}");
                receiver.next()
            });
            assert_eq!(seen[0].connection, seen[1].connection);
            for later in &seen[1..] {
                assert_eq!((&seen[0].head, &seen[0].body), (&later.head, &later.body));
            }
        }
    }
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
        let mut request = request(&url, &body, 5_000);
        request.method = method.clone();
        assert_eq!(client.send(&request), status(200), "{method} {bytes}");
        let seen = receiver.next();
        assert!(seen.head.starts_with(method.as_str()), "{}", seen.head);
        assert!(!seen.head.contains("transfer-encoding"), "{}", seen.head);
        assert_eq!(seen.body, body);
    }
}

/// Answers once with `answer`, over a new connection and over a reused one, and then with an ordinary
/// 200. Returns whether the connection was kept.
fn check_answer(answer: Act, expected: &Reply) -> bool {
    let kept = [0, 1].map(|before| check_answer_after(before, answer.clone(), expected));
    assert_eq!(kept[0], kept[1], "a used connection was treated otherwise after {expected:?}");
    kept[0]
}

fn check_answer_after(before: usize, answer: Act, expected: &Reply) -> bool {
    let receiver = Receiver::start(move |n| if n == before { answer.clone() } else { say(OK) });
    let client = client();
    for _ in 0..before {
        assert_eq!(send(&client, &receiver.url()), status(200));
        assert_eq!(receiver.next().connection, 0);
    }
    assert_eq!(send(&client, &receiver.url()), *expected);
    assert_eq!(receiver.next().connection, 0);
    // A response has no influence on the next attempt.
    assert_eq!(send(&client, &receiver.url()), status(200), "after {expected:?}");
    let kept = receiver.next().connection == 0;
    assert!(receiver.saw_nothing());
    kept
}

fn check_kept(answer: &str, expected: &Reply) {
    assert!(check_answer(say(answer), expected), "the connection was not kept after {answer:?}");
}

fn check_not_kept(answer: Act, expected: &Reply) {
    assert!(!check_answer(answer, expected), "the connection was kept after {expected:?}");
}

fn closing(text: &str) -> Act {
    Act::SayAndClose(text.as_bytes().to_vec())
}

#[test]
fn any_status_is_a_response_and_retry_after_has_two_forms() {
    check_kept("HTTP/1.1 204 No Content\r\n\r\n", &status(204));
    check_kept("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", &status(404));
    check_kept("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", &status(410));
    check_kept(
        "HTTP/1.1 500 Oh\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        &Reply::Response(Response::new(500).excerpt(b"no")),
    );
    for (value, expected_ms) in [
        ("7", Some(7_000)),
        ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30_000)),
        ("Wed, 21 Oct 2015 07:00:00 GMT", Some(0)),
        ("soon", None),
    ] {
        let mut expected = Response::new(503);
        expected.retry_after = expected_ms.map(Duration::from_millis);
        let head = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nRetry-After: ";
        check_kept(&format!("{head}{value}\r\n\r\n"), &Reply::Response(expected));
    }
}

#[test]
fn a_redirect_is_a_response_and_is_not_followed() {
    let elsewhere = Receiver::start(|_| say(OK));
    for code in [300, 301, 302, 303, 304, 307, 308] {
        let location = elsewhere.url();
        let length = if code == 304 { "" } else { "content-length: 0\r\n" };
        let redirect =
            format!("HTTP/1.1 {code} Over There\r\nlocation: {location}\r\n{length}\r\n");
        check_kept(&redirect, &status(code));
    }
    assert!(elsewhere.saw_nothing());
}

#[test]
fn an_interim_response_is_not_the_response() {
    for advance in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
    ] {
        check_kept(&format!("{advance}{OK}"), &status(200));
    }
    // No upgrade was requested, and what follows is not HTTP.
    check_not_kept(closing("HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n"), &status(101));
}

#[test]
fn a_forbidden_body_costs_only_the_connection() {
    let empty = "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello";
    check_not_kept(say(empty), &status(204));
    check_not_kept(say(&format!("{OK}HTTP/1.1 500 Oh\r\n\r\n")), &status(200));
}

#[test]
fn an_http_1_0_response_ends_with_its_connection() {
    check_not_kept(say("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"), &status(200));
    check_not_kept(closing("HTTP/1.0 200 OK\r\n\r\nok"), &status(200));
    check_kept(
        "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
        &status(200),
    );
}

#[test]
fn every_framing_of_a_body_is_understood() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    check_kept(&format!("{chunked}2\r\nok\r\n0\r\n\r\n"), &status(200));
    check_kept(&format!("{chunked}2;a=b\r\nok\r\n1\r\n!\r\n0\r\n\r\n"), &status(200));
    check_not_kept(closing("HTTP/1.1 200 OK\r\n\r\nuntil the end"), &status(200));
    let unframed = Reply::Response(Response::new(500).excerpt(b"until the end"));
    check_not_kept(closing("HTTP/1.1 500 Oh\r\n\r\nuntil the end"), &unframed);
    let asked = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    check_not_kept(say(asked), &status(200));
}

#[test]
fn a_response_is_judged_on_its_head() {
    let endless = "HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n";
    let cut = |bytes: usize| format!("{endless}{}", "x".repeat(bytes)).into_bytes();
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for answer in [
        Act::SayAndHang(cut(200_000)),
        Act::SayAndClose(cut(3)),
        Act::SayAndReset(cut(3)),
        Act::SayAndClose(format!("{chunked}5\r\nab").into_bytes()),
        Act::SayAndClose(format!("{chunked}nonsense").into_bytes()),
    ] {
        check_not_kept(answer, &status(200));
    }
}

#[test]
fn a_response_of_a_gigabyte_is_not_read_to_its_end() {
    const GIGABYTE: u64 = 1 << 30;
    for head in [
        format!("HTTP/1.1 200 OK\r\ncontent-length: {GIGABYTE}\r\n\r\n"),
        "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
    ] {
        let receiver = Receiver::start(move |n| match n {
            0 => Act::Flood(head.clone().into_bytes(), GIGABYTE),
            _ => say(OK),
        });
        let client = client();
        assert_eq!(send(&client, &receiver.url()), status(200));
        assert_eq!(receiver.next().connection, 0);
        assert_eq!(send(&client, &receiver.url()), status(200));
        assert_eq!(receiver.next().connection, 1);
        // Only what fits into the system's buffers.
        assert!(receiver.flooded() < 64 << 20, "{}", receiver.flooded());
    }
}

#[test]
fn a_peer_without_http_is_a_protocol_failure() {
    let protocol = failed(Failure::Protocol);
    for bytes in [
        "nonsense\r\n\r\n".to_owned(),
        "\0\r\n\r\n".to_owned(),
        "HTTP/1.1 2000 OK\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 {}\r\n\r\n", "x".repeat(20_000)),
    ] {
        check_not_kept(say(&bytes), &protocol);
    }
}

#[test]
fn the_status_counts_despite_long_or_broken_headers() {
    let long = |bytes| format!("HTTP/1.1 200 OK\r\nx-long: {}\r\n\r\n", "x".repeat(bytes));
    let length = "content-length: 0\r\n\r\n";
    for bytes in [
        long(20_000),
        long(64 * 1024),
        long(300_000),
        format!("HTTP/1.1 200 OK\r\n{}{length}", "x-a: b\r\n".repeat(200)),
        format!("HTTP/1.1 200 OK\r\nx-a: b\r\n folded\r\n{length}"),
        format!("HTTP/1.1 200 OK\r\nx-a : b\r\n{length}"),
    ] {
        check_not_kept(say(&bytes), &status(200));
    }
    let busy = format!("HTTP/1.1 503 Busy\r\nretry-after : 7\r\n{length}");
    let expected = Response::new(503).retry_after(Duration::from_secs(7));
    check_not_kept(say(&busy), &Reply::Response(expected));
    check_kept(&long(14_000).replace("\r\n\r\n", "\r\ncontent-length: 0\r\n\r\n"), &status(200));
}

#[test]
fn a_request_with_a_long_url_and_long_headers_goes_out() {
    let receiver = Receiver::start(|_| say(OK));
    let (path, query, value) = ("p".repeat(2_000), "q".repeat(4_000), "v".repeat(4_000));
    let url = format!("http://{}/{path}?{query}", receiver.address);
    let mut request = request(&url, b"{}", 5_000);
    let value = HeaderValue::from_str(&value).unwrap();
    request.headers = vec![(HeaderName::from_static("x-long"), value.clone()); 8];
    let client = client();
    for _ in 0..2 {
        assert_eq!(client.send(&request), status(200));
        let seen = receiver.next();
        assert!(seen.head.starts_with(&format!("POST /{path}?{query} HTTP/1.1\r\nhost: ")));
        assert_eq!(seen.head.matches(value.to_str().unwrap()).count(), 8);
    }
}
