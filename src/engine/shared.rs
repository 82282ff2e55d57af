//! What the engine's handles and threads share, and the order of its locks.
//!
//! A thread that holds one of these locks may take only those below it:
//!
//! 1. `book`: held over a sync of the book, over the seal of a backup, and over nothing else that waits.
//! 2. `subscriptions`: readers look up and match, a writer replaces entries.
//! 3. `dispatch_state`: short; held neither over I/O nor over a call into a host's code.
//! 4. the locks inside `outbox` (cache, generations, dead letters, histories; `outbox` documents their
//!    order), the match cache inside `subscriptions`, the ring of `recent_attempts`, and the parts of `issued`, each of
//!    which only one I/O thread locks: leaves, none is taken inside another.
//! 5. `directory_lock`, `closing`, `callbacks`, `dropped_letters` and the ring of notices inside `notices`: leaves.
//!
//! Code of the host is called under none of them: see `host_calls`.
//!
//! `subscriptions` is never waited for while `dispatch_state` is held, and a lock above another is never
//! taken by a callback of the committer except `dispatch_state` and the leaves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::Sender;
use parking_lot::{Condvar, MappedMutexGuard, Mutex, MutexGuard, RwLock};

use super::events::recent_attempts::RecentAttempts;
use super::subscriptions::table::SubscriptionTable;
use super::threads::io_threads::{IoThreads, IssuedAttempts};
use crate::account::Accounts;
use crate::attempt::{Attempt, Reason};
use crate::book::SubscriptionStore;
use crate::clock::Clock;
use crate::config::Limits;
use crate::delivery::{Guard, Http, LoopId};
use crate::dispatch::Dispatcher;
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::history::History;
use crate::network::Network;
use crate::notice::{Notice, NoticeBroadcaster};
use crate::outbox::{AccountShares, Outbox};
use crate::stats::{Bound, CallbackLedger, EngineCounters, MinuteCount};
use crate::store::Store;
use crate::subscription::SubscriptionId;
use crate::text::debug_fields;
use crate::transport::Transport;

pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) catalogue: Catalogue,
    pub(super) accounts: Accounts,
    pub(super) shares: Arc<AccountShares>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) network: Network,
    pub(super) guard: Arc<Guard>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) counters: EngineCounters,
    pub(super) notices: Arc<NoticeBroadcaster>,
    pub(super) callbacks: Mutex<CallbackLedger>,
    /// The dropped dead letters of each account, for one notice a minute.
    pub(super) dropped_letters: Mutex<HashMap<Arc<str>, MinuteCount>>,
    pub(super) recent_attempts: RecentAttempts,
    /// `None` where none is configured.
    pub(super) history: Option<History>,
    /// Numbers the worker threads.
    pub(super) workers_started: AtomicU64,
    /// Takes jobs for the background thread, once it runs. Bounded by the attempts in flight.
    pub(super) jobs: OnceLock<Sender<Job>>,
    pub(super) issued: IssuedAttempts,
    /// The transport whose I/O threads take attempts by themselves; `None` with a transport of the host.
    pub(super) http: Option<Arc<Http>>,
    /// Whether events now arrive in batches, so that workers should yield the CPU to the committer.
    pub(super) yields_cpu: AtomicBool,
    /// `None` once the engine is closed, so that its database can be opened again.
    pub(super) book: Mutex<Option<SubscriptionStore>>,
    pub(super) subscriptions: RwLock<SubscriptionTable>,
    pub(super) outbox: Outbox,
    pub(super) dispatch_state: Mutex<DispatchState>,
    /// Wakes a worker that waits for an attempt.
    pub(super) work: Condvar,
    pub(super) timer: Condvar,
    /// Signalled when a thread of the engine ends.
    pub(super) threads_ended: Condvar,
    /// What calls are refused with: that it is closed, or why it stopped by itself. Unset while it is open.
    pub(super) ended: OnceLock<Error>,
    pub(super) store: Arc<dyn Store>,
    /// The lock file of the data directory, held while the engine is open.
    pub(super) directory_lock: Mutex<Option<std::fs::File>>,
    pub(super) closing: Mutex<ClosingStage>,
    pub(super) closed: Condvar,
}

#[derive(Debug)]
pub(super) enum Job {
    /// Makes durable that a subscription is disabled.
    Disable(SubscriptionId, Reason),
    /// Reads the event of an attempt that an I/O thread is to make.
    Read(LoopId, Attempt),
}

/// The dispatcher, and the state of the threads that serve it.
pub(super) struct DispatchState {
    pub(super) dispatcher: Dispatcher,
    /// Whether attempts in flight need no worker.
    pub(super) answers_later: bool,
    pub(super) workers: usize,
    /// Of these, those that wait for an attempt.
    pub(super) idle: usize,
    pub(super) io: IoThreads,
    /// Jobs that the background thread has not done yet.
    pub(super) jobs: usize,
    /// Until when the timekeeper sleeps; `None` while it sleeps until it is woken.
    pub(super) timer_due_ms: Option<u64>,
    pub(super) timekeeper_runs: bool,
    pub(super) bounds: ReachedBounds,
    /// While the device refuses: how many more ends of attempts may be queued for it.
    pub(super) stall: Option<usize>,
    pub(super) closing: bool,
    /// Says whether this engine may make attempts.
    store: Arc<dyn Store>,
}

impl DispatchState {
    pub(super) fn new(
        dispatcher: Dispatcher,
        answers_later: bool,
        store: Arc<dyn Store>,
    ) -> DispatchState {
        DispatchState {
            dispatcher,
            store,
            answers_later,
            workers: 0,
            idle: 0,
            io: IoThreads::default(),
            jobs: 0,
            timer_due_ms: None,
            timekeeper_runs: false,
            bounds: ReachedBounds::default(),
            stall: None,
            closing: false,
        }
    }
}

