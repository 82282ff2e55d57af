//! A store whose device fails on command, for tests of the code above it. It wraps another store.
//! After its first fault a database refuses every write until it is opened again, as sled does.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};

use super::{Batch, Database, KeyValue, Store, StoreFailure, Visit};

/// A store whose writes and syncs fail, wait or are skipped as its [`FaultPlan`] says.
///
/// ```
/// use std::sync::Arc;
/// use wabahook::store::{Batch, FaultPlan, FaultInjectingStore, Memory, Store};
/// let faults = Arc::new(FaultPlan::default());
/// let store = FaultInjectingStore::new(Arc::new(Memory::default()), Arc::clone(&faults));
/// let database = store.open("one")?;
/// faults.fail_after(0);
/// assert!(database.apply(Batch::default()).is_err());
/// # Ok::<(), wabahook::store::StoreFailure>(())
/// ```
#[derive(Debug)]
pub struct FaultInjectingStore {
    inner: Arc<dyn Store>,
    faults: Arc<FaultPlan>,
}

/// When a [`FaultInjectingStore`] fails.
#[derive(Debug, Default)]
pub struct FaultPlan {
    state: Mutex<FaultState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct FaultState {
    /// Writes and syncs so far.
    operations: u64,
    /// The write or sync from which on all fail, until healed.
    fails_at: Option<u64>,
    /// Whether the first failing write takes effect nevertheless.
    takes_effect: bool,
    holds_syncs: bool,
    skips_syncs: bool,
}

impl FaultPlan {
    /// Lets `operations` more writes and syncs succeed, and fails all later ones.
    pub fn fail_after(&self, operations: u64) {
        let mut state = self.state.lock();
        state.fails_at = Some(state.operations + operations);
        state.takes_effect = false;
    }

    /// As [`fail_after`](FaultPlan::fail_after), but the first write that fails takes effect: the
    /// device wrote it and its answer was lost.
    pub fn fail_after_effect(&self, operations: u64) {
        self.fail_after(operations);
        self.state.lock().takes_effect = true;
    }

    /// Ends the faults. A database that has failed still refuses writes until it is opened again.
    pub fn heal(&self) {
        self.state.lock().fails_at = None;
    }

    /// Makes each sync wait for [`release_syncs`](FaultPlan::release_syncs).
    pub fn hold_syncs(&self) {
        self.state.lock().holds_syncs = true;
    }

    /// Releases the waiting syncs.
    pub fn release_syncs(&self) {
        self.state.lock().holds_syncs = false;
        self.changed.notify_all();
    }

    /// Makes each sync report success without syncing, so that a test decides what a power cut leaves.
    pub fn skip_syncs(&self) {
        self.state.lock().skips_syncs = true;
    }

    /// The number of writes and syncs so far.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Whether writes, syncs and opens fail now.
    pub fn refuses(&self) -> bool {
        let state = self.state.lock();
        state.fails_at.is_some_and(|at| state.operations >= at)
    }

    /// Counts an operation. Returns whether it fails, and whether it takes effect.
    fn begin_operation(&self) -> (bool, bool) {
        let mut state = self.state.lock();
        let place = state.operations;
        state.operations += 1;
        let fails = state.fails_at.is_some_and(|at| place >= at);
        let takes_effect = !fails || (state.takes_effect && state.fails_at == Some(place));
        (fails, takes_effect)
    }
}

impl FaultInjectingStore {
    /// Wraps a store.
    pub fn new(inner: Arc<dyn Store>, faults: Arc<FaultPlan>) -> FaultInjectingStore {
        FaultInjectingStore { inner, faults }
    }
}

impl Store for FaultInjectingStore {
    fn open(&self, name: &str) -> Result<Arc<dyn Database>, StoreFailure> {
        if self.faults.refuses() {
            return Err(fault());
        }
        let inner = self.inner.open(name)?;
        let faults = Arc::clone(&self.faults);
        Ok(Arc::new(FaultInjectingDatabase { inner, faults, failed: AtomicBool::new(false) }))
    }

    fn list(&self) -> Result<Vec<String>, StoreFailure> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> Result<(), StoreFailure> {
        self.inner.remove(name)
    }

    fn set_aside(&self, name: &str) -> Result<String, StoreFailure> {
        self.inner.set_aside(name)
    }
}

struct FaultInjectingDatabase {
    inner: Arc<dyn Database>,
    faults: Arc<FaultPlan>,
    failed: AtomicBool,
}

impl FaultInjectingDatabase {
    fn run(
        &self,
        operation: impl FnOnce() -> Result<(), StoreFailure>,
    ) -> Result<(), StoreFailure> {
        let (fails, takes_effect) = self.faults.begin_operation();
        if self.failed.load(Ordering::Acquire) {
            return Err(fault());
        }
        if takes_effect {
            operation()?;
        }
        if fails {
            self.failed.store(true, Ordering::Release);
            return Err(fault());
        }
        Ok(())
    }
}

impl Database for FaultInjectingDatabase {
    fn apply(&self, batch: Batch) -> Result<(), StoreFailure> {
        self.run(|| self.inner.apply(batch))
    }

    fn sync(&self) -> Result<(), StoreFailure> {
        self.run(|| {
            let mut state = self.faults.state.lock();
            self.faults.changed.wait_while(&mut state, |state| state.holds_syncs);
            if state.skips_syncs { Ok(()) } else { self.inner.sync() }
        })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFailure> {
        self.inner.get(key)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreFailure> {
        self.inner.scan(prefix, from, visit)
    }

    fn last(&self, prefix: &[u8], to: &[u8]) -> Result<Option<KeyValue>, StoreFailure> {
        self.inner.last(prefix, to)
    }

    fn set_expected_records(&self, records: u64) {
        self.inner.set_expected_records(records);
    }

    fn expected_records(&self) -> Option<u64> {
        self.inner.expected_records()
    }
}

impl fmt::Debug for FaultInjectingDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultInjectingDatabase").finish_non_exhaustive()
    }
}

fn fault() -> StoreFailure {
    StoreFailure::io(io::Error::other("an injected fault"))
}
