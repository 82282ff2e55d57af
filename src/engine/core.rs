//! Decides what the engine's threads and callers share, and in which order its locks are taken.
//!
//! Leaves to others: every decision. Invariant: locks are taken in the order book, registry, drive,
//! and none of them while waiting for the device, except the book, which waits for nothing else.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};

use super::recent::Recent;
use super::registry::Registry;
use crate::account::Accounts;
use crate::attempt::Attempt;
use crate::clock::Clock;
use crate::config::{Limits, Network};
use crate::delivery::{Crew, Guard, Transport};
use crate::dispatch::Dispatcher;
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::notice::{Board, Notice};
use crate::outbox::Outbox;
use crate::stats::Counters;
use crate::subscription::Book;

/// What every handle and thread of an engine shares.
pub(super) struct Core {
    pub(super) limits: Limits,
    pub(super) catalogue: Catalogue,
    pub(super) accounts: Accounts,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) network: Network,
    pub(super) guard: Arc<Guard>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) counters: Counters,
    pub(super) board: Board,
    /// Its lock is taken last of all.
    pub(super) recent: Recent,
    pub(super) crew: Crew,
    /// Whether workers step back, as the committer does.
    pub(super) company: AtomicBool,
    /// `None` once the engine is closed, so that its database can be opened again.
    pub(super) book: Mutex<Option<Book>>,
    pub(super) registry: RwLock<Registry>,
    pub(super) outbox: Outbox,
    pub(super) drive: Mutex<Drive>,
    /// Wakes a worker that waits for an attempt.
    pub(super) work: Condvar,
    /// Wakes the timekeeper.
    pub(super) timer: Condvar,
    /// Wakes whoever waits for threads to end.
    pub(super) quiet: Condvar,
    pub(super) phase: Phase,
    pub(super) poison: Mutex<Option<String>>,
    /// The directory's lock, held as long as the engine is open.
    pub(super) lock: Mutex<Option<std::fs::File>>,
}

/// The dispatcher, and the threads that serve it.
pub(super) struct Drive {
    pub(super) dispatcher: Dispatcher,
    /// Worker threads.
    pub(super) workers: usize,
    /// Of these, the ones that wait for an attempt.
    pub(super) idle: usize,
    /// And the ones that wait for the book and take no attempt meanwhile.
    pub(super) keeping_book: usize,
    /// Until when the timekeeper sleeps; `None` when until it is woken.
    pub(super) timer_due_ms: Option<u64>,
    pub(super) timekeeper_runs: bool,
    /// Whether the host was told that the stuck budget is spent.
    pub(super) told_spent: bool,
    /// While the device refuses: how many more ends of attempts may wait for it.
    pub(super) stall: Option<usize>,
    pub(super) closing: bool,
}

impl Drive {
    pub(super) fn new(dispatcher: Dispatcher) -> Drive {
        Drive {
            dispatcher,
            workers: 0,
            idle: 0,
            keeping_book: 0,
            timer_due_ms: None,
            timekeeper_runs: false,
            told_spent: false,
            stall: None,
            closing: false,
        }
    }
}

/// What the device's refusal holds up. Deliveries go on while there is room to remember their ends,
/// and no longer, so that what waits for the device does not grow with the backlog (I10).
impl Drive {
    /// The device refuses from now on: so many ends may wait for it.
    pub(super) fn stall(&mut self, ends_max: usize) {
        self.stall = Some(ends_max);
    }

    /// An attempt ended with something to be written.
    pub(super) fn note_end(&mut self) {
        if let Some(room) = &mut self.stall {
            *room = room.saturating_sub(1);
        }
    }

    /// An event could not be read. Answers whether that is because the device refuses, and then
    /// nothing more is tried until it takes writes: the next would fare no better.
    pub(super) fn note_unread(&mut self) -> bool {
        if let Some(room) = &mut self.stall {
            *room = 0;
        }
        self.stall.is_some()
    }

    fn is_held_up(&self) -> bool {
        self.stall == Some(0)
    }

    /// The next attempt, unless the device holds it up, or more workers are busy than are wanted: what
    /// the stuck budget lent them for is over, and they end when they have been idle for a while.
    pub(super) fn next_attempt(&mut self, now_ms: u64) -> Option<Attempt> {
        let busy = self.workers_serving() - self.idle;
        if self.is_held_up() || busy > self.dispatcher.workers_wanted() {
            return None;
        }
        self.dispatcher.next_attempt(now_ms)
    }

    /// How many workers are at an attempt or could take one.
    pub(super) fn workers_serving(&self) -> usize {
        self.workers - self.keeping_book
    }

    /// How many workers are to be started now.
    pub(super) fn workers_missing(&self) -> usize {
        let replaced = self.keeping_book.min(KEEPERS_REPLACED_MAX);
        self.workers_wanted().saturating_sub(self.workers - replaced)
    }

    /// How many workers are useful now.
    pub(super) fn workers_wanted(&self) -> usize {
        let wanted = self.dispatcher.workers_wanted();
        if self.is_held_up() { wanted.min(self.dispatcher.in_flight()) } else { wanted }
    }
}

/// How many workers that wait for the book have a replacement: were it one for each, endpoints that are
/// all gone at once would take a thread each (I10).
const KEEPERS_REPLACED_MAX: usize = 32;

/// How far the engine's life has come.
#[derive(Debug, Default)]
pub(super) struct Phase(AtomicU8);

const OPEN: u8 = 0;
const CLOSED: u8 = 1;
const POISONED: u8 = 2;

impl Phase {
    pub(super) fn close(&self) {
        let _ = self.0.compare_exchange(OPEN, CLOSED, Ordering::AcqRel, Ordering::Acquire);
    }

    pub(super) fn poison(&self) -> bool {
        self.0.compare_exchange(OPEN, POISONED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Core {
    /// Refuses calls on an engine that is closed or poisoned.
    pub(super) fn check_open(&self) -> Result<()> {
        match self.phase.0.load(Ordering::Acquire) {
            OPEN => Ok(()),
            POISONED => {
                let why = self.poison.lock().clone().unwrap_or_default();
                Err(Error::Poisoned { why })
            }
            _ => Err(Error::Closed),
        }
    }

    /// Stops the engine because a part of it failed. Nothing durable is lost.
    pub(super) fn poison(&self, why: &str) {
        *self.poison.lock() = Some(why.to_owned());
        if self.phase.poison() {
            self.signal_stop();
            self.board.tell(&Notice::Poisoned { why: why.to_owned() });
        }
    }

    /// Tells every thread to end, without waiting for any.
    pub(super) fn signal_stop(&self) {
        self.drive.lock().closing = true;
        self.work.notify_all();
        self.timer.notify_all();
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("phase", &self.phase).finish_non_exhaustive()
    }
}
