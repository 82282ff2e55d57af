//! Decides which commands talk to a running host, look into a directory or check a signature: one
//! file each.
//!
//! Leaves to others: `serve` and `demo`, the command line as a whole (`main`). Invariant: what a
//! program is to read goes to stdout, all else to stderr.

pub(crate) mod bench;
pub(crate) mod client;
pub(crate) mod completions;
pub(crate) mod dead;
pub(crate) mod inspect;
pub(crate) mod publish;
pub(crate) mod raw;
pub(crate) mod scratch;
pub(crate) mod screen;
pub(crate) mod tail;
pub(crate) mod verify;
pub(crate) mod webhooks;
