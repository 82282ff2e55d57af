//! A store in memory that keeps snapshots of itself as a power cut would leave it. What the host knew is
//! recorded before and after each cut, so that the check is exactly as strict as that moment allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use wabahook::store::{Batch, Database, Memory, Store, StoreFailure};
use wabahook::testing::StoreLayer;

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
#[derive(Clone)]
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

impl StoreLayer for SnapshotStore {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }

    fn commit(&self, name: &str, to: &dyn Database, batches: Vec<Batch>) -> StoreResult {
        self.write(name, to, batches)?;
        to.commit(Vec::new())?;
        self.snapshots.take();
        Ok(())
    }

    fn write(&self, _: &str, to: &dyn Database, batches: Vec<Batch>) -> StoreResult {
        for batch in batches {
            to.write(vec![batch])?;
            self.snapshots.take();
        }
        Ok(())
    }
}

type StoreResult = Result<(), StoreFailure>;
