//! A store in memory, for tests and simulation. It keeps what was synced apart from what was only
//! applied, so that [`Memory::crash`] shows what a power cut leaves.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

use super::{Batch, Database, KeyValue, Operation, Store, StoreFailure, Visit};

use crate::text::debug_fields;

type KeyValueMap = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store in memory. Clones share it, as two handles of one device would.
///
/// ```
/// use wabahook::store::{Batch, Memory, Store};
/// let store = Memory::default();
/// let database = store.open("one")?;
/// let mut batch = Batch::default();
/// batch.put("key", "value");
/// database.write(vec![batch])?;
/// let after_a_power_cut = store.crash();
/// assert_eq!(after_a_power_cut.open("one")?.get(b"key")?, None);
/// # Ok::<(), wabahook::store::StoreFailure>(())
/// ```
#[derive(Clone, Default)]
pub struct Memory {
    disks: Arc<Mutex<BTreeMap<String, MemoryDisk>>>,
}

#[derive(Clone, Default)]
struct MemoryDisk {
    image: Arc<RwLock<DiskImage>>,
    owned: Arc<AtomicBool>,
}

/// What reads see, what was synced, and the batches applied since, oldest first.
#[derive(Default)]
struct DiskImage {
    visible: KeyValueMap,
    durable: KeyValueMap,
    unsynced: Vec<Batch>,
}

impl Memory {
    /// What a power cut at this moment leaves, as a new store: what was synced, and nothing that was
    /// only applied.
    pub fn crash(&self) -> Memory {
        self.crash_keeping(0)
    }

    /// What a power cut leaves where the device had also written the first `batches` unsynced
    /// batches of each database.
    pub fn crash_keeping(&self, batches: usize) -> Memory {
        let disks = self.disks.lock();
        let survivors = disks.iter().map(|(name, disk)| {
            let image = disk.image.read();
            let mut durable = image.durable.clone();
            for batch in image.unsynced.iter().take(batches) {
                write(&mut durable, batch.clone());
            }
            let survivor = DiskImage { visible: durable.clone(), durable, unsynced: Vec::new() };
            let image = Arc::new(RwLock::new(survivor));
            (name.clone(), MemoryDisk { image, owned: Arc::default() })
        });
        Memory { disks: Arc::new(Mutex::new(survivors.collect())) }
    }

    /// The number of applied batches that are not synced.
    pub fn unsynced_batches(&self) -> usize {
        self.disks.lock().values().map(|disk| disk.image.read().unsynced.len()).sum()
    }
}

debug_fields!(Memory);

impl Store for Memory {
    fn open(&self, name: &str) -> Result<Arc<dyn Database>, StoreFailure> {
        let disk = self.disks.lock().entry(name.to_owned()).or_default().clone();
        if disk.owned.swap(true, Ordering::AcqRel) {
            return Err(StoreFailure::InUse);
        }
        Ok(Arc::new(MemoryDatabase { disk }))
    }

    fn list(&self) -> Result<Vec<String>, StoreFailure> {
        Ok(self.disks.lock().keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> Result<(), StoreFailure> {
        let mut disks = self.disks.lock();
        if disks.get(name).is_some_and(|disk| disk.owned.load(Ordering::Acquire)) {
            return Err(StoreFailure::InUse);
        }
        disks.remove(name);
        Ok(())
    }

    fn set_aside(&self, name: &str) -> Result<String, StoreFailure> {
        let mut disks = self.disks.lock();
        let new = super::damaged_name(name, |new| disks.contains_key(new));
        if let Some(disk) = disks.remove(name) {
            disks.insert(new.clone(), disk);
        }
        Ok(new)
    }
}

/// An open database. Dropping it allows another owner to open it.
struct MemoryDatabase {
    disk: MemoryDisk,
}

debug_fields!(MemoryDatabase);

impl Drop for MemoryDatabase {
    fn drop(&mut self) {
        self.disk.owned.store(false, Ordering::Release);
    }
}

impl Database for MemoryDatabase {
    fn commit(&self, batches: Vec<Batch>) -> Result<(), StoreFailure> {
        self.write(batches)?;
        let mut image = self.disk.image.write();
        for batch in std::mem::take(&mut image.unsynced) {
            write(&mut image.durable, batch);
        }
        Ok(())
    }

    fn write(&self, batches: Vec<Batch>) -> Result<(), StoreFailure> {
        for batch in batches {
            batch.check()?;
            let mut image = self.disk.image.write();
            write(&mut image.visible, batch.clone());
            image.unsynced.push(batch);
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFailure> {
        Ok(self.disk.image.read().visible.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreFailure> {
        let image = self.disk.image.read();
        let start = prefix.max(from).to_vec();
        for (key, value) in image.visible.range(start..).take_while(|(k, _)| k.starts_with(prefix))
        {
            if let ControlFlow::Break(()) = visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, prefix: &[u8], to: &[u8]) -> Result<Option<KeyValue>, StoreFailure> {
        let image = self.disk.image.read();
        let below = image.visible.range(..=to.to_vec()).next_back();
        Ok(below.filter(|(k, _)| k.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())))
    }
}

fn write(map: &mut KeyValueMap, batch: Batch) {
    for operation in batch.into_operations() {
        match operation {
            Operation::Put(key, value) => {
                map.insert(key, value);
            }
            Operation::Remove(key) => {
                map.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(database: &dyn Database, key: &str) {
        let mut batch = Batch::default();
        batch.put(key, "value");
        database.write(vec![batch]).unwrap();
    }

    #[test]
    fn a_crash_keeps_synced_batches_and_any_prefix_of_the_rest() {
        let store = Memory::default();
        let database = store.open("one").unwrap();
        put(&*database, "synced");
        database.commit(Vec::new()).unwrap();
        put(&*database, "second");
        put(&*database, "third");
        assert_eq!(store.unsynced_batches(), 2);
        for (kept, present) in [(0, 1), (1, 2), (2, 3), (9, 3)] {
            let after = store.crash_keeping(kept).open("one").unwrap();
            let found = ["synced", "second", "third"]
                .iter()
                .filter(|key| after.get(key.as_bytes()).unwrap().is_some())
                .count();
            assert_eq!(found, present, "{kept} batches kept");
        }
    }
}
