//! What the integration tests share: a receiver over real sockets, and waits with a deadline.
#![allow(dead_code, unused_imports, reason = "every test uses its own part")]

pub mod http_receiver;

use std::time::{Duration, Instant};

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
