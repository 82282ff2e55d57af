//! Deliveries, the newest attempts of a subscription, and the result of a test delivery.

use serde::{Deserialize, Serialize};
use wabahook::{Delivery, RecentAttempt, TestDelivery};

use super::values::{Millis, TimestampJson};

/// A delivery in lists.
#[derive(Serialize, Deserialize)]
pub(crate) struct DeliveryJson {
    pub(crate) event_id: String,
    pub(crate) subscription: u32,
    /// The name of the subscription, while it is registered.
    #[serde(default)]
    pub(crate) subscription_name: Option<String>,
    pub(crate) state: String,
    pub(crate) attempts: u32,
    #[serde(default)]
    pub(crate) event_type: Option<String>,
    #[serde(default)]
    pub(crate) number: Option<String>,
    #[serde(default)]
    pub(crate) accepted_at: Option<TimestampJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) due_at: Option<TimestampJson>,
    /// Why the last attempt failed, or why it became a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// When it became a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<TimestampJson>,
}

/// One of the newest attempts of a subscription.
#[derive(Serialize, Deserialize)]
pub(crate) struct RecentAttemptJson {
    pub(crate) at: TimestampJson,
    pub(crate) event_id: String,
    pub(crate) event_type: Option<String>,
    pub(crate) attempt: u32,
    pub(crate) outcome: String,
    status: Option<u16>,
    pub(crate) reason: Option<String>,
    pub(crate) took_ms: Millis,
    /// The first bytes of a response that was no success.
    pub(crate) excerpt: String,
}

/// How a receiver answered a test event.
#[derive(Serialize, Deserialize)]
pub(crate) struct TestDeliveryJson {
    event_id: String,
    pub(crate) outcome: String,
    status: Option<u16>,
    pub(crate) reason: Option<String>,
    pub(crate) took_ms: Millis,
    pub(crate) excerpt: String,
}

impl DeliveryJson {
    pub(crate) fn of(delivery: &Delivery, subscription_name: Option<String>) -> DeliveryJson {
        DeliveryJson {
            event_id: delivery.event.to_string(),
            subscription: delivery.subscription.0,
            subscription_name,
            state: delivery.state.as_str().to_owned(),
            attempts: delivery.attempts,
            event_type: delivery.event_type.as_ref().map(ToString::to_string),
            number: delivery.number.map(|number| number.to_string()),
            accepted_at: delivery.accepted_at_ms.map(TimestampJson),
            due_at: delivery.due_at_ms.map(TimestampJson),
            reason: delivery.reason.as_ref().map(ToString::to_string),
            at: delivery.died_at_ms.map(TimestampJson),
        }
    }
}

impl RecentAttemptJson {
    /// Whether it contains the texts that a query has under its members' names, in any case.
    pub(crate) fn matches<'q>(&self, text: impl Fn(&str) -> Option<&'q str>) -> bool {
        let members = [
            ("event_id", Some(self.event_id.as_str())),
            ("event_type", self.event_type.as_deref()),
            ("outcome", Some(self.outcome.as_str())),
            ("reason", self.reason.as_deref()),
        ];
        members.iter().all(|(name, member)| {
            text(name).is_none_or(|part| {
                member.is_some_and(|member| member.to_lowercase().contains(&part.to_lowercase()))
            })
        })
    }

    /// The cursor of the page that begins after this attempt.
    pub(crate) fn cursor(&self) -> String {
        format!("{}.{}.{}", self.event_id, self.attempt, self.at)
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
