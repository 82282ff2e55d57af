//! Decides how bytes reach a receiver and what came back.
//!
//! Leaves to others: what the bytes are (`request`), which connection carries them (`pool`) and
//! what the reply means (`dispatch`). Invariants: an attempt ends within its timeout; a redirect is an
//! answer and is never followed; a reply never names an internal address.

use std::borrow::Cow;
use std::fmt;
use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::header::{HeaderName, RETRY_AFTER};
use http::{HeaderValue, Method, Uri};
use parking_lot::Mutex;
use ureq::{Agent, Body};

use super::dialer::{AFRESH, Dialer, Later};
use super::exchange::{Exchange, HEAD_BYTES_MAX, Stale};
use super::guard::Guard;
use super::pool::{Place, Pool};
use super::resolver::{LookupError, Names};
use super::shortcut::{self, Begun, Taken};
use super::tls::{Identities, Identity, check_roots, word_of};
use crate::attempt::{Answered, Control, EXCERPT_BYTES_MAX, Failure, Reply};
use crate::clock::Clock;
use crate::config::{Network, Roots};
use crate::error::Result;
use crate::subscription::Tls;

/// The exact request of one attempt.
#[derive(Clone)]
pub struct Request<'a> {
    /// The HTTP method.
    pub method: Method,
    /// The absolute URL.
    pub url: Uri,
    /// The headers, in the order sent, without those that the transport owns (`host`,
    /// `content-length`, and `user-agent` unless it is among these).
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, byte for byte.
    pub body: Cow<'a, [u8]>,
    /// What its TLS connection does otherwise than all others. A connection made with it is used by
    /// no request that has another.
    pub tls: Option<&'a Tls>,
    /// How long the attempt may take, in milliseconds, from the lookup of the name to the last byte of
    /// the answer.
    pub timeout_ms: u64,
    /// When the attempt starts, in milliseconds since the Unix epoch. A `Retry-After` that is a
    /// date counts from here.
    pub wall_ms: u64,
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

/// Where a receiver asks for the end of a delivery, or of all of them.
pub(super) const CONTROL: HeaderName = HeaderName::from_static("webhook-delivery");

/// What makes an attempt. A test gives a scripted one.
///
/// ```
/// use std::sync::Arc;
/// use wabahook::{Config, Engine, Event, Reply, Request, Subscription, Transport};
///
/// /// Sends nothing, and says what it would have sent.
/// struct Dry;
///
/// impl Transport for Dry {
///     fn send(&self, request: &Request<'_>) -> Reply {
///         println!("{} {} ({} bytes)", request.method, request.url, request.body.len());
///         Reply::status(200)
///     }
///
///     fn interrupt(&self) {}
/// }
///
/// # let directory = tempfile::tempdir()?;
/// let engine = Engine::open(Config::new(directory.path()).transport(Arc::new(Dry)))?;
/// engine.subscribe(Subscription::to("https://crm.example/hook")?)?;
/// assert_eq!(engine.publish(Event::new("ADD_TAG", "{}"))?.wait()?.owed, 1);
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Transport: Send + Sync + 'static {
    /// Makes one attempt and returns what came back, within the request's timeout.
    fn send(&self, request: &Request<'_>) -> Reply;

    /// Ends the attempts under way, and every later one, with [`Failure::Interrupted`]. Called when
    /// the engine closes.
    fn interrupt(&self);
}

