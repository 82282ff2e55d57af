//! The JSON shapes of the session gateway's successful responses.

use std::time::Duration;

use http::{Response, StatusCode};
use serde::Serialize;

use super::receipts;
use crate::engine::{RecentAttempt, RecentOutcome, TestDelivery};
use crate::event::{Catalogue, EventType};
use crate::profile::Profile;
use crate::registration::gateway_http::json_response;
use crate::subscription::{SubscriptionId, SubscriptionInfo, SubscriptionState};
use crate::text::rfc3339;

/// The gateway's name of an event type.
pub(super) fn session_name(kind: &EventType, catalogue: &Catalogue) -> String {
    catalogue.name_in(Profile::Session, kind).to_owned()
}

/// A webhook as it is shown.
#[derive(Serialize)]
pub(super) struct SessionWebhook {
    id: u32,
    url: String,
    /// Empty means all.
    events: Vec<String>,
    active: bool,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl SessionWebhook {
    pub(super) fn of(registered: &SubscriptionInfo, catalogue: &Catalogue) -> SessionWebhook {
        let events = receipts::listed(&registered.filter);
        SessionWebhook {
            id: registered.id.0,
            url: registered.target.url().to_string(),
            events: events.map(|kind| session_name(kind, catalogue)).collect(),
            active: registered.state == SubscriptionState::Active,
            created_at: rfc3339(registered.created_at_ms),
            secret: None,
        }
    }

    /// Shows the events as the request named them, in the response to it.
    pub(super) fn with_events(self, named: Option<Vec<String>>) -> SessionWebhook {
        let events = named.unwrap_or(self.events);
        SessionWebhook { events, ..self }
    }

    /// Shows a generated secret, in the response that created it.
    pub(super) fn with_secret(self, secret: Option<String>) -> SessionWebhook {
        SessionWebhook { secret, ..self }
    }
}

/// An attempt as the logs show it.
#[derive(Serialize)]
pub(super) struct AttemptLog {
    webhook_id: u32,
    event_id: String,
    event_type: Option<String>,
    status: &'static str,
    status_code: Option<u16>,
    attempt_count: u32,
    last_error: Option<String>,
    response: Option<String>,
    #[serde(rename = "duration_ms", with = "crate::text::serde_with::duration_ms")]
    duration: Duration,
    created_at: String,
}

impl AttemptLog {
    pub(super) fn of(
        id: SubscriptionId,
        attempt: &RecentAttempt,
        catalogue: &Catalogue,
    ) -> AttemptLog {
        AttemptLog {
            webhook_id: id.0,
            event_id: attempt.event.to_string(),
            event_type: attempt.event_type.as_ref().map(|kind| session_name(kind, catalogue)),
            status: match attempt.outcome {
                RecentOutcome::Delivered => "success",
                RecentOutcome::Retry => "retrying",
                RecentOutcome::Dead => "failed",
            },
            status_code: attempt.status,
            attempt_count: attempt.number,
            last_error: attempt.reason.as_ref().map(ToString::to_string),
            response: excerpt(&attempt.excerpt),
            duration: attempt.took,
            created_at: rfc3339(attempt.at_ms),
        }
    }
}

#[derive(Serialize)]
pub(super) struct TestResult {
    event_id: String,
    event_type: String,
    status: &'static str,
    status_code: Option<u16>,
    last_error: Option<String>,
    response: Option<String>,
    #[serde(rename = "duration_ms", with = "crate::text::serde_with::duration_ms")]
    duration: Duration,
}

impl TestResult {
    pub(super) fn of(tested: &TestDelivery, event_type: String) -> TestResult {
        TestResult {
            event_id: tested.event_id.to_string(),
            event_type,
            status: if tested.is_delivered() { "success" } else { "failed" },
            status_code: tested.status,
            last_error: tested.reason.as_ref().map(ToString::to_string),
            response: excerpt(&tested.excerpt),
            duration: tested.took,
        }
    }
}

fn excerpt(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// The gateway's envelope. Its `code` is the HTTP status, unlike in some examples of its documents.
#[derive(Serialize)]
struct Envelope<'a, T> {
    status: bool,
    code: u16,
    message: &'a str,
    data: &'a T,
}

pub(super) fn success<T: Serialize>(
    status: StatusCode,
    message: &str,
    data: &T,
) -> Response<Vec<u8>> {
    json_response(status, &Envelope { status: true, code: status.as_u16(), message, data })
}
