//! Stores for tests: one whose disk is full, one that counts what is written, and one whose opens can be held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::store::{Batch, Database, KeyValue, Memory, Store, StoreFailure, Visit};

type StoreResult<T> = Result<T, StoreFailure>;

/// A store whose databases open, while writes to some of them fail.
#[derive(Debug, Clone, Default)]
pub(super) struct FullDiskStore {
    pub(super) inner: Memory,
    /// The prefix of the names of the databases that refuse writes.
    pub(super) refuses: Arc<Mutex<Option<&'static str>>>,
    /// Whether a refused write still takes effect, as if only its answer were lost.
    pub(super) takes_effect: bool,
}

#[derive(Debug)]
struct FullDiskDatabase {
    inner: Arc<dyn Database>,
    name: String,
    refuses: Arc<Mutex<Option<&'static str>>>,
    takes_effect: bool,
    failed: AtomicBool,
}

impl Store for FullDiskStore {
    fn open(&self, name: &str) -> StoreResult<Arc<dyn Database>> {
        let (inner, name) = (self.inner.open(name)?, name.to_owned());
        let refuses = Arc::clone(&self.refuses);
        let (takes_effect, failed) = (self.takes_effect, false.into());
        Ok(Arc::new(FullDiskDatabase { inner, name, refuses, takes_effect, failed }))
    }

    fn list(&self) -> StoreResult<Vec<String>> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> StoreResult<()> {
        self.inner.remove(name)
    }

    fn set_aside(&self, name: &str) -> StoreResult<String> {
        self.inner.set_aside(name)
    }
}

impl FullDiskDatabase {
    fn check(&self) -> StoreResult<()> {
        let refuses = self.refuses.lock().is_some_and(|prefix| self.name.starts_with(prefix));
        if refuses || self.failed.load(Ordering::Acquire) {
            self.failed.store(true, Ordering::Release);
            return Err(StoreFailure::io(std::io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    fn run(&self, work: impl FnOnce() -> StoreResult<()>) -> StoreResult<()> {
        let refused = self.check();
        if refused.is_ok() || self.takes_effect {
            work()?;
        }
        refused
    }
}

impl Database for FullDiskDatabase {
    fn commit(&self, batches: Vec<Batch>) -> StoreResult<()> {
        self.run(|| self.inner.commit(batches))
    }

    fn write(&self, batches: Vec<Batch>) -> StoreResult<()> {
        self.run(|| self.inner.write(batches))
    }

    fn get(&self, key: &[u8]) -> StoreResult<Option<Vec<u8>>> {
        self.inner.get(key)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> StoreResult<()> {
        self.inner.scan(prefix, from, visit)
    }

    fn last(&self, prefix: &[u8], to: &[u8]) -> StoreResult<Option<KeyValue>> {
        self.inner.last(prefix, to)
    }
}

/// A store that counts the bytes written to it.
#[derive(Debug, Clone)]
pub(super) struct CountingStore(Memory, Arc<AtomicUsize>);

#[derive(Debug)]
struct CountingDatabase(Arc<dyn Database>, Arc<AtomicUsize>);

impl CountingStore {
    pub(super) fn on(store: &Memory) -> (CountingStore, Arc<AtomicUsize>) {
        let bytes = Arc::new(AtomicUsize::new(0));
        (CountingStore(store.clone(), Arc::clone(&bytes)), bytes)
    }
}

impl Store for CountingStore {
    fn open(&self, name: &str) -> StoreResult<Arc<dyn Database>> {
        Ok(Arc::new(CountingDatabase(self.0.open(name)?, Arc::clone(&self.1))))
    }

    fn list(&self) -> StoreResult<Vec<String>> {
        self.0.list()
    }

    fn remove(&self, name: &str) -> StoreResult<()> {
        self.0.remove(name)
    }

    fn set_aside(&self, name: &str) -> StoreResult<String> {
        self.0.set_aside(name)
    }
}

impl Database for CountingDatabase {
    fn commit(&self, batches: Vec<Batch>) -> StoreResult<()> {
        self.1.fetch_add(batches.iter().map(Batch::bytes).sum(), Ordering::AcqRel);
        self.0.commit(batches)
    }

    fn write(&self, batches: Vec<Batch>) -> StoreResult<()> {
        self.1.fetch_add(batches.iter().map(Batch::bytes).sum(), Ordering::AcqRel);
        self.0.write(batches)
    }

    fn get(&self, key: &[u8]) -> StoreResult<Option<Vec<u8>>> {
        self.0.get(key)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> StoreResult<()> {
        self.0.scan(prefix, from, visit)
    }

    fn last(&self, prefix: &[u8], to: &[u8]) -> StoreResult<Option<KeyValue>> {
        self.0.last(prefix, to)
    }
}

/// A store that counts its opens and holds those of one database.
#[derive(Debug, Clone, Default)]
pub(super) struct GatedStore {
    inner: Memory,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Debug, Default)]
struct Gate {
    holds: Option<String>,
    has_arrived: bool,
    opened: usize,
}

impl GatedStore {
    /// Holds the opens of a database.
    pub(super) fn close_gate(&self, name: &str) {
        self.gate.0.lock().holds = Some(name.to_owned());
    }

    /// Waits until an open is held.
    pub(super) fn wait_for_arrival(&self) {
        self.gate.1.wait_while(&mut self.gate.0.lock(), |gate| !gate.has_arrived);
    }

    pub(super) fn open_gate(&self) {
        self.gate.0.lock().holds = None;
        self.gate.1.notify_all();
    }

    /// How many databases were opened so far.
    pub(super) fn opened(&self) -> usize {
        self.gate.0.lock().opened
    }
}

impl Store for GatedStore {
    fn open(&self, name: &str) -> StoreResult<Arc<dyn Database>> {
        let mut gate = self.gate.0.lock();
        gate.opened += 1;
        if gate.holds.as_deref() == Some(name) {
            gate.has_arrived = true;
            self.gate.1.notify_all();
            self.gate.1.wait_while(&mut gate, |gate| gate.holds.as_deref() == Some(name));
        }
        drop(gate);
        self.inner.open(name)
    }

    fn list(&self) -> StoreResult<Vec<String>> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> StoreResult<()> {
        self.inner.remove(name)
    }

    fn set_aside(&self, name: &str) -> StoreResult<String> {
        self.inner.set_aside(name)
    }
}
