//! The seam between the engine and the network: one request, what came back, and the trait between them.
//!
//! A host may replace the built-in HTTP client by its own [`Transport`], and a test by a scripted one.
//! `Debug` of a request or a response never shows header values, bodies or excerpts, because they may hold
//! secrets and payloads (I9).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderValue, Method, Uri};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::subscription::Tls;

/// The exact request of one attempt.
#[derive(Clone)]
#[non_exhaustive]
pub struct Request<'a> {
    /// The HTTP method.
    pub method: Method,
    /// The absolute URL.
    pub url: Uri,
    /// The headers, in the order they are sent. The transport adds `host`, `content-length`, and
    /// `user-agent` unless it is among these.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, byte for byte.
    pub body: Cow<'a, [u8]>,
    /// TLS settings that differ from the defaults. A connection made with them serves only requests with
    /// the same settings.
    pub tls: Option<&'a Tls>,
    /// How long the attempt may take, from the name lookup to the last byte of the response.
    pub timeout: Duration,
    /// When the attempt starts, in milliseconds since the Unix epoch. A `Retry-After` date is relative to it.
    pub wall_ms: u64,
}

impl<'a> Request<'a> {
    /// A request without headers, with a timeout of 15 s and a start at the Unix epoch. Change the fields
    /// as needed.
    ///
    /// ```
    /// use std::time::Duration;
    /// use wabahook::Request;
    /// let url = "https://crm.example/hook".parse()?;
    /// let mut request = Request::new(http::Method::POST, url, b"{}".as_slice());
    /// request.timeout = Duration::from_secs(5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(method: Method, url: Uri, body: impl Into<Cow<'a, [u8]>>) -> Request<'a> {
        let (headers, body, timeout) = (Vec::new(), body.into(), Duration::from_secs(15));
        Request { method, url, headers, body, tls: None, timeout, wall_ms: 0 }
    }
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

/// Makes attempts. [`Http`](crate::Http) is the built-in one.
///
/// ```
/// use std::sync::Arc;
/// use wabahook::{Config, Engine, Event, Reply, Request, Subscription, Transport};
///
/// /// Sends nothing and prints what it would send.
/// struct DryRun;
///
/// impl Transport for DryRun {
///     fn send(&self, request: &Request<'_>) -> Reply {
///         println!("{} {} ({} bytes)", request.method, request.url, request.body.len());
///         Reply::status(200)
///     }
///
///     fn interrupt(&self) {}
/// }
///
/// # let directory = tempfile::tempdir()?;
/// let engine = Engine::open(Config::new(directory.path()).transport(Arc::new(DryRun)))?;
/// engine.subscribe(Subscription::to("https://crm.example/hook")?)?;
/// assert_eq!(engine.publish(Event::new("ADD_TAG", "{}"))?.wait()?.owed, 1);
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Transport: Send + Sync + 'static {
    /// Makes one attempt and returns what came back. It blocks, at most for the request's timeout.
    fn send(&self, request: &Request<'_>) -> Reply;

    /// Ends every attempt in flight, and every later one, with [`Failure::Interrupted`]. Called when the
    /// engine closes.
    fn interrupt(&self);
}

/// What came back from the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// A response with a status.
    Response(Response),
    /// No usable response.
    Failed(Failure),
}

impl Reply {
    /// A response with this status and nothing else.
    pub const fn status(status: u16) -> Reply {
        Reply::Response(Response::new(status))
    }

    /// The status and the first bytes of the body, if there was a response.
    pub(crate) fn into_status_and_excerpt(self) -> (Option<u16>, Vec<u8>) {
        match self {
            Reply::Response(Response { status, excerpt, .. }) => (Some(status), excerpt),
            Reply::Failed(_) => (None, Vec::new()),
        }
    }
}

