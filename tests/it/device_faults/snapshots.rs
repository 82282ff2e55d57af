//! A store in memory that keeps snapshots of itself as a power cut would leave it. What the host knew is
//! recorded before and after each cut, so that the check is exactly as strict as that moment allows.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use wabahook::store::{self, Batch, Database, KeyValue, Memory, Store, Visit};

use super::model::{Arrival, Model, Receivers};

/// What a power cut right after one operation leaves, and what the host knew then.
pub struct Snapshot {
    pub store: Memory,
    /// Before the cut. What was promised by then is on the device.
    pub before: Model,
    /// After the cut. Only what is in here can have reached the device.
    pub after: Model,
    pub arrivals: Vec<Arrival>,
}

/// A store in memory that keeps snapshots after the operations `wanted`.
pub struct SnapshotStore {
    pub inner: Memory,
    pub snapshots: Arc<Snapshots>,
}

pub struct Snapshots {
    pub memory: Memory,
    pub wanted: std::ops::Range<u64>,
    pub seen: AtomicU64,
    pub model: Arc<Mutex<Model>>,
    pub receivers: Arc<Receivers>,
    pub snapshots: Mutex<Vec<Snapshot>>,
}

impl Snapshots {
    pub fn take(&self) {
        let seen = self.seen.fetch_add(1, Ordering::AcqRel);
        if !self.wanted.contains(&seen) {
            return;
        }
        // A device may have written some of the batches that were not synced.
        for kept in [0, 1 + seen as usize % 3] {
            let before = self.model.lock().clone();
            let store = self.memory.crash_keeping(kept);
            let after = self.model.lock().clone();
            let arrivals = self.receivers.arrivals.lock().clone();
            self.snapshots.lock().push(Snapshot { store, before, after, arrivals });
        }
    }
}

impl fmt::Debug for SnapshotStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotStore").finish_non_exhaustive()
    }
}

impl Store for SnapshotStore {
    fn open(&self, name: &str) -> Result<Arc<dyn Database>, store::StoreFailure> {
        let inner = self.inner.open(name)?;
        Ok(Arc::new(SnapshotDatabase { inner, snapshots: Arc::clone(&self.snapshots) }))
    }

    fn list(&self) -> Result<Vec<String>, store::StoreFailure> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> Result<(), store::StoreFailure> {
        self.inner.remove(name)
    }

    fn set_aside(&self, name: &str) -> Result<String, store::StoreFailure> {
        self.inner.set_aside(name)
    }
}

pub struct SnapshotDatabase {
    pub inner: Arc<dyn Database>,
    pub snapshots: Arc<Snapshots>,
}

impl fmt::Debug for SnapshotDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotDatabase").finish_non_exhaustive()
    }
}

impl Database for SnapshotDatabase {
    fn commit(&self, batches: Vec<Batch>) -> Result<(), store::StoreFailure> {
        self.write(batches)?;
        self.inner.commit(Vec::new())?;
        self.snapshots.take();
        Ok(())
    }

    fn write(&self, batches: Vec<Batch>) -> Result<(), store::StoreFailure> {
        for batch in batches {
            self.inner.write(vec![batch])?;
            self.snapshots.take();
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, store::StoreFailure> {
        self.inner.get(key)
    }

    fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), store::StoreFailure> {
        self.inner.scan(prefix, from, visit)
    }

    fn last(&self, prefix: &[u8], to: &[u8]) -> Result<Option<KeyValue>, store::StoreFailure> {
        self.inner.last(prefix, to)
    }
}
