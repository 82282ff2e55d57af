//! Decides when those are woken who wait inside sled for a write that has failed.
//!
//! Leaves to others: everything else about a database (`sled`). Invariant: nobody waits for ever for
//! a write that sled knows to have failed.
//!
//! sled's own threads write. One that fails notes its error, which stays until the database is opened
//! again, and wakes whoever waits for the write: but not where the last of those who filled the
//! buffer was not the one who sealed it. Then a flush never returns, and all writes to all of the
//! process's databases wait behind it. A thread that waits for nothing itself therefore looks for
//! noted errors and wakes the waiters by a call that sled refuses because of the error.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;
use std::{fmt, io};

use parking_lot::Mutex;

use crate::threads;

/// How long one may wait that nobody woke: short beside the pause before a device that refused is
/// tried again.
const PERIOD: Duration = Duration::from_millis(50);

/// The databases that are open and have not failed, and the thread that looks at them. It ends when
/// nobody holds this any more.
#[derive(Default)]
pub(super) struct Waking(Mutex<Watch>);

#[derive(Default)]
struct Watch {
    is_running: bool,
    watched: Vec<Watched>,
}

struct Watched {
    /// Knows the error; it is not a handle of the database and keeps nothing open.
    config: ::sled::Config,
    tree: Weak<::sled::Db>,
}

impl fmt::Debug for Waking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waking").finish_non_exhaustive()
    }
}

impl Waking {
    /// Looks at a database, which `config` opened, until it is closed or has failed.
    pub(super) fn watch(
        self: &Arc<Self>,
        config: ::sled::Config,
        tree: &Arc<::sled::Db>,
    ) -> io::Result<()> {
        let mut watch = self.0.lock();
        if !watch.is_running {
            let this = Arc::downgrade(self);
            threads::start("wabahook-waking", None, move || run(&this))?;
            watch.is_running = true;
        }
        watch.watched.push(Watched { config, tree: Arc::downgrade(tree) });
        Ok(())
    }

    /// Wakes those who wait for a database that failed since this was called last. Once is enough:
    /// whoever waits later sees the error before.
    fn look(&self) {
        let mut watch = self.0.lock();
        watch.watched.retain(|one| one.tree.strong_count() > 0);
        let all = std::mem::take(&mut watch.watched);
        let (failed, sound): (Vec<_>, _) =
            all.into_iter().partition(|one| one.config.global_error().is_err());
        watch.watched = sound;
        drop(watch);
        for one in failed {
            let _ = super::sled::guarded("waking", || match one.tree.upgrade() {
                // Needs space in the log, which a database that failed gives nobody; so it makes
                // no tree. Unlike other calls it takes no lock that those who wait hold.
                Some(tree) => tree.open_tree("waking").map(drop),
                None => Ok(()),
            });
        }
    }
}

fn run(waking: &Weak<Waking>) {
    while let Some(waking) = waking.upgrade() {
        waking.look();
        drop(waking);
        thread::park_timeout(PERIOD);
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::sync::mpsc;

    use super::*;

    /// What sled says once its threads let go of the file, which is the same in every round.
    fn flush_a_full_one(path: &Path, waking: &Arc<Waking>) -> String {
        loop {
            let config = ::sled::Config::new().path(path).flush_every_ms(Some(200));
            let flushed = config.open().map(Arc::new).and_then(|tree| {
                waking.watch(config, &tree)?;
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
    fn a_flush_ends_whichever_of_the_threads_of_sled_was_refused_and_a_bystander_works() {
        const ROUNDS: usize = 1_000;
        let root = tempfile::tempdir().unwrap();
        let path = root.path().to_owned();
        let waking = Arc::new(Waking::default());
        let config = ::sled::Config::new().path(path.join("bystander"));
        let bystander = Arc::new(config.open().unwrap());
        waking.watch(config, &bystander).unwrap();
        let (sender, flushes) = mpsc::channel();
        thread::spawn(move || {
            for round in 0..ROUNDS {
                let path = path.join(round.to_string());
                std::fs::create_dir(&path).unwrap();
                symlink("/dev/full", path.join("db")).unwrap();
                sender.send(flush_a_full_one(&path, &waking)).unwrap();
            }
        });
        for round in 0..ROUNDS {
            let said = flushes.recv_timeout(Duration::from_secs(20));
            let said = said.unwrap_or_else(|_| panic!("no word after {round} rounds"));
            assert!(said.contains("No space left"), "{said}");
        }
        bystander.insert("key", "untouched").unwrap();
        bystander.flush().unwrap();
        assert_eq!(bystander.get("key").unwrap().unwrap(), "untouched");
    }
}
