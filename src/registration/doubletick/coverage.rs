//! The pairs of number and event that a webhook is registered for. A pair is valid if its number belongs
//! to the account and its event is in the catalogue. The response lists every given number and event
//! once, whatever its spelling.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::error::{DoubleTickError, DoubleTickResult};
use super::listing::ALL;
use super::webhook::DoubleTickWebhook;
use crate::account::AccountInfo;
use crate::engine::Engine;
use crate::event::WabaNumber;
use crate::subscription::{Subscription, SubscriptionInfo};

/// The valid and invalid numbers and events of a webhook.
pub(super) struct Coverage {
    /// The account's numbers, each as it was first written; a star stands for those that the webhook has.
    numbers: Vec<String>,
    /// Texts that are not a number of the account.
    foreign_numbers: Vec<String>,
    /// Names in the catalogue, each type as it was first named; a star stands for those that the webhook has.
    events: Vec<String>,
    /// Names outside of the catalogue.
    unknown_events: Vec<String>,
}

/// The most pairs of number and event in one body: every event type for a thousand numbers. The response
/// has a row for each pair, so without a bound a body of 1 MiB could cause a response of gigabytes.
const PAIRS_MAX: usize = 50_000;
/// Longer texts are not numbers or event types.
const NUMBER_BYTES_MAX: usize = 32;
const EVENT_CHARS_MAX: usize = 128;

impl Coverage {
    /// Sorts the numbers and events of a webhook.
    pub(super) fn of(
        webhook: &DoubleTickWebhook,
        engine: &Engine,
        account: &AccountInfo,
    ) -> DoubleTickResult<Coverage> {
        let DoubleTickWebhook { events, numbers, .. } = webhook;
        // The list shows a star for a side that the host widened, so an edit may send it back.
        let is_kept = |given: &[String]| webhook.is_edit && given == [ALL];
        let (numbers, foreign_numbers) = match is_kept(numbers) {
            true => (numbers.clone(), Vec::new()),
            false => sort_numbers(numbers, engine, account),
        };
        if let Some(place) = events.iter().position(|name| name.chars().count() > EVENT_CHARS_MAX) {
            let message =
                format!("webhookEvents[{place}]: expected at most {EVENT_CHARS_MAX} characters");
            return Err(DoubleTickError::unprocessable(message));
        }
        let (events, unknown_events) = match is_kept(events) {
            true => (events.clone(), Vec::new()),
            false => sort_events(events, engine),
        };
        let pairs = numbers.len().saturating_mul(events.len() + unknown_events.len());
        if pairs > PAIRS_MAX {
            let message = format!(
                "wabaNumbers: {pairs} pairs of number and event; expected at most {PAIRS_MAX}: \
                 register several webhooks"
            );
            return Err(DoubleTickError::unprocessable(message));
        }
        Ok(Coverage { numbers, foreign_numbers, events, unknown_events })
    }

    /// Whether no pair is valid.
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty() || self.events.is_empty()
    }

    /// The event types to register; `None` keeps those that the webhook has.
    fn events(&self) -> Option<&[String]> {
        Some(self.events.as_slice()).filter(|events| *events != [ALL])
    }

    /// The numbers to register; `None` keeps those that the webhook has.
    fn numbers(&self) -> Option<&[String]> {
        Some(self.numbers.as_slice()).filter(|numbers| *numbers != [ALL])
    }

    /// The subscription to the valid pairs of a webhook.
    pub(super) fn subscription(&self, webhook: DoubleTickWebhook) -> Subscription {
        let events = self.events().into_iter();
        let subscription = events.fold(webhook.subscription, Subscription::events);
        self.numbers().into_iter().fold(subscription, Subscription::numbers)
    }

    /// The subscription that replaces another. What a body cannot express stays, such as a secret that
    /// the host set, and so does what an item of the list does not show.
    pub(super) fn replacing(
        &self,
        before: &SubscriptionInfo,
        webhook: DoubleTickWebhook,
    ) -> Subscription {
        let is_listed = webhook.is_listed;
        let given = self.subscription(webhook);
        let mut edited = Subscription::from(before);
        edited.name = given.name;
        edited.events = given.events.or(edited.events);
        edited.numbers = given.numbers.or(edited.numbers);
        if is_listed {
            edited.target.set_url_from(&given.target);
            return edited;
        }
        let tls = edited.target.tls.take();
        edited.target = given.target;
        edited.target.tls = tls;
        edited.policy.retry_on_timeout = given.policy.retry_on_timeout;
        edited
    }

    /// The response body of a registration.
    pub(super) fn response_body(&self) -> Value {
        json!({
            "validWebhooks": self.rows(&self.events),
            "invalidWebhooks": self.rows(&self.unknown_events),
            "invalidWabaNumbers": self.foreign_numbers,
        })
    }

    /// One row for each pair of a number of the account and one of these events.
    fn rows(&self, events: &[String]) -> Vec<Value> {
        let row = |number, event| json!({"wabaNumber": number, "webhookEventType": event});
        let of_number = |number| events.iter().map(move |event| row(number, event));
        self.numbers.iter().flat_map(of_number).collect()
    }
}

/// The account's numbers and the other texts, each once.
fn sort_numbers(
    given: &[String],
    engine: &Engine,
    account: &AccountInfo,
) -> (Vec<String>, Vec<String>) {
    let accounts = engine.accounts();
    let (mut own, mut foreign) = (DistinctTexts::default(), DistinctTexts::default());
    for text in given {
        let parsed = text.parse::<WabaNumber>().ok().filter(|_| text.len() <= NUMBER_BYTES_MAX);
        match parsed.filter(|number| accounts.may_use_number(account, *number)) {
            Some(number) => own.add(number.to_string(), text),
            None => foreign.add(text.clone(), text),
        }
    }
    (own.texts, foreign.texts)
}

/// The names of event types in the catalogue and the other names, each type once.
fn sort_events(given: &[String], engine: &Engine) -> (Vec<String>, Vec<String>) {
    let catalogue = engine.catalogue();
    let (mut known, mut unknown) = (DistinctTexts::default(), DistinctTexts::default());
    for name in given {
        match catalogue.canonical(name).ok().filter(|_| catalogue.knows(name)) {
            Some(kind) => known.add(kind.to_string(), name),
            None => unknown.add(name.clone(), name),
        }
    }
    (known.texts, unknown.texts)
}

/// Texts in the order of first mention, each meaning once.
#[derive(Default)]
struct DistinctTexts {
    seen: HashSet<String>,
    texts: Vec<String>,
}

impl DistinctTexts {
    fn add(&mut self, meaning: String, text: &str) {
        if self.seen.insert(meaning) {
            self.texts.push(text.to_owned());
        }
    }
}
