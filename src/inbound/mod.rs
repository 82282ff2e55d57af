//! Turns callbacks of Meta's Cloud API into events. Reading and verifying them are pure functions that never
//! panic, whatever they are given; the host's HTTP server receives the requests.

pub mod cloud_api;
mod contacts;
mod frame;
mod identity;
mod malformed;
mod ownership;
mod publish;
mod reader;
mod split;
#[cfg(test)]
mod tests;
mod update;
mod update_type;
mod verification;
