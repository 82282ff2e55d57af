//! The bytes of a request, and where they go.
//!
//! The head starts with `host`, because some receivers fail otherwise, then come `content-length`,
//! `user-agent` where the subscription sets none, and the headers of the request in their order. A small body
//! follows in the same buffer, so that one write sends all of it; a large one is shared with the event cache
//! where the request carries the payload unchanged.

use std::fmt;
use std::sync::Arc;

use http::header::USER_AGENT;
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, Method, Uri};

use crate::clock::millis;
use crate::event::StoredEvent;
use crate::subscription::Tls;
use crate::transport::Failure;
use crate::transport::Request;

/// A request ready to be written to a connection.
pub(crate) struct OutgoingRequest {
    /// The head, and the body where that is small.
    head: Vec<u8>,
    /// The rest of the body.
    body: Body,
    authority: Authority,
    is_https: bool,
    /// The response to a HEAD request has no body, whatever its headers say.
    is_head: bool,
    tls: Option<Arc<Tls>>,
    timeout_ms: u64,
    wall_ms: u64,
}

/// A body that is too large to be copied behind the head.
enum Body {
    Empty,
    Payload(Arc<StoredEvent>),
    Owned(Box<[u8]>),
}

/// How far a request was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    Complete,
    /// The other side takes no more at present.
    Blocked,
}

/// The user agent of subscriptions that set none.
pub(crate) const USER_AGENT_VALUE: &str = concat!("wabahook/", env!("CARGO_PKG_VERSION"));

/// Up to this size a body is copied behind the head.
const COPIED_BODY_BYTES_MAX: usize = 8 * 1024;

impl OutgoingRequest {
    /// Encodes a request. `event` is what its body was made of, and `tls` the same settings as in the request,
    /// shared.
    ///
    /// # Errors
    /// [`Failure::Internal`] where the URL names no host: such a URL is refused when it is registered.
    pub(crate) fn new(
        request: &Request<'_>,
        event: Option<&Arc<StoredEvent>>,
        tls: Option<&Arc<Tls>>,
    ) -> Result<OutgoingRequest, Failure> {
        let authority = request.url.authority().ok_or(Failure::Internal)?;
        let is_copied = request.body.len() <= COPIED_BODY_BYTES_MAX;
        let body_bytes = if is_copied { request.body.len() } else { 0 };
        let mut head = Vec::with_capacity(head_bytes_max(request) + body_bytes);
        write_head(&mut head, request);
        let body = if is_copied {
            head.extend_from_slice(&request.body);
            Body::Empty
        } else {
            match event.filter(|event| is_same(&event.payload, &request.body)) {
                Some(event) => Body::Payload(Arc::clone(event)),
                None => Body::Owned(request.body.as_ref().into()),
            }
        };
        Ok(OutgoingRequest {
            head,
            body,
            authority: authority.clone(),
            is_https: request.url.scheme() == Some(&Scheme::HTTPS),
            is_head: request.method == Method::HEAD,
            tls: tls.map(Arc::clone),
            timeout_ms: millis(request.timeout),
            wall_ms: request.wall_ms,
        })
    }

    /// What is still to be written once `sent` bytes were, in up to two parts.
    pub(crate) fn unsent(&self, sent: usize) -> [&[u8]; 2] {
        let body = self.body();
        match self.head.get(sent..) {
            Some(head) => [head, body],
            None => [&[], body.get(sent - self.head.len()..).unwrap_or_default()],
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.body().len()
    }

    fn body(&self) -> &[u8] {
        match &self.body {
            Body::Empty => &[],
            Body::Payload(event) => &event.payload,
            Body::Owned(bytes) => bytes,
        }
    }

    /// Gives up the bytes: everything was sent over a connection of its own and is not sent again.
    pub(crate) fn release(&mut self) {
        self.head = Vec::new();
        self.body = Body::Empty;
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn is_https(&self) -> bool {
        self.is_https
    }

    pub(crate) fn is_head(&self) -> bool {
        self.is_head
    }

    /// TLS settings that differ from the defaults.
    pub(crate) fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    pub(crate) fn timeout_ms(&self) -> u64 {
        self.timeout_ms
    }

    /// What a date in `Retry-After` is counted from, in milliseconds since the Unix epoch.
    pub(crate) fn wall_ms(&self) -> u64 {
        self.wall_ms
    }
}

impl fmt::Debug for OutgoingRequest {
    /// Without path, headers and body, which may hold secrets and payloads (I9).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingRequest")
            .field("host", &self.authority.host())
            .field("bytes", &self.len())
            .finish_non_exhaustive()
    }
}

fn is_same(one: &[u8], other: &[u8]) -> bool {
    std::ptr::eq(one.as_ptr(), other.as_ptr()) && one.len() == other.len()
}

fn head_bytes_max(request: &Request<'_>) -> usize {
    let header = |(name, value): &(HeaderName, HeaderValue)| {
        name.as_str().len() + value.len() + ": \r\n".len()
    };
    let headers: usize = request.headers.iter().map(header).sum();
    let url = request.url.authority().map_or(0, |authority| authority.as_str().len())
        + request.url.path_and_query().map_or(0, |line| line.as_str().len());
    OWN_LINES_BYTES_MAX + request.method.as_str().len() + url + headers
}

/// The fixed words of the request line and of the headers that are added here, with room for the longest
/// length and the user agent.
const OWN_LINES_BYTES_MAX: usize = 128;

fn write_head(to: &mut Vec<u8>, request: &Request<'_>) {
    let line = request.url.path_and_query().map_or("/", |line| line.as_str());
    let slash = if line.starts_with('?') { "/" } else { "" };
    let (host, port) = host_and_port(&request.url);
    let colon = if port.is_empty() { "" } else { ":" };
    let method = request.method.as_str();
    for part in [method, " ", slash, line, " HTTP/1.1\r\nhost: ", host, colon, port] {
        to.extend_from_slice(part.as_bytes());
    }
    to.extend_from_slice(b"\r\ncontent-length: ");
    to.extend_from_slice(request.body.len().to_string().as_bytes());
    to.extend_from_slice(b"\r\n");
    if !request.headers.iter().any(|(name, _)| *name == USER_AGENT) {
        for part in ["user-agent: ", USER_AGENT_VALUE, "\r\n"] {
            to.extend_from_slice(part.as_bytes());
        }
    }
    for (name, value) in &request.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            to.extend_from_slice(part);
        }
    }
    to.extend_from_slice(b"\r\n");
}