/// What makes the attempts of an engine that is given no other transport: HTTP/1.1 over connections
/// that are kept. Public for a host whose own transport stands around it, to count or to record.
///
/// ```
/// use std::sync::Arc;
/// use wabahook::{Config, Http, Network, Reply, Request, Transport, clock::System};
///
/// struct Shown(Http);
///
/// impl Transport for Shown {
///     fn send(&self, request: &Request<'_>) -> Reply {
///         let reply = self.0.send(request);
///         println!("{request:?} {reply:?}");
///         reply
///     }
///
///     fn interrupt(&self) {
///         self.0.interrupt();
///     }
/// }
///
/// let http = Http::new(Network::default(), 16, Arc::new(System::new()))?;
/// let config = Config::new("outbox").transport(Arc::new(Shown(http)));
/// # let _ = config;
/// # Ok::<(), wabahook::Error>(())
/// ```
pub struct Http {
    pool: Arc<Pool>,
    names: Arc<Names>,
    identities: Identities,
    agents: Mutex<Vec<(Manner, Agent)>>,
    clock: Arc<dyn Clock>,
}

/// What ureq is set up with once for all requests that have it in common: the TLS identity and the
/// timeout. Where they lead makes no difference, because the connections are in our pool.
type Manner = (u64, u64);

impl Http {
    /// Reaches what `network` allows, and keeps up to `idle_max` idle connections for each receiver,
    /// 1,024 in all or half of the files that the process may open, for 30 s each. An engine gives
    /// [`lane_in_flight_max`](crate::Limits::lane_in_flight_max): what a lane may have under way.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) where the given roots are no certificates.
    pub fn new(network: Network, idle_max: usize, clock: Arc<dyn Clock>) -> Result<Http> {
        check_roots(&network.roots)?;
        let roots = network.roots.clone();
        let names = Names::new(Arc::new(Guard::new(network)), Arc::clone(&clock));
        Ok(Http::over(names, roots, idle_max, clock))
    }

    /// Knows names as a test says.
    #[cfg(test)]
    pub(crate) fn looking_up(
        network: Network,
        clock: Arc<dyn Clock>,
        ask: impl Fn(&str) -> std::io::Result<Vec<std::net::IpAddr>> + Send + Sync + 'static,
    ) -> Http {
        let (guard, roots) = (Arc::new(Guard::new(network.clone())), network.roots);
        let names = Names::answered_by(Box::new(ask), guard, Arc::clone(&clock));
        Http::over(names, roots, 1, clock)
    }

    fn over(names: Names, roots: Roots, idle_max: usize, clock: Arc<dyn Clock>) -> Http {
        Http {
            pool: Arc::new(Pool::new(idle_max, Arc::clone(&clock))),
            names: Arc::new(names),
            identities: Identities::new(roots),
            agents: Mutex::default(),
            clock,
        }
    }

    /// One exchange, and a second one where the first met a stale connection. That is no failure
    /// of the receiver and no attempt of its own, although a receiver that closed the connection
    /// after it had read the request sees the request twice, with the same `webhook-id`. After an
    /// interrupt the pool refuses the second exchange by itself.
    fn exchange(
        &self,
        identity: &Arc<Identity>,
        request: &Request<'_>,
    ) -> Result<Reply, ureq::Error> {
        let until_ms = self.clock.monotonic_ms().saturating_add(request.timeout_ms);
        match self.first_exchange(identity, request, until_ms) {
            Err(error) if is_stale(&error) => {
                let Some(left) = self.left(until_ms) else { return Err(error) };
                let afresh = self
                    .agent(identity, request.timeout_ms)
                    .configure_request(http_request(request))
                    .max_idle_age(AFRESH)
                    .timeout_global(Some(left))
                    .build();
                let response = self.agent(identity, request.timeout_ms).run(afresh)?;
                Ok(answered(response, request.wall_ms))
            }
            result => result,
        }
    }

    /// Over a kept connection where there is one and the request is a usual one, or else as ureq does.
    fn first_exchange(
        &self,
        identity: &Arc<Identity>,
        request: &Request<'_>,
        until_ms: u64,
    ) -> Result<Reply, ureq::Error> {
        let kept = if shortcut::is_open_to(request) { self.kept(identity, request) } else { None };
        let response = match kept {
            None => self.agent(identity, request.timeout_ms).run(http_request(request))?,
            Some(kept) => match shortcut::take(kept, request, until_ms)? {
                Taken::Whole(status) => return Ok(Reply::Answered(Answered::new(status))),
                Taken::Begun(begun) => {
                    let global = ureq::Error::Timeout(ureq::Timeout::Global);
                    let left = self.left(until_ms).ok_or(global)?;
                    let begun = Begun(Mutex::new(Some(*begun)));
                    Agent::with_parts(settings(left), begun, Later).run(http_request(request))?
                }
            },
        };
        Ok(answered(response, request.wall_ms))
    }

