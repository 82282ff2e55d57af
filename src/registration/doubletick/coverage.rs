//! Decides which pairs of number and event a webhook is registered for, and how the answer says it.
//!
//! Leaves to others: how numbers and events are written (`event`). Invariant: a pair is taken where its
//! number is the account's and its event is in the catalogue; every number and every event that was
//! given is in the answer, once, however often and in which vocabulary it was given.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::Refusal;
use super::webhook::Webhook;
use crate::account::Account;
use crate::engine::Engine;
use crate::event::WabaNumber;

/// What of a webhook is taken, and what is not.
pub(super) struct Coverage {
    /// The account's numbers, each as it was first written.
    numbers: Vec<String>,
    /// Texts that are no number of the account.
    foreign_numbers: Vec<String>,
    /// Canonical names.
    events: Vec<String>,
    /// Names outside of the catalogue.
    unknown_events: Vec<String>,
}

/// How many pairs of number and event one body may name: every event type for a thousand numbers.
/// The answer has a row for each, so a body of 1 MiB could ask for an answer of gigabytes.
const PAIRS_MAX: usize = 50_000;
/// What is longer is no number and no event type.
const NUMBER_BYTES_MAX: usize = 32;
const EVENT_CHARS_MAX: usize = 128;

impl Coverage {
    /// Looks at each number and event of a webhook.
    pub(super) fn of(
        webhook: &Webhook,
        engine: &Engine,
        account: &Account,
    ) -> Result<Coverage, Refusal> {
        let (numbers, foreign_numbers) = sort_numbers(&webhook.numbers, engine, account);
        let (events, unknown_events) = sort_events(&webhook.events, engine);
        if let Some(place) =
            webhook.events.iter().position(|name| name.chars().count() > EVENT_CHARS_MAX)
        {
            let message =
                format!("webhookEvents[{place}]: expected at most {EVENT_CHARS_MAX} characters");
            return Err(Refusal::unprocessable(message));
        }
        let pairs = numbers.len().saturating_mul(events.len() + unknown_events.len());
        if pairs > PAIRS_MAX {
            let message = format!(
                "wabaNumbers: {pairs} pairs of number and event; expected at most {PAIRS_MAX}: \
                 register several webhooks"
            );
            return Err(Refusal::unprocessable(message));
        }
        Ok(Coverage { numbers, foreign_numbers, events, unknown_events })
    }

    /// Whether no pair is taken.
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty() || self.events.is_empty()
    }

    pub(super) fn events(&self) -> &[String] {
        &self.events
    }

    pub(super) fn numbers(&self) -> &[String] {
        &self.numbers
    }

    /// The answer to a registration.
    pub(super) fn answer(&self) -> Value {
        json!({
            "validWebhooks": self.rows(&self.events),
            "invalidWebhooks": self.rows(&self.unknown_events),
            "invalidWabaNumbers": self.foreign_numbers,
        })
    }

    /// One row for each number of the account with each of these events.
    fn rows(&self, events: &[String]) -> Vec<Value> {
        let row = |number, event| json!({"wabaNumber": number, "webhookEventType": event});
        let of_number = |number| events.iter().map(move |event| row(number, event));
        self.numbers.iter().flat_map(of_number).collect()
    }
}

/// The account's numbers, and the texts that are none, each once.
fn sort_numbers(
    given: &[String],
    engine: &Engine,
    account: &Account,
) -> (Vec<String>, Vec<String>) {
    let accounts = engine.accounts();
    let (mut own, mut foreign) = (Once::default(), Once::default());
    for text in given {
        let parsed = text.parse::<WabaNumber>().ok().filter(|_| text.len() <= NUMBER_BYTES_MAX);
        match parsed.filter(|number| accounts.may_use_number(account, *number)) {
            Some(number) => own.add(number.to_string(), text),
            None => foreign.add(text.clone(), text),
        }
    }
    (own.texts, foreign.texts)
}

/// The canonical names of the event types that are in the catalogue, and the names that are not, each
/// once.
fn sort_events(given: &[String], engine: &Engine) -> (Vec<String>, Vec<String>) {
    let catalogue = engine.catalogue();
    let (mut known, mut unknown) = (Once::default(), Once::default());
    for name in given {
        match catalogue.canonical(name).ok().filter(|_| catalogue.knows(name)) {
            Some(kind) => known.add(kind.to_string(), kind.as_str()),
            None => unknown.add(name.clone(), name),
        }
    }
    (known.texts, unknown.texts)
}

/// Texts in the order of their first mention, each once by what it means.
#[derive(Default)]
struct Once {
    seen: HashSet<String>,
    texts: Vec<String>,
}

impl Once {
    fn add(&mut self, meaning: String, text: &str) {
        if self.seen.insert(meaning) {
            self.texts.push(text.to_owned());
        }
    }
}
