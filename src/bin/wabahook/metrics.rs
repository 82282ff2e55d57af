//! Decides what `GET /metrics` answers: the engine's counters and the live side of the caller's own
//! subscriptions.
//!
//! Leaves to others: names, units and the bound on series (`wabahook::metrics`). Invariant (I9):
//! nothing of another account's subscriptions is named.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use wabahook::metrics::{CONTENT_TYPE, exposition};

use crate::host::{Caller, Host, off_thread};
use crate::refusal::Refusal;

/// `GET /metrics`.
pub(crate) async fn metrics(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
) -> Result<Response, Refusal> {
    let text = off_thread(move || {
        exposition(&host.engine.stats(), &host.engine.subscriptions_of(&account))
    });
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text.await?).into_response())
}
