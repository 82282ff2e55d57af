//! The client of these tests, which may reach loopback, and the request that it sends.

use std::sync::Arc;
use std::sync::mpsc::{Receiver as Inbox, channel};
use std::thread;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use wabahook::clock::SystemClock;
use wabahook::{Failure, Http, Network, Reply, Request, Transport};

pub(crate) use crate::support::http_receiver::{Act, Duplex, OK, Receiver, close, hang, say};
pub(crate) use crate::support::{DEADLINE, wait_until};

pub(crate) fn network(allow: &[&str]) -> Network {
    let allow = allow.iter().map(|range| range.parse().unwrap());
    Network::default().allow(allow).allow_http(true)
}

pub(crate) fn http(network: Network) -> Http {
    Http::new(network, 16, Arc::new(SystemClock::new())).unwrap()
}

/// A client that may reach the receivers of these tests.
pub(crate) fn client() -> Http {
    http(network(&["127.0.0.0/8", "::1/128"]))
}

/// Wed, 21 Oct 2015 07:28:00 GMT.
pub(crate) const WALL_MS: u64 = 1_445_412_480_000;

pub(crate) fn request<'a>(url: &str, body: &'a [u8], timeout_ms: u64) -> Request<'a> {
    let header = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let mut request = Request::new(Method::POST, url.parse().unwrap(), body);
    request.headers = vec![
        header("content-type", "application/json"),
        header("x-tenant", "acme"),
        header("webhook-id", "evt_1"),
    ];
    request.timeout = Duration::from_millis(timeout_ms);
    request.wall_ms = WALL_MS;
    request
}

pub(crate) fn send(client: &Http, url: &str) -> Reply {
    client.send(&request(url, b"{}", 10_000))
}

/// Sends on another thread, so that the deadline of the test does not depend on the client.
pub(crate) fn send_aside(client: &Arc<Http>, url: String, timeout_ms: u64) -> Inbox<Reply> {
    let (tell, reply) = channel();
    let client = Arc::clone(client);
    thread::spawn(move || tell.send(client.send(&request(&url, b"{}", timeout_ms))));
    reply
}

pub(crate) fn status(status: u16) -> Reply {
    Reply::status(status)
}

pub(crate) fn failed(failure: Failure) -> Reply {
    Reply::Failed(failure)
}
