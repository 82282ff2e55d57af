//! Tests of what a callback becomes, and the fixtures that they share.

use serde_json::{Value, json};

use super::cloud_api::{Callback, events};
use crate::account::{Account, Accounts};
use crate::event::Event;
use crate::text::json::{JsonObject, elements};

mod identity;
mod malformed;
mod ordering;
mod ownership;
mod parts;
mod properties;
mod publishing;
mod samples;
mod splitting;
mod types;

pub(super) const BATCH: &str =
    include_str!("../../../docs/samples/cloud_batch_two_wabas_three_numbers.json");

/// The two accounts of the batch: one WABA each; the third number is the second account's.
pub(super) fn two() -> Accounts {
    accounts(vec![
        Account::new("acme")
            .waba("100000000000001", ["919000000001", "919000000002"])
            .phone_number_id("200000000000002", "919000000002"),
        Account::new("beta").waba("100000000000002", ["919000000003"]),
    ])
}

pub(super) fn accounts(all: Vec<Account>) -> Accounts {
    Accounts::declared(&all).unwrap()
}

pub(super) fn open() -> Accounts {
    accounts(Vec::new())
}

pub(super) fn read_events(body: &str, accounts: &Accounts) -> Callback {
    events(body.as_bytes(), accounts).unwrap()
}

/// Type, account, number, WABA, key and dedup key, as one line.
pub(super) fn line(event: &Event) -> String {
    let number = event.number.as_ref().map(|number| number.as_ref().unwrap().to_string());
    let or = |text: Option<&str>| text.unwrap_or("-").to_owned();
    [
        event.kind.clone(),
        or(event.account.as_deref().map(|id| id.trim_start_matches("acct_"))),
        or(number.as_deref()),
        or(event.waba.as_deref()),
        or(event.key.as_deref()),
        or(event.dedup_key.as_deref()),
    ]
    .join(" ")
}

pub(super) fn lines(callback: &Callback) -> Vec<String> {
    callback.events.iter().map(line).collect()
}

pub(super) fn payload(event: &Event) -> &str {
    std::str::from_utf8(&event.payload).unwrap()
}

pub(super) fn value_of(event: &Event) -> Value {
    serde_json::from_slice(&event.payload).unwrap()
}

/// The text of one change in its callback.
pub(super) fn change_text(body: &str, entry: usize, change: usize) -> &str {
    let entries = elements(JsonObject::parse(body).unwrap().value("entry").unwrap()).unwrap();
    let entry = JsonObject::parse(entries[entry]).unwrap();
    elements(entry.value("changes").unwrap()).unwrap()[change]
}

/// A callback of one entry with these changes.
pub(super) fn callback_of(waba: &str, changes: &[Value]) -> String {
    json!({"object": "whatsapp_business_account", "entry": [{"id": waba, "changes": changes}]})
        .to_string()
}

pub(super) fn messages(number: &str, contacts: Value, messages: Value) -> Value {
    json!({"field": "messages", "value": {
        "metadata": {"display_phone_number": number, "phone_number_id": "7"},
        "contacts": contacts, "messages": messages,
    }})
}

/// The number of events that have no owner.
pub(super) fn unowned(callback: &Callback) -> u64 {
    callback.unowned.iter().map(|unowned| unowned.events).sum()
}

/// The events of one type.
pub(super) fn of_kind<'c>(callback: &'c Callback, kind: &str) -> Vec<&'c Event> {
    callback.events.iter().filter(|event| event.kind == kind).collect()
}

/// The keys by which events of one account are deduplicated: type and dedup key.
pub(super) fn identities(callback: &Callback) -> Vec<(String, String)> {
    let identity = |event: &Event| (event.kind.clone(), event.dedup_key.clone().unwrap());
    callback.events.iter().map(identity).collect()
}
