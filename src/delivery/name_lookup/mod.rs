//! Looks names up on threads, because the system's resolver waits and cannot be given a deadline.
//!
//! Accounts take turns, and none takes so many threads that another finds none. A name is looked up once for all who
//! wait for it, and a name whose last look-up hung waits behind names that were never tried and never takes more than
//! a part of the threads. An answer that is old is used while it is refreshed. Answers come back through the listener's
//! callback, on a thread of this file.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::Clock;
use crate::process::file_limit::is_out_of_files;
use crate::process::threads;

/// The addresses of a name; none when it could not be looked up.
pub(super) type Addresses = Arc<[IpAddr]>;

/// Asks the system's resolver for the addresses of a name. Blocks as long as that takes.
pub(super) type AskSystem = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Called with each answer: the name as it was asked for, in lower case, and its addresses; `None` if the process could
/// open no file to look it up.
pub(super) type LookupListener = Arc<dyn Fn(&str, Option<&Addresses>) + Send + Sync>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lookup {
    Known(Addresses),
    Pending,
    /// The system refuses every thread.
    NoThread,
}

/// The threads that look names up, and run other work that waits for the device.
pub(super) struct LookupThreads {
    shared: Arc<LookupShared>,
}

struct LookupShared {
    ask: Box<AskSystem>,
    clock: Arc<dyn Clock>,
    /// How long a thread waits for a name before it ends.
    idle_max: Duration,
    state: Mutex<LookupState>,
    work: Condvar,
}

#[derive(Default)]
struct LookupState {
    known: HashMap<String, KnownName>,
    pending: HashMap<String, PendingName>,
    /// Names that were answered in time before, or never asked for.
    first: FairQueue,
    /// Names whose last look-up hung.
    slow: FairQueue,
    jobs: VecDeque<Box<dyn FnOnce() + Send>>,
    threads: usize,
    /// How many threads the system grants: `THREADS_MAX`, or as many as ran when it refused one.
    threads_max: usize,
    idle: usize,
    /// How many look-ups run for each account that has any.
    running: HashMap<u64, usize>,
    slow_running: usize,
    is_over: bool,
}

struct KnownName {
    addresses: Addresses,
    /// Until when it is used without another lookup.
    fresh_until_ms: u64,
    /// Until when it is used while another lookup runs.
    stale_until_ms: u64,
    has_hung: bool,
}

#[derive(Default)]
struct PendingName {
    listeners: Vec<(usize, LookupListener)>,
    is_running: bool,
}

impl LookupThreads {
    /// Names as the system knows them.
    pub(super) fn new(clock: Arc<dyn Clock>) -> LookupThreads {
        let ask = |host: &str| {
            let found = (host, 0).to_socket_addrs();
            // The resolver does not say that it could open no file.
            let found = found.or_else(|error| File::open("/dev/null").and(Err(error)))?;
            Ok(found.map(|address| address.ip()).take(ADDRESSES_MAX).collect())
        };
        LookupThreads::asking(Box::new(ask), clock)
    }

    /// Names as `ask` says.
    pub(super) fn asking(ask: Box<AskSystem>, clock: Arc<dyn Clock>) -> LookupThreads {
        LookupThreads::with_idle_max(ask, clock, IDLE_MAX)
    }

    fn with_idle_max(
        ask: Box<AskSystem>,
        clock: Arc<dyn Clock>,
        idle_max: Duration,
    ) -> LookupThreads {
        let (state, work) = (Mutex::new(LookupState::new()), Condvar::new());
        LookupThreads { shared: Arc::new(LookupShared { ask, clock, idle_max, state, work }) }
    }

