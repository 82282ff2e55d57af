//! An event as it is published, and what is answered once it is durable.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use wabahook::{Accepted, Event, TypeHint};

use super::problem::JsonProblem;

/// One event. The text of the payload is delivered unchanged.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventJson<'a> {
    #[serde(rename = "type", borrow)]
    pub(crate) event_type: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) number: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waba: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dedup_key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) payload: &'a RawValue,
}

/// The answer for one event.
#[derive(Serialize, Deserialize)]
pub(crate) struct AcceptedJson {
    pub(crate) id: String,
    /// The deliveries it owes.
    pub(crate) owed: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) duplicate: bool,
    /// Hints about the type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hints: Vec<String>,
}

impl EventJson<'_> {
    pub(crate) fn event(self, account: &str) -> Result<Event, JsonProblem> {
        if self.number.is_none() && self.waba.is_none() {
            let problem = "missing; expected a WABA number as a string of 7 to 15 digits, such as \
                           \"919999999999\", or \"waba\"";
            return Err(JsonProblem::at("number", problem));
        }
        let mut event = Event::new(self.event_type, self.payload.get()).account(account);
        event = self.number.into_iter().fold(event, Event::number);
        event = self.waba.into_iter().fold(event, Event::waba);
        event = self.key.into_iter().fold(event, Event::key);
        Ok(self.dedup_key.into_iter().fold(event, Event::dedup_key))
    }
}

impl AcceptedJson {
    /// The answer for an event with a remark on its type.
    pub(crate) fn with_hint(accepted: Accepted, hint: Option<&TypeHint>) -> AcceptedJson {
        let Accepted { id, owed, duplicate, .. } = accepted;
        let hints = hint.iter().map(ToString::to_string).collect();
        AcceptedJson { id: id.to_string(), owed, duplicate, hints }
    }
}
