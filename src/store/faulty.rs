//! Decides how a store behaves whose device fails, for tests of what stands on it.
//!
//! Leaves to others: keeping anything; it wraps another store. Invariant: after its first fault a
//! database refuses every write until it is opened again, as sled does.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};

use super::{Batch, Database, Failure, Pair, Store, Visit};

/// A store whose writes and syncs fail, wait or are left out when its [`Faults`] say so.
///
/// ```
/// use std::sync::Arc;
/// use wabahook::store::{Batch, Faults, Faulty, Memory, Store};
/// let faults = Arc::new(Faults::default());
/// let store = Faulty::new(Arc::new(Memory::default()), Arc::clone(&faults));
/// let database = store.open("one")?;
/// faults.fail_after(0);
/// assert!(database.apply(Batch::default()).is_err());
/// # Ok::<(), wabahook::store::Failure>(())
/// ```
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Store>,
    faults: Arc<Faults>,
}

/// When a [`Faulty`] store fails.
#[derive(Debug, Default)]
pub struct Faults {
    plan: Mutex<Plan>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Plan {
    /// Writes and syncs seen so far.
    seen: u64,
    /// The write or sync that fails, and every one after it until healed.
    fails_at: Option<u64>,
    /// Whether the failing write takes effect all the same.
    takes_effect: bool,
    holds_syncs: bool,
    skips_syncs: bool,
}

impl Faults {
    /// Lets `operations` more writes and syncs pass and fails from then on.
    pub fn fail_after(&self, operations: u64) {
        let mut plan = self.plan.lock();
        plan.fails_at = Some(plan.seen + operations);
        plan.takes_effect = false;
    }

    /// As [`fail_after`](Faults::fail_after), but the first write that fails takes effect: the
    /// device did it and its answer was lost.
    pub fn fail_after_effect(&self, operations: u64) {
        self.fail_after(operations);
        self.plan.lock().takes_effect = true;
    }

    /// Fails nothing more. What has failed still refuses writes until it is opened again.
    pub fn heal(&self) {
        self.plan.lock().fails_at = None;
    }

    /// Makes every sync wait until [`release_syncs`](Faults::release_syncs).
    pub fn hold_syncs(&self) {
        self.plan.lock().holds_syncs = true;
    }

    /// Lets the syncs that wait go on.
    pub fn release_syncs(&self) {
        self.plan.lock().holds_syncs = false;
        self.changed.notify_all();
    }

    /// Makes every sync claim success without one, so that a test decides what a power cut leaves.
    pub fn skip_syncs(&self) {
        self.plan.lock().skips_syncs = true;
    }

    /// Writes and syncs seen so far.
    pub fn seen(&self) -> u64 {
        self.plan.lock().seen
    }

    /// Whether writes, syncs and opens fail from now on, until healed.
    pub fn refuses(&self) -> bool {
        let plan = self.plan.lock();
        plan.fails_at.is_some_and(|at| plan.seen >= at)
    }

    /// Counts an operation; answers whether it must fail, and whether it takes effect.
    fn meet(&self) -> (bool, bool) {
        let mut plan = self.plan.lock();
        let place = plan.seen;
        plan.seen += 1;
        let fails = plan.fails_at.is_some_and(|at| place >= at);
        let takes_effect = !fails || (plan.takes_effect && plan.fails_at == Some(place));
        (fails, takes_effect)
    }
}

impl Faulty {
    /// Wraps a store.
    pub fn new(inner: Arc<dyn Store>, faults: Arc<Faults>) -> Faulty {
        Faulty { inner, faults }
    }
}

impl Store for Faulty {
    fn open(&self, name: &str) -> Result<Arc<dyn Database>, Failure> {
        if self.faults.refuses() {
            return Err(fault());
        }
        let inner = self.inner.open(name)?;
        let faults = Arc::clone(&self.faults);
        Ok(Arc::new(Opened { inner, faults, failed: AtomicBool::new(false) }))
    }

    fn list(&self) -> Result<Vec<String>, Failure> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        self.inner.remove(name)
    }

    fn set_aside(&self, name: &str) -> Result<String, Failure> {
        self.inner.set_aside(name)
    }
}

struct Opened {
    inner: Arc<dyn Database>,
    faults: Arc<Faults>,
    failed: AtomicBool,
}

impl Opened {
    fn meet(&self, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let (fails, takes_effect) = self.faults.meet();
        if self.failed.load(Ordering::Acquire) {
            return Err(fault());
        }
        if takes_effect {
            work()?;
        }
        if fails {
            self.failed.store(true, Ordering::Release);
            return Err(fault());
        }
        Ok(())
    }
}

impl Database for Opened {
    fn apply(&self, batch: Batch) -> Result<(), Failure> {
        self.meet(|| self.inner.apply(batch))
    }

    fn sync(&self) -> Result<(), Failure> {
        self.meet(|| {
            let mut plan = self.faults.plan.lock();
            self.faults.changed.wait_while(&mut plan, |plan| plan.holds_syncs);
            if plan.skips_syncs { Ok(()) } else { self.inner.sync() }
        })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        self.inner.get(key)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), Failure> {
        self.inner.scan(prefix, from, visit)
    }

    fn last(&self, prefix: &[u8], to: &[u8]) -> Result<Option<Pair>, Failure> {
        self.inner.last(prefix, to)
    }

    fn vouch(&self, records: u64) {
        self.inner.vouch(records);
    }

    fn vouched(&self) -> Option<u64> {
        self.inner.vouched()
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").finish_non_exhaustive()
    }
}

fn fault() -> Failure {
    Failure::io(io::Error::other("a fault, on purpose"))
}
