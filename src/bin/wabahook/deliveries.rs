//! Decides what `GET /deliveries` shows: what is owed and what was given up, page by page.
//!
//! Leaves to others: reading it (the engine). Invariant (I9): an account sees its own alone.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use wabahook::{Delivery, DeliveryFilter, DeliveryState, SubscriptionId};

use crate::asked::SUBSCRIPTION;
use crate::asked::{Asked, Page};
use crate::host::{Caller, Host, off_thread};
use crate::moment::rfc3339;
use crate::refusal::{Refusal, json};

#[derive(Serialize)]
struct Item {
    event_id: String,
    subscription: u32,
    state: &'static str,
    attempts: u32,
    /// When the next attempt is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    /// Why and when it was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
}

/// `GET /deliveries`.
pub(crate) async fn list(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
    uri: Uri,
) -> Result<Response, Refusal> {
    let asked = Asked::read(&uri, &["state", "subscription", "limit", "cursor"])?;
    let (limit, after) = (asked.limit()?, asked.cursor()?);
    let mut filter = DeliveryFilter::default().account(account);
    filter.subscription = asked.value("subscription", SUBSCRIPTION)?.map(SubscriptionId);
    filter.states = asked.text("state").map(states).transpose()?;
    let page = off_thread(move || host.engine.deliveries(&filter, after, limit));
    let page = page.await?.map_err(Refusal::from_page_error)?;
    let items: Vec<_> = page.items.iter().map(Item::of).collect();
    let cursor = page.next.map(|next| next.to_string());
    Ok(json(StatusCode::OK, &Page { items, cursor }))
}

/// States separated by commas.
fn states(text: &str) -> Result<Vec<DeliveryState>, Refusal> {
    let read = |name: &str| {
        let expected = "owed, retrying, blocked and dead, any of them, separated by commas";
        name.trim().parse().map_err(|_| Refusal::invalid("state", format!("expected {expected}")))
    };
    text.split(',').map(read).collect()
}

impl Item {
    fn of(delivery: &Delivery) -> Item {
        Item {
            event_id: delivery.event.to_string(),
            subscription: delivery.subscription.0,
            state: delivery.state.as_str(),
            attempts: delivery.attempts,
            due_at: delivery.due_at_ms.map(rfc3339),
            reason: delivery.reason.as_ref().map(ToString::to_string),
            at: delivery.died_at_ms.map(rfc3339),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_separated_by_commas() {
        let both = [DeliveryState::Owed, DeliveryState::Dead];
        assert_eq!(states("owed,dead").unwrap(), both);
        assert_eq!(states("owed, dead").unwrap(), both);
        for text in ["hidden", "owed,,dead", "Owed"] {
            let refusal = format!("{:?}", states(text).unwrap_err());
            assert!(refusal.contains("state") && !refusal.contains("hidden"), "{refusal}");
        }
    }
}
