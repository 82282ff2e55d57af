//! A store whose device fails on command, for tests of the code above it. It wraps another store.
//! After its first fault a database refuses every write until it is opened again, as sled does. A
//! commit counts as one write for each batch and one sync, and each of them can fail.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};

use super::{Batch, Database, KeyValue, Store, StoreEvent, StoreFailure, StoreListener, Visit};

use crate::text::debug_fields;

/// A store whose writes and syncs fail, wait or are skipped as its [`FaultPlan`] says.
///
/// ```
/// use std::sync::Arc;
/// use wabahook::store::{Batch, FaultPlan, FaultInjectingStore, Memory, Store};
/// let faults = Arc::new(FaultPlan::default());
/// let store = FaultInjectingStore::new(Arc::new(Memory::default()), Arc::clone(&faults));
/// let database = store.open("one")?;
/// faults.fail_after(0);
/// assert!(database.commit(vec![Batch::default()]).is_err());
/// # Ok::<(), wabahook::store::StoreFailure>(())
/// ```
#[derive(Debug)]
pub struct FaultInjectingStore {
    inner: Arc<dyn Store>,
    faults: Arc<FaultPlan>,
}

/// When a [`FaultInjectingStore`] fails.
#[derive(Default)]
pub struct FaultPlan {
    state: Mutex<FaultState>,
    changed: Condvar,
    listener: Mutex<Option<StoreListener>>,
}

debug_fields!(FaultPlan: state);

#[derive(Debug, Default)]
struct FaultState {
    /// Writes and syncs so far.
    operations: u64,
    /// The write or sync from which on all fail, until healed.
    fails_at: Option<u64>,
    first_failure: FirstFailure,
    /// What the first failing commit wrote and has not landed yet.
    late: Vec<LateCommit>,
    is_fenced: bool,
    is_suspended: bool,
    is_remote: bool,
    holds_syncs: bool,
    skips_syncs: bool,
}

/// What the first operation that fails does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum FirstFailure {
    #[default]
    NoEffect,
    TakesEffect,
    LandsLate,
}

/// A failed commit that takes effect when its database is opened again.
#[derive(Debug)]
struct LateCommit {
    database: String,
    batches: Vec<Batch>,
}

impl FaultPlan {
    /// Lets `operations` more writes and syncs succeed, and fails all later ones.
    pub fn fail_after(&self, operations: u64) {
        let mut state = self.state.lock();
        state.fails_at = Some(state.operations + operations);
        state.first_failure = FirstFailure::NoEffect;
    }

    /// As [`fail_after`](FaultPlan::fail_after), but the first write that fails takes effect: the
    /// device wrote it and its answer was lost.
    pub fn fail_after_effect(&self, operations: u64) {
        self.fail_after(operations);
        self.state.lock().first_failure = FirstFailure::TakesEffect;
    }

    /// As [`fail_after`](FaultPlan::fail_after), but the commit that fails first lands late: nothing of it
    /// is visible until its database is opened again, and then all of it is. A remote store does so when
    /// an answer is lost while the commit is under way.
    pub fn fail_after_late(&self, operations: u64) {
        self.fail_after(operations);
        self.state.lock().first_failure = FirstFailure::LandsLate;
    }

