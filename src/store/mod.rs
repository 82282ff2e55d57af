//! The ordered key-value store under everything durable. It knows nothing of events and subscriptions, only byte keys.
//!
//! The traits [`Store`] and [`Database`] are the contract. [`Sled`] implements it on a directory, [`Memory`] in memory
//! for tests, and `Postgres` on a replicated server. A batch is applied as a whole or not at all, also across a crash;
//! batches reach the device in the order in which they were applied; and what was applied before
//! [`Database::commit`] returned `Ok` is on the device.

mod copy;
mod fault_injection;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
pub(crate) mod private;
pub(crate) mod record;
mod sled;

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

pub(crate) use self::copy::copy_database;
pub use self::fault_injection::{FaultInjectingStore, FaultPlan};
pub use self::memory::Memory;
#[cfg(feature = "postgres")]
pub(crate) use self::postgres::{ClusterHost, ClusterView, PostgresCluster, ShardLease};
#[cfg(feature = "postgres")]
pub use self::postgres::{Postgres, PostgresOptions};
pub use self::sled::Sled;
pub(crate) use self::sled::database_names;

/// The most operations in one batch: larger ones make sled hold back memory without bound.
pub const BATCH_OPERATIONS_MAX: usize = 256;

/// The longest value, in bytes: sled puts leaves of larger ones into files that it never syncs.
pub const VALUE_BYTES_MAX: usize = 7 * 1024;

/// A set of named databases with one owner at a time.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Opens a database, and creates it where none has the name. The name itself is durable when
    /// this returns. A database that must exist and is missing is damaged, and listed all the same.
    ///
    /// A write that failed before with an unknown outcome has one when this returns: it is either
    /// visible now or never.
    ///
    /// # Errors
    /// A [`StoreFailure`] when it is open elsewhere, damaged, or the device refuses.
    fn open(&self, name: &str) -> Result<Arc<dyn Database>, StoreFailure>;

    /// The names of the databases, in order.
    ///
    /// # Errors
    /// A [`StoreFailure`] when the device refuses.
    fn list(&self) -> Result<Vec<String>, StoreFailure>;

    /// Removes a database, which must not be open. Removing one that does not exist is no error.
    ///
    /// # Errors
    /// A [`StoreFailure`] when the device refuses. A part of the database may then remain, and must
    /// be removed again before it is opened.
    fn remove(&self, name: &str) -> Result<(), StoreFailure>;

    /// Renames a database, which must not be open, to a name that begins with `damaged-`, and
    /// returns that name, so that it can be examined. Where the database is missing, only its name
    /// is given up and returned.
    ///
    /// # Errors
    /// A [`StoreFailure`] when the device refuses.
    fn set_aside(&self, name: &str) -> Result<String, StoreFailure>;

    /// Returns the format version that the store records, and records `newest` if there is none.
    ///
    /// # Errors
    /// A [`StoreFailure`] when the device refuses or what is recorded cannot be read.
    fn format(&self, newest: u32) -> Result<u32, StoreFailure> {
        Ok(newest)
    }

    /// Whether this owner may act now. False where the ownership is a lease that has ended by this
    /// owner's own clock, also while it may still be renewed. The engine then makes no attempts.
    fn is_owner(&self) -> bool {
        true
    }

    /// Sets the listener for events of the store itself. Called once.
    fn on_event(&self, _listener: StoreListener) {}

    /// Whether the store is on another machine, where a failure is over after seconds.
    fn is_remote(&self) -> bool {
        false
    }

    /// Gives up the ownership, so that another owner need not wait for its end.
    fn release(&self) {}
}

/// An event that a store reports on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreEvent {
    /// [`Store::is_owner`] is true again.
    OwnerAgain,
    /// Another owner has taken over. Nothing more can be written.
    Lost,
    /// Writes are confirmed without a replica, although one is required.
    Unreplicated(String),
}

/// Receives what a store tells, on a thread of the store. It must not block.
pub type StoreListener = Box<dyn Fn(StoreEvent) + Send + Sync>;

/// An ordered map from bytes to bytes. After any `Err` from [`commit`](Database::commit) or
/// [`write`](Database::write) every later write may fail until the database is opened again.
pub trait Database: Send + Sync + fmt::Debug + 'static {
    /// Applies batches in order. When this returns, they and everything written before are durable.
    /// A crash before that may leave any number of the first batches, each one whole.
    ///
    /// # Errors
    /// [`StoreFailure::Limit`] when a batch has more than [`BATCH_OPERATIONS_MAX`] operations or a
    /// value of more than [`VALUE_BYTES_MAX`] bytes; [`StoreFailure::Fenced`] when another owner has
    /// taken over, and then nothing was applied. After another [`StoreFailure`] it is unknown what was
    /// applied, and [opening](Store::open) the database again settles it.
    fn commit(&self, batches: Vec<Batch>) -> Result<(), StoreFailure>;

    /// Applies batches in order, and need not wait until they are durable: the next
    /// [`commit`](Database::commit) makes them so. For writes that a crash may undo.
    ///
    /// # Errors
    /// As [`commit`](Database::commit).
    fn write(&self, batches: Vec<Batch>) -> Result<(), StoreFailure> {
        self.commit(batches)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// A [`StoreFailure`] when the device refuses or the data is damaged.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFailure>;

    /// Calls `visit` with every key that starts with `prefix` and is not below `from`, and its
    /// value, in order, until it breaks. This is no snapshot: concurrent writes may be seen or not.
    ///
    /// # Errors
    /// A [`StoreFailure`] when the device refuses or the data is damaged.
    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreFailure>;

    /// The greatest key that starts with `prefix` and is not above `to`, with its value.
    ///
    /// # Errors
    /// A [`StoreFailure`] when the device refuses or the data is damaged.
    fn last(&self, prefix: &[u8], to: &[u8]) -> Result<Option<KeyValue>, StoreFailure>;

    /// Records, outside of the database's own data, that so many records of the caller's choice are
    /// on the device, so that a database that silently lost some is noticed. This costs no sync:
    /// after a crash an older number may be there, or none. Does nothing where a store cannot lose
    /// records in this way.
    fn set_expected_records(&self, _records: u64) {}

    /// The number that was recorded last, if it is known.
    fn expected_records(&self) -> Option<u64> {
        None
    }
}

