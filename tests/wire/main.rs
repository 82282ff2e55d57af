//! Decides what the transport does with receivers as they are found: the whole of it, over real sockets.
//!
//! Each module is named for what it holds the transport to. Leaves to others: what each file can show
//! without a socket. Invariant: no test sleeps; every wait is for a signal and has a deadline.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "in a test a panic is the verdict"
)]

mod answers;
#[cfg(feature = "tls")]
mod authority;
mod connections;
mod deadlines;
mod early;
mod guard;
mod nginx;
mod receiver;
#[cfg(feature = "tls")]
mod tls;
