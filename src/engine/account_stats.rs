//! The counters of one account, for a host that shows each customer its own.

use std::collections::BTreeSet;

use super::Engine;
use crate::stats::{LaneStats, Stats};

impl Engine {
    /// The counters of one account, given by its id or its name: its events since the engine was opened, duplicates
    /// among them, and the figures of its subscriptions. Counters that are of the engine as a whole are 0.
    ///
    /// ```
    /// # use wabahook::{Account, Config, Engine, Event};
    /// # let directory = tempfile::tempdir()?;
    /// let accounts = [Account::new("acme"), Account::new("beta")];
    /// let engine = Engine::open(accounts.into_iter().fold(Config::new(directory.path()), Config::account))?;
    /// engine.publish(Event::new("ADD_TAG", "{}").account("acme"))?.wait()?;
    /// assert_eq!((engine.stats_of("acme").accepted, engine.stats_of("beta").accepted), (1, 0));
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats_of(&self, account: &str) -> Stats {
        let id = self.accounts().id_of(account);
        let own: BTreeSet<_> = self.subscriptions_of(&id).iter().map(|one| one.id).collect();
        let mut lanes = self.stats().lanes;
        lanes.retain(|lane| own.contains(&lane.subscription));
        let sum = |of: fn(&LaneStats) -> u64| lanes.iter().map(of).sum();
        let (accepted, unrouted) = self.shared.shares.of(&id).accepted();
        let usage = self.account_usage(&id);
        Stats {
            accepted,
            unrouted,
            owed: sum(|lane| lane.owed),
            delivered: sum(|lane| lane.delivered),
            retried: sum(|lane| lane.retried),
            dead: sum(|lane| lane.dead),
            in_flight: sum(|lane| lane.in_flight),
            queued_events: usage.queued_events,
            owed_events: usage.owed_events,
            owed_bytes: usage.owed_bytes,
            subscriptions: usage.subscriptions,
            lanes,
            ..Stats::default()
        }
    }
}
