//! The threads of a fleet. One announces this host, looks at the others, and opens and closes engines, each on a thread
//! of its own. Another one reads the accounts, which engines may have to write. So neither a slow engine nor a silent
//! server delays the look that tells whether the server is there. A shard is served only while its lease is held, which
//! its store sees to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::ownership::{OwnershipStep, next_step};
use super::{DIRECTORY_SHARD, FleetMembership, FleetOptions, FleetShared, HeldByShard, HeldShard};
use crate::config::{Config, Limits};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::process::{file_limit, threads};
use crate::store::{ClusterHost, ClusterView, Postgres, ShardLease, StoreFailure};

/// How often to look at the server.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Every so many looks this host is announced and the accounts are read: every 500 ms.
const ANNOUNCE_EVERY: u64 = 2;

/// For so many looks after the server was away nothing is taken: the other hosts renew what they have first.
const PATIENCE: u32 = 4;

/// How many looks follow the end: what is still asked here is forwarded to the hosts that took over.
const LOOKS_AFTER_CLOSE: u64 = 60;

/// How long a shard that could not be opened is left alone.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// How long attempts in flight may take when a shard is handed over. They are owed, and made again by its next owner.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);

/// How long to wait for the end of an engine in addition to its attempts.
const CLOSE_GRACE: Duration = Duration::from_secs(6);

pub(super) fn start(shared: Arc<FleetShared>, woken: Receiver<()>) -> Result<()> {
    let failed = |error| Error::store("starting a thread", StoreFailure::io(error));
    let (read_accounts, asked) = crossbeam_channel::bounded(1);
    let reading = Arc::clone(&shared);
    let read = move || asked.iter().for_each(|()| reading.read_accounts());
    threads::start("wabahook-fleet-accounts", None, read).map_err(failed)?;
    let run = move || shared.run(&woken, &read_accounts);
    threads::start("wabahook-fleet", None, run).map(drop).map_err(failed)
}

/// The live hosts, and of each shard the host that has its lease.
fn owners_in(view: &ClusterView) -> (&[ClusterHost], Vec<Option<&str>>) {
    (&view.hosts, view.leases.iter().map(ShardLease::owner).collect())
}

/// What of this process each engine may use if it has them all: memory, files and threads. Bounds of queues and of what
/// is kept are those of each shard.
fn shared_limits(mut limits: Limits, engines: usize) -> Limits {
    let in_flight = limits.in_flight_max.unwrap_or_else(file_limit::in_flight_max);
    limits.in_flight_max = Some((in_flight / engines).max(16));
    limits.transport_threads = (limits.transport_threads / engines).max(4);
    limits.cache_bytes_max /= engines;
    limits.recent_attempts_max /= engines;
    limits.history_bytes_max /= engines as u64;
    limits
}

/// What failed with the server.
fn failed(failure: StoreFailure) -> Error {
    Error::store("looking at the other hosts", failure)
}

