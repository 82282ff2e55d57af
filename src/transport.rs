//! The seam between the engine and the network: one request, what came back, and the trait between them.
//!
//! A host may replace the built-in HTTP client by its own [`Transport`], and a test by a scripted one.
//! `Debug` of a request or a response never shows header values, bodies or excerpts, because they may hold
//! secrets and payloads (I9).

use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::time::Duration;

use crossbeam_channel::bounded;
use http::header::HeaderName;
use http::{HeaderValue, Method, Uri};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::macros::word_enum;
use crate::subscription::Tls;
use crate::text::debug_fields;

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
    pub tls: Option<Cow<'a, Tls>>,
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

    /// The same request with a copy of everything it borrows, for a transport that answers later.
    pub fn into_owned(self) -> Request<'static> {
        let body = Cow::Owned(self.body.into_owned());
        let tls = self.tls.map(|tls| Cow::Owned(tls.into_owned()));
        let Request { method, url, headers, timeout, wall_ms, .. } = self;
        Request { method, url, headers, body, tls, timeout, wall_ms }
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
///
/// A transport that has an event loop of its own answers later, so that an attempt in flight needs no thread:
///
/// ```
/// use std::sync::{Arc, mpsc};
/// use wabahook::{Answer, Config, Engine, Event, Reply, Request, Subscription, Transport};
///
/// /// Hands requests to a thread of the host.
/// struct Queued(mpsc::Sender<(Request<'static>, Answer)>);
///
/// impl Transport for Queued {
///     fn send(&self, request: &Request<'_>) -> Reply {
///         Answer::wait(|answer| self.begin(request.clone(), answer))
///     }
///
///     fn begin(&self, request: Request<'_>, answer: Answer) {
///         // If the thread has ended, the answer is dropped, and the engine tries again later.
///         let _ = self.0.send((request.into_owned(), answer));
///     }
///
///     fn answers_later(&self) -> bool {
///         true
///     }
///
///     fn interrupt(&self) {}
/// }
///
/// let (queue, queued) = mpsc::channel::<(Request<'static>, Answer)>();
/// std::thread::spawn(move || queued.iter().for_each(|(_, answer)| answer.reply(Reply::status(200))));
/// # let directory = tempfile::tempdir()?;
/// let engine = Engine::open(Config::new(directory.path()).transport(Arc::new(Queued(queue))))?;
/// let crm = engine.subscribe(Subscription::to("https://crm.example/hook")?)?;
/// assert!(engine.test(crm)?.is_delivered());
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Transport: Send + Sync + 'static {
    /// Makes one attempt and returns what came back. It blocks, at most for the request's timeout.
    fn send(&self, request: &Request<'_>) -> Reply;

    /// Starts one attempt, and answers when it ends. The default answers at once with what
    /// [`send`](Transport::send) returns.
    fn begin(&self, request: Request<'_>, answer: Answer) {
        answer.reply(self.send(&request));
    }

    /// Whether [`begin`](Transport::begin) returns without waiting for the attempt. The engine then has up to
    /// [`in_flight_max`](crate::Limits::in_flight_max) attempts in flight and starts them from one thread.
    /// Otherwise, which is the default, each attempt holds one of
    /// [`transport_threads`](crate::Limits::transport_threads).
    fn answers_later(&self) -> bool {
        false
    }

    /// Ends every attempt in flight, and every later one, with [`Failure::Interrupted`]. Called when the
    /// engine closes.
    fn interrupt(&self);
}

/// Takes the reply of one attempt. An answer that is dropped, by mistake or by a panic, is
/// [`Shortage::Panic`]: the attempt does not count and is made again later.
pub struct Answer(Option<Box<dyn FnOnce(Reply) + Send>>);

impl Answer {
    /// Calls `reply` once. For a transport that stands around another one, and for a test.
    pub fn new(reply: impl FnOnce(Reply) + Send + 'static) -> Answer {
        Answer(Some(Box::new(reply)))
    }

    /// Ends the attempt with this reply.
    pub fn reply(mut self, reply: Reply) {
        self.answer(reply);
    }

    /// Calls `begin` with an answer and waits until it is given.
    pub fn wait(begin: impl FnOnce(Answer)) -> Reply {
        let (tell, told) = bounded(1);
        begin(Answer::new(move |reply| {
            // If `begin` panicked, nobody waits for the reply.
            let _ = tell.send(reply);
        }));
        told.recv().unwrap_or(Reply::Failed(Failure::Shortage(Shortage::Panic)))
    }

    fn answer(&mut self, reply: Reply) {
        if let Some(tell) = self.0.take() {
            // A panic of the host's code must not end the thread that answers.
            let _ = catch_unwind(AssertUnwindSafe(|| tell(reply)));
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.answer(Reply::Failed(Failure::Shortage(Shortage::Panic)));
    }
}

debug_fields!(Answer);

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

// Without the excerpt, which may repeat the payload (I9).
debug_fields!(Response: status, retry_after, control, excerpt.len());

/// What was short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Shortage {
    /// The process or the system may open no more files (`EMFILE`, `ENFILE`).
    Files,
    /// The system has no memory for another socket (`ENOMEM`, `ENOBUFS`).
    Memory,
    /// No local port is free for the receiver's address (`EADDRNOTAVAIL`).
    Ports,
    /// The system refused a thread.
    Threads,
    /// The name lookup did not start in time, because other lookups used all threads.
    Lookups,
    /// All connections that the limit per host allows were in use.
    HostConnections,
    /// Our own code or the host's transport panicked, or the transport dropped its answer.
    Panic,
}

word_enum!(pub Shortage:
    Files = "files", Memory = "memory", Ports = "ports", Threads = "threads", Lookups = "lookups",
    HostConnections = "host_connections", Panic = "panic",
);

impl Shortage {
    pub(crate) const ALL: [Shortage; 7] = [
        Shortage::Files,
        Shortage::Memory,
        Shortage::Ports,
        Shortage::Threads,
        Shortage::Lookups,
        Shortage::HostConnections,
        Shortage::Panic,
    ];
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
    /// This machine lacked something. The attempt does not count, and the delivery is tried again.
    Shortage(Shortage),
}

impl Failure {
    const EXPECTED: &str = "timeout, connect, dns, tls:<why>, guard:<rule>, protocol, interrupted, \
                            internal, too_large or shortage:<of what>";
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
            Failure::Shortage(shortage) => write!(f, "shortage:{shortage}"),
        }
    }
}

impl FromStr for Failure {
    type Err = Error;

    /// Reads the text that `Display` writes.
    fn from_str(text: &str) -> Result<Failure> {
        let what = text.strip_prefix("shortage:").unwrap_or_default();
        if let Some(known) = Shortage::ALL.into_iter().find(|one| one.as_str() == what) {
            return Ok(Failure::Shortage(known));
        }
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
