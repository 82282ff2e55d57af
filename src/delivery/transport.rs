//! Decides how bytes reach a receiver and what came back.
//!
//! Leaves to others: what the bytes are (`request`) and what the reply means (`dispatch`).
//! Invariant: an attempt ends within its timeout, and its reply never names an internal address.

use std::fmt;

use http::{HeaderName, HeaderValue, Method, Uri};

use crate::attempt::Reply;

/// The exact request of one attempt.
#[derive(Clone)]
pub struct Request<'a> {
    /// The HTTP method.
    pub method: Method,
    /// The absolute URL.
    pub url: Uri,
    /// The headers, in the order sent, without those that the transport owns (`host`,
    /// `content-length`, `user-agent`).
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, byte for byte.
    pub body: &'a [u8],
    /// How long the attempt may take, in milliseconds.
    pub timeout_ms: u64,
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("host", &self.url.host())
            .field("header_names", &names)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// What makes an attempt. A test gives a scripted one.
pub trait Transport: Send + Sync + 'static {
    /// Makes one attempt and returns what came back, within the request's timeout.
    fn send(&self, request: &Request<'_>) -> Reply;

    /// Ends the attempts under way, and every later one, with
    /// [`Failure::Interrupted`](crate::Failure::Interrupted). Called when the engine closes.
    fn interrupt(&self);
}
