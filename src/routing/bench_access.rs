//! Gives the benches access to the index as the engine uses it. A bench is a crate of its own, and the cost
//! of a match cannot be separated from the rest of `publish` by measuring `publish`. Hidden from hosts.

use std::ops::Deref;

use super::{Index, MatchQuery};
use crate::event::{EventType, WabaNumber};
use crate::subscription::{Filter, SubscriptionId};

/// The index of the engine.
#[derive(Debug, Default)]
pub struct Matching(Index);

impl Matching {
    /// Adds a subscription under its filter.
    pub fn insert(&mut self, id: SubscriptionId, account: &str, filter: &Filter) {
        self.0.insert(id, account, filter);
    }

    /// Removes a subscription from the lists of the filter that it was inserted with.
    pub fn remove(&mut self, id: SubscriptionId, account: &str, filter: &Filter) {
        self.0.remove(id, account, filter);
    }

    /// The subscriptions that an event of this number and payload is owed to.
    #[must_use]
    pub fn targets_of_payload(
        &self,
        account: &str,
        kind: &EventType,
        number: WabaNumber,
        payload: &[u8],
    ) -> impl Deref<Target = [SubscriptionId]> + use<> {
        let number = Some(number);
        let query = MatchQuery { account, kind, number, waba_numbers: &[], is_part: false };
        self.0.matches(&query).evaluate(payload).targets
    }

    /// The subscriptions that match an event of this number.
    #[must_use]
    pub fn targets(
        &self,
        account: &str,
        kind: &EventType,
        number: WabaNumber,
    ) -> impl Deref<Target = [SubscriptionId]> + use<> {
        let number = Some(number);
        self.0.targets(&MatchQuery { account, kind, number, waba_numbers: &[], is_part: false })
    }
}