/// A receiver's response, reduced to what the engine uses.
///
/// ```
/// use std::time::Duration;
/// use wabahook::{DeliveryControl, Reply, Response};
/// // What your own transport, or one for a test, may return:
/// let busy = Reply::Response(Response::new(429).retry_after(Duration::from_secs(30)));
/// let refused = Reply::Response(Response::new(400).control(DeliveryControl::AbortMessage));
/// assert_ne!(busy, refused);
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The wait that `Retry-After` asks for, counted from the response.
    pub retry_after: Option<Duration>,
    /// What the response header `webhook-delivery` asks for.
    pub control: Option<DeliveryControl>,
    /// The first bytes of the body, at most [`EXCERPT_BYTES_MAX`].
    pub excerpt: Vec<u8>,
}

/// How many bytes of a response body are kept in the history of a delivery: enough for an error message,
/// and few enough to store with each failure.
pub const EXCERPT_BYTES_MAX: usize = 256;

/// What a receiver may ask for in the response header `webhook-delivery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeliveryControl {
    /// `disable`: no more deliveries to this subscription.
    Disable,
    /// `abort-message`: no more attempts for this delivery.
    AbortMessage,
}

impl Response {
    /// A response with this status and nothing else.
    pub const fn new(status: u16) -> Response {
        Response { status, retry_after: None, control: None, excerpt: Vec::new() }
    }

    /// Sets the wait that the receiver asks for.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Response {
        self.retry_after = Some(wait);
        self
    }

    /// Sets what the header `webhook-delivery` asks for.
    #[must_use]
    pub fn control(mut self, control: DeliveryControl) -> Response {
        self.control = Some(control);
        self
    }

    /// Keeps the first [`EXCERPT_BYTES_MAX`] bytes of a body.
    #[must_use]
    pub fn excerpt(mut self, body: &[u8]) -> Response {
        self.excerpt = body.iter().copied().take(EXCERPT_BYTES_MAX).collect();
        self
    }
}

impl fmt::Debug for Response {
    /// Without the excerpt, which may repeat the payload (I9).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("retry_after", &self.retry_after)
            .field("control", &self.control)
            .field("excerpt_bytes", &self.excerpt.len())
            .finish()
    }
}

/// Why there was no usable response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Failure {
    /// The timeout passed.
    Timeout,
    /// The connection could not be made, or broke.
    Connect,
    /// The name could not be resolved.
    Dns,
    /// TLS failed; the word says why (`expired`, `unknown_issuer`, `name`, ...).
    Tls(String),
    /// The guard refused the address; the word names the rule, never the address.
    Guard(String),
    /// The response was not HTTP, or its head was over the limit.
    Protocol,
    /// The host stopped before the attempt ended. The attempt does not count.
    Interrupted,
    /// Our own code failed during the attempt.
    Internal,
    /// The event does not fit the request that its subscription uses, such as the query of a GET. Nothing
    /// was sent.
    TooLarge,
}

impl Failure {
    const EXPECTED: &str = "timeout, connect, dns, tls:<why>, guard:<rule>, protocol, interrupted, \
                            internal or too_large";
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Timeout => f.write_str("timeout"),
            Failure::Connect => f.write_str("connect"),
            Failure::Dns => f.write_str("dns"),
            Failure::Tls(why) => write!(f, "tls:{why}"),
            Failure::Guard(rule) => write!(f, "guard:{rule}"),
            Failure::Protocol => f.write_str("protocol"),
            Failure::Interrupted => f.write_str("interrupted"),
            Failure::Internal => f.write_str("internal"),
            Failure::TooLarge => f.write_str("too_large"),
        }
    }
}

impl FromStr for Failure {
    type Err = Error;

    /// Reads the text that `Display` writes.
    fn from_str(text: &str) -> Result<Failure> {
        Ok(match text.split_once(':').unwrap_or((text, "")) {
            ("tls", why) if !why.is_empty() => Failure::Tls(why.to_owned()),
            ("guard", rule) if !rule.is_empty() => Failure::Guard(rule.to_owned()),
            _ => match text {
                "timeout" => Failure::Timeout,
                "connect" => Failure::Connect,
                "dns" => Failure::Dns,
                "protocol" => Failure::Protocol,
                "interrupted" => Failure::Interrupted,
                "internal" => Failure::Internal,
                "too_large" => Failure::TooLarge,
                _ => return Err(Error::invalid("reason", text, Failure::EXPECTED)),
            },
        })
    }
}
