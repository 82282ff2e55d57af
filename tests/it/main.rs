//! The library's integration tests, one binary: each module is named for what it promises.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod tidy;
