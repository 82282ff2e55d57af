//! Responses that arrive whole and in pieces, and what is read from them.

use super::*;
use proptest::prelude::*;

/// Wed, 21 Oct 2015 07:28:00 GMT.
const WALL_MS: u64 = 1_445_412_480_000;

/// The result for a response whose bytes arrive in pieces of this size, then the end.
type Read = Result<(Progress, Option<Response>), MalformedResponse>;

fn read_in(pieces: impl IntoIterator<Item = usize>, bytes: &[u8], is_head_request: bool) -> Read {
    let mut reader = ResponseReader::new(is_head_request, WALL_MS);
    let mut rest = bytes;
    for piece in pieces {
        let (piece, later) = rest.split_at(piece.min(rest.len()));
        reader.feed(piece)?;
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    reader.feed(rest)?;
    Ok((reader.progress(), reader.into_response()))
}

fn read(text: &str) -> Read {
    let whole = read_in([text.len()], text.as_bytes(), false);
    assert_eq!(read_in(std::iter::repeat(1), text.as_bytes(), false), whole, "{text:?}");
    whole
}

fn check(text: &str, expected: Progress, response: Response) {
    assert_eq!(read(text), Ok((expected, Some(response))), "{text:?}");
}

fn check_kept(text: &str, status: u16) {
    check(text, Progress::Done(Reuse::Keep), Response::new(status));
}

fn check_closed(text: &str, status: u16) {
    check(text, Progress::Done(Reuse::Close), Response::new(status));
}

fn check_malformed(text: &str) {
    assert_eq!(read(text), Err(MalformedResponse), "{text:?}");
}

#[test]
fn a_whole_response_keeps_the_connection() {
    check_kept("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200);
    check_kept("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200);
    check_kept("HTTP/1.1 202 \ncontent-length: 0\n\n", 202);
    check_kept("HTTP/1.1 204 No Content\r\n\r\n", 204);
    check_kept("HTTP/1.1 304 Not Modified\r\n\r\n", 304);
    check_kept("\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200);
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n";
    check_kept(&format!("{chunked}2\r\nok\r\n0\r\n\r\n"), 200);
    check_kept(&format!("{chunked}2;a=b\r\nok\r\n1 \r\n!\r\n000\r\nx-a: b\r\n\r\n"), 200);
    check_kept("HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 1\r\n\r\nx", 200);
}

#[test]
fn interim_statuses_are_skipped_and_101_closes() {
    let advance = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    check_kept(&format!("{advance}HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), 200);
    assert_eq!(read(advance), Ok((Progress::Head, None)));
    check_closed("HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n", 101);
}

#[test]
fn interim_responses_are_bounded() {
    let advance = "HTTP/1.1 100 Continue\r\n\r\n";
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let fitting = HEAD_BYTES_MAX / advance.len();
    check_kept(&format!("{}{whole}", advance.repeat(fitting)), 200);
    check_malformed(&advance.repeat(fitting + 1));
}

#[test]
fn the_status_stands_where_the_headers_are_broken() {
    let length = "content-length: 0\r\n";
    for headers in [
        format!("x-a: b\r\n folded\r\n{length}"),
        format!("x-a : b\r\n{length}"),
        format!("no colon\r\n{length}"),
        format!("x-\u{1}a: b\r\n{length}"),
        format!("{}{length}", "x-a: b\r\n".repeat(HEADERS_MAX + 1)),
        format!("x-long: {}\r\n{length}", "x".repeat(300_000)),
        "content-length: 0\r\ncontent-length: 0\r\n".to_owned(),
        "content-length: +5\r\n".to_owned(),
        "content-length: 2, 2\r\n".to_owned(),
        "content-length: 99999999999999999999\r\n".to_owned(),
    ] {
        check_closed(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n"), 200);
        check_closed(&format!("HTTP/1.1 503 Busy\r\n{headers}\r\n"), 503);
    }
    let broken =
        "HTTP/1.1 503 Busy\r\nx-a : b\r\nRetry-After: 7\r\nwebhook-delivery : disable\r\n\r\n";
    let expected =
        Response::new(503).retry_after(Duration::from_secs(7)).control(DeliveryControl::Disable);
    check(broken, Progress::Done(Reuse::Close), expected.clone());
    let long = broken.replace("\r\n\r\n", &format!("\r\nx-b: {}\r\n\r\n", "x".repeat(20_000)));
    check(&long, Progress::Done(Reuse::Close), expected);
}

#[test]
fn what_has_no_unambiguous_status_line_is_malformed() {
    for text in [
        "nonsense\r\n\r\n",
        "\0\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 099 Odd\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 200\rOK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        " HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1\t200 OK\r\n\r\n",
        "\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        check_malformed(text);
    }
    check_malformed(&format!("HTTP/1.1 200 {}", "x".repeat(HEAD_BYTES_MAX)));
    check_malformed(&format!("HTTP/1.1 100 Continue\r\nx: {}", "x".repeat(HEAD_BYTES_MAX)));
}

#[test]
fn doubt_or_close_ends_the_connection() {
    let ok = "HTTP/1.1 200 OK\r\n";
    for rest in [
        "connection: close\r\ncontent-length: 2\r\n\r\nok",
        "connection: keep-alive, Close\r\ncontent-length: 2\r\n\r\nok",
        "content-length: 2\r\n\r\nokk",
        "content-length: 0\r\n\r\nHTTP/1.1 500 Oh\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\nnonsense",
        "transfer-encoding: chunked\r\n\r\n1\r\nab",
        "transfer-encoding: chunked\r\n\r\n1111111111111111\r\n",
        "content-length: 9000000\r\n\r\n",
    ] {
        check_closed(&format!("{ok}{rest}"), 200);
    }
    check_closed("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", 200);
    check_closed("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", 204);
    check_closed("HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", 204);
    let old =
        "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    check_closed(old, 200);
    let many = "1\r\nx\r\n".repeat(DRAIN_BYTES_MAX / 6 + 1);
    check_closed(&format!("{ok}transfer-encoding: chunked\r\n\r\n{many}0\r\n\r\n"), 200);
}

#[test]
fn an_unframed_body_ends_with_the_connection() {
    for head in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n"] {
        check(&format!("{head}until the end"), Progress::Body, Response::new(200));
        check_closed(&format!("{head}{}", "x".repeat(DRAIN_BYTES_MAX + 1)), 200);
    }
}

#[test]
fn a_response_that_is_cut_has_a_status_once_its_head_is_whole() {
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
    for bytes in 0..whole.len() {
        assert_eq!(read(&whole[..bytes]), Ok((Progress::Head, None)), "{bytes}");
    }
    check(whole, Progress::Body, Response::new(200));
}

#[test]
fn the_response_to_a_head_request_has_no_body() {
    let text = b"HTTP/1.1 200 OK\r\ncontent-length: 70000\r\n\r\n";
    let expected = Ok((Progress::Done(Reuse::Keep), Some(Response::new(200))));
    assert_eq!(read_in([text.len()], text, true), expected);
}

#[test]
fn a_failure_keeps_the_start_of_its_body_and_a_success_nothing() {
    let body = "because ".repeat(20_000);
    let expected = Response::new(500).excerpt(body.as_bytes());
    let length = body.len();
    let head = format!("HTTP/1.1 500 Oh\r\ncontent-length: {length}\r\n\r\n");
    check(&format!("{head}{body}"), Progress::Done(Reuse::Close), expected.clone());
    check(&format!("HTTP/1.1 500 Oh\r\n\r\n{body}"), Progress::Done(Reuse::Close), expected);
    let chunked =
        "HTTP/1.1 500 Oh\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n1\r\n!\r\n0\r\n\r\n";
    check(chunked, Progress::Done(Reuse::Keep), Response::new(500).excerpt(b"no!"));
}

#[test]
fn retry_after_is_read_and_the_first_counts() {
    for (value, expected_ms) in [
        ("7", Some(7_000)),
        ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30_000)),
        ("soon", None),
        ("7\r\nretry-after: 9", Some(7_000)),
    ] {
        let mut expected = Response::new(503);
        expected.retry_after = expected_ms.map(Duration::from_millis);
        let text =
            format!("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nRetry-After: {value}\r\n\r\n");
        check(&text, Progress::Done(Reuse::Keep), expected);
    }
}

/// Parts of responses, so that random inputs reach all of the grammar.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let parts: &[&str] = &[
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 503 Busy\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "content-length: 5\r\n",
        "content-length: 70000\r\n",
        "transfer-encoding: chunked\r\n",
        "connection: close\r\n",
        "connection: keep-alive\r\n",
        "retry-after: 3\r\n",
        "webhook-delivery: disable\r\n",
        "x-a : b\r\n",
        " folded\r\n",
        "\r\n",
        "\n",
        "hello",
        "5\r\nhello\r\n",
        "5;x\r\nhel",
        "0\r\n\r\n",
    ];
    prop_oneof![
        8 => proptest::sample::select(parts).prop_map(|part| part.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
        1 => (0..4_usize).prop_map(|n| vec![b'x'; n * 8_000]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_result_does_not_depend_on_how_the_bytes_are_cut(
        parts in proptest::collection::vec(fragment(), 1..10),
        pieces in proptest::collection::vec(1..40_usize, 0..60),
        is_head_request: bool,
    ) {
        let bytes = parts.concat();
        let whole = read_in([bytes.len()], &bytes, is_head_request);
        prop_assert_eq!(&read_in(pieces, &bytes, is_head_request), &whole);
        prop_assert_eq!(&read_in(std::iter::repeat(1), &bytes, is_head_request), &whole);
    }
}
