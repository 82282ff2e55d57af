//! The gateway has a name for each status of a message (`message.read`), where the catalogue has one type for all
//! of them. A webhook that names some of these is subscribed to the type with a condition that lets these
//! statuses pass, and every event that is no status of a message.

use std::collections::BTreeSet;

use crate::event::{Catalogue, EventType};
use crate::subscription::{Condition, Filter, Subscription, SubscriptionInfo};

/// The gateway's names, and Meta's words for the statuses.
const RECEIPTS: [(&str, &str); 3] =
    [("message.delivered", "delivered"), ("message.read", "read"), ("message.played", "played")];
const STATUS_UPDATE: &str = "MESSAGE_STATUS_UPDATE";
/// The gateway has one name for messages of contacts and of groups.
const RECEIVED: &str = "MESSAGE_RECEIVED";
const RECEIVED_IN_GROUP: &str = "WA_GROUP_MESSAGE_RECEIVED";
const FIELD: &str = "/entry/0/changes/0/field";
const STATUS: &str = "/entry/0/changes/0/value/statuses/0/status";

/// Whether a name stands for a status of a message, so that callbacks of Meta become events of this name here.
pub(super) fn is_receipt(name: &str) -> bool {
    RECEIPTS.iter().any(|(receipt, _)| *receipt == name)
}

/// A filter by the events that a request names, as the webhook's before or a new one.
pub(super) fn with_events(
    subscription: Subscription,
    before: Option<&SubscriptionInfo>,
    mut events: Vec<String>,
    catalogue: &Catalogue,
) -> Subscription {
    let names =
        |name: &String| catalogue.canonical(name).is_ok_and(|kind| kind.as_str() == RECEIVED);
    if events.iter().any(names) {
        events.push(RECEIVED_IN_GROUP.to_owned());
    }
    let kept = before.and_then(|before| host_condition(&before.filter));
    let condition = condition(events.iter().map(String::as_str)).filter(|_| kept.is_none());
    if condition.is_some() {
        events.push(STATUS_UPDATE.to_owned());
    }
    let mut after = Subscription { condition: kept.or(condition), events: None, ..subscription };
    after.events = Some(events).filter(|events| !events.is_empty());
    after
}

/// The types of a webhook as the gateway lists them: without those that it has no name for.
pub(super) fn listed(filter: &Filter) -> impl Iterator<Item = &EventType> {
    let is_ours = filter.condition.is_some() && host_condition(filter).is_none();
    let events = filter.events.iter().flatten();
    let has_received = events.clone().any(|kind| kind.as_str() == RECEIVED);
    events.filter(move |kind| match kind.as_str() {
        STATUS_UPDATE => !is_ours,
        RECEIVED_IN_GROUP => !has_received,
        _ => true,
    })
}

/// The condition of a webhook, unless it is the one made here.
fn host_condition(filter: &Filter) -> Option<Condition> {
    let given = filter.condition.as_ref()?;
    let names = filter.events.iter().flatten().map(EventType::as_str);
    let ours = condition(names.filter(|name| *name != STATUS_UPDATE));
    Some(given.clone()).filter(|_| ours.as_ref() != Some(given))
}

/// The condition for these events; `None` if they name no receipt, or all statuses.
fn condition<'a>(events: impl Iterator<Item = &'a str>) -> Option<Condition> {
    let events: BTreeSet<&str> = events.collect();
    let named = RECEIPTS.iter().filter(|(name, _)| events.contains(name));
    let statuses: Vec<&str> = named.map(|(_, status)| *status).collect();
    if statuses.is_empty() || events.contains(STATUS_UPDATE) {
        return None;
    }
    let condition = serde_json::json!({"or": [
        {"pointer": STATUS, "in": statuses},
        {"not": {"and": [
            {"pointer": FIELD, "eq": "messages"},
            {"pointer": STATUS, "exists": true},
        ]}},
    ]});
    Condition::parse(&condition.to_string()).ok()
}