    /// Asks for the addresses of a name, in lower case. `listener` is told once where the answer is pending,
    /// however often the one with this number asks.
    pub(super) fn look_up(
        &self,
        host: &str,
        account: u64,
        number: usize,
        listener: &LookupListener,
    ) -> Lookup {
        let now_ms = self.shared.clock.monotonic_ms();
        let mut state = self.shared.state.lock();
        if let Some(known) = state.known.get(host) {
            let answer = Lookup::Known(Arc::clone(&known.addresses));
            if now_ms < known.fresh_until_ms {
                return answer;
            }
            if now_ms < known.stale_until_ms {
                state.ask(host, account);
                self.shared.provide_thread(&mut state);
                return answer;
            }
        }
        state.ask(host, account);
        if !self.shared.provide_thread(&mut state) {
            state.pending.remove(host);
            return Lookup::NoThread;
        }
        if let Some(pending) = state.pending.get_mut(host)
            && !pending.listeners.iter().any(|(known, _)| *known == number)
        {
            pending.listeners.push((number, Arc::clone(listener)));
        }
        Lookup::Pending
    }

    /// The listener with this number no longer waits for a name. Whether its look-up had begun.
    pub(super) fn give_up(&self, host: &str, number: usize) -> bool {
        let mut state = self.shared.state.lock();
        let Some(pending) = state.pending.get_mut(host) else { return true };
        pending.listeners.retain(|(known, _)| *known != number);
        let (is_running, is_unwanted) = (pending.is_running, pending.listeners.is_empty());
        if is_unwanted && !is_running {
            // Its place in the queue is passed over.
            state.pending.remove(host);
        }
        is_running
    }

    /// Whether the look-up of a name that is waited for has begun.
    pub(super) fn is_running(&self, host: &str) -> bool {
        self.shared.state.lock().pending.get(host).is_none_or(|pending| pending.is_running)
    }

    /// Does other work that may wait for the device. False where the system refuses every thread.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let mut state = self.shared.state.lock();
        if state.is_over {
            return false;
        }
        state.jobs.push_back(Box::new(job));
        let is_provided = self.shared.provide_thread(&mut state);
        if !is_provided {
            state.jobs.pop_back();
        }
        is_provided
    }
}

impl LookupShared {
    /// Wakes an idle thread or starts one. Returns false if no thread runs and none can start.
    fn provide_thread(self: &Arc<Self>, state: &mut LookupState) -> bool {
        let slow_free = state.slow_max().saturating_sub(state.slow_running);
        let slow = state.slow.queued.len().min(slow_free);
        let waiting = state.first.queued.len() + slow + state.jobs.len();
        if waiting > state.idle && state.threads < THREADS_MAX {
            let shared = Arc::clone(self);
            let started =
                threads::start("wabahook-lookup", Some(STACK_BYTES), move || work(&shared));
            state.note_start(started.is_ok());
        }
        self.work.notify_one();
        state.threads > 0
    }
}

impl Drop for LookupThreads {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.is_over = true;
        state.pending.clear();
        state.jobs.clear();
        drop(state);
        self.shared.work.notify_all();
    }
}

impl fmt::Debug for LookupThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookupThreads").finish_non_exhaustive()
    }
}

impl LookupState {
    fn new() -> LookupState {
        LookupState { threads_max: THREADS_MAX, ..LookupState::default() }
    }

    /// Counts a thread that was started, or notes that the system refused it.
    fn note_start(&mut self, is_started: bool) {
        self.threads += usize::from(is_started);
        self.threads_max = match is_started {
            true => self.threads_max.max(self.threads),
            false => self.threads,
        };
    }

    /// Puts a name into the queue of an account, unless it is there or being looked up. Every account that asks
    /// queues it, so that the first one with a free thread has it looked up.
    fn ask(&mut self, host: &str, account: u64) {
        if self.is_over || self.pending.get(host).is_some_and(|pending| pending.is_running) {
            return;
        }
        if !self.pending.contains_key(host) {
            self.pending.insert(host.to_owned(), PendingName::default());
        }
        let queue = if self.has_hung(host) { &mut self.slow } else { &mut self.first };
        queue.push(account, host.to_owned());
    }

