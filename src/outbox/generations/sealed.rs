//! The sealed generations that are open.
//!
//! Opening a database takes milliseconds, so it happens under a lock of that generation alone. The committer only
//! tries these locks: no reader makes it wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::store::{Database, StoreFailure};

pub(super) type Handle = Option<Arc<dyn Database>>;

#[derive(Debug, Default)]
pub(super) struct SealedGenerations {
    open_max: usize,
    slots: Mutex<BTreeMap<u64, Arc<SealedSlot>>>,
    open: AtomicUsize,
    /// Counts uses.
    uses: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct SealedSlot {
    /// Locked while the database is opened, closed or removed.
    pub(super) handle: Mutex<Handle>,
    last_use: AtomicU64,
    /// Whether it was read since the unread ones were last closed.
    was_read: AtomicBool,
}

impl SealedGenerations {
    pub(super) fn new(open_max: usize) -> SealedGenerations {
        SealedGenerations { open_max, ..SealedGenerations::default() }
    }

    /// Adds a generation that is being sealed and is open.
    pub(super) fn add(&self, number: u64, database: Arc<dyn Database>) {
        let slot = self.slot(number);
        slot.last_use.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        if slot.handle.lock().replace(database).is_none() {
            self.open.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The database of a generation whose slot is locked by `handle`. `open` opens it if it is not open; `None` if it
    /// does not exist any more.
    pub(super) fn get(
        &self,
        number: u64,
        slot: &SealedSlot,
        mut handle: MutexGuard<'_, Handle>,
        exists: impl FnOnce() -> bool,
        open: impl FnOnce() -> Result<Arc<dyn Database>, StoreFailure>,
    ) -> Result<Option<Arc<dyn Database>>, StoreFailure> {
        slot.last_use.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        slot.was_read.store(true, Ordering::Relaxed);
        if let Some(database) = &*handle {
            return Ok(Some(Arc::clone(database)));
        }
        if !exists() {
            self.slots.lock().remove(&number);
            return Ok(None);
        }
        let database = open()?;
        *handle = Some(Arc::clone(&database));
        drop(handle);
        self.open.fetch_add(1, Ordering::Relaxed);
        self.close_surplus();
        Ok(Some(database))
    }

    pub(super) fn slot(&self, number: u64) -> Arc<SealedSlot> {
        Arc::clone(self.slots.lock().entry(number).or_default())
    }

    fn all(&self) -> Vec<Arc<SealedSlot>> {
        self.slots.lock().values().cloned().collect()
    }

    /// Closes the generations used longest ago, as many as are over the bound.
    fn close_surplus(&self) {
        if self.open.load(Ordering::Relaxed) <= self.open_max {
            return;
        }
        let mut slots = self.all();
        slots.sort_unstable_by_key(|slot| slot.last_use.load(Ordering::Relaxed));
        for slot in slots {
            if self.open.load(Ordering::Relaxed) <= self.open_max {
                return;
            }
            self.close_slot(&slot);
        }
    }

    /// Closes a generation, unless it is being read or opened.
    pub(super) fn close(&self, number: u64) {
        let slot = self.slots.lock().get(&number).cloned();
        slot.iter().for_each(|slot| self.close_slot(slot));
    }

    fn close_slot(&self, slot: &SealedSlot) {
        if let Some(mut handle) = slot.handle.try_lock()
            && handle.as_ref().is_some_and(is_idle)
        {
            // Dropped under the lock, so that no reader opens it before it is closed.
            *handle = None;
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Closes the generations that were not read since the last call.
    pub(super) fn close_unread(&self) {
        for slot in self.all() {
            if !slot.was_read.swap(false, Ordering::Relaxed) {
                self.close_slot(&slot);
            }
        }
    }

    pub(super) fn close_all(&self) {
        self.slots.lock().clear();
        self.open.store(0, Ordering::Relaxed);
    }

    pub(super) fn has_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// Closes a generation and removes it with `remove`, which says whether it is gone. Returns false while it is
    /// being read.
    pub(super) fn remove<E>(
        &self,
        number: u64,
        remove: impl FnOnce() -> Result<bool, E>,
    ) -> Result<bool, E> {
        let slot = self.slot(number);
        let Some(mut handle) = slot.handle.try_lock() else { return Ok(false) };
        if handle.as_ref().is_some_and(|database| !is_idle(database)) {
            return Ok(false);
        }
        if handle.take().is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        // Readers that wait for the lock find that it does not exist any more.
        let removed = remove()?;
        if removed {
            self.slots.lock().remove(&number);
        }
        Ok(removed)
    }
}

/// Whether nothing reads from a database. One that is being read stays open: it could not be opened twice.
fn is_idle(database: &Arc<dyn Database>) -> bool {
    Arc::strong_count(database) == 1
}
