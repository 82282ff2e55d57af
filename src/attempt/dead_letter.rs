//! Dead letters: deliveries that were given up, as the outbox stores them and as a host sees them.

use serde::{Deserialize, Serialize};

use super::{DeliveryId, Reason};
use crate::event::{EventId, EventType, WabaNumber};
use crate::subscription::SubscriptionId;

/// A delivery that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize))]
#[non_exhaustive]
pub struct DeadLetter {
    /// The event. Its id is the `webhook-id` of all attempts, also of a replay.
    pub event: EventId,
    /// The subscription it was owed to.
    pub subscription: SubscriptionId,
    /// The id of the account of that subscription.
    pub account: String,
    /// The type of the event; `None` if the event cannot be read.
    pub event_type: Option<EventType>,
    /// The number of the event.
    pub number: Option<WabaNumber>,
    /// When the event was accepted, in milliseconds since the Unix epoch.
    pub accepted_at_ms: Option<u64>,
    /// Why it was given up.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::text::serde_with::display::serialize")
    )]
    pub reason: Reason,
    /// How many attempts were made.
    pub attempts: u32,
    /// When it was given up, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredDeadLetter {
    pub(crate) delivery: DeliveryId,
    pub(crate) reason: Reason,
    /// How many attempts were made.
    pub(crate) attempts: u32,
    /// When it was given up, in milliseconds since the Unix epoch.
    pub(crate) at_wall_ms: u64,
}