    fn has_hung(&self, host: &str) -> bool {
        self.known.get(host).is_some_and(|known| known.has_hung)
    }

    /// How many threads names take at most that hung before.
    fn slow_max(&self) -> usize {
        (self.threads_max / 2).clamp(1, SLOW_THREADS_MAX)
    }

    /// The next name to look up, which counts as running from now on.
    fn next_name(&mut self) -> Option<RunningName> {
        let free = self.threads_max.saturating_sub(self.running.values().sum());
        let slow_max = self.slow_max();
        let may_run = |account| {
            self.running
                .get(&account)
                .is_none_or(|running| *running < ACCOUNT_THREADS_OF_FREE * free)
        };
        loop {
            let ((account, host), is_slow) = match self.first.pop(may_run) {
                Some(first) => (first, false),
                None if self.slow_running < slow_max => (self.slow.pop(may_run)?, true),
                None => return None,
            };
            if !is_slow && self.has_hung(&host) {
                // It hung after this account asked, when another one had it looked up.
                self.slow.push(account, host);
            } else if let Some(pending) =
                self.pending.get_mut(&host).filter(|pending| !pending.is_running)
            {
                pending.is_running = true;
                *self.running.entry(account).or_default() += 1;
                self.slow_running += usize::from(is_slow);
                return Some(RunningName { account, host, is_slow });
            }
        }
    }

    fn end_running(&mut self, name: &RunningName) {
        self.slow_running -= usize::from(name.is_slow);
        if let Some(running) = self.running.get_mut(&name.account) {
            *running -= 1;
        }
        self.running.retain(|_, running| *running > 0);
    }

    /// Who waits for a name.
    fn take_waiting(&mut self, host: &str) -> Vec<(usize, LookupListener)> {
        self.pending.remove(host).unwrap_or_default().listeners
    }

    /// Remembers an answer.
    fn learn(&mut self, host: &str, found: Addresses, took_ms: u64, now_ms: u64) {
        let is_found = !found.is_empty();
        let before =
            self.known.get(host).filter(|known| !is_found && now_ms < known.stale_until_ms);
        let (addresses, stale_until_ms) = match before {
            // A resolver that fails for a moment does not take away what it said before.
            Some(before) => (Arc::clone(&before.addresses), before.stale_until_ms),
            None if is_found => (found, now_ms.saturating_add(STALE_KEEP_MS)),
            None => (found, now_ms),
        };
        let keep_ms = if is_found { FOUND_KEEP_MS } else { FAILED_KEEP_MS };
        if self.known.len() >= NAMES_MAX && !self.known.contains_key(host) {
            self.make_room(now_ms);
        }
        let fresh_until_ms = now_ms.saturating_add(keep_ms);
        let has_hung = !is_found && took_ms >= HUNG_MS;
        let known = KnownName { addresses, fresh_until_ms, stale_until_ms, has_hung };
        self.known.insert(host.to_owned(), known);
    }

    fn make_room(&mut self, now_ms: u64) {
        self.known.retain(|_, known| now_ms < known.fresh_until_ms.max(known.stale_until_ms));
        if self.known.len() >= NAMES_MAX {
            self.known.clear();
        }
    }
}

/// A name that is being looked up.
struct RunningName {
    /// The account in whose turn it is looked up.
    account: u64,
    host: String,
    /// Whether its last look-up hung.
    is_slow: bool,
}

/// Names in the order in which they are looked up: accounts take turns.
#[derive(Default)]
struct FairQueue {
    turns: VecDeque<u64>,
    by_account: HashMap<u64, VecDeque<String>>,
    queued: HashSet<(u64, String)>,
}

impl FairQueue {
    fn push(&mut self, account: u64, host: String) {
        if !self.queued.insert((account, host.clone())) {
            return;
        }
        let names = self.by_account.entry(account).or_default();
        if names.is_empty() {
            self.turns.push_back(account);
        }
        names.push_back(host);
    }

