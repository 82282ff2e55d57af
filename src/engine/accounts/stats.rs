//! The counters of accounts, for a host that shows each customer its own and the operator all of them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::account::AccountInfo;
use crate::engine::Engine;
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
        let own = self.subscriptions_of(&id);
        let now_ms = self.shared.clock.monotonic_ms();
        let state = self.shared.dispatch_state.lock();
        let lanes = own.iter().filter_map(|one| state.dispatcher.lane_stats_of(one.id, now_ms));
        let lanes = lanes.collect();
        drop(state);
        self.account_stats(&id, own.len(), lanes)
    }

    /// The counters of every account that is not removed, the oldest first, as [`stats_of`](Engine::stats_of) gives
    /// them. Those created in the same millisecond are in no particular order. Reads the engine once for all.
    ///
    /// ```
    /// # use wabahook::{Account, Config, Engine};
    /// # let directory = tempfile::tempdir()?;
    /// let accounts = [Account::new("acme"), Account::new("beta")];
    /// let engine = Engine::open(accounts.into_iter().fold(Config::new(directory.path()), Config::account))?;
    /// let stats = engine.stats_by_account();
    /// assert_eq!(stats.len(), 2);
    /// assert!(stats.iter().any(|(account, stats)| account.name() == "beta" && stats.accepted == 0));
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats_by_account(&self) -> Vec<(Arc<AccountInfo>, Stats)> {
        let mut lanes: HashMap<_, _> =
            self.stats().lanes.into_iter().map(|lane| (lane.subscription, lane)).collect();
        let mut by_account = HashMap::<String, (usize, Vec<LaneStats>)>::new();
        for one in self.subscriptions() {
            let (count, own) = by_account.entry(one.account.clone()).or_default();
            *count += 1;
            own.extend(lanes.remove(&one.id));
        }
        let accounts = self.accounts().list().into_iter().filter(|account| !account.is_removed());
        accounts
            .map(|account| {
                let (count, own) = by_account.remove(account.id()).unwrap_or_default();
                let stats = self.account_stats(account.id(), count, own);
                (account, stats)
            })
            .collect()
    }

    fn account_stats(&self, id: &str, subscriptions: usize, lanes: Vec<LaneStats>) -> Stats {
        let sum = |of: fn(&LaneStats) -> u64| lanes.iter().map(of).sum::<u64>();
        let share = self.shared.shares.look_up(id);
        let ((accepted, unrouted), removed) = (share.accepted(), share.removed_lanes());
        let (owed_events, owed_bytes) = share.owed();
        Stats {
            accepted,
            unrouted,
            owed: sum(|lane| lane.owed),
            delivered: sum(|lane| lane.delivered) + removed.delivered,
            retried: sum(|lane| lane.retried) + removed.retried,
            dead: sum(|lane| lane.dead) + removed.dead,
            in_flight: sum(|lane| lane.in_flight),
            queued_events: share.queued_events(),
            owed_events,
            owed_bytes,
            dead_letters: self.shared.outbox.letters_of(id),
            subscriptions: subscriptions as u64,
            lanes,
            ..Stats::default()
        }
    }
}
