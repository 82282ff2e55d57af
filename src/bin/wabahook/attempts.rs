//! Decides what `GET /subscriptions/{id}/attempts` shows: the newest attempts since the host was started.
//!
//! Leaves to others: remembering them (the engine). Invariant (I9): an account sees its own alone.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use wabahook::RecentAttempt;

use crate::asked::{Asked, Page};
use crate::host::{Caller, Host, Named};
use crate::moment::rfc3339;
use crate::refusal::{Refusal, json};
use crate::subscriptions::own;

#[derive(Serialize)]
struct Item {
    at: String,
    event_id: String,
    event_type: Option<String>,
    attempt: u32,
    outcome: &'static str,
    status: Option<u16>,
    reason: Option<String>,
    took_ms: u64,
    /// The first bytes of an answer that was no success.
    excerpt: String,
}

/// `GET /subscriptions/{id}/attempts`.
pub(crate) async fn list(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
    Named(id): Named,
    uri: Uri,
) -> Result<Response, Refusal> {
    let limit = Asked::read(&uri, &["limit"])?.limit()?;
    let id = own(&host, &account, &id)?.id;
    let items = host.engine.recent_attempts(id, limit).iter().map(Item::of).collect();
    Ok(json(StatusCode::OK, &Page { items, cursor: None }))
}

impl Item {
    fn of(attempt: &RecentAttempt) -> Item {
        Item {
            at: rfc3339(attempt.at_ms),
            event_id: attempt.event.to_string(),
            event_type: attempt.event_type.as_ref().map(ToString::to_string),
            attempt: attempt.number,
            outcome: attempt.outcome.as_str(),
            status: attempt.status,
            reason: attempt.reason.as_ref().map(ToString::to_string),
            took_ms: attempt.took_ms,
            excerpt: String::from_utf8_lossy(&attempt.excerpt).into_owned(),
        }
    }
}
