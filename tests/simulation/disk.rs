//! Power cuts, and owners that were taken over: after how many operations of the store the power goes, and which of the writes without a
//! sync are on the device then. The image is taken at that moment, and nothing that the old engine does
//! afterwards changes it.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use wabahook::store::{Batch, Database, KeyValue, Memory, Store, StoreFailure, Visit};

/// A store in memory whose power can be cut after any of its operations.
#[derive(Clone)]
pub struct Disk {
    memory: Memory,
    cut: Arc<Mutex<Cut>>,
}

#[derive(Default)]
struct Cut {
    /// Operations left until the power goes.
    after: Option<u64>,
    /// How many unsynced batches of each database the device keeps.
    kept: usize,
    image: Option<Memory>,
    /// Another owner has taken over.
    is_fenced: bool,
}

impl Disk {
    pub fn new(memory: Memory) -> Disk {
        Disk { memory, cut: Arc::default() }
    }

    /// Cuts the power after so many more operations.
    pub fn cut_after(&self, operations: u64, kept: usize) {
        let mut cut = self.cut.lock();
        (cut.after, cut.kept, cut.image) = (Some(operations), kept, None);
    }

    /// What a power cut leaves now.
    pub fn cut_now(&self, kept: usize) -> Memory {
        self.memory.crash_keeping(kept)
    }

    /// What is left if the power was cut. Otherwise it stays on.
    pub fn take_image(&self) -> Option<Memory> {
        let mut cut = self.cut.lock();
        let is_fenced = cut.is_fenced;
        std::mem::replace(&mut *cut, Cut { is_fenced, ..Cut::default() }).image
    }

    pub fn is_cut(&self) -> bool {
        self.cut.lock().image.is_some()
    }

    /// Another owner takes over: this one writes nothing more.
    pub fn fence(&self) {
        self.cut.lock().is_fenced = true;
    }

    fn check_owner(&self) -> Result<(), StoreFailure> {
        if self.cut.lock().is_fenced { Err(StoreFailure::Fenced) } else { Ok(()) }
    }

    fn worked(&self) {
        let mut cut = self.cut.lock();
        match cut.after {
            Some(1) => {
                cut.after = None;
                cut.image = Some(self.memory.crash_keeping(cut.kept));
            }
            Some(left) => cut.after = Some(left - 1),
            None => {}
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl Store for Disk {
    fn open(&self, name: &str) -> Result<Arc<dyn Database>, StoreFailure> {
        self.check_owner()?;
        let inner = self.memory.open(name)?;
        self.worked();
        Ok(Arc::new(Watched { inner, disk: self.clone() }))
    }

    fn list(&self) -> Result<Vec<String>, StoreFailure> {
        self.memory.list()
    }

    fn remove(&self, name: &str) -> Result<(), StoreFailure> {
        self.memory.remove(name)?;
        self.worked();
        Ok(())
    }

    fn set_aside(&self, name: &str) -> Result<String, StoreFailure> {
        self.memory.set_aside(name)
    }
}

#[derive(Debug)]
struct Watched {
    inner: Arc<dyn Database>,
    disk: Disk,
}

impl Database for Watched {
    fn commit(&self, batches: Vec<Batch>) -> Result<(), StoreFailure> {
        self.write(batches)?;
        self.disk.check_owner()?;
        self.inner.commit(Vec::new())?;
        self.disk.worked();
        Ok(())
    }

    fn write(&self, batches: Vec<Batch>) -> Result<(), StoreFailure> {
        for batch in batches {
            self.disk.check_owner()?;
            self.inner.write(vec![batch])?;
            self.disk.worked();
        }
        Ok(())
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
}