    /// Another owner takes over: from now on writes and opens are refused as
    /// [`StoreFailure::Fenced`], whatever else is planned.
    pub fn fence(&self) {
        self.state.lock().is_fenced = true;
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

    /// Counts an operation. Returns how it fails, if it does.
    fn begin_operation(&self) -> Option<FirstFailure> {
        let mut state = self.state.lock();
        let place = state.operations;
        state.operations += 1;
        let fails_at = state.fails_at.filter(|at| place >= *at)?;
        Some(if fails_at == place { state.first_failure } else { FirstFailure::NoEffect })
    }

    /// The lease of this owner ends, and may be renewed. Writes go on, because nobody has taken over yet.
    pub fn suspend_ownership(&self) {
        self.state.lock().is_suspended = true;
    }

    /// The lease is renewed.
    pub fn restore_ownership(&self) {
        self.state.lock().is_suspended = false;
        if let Some(listener) = &*self.listener.lock() {
            listener(StoreEvent::OwnerAgain);
        }
    }

    /// Lets the store pass for a remote one, whose failures end after seconds.
    pub fn remote(&self) {
        self.state.lock().is_remote = true;
    }

    fn is_owner(&self) -> bool {
        let state = self.state.lock();
        !state.is_fenced && !state.is_suspended
    }

    fn is_remote(&self) -> bool {
        self.state.lock().is_remote
    }

    fn check_owner(&self) -> Result<(), StoreFailure> {
        if self.state.lock().is_fenced { Err(StoreFailure::Fenced) } else { Ok(()) }
    }

    /// What lands in a database that is opened again.
    fn take_late(&self, name: &str) -> Vec<Batch> {
        let mut state = self.state.lock();
        let late = std::mem::take(&mut state.late);
        let (landing, others) = late.into_iter().partition(|late| late.database == name);
        state.late = others;
        let landing: Vec<LateCommit> = landing;
        landing.into_iter().flat_map(|late| late.batches).collect()
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
        self.faults.check_owner()?;
        if self.faults.refuses() {
            return Err(fault());
        }
        let inner = self.inner.open(name)?;
        let late = self.faults.take_late(name);
        if !late.is_empty() {
            inner.commit(late)?;
        }
        let (name, faults) = (name.to_owned(), Arc::clone(&self.faults));
        let failed = AtomicBool::new(false);
        Ok(Arc::new(FaultInjectingDatabase { inner, name, faults, failed }))
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

    fn is_owner(&self) -> bool {
        self.faults.is_owner() && self.inner.is_owner()
    }

    fn on_event(&self, listener: StoreListener) {
        *self.faults.listener.lock() = Some(listener);
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote() || self.faults.is_remote()
    }
}

struct FaultInjectingDatabase {
    inner: Arc<dyn Database>,
    name: String,
    faults: Arc<FaultPlan>,
    failed: AtomicBool,
}

impl FaultInjectingDatabase {
    fn run(
        &self,
        operation: impl FnOnce() -> Result<(), StoreFailure>,
    ) -> Result<(), StoreFailure> {
        self.faults.check_owner()?;
        let failure = self.faults.begin_operation();
        if self.failed.load(Ordering::Acquire) {
            return Err(fault());
        }
        if failure.is_none_or(|first| first == FirstFailure::TakesEffect) {
            operation()?;
        }
        if failure.is_some() {
            self.failed.store(true, Ordering::Release);
            return Err(fault());
        }
        Ok(())
    }

    /// Whether the commit of so many batches is the one that lands late.
    fn lands_late(&self, batches: usize) -> bool {
        let state = self.faults.state.lock();
        let end = state.operations + batches as u64;
        let fails_in_it = state.fails_at.is_some_and(|at| (state.operations..=end).contains(&at));
        state.first_failure == FirstFailure::LandsLate && fails_in_it
    }

    fn keep_for_later(&self, batches: Vec<Batch>) -> StoreFailure {
        let mut state = self.faults.state.lock();
        state.operations = state.fails_at.map_or(state.operations, |at| at + 1);
        state.late.push(LateCommit { database: self.name.clone(), batches });
        self.failed.store(true, Ordering::Release);
        fault()
    }
}

impl Database for FaultInjectingDatabase {
    fn commit(&self, batches: Vec<Batch>) -> Result<(), StoreFailure> {
        self.faults.check_owner()?;
        if self.lands_late(batches.len()) && !self.failed.load(Ordering::Acquire) {
            return Err(self.keep_for_later(batches));
        }
        self.write(batches)?;
        self.run(|| {
            let mut state = self.faults.state.lock();
            self.faults.changed.wait_while(&mut state, |state| state.holds_syncs);
            if state.skips_syncs { Ok(()) } else { self.inner.commit(Vec::new()) }
        })
    }

    fn write(&self, batches: Vec<Batch>) -> Result<(), StoreFailure> {
        batches.into_iter().try_for_each(|batch| self.run(|| self.inner.write(vec![batch])))
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

debug_fields!(FaultInjectingDatabase);

fn fault() -> StoreFailure {
    StoreFailure::io(io::Error::other("an injected fault"))
}
