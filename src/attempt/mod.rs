//! What one attempt of a delivery is: its identity and its result here, what the result means in [`outcome`], and what
//! is kept of a delivery that failed in [`record`] and [`dead_letter`]. Types only: `dispatch` decides on attempts,
//! `delivery` makes them, and the outbox stores what is recorded.

mod dead_letter;
mod outcome;
mod record;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::subscription::SubscriptionId;
use crate::text::debug_fields;
use crate::text::serde_with::duration_ms;
use crate::transport::{Failure, Reply, Shortage};

pub use self::dead_letter::DeadLetter;
pub(crate) use self::dead_letter::StoredDeadLetter;
pub use self::outcome::{Outcome, Reason};
pub(crate) use self::record::{LaneHealth, Record, RetryState};

/// One event owed to one subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct DeliveryId {
    /// The event's sequence in the outbox.
    pub(crate) sequence: u64,
    /// The subscription it is owed to.
    pub(crate) subscription: SubscriptionId,
}

/// One HTTP exchange to make for a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) delivery: DeliveryId,
    /// The number of this attempt of the delivery, from 1.
    pub(crate) number: u32,
}

/// Names an I/O thread of one engine, from 0. An engine that has none makes its attempts as if it had one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct LoopId(pub(crate) usize);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttemptEnd {
    /// With the receiver's response, or with a failure. [`Failure::Interrupted`](crate::Failure::Interrupted) if we interrupted it.
    Reply(Reply),
    /// With a shortage of ours: the delivery goes back to its lane, the attempt does not count, and the
    /// endpoint's health is unchanged (I12).
    Uncounted(Shortage),
}

impl AttemptEnd {
    /// The reply as a caller of the transport sees it.
    pub(crate) fn into_reply(self) -> Reply {
        match self {
            AttemptEnd::Reply(reply) => reply,
            AttemptEnd::Uncounted(shortage) => Reply::Failed(Failure::Shortage(shortage)),
        }
    }
}

impl From<Reply> for AttemptEnd {
    fn from(reply: Reply) -> AttemptEnd {
        match reply {
            Reply::Failed(Failure::Shortage(shortage)) => AttemptEnd::Uncounted(shortage),
            reply => AttemptEnd::Reply(reply),
        }
    }
}

/// One failed attempt in the history of its delivery.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailedAttempt {
    /// Which attempt, from 1.
    pub number: u32,
    /// When it ended, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How long it took, in whole milliseconds.
    #[serde(with = "duration_ms")]
    pub took: Duration,
    /// What happened.
    pub reason: Reason,
    /// The first bytes of the response body, at most [`EXCERPT_BYTES_MAX`](crate::EXCERPT_BYTES_MAX).
    pub excerpt: Vec<u8>,
}

// Without the excerpt, which may repeat the payload (I9).
debug_fields!(FailedAttempt: number, at_ms, took, reason, excerpt.len());

/// How many failed attempts of a delivery are kept: the newest ones.
pub const HISTORY_MAX: u32 = 8;
