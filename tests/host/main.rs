//! The reference host as its users meet it: the real program, real sockets on loopback, real kills.
//! Each module is named for what it promises.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../wire/authority.rs"]
mod authority;
mod browser;
mod client;
mod cloud_gateways;
mod configuration;
mod console;
mod crashes;
mod described;
mod doubletick;
mod letters;
mod publishing;
mod receiver;
mod registering;
mod revising;
mod served;
mod session;
mod terms;
mod trust;
mod verified_by_meta;

use std::time::Duration;

/// After so long a test gives up; nothing waits for it to pass.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
