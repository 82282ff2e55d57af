//! Deliveries, the newest attempts of a subscription, and the result of a test delivery.

use serde::{Deserialize, Serialize};
use wabahook::{Delivery, RecentAttempt, TestDelivery};

use super::values::{Millis, TimestampJson};

/// A delivery in lists.
#[derive(Serialize, Deserialize)]
pub(crate) struct DeliveryJson {
    event_id: String,
    subscription: u32,
    state: String,
    attempts: u32,
    /// When the next attempt is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<TimestampJson>,
    /// Why and when it became a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<TimestampJson>,
}

/// One of the newest attempts of a subscription.
#[derive(Serialize, Deserialize)]
pub(crate) struct RecentAttemptJson {
    at: TimestampJson,
    event_id: String,
    event_type: Option<String>,
    attempt: u32,
    outcome: String,
    status: Option<u16>,
    reason: Option<String>,
    took_ms: Millis,
    /// The first bytes of a response that was no success.
    excerpt: String,
}

/// How a receiver answered a test event.
#[derive(Serialize, Deserialize)]
pub(crate) struct TestDeliveryJson {
    event_id: String,
    pub(crate) outcome: String,
    status: Option<u16>,
    pub(crate) reason: Option<String>,
    pub(crate) took_ms: Millis,
    excerpt: String,
}

impl From<&Delivery> for DeliveryJson {
    fn from(delivery: &Delivery) -> DeliveryJson {
        DeliveryJson {
            event_id: delivery.event.to_string(),
            subscription: delivery.subscription.0,
            state: delivery.state.as_str().to_owned(),
            attempts: delivery.attempts,
            due_at: delivery.due_at_ms.map(TimestampJson),
            reason: delivery.reason.as_ref().map(ToString::to_string),
            at: delivery.died_at_ms.map(TimestampJson),
        }
    }
}

impl From<&RecentAttempt> for RecentAttemptJson {
    fn from(attempt: &RecentAttempt) -> RecentAttemptJson {
        RecentAttemptJson {
            at: TimestampJson(attempt.at_ms),
            event_id: attempt.event.to_string(),
            event_type: attempt.event_type.as_ref().map(ToString::to_string),
            attempt: attempt.number,
            outcome: attempt.outcome.as_str().to_owned(),
            status: attempt.status,
            reason: attempt.reason.as_ref().map(ToString::to_string),
            took_ms: Millis(attempt.took),
            excerpt: String::from_utf8_lossy(&attempt.excerpt).into_owned(),
        }
    }
}

impl From<&TestDelivery> for TestDeliveryJson {
    fn from(tested: &TestDelivery) -> TestDeliveryJson {
        TestDeliveryJson {
            event_id: tested.event_id.to_string(),
            outcome: if tested.is_delivered() { "delivered" } else { "failed" }.to_owned(),
            status: tested.status,
            reason: tested.reason.as_ref().map(ToString::to_string),
            took_ms: Millis(tested.took),
            excerpt: String::from_utf8_lossy(&tested.excerpt).into_owned(),
        }
    }
}
