//! Skeleton of the engine's public face; the bodies land with the outbox.

use std::sync::Arc;
use std::time::Duration;

use crate::account::Accounts;
use crate::config::{Config, Limits};
use crate::error::{Error, Result};
use crate::event::{Accepted, Catalogue, Event};
use crate::notice::Notices;
use crate::receipt::Receipt;
use crate::stats::Stats;
use crate::subscription::{Registered, Subscription, SubscriptionId};

/// The engine.
#[derive(Debug, Clone)]
pub struct Engine {}

#[allow(unused_variables, reason = "a skeleton")]
impl Engine {
    /// Opens it.
    pub fn open(config: Config) -> Result<Engine> {
        Err(Error::Closed)
    }
    /// Registers, or replaces the one of the same account and name, keeping id and backlog.
    pub fn subscribe(&self, subscription: Subscription) -> Result<SubscriptionId> {
        Err(Error::Closed)
    }
    /// Registers under a name not taken yet, else [`Error::NameTaken`].
    pub fn register(&self, subscription: Subscription) -> Result<SubscriptionId> {
        Err(Error::Closed)
    }
    /// Removes; what it was owed is cancelled and counted.
    pub fn unsubscribe(&self, id: SubscriptionId) -> Result<()> {
        Err(Error::Closed)
    }
    /// All, by id.
    pub fn subscriptions(&self) -> Vec<Arc<Registered>> {
        Vec::new()
    }
    /// One.
    pub fn subscription(&self, id: SubscriptionId) -> Option<Arc<Registered>> {
        None
    }
    /// Accepts or gives back as [`Error::Busy`]; never blocks.
    pub fn publish(&self, event: Event) -> Result<Receipt> {
        Err(Error::Closed)
    }
    /// All or none, in order.
    pub fn publish_many(&self, events: Vec<Event>) -> Result<Receipt<Vec<Accepted>>> {
        Err(Error::Closed)
    }
    /// Counts events that nobody owns and that are therefore not published.
    pub fn count_unrouted(&self, events: u64) {}
    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
    /// A reader of what happens from now on.
    pub fn notices(&self) -> Option<Notices> {
        None
    }
    /// Calls `wake` after each notice.
    pub fn on_notice(&self, wake: impl Fn() + Send + Sync + 'static) {}
    /// Accounts as configured.
    pub fn accounts(&self) -> Option<&Accounts> {
        None
    }
    /// Catalogue as configured.
    pub fn catalogue(&self) -> Option<&Catalogue> {
        None
    }
    /// Limits as configured.
    pub fn limits(&self) -> Option<&Limits> {
        None
    }
    /// Closes.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        Ok(())
    }
}
