//! Decides how the webhooks of an account are listed: what is shown of each, and in which order.
//!
//! Leaves to others: which webhooks there are (`engine`). Invariant (I9): headers, query, body and
//! authorization are never shown; webhooks that are equal in what they are sorted by stay in the order
//! in which they were registered, whatever the direction.

use std::cmp::Ordering;
use std::fmt::Display;

use serde::Serialize;
use serde_json::{Value, json};

use super::Refusal;
use crate::account::Account;
use crate::registration::call::Call;
use crate::registration::fields::Problem;
use crate::subscription::Registered;

/// A webhook in the list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    webhook_id: String,
    url: String,
    event_types: Vec<String>,
    /// Digits alone: with a plus the longest number would not fit the documented 15 characters.
    waba_numbers: Vec<String>,
    /// Pairs of number and event.
    integration_count: usize,
    created_by: String,
    name: String,
}

type Compare = fn(&Item, &Item) -> Ordering;

/// The account's webhooks of this gateway.
pub(super) fn list(call: &Call<'_>, account: &Account) -> Result<Value, Refusal> {
    let (compare, is_descending) = asked(call.query.unwrap_or_default())?;
    let known = call.engine.subscriptions_of(account.name());
    let own = known.iter().filter(|registered| super::is_webhook(registered));
    let mut items: Vec<_> = own.map(|registered| Item::of(registered)).collect();
    items.sort_by(|one, other| match is_descending {
        true => compare(other, one),
        false => compare(one, other),
    });
    Ok(json!(items))
}

/// The order that a query asks for.
fn asked(query: &str) -> Result<(Compare, bool), Problem> {
    let (mut compare, mut is_descending) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let is_again = match name {
            "sortBy" => compare.replace(sort_by(value)?).is_some(),
            "sortDirection" => is_descending.replace(is_downward(value)?).is_some(),
            _ => {
                let message = "the query has an unknown parameter; expected sortBy, sortDirection";
                return Err(Problem::of_body(message));
            }
        };
        if is_again {
            return Err(Problem::at(name, "given twice; expected once"));
        }
    }
    Ok((compare.unwrap_or(by_name), is_descending.unwrap_or(false)))
}

fn sort_by(value: &str) -> Result<Compare, Problem> {
    match value {
        "name" => Ok(by_name),
        "url" => Ok(|one, other| one.url.cmp(&other.url)),
        "createdBy" => Ok(|one, other| one.created_by.cmp(&other.created_by)),
        "integrationCount" => Ok(|one, other| one.integration_count.cmp(&other.integration_count)),
        _ => Err(Problem::at("sortBy", "expected one of name, url, createdBy, integrationCount")),
    }
}

fn by_name(one: &Item, other: &Item) -> Ordering {
    one.name.cmp(&other.name)
}

fn is_downward(value: &str) -> Result<bool, Problem> {
    match value {
        "ASC" => Ok(false),
        "DESC" => Ok(true),
        _ => Err(Problem::at("sortDirection", "expected one of ASC, DESC")),
    }
}

impl Item {
    fn of(registered: &Registered) -> Item {
        let event_types = shown(registered.filter.events.as_ref());
        let waba_numbers = shown(registered.filter.numbers.as_ref());
        Item {
            webhook_id: registered.id.to_string(),
            url: registered.target.url().to_string(),
            integration_count: event_types.len() * waba_numbers.len(),
            event_types,
            waba_numbers,
            created_by: registered.account.clone(),
            name: registered.name.clone(),
        }
    }
}

/// What a side of a filter names; a star where the host widened it to all.
fn shown<T: Display>(side: Option<impl IntoIterator<Item = T>>) -> Vec<String> {
    match side {
        Some(set) => set.into_iter().map(|one| one.to_string()).collect(),
        None => vec!["*".to_owned()],
    }
}
