//! What became of an event: in a list, and one with its payload and its attempts.

use serde::{Deserialize, Serialize};
use wabahook::{
    DeliveryOutcome, DeliveryState, DeliveryTrace, EventTrace, RecentAttempt, SubscriptionId,
};

use super::values::{Millis, TimestampJson};

/// What became of an event.
#[derive(Serialize, Deserialize)]
pub(crate) struct EventTraceJson {
    pub(crate) id: String,
    pub(crate) account: String,
    /// The name of the account, for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account_name: Option<String>,
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) number: Option<String>,
    pub(crate) waba: Option<String>,
    pub(crate) accepted_at: TimestampJson,
    /// `no_subscriber`, or the state of the delivery that is furthest from delivered.
    pub(crate) state: String,
    /// How often it was published again.
    pub(crate) duplicates: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) deliveries: Vec<DeliveryTraceJson>,
    /// As published, or its first 64 KiB; null in a list and where it is not UTF-8.
    #[serde(default)]
    pub(crate) payload: Option<String>,
}

/// What became of a delivery.
#[derive(Serialize, Deserialize)]
pub(crate) struct DeliveryTraceJson {
    pub(crate) subscription: u32,
    /// The name of the subscription, while it is registered.
    pub(crate) subscription_name: Option<String>,
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) due_at: Option<TimestampJson>,
    /// How many attempts are known.
    pub(crate) attempts: u64,
    /// The attempts, oldest first; empty in a list.
    #[serde(default)]
    pub(crate) history: Vec<TracedAttemptJson>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct TracedAttemptJson {
    pub(crate) number: u32,
    pub(crate) at: TimestampJson,
    pub(crate) outcome: String,
    pub(crate) status: Option<u16>,
    pub(crate) reason: Option<String>,
    pub(crate) took_ms: Millis,
    /// The first bytes of a response that was no success.
    pub(crate) excerpt: String,
}

/// Outcomes from the worst to the best.
const WORST_FIRST: [DeliveryOutcome; 8] = [
    DeliveryOutcome::Current(DeliveryState::Dead),
    DeliveryOutcome::GivenUp,
    DeliveryOutcome::Current(DeliveryState::Retrying),
    DeliveryOutcome::Current(DeliveryState::Blocked),
    DeliveryOutcome::Current(DeliveryState::Owed),
    DeliveryOutcome::Cancelled,
    DeliveryOutcome::Ended,
    DeliveryOutcome::Delivered,
];

impl EventTraceJson {
    /// The event as a list shows it, without payload and attempts.
    pub(crate) fn listed(
        trace: &EventTrace,
        name_of: impl Fn(SubscriptionId) -> Option<String>,
    ) -> EventTraceJson {
        let worst = WORST_FIRST
            .iter()
            .find(|worst| trace.deliveries.iter().any(|delivery| delivery.outcome == **worst));
        let delivery =
            |one: &DeliveryTrace| DeliveryTraceJson::listed(one, name_of(one.subscription));
        EventTraceJson {
            id: trace.id.to_string(),
            account: trace.account.clone(),
            account_name: None,
            event_type: trace.event_type.to_string(),
            number: trace.number.map(|number| number.to_string()),
            waba: trace.waba.clone(),
            accepted_at: TimestampJson(trace.accepted_at_ms),
            state: worst.map_or("no_subscriber", |worst| worst.as_str()).to_owned(),
            duplicates: trace.duplicates,
            payload_bytes: trace.payload_length,
            deliveries: trace.deliveries.iter().map(delivery).collect(),
            payload: None,
        }
    }

    /// The event with its payload and its attempts.
    pub(crate) fn whole(
        trace: &EventTrace,
        name_of: impl Fn(SubscriptionId) -> Option<String>,
    ) -> EventTraceJson {
        let mut whole = EventTraceJson::listed(trace, name_of);
        whole.payload = utf8_start(&trace.payload).map(str::to_owned);
        for (shown, delivery) in whole.deliveries.iter_mut().zip(&trace.deliveries) {
            shown.history = delivery.attempts.iter().map(TracedAttemptJson::from).collect();
        }
        whole
    }
}

/// The text of a payload whose last character may be cut off.
fn utf8_start(payload: &[u8]) -> Option<&str> {
    match std::str::from_utf8(payload) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(payload.get(..error.valid_up_to())?).ok()
        }
        Err(_) => None,
    }
}

impl DeliveryTraceJson {
    fn listed(delivery: &DeliveryTrace, subscription_name: Option<String>) -> DeliveryTraceJson {
        DeliveryTraceJson {
            subscription: delivery.subscription.0,
            subscription_name,
            state: delivery.outcome.as_str().to_owned(),
            reason: delivery.reason.as_ref().map(ToString::to_string),
            due_at: delivery.due_at_ms.map(TimestampJson),
            attempts: delivery.attempts.len() as u64,
            history: Vec::new(),
        }
    }
}

impl From<&RecentAttempt> for TracedAttemptJson {
    fn from(attempt: &RecentAttempt) -> TracedAttemptJson {
        TracedAttemptJson {
            number: attempt.number,
            at: TimestampJson(attempt.at_ms),
            outcome: attempt.outcome.as_str().to_owned(),
            status: attempt.status,
            reason: attempt.reason.as_ref().map(ToString::to_string),
            took_ms: Millis(attempt.took),
            excerpt: String::from_utf8_lossy(&attempt.excerpt).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_payload_ends_at_a_character() {
        let text = "caf\u{e9}".as_bytes();
        assert_eq!(utf8_start(text), Some("caf\u{e9}"));
        assert_eq!(utf8_start(&text[..4]), Some("caf"));
        assert_eq!(utf8_start(&[b'a', 0xff, b'b']), None);
    }
}
