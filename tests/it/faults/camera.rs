//! Decides which moments of a store are kept as a power cut would leave them.
//!
//! Leaves to others: judging them (`model`). Invariant: what the host knew is noted before the cut
//! and again after it, so that a verdict is never stricter or laxer than the moment allows.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use wabahook::store::{self, Batch, Database, Memory, Pair, Store, Visit};

use super::model::{Arrival, Model, Receivers};

/// What a power cut right after one operation leaves, and what the host knew then.
pub struct Image {
    pub store: Memory,
    /// Before the cut: what was promised by then is on the device.
    pub before: Model,
    /// After the cut: only what is in here can have reached it.
    pub after: Model,
    pub arrivals: Vec<Arrival>,
}

/// A store in memory that keeps such images of the operations `wanted`.
pub struct Camera {
    pub inner: Memory,
    pub film: Arc<Film>,
}

pub struct Film {
    pub memory: Memory,
    pub wanted: std::ops::Range<u64>,
    pub seen: AtomicU64,
    pub model: Arc<Mutex<Model>>,
    pub receivers: Arc<Receivers>,
    pub images: Mutex<Vec<Image>>,
}

impl Film {
    pub fn expose(&self) {
        let seen = self.seen.fetch_add(1, Ordering::AcqRel);
        if !self.wanted.contains(&seen) {
            return;
        }
        // How many unsynced batches the device had written all the same differs from cut to cut.
        for kept in [0, 1 + seen as usize % 3] {
            let before = self.model.lock().clone();
            let store = self.memory.crash_keeping(kept);
            let after = self.model.lock().clone();
            let arrivals = self.receivers.arrivals.lock().clone();
            self.images.lock().push(Image { store, before, after, arrivals });
        }
    }
}

impl fmt::Debug for Camera {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Camera").finish_non_exhaustive()
    }
}

impl Store for Camera {
    fn open(&self, name: &str) -> Result<Arc<dyn Database>, store::Failure> {
        let inner = self.inner.open(name)?;
        Ok(Arc::new(Watched { inner, film: Arc::clone(&self.film) }))
    }

    fn list(&self) -> Result<Vec<String>, store::Failure> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> Result<(), store::Failure> {
        self.inner.remove(name)
    }

    fn set_aside(&self, name: &str) -> Result<String, store::Failure> {
        self.inner.set_aside(name)
    }
}

pub struct Watched {
    pub inner: Arc<dyn Database>,
    pub film: Arc<Film>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl Database for Watched {
    fn apply(&self, batch: Batch) -> Result<(), store::Failure> {
        self.inner.apply(batch)?;
        self.film.expose();
        Ok(())
    }

    fn sync(&self) -> Result<(), store::Failure> {
        self.inner.sync()?;
        self.film.expose();
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, store::Failure> {
        self.inner.get(key)
    }

    fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), store::Failure> {
        self.inner.scan(prefix, from, visit)
    }

    fn last(&self, prefix: &[u8], to: &[u8]) -> Result<Option<Pair>, store::Failure> {
        self.inner.last(prefix, to)
    }
}
