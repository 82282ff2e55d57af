//! A store around another one, for tests that watch, hold or refuse some of its calls. A layer overrides the calls
//! that it is about; all others go to the store inside.

use std::fmt;
use std::sync::Arc;

use crate::store::{Batch, Database, KeyValue, Store, StoreFailure, StoreListener, Visit};

/// The calls of a store that a test changes.
pub trait StoreLayer: Clone + Send + Sync + 'static {
    /// The store inside.
    fn inner(&self) -> &dyn Store;

    /// Opens a database of the store inside.
    fn open(&self, name: &str) -> Result<Arc<dyn Database>, StoreFailure> {
        self.inner().open(name)
    }

    /// Removes a database of the store inside.
    fn remove(&self, name: &str) -> Result<(), StoreFailure> {
        self.inner().remove(name)
    }

    /// Commits to the database of this name.
    fn commit(&self, _: &str, to: &dyn Database, batches: Vec<Batch>) -> Result<(), StoreFailure> {
        to.commit(batches)
    }

    /// Writes to the database of this name without a sync.
    fn write(&self, _: &str, to: &dyn Database, batches: Vec<Batch>) -> Result<(), StoreFailure> {
        to.write(batches)
    }

    /// Reads from a database.
    fn get(&self, from: &dyn Database, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFailure> {
        from.get(key)
    }
}

/// The store that a layer makes of the one inside.
#[derive(Clone)]
pub struct LayeredStore<L>(pub L);

struct LayeredDatabase<L> {
    layer: L,
    name: String,
    inner: Arc<dyn Database>,
}

impl<L: StoreLayer> Store for LayeredStore<L> {
    fn open(&self, name: &str) -> Result<Arc<dyn Database>, StoreFailure> {
        let (layer, inner) = (self.0.clone(), self.0.open(name)?);
        Ok(Arc::new(LayeredDatabase { layer, name: name.to_owned(), inner }))
    }

    fn list(&self) -> Result<Vec<String>, StoreFailure> {
        self.0.inner().list()
    }

    fn remove(&self, name: &str) -> Result<(), StoreFailure> {
        self.0.remove(name)
    }

    fn set_aside(&self, name: &str) -> Result<String, StoreFailure> {
        self.0.inner().set_aside(name)
    }

    fn format(&self, newest: u32) -> Result<u32, StoreFailure> {
        self.0.inner().format(newest)
    }

    fn is_owner(&self) -> bool {
        self.0.inner().is_owner()
    }

    fn on_event(&self, listener: StoreListener) {
        self.0.inner().on_event(listener);
    }

    fn is_remote(&self) -> bool {
        self.0.inner().is_remote()
    }

    fn release(&self) {
        self.0.inner().release();
    }
}

impl<L: StoreLayer> Database for LayeredDatabase<L> {
    fn commit(&self, batches: Vec<Batch>) -> Result<(), StoreFailure> {
        self.layer.commit(&self.name, &*self.inner, batches)
    }

    fn write(&self, batches: Vec<Batch>) -> Result<(), StoreFailure> {
        self.layer.write(&self.name, &*self.inner, batches)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFailure> {
        self.layer.get(&*self.inner, key)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreFailure> {
        self.inner.scan(prefix, from, visit)
    }

    fn last(&self, prefix: &[u8], to: &[u8]) -> Result<Option<KeyValue>, StoreFailure> {
        self.inner.last(prefix, to)
    }

    fn set_expected_records(&self, records: u64) {
        self.inner.set_expected_records(records);
    }

    fn expected_records(&self) -> Option<u64> {
        self.inner.expected_records()
    }
}

impl<L> fmt::Debug for LayeredStore<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LayeredStore")
    }
}

impl<L> fmt::Debug for LayeredDatabase<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LayeredDatabase")
    }
}