    /// The next name of an account that may have another one looked up.
    fn pop(&mut self, may_run: impl Fn(u64) -> bool) -> Option<(u64, String)> {
        let at = self.turns.iter().position(|account| may_run(*account))?;
        let account = self.turns.remove(at)?;
        let names = self.by_account.get_mut(&account)?;
        let host = names.pop_front()?;
        if names.is_empty() {
            self.by_account.remove(&account);
        } else {
            self.turns.push_back(account);
        }
        let name = (account, host);
        self.queued.remove(&name);
        Some(name)
    }
}

/// Works on one name after the other, and ends when for a while there was none.
fn work(shared: &Arc<LookupShared>) {
    let mut state = shared.state.lock();
    let mut has_idled = false;
    while !state.is_over {
        if let Some(job) = state.jobs.pop_front() {
            has_idled = false;
            drop(state);
            // A job that panicked never answers; the deadline of the lookup handles that.
            let _ = catch_unwind(AssertUnwindSafe(job));
            state = shared.state.lock();
            continue;
        }
        let Some(name) = state.next_name() else {
            if has_idled {
                break;
            }
            state.idle += 1;
            has_idled = shared.work.wait_for(&mut state, shared.idle_max).timed_out();
            state.idle -= 1;
            continue;
        };
        has_idled = false;
        // Other names may wait because the system refused a thread when they were asked for.
        shared.provide_thread(&mut state);
        drop(state);
        let started_ms = shared.clock.monotonic_ms();
        let asked = catch_unwind(AssertUnwindSafe(|| (shared.ask)(&name.host)));
        let found: Option<Addresses> = match asked {
            Ok(Err(error)) if is_out_of_files(&error) => None,
            // A name that has no addresses and one that cannot be asked for are tried again alike.
            asked => Some(asked.ok().and_then(Result::ok).unwrap_or_default().into()),
        };
        let now_ms = shared.clock.monotonic_ms();
        state = shared.state.lock();
        state.end_running(&name);
        let took_ms = now_ms.saturating_sub(started_ms);
        let waiting = state.take_waiting(&name.host);
        if let Some(found) = &found {
            state.learn(&name.host, Arc::clone(found), took_ms, now_ms);
        }
        drop(state);
        // A thread that is idle because of the bound of an account may go on.
        shared.work.notify_one();
        for (_, listener) in waiting {
            listener(&name.host, found.as_ref());
        }
        state = shared.state.lock();
    }
    state.threads -= 1;
}

/// How many threads there are at most. A name that hangs holds one for as long as the system tries, some 10 s,
/// so names that were never tried may take many at once.
const THREADS_MAX: usize = 256;

/// An account takes at most so many threads for each one that is left. Of 256 it takes 228 alone, and 121 while another
/// account takes as many as it can and 15 are left.
const ACCOUNT_THREADS_OF_FREE: usize = 8;

/// How many of them names take at most that hung before; half of them where the system grants few.
const SLOW_THREADS_MAX: usize = 16;

/// A look-up without an answer that took longer has hung.
const HUNG_MS: u64 = 1_000;

const NAMES_MAX: usize = 16_384;

/// How many addresses of a name are remembered.
const ADDRESSES_MAX: usize = 64;

/// How long an answer is remembered, in milliseconds. The system does not say how long it may be.
const FOUND_KEEP_MS: u64 = 30_000;

/// How long an answer may be used while it is refreshed, in milliseconds.
const STALE_KEEP_MS: u64 = 300_000;

/// How long it is remembered that a name was not found, in milliseconds: what else it is owed at
/// this moment need not ask again, and the next try comes after a second or later.
const FAILED_KEEP_MS: u64 = 1_000;

/// How long a lookup thread waits for a name before it ends.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// The system's look-up runs on it, with name services that a machine may have added.
const STACK_BYTES: usize = 512 * 1024;

#[cfg(test)]
mod tests;
