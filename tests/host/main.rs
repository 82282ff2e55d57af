//! The reference host: the real program, real sockets on loopback, real kills.
mod account_isolation;
mod account_limits;
mod accounts;
mod admin_crashes;
mod audit;
#[path = "../support/authority.rs"]
mod authority;
mod browser;
mod client;
mod cloud_gateways;
mod configuration;
mod connection_limits;
mod console;
mod crashes;
mod dead_letters;
mod doubletick;
mod event_acceptance;
mod find;
mod gateway_bodies;
mod host_process;
mod host_tls;
mod hostile_clients;
mod lists;
mod matching;
mod meta_callbacks;
mod openapi;
mod packaging;
mod policies;
mod public_clients;
mod receiver;
mod restarts;
mod session;
mod shortages;
mod subscription_changes;
mod subscriptions;
mod thousands;
mod tls_trust;

use std::time::Duration;

/// After so long a test gives up; nothing waits for it to pass.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
