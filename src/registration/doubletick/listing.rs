//! The list of an account's webhooks, sorted as the request asks. Headers, query, body and authorization
//! are never shown (I9). Webhooks with equal sort keys stay in the order of their registration.

use std::cmp::Ordering;
use std::fmt::Display;

use serde::Serialize;
use serde_json::{Value, json};

use super::error::DoubleTickResult;
use super::webhook::is_webhook;
use crate::account::AccountInfo;
use crate::registration::fields::Problem;
use crate::registration::gateway_http::GatewayRequest;
use crate::subscription::SubscriptionInfo;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListedWebhook {
    webhook_id: String,
    url: String,
    event_types: Vec<String>,
    /// Digits only: with a plus the longest number would exceed the documented 15 characters.
    waba_numbers: Vec<String>,
    /// Pairs of number and event.
    integration_count: usize,
    created_by: String,
    name: String,
}

/// The parameters of the query.
pub(in crate::registration) const PARAMETERS: &[&str] = &["sortBy", "sortDirection"];

/// What the list shows for a side of the filter that the host widened to all.
pub(super) const ALL: &str = "*";

type Compare = fn(&ListedWebhook, &ListedWebhook) -> Ordering;

/// The account's webhooks of this gateway.
pub(super) fn list(request: &GatewayRequest<'_>, account: &AccountInfo) -> DoubleTickResult<Value> {
    let (compare, is_descending) = sort_order(request.query.unwrap_or_default())?;
    let known = request.engine.subscriptions_of(account.id());
    let own = known.iter().filter(|registered| is_webhook(registered));
    let mut items: Vec<_> = own.map(|registered| ListedWebhook::of(registered, account)).collect();
    items.sort_by(|one, other| match is_descending {
        true => compare(other, one),
        false => compare(one, other),
    });
    Ok(json!(items))
}

/// The order that a query names.
fn sort_order(query: &str) -> Result<(Compare, bool), Problem> {
    let (mut compare, mut is_descending) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let is_again = match name {
            "sortBy" => compare.replace(sort_by(value)?).is_some(),
            "sortDirection" => is_descending.replace(is_downward(value)?).is_some(),
            _ => false,
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

fn by_name(one: &ListedWebhook, other: &ListedWebhook) -> Ordering {
    one.name.cmp(&other.name)
}

fn is_downward(value: &str) -> Result<bool, Problem> {
    match value {
        "ASC" => Ok(false),
        "DESC" => Ok(true),
        _ => Err(Problem::at("sortDirection", "expected one of ASC, DESC")),
    }
}

impl ListedWebhook {
    fn of(registered: &SubscriptionInfo, account: &AccountInfo) -> ListedWebhook {
        let event_types = shown(registered.filter.events.as_ref());
        let waba_numbers = shown(registered.filter.numbers.as_ref());
        ListedWebhook {
            webhook_id: registered.id.to_string(),
            url: registered.target.url().to_string(),
            integration_count: event_types.len() * waba_numbers.len(),
            event_types,
            waba_numbers,
            created_by: account.name.clone(),
            name: registered.name.clone(),
        }
    }
}

/// One side of a filter; a star where the host widened it to all.
fn shown<T: Display>(side: Option<impl IntoIterator<Item = T>>) -> Vec<String> {
    match side {
        Some(set) => set.into_iter().map(|one| one.to_string()).collect(),
        None => vec![ALL.to_owned()],
    }
}