    /// A kept connection to where the request goes, ready for an exchange.
    fn kept(&self, identity: &Identity, request: &Request<'_>) -> Option<Exchange> {
        let place = Place::of(&request.url, identity.number())?;
        let connection = self.pool.take(&place)?;
        let (pool, clock) = (Arc::clone(&self.pool), Arc::clone(&self.clock));
        Some(Exchange::new(connection, true, place, pool, clock))
    }

    fn left(&self, until_ms: u64) -> Option<Duration> {
        let left_ms = until_ms.saturating_sub(self.clock.monotonic_ms());
        (left_ms > 0).then(|| Duration::from_millis(left_ms))
    }

    fn agent(&self, identity: &Arc<Identity>, timeout_ms: u64) -> Agent {
        let manner = (identity.number(), timeout_ms);
        let mut agents = self.agents.lock();
        if let Some((_, agent)) = agents.iter().find(|(known, _)| *known == manner) {
            return agent.clone();
        }
        if agents.len() >= AGENTS_MAX {
            agents.clear();
        }
        let dialer = Dialer {
            pool: Arc::clone(&self.pool),
            names: Arc::clone(&self.names),
            identity: Arc::clone(identity),
            clock: Arc::clone(&self.clock),
        };
        let timeout = Duration::from_millis(timeout_ms);
        let agent = Agent::with_parts(settings(timeout), dialer, Later);
        agents.push((manner, agent.clone()));
        agent
    }
}

impl Transport for Http {
    fn send(&self, request: &Request<'_>) -> Reply {
        // It was readable when it was registered, and the host's roots when the engine was opened.
        let Ok(identity) = self.identities.identity(request.tls) else {
            return Reply::Failed(Failure::Internal);
        };
        match self.exchange(&identity, request) {
            Ok(reply) => reply,
            Err(_) if self.pool.is_interrupted() => Reply::Failed(Failure::Interrupted),
            Err(error) => Reply::Failed(failure(&error)),
        }
    }

    fn interrupt(&self) {
        self.pool.interrupt();
        self.names.interrupt();
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("pool", &self.pool).finish_non_exhaustive()
    }
}

fn settings(timeout: Duration) -> ureq::config::Config {
    Agent::config_builder()
        .proxy(None) // from the environment; it would look names up behind the guard's back
        .max_redirects(0) // a redirect is an answer; to follow it would leak the signature
        .http_status_as_error(false)
        .accept("")
        .user_agent(USER_AGENT_VALUE)
        .max_response_header_size(HEAD_BYTES_MAX)
        .max_idle_connections(0) // ours is the pool that keeps them
        .timeout_global(Some(timeout))
        .build()
}

/// What the requests of a subscription say that sets no `user-agent` of its own.
pub(super) const USER_AGENT_VALUE: &str = concat!("wabahook/", env!("CARGO_PKG_VERSION"));

/// A slice as the body makes ureq send a content length, whatever the method: some receivers see
/// an empty body where it comes in chunks.
fn http_request<'a>(request: &'a Request<'_>) -> http::Request<&'a [u8]> {
    let mut made = http::Request::new(&*request.body);
    made.headers_mut().reserve(request.headers.len() + HEADERS_ADDED);
    *made.method_mut() = request.method.clone();
    *made.uri_mut() = request.url.clone();
    for (name, value) in &request.headers {
        made.headers_mut().append(name.clone(), value.clone());
    }
    made
}

