//! The port: everything that happens before a request is trusted. Strangers can reach it, so each file here keeps
//! one bound on what they cost: connections, the time of a head and of a body, the memory of bodies, and the rate
//! of wrong keys. A bound that is reached costs the sender that caused it, and never one with a valid key.

pub(crate) mod accept;
pub(crate) mod bodies;
pub(crate) mod body_room;
pub(crate) mod connections;
pub(crate) mod files;
pub(crate) mod key_attempts;
pub(crate) mod listener;
pub(crate) mod responses;
pub(crate) mod shortages;
mod stream;
pub(crate) mod tls;
