//! Decides the exchange that nearly all attempts come to: a request that fits into one write, over a
//! kept connection, and an answer of success that comes whole with one read.
//!
//! Leaves to others: every other exchange (ureq, through `dialer`), also the rest of one that was begun
//! here and whose answer is of another kind. Invariant: what is sent is byte for byte what ureq would
//! send, and an answer that ureq might judge otherwise is left to it.

use std::fmt;
use std::io::{self, Write};

use http::header::{CONNECTION, CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderName, Method, Uri};
use httparse::{EMPTY_HEADER, Header, Status};
use parking_lot::Mutex;
use ureq::unversioned::transport::{ConnectionDetails, Connector};

use super::exchange::{BUFFER_BYTES, Exchange, HEAD_BYTES_MAX};
use super::transport::{CONTROL, Request, USER_AGENT_VALUE};

/// What became of an exchange that was begun here.
pub(super) enum Taken {
    /// It is over, with an answer of this status and nothing else that matters.
    Whole(u16),
    /// The answer is of another kind: the request was sent, and the rest is ureq's.
    Begun(Box<Exchange>),
}

/// Whether a request can go this way.
pub(super) fn is_open_to(request: &Request<'_>) -> bool {
    let has_a_body = matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
    has_a_body && !request.body.is_empty() && bytes_max(request) <= BUFFER_BYTES
}

/// Sends a request over a kept connection and takes the answer.
pub(super) fn take(
    mut exchange: Exchange,
    request: &Request<'_>,
    until_ms: u64,
) -> Result<Taken, ureq::Error> {
    let written = write(exchange.output(), request).map_err(ureq::Error::Io)?;
    exchange.ask(written, until_ms)?;
    match exchange.answer().and_then(whole) {
        Some(status) => {
            exchange.end();
            Ok(Taken::Whole(status))
        }
        None => Ok(Taken::Begun(Box::new(exchange))),
    }
}

/// Gives ureq an exchange to carry on with.
pub(super) struct Begun(pub(super) Mutex<Option<Exchange>>);

impl Connector for Begun {
    type Out = Exchange;

    fn connect(
        &self,
        _details: &ConnectionDetails<'_>,
        _chained: Option<()>,
    ) -> Result<Option<Exchange>, ureq::Error> {
        Ok(self.0.lock().take())
    }
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Begun").finish_non_exhaustive()
    }
}

/// How long a request is at most.
fn bytes_max(request: &Request<'_>) -> usize {
    let header = |(name, value): &(HeaderName, http::HeaderValue)| {
        name.as_str().len() + value.len() + ": \r\n".len()
    };
    let headers: usize = request.headers.iter().map(header).sum();
    let url = request.url.authority().map_or(0, |authority| authority.as_str().len())
        + request.url.path_and_query().map_or(0, |line| line.as_str().len());
    LINES_BYTES_MAX + url + headers + request.body.len()
}

/// Writes a request as ureq does: first what the transport adds, then the headers in their order.
fn write(mut to: &mut [u8], request: &Request<'_>) -> io::Result<usize> {
    let room = to.len();
    let line = request.url.path_and_query().map_or("/", |line| line.as_str());
    let slash: &[u8] = if line.starts_with('?') { b"/" } else { b"" };
    for part in [request.method.as_str().as_bytes(), b" ", slash, line.as_bytes()] {
        to.write_all(part)?;
    }
    write!(to, " HTTP/1.1\r\ncontent-length: {}\r\n", request.body.len())?;
    if !request.headers.iter().any(|(name, _)| *name == USER_AGENT) {
        for part in ["user-agent: ", USER_AGENT_VALUE, "\r\n"] {
            to.write_all(part.as_bytes())?;
        }
    }
    let (host, port) = host(&request.url);
    for part in ["host: ", host, if port.is_empty() { "" } else { ":" }, port, "\r\n"] {
        to.write_all(part.as_bytes())?;
    }
    for (name, value) in &request.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            to.write_all(part)?;
        }
    }
    to.write_all(b"\r\n")?;
    to.write_all(&request.body)?;
    Ok(room - to.len())
}

/// The host and the port as a request names them: no port where it is the scheme's own.
fn host(url: &Uri) -> (&str, &str) {
    let usual = if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let port = url.authority().and_then(|authority| {
        let number = authority.port_u16()?;
        let (_, port) = authority.as_str().rsplit_once(':')?;
        (number != usual).then_some(port)
    });
    (url.host().unwrap_or_default(), port.unwrap_or_default())
}