/// While the device refuses, deliveries continue only as long as there is room to queue their ends, so
/// that the queue does not grow with the backlog (I10).
impl DispatchState {
    pub(super) fn is_stalled(&self) -> bool {
        self.stall.is_some()
    }

    /// An attempt ended with a change to be written.
    pub(super) fn note_end(&mut self) {
        if let Some(room) = &mut self.stall {
            *room = room.saturating_sub(1);
        }
    }

    /// An event could not be read. Returns whether the device refuses; then no attempt starts until it
    /// takes writes, because the next read would fail too.
    pub(super) fn note_unread(&mut self) -> bool {
        if let Some(room) = &mut self.stall {
            *room = 0;
        }
        self.stall.is_some()
    }

    /// Whether this engine may make attempts, which is false after the end of a lease: another host may make
    /// them now.
    pub(super) fn is_owner(&self) -> bool {
        self.store.is_owner()
    }

    pub(super) fn room_for_ends(&self) -> usize {
        if self.is_held_up() { 0 } else { self.stall.unwrap_or(usize::MAX) }
    }

    fn is_held_up(&self) -> bool {
        self.stall == Some(0) || !self.is_owner()
    }

    pub(super) fn next_attempt(&mut self, now_ms: u64) -> Option<Attempt> {
        self.next_attempt_of(LoopId::default(), now_ms)
    }

    /// The next attempt of a thread, unless the device refuses or this engine may make none.
    pub(super) fn next_attempt_of(&mut self, thread: LoopId, now_ms: u64) -> Option<Attempt> {
        if self.is_held_up() {
            return None;
        }
        let attempt = self.dispatcher.next_attempt_of(thread, now_ms);
        if let Some(bound) = self.dispatcher.bound() {
            self.bounds.note(bound, now_ms);
        }
        attempt
    }

    pub(super) fn startable(&self) -> usize {
        if self.is_held_up() { 0 } else { self.dispatcher.startable() }
    }

    /// Wakes the idle I/O threads that have attempts to make.
    pub(super) fn wake_io(&mut self) {
        let is_held_up = self.is_held_up();
        for (number, thread) in &mut self.io.threads {
            let has_ready = || self.dispatcher.startable_of(*number) > 0;
            if thread.is_idle && (!thread.prepared.is_empty() || !is_held_up && has_ready()) {
                thread.is_idle = false;
                (thread.wake)();
            }
        }
    }

    /// How many workers are useful now.
    pub(super) fn workers_wanted(&self) -> usize {
        if self.answers_later {
            return self.startable().min(1);
        }
        self.dispatcher.in_flight().saturating_add(self.startable())
    }
}

/// Which bound kept ready deliveries from starting lately.
#[derive(Debug, Default)]
pub(super) struct ReachedBounds {
    last: Option<(Bound, u64)>,
    /// To be told to the host, by the timekeeper.
    pub(super) unreported: Option<Bound>,
}

/// How long a bound is reported after it was last reached.
const BOUND_KEPT_MS: u64 = 60_000;

impl ReachedBounds {
    pub(super) fn note(&mut self, bound: Bound, now_ms: u64) {
        let current = self.current(now_ms);
        let is_shortage = matches!(bound, Bound::Shortage(_));
        // The bounds on attempts alternate many times a second, so they are reported as one.
        if current.is_none() || is_shortage && current != Some(bound) {
            self.unreported = Some(bound);
        }
        self.last = Some((bound, now_ms));
    }

    /// The bound that was reached last, if that is not long ago.
    pub(super) fn current(&self, now_ms: u64) -> Option<Bound> {
        let recent = |(_, at_ms): &(Bound, u64)| now_ms.saturating_sub(*at_ms) < BOUND_KEPT_MS;
        self.last.filter(recent).map(|(bound, _)| bound)
    }
}

/// How far the end of the engine has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClosingStage {
    #[default]
    Open,
    /// A thread ends the committer and releases the directory.
    Releasing,
    Closed,
}

impl Shared {
    /// Refuses calls on an engine that is closed or poisoned.
    pub(super) fn check_open(&self) -> Result<()> {
        self.ended.get().map_or(Ok(()), |why| Err(why.clone()))
    }

    pub(super) fn lock_book(&self) -> Result<MappedMutexGuard<'_, SubscriptionStore>> {
        self.check_open()?;
        MutexGuard::try_map(self.book.lock(), Option::as_mut).map_err(|_| Error::Closed)
    }

    /// Stops the engine because a part of it failed. Nothing durable is lost.
    pub(super) fn poison(&self, why: &str) {
        self.stop_for(Error::Poisoned { why: why.to_owned() });
    }

    /// Stops the engine because of an error that this process cannot overcome.
    pub(super) fn stop_for(&self, error: Error) {
        let notice = match &error {
            Error::NotOwner => Notice::NotOwner,
            Error::Poisoned { why } => Notice::Poisoned { why: why.clone() },
            other => Notice::Poisoned { why: other.to_string() },
        };
        let why = match error {
            Error::NotOwner | Error::Poisoned { .. } => error,
            other => Error::Poisoned { why: other.to_string() },
        };
        if self.ended.set(why).is_ok() {
            self.signal_stop();
            self.notices.send(&notice);
        }
    }

    /// Tells every thread to end, without waiting for any.
    pub(super) fn signal_stop(&self) {
        let mut state = self.dispatch_state.lock();
        state.closing = true;
        state.io.wake_all();
        drop(state);
        self.work.notify_all();
        self.timer.notify_all();
    }
}

debug_fields!(Shared: ended);
