//! The engine's own threads and what they carry between the dispatcher, the wire and the outbox. The committer is the
//! outbox's thread.

pub(super) mod background;
pub(super) mod io_source;
pub(super) mod io_threads;
pub(super) mod timekeeper;
pub(super) mod worker_pool;