/// The host and the port as a request names them: no port where it is the scheme's default.
fn host_and_port(url: &Uri) -> (&str, &str) {
    let default = if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let port = url.authority().and_then(|authority| {
        let number = authority.port_u16()?;
        let (_, port) = authority.as_str().rsplit_once(':')?;
        (number != default).then_some(port)
    });
    (url.host().unwrap_or_default(), port.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(url: &str, method: Method, body: &'a [u8]) -> Request<'a> {
        let header = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let mut request = Request::new(method, url.parse().unwrap(), body);
        request.headers =
            vec![header("content-type", "application/json"), header("webhook-id", "evt_1")];
        request
    }

    fn bytes(outgoing: &OutgoingRequest) -> Vec<u8> {
        outgoing.unsent(0).concat()
    }

    #[test]
    fn host_comes_first_and_the_headers_in_their_order() {
        let outgoing = OutgoingRequest::new(
            &request("http://crm.example/a?b=c", Method::POST, b"{}"),
            None,
            None,
        );
        let agent = USER_AGENT_VALUE;
        let expected = format!(
            "POST /a?b=c HTTP/1.1\r\nhost: crm.example\r\ncontent-length: 2\r\nuser-agent: {agent}\r\n\
             content-type: application/json\r\nwebhook-id: evt_1\r\n\r\n{{}}"
        );
        assert_eq!(String::from_utf8(bytes(&outgoing.unwrap())).unwrap(), expected);
    }

    #[test]
    fn a_user_agent_of_the_subscription_replaces_ours() {
        let mut given = request("http://crm.example", Method::GET, b"");
        given.headers = vec![(USER_AGENT, HeaderValue::from_static("acme/1"))];
        let outgoing = OutgoingRequest::new(&given, None, None).unwrap();
        let expected = "GET / HTTP/1.1\r\nhost: crm.example\r\ncontent-length: 0\r\nuser-agent: acme/1\r\n\r\n";
        assert_eq!(String::from_utf8(bytes(&outgoing)).unwrap(), expected);
        let query =
            OutgoingRequest::new(&request("http://a.example?b=c", Method::GET, b""), None, None);
        assert!(bytes(&query.unwrap()).starts_with(b"GET /?b=c HTTP/1.1\r\n"));
    }

    #[test]
    fn what_is_unsent_is_the_rest_whatever_was_sent() {
        for body_bytes in [0, 1, COPIED_BODY_BYTES_MAX, COPIED_BODY_BYTES_MAX + 1, 40_000] {
            let body = vec![b'x'; body_bytes];
            let given = request("http://crm.example/", Method::POST, &body);
            let outgoing = OutgoingRequest::new(&given, None, None).unwrap();
            let all = bytes(&outgoing);
            assert_eq!(all.len(), outgoing.len());
            assert!(all.ends_with(&body));
            for sent in (0..=all.len()).step_by(97).chain([all.len()]) {
                assert_eq!(outgoing.unsent(sent).concat(), all[sent..], "{sent} of {}", all.len());
            }
        }
    }

    #[test]
    fn a_large_payload_that_is_sent_unchanged_is_shared() {
        let event = StoredEvent { payload: vec![b'x'; 100_000], ..StoredEvent::example() };
        let event = Arc::new(event);
        let other = event.payload.clone();
        for (body, is_shared) in [(&event.payload, true), (&other, false)] {
            let given = request("http://crm.example/", Method::POST, body);
            let mut outgoing = OutgoingRequest::new(&given, Some(&event), None).unwrap();
            assert_eq!(matches!(outgoing.body, Body::Payload(_)), is_shared);
            assert!(bytes(&outgoing).ends_with(&event.payload));
            outgoing.release();
            assert_eq!(outgoing.len(), 0);
        }
    }

    #[test]
    fn the_head_is_never_longer_than_was_reserved() {
        let method = Method::from_bytes(b"A-LONG-METHOD-OF-SOMEBODYS-OWN-MAKING").unwrap();
        let given = request("http://crm.example:65535/a?b", method, b"");
        let outgoing = OutgoingRequest::new(&given, None, None).unwrap();
        assert!(outgoing.len() <= head_bytes_max(&given));
    }

    fn check_host(url: &str, expected: (&str, &str)) {
        assert_eq!(host_and_port(&url.parse().unwrap()), expected, "{url}");
    }

    #[test]
    fn a_port_is_named_where_it_is_not_the_default() {
        check_host("http://crm.example/a", ("crm.example", ""));
        check_host("http://crm.example:80/a", ("crm.example", ""));
        check_host("http://crm.example:443/a", ("crm.example", "443"));
        check_host("https://crm.example:443/a", ("crm.example", ""));
        check_host("https://crm.example:80/a", ("crm.example", "80"));
        check_host("http://[::1]:8080/a", ("[::1]", "8080"));
        check_host("http://[::1]/a", ("[::1]", ""));
    }
}