/// The status of an answer that is whole, is a success, leaves the connection open and asks for nothing.
fn whole(bytes: &[u8]) -> Option<u16> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let Ok(Status::Complete(head_bytes)) = head.parse(bytes) else { return None };
    let status = head.code.filter(|code| (200..300).contains(code))?;
    if head.version != Some(1) || head_bytes > HEAD_BYTES_MAX {
        return None;
    }
    let body_bytes = body_bytes(head.headers, status)?;
    (head_bytes.checked_add(body_bytes)? == bytes.len()).then_some(status)
}

/// How long the body is; `None` where a header says more than the length.
fn body_bytes(headers: &[Header<'_>], status: u16) -> Option<usize> {
    let mut length = None;
    for Header { name, value } in headers {
        let is = |other: HeaderName| name.eq_ignore_ascii_case(other.as_str());
        if is(CONTENT_LENGTH) {
            let digits = (1..=LENGTH_DIGITS_MAX).contains(&value.len())
                && value.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(value).ok().filter(|_| digits)?;
            if length.replace(text.parse().ok()?).is_some() {
                return None;
            }
        } else if is(CONNECTION) {
            if !value.eq_ignore_ascii_case(b"keep-alive") {
                return None;
            }
        } else if is(TRANSFER_ENCODING) || is(RETRY_AFTER) || is(CONTROL) {
            return None;
        }
    }
    match (status, length) {
        (204, None | Some(0)) => Some(0),
        (204, Some(_)) => None,
        (_, length) => length,
    }
}

/// The words of the first line and of the headers that the transport adds, without the URL's parts.
const LINES_BYTES_MAX: usize = 256;

/// Answers with more headers than this are left to ureq.
const HEADERS_MAX: usize = 32;

/// No body that fits into the buffer has a longer length.
const LENGTH_DIGITS_MAX: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: &str, expected: Option<u16>) {
        assert_eq!(whole(answer.as_bytes()), expected, "{answer:?}");
    }

    #[test]
    fn an_answer_of_success_that_is_whole_ends_here() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Some(200));
        check("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nserver: x\r\n\r\n", Some(202));
        check("HTTP/1.1 204 No Content\r\n\r\n", Some(204));
        check("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", Some(204));
        let kept = "HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\ncontent-length: 0\r\n\r\n";
        check(kept, Some(200));
        let proof = "HTTP/1.1 200 OK\r\nx-a: content-length: 7\r\ncontent-length: 0\r\n\r\n";
        check(proof, Some(200));
    }

    #[test]
    fn every_other_answer_is_left_to_the_client() {
        for other in [
            "",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokk",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 199 Odd\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\ncontent-length: 1\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nconnection: keep-alive, close\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0, 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n",
            "HTTP/1.1 200 OK\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nWebhook-Delivery: disable\r\ncontent-length: 0\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            check(other, None);
        }
    }

    #[test]
    fn a_head_that_is_too_long_is_left_to_the_client() {
        let head = |bytes| {
            let value = "x".repeat(bytes);
            format!("HTTP/1.1 200 OK\r\nx-a: {value}\r\ncontent-length: 0\r\n\r\n")
        };
        check(&head(100), Some(200));
        check(&head(HEAD_BYTES_MAX), None);
        let many: String = (0..HEADERS_MAX).map(|n| format!("x-{n}: y\r\n")).collect();
        check(&format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n"), None);
    }

    fn check_host(url: &str, expected: (&str, &str)) {
        assert_eq!(host(&url.parse().unwrap()), expected, "{url}");
    }

    #[test]
    fn a_port_is_named_where_it_is_not_the_schemes_own() {
        check_host("http://crm.example/a", ("crm.example", ""));
        check_host("http://crm.example:80/a", ("crm.example", ""));
        check_host("http://crm.example:443/a", ("crm.example", "443"));
        check_host("https://crm.example:443/a", ("crm.example", ""));
        check_host("https://crm.example:80/a", ("crm.example", "80"));
        check_host("http://[::1]:8080/a", ("[::1]", "8080"));
        check_host("http://[::1]/a", ("[::1]", ""));
    }
}
