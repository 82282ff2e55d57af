//! Stores for tests: one whose disk is full, one that counts what is written, and one whose opens can be held.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::store::{Batch, Database, Memory, Store, StoreFailure};
use crate::testing::{LayeredStore, StoreLayer};

type StoreResult<T> = Result<T, StoreFailure>;

/// A store whose databases open, while writes to some of them fail.
#[derive(Clone, Default)]
pub(super) struct FullDisk {
    pub(super) inner: Memory,
    /// The prefix of the names of the databases that refuse writes.
    pub(super) refuses: Arc<Mutex<Option<&'static str>>>,
    /// Whether a refused write still takes effect, as if only its answer were lost.
    pub(super) takes_effect: bool,
    /// The databases that failed since they were opened.
    pub(super) failed: Arc<Mutex<HashSet<String>>>,
}

impl FullDisk {
    pub(super) fn store(&self) -> LayeredStore<FullDisk> {
        LayeredStore(self.clone())
    }

    fn run(&self, name: &str, work: impl FnOnce() -> StoreResult<()>) -> StoreResult<()> {
        let refuses = self.refuses.lock().is_some_and(|prefix| name.starts_with(prefix));
        if refuses {
            self.failed.lock().insert(name.to_owned());
        }
        let is_refused = self.failed.lock().contains(name);
        if !is_refused || self.takes_effect {
            work()?;
        }
        match is_refused {
            true => Err(StoreFailure::io(std::io::ErrorKind::StorageFull.into())),
            false => Ok(()),
        }
    }
}

impl StoreLayer for FullDisk {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }

    fn open(&self, name: &str) -> StoreResult<Arc<dyn Database>> {
        self.failed.lock().remove(name);
        self.inner.open(name)
    }

    fn commit(&self, name: &str, to: &dyn Database, batches: Vec<Batch>) -> StoreResult<()> {
        self.run(name, || to.commit(batches))
    }

    fn write(&self, name: &str, to: &dyn Database, batches: Vec<Batch>) -> StoreResult<()> {
        self.run(name, || to.write(batches))
    }
}

/// A store that counts the bytes written to it.
#[derive(Clone)]
pub(super) struct WrittenBytes(Memory, Arc<AtomicUsize>);

impl WrittenBytes {
    pub(super) fn on(store: &Memory) -> (LayeredStore<WrittenBytes>, Arc<AtomicUsize>) {
        let bytes = Arc::new(AtomicUsize::new(0));
        (LayeredStore(WrittenBytes(store.clone(), Arc::clone(&bytes))), bytes)
    }

    fn count(&self, batches: &[Batch]) {
        self.1.fetch_add(batches.iter().map(Batch::bytes).sum(), Ordering::AcqRel);
    }
}

impl StoreLayer for WrittenBytes {
    fn inner(&self) -> &dyn Store {
        &self.0
    }

    fn commit(&self, _: &str, to: &dyn Database, batches: Vec<Batch>) -> StoreResult<()> {
        self.count(&batches);
        to.commit(batches)
    }

    fn write(&self, _: &str, to: &dyn Database, batches: Vec<Batch>) -> StoreResult<()> {
        self.count(&batches);
        to.write(batches)
    }
}

/// A store that counts its opens and holds those of one database.
#[derive(Clone, Default)]
pub(super) struct GatedOpens {
    inner: Memory,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Default)]
struct Gate {
    holds: Option<String>,
    has_arrived: bool,
    opened: usize,
}

impl GatedOpens {
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

impl StoreLayer for GatedOpens {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }

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
}
