//! Decides what comes in from outside as events: a callback of Meta's Cloud API.
//!
//! Leaves to others: the HTTP route that received it, and publishing. Invariant: the functions here
//! are pure, and nothing they are given can make them panic.

pub mod cloud_api;
mod malformed;
mod raw;
mod update;
mod verification;
