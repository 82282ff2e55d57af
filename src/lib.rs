//! An embedded webhook engine for WhatsApp Business events.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod account;
mod attempt;
pub mod clock;
mod config;
mod delivery;
mod dispatch;
mod engine;
mod error;
mod event;
pub mod inbound;
mod notice;
mod outbox;
mod receipt;
mod routing;
pub mod signature;
mod stats;
pub mod store;
mod subscription;

pub use account::{Account, Accounts, DEFAULT_ACCOUNT};
pub use attempt::{Failure, Outcome, Reason, Reply};
pub use config::{Config, Limits, Network};
pub use delivery::{Request, Transport};
pub use engine::Engine;
pub use error::{Error, Result};
pub use event::{
    Accepted, Catalogue, Event, EventId, EventType, RAW_CLOUD_API_WEBHOOK, WabaNumber,
};
pub use notice::{Notice, Notices};
pub use receipt::Receipt;
pub use stats::{LaneStats, Stats};
pub use subscription::{
    Accept, Filter, Policy, Profile, Registered, Retry, Secret, State, Subscription,
    SubscriptionId, Target,
};
