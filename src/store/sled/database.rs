//! One open sled database as a [`Database`] of the contract. A commit ends with sled's flush followed
//! by `sync_data` on its log, because on Linux the flush alone does not reach the device.

use std::fs::File;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::errors::guarded;
use super::flush_watchdog::FlushWatchdog;
use super::manifest::Manifest;
use crate::store::{Batch, Database, Durability, KeyValue, Operation, StoreFailure, Visit};
use crate::text::debug_fields;

/// How many bytes of a commit are written between two syncs at most. sled makes about twice as many of
/// them, in segments of 512 KiB, and the header of each segment says that everything before it is
/// there. Where several reach the device out of order, a power cut leaves what cannot be told from
/// damage.
const UNSYNCED_BYTES_MAX: usize = 256 * 1024;

/// What a commit has written since its last sync.
#[derive(Debug, Default)]
struct UnsyncedBytes(usize);

impl UnsyncedBytes {
    /// Counts a batch of so many bytes. Returns whether a sync has to come before it.
    fn must_sync_before(&mut self, bytes: usize) -> bool {
        let is_full = self.0 + bytes > UNSYNCED_BYTES_MAX;
        self.0 = if is_full { bytes } else { self.0 + bytes };
        is_full
    }
}

pub(super) struct SledDatabase {
    /// `None` only while it is dropped.
    pub(super) tree: Option<Arc<::sled::Db>>,
    /// sled's log, for `sync_data`.
    pub(super) log: File,
    pub(super) manifest: Manifest,
    pub(super) durability: Durability,
    /// Runs as long as a database is open.
    pub(super) watchdog: Arc<FlushWatchdog>,
}

impl SledDatabase {
    fn tree(&self) -> Result<&::sled::Db, StoreFailure> {
        self.tree.as_deref().ok_or(StoreFailure::Closed)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreFailure> {
        batch.check()?;
        let (tree, _watched) = (self.tree()?, self.watchdog.enter());
        // A single operation skips sled's batches: sled frames each batch with a record that it
        // writes at once, which wakes all its threads, waits for the device and locks out all
        // readers of all databases.
        let operations = match <[Operation; 1]>::try_from(batch.into_operations()) {
            Ok([Operation::Put(key, value)]) => {
                return guarded("writing", || tree.insert(key, value).map(drop));
            }
            Ok([Operation::Remove(key)]) => {
                return guarded("writing", || tree.remove(key).map(drop));
            }
            Err(operations) => operations,
        };
        let mut batch = ::sled::Batch::default();
        for operation in operations {
            match operation {
                Operation::Put(key, value) => batch.insert(key, value),
                Operation::Remove(key) => batch.remove(key),
            }
        }
        guarded("writing", || tree.apply_batch(batch))
    }

    fn sync(&self) -> Result<(), StoreFailure> {
        let (tree, _watched) = (self.tree()?, self.watchdog.enter());
        guarded("flushing", || tree.flush())?;
        match self.durability {
            Durability::Power => self.log.sync_data().map_err(StoreFailure::io),
            Durability::Process => Ok(()),
        }
    }
}

impl Drop for SledDatabase {
    /// sled panics where a device refuses the last sync. Nothing is lost by that: what was synced is
    /// on the device.
    fn drop(&mut self) {
        let _watched = self.watchdog.enter();
        // Flushed first, because the watchdog cannot wake a flush inside the drop.
        let _ = self.tree().and_then(|tree| guarded("closing", || tree.flush()));
        let tree = self.tree.take();
        let _ = catch_unwind(AssertUnwindSafe(move || drop(tree)));
    }
}

debug_fields!(SledDatabase);

impl Database for SledDatabase {
    fn commit(&self, batches: Vec<Batch>) -> Result<(), StoreFailure> {
        let mut unsynced = UnsyncedBytes::default();
        for batch in batches {
            if unsynced.must_sync_before(batch.bytes()) {
                self.sync()?;
            }
            self.apply(batch)?;
        }
        self.sync()
    }

    fn write(&self, batches: Vec<Batch>) -> Result<(), StoreFailure> {
        batches.into_iter().try_for_each(|batch| self.apply(batch))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFailure> {
        let (tree, _watched) = (self.tree()?, self.watchdog.enter());
        let value = guarded("reading", || tree.get(key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreFailure> {
        let (tree, _watched) = (self.tree()?, self.watchdog.enter());
        guarded("scanning", || {
            for pair in tree.range(prefix.max(from)..) {
                let (key, value) = pair?;
                if !key.starts_with(prefix) {
                    break;
                }
                if let ControlFlow::Break(()) = visit(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn last(&self, prefix: &[u8], to: &[u8]) -> Result<Option<KeyValue>, StoreFailure> {
        let (tree, _watched) = (self.tree()?, self.watchdog.enter());
        let below = guarded("reading", || tree.range(..=to).next_back().transpose())?;
        Ok(below
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    fn set_expected_records(&self, records: u64) {
        self.manifest.set_count(records);
    }

    fn expected_records(&self) -> Option<u64> {
        self.manifest.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_commit_is_synced_as_it_is_written() {
        let mut unsynced = UnsyncedBytes::default();
        let syncs = (0..300).filter(|_| unsynced.must_sync_before(7_000)).count();
        assert_eq!(syncs, 300 / (UNSYNCED_BYTES_MAX / 7_000));
        assert!(!UnsyncedBytes::default().must_sync_before(7_000), "a small one once, at its end");
    }
}
