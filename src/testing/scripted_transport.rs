//! A transport without a network: receivers that reply by a script and record what arrives.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use http::HeaderMap;
use parking_lot::{Condvar, Mutex};

use crate::text::debug_fields;
use crate::transport::{DeliveryControl, Failure, Reply, Request, Response, Transport};

/// The longest wait of a test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// One attempt as it arrived.
#[derive(Clone)]
pub struct Arrival {
    /// The host of the URL.
    pub host: String,
    /// The whole URL.
    pub url: String,
    /// The `webhook-id`.
    pub id: String,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// All headers.
    pub headers: HeaderMap,
    /// How long the attempt may take.
    pub timeout: Duration,
    /// The body.
    pub body: Vec<u8>,
}

impl Arrival {
    fn new(request: &Request<'_>) -> Arrival {
        let headers: HeaderMap = request.headers.iter().cloned().collect();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        Arrival {
            host: request.url.host().unwrap_or_default().to_owned(),
            url: request.url.to_string(),
            id: text("webhook-id").unwrap_or_default().to_owned(),
            attempt: text("x-webhook-attempt").and_then(|n| n.parse().ok()).unwrap_or(0),
            timeout: request.timeout,
            body: request.body.to_vec(),
            headers,
        }
    }

    /// A header, if it was sent and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The event type, by its header.
    pub fn event_type(&self) -> &str {
        self.header("x-webhook-event").unwrap_or_default()
    }

    /// The body as text; empty if it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_default()
    }
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} attempt {}: {}", self.host, self.id, self.attempt, self.text())
    }
}

/// How a scripted receiver replies to one attempt.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ScriptedReply {
    /// A status.
    Status(u16),
    /// A status and `Retry-After`.
    RetryAfter(u16, Duration),
    /// A status and the header `webhook-delivery`.
    Controls(u16, DeliveryControl),
    /// A status that depends only on what arrived.
    Judges(fn(&Arrival) -> u16),
    /// A status and the start of the response's body.
    Says(u16, &'static str),
    /// No usable response.
    Fails(Failure),
    /// No response until the engine interrupts the attempt.
    Hangs,
}

type Script = dyn Fn(&Arrival) -> ScriptedReply + Send + Sync;

/// Receivers by host name, without a network. Each replies by its own script; a host without a script uses the
/// default of [`new`](ScriptedTransport::new). Attempts are replied to on the thread that sends them, so an
/// attempt is recorded before the engine learns of its reply.
///
/// ```
/// use std::sync::Arc;
/// use wabahook::testing::{ScriptedReply, ScriptedTransport};
/// use wabahook::{Config, Engine, Event, Subscription, store};
///
/// let receivers = Arc::new(ScriptedTransport::default());
/// receivers.script("crm.example", &[ScriptedReply::Status(404)]);
/// let config = Config::new("unused")
///     .store(Arc::new(store::Memory::default()))
///     .transport(receivers.clone());
/// let engine = Engine::open(config)?;
/// engine.subscribe(Subscription::to("https://crm.example/hook")?)?;
/// let accepted = engine.publish(Event::new("ADD_TAG", "{}"))?.wait()?;
/// let arrived = receivers.wait_for("crm.example", 1);
/// assert_eq!(arrived[0].id, accepted.id.to_string());
/// engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ScriptedTransport {
    others: Box<Script>,
    records: bool,
    state: Mutex<ScriptState>,
    changed: Condvar,
}

#[derive(Default)]
struct ScriptState {
    scripts: HashMap<String, Vec<ScriptedReply>>,
    arrivals: Vec<Arrival>,
    interrupted: bool,
}

impl Default for ScriptedTransport {
    fn default() -> ScriptedTransport {
        ScriptedTransport::new(|_| ScriptedReply::Status(200))
    }
}

impl ScriptedTransport {
    /// Creates receivers that reply with `answer`, unless they have a script of their own.
    pub fn new(
        answer: impl Fn(&Arrival) -> ScriptedReply + Send + Sync + 'static,
    ) -> ScriptedTransport {
        let (state, changed) = (Mutex::default(), Condvar::new());
        ScriptedTransport { others: Box::new(answer), records: true, state, changed }
    }

    /// The same, without recording what arrives.
    pub fn unrecorded(self) -> ScriptedTransport {
        ScriptedTransport { records: false, ..self }
    }

    /// Replies to the next attempts at `host` with these, and to every later one with the last of them.
    pub fn script(&self, host: &str, replies: &[ScriptedReply]) {
        self.state.lock().scripts.insert(host.to_owned(), replies.to_vec());
    }

    /// The attempts that arrived so far, in order.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.state.lock().arrivals.clone()
    }

    /// The attempts that arrived at `host` so far.
    pub fn at(&self, host: &str) -> Vec<Arrival> {
        self.state.lock().at(host)
    }

    /// How many attempts arrived so far.
    pub fn count(&self) -> usize {
        self.state.lock().arrivals.len()
    }

    /// Takes the attempts that arrived since they were last taken.
    pub fn take(&self) -> Vec<Arrival> {
        std::mem::take(&mut self.state.lock().arrivals)
    }

    /// Waits until `count` attempts arrived at `host`, and returns them in order.
    ///
    /// # Panics
    /// If they do not arrive within 60 s.
    pub fn wait_for(&self, host: &str, count: usize) -> Vec<Arrival> {
        let mut state = self.state.lock();
        let too_few = |state: &mut ScriptState| state.at(host).len() < count;
        let late = self.changed.wait_while_for(&mut state, too_few, DEADLINE).timed_out();
        let arrivals = state.at(host);
        assert!(!late, "{host} saw {} attempts of {count} in time", arrivals.len());
        arrivals
    }
}

impl ScriptedReply {
    /// `None` if there is no reply.
    fn reply(self, arrival: &Arrival) -> Option<Reply> {
        Some(match self {
            ScriptedReply::Status(status) => Reply::status(status),
            ScriptedReply::RetryAfter(status, after) => {
                Reply::Response(Response::new(status).retry_after(after))
            }
            ScriptedReply::Controls(status, control) => {
                Reply::Response(Response::new(status).control(control))
            }
            ScriptedReply::Says(status, body) => {
                Reply::Response(Response::new(status).excerpt(body.as_bytes()))
            }
            ScriptedReply::Judges(status) => Reply::status(status(arrival)),
            ScriptedReply::Fails(failure) => Reply::Failed(failure),
            ScriptedReply::Hangs => return None,
        })
    }
}

impl ScriptState {
    fn at(&self, host: &str) -> Vec<Arrival> {
        self.arrivals.iter().filter(|arrival| arrival.host == host).cloned().collect()
    }

    fn scripted(&mut self, host: &str) -> Option<ScriptedReply> {
        let script = self.scripts.get_mut(host)?;
        if script.len() > 1 { Some(script.remove(0)) } else { script.first().cloned() }
    }
}

impl Transport for ScriptedTransport {
    fn send(&self, request: &Request<'_>) -> Reply {
        let arrival = Arrival::new(request);
        let scripted = self.state.lock().scripted(&arrival.host);
        let answer = scripted.unwrap_or_else(|| (self.others)(&arrival));
        let reply = answer.reply(&arrival);
        let mut state = self.state.lock();
        if self.records {
            state.arrivals.push(arrival);
            self.changed.notify_all();
        }
        reply.unwrap_or_else(|| {
            self.changed.wait_while(&mut state, |state| !state.interrupted);
            Reply::Failed(Failure::Interrupted)
        })
    }

    fn interrupt(&self) {
        self.state.lock().interrupted = true;
        self.changed.notify_all();
    }
}

debug_fields!(ScriptedTransport);
