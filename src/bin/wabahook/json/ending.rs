//! Requests that cancel deliveries or purge events, and the answers that say how many ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wabahook::{DeliveryFilter, DeliveryState, PurgeFilter, Purged, SubscriptionId, WabaNumber};

use super::problem::JsonProblem;
use super::values::{Text, Whole};

/// Which owed deliveries to cancel: those that fit all members given.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CancelJson {
    pub(crate) subscription: Option<Whole<u32>>,
    pub(crate) state: Option<Vec<Text<DeliveryState>>>,
    pub(crate) event_type: Option<String>,
    pub(crate) number: Option<String>,
    pub(crate) reason: Option<String>,
    /// Count only.
    pub(crate) dry_run: bool,
}

/// How many of them there were, in a member that says what was done with them.
#[derive(Serialize, Deserialize)]
pub(crate) struct CountJson {
    /// A cluster adds members that are no counts.
    #[serde(flatten)]
    count: BTreeMap<String, Value>,
    /// Whether they were only counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) dry_run: bool,
}

impl CountJson {
    pub(crate) fn of(done: &str, count: u64, dry_run: bool) -> CountJson {
        CountJson { count: [(done.to_owned(), count.into())].into(), dry_run }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.values().filter_map(Value::as_u64).sum()
    }
}

/// Whose events to purge: those that fit all members given.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PurgeJson {
    pub(crate) number: Option<Text<WabaNumber>>,
    pub(crate) contact: Option<String>,
    /// The id or the name of an account, for the operator.
    pub(crate) account: Option<String>,
}

/// What a purge ended.
#[derive(Serialize, Deserialize)]
pub(crate) struct PurgedJson {
    /// Owed deliveries and dead letters.
    pub(crate) purged: u64,
    /// Events that were erased from the history.
    #[serde(default)]
    pub(crate) erased: u64,
}

impl From<Purged> for PurgedJson {
    fn from(purged: Purged) -> PurgedJson {
        PurgedJson { purged: purged.deliveries, erased: purged.history_events }
    }
}

/// Refuses texts that are parts of every text, and digits without one: they are no filter.
pub(super) fn check_parts(
    reason: Option<&String>,
    event_type: Option<&String>,
    number: Option<&String>,
) -> Result<(), JsonProblem> {
    for (field, part) in [("reason", reason), ("event_type", event_type)] {
        if part.is_some_and(String::is_empty) {
            return Err(JsonProblem::at(field, "found an empty string; expected a part of it"));
        }
    }
    if number.is_some_and(|number| !number.contains(|c: char| c.is_ascii_digit())) {
        return Err(JsonProblem::at("number", "found no digit; expected digits of the number"));
    }
    Ok(())
}

impl CancelJson {
    /// The filter that the deliveries must fit.
    pub(crate) fn filter(self, account: Option<&str>) -> Result<DeliveryFilter, JsonProblem> {
        let texts = [&self.event_type, &self.number, &self.reason];
        let has_text = texts.iter().any(|text| text.is_some());
        if self.subscription.is_none() && self.state.is_none() && !has_text {
            let message =
                "expected at least one of subscription, state, event_type, number, reason";
            return Err(JsonProblem::whole(message));
        }
        check_parts(self.reason.as_ref(), self.event_type.as_ref(), self.number.as_ref())?;
        let is_owed = |state: &Text<DeliveryState>| state.0 != DeliveryState::Dead;
        if self.state.as_ref().is_some_and(|states| !states.iter().any(is_owed)) {
            let message = "expected at least one of owed, retrying, blocked; dead letters are discarded \
                           with POST /dead-letters/discard";
            return Err(JsonProblem::at("state", message));
        }
        let mut filter = DeliveryFilter::default();
        filter.account = account.map(str::to_owned);
        filter.subscription = self.subscription.map(|id| SubscriptionId(id.0));
        filter.states = self.state.map(|states| states.into_iter().map(|state| state.0).collect());
        filter.event_type = self.event_type;
        filter.number = self.number;
        filter.reason = self.reason;
        Ok(filter)
    }
}

impl PurgeJson {
    /// The filter that the events of the account must fit; the operator may name the account in it.
    pub(crate) fn filter(self, account: Option<&str>) -> Result<PurgeFilter, JsonProblem> {
        if self.number.is_none() && self.contact.is_none() && self.account.is_none() {
            return Err(JsonProblem::whole("expected at least one of number, contact"));
        }
        if self.contact.as_ref().is_some_and(|contact| contact.trim().is_empty()) {
            let message = "found an empty string; expected a user id or a number of the contact";
            return Err(JsonProblem::at("contact", message));
        }
        let mut filter = PurgeFilter::default();
        filter.account = account.map(str::to_owned).or(self.account);
        filter.number = self.number.map(|number| number.0);
        filter.contact = self.contact;
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_a_cluster_is_read() {
        let text = r#"{"replayed":3,"dry_run":true,"shards":{"included":[0],"missing":[]}}"#;
        let read: CountJson = serde_json::from_str(text).unwrap();
        assert_eq!((read.count(), read.dry_run), (3, true));
    }
}
