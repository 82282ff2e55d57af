//! The command line as its users meet it: the real program against a real host. Each module is named
//! for what it promises.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[allow(dead_code, reason = "the host's tests use more of it")]
#[path = "../host/client.rs"]
mod client;
mod following;
mod inspecting;
mod letters;
mod measuring;
mod program;
mod publishing;
#[allow(dead_code, reason = "the host's tests use more of it")]
#[path = "../host/receiver.rs"]
mod receiver;
mod refusing;
#[allow(dead_code, reason = "the host's tests use more of it")]
#[path = "../host/served.rs"]
mod served;
mod telling;
mod verifying;
mod webhooks;

use std::time::Duration;

/// After so long a test gives up; nothing waits for it to pass.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
