//! Decides the contract of the ordered key-value store that everything durable stands on.
//!
//! Leaves to others: what the keys mean (`outbox`, `book`). Implemented by [`Sled`] on a directory
//! and by [`Memory`] for simulation. Invariant: a batch is applied as a whole or not at all, also
//! across a crash; batches reach the device in the order in which they were applied; and what was
//! applied before [`Database::sync`] returned `Ok` is on the device.

mod faulty;
mod memory;
pub(crate) mod record;
mod sled;
mod waking;
mod witness;

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

pub use self::faulty::{Faults, Faulty};
pub use self::memory::Memory;
pub use self::sled::Sled;

/// The most operations in one batch: larger ones make sled hold back memory without bound.
pub const BATCH_OPERATIONS_MAX: usize = 256;

/// The longest value, in bytes: sled puts leaves of larger ones into files that it never syncs.
pub const VALUE_BYTES_MAX: usize = 7 * 1024;

/// A family of databases with one owner at a time.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Opens a database, creating it if there is none of that name. The name itself is durable when
    /// this returns. One that should be there and is not is damaged, and listed all the same.
    ///
    /// # Errors
    /// A [`Failure`] when it is open elsewhere, damaged, or the device refuses.
    fn open(&self, name: &str) -> Result<Arc<dyn Database>, Failure>;

    /// The names of the databases that exist, in order.
    ///
    /// # Errors
    /// A [`Failure`] when the device refuses.
    fn list(&self) -> Result<Vec<String>, Failure>;

    /// Removes a database whole, which must not be open. Removing what does not exist is no error.
    ///
    /// # Errors
    /// A [`Failure`] when the device refuses; the database may then be there in part, and opening
    /// it must be preceded by another removal.
    fn remove(&self, name: &str) -> Result<(), Failure>;

    /// Gives a database, which must not be open, a name that begins with `damaged-`, and returns
    /// it, so that somebody can look into it. Of one that is missing altogether only the name is
    /// given up, and returned.
    ///
    /// # Errors
    /// A [`Failure`] when the device refuses.
    fn set_aside(&self, name: &str) -> Result<String, Failure>;
}

/// An ordered map from bytes to bytes. After any `Err` from [`apply`](Database::apply) or
/// [`sync`](Database::sync) every later write may fail until it is opened again.
pub trait Database: Send + Sync + fmt::Debug + 'static {
    /// Applies all of a batch or nothing. Not durable before [`sync`](Database::sync).
    ///
    /// # Errors
    /// [`Failure::Limit`] when the batch has more than [`BATCH_OPERATIONS_MAX`] operations or a
    /// value of more than [`VALUE_BYTES_MAX`] bytes; another [`Failure`] when the device refuses.
    fn apply(&self, batch: Batch) -> Result<(), Failure>;

    /// Returns when everything applied before is on the device.
    ///
    /// # Errors
    /// A [`Failure`]; whether anything reached the device is then unknown.
    fn sync(&self) -> Result<(), Failure>;

    /// The value of a key.
    ///
    /// # Errors
    /// A [`Failure`] when the device refuses or the data is damaged.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure>;

    /// Shows every pair whose key starts with `prefix` and is not below `from`, in order, until
    /// the visitor breaks. Not a snapshot: a writer beside it may be seen or not.
    ///
    /// # Errors
    /// A [`Failure`] when the device refuses or the data is damaged.
    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), Failure>;

    /// The greatest key that starts with `prefix` and is not above `to`, with its value.
    ///
    /// # Errors
    /// A [`Failure`] when the device refuses or the data is damaged.
    fn last(&self, prefix: &[u8], to: &[u8]) -> Result<Option<Pair>, Failure>;

    /// Notes, outside of what the database itself keeps, that so many records of its owner's choice
    /// are on the device, so that a database which lost some without a word is found out. Costs no
    /// sync: after a crash an older note may be there, or none. Does nothing where a store cannot
    /// lose records so.
    fn vouch(&self, _records: u64) {}

    /// What was noted last, as far as it is known.
    fn vouched(&self) -> Option<u64> {
        None
    }
}

/// What [`Database::scan`] calls with each key and value.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// What an accepted event survives. Neither acknowledges before the write.
///
/// ```
/// use wabahook::{Config, Durability};
/// let config = Config::new("outbox").durability(Durability::Process); // survives kill -9, not a power cut
/// # let _ = config;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// The loss of power: each group is flushed and then synced with `fdatasync`.
    #[default]
    Power,
    /// The end of the process, `kill -9` included, and not that of the machine: each group is
    /// flushed to the operating system. Spares the wait for the device.
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

    /// How many operations it holds.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The operations, in the order added.
    pub fn into_operations(self) -> Vec<Operation> {
        self.operations
    }

    /// Refuses what the contract refuses; every implementation calls it first.
    ///
    /// # Errors
    /// [`Failure::Limit`], naming the bound.
    pub fn check(&self) -> Result<(), Failure> {
        if self.operations.len() > BATCH_OPERATIONS_MAX {
            return Err(Failure::Limit { what: "operations in a batch", given: self.len() });
        }
        for operation in &self.operations {
            if let Operation::Put(_, value) = operation
                && value.len() > VALUE_BYTES_MAX
            {
                return Err(Failure::Limit { what: "bytes in a value", given: value.len() });
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
pub enum Failure {
    /// Another owner has it open.
    InUse,
    /// A bound of the contract would be broken: a bug of the caller.
    Limit {
        /// Of what there was too much.
        what: &'static str,
        /// How much.
        given: usize,
    },
    /// The device or the operating system refused.
    Io(Arc<std::io::Error>),
    /// What is stored cannot be read.
    Damaged(String),
    /// The database was closed.
    Closed,
}

impl Failure {
    /// Wraps what the operating system said.
    pub fn io(error: std::io::Error) -> Failure {
        Failure::Io(Arc::new(error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::InUse => f.write_str("it is open elsewhere"),
            Failure::Limit { what, given } => write!(f, "too many {what}: {given}"),
            Failure::Io(error) => error.fmt(f),
            Failure::Damaged(why) => write!(f, "the stored data is damaged: {why}"),
            Failure::Closed => f.write_str("it is closed"),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Failure::Io(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}

/// A name for a damaged database that is not taken yet.
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
