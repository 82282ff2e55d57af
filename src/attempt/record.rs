//! The state changes of deliveries that the outbox makes durable, and what it stores about deliveries and
//! endpoints that fail. A delivery that succeeds at its first attempt needs none of this.

use serde::{Deserialize, Serialize};

use super::{DeliveryId, FailedAttempt, StoredDeadLetter};
use crate::subscription::SubscriptionId;

/// A change of state that the outbox writes with its next group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// The delivery needs no more attempts.
    Settle(DeliveryId),
    /// As `Settle`, for a delivery that others depend on: the outbox reports when it is durable.
    SettleMain(DeliveryId),
    /// The delivery failed and will be tried again.
    Retry(DeliveryId, RetryState),
    /// The delivery became a dead letter.
    Dead(StoredDeadLetter),
    /// The delivery was a dead letter and is owed again.
    Revive(DeliveryId),
    /// The delivery was a dead letter and the host no longer wants it.
    Discard(DeliveryId),
    /// An attempt of the delivery failed. Precedes the record of what became of the delivery.
    FailedAttempt(DeliveryId, FailedAttempt),
    /// The health of a lane's endpoint changed.
    Health(SubscriptionId, LaneHealth),
}

impl Record {
    /// The delivery that is no longer owed by this.
    pub(crate) fn ended(&self) -> Option<DeliveryId> {
        match self {
            Record::Settle(delivery) | Record::SettleMain(delivery) => Some(*delivery),
            Record::Dead(letter) => Some(letter.delivery),
            _ => None,
        }
    }

    /// The dead letter that the delivery became.
    pub(crate) fn letter(&self) -> Option<&StoredDeadLetter> {
        match self {
            Record::Dead(letter) => Some(letter),
            _ => None,
        }
    }
}

/// What is stored about a delivery that waits for a retry, or that was replayed and not tried since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetryState {
    /// Attempts made so far; 0 after a replay.
    pub(crate) attempts: u32,
    /// How long ago the event was accepted, or the delivery replayed, when this was saved, in milliseconds.
    pub(crate) age_ms: u64,
    /// When the next attempt is due, in milliseconds since the Unix epoch.
    pub(crate) due_wall_ms: u64,
    /// When this was saved, in milliseconds since the Unix epoch.
    pub(crate) saved_wall_ms: u64,
}

/// What is stored about an endpoint that fails. So after a restart it is not flooded, and its failing time goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaneHealth {
    /// Failed attempts since the last success.
    pub(crate) failures_in_row: u32,
    /// For how long every attempt had failed when this was saved, in milliseconds.
    pub(crate) failing_for_ms: u64,
    /// How often in a row the breaker opened; 0 while it is closed.
    pub(crate) trips: u32,
    /// How much longer the breaker stayed open when this was saved, in milliseconds.
    pub(crate) breaker_left_ms: u64,
    /// Whether the last attempt timed out.
    pub(crate) slow: bool,
    /// When this was saved, in milliseconds since the Unix epoch.
    pub(crate) saved_wall_ms: u64,
}
