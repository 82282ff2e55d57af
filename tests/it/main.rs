//! The library's integration tests in one binary. Each module is named for the promise it checks.
mod acceptance;
mod account_limits;
mod accounts;
mod architecture;
mod backup;
mod business_api;
mod conditions;
mod damage;
mod data_directory;
mod dead_letters;
mod deliveries;
mod device_faults;
mod device_stalls;
mod dialog360;
mod event_traces;
mod host_code;
mod in_flight_limit;
mod later_answers;
mod migration;
mod ordering;
mod ownership;
mod purge;
mod recent_attempts;
mod recovery;
mod request_bytes;
mod retention;
mod retries;
mod secret_rotation;
mod shortages;
mod shutdown;
mod subscription_states;
mod subscriptions;
#[path = "../support/mod.rs"]
mod support;
mod validation;

mod world;
