//! From a store to a running engine: the claim on the store and its book, the recovery of what the last engine left, a
//! copy while the engine runs, and the move to another store.

pub(super) mod backup;
pub(super) mod data_directory;
pub(super) mod migration;
pub(super) mod recovery;
