//! Wakes threads that wait inside sled for a write that has failed, so that no flush waits for ever.
//!
//! sled's own threads write. One that fails records its error, which stays until the database is
//! opened again, and wakes the threads that wait for the write, except where the thread that filled
//! the buffer last is not the one that sealed it. Then a flush never returns, and all writes to all
//! databases of the process wait behind it. A thread of ours, which waits for nothing itself,
//! therefore looks for recorded errors and wakes the waiters with a call that sled refuses because of
//! the error. It sleeps while no call into sled is in flight.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::Mutex;

use super::errors::guarded;
use crate::process::threads;
use crate::text::debug_fields;

/// How long a waiter may go unnoticed: short compared with the pause before a device that refused is
/// tried again.
const PERIOD: Duration = Duration::from_millis(50);

/// The threads that sled starts with the first database of a process: 7 that write, and a flusher.
const SLED_THREADS: usize = 8;

/// The open databases that have not failed, and the thread that watches them, which ends when this is
/// dropped.
#[derive(Default)]
pub(super) struct FlushWatchdog {
    list: Mutex<WatchList>,
    /// Calls into sled that may wait for a write.
    in_flight: AtomicUsize,
    /// Whether the thread sleeps until the next call.
    is_asleep: AtomicBool,
}

/// A call into sled that the watchdog looks after.
pub(super) struct WatchedCall<'a>(&'a FlushWatchdog);

impl Drop for WatchedCall<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct WatchList {
    thread: Option<Thread>,
    databases: Vec<WatchedDatabase>,
}

struct WatchedDatabase {
    /// Knows the error. It is no handle of the database and keeps nothing open.
    config: ::sled::Config,
    tree: Weak<::sled::Db>,
}

debug_fields!(FlushWatchdog);

impl FlushWatchdog {
    /// Starts the thread, unless it runs. Called before sled opens anything: without threads of its
    /// own, which the check finds out, sled waits for ever.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<()> {
        let mut list = self.list.lock();
        if list.thread.is_none() {
            threads::check_available(SLED_THREADS)?;
            let this = Arc::downgrade(self);
            let thread = threads::start("wabahook-watchdog", None, move || run(&this))?;
            list.thread = Some(thread.thread().clone());
        }
        Ok(())
    }

    /// Looks after a call into sled until the result is dropped.
    pub(super) fn enter(&self) -> WatchedCall<'_> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        if self.is_asleep.load(Ordering::SeqCst) {
            self.wake();
        }
        WatchedCall(self)
    }

    fn wake(&self) {
        self.is_asleep.store(false, Ordering::SeqCst);
        if let Some(thread) = &self.list.lock().thread {
            thread.unpark();
        }
    }

    /// Whether the thread may sleep until the next call. A call that begins meanwhile wakes it.
    fn may_sleep(&self) -> bool {
        self.is_asleep.store(true, Ordering::SeqCst);
        if self.in_flight.load(Ordering::SeqCst) > 0 {
            self.is_asleep.store(false, Ordering::SeqCst);
        }
        self.is_asleep.load(Ordering::SeqCst)
    }

    /// Watches a database, opened with `config`, until it is closed or has failed.
    pub(super) fn watch(&self, config: ::sled::Config, tree: &Arc<::sled::Db>) {
        let tree = Arc::downgrade(tree);
        self.list.lock().databases.push(WatchedDatabase { config, tree });
    }

    /// Wakes the waiters of each database that failed since the last call. Once is enough: later
    /// callers see the error before they wait.
    fn wake_failed(&self) {
        let mut list = self.list.lock();
        list.databases.retain(|one| one.tree.strong_count() > 0);
        let all = std::mem::take(&mut list.databases);
        let (failed, sound): (Vec<_>, _) =
            all.into_iter().partition(|one| one.config.global_error().is_err());
        list.databases = sound;
        drop(list);
        for one in failed {
            let _ = guarded("waking", || match one.tree.upgrade() {
                // Creating a tree needs space in the log, which a failed database refuses, so no
                // tree is created. Unlike other calls it takes no lock that the waiters hold.
                Some(tree) => tree.open_tree("waking").map(drop),
                None => Ok(()),
            });
        }
    }
}

impl Drop for FlushWatchdog {
    fn drop(&mut self) {
        self.wake();
    }
}

fn run(watchdog: &Weak<FlushWatchdog>) {
    let mut was_quiet = false;
    while let Some(watchdog) = watchdog.upgrade() {
        watchdog.wake_failed();
        // Not at once: a busy database has a call in flight now and then, and waking this thread costs more.
        let is_quiet = watchdog.in_flight.load(Ordering::SeqCst) == 0;
        let sleeps = is_quiet && was_quiet && watchdog.may_sleep();
        was_quiet = is_quiet && !sleeps;
        drop(watchdog);
        if sleeps {
            thread::park();
        } else {
            thread::park_timeout(PERIOD);
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::sync::mpsc;

    use super::*;

    /// What sled reports once its threads release the file.
    fn flush_on_full_device(path: &Path, watchdog: &Arc<FlushWatchdog>) -> String {
        loop {
            let config = ::sled::Config::new().path(path).flush_every_ms(Some(200));
            let flushed = config.open().map(Arc::new).and_then(|tree| {
                watchdog.watch(config, &tree);
                let _watched = watchdog.enter();
                tree.flush()
            });
            let said =
                flushed.map_or_else(|error| error.to_string(), |_| "it was flushed".to_owned());
            if !said.contains("could not acquire lock") {
                return said;
            }
            thread::yield_now();
        }
    }

    #[test]
    fn a_failed_flush_returns_and_a_bystander_works() {
        const ROUNDS: usize = 1_000;
        let root = tempfile::tempdir().unwrap();
        let path = root.path().to_owned();
        let watchdog = Arc::new(FlushWatchdog::default());
        let config = ::sled::Config::new().path(path.join("bystander"));
        let bystander = Arc::new(config.open().unwrap());
        watchdog.start().unwrap();
        watchdog.watch(config, &bystander);
        let (sender, flushes) = mpsc::channel();
        thread::spawn(move || {
            for round in 0..ROUNDS {
                let path = path.join(round.to_string());
                std::fs::create_dir(&path).unwrap();
                symlink("/dev/full", path.join("db")).unwrap();
                sender.send(flush_on_full_device(&path, &watchdog)).unwrap();
            }
        });
        for round in 0..ROUNDS {
            let said = flushes.recv_timeout(Duration::from_secs(20));
            let said = said.unwrap_or_else(|_| panic!("no answer after {round} rounds"));
            assert!(said.contains("No space left"), "{said}");
        }
        bystander.insert("key", "untouched").unwrap();
        bystander.flush().unwrap();
        assert_eq!(bystander.get("key").unwrap().unwrap(), "untouched");
    }
}
