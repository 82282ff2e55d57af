//! Decides what is served right now: the subscriptions by id, by name, by whom they wait for and by
//! what they ask for.
//!
//! Leaves to others: keeping them (`subscription::book`) and what they are owed (`dispatch`).
//! Invariant: the views name the same subscriptions, because they change together; only a disabled
//! one is not found by what it asks for, so that nothing more is owed to it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::delivery::Template;
use crate::error::{Error, Result};
use crate::routing::{Index, Sought};
use crate::subscription::{Reached, Registered, State, SubscriptionId};

/// There is no subscription of this id.
pub(super) fn unknown(id: SubscriptionId) -> Error {
    Error::NotFound { what: "subscription", given: id.to_string() }
}

/// A subscription with what its attempts share.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) registered: Arc<Registered>,
    pub(super) template: Template,
}

impl Served {
    /// Refuses what could not be sent.
    pub(super) fn new(registered: Registered) -> Result<Served> {
        let template = Template::new(&registered)?;
        Ok(Served { registered: Arc::new(registered), template })
    }
}

/// The subscriptions that are served.
#[derive(Debug, Default)]
pub(super) struct Registry {
    index: Index,
    by_id: foldhash::HashMap<SubscriptionId, Arc<Served>>,
    /// By account and then by name.
    by_name: HashMap<String, HashMap<String, SubscriptionId>>,
    /// Who waits for a subscription's deliveries.
    dependents: HashMap<SubscriptionId, BTreeSet<SubscriptionId>>,
}

impl Registry {
    /// Adds a subscription, or replaces the one of the same id.
    pub(super) fn put(&mut self, served: Served) {
        let registered = Arc::clone(&served.registered);
        self.remove(registered.id);
        if registered.state != State::Disabled {
            self.index.insert(registered.id, &registered.account, &registered.filter);
            self.index.rank(registered.id, registered.level, registered.profile);
        }
        if let Some(main) = registered.policy.after {
            self.dependents.entry(main).or_default().insert(registered.id);
        }
        let of_account = self.by_name.entry(registered.account.clone()).or_default();
        of_account.insert(registered.name.clone(), registered.id);
        self.by_id.insert(registered.id, Arc::new(served));
    }

    /// Removes a subscription.
    pub(super) fn remove(&mut self, id: SubscriptionId) -> Option<Arc<Registered>> {
        let registered = Arc::clone(&self.by_id.remove(&id)?.registered);
        if registered.state != State::Disabled {
            self.index.remove(id, &registered.account, &registered.filter);
        }
        if let Some(main) = registered.policy.after {
            self.leave(main, id);
        }
        if let Some(of_account) = self.by_name.get_mut(&registered.account) {
            of_account.remove(&registered.name);
        }
        Some(registered)
    }

    pub(super) fn served(&self, id: SubscriptionId) -> Option<Arc<Served>> {
        self.by_id.get(&id).cloned()
    }

    pub(super) fn named(&self, account: &str, name: &str) -> Option<Arc<Registered>> {
        let id = self.by_name.get(account)?.get(name)?;
        self.by_id.get(id).map(|served| Arc::clone(&served.registered))
    }

    fn leave(&mut self, main: SubscriptionId, id: SubscriptionId) {
        let Some(dependents) = self.dependents.get_mut(&main) else { return };
        dependents.remove(&id);
        if dependents.is_empty() {
            self.dependents.remove(&main);
        }
    }

    /// Who waits for the deliveries of a subscription, also of one that was just removed.
    pub(super) fn dependents_of(&self, main: SubscriptionId) -> Vec<SubscriptionId> {
        self.dependents.get(&main).into_iter().flatten().copied().collect()
    }

    /// A subscription that is served, or the error that there is none of this id.
    pub(super) fn known(&self, id: SubscriptionId) -> Result<Arc<Served>> {
        self.served(id).ok_or_else(|| unknown(id))
    }

    /// All, in the order of their ids.
    pub(super) fn all(&self) -> Vec<Arc<Registered>> {
        let mut all: Vec<_> =
            self.by_id.values().map(|served| Arc::clone(&served.registered)).collect();
        all.sort_unstable_by_key(|registered| registered.id);
        all
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All of an account, in the order of their ids.
    pub(super) fn of_account(&self, account: &str) -> Vec<Arc<Registered>> {
        let ids = self.by_name.get(account).into_iter().flat_map(HashMap::values);
        let found = ids.filter_map(|id| self.by_id.get(id));
        let mut all: Vec<_> = found.map(|served| Arc::clone(&served.registered)).collect();
        all.sort_unstable_by_key(|registered| registered.id);
        all
    }

    /// Who gets an event.
    pub(super) fn matches(&self, sought: &Sought<'_>) -> Reached {
        self.index.targets(sought)
    }
}
