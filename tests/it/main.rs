//! The library's integration tests, one binary: each module is named for what it promises.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub,
    reason = "in a test a panic is the verdict, and nobody reads its documentation"
)]

mod attempts;
mod bad_input;
mod business_api;
mod damage;
mod dialog360;
mod directory;
mod faults;
mod letters;
mod lifecycle;
mod listing;
mod order;
mod publishing;
mod recovery;
mod requests;
mod retries;
mod rotation;
mod stalls;
mod subscriptions;
mod terms;
mod tidy;
mod workers;
mod world;
