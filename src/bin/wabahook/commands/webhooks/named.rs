//! Finds the webhook that a command line names by its id or its name.

use crate::command_error::{CommandError, CommandResult};
use crate::commands::client::ApiClient;
use crate::commands::screen::printable;
use crate::json::{SubscriptionListing, SubscriptionsJson};

/// The webhook with this id, or this name.
pub(in crate::commands) fn find(
    client: &ApiClient,
    webhook: &str,
) -> CommandResult<SubscriptionListing> {
    let mut known: Vec<String> = Vec::new();
    // An id is found by `search`, too.
    let mut cursor = String::new();
    loop {
        let query = [("search", webhook), ("limit", "1000"), ("cursor", cursor.as_str())];
        let page = client.typed(&client.get("/subscriptions", &query)?)?;
        let SubscriptionsJson { mut items, cursor: next, .. } = page;
        let by_id = items.iter().position(|item| item.id.to_string() == webhook);
        let found = by_id.or_else(|| items.iter().position(|item| item.name() == webhook));
        if let Some(index) = found {
            return Ok(items.swap_remove(index));
        }
        known.extend(items.iter().map(|item| printable(item.name())));
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    if known.is_empty() {
        let first = client.typed(&client.get("/subscriptions", &[("limit", "11")])?)?;
        let SubscriptionsJson { items, .. } = first;
        known.extend(items.iter().map(|item| printable(item.name())));
    }
    let others = if known.len() > 10 { " and others" } else { "" };
    known.truncate(10);
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let message = format!("no webhook has the id or name {webhook:?}; known: {known}{others}");
    Err(CommandError::NotFound(message))
}

pub(in crate::commands) fn title(item: &SubscriptionListing) -> String {
    format!("webhook {} ({})", item.id, printable(item.name()))
}
