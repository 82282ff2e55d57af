//! Decides how far a bench may reach into routing: to the index as the engine uses it, and no further.
//!
//! Leaves to others: everything. A host has no use for it, so it is hidden and promises nothing; it is
//! public because a bench is a crate of its own, and a match cannot be told from the rest of `publish`
//! by measuring `publish`. Invariant: every call is one call of the index.

use std::ops::Deref;

use super::{Index, Sought};
use crate::event::{EventType, WabaNumber};
use crate::subscription::{Filter, SubscriptionId};

/// The index of the engine.
#[derive(Debug, Default)]
pub struct Matching(Index);

impl Matching {
    /// Lists a subscription under its filter.
    pub fn insert(&mut self, id: SubscriptionId, account: &str, filter: &Filter) {
        self.0.insert(id, account, filter);
    }

    /// Takes a subscription off the lists of the filter that it was inserted with.
    pub fn remove(&mut self, id: SubscriptionId, account: &str, filter: &Filter) {
        self.0.remove(id, account, filter);
    }

    /// The subscriptions that an event of this number reaches.
    #[must_use]
    pub fn targets(
        &self,
        account: &str,
        kind: &EventType,
        number: WabaNumber,
    ) -> impl Deref<Target = [SubscriptionId]> + use<> {
        let number = Some(number);
        self.0.targets(&Sought { account, kind, number, waba_numbers: &[], is_part: false })
    }
}
