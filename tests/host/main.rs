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
#[path = "../support/mod.rs"]
mod support;
mod thousands;
#[path = "../support/tls_receiver.rs"]
mod tls_receiver;
mod tls_trust;

pub(crate) use support::DEADLINE;
