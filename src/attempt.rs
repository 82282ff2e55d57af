//! Decides the nouns that the rooms share about one delivery: its id, its attempt, what came back
//! and what that means.
//!
//! Leaves to others: choosing the attempt and its outcome (`dispatch`), making it (`delivery`),
//! keeping it (`outbox`). Invariant: these are plain values; nothing here reads a clock or does I/O.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event::{EventId, EventType};
use crate::subscription::SubscriptionId;

/// One event owed to one subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct DeliveryId {
    /// The event's place in the outbox.
    pub(crate) sequence: u64,
    /// Whom it is owed to.
    pub(crate) subscription: SubscriptionId,
}

/// One HTTP exchange to be made for a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// For which delivery.
    pub(crate) delivery: DeliveryId,
    /// Which attempt of it, from 1.
    pub(crate) number: u32,
}

/// An attempt that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    /// What came back.
    pub(crate) reply: Reply,
    /// The type of the event; `None` where the event was not read.
    pub(crate) event_type: Option<EventType>,
}

impl From<Failure> for Made {
    fn from(failure: Failure) -> Made {
        Made { reply: Reply::Failed(failure), event_type: None }
    }
}

/// What came back from the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An answer with a status.
    Answered(Answered),
    /// No usable answer.
    Failed(Failure),
}

impl Reply {
    /// An answer that says nothing but its status.
    pub const fn status(status: u16) -> Reply {
        Reply::Answered(Answered::new(status))
    }

    /// The status and the first bytes of the body, where there was an answer.
    pub(crate) fn into_answer(self) -> (Option<u16>, Vec<u8>) {
        match self {
            Reply::Answered(Answered { status, excerpt, .. }) => (Some(status), excerpt),
            Reply::Failed(_) => (None, Vec::new()),
        }
    }
}

/// What a receiver answered.
///
/// ```
/// use wabahook::{Answered, Control, Reply};
/// // What a transport of your own, or one of a test, can say:
/// let busy = Reply::Answered(Answered::new(429).retry_after_ms(30_000));
/// let unwanted = Reply::Answered(Answered::new(400).control(Control::AbortMessage));
/// assert_ne!(busy, unwanted);
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// What `Retry-After` asks for, in milliseconds from the answer.
    pub retry_after_ms: Option<u64>,
    /// What the response header `webhook-delivery` asks for.
    pub control: Option<Control>,
    /// The first bytes of the body, at most [`EXCERPT_BYTES_MAX`].
    pub excerpt: Vec<u8>,
}

/// How much of an answer is kept in the history of a delivery: enough for the message of an error,
/// and little enough to be written with each failure.
pub const EXCERPT_BYTES_MAX: usize = 256;

/// What a receiver may ask for in the response header `webhook-delivery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// `disable`: no more deliveries to this subscription.
    Disable,
    /// `abort-message`: no more attempts for this delivery.
    AbortMessage,
}

impl Answered {
    /// An answer that says nothing but its status.
    pub const fn new(status: u16) -> Answered {
        Answered { status, retry_after_ms: None, control: None, excerpt: Vec::new() }
    }

    /// Asks for the next attempt no sooner than so many milliseconds from now.
    #[must_use]
    pub fn retry_after_ms(mut self, retry_after_ms: u64) -> Answered {
        self.retry_after_ms = Some(retry_after_ms);
        self
    }

    /// Asks for something in the header `webhook-delivery`.
    #[must_use]
    pub fn control(mut self, control: Control) -> Answered {
        self.control = Some(control);
        self
    }

    /// Keeps the first [`EXCERPT_BYTES_MAX`] bytes of a body.
    #[must_use]
    pub fn excerpt(mut self, body: &[u8]) -> Answered {
        self.excerpt = body.iter().copied().take(EXCERPT_BYTES_MAX).collect();
        self
    }
}

impl fmt::Debug for Answered {
    /// Without the excerpt, which may repeat the payload (I9).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answered")
            .field("status", &self.status)
            .field("retry_after_ms", &self.retry_after_ms)
            .field("control", &self.control)
            .field("excerpt_bytes", &self.excerpt.len())
            .finish()
    }
}

/// Why there was no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Failure {
    /// The attempt's time ran out.
    Timeout,
    /// The connection could not be made, or broke.
    Connect,
    /// The name could not be looked up.
    Dns,
    /// TLS failed; the word says why (`expired`, `unknown_issuer`, `name`, ...).
    Tls(String),
    /// The guard refused the address; the word is the rule's name, never the address.
    Guard(String),
    /// The answer was no HTTP, or its head was over the limit.
    Protocol,
    /// The host stopped before the attempt ended: it is not counted.
    Interrupted,
    /// Our own code failed while making the attempt.
    Internal,
    /// The event is too large for the way its subscription asks for it (a parameter of a GET or HEAD):
    /// nothing was sent.
    TooLarge,
}

