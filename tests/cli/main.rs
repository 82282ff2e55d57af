//! The command line: the real program against a real host.
mod accounts;
#[allow(dead_code, reason = "the host's tests use more of it")]
#[path = "../host/client.rs"]
mod client;
mod dead_letters;
mod errors;
mod find;
#[allow(dead_code, reason = "the host's tests use more of it")]
#[path = "../host/host_process.rs"]
mod host_process;
mod inspection;
mod logging;
mod metrics;
mod operating;
mod program;
mod publish;
#[allow(dead_code, reason = "the host's tests use more of it")]
#[path = "../host/receiver.rs"]
mod receiver;
#[path = "../support/mod.rs"]
mod support;
mod tail;
mod unowned;
mod verification;
mod webhooks;

pub(crate) use support::DEADLINE;