/// What [`Database::scan`] calls with each key and value.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// What an accepted event survives. Neither confirms an event before it is written.
///
/// ```
/// use wabahook::{Config, Durability};
/// let config = Config::new("outbox").durability(Durability::Process); // survives kill -9, not a power cut
/// # let _ = config;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// A power cut: each group is flushed and then synced with `fdatasync`.
    #[default]
    Power,
    /// The end of the process, `kill -9` included, but not of the machine: each group is flushed to
    /// the operating system, without waiting for the device.
    Process,
}

/// Operations that take effect together.
///
/// ```
/// use wabahook::store::Batch;
/// let mut batch = Batch::default();
/// batch.put("key", "value");
/// batch.remove("another");
/// assert_eq!(batch.len(), 2);
/// assert!(batch.check().is_ok());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Batch {
    operations: Vec<Operation>,
}

/// One operation of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Writes the value under the key.
    Put(Vec<u8>, Vec<u8>),
    /// Removes the key.
    Remove(Vec<u8>),
}

impl Batch {
    /// Adds an operation. The last one on a key wins.
    pub fn push(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// Adds a write. The last operation on a key wins.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.push(Operation::Put(key.into(), value.into()));
    }

    /// Adds a removal. The last operation on a key wins.
    pub fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.push(Operation::Remove(key.into()));
    }

    /// The size of its keys and values.
    pub fn bytes(&self) -> usize {
        let bytes = self.operations.iter().map(|operation| match operation {
            Operation::Put(key, value) => key.len() + value.len(),
            Operation::Remove(key) => key.len(),
        });
        bytes.sum()
    }

    /// The number of operations.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it has no operations.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The operations, in the order added.
    pub fn into_operations(self) -> Vec<Operation> {
        self.operations
    }

    /// Checks the bounds of the contract; every implementation calls it first.
    ///
    /// # Errors
    /// [`StoreFailure::Limit`], naming the bound.
    pub fn check(&self) -> Result<(), StoreFailure> {
        if self.operations.len() > BATCH_OPERATIONS_MAX {
            return Err(StoreFailure::Limit { what: "operations in a batch", given: self.len() });
        }
        for operation in &self.operations {
            if let Operation::Put(_, value) = operation
                && value.len() > VALUE_BYTES_MAX
            {
                return Err(StoreFailure::Limit { what: "bytes in a value", given: value.len() });
            }
        }
        Ok(())
    }
}

impl From<Operation> for Batch {
    /// A batch of one.
    fn from(operation: Operation) -> Batch {
        Batch { operations: vec![operation] }
    }
}

/// Why a store could not do what was asked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StoreFailure {
    /// Another owner has it open.
    InUse,
    /// The caller exceeded a bound of the contract, which is a bug.
    Limit {
        /// What there was too much of.
        what: &'static str,
        /// How much.
        given: usize,
    },
    /// The device or the operating system refused.
    Io(Arc<std::io::Error>),
    /// The stored data cannot be read.
    Damaged(String),
    /// The database was closed.
    Closed,
    /// Another owner has taken over. Nothing was written and nothing will be.
    Fenced,
    /// The store could lose what it confirms, or its settings cannot be used.
    Unsafe(String),
}

impl StoreFailure {
    /// Wraps an error of the operating system.
    pub fn io(error: std::io::Error) -> StoreFailure {
        StoreFailure::Io(Arc::new(error))
    }
}

impl fmt::Display for StoreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreFailure::InUse => f.write_str("it is open elsewhere"),
            StoreFailure::Limit { what, given } => write!(f, "too many {what}: {given}"),
            StoreFailure::Io(error) => error.fmt(f),
            StoreFailure::Damaged(why) => write!(f, "the stored data is damaged: {why}"),
            StoreFailure::Closed => f.write_str("it is closed"),
            StoreFailure::Unsafe(why) => f.write_str(why),
            StoreFailure::Fenced => f.write_str("another owner has taken over"),
        }
    }
}

impl std::error::Error for StoreFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreFailure::Io(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}

/// A free name for a damaged database.
fn damaged_name(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let mut new = format!("damaged-{name}");
    for number in 2_u32.. {
        if !is_taken(&new) {
            break;
        }
        new = format!("damaged-{name}-{number}");
    }
    new
}

#[cfg(test)]
mod contract;
#[cfg(test)]
mod contract_checks;