/// The head has decided. What follows is read only so that the connection can be kept: where it
/// is too long, too slow or broken, the connection is closed and the answer stands.
fn answered(response: http::Response<Body>, wall_ms: u64) -> Reply {
    let (head, body) = response.into_parts();
    let mut reader = body.into_reader();
    let mut chunk = [0_u8; 4 * 1024];
    let mut drained = 0;
    let mut excerpt = Vec::new();
    while drained <= DRAIN_BYTES_MAX {
        match reader.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(read) => {
                if !head.status.is_success() && excerpt.len() < EXCERPT_BYTES_MAX {
                    excerpt.extend(chunk.iter().take(read.min(EXCERPT_BYTES_MAX - excerpt.len())));
                }
                drained += read;
            }
        }
    }
    let value_of = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    Reply::Answered(Answered {
        status: head.status.as_u16(),
        retry_after_ms: value_of(RETRY_AFTER).and_then(|value| retry_after_ms(value, wall_ms)),
        control: value_of(CONTROL).and_then(control),
        excerpt,
    })
}

/// What the header `webhook-delivery` asks for; an unknown word asks for nothing.
fn control(value: &str) -> Option<Control> {
    match value.trim() {
        word if word.eq_ignore_ascii_case("disable") => Some(Control::Disable),
        word if word.eq_ignore_ascii_case("abort-message") => Some(Control::AbortMessage),
        _ => None,
    }
}

/// What a `Retry-After` asks for, in milliseconds from `wall_ms`: seconds, or an HTTP date. A date
/// that has passed asks for nothing (0); more than a day is cut to a day, or a receiver's mistake
/// would hold its deliveries for ever. An unreadable value counts as none.
pub(crate) fn retry_after_ms(value: &str, wall_ms: u64) -> Option<u64> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // Digits that do not fit are a very large number of seconds.
        let seconds = value.parse::<u64>().unwrap_or(u64::MAX);
        return Some(seconds.saturating_mul(1_000).min(RETRY_AFTER_MAX_MS));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let since_epoch = date.duration_since(UNIX_EPOCH).unwrap_or_default();
    let date_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    Some(date_ms.saturating_sub(wall_ms).min(RETRY_AFTER_MAX_MS))
}

fn is_stale(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Other(inner) if inner.is::<Stale>())
}

/// What an error of ureq means for the attempt. The error's own text may name an address or a
/// header, so nothing of it is kept.
fn failure(error: &ureq::Error) -> Failure {
    match error {
        ureq::Error::Timeout(_) => Failure::Timeout,
        ureq::Error::Io(error) => io_failure(error),
        ureq::Error::HostNotFound => Failure::Dns,
        ureq::Error::ConnectionFailed => Failure::Connect,
        ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => Failure::Protocol,
        ureq::Error::Other(inner) if inner.is::<Stale>() => Failure::Connect,
        ureq::Error::Other(inner) => match inner.downcast_ref() {
            Some(LookupError::NotFound) => Failure::Dns,
            Some(LookupError::TimedOut) => Failure::Timeout,
            Some(LookupError::Interrupted) => Failure::Interrupted,
            Some(LookupError::Refused(rule)) => Failure::Guard(rule.as_str().to_owned()),
            None => Failure::Internal,
        },
        // What is left speaks of the request, and the request is our work.
        _ => Failure::Internal,
    }
}

fn io_failure(error: &std::io::Error) -> Failure {
    // A handshake that fails comes as an I/O error around the reason.
    if let Some(word) = word_of(error) {
        return Failure::Tls(word.to_owned());
    }
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Failure::Timeout,
        ErrorKind::FileTooLarge => Failure::Protocol,
        _ => Failure::Connect,
    }
}

/// How much of an answer is read. A receiver that sends more pays with a new connection.
const DRAIN_BYTES_MAX: usize = 64 * 1024;

const RETRY_AFTER_MAX_MS: u64 = 24 * 3_600_000;