impl FleetShared {
    fn run(self: &Arc<Self>, woken: &Receiver<()>, read_accounts: &Sender<()>) {
        let (mut had_failed, mut looks_left, mut patience) = (false, LOOKS_AFTER_CLOSE, 0);
        for look in 0_u64.. {
            looks_left -= u64::from(self.is_closing());
            if looks_left == 0 {
                return;
            }
            patience = if had_failed { PATIENCE } else { patience.saturating_sub(1) };
            let looked = self.look(patience == 0);
            had_failed = looked.is_err();
            if !self.is_closing() {
                self.note_membership(looked);
                if look.is_multiple_of(ANNOUNCE_EVERY) && !had_failed {
                    self.cluster.announce();
                    // If the channel is full, they are about to be read anyway.
                    let _ = read_accounts.try_send(());
                }
            }
            if woken.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    /// Keeps what a look found, and logs it where it has changed.
    fn note_membership(&self, looked: Result<FleetMembership>) {
        let after = *looked.as_ref().unwrap_or(&FleetMembership::Disconnected);
        let before = std::mem::replace(&mut *self.membership.lock(), after);
        let FleetOptions { name, address, .. } = &self.options;
        match (after.problem(), looked) {
            _ if after == before => {}
            (Some(problem), Err(error)) => tracing::warn!(%error, "{problem}"),
            (Some(problem), Ok(_)) => tracing::warn!(name, address, "{problem}"),
            (None, _) if before == FleetMembership::Joining => {}
            (None, _) => tracing::warn!("the other hosts count on this host again"),
        }
    }

    /// Looks once, and where it `may_take` takes what should be here.
    fn look(self: &Arc<Self>, may_take: bool) -> Result<FleetMembership> {
        let view = self.cluster.view().map_err(failed)?;
        self.close_ended();
        let step = match self.is_closing() {
            true => OwnershipStep::default(),
            false => next_step(&self.options.name, &view, &self.held_shards()),
        };
        let own = (self.options.name.as_str(), self.options.address.as_str());
        let membership = self.membership.lock().after(own, &view);
        let before = std::mem::replace(&mut *self.view.write(), view);
        if owners_in(&before) != owners_in(&self.view.read()) {
            self.listener.changed();
        }
        if may_take {
            self.log_takeover(&step.take);
            step.take.into_iter().for_each(|shard| self.open_later(shard));
        }
        if let Some(shard) = step.hand_over {
            tracing::info!(shard, "handing over to the host that should own it");
            self.close_later(shard, HAND_OVER_MAX);
        }
        Ok(membership)
    }

    fn read_accounts(&self) {
        if let Err(error) = self.refresh_accounts() {
            tracing::warn!(%error, "the accounts could not be read");
        }
    }

    /// Logs whose shards are taken that were not given up.
    fn log_takeover(&self, taken: &[u16]) {
        let view = self.view.read();
        let leases = view.leases.iter().filter(|lease| taken.contains(&lease.shard));
        let hosts: BTreeSet<&str> = leases.map(|lease| lease.host.as_str()).collect();
        for host in hosts.into_iter().filter(|host| !host.is_empty() && *host != self.options.name)
        {
            tracing::warn!(host, "taking over the shards of a host that went away");
        }
    }

    /// Closes engines that ended by themselves: another host took over, or a part of them failed. In the second case
    /// the shard is opened again.
    fn close_ended(self: &Arc<Self>) {
        for (shard, engine) in self.engines() {
            if let Err(error) = engine.check_open() {
                tracing::warn!(shard, %error, "this host serves the shard no more");
                self.close_later(shard, Duration::ZERO);
            }
        }
    }

    fn open_later(self: &Arc<Self>, shard: u16) {
        let mut held = self.held.lock();
        if self.is_closing() || held.contains_key(&shard) {
            return;
        }
        held.insert(shard, HeldShard::Opening);
        drop(held);
        let shared = Arc::clone(self);
        let started = threads::start("wabahook-shard", None, move || {
            let opened = shared.open(shard);
            if let Err(error) = &opened {
                tracing::error!(shard, %error, "the shard cannot be opened");
                // It is tried again when it is no longer held here.
                std::thread::park_timeout(REOPEN_AFTER);
            }
            let engine = opened.ok().flatten();
            let mut held = shared.held.lock();
            match &engine {
                Some(engine) => held.insert(shard, HeldShard::Open(engine.clone())),
                None => held.remove(&shard),
            };
            drop(held);
            if let Some(engine) = engine {
                // Accounts that changed while it was opened.
                let _ = shared.adopt(shard, &engine);
                shared.listener.opened(shard, &engine);
            }
            shared.told();
        });
        if started.is_err() {
            self.held.lock().remove(&shard);
        }
    }

    /// Opens the engine of a shard; `None` where another host was faster.
    fn open(&self, shard: u16) -> Result<Option<Engine>> {
        let failed = |failure| Error::store("taking a shard", failure);
        // The server was prepared when this host joined.
        let store = Postgres::on_prepared_server(self.options.store.clone().shard(shard));
        let store = store.map_err(failed)?;
        if !store.try_acquire().map_err(failed)? {
            return Ok(None);
        }
        let engine = Engine::open(self.engine_config(shard).store(Arc::new(store)))?;
        self.adopt(shard, &engine)?;
        tracing::info!(shard, "this host serves the shard");
        Ok(Some(engine))
    }

    fn engine_config(&self, shard: u16) -> Config {
        let mut config = self.config.lock().clone();
        config.path = config.path.join(format!("shard-{shard}"));
        config.limits = shared_limits(config.limits, usize::from(self.options.shards));
        match shard {
            DIRECTORY_SHARD => config.without_default_account(),
            _ => config.adopted_accounts(),
        }
    }

    fn close_later(self: &Arc<Self>, shard: u16, timeout: Duration) {
        let mut held = self.held.lock();
        let Some(HeldShard::Open(engine)) = held.get(&shard) else { return };
        let engine = engine.clone();
        held.insert(shard, HeldShard::Closing);
        drop(held);
        let shared = Arc::clone(self);
        let close = move || {
            shared.listener.closing(shard);
            if let Err(error) = engine.close(timeout)
                && !matches!(error, Error::NotOwner)
            {
                tracing::warn!(shard, %error, "the engine of a shard was not closed in order");
            }
            drop(engine);
            shared.held.lock().remove(&shard);
            shared.told();
        };
        if threads::start("wabahook-shard", None, close).is_err() {
            tracing::error!(shard, "the shard cannot be closed: no thread can be started");
        }
    }

    fn told(&self) {
        self.held_changed.notify_all();
        self.listener.changed();
        // If the channel is full, the thread is about to look anyway.
        let _ = self.wake.try_send(());
    }

    pub(super) fn close(self: &Arc<Self>, timeout: Duration) -> Result<()> {
        self.is_closing.store(true, Ordering::Release);
        let _ = self.wake.try_send(());
        if let Err(error) = self.cluster.leave() {
            tracing::warn!(%error, "the announcement of this host could not be withdrawn");
        }
        let mut held = self.held.lock();
        let is_opening =
            |held: &mut HeldByShard| held.values().any(|one| matches!(one, HeldShard::Opening));
        self.held_changed.wait_while_for(&mut held, is_opening, CLOSE_GRACE);
        drop(held);
        for (shard, _) in self.engines() {
            self.close_later(shard, timeout);
        }
        let mut held = self.held.lock();
        let is_held = |held: &mut HeldByShard| !held.is_empty();
        let waited = self.held_changed.wait_while_for(&mut held, is_held, timeout + CLOSE_GRACE);
        match waited.timed_out() {
            true => {
                let source = StoreFailure::io(std::io::ErrorKind::TimedOut.into());
                Err(Error::store("closing: a shard did not end in time", source))
            }
            false => Ok(()),
        }
    }
}
