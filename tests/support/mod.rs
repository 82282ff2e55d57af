//! What the integration tests share: a receiver over real sockets, processes, and waits with a deadline.
#![allow(dead_code, unused_imports, reason = "every test uses its own part")]

pub mod http_receiver;
pub mod processes;

use std::time::{Duration, Instant};

/// Whether a test program without the harness is meant by its command line, as with the names of other tests.
pub fn is_wanted(name: &str) -> bool {
    let mut names = std::env::args().skip(1).filter(|one| !one.starts_with('-')).peekable();
    names.peek().is_none() || names.any(|one| name.contains(one.as_str()))
}

/// No wait of a test lasts longer; nothing passes or fails by how fast it is.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `is_so`. False when [`DEADLINE`] passed first.
#[must_use]
pub fn wait_until(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::park_timeout(Duration::from_micros(200));
    }
    true
}
