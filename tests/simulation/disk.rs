//! Power cuts, and owners that were taken over: after how many operations of the store the power goes, and which of the writes without a
//! sync are on the device then. The image is taken at that moment, and nothing that the old engine does
//! afterwards changes it.

use std::sync::Arc;

use parking_lot::Mutex;
use wabahook::store::{Batch, Database, Memory, Store, StoreFailure};
use wabahook::testing::StoreLayer;

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

type StoreResult<T> = Result<T, StoreFailure>;

impl StoreLayer for Disk {
    fn inner(&self) -> &dyn Store {
        &self.memory
    }

    fn open(&self, name: &str) -> StoreResult<Arc<dyn Database>> {
        self.check_owner()?;
        let database = self.memory.open(name)?;
        self.worked();
        Ok(database)
    }

    fn remove(&self, name: &str) -> StoreResult<()> {
        self.memory.remove(name)?;
        self.worked();
        Ok(())
    }

    fn commit(&self, name: &str, to: &dyn Database, batches: Vec<Batch>) -> StoreResult<()> {
        self.write(name, to, batches)?;
        self.check_owner()?;
        to.commit(Vec::new())?;
        self.worked();
        Ok(())
    }

    fn write(&self, _: &str, to: &dyn Database, batches: Vec<Batch>) -> StoreResult<()> {
        for batch in batches {
            self.check_owner()?;
            to.write(vec![batch])?;
            self.worked();
        }
        Ok(())
    }
}
