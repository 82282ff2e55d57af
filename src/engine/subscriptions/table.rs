//! The subscriptions in force, by id, by name, by the subscription they wait for, and by their filter. All
//! four views change together. A disabled subscription is left out of the filter index, so that no new
//! event is owed to it.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::delivery::Template;
use crate::error::{Error, Result};
use crate::routing::{FilterMatch, Index, MatchQuery};
use crate::subscription::{SubscriptionId, SubscriptionInfo, SubscriptionState, Tls};

pub(in crate::engine) fn unknown(id: SubscriptionId) -> Error {
    Error::NotFound { what: "subscription", given: id.to_string() }
}

/// A subscription in force, with the part of its requests that all attempts share.
#[derive(Debug)]
pub(in crate::engine) struct ActiveSubscription {
    pub(in crate::engine) info: Arc<SubscriptionInfo>,
    pub(in crate::engine) template: Template,
    /// The TLS settings of its target, shared by its requests.
    pub(in crate::engine) tls: Option<Arc<Tls>>,
    /// The same for all subscriptions of an account.
    pub(in crate::engine) account_number: u64,
}

impl ActiveSubscription {
    /// Fails if no request could be built for the subscription.
    pub(in crate::engine) fn new(info: SubscriptionInfo) -> Result<ActiveSubscription> {
        let template = Template::new(&info)?;
        let tls = info.target.tls.clone().map(Arc::new);
        let account_number = account_number(&info.account);
        Ok(ActiveSubscription { info: Arc::new(info), template, tls, account_number })
    }
}

fn account_number(account: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    account.hash(&mut hasher);
    hasher.finish()
}

#[derive(Debug, Default)]
pub(in crate::engine) struct SubscriptionTable {
    index: Index,
    by_id: foldhash::HashMap<SubscriptionId, Arc<ActiveSubscription>>,
    by_account: HashMap<String, AccountSubscriptions>,
    /// The subscriptions that wait for another one's deliveries.
    dependents: HashMap<SubscriptionId, BTreeSet<SubscriptionId>>,
    /// The stored subscriptions that this build cannot serve, with their account and name.
    held: HashMap<SubscriptionId, Option<(String, String)>>,
}

#[derive(Debug, Default)]
struct AccountSubscriptions {
    by_name: HashMap<String, SubscriptionId>,
    text_bytes: u64,
}

impl SubscriptionTable {
    /// Adds a subscription, or replaces the one of the same id.
    pub(in crate::engine) fn put(&mut self, active: ActiveSubscription) {
        let info = Arc::clone(&active.info);
        self.remove(info.id);
        self.held.remove(&info.id);
        if info.state != SubscriptionState::Disabled {
            self.index.insert(info.id, &info.account, &info.filter);
            self.index.rank(info.id, info.precedence, info.profile);
        }
        if let Some(main) = info.policy.after {
            self.dependents.entry(main).or_default().insert(info.id);
        }
        let of_account = self.by_account.entry(info.account.clone()).or_default();
        of_account.by_name.insert(info.name.clone(), info.id);
        of_account.text_bytes += info.text_bytes();
        self.by_id.insert(info.id, Arc::new(active));
    }

    pub(in crate::engine) fn remove(
        &mut self,
        id: SubscriptionId,
    ) -> Option<Arc<SubscriptionInfo>> {
        let info = Arc::clone(&self.by_id.remove(&id)?.info);
        if info.state != SubscriptionState::Disabled {
            self.index.remove(id, &info.account, &info.filter);
        }
        if let Some(main) = info.policy.after
            && let Some(dependents) = self.dependents.get_mut(&main)
        {
            dependents.remove(&id);
            if dependents.is_empty() {
                self.dependents.remove(&main);
            }
        }
        if let Some(of_account) = self.by_account.get_mut(&info.account) {
            of_account.by_name.remove(&info.name);
            of_account.text_bytes -= info.text_bytes();
            if of_account.by_name.is_empty() {
                self.by_account.remove(&info.account);
            }
        }
        Some(info)
    }

    /// Notes a stored subscription that is not served.
    pub(in crate::engine) fn hold(&mut self, id: SubscriptionId, name: Option<(String, String)>) {
        self.held.insert(id, name);
    }

    pub(in crate::engine) fn is_held(&self, id: SubscriptionId) -> bool {
        self.held.contains_key(&id)
    }

    /// Forgets a stored subscription that is not served. Returns whether there was one.
    pub(in crate::engine) fn release_held(&mut self, id: SubscriptionId) -> bool {
        self.held.remove(&id).is_some()
    }

    /// The names in an account of stored subscriptions that are not served.
    pub(in crate::engine) fn held_names(&self, account: &str) -> Vec<(String, SubscriptionId)> {
        let named = self.held.iter().filter_map(|(id, name)| Some((name.as_ref()?, *id)));
        let own = named.filter(|((of, _), _)| of == account);
        own.map(|((_, name), id)| (name.clone(), id)).collect()
    }

    /// The stored subscription of this name that is not served.
    pub(in crate::engine) fn held_named(
        &self,
        account: &str,
        name: &str,
    ) -> Option<SubscriptionId> {
        let mut names = self.held_names(account).into_iter();
        names.find(|(held, _)| held == name).map(|(_, id)| id)
    }

    pub(in crate::engine) fn get(&self, id: SubscriptionId) -> Option<Arc<ActiveSubscription>> {
        self.by_id.get(&id).cloned()
    }

    pub(in crate::engine) fn named(
        &self,
        account: &str,
        name: &str,
    ) -> Option<Arc<SubscriptionInfo>> {
        let id = self.by_account.get(account)?.by_name.get(name)?;
        self.by_id.get(id).map(|active| Arc::clone(&active.info))
    }

    /// The subscriptions that wait for `main`, which may have been removed just now.
    pub(in crate::engine) fn dependents_of(&self, main: SubscriptionId) -> Vec<SubscriptionId> {
        self.dependents.get(&main).into_iter().flatten().copied().collect()
    }

    pub(in crate::engine) fn require(&self, id: SubscriptionId) -> Result<Arc<ActiveSubscription>> {
        self.get(id).ok_or_else(|| unknown(id))
    }

    pub(in crate::engine) fn all(&self) -> Vec<Arc<SubscriptionInfo>> {
        let mut all: Vec<_> = self.by_id.values().map(|active| Arc::clone(&active.info)).collect();
        all.sort_unstable_by_key(|info| info.id);
        all
    }

    pub(in crate::engine) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(in crate::engine) fn count_of(&self, account: &str) -> usize {
        self.by_account.get(account).map_or(0, |own| own.by_name.len())
    }

    /// The bytes of the texts of an account's subscriptions.
    pub(in crate::engine) fn text_bytes_of(&self, account: &str) -> u64 {
        self.by_account.get(account).map_or(0, |own| own.text_bytes)
    }

    /// All of an account, ordered by id.
    pub(in crate::engine) fn of_account(&self, account: &str) -> Vec<Arc<SubscriptionInfo>> {
        let ids = self.by_account.get(account).into_iter().flat_map(|own| own.by_name.values());
        let found = ids.filter_map(|id| self.by_id.get(id));
        let mut all: Vec<_> = found.map(|active| Arc::clone(&active.info)).collect();
        all.sort_unstable_by_key(|info| info.id);
        all
    }

    pub(in crate::engine) fn has_conditions(&self) -> bool {
        self.index.has_conditions()
    }

    /// The subscriptions that an event is owed to, if their conditions hold.
    pub(in crate::engine) fn matches(&self, sought: &MatchQuery<'_>) -> FilterMatch {
        self.index.matches(sought)
    }
}
