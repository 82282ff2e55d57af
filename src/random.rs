//! Random bytes for secrets and identities, from the operating system's generator.
//!
//! What only has to be unpredictable in a test run, such as jitter, comes from
//! [`Clock`](crate::clock::Clock) instead, so that a run can be repeated.
#![allow(
    clippy::disallowed_methods,
    reason = "the only file that asks the system for random bytes"
)]

/// Fills `bytes` with random bytes that nobody can predict.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    getrandom::fill(bytes)
}