/// How many manners are held ready. A host has a few timeouts, and few subscriptions have a TLS of their
/// own; more than this are set up anew now and then, which costs microseconds.
const AGENTS_MAX: usize = 64;

/// `host`, `content-length` and `user-agent`, which ureq adds.
const HEADERS_ADDED: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::guard::Rule;

    /// Wed, 21 Oct 2015 07:28:00 GMT.
    const DATE_MS: u64 = 1_445_412_480_000;

    fn check_retry_after(value: &str, expected_ms: Option<u64>) {
        assert_eq!(retry_after_ms(value, DATE_MS), expected_ms, "{value:?}");
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date_and_ends_at_a_day() {
        check_retry_after("120", Some(120_000));
        check_retry_after(" 7 ", Some(7_000));
        check_retry_after("0", Some(0));
        check_retry_after("86400", Some(RETRY_AFTER_MAX_MS));
        check_retry_after("86401", Some(RETRY_AFTER_MAX_MS));
        check_retry_after("99999999999999999999999", Some(RETRY_AFTER_MAX_MS));
        check_retry_after("Wed, 21 Oct 2015 07:28:30 GMT", Some(30_000));
        check_retry_after("Wednesday, 21-Oct-15 07:29:00 GMT", Some(60_000));
        check_retry_after("Wed Oct 21 07:29:00 2015", Some(60_000));
        check_retry_after("Wed, 21 Oct 2015 07:27:59 GMT", Some(0));
        check_retry_after("Thu, 01 Jan 1970 00:00:00 GMT", Some(0));
        check_retry_after("Fri, 31 Dec 9999 23:59:59 GMT", Some(RETRY_AFTER_MAX_MS));
    }

    #[test]
    fn an_unreadable_retry_after_counts_as_none() {
        for value in ["", " ", "soon", "-1", "1.5", "+5", "5 s", "Wed, 21 Oct 2015"] {
            check_retry_after(value, None);
        }
    }

    fn check_failure(error: ureq::Error, expected: Failure) {
        let shown = format!("{error:?}");
        assert_eq!(failure(&error), expected, "{shown}");
    }

    #[test]
    fn every_error_of_the_client_has_one_meaning() {
        let io = |kind| ureq::Error::Io(std::io::Error::from(kind));
        for timeout in [
            ureq::Timeout::Global,
            ureq::Timeout::Connect,
            ureq::Timeout::SendBody,
            ureq::Timeout::RecvResponse,
        ] {
            check_failure(ureq::Error::Timeout(timeout), Failure::Timeout);
        }
        check_failure(io(ErrorKind::TimedOut), Failure::Timeout);
        for kind in [
            ErrorKind::ConnectionRefused,
            ErrorKind::ConnectionReset,
            ErrorKind::UnexpectedEof,
            ErrorKind::BrokenPipe,
            ErrorKind::HostUnreachable,
        ] {
            check_failure(io(kind), Failure::Connect);
        }
        check_failure(ureq::Error::Other(Box::new(Stale)), Failure::Connect);
        check_failure(LookupError::NotFound.into(), Failure::Dns);
        check_failure(ureq::Error::HostNotFound, Failure::Dns);
        check_failure(
            LookupError::Refused(Rule::LinkLocal).into(),
            Failure::Guard("link_local".to_owned()),
        );
        check_failure(ureq::Error::LargeResponseHeader(2, 1), Failure::Protocol);
        check_failure(LookupError::TimedOut.into(), Failure::Timeout);
        check_failure(io(ErrorKind::FileTooLarge), Failure::Protocol);
        check_failure(ureq::Error::BadUri("x".to_owned()), Failure::Internal);
        check_failure(ureq::Error::Other("another".into()), Failure::Internal);
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_handshake_that_fails_is_a_failure_of_tls() {
        let reason = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let wrapped = std::io::Error::new(ErrorKind::InvalidData, reason);
        check_failure(ureq::Error::Io(wrapped), Failure::Tls("expired".to_owned()));
    }
}