/// What an attempt means for its delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver has it.
    Delivered,
    /// Try again, not before what the receiver asked for.
    Retry {
        /// What happened.
        reason: Reason,
        /// The receiver's `Retry-After`, in milliseconds.
        retry_after_ms: Option<u64>,
    },
    /// No attempt can help: the delivery goes to the dead letters.
    Dead(Reason),
    /// The receiver wants no more: dead, and the subscription is disabled.
    Gone(Reason),
    /// The attempt was cut short by us and does not count.
    Interrupted,
}

/// Why a delivery was retried or given up, in the form shown to hosts (`status:404`, `timeout`).
///
/// ```
/// use wabahook::{Failure, Reason};
/// assert_eq!(Reason::Status(404).to_string(), "status:404");
/// assert_eq!(Reason::Failed(Failure::Tls("expired".into())).to_string(), "tls:expired");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// The receiver answered with this status.
    Status(u16),
    /// There was no usable answer.
    Failed(Failure),
    /// The delivery grew older than its policy allows. (Where its attempts are used up, the reason
    /// is that of the last one.)
    Expired,
    /// The delivery of the same event that this one waited for was given up (`after`).
    Gate,
    /// The receiver asked for no more attempts of it, in the header `webhook-delivery`.
    Aborted,
    /// The receiver asked for no more deliveries, in the header `webhook-delivery`.
    Asked,
    /// Nothing but failure for as long as the policy allows.
    Failing,
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

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Status(status) => write!(f, "status:{status}"),
            Reason::Failed(failure) => failure.fmt(f),
            Reason::Expired => f.write_str("expired"),
            Reason::Gate => f.write_str("gate"),
            Reason::Aborted => f.write_str("aborted"),
            Reason::Asked => f.write_str("asked"),
            Reason::Failing => f.write_str("failing"),
        }
    }
}

/// What is kept of a delivery that failed and will be tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetryState {
    /// Attempts made so far.
    pub(crate) attempts: u32,
    /// How long ago the first attempt was when this was saved, in milliseconds.
    pub(crate) age_ms: u64,
    /// When the next attempt is due, in milliseconds since the Unix epoch.
    pub(crate) due_wall_ms: u64,
    /// When this was saved, in milliseconds since the Unix epoch.
    pub(crate) saved_wall_ms: u64,
}

/// What is kept of the endpoint of a lane that failed, so that a restart neither hammers it nor
/// forgets for how long it has failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaneHealth {
    /// Failed attempts since the last success.
    pub(crate) failures_in_row: u32,
    /// For how long there has been nothing but failure when this was saved, in milliseconds.
    pub(crate) failing_for_ms: u64,
    /// How often in a row the breaker opened; 0 while it is closed.
    pub(crate) trips: u32,
    /// How much longer the breaker waits from when this was saved, in milliseconds.
    pub(crate) breaker_left_ms: u64,
    /// Whether the last word of the endpoint was that it did not answer in time.
    pub(crate) slow: bool,
    /// When this was saved, in milliseconds since the Unix epoch.
    pub(crate) saved_wall_ms: u64,
}

/// One failed attempt in the history of its delivery.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tried {
    /// Which attempt, from 1.
    pub number: u32,
    /// When it ended, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// What happened.
    pub reason: Reason,
    /// The first bytes of the answer, at most [`EXCERPT_BYTES_MAX`].
    pub excerpt: Vec<u8>,
}

impl fmt::Debug for Tried {
    /// Without the excerpt, which may repeat the payload (I9).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tried")
            .field("number", &self.number)
            .field("at_ms", &self.at_ms)
            .field("took_ms", &self.took_ms)
            .field("reason", &self.reason)
            .field("excerpt_bytes", &self.excerpt.len())
            .finish()
    }
}

/// How many failed attempts of a delivery are kept: the newest ones.
pub const HISTORY_MAX: u32 = 8;

/// A delivery that was given up, as a host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Which event: the `webhook-id` of its attempts, and of those of a replay.
    pub event: EventId,
    /// Whom it was owed to.
    pub subscription: SubscriptionId,
    /// The account of that subscription.
    pub account: String,
    /// Why it was given up.
    pub reason: Reason,
    /// Attempts made.
    pub attempts: u32,
    /// When it was given up, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// A delivery that was given up, kept where somebody can see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Letter {
    /// Which delivery.
    pub(crate) delivery: DeliveryId,
    /// Why.
    pub(crate) reason: Reason,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// When it was given up, in milliseconds since the Unix epoch.
    pub(crate) at_wall_ms: u64,
}

/// A change of a delivery's state that the outbox makes durable in its next group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// The delivery needs no more attempts.
    Settle(DeliveryId),
    /// As `Settle`, and others wait until this is durable: the outbox tells when it is.
    SettleMain(DeliveryId),
    /// The delivery failed and will be tried again.
    Retry(DeliveryId, RetryState),
    /// The delivery was given up.
    Dead(Letter),
    /// The delivery was given up and is owed again.
    Revive(DeliveryId),
    /// An attempt of the delivery failed; goes before what became of the delivery.
    Tried(DeliveryId, Tried),
    /// How the endpoint of a lane is.
    Health(SubscriptionId, LaneHealth),
}
