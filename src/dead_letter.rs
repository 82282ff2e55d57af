//! Dead letters: deliveries that were given up, as the outbox stores them and as a host sees them.

use serde::{Deserialize, Serialize};

use crate::attempt::DeliveryId;
use crate::event::EventId;
use crate::outcome::Reason;
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
    /// The account of that subscription.
    pub account: String,
    /// Why it was given up.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serde_text::serialize"))]
    pub reason: Reason,
    /// How many attempts were made.
    pub attempts: u32,
    /// When it was given up, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// A dead letter as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredDeadLetter {
    /// The delivery.
    pub(crate) delivery: DeliveryId,
    /// Why it was given up.
    pub(crate) reason: Reason,
    /// How many attempts were made.
    pub(crate) attempts: u32,
    /// When it was given up, in milliseconds since the Unix epoch.
    pub(crate) at_wall_ms: u64,
}
