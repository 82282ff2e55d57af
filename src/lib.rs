//! An embedded webhook engine for WhatsApp Business events: the front door.
//!
//! It decides what a host can name; every decision about events lies in the rooms below. Invariant:
//! what is not named here is not public.
//!
//! The route of one event, in one direction:
//!
//! ```text
//! host -> publish -> routing (who asked for it) -> outbox (one group, one sync) -> receipt
//!                                                    | accepted
//!    dispatch (which attempt next, pure)  <----------+
//!         |
//!    delivery: request -> sign -> guard -> send -> reply
//!         |
//!    dispatch (what it means) -> settle | retry | dead | gone -> outbox (next group)
//! ```
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

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
#[cfg(feature = "metrics")]
pub mod metrics;
mod notice;
mod outbox;
mod receipt;
pub mod registration;
mod routing;
pub mod signature;
mod stats;
pub mod store;
mod subscription;
mod threads;

pub use account::{Account, Accounts, DEFAULT_ACCOUNT};
pub use attempt::{
    Answered, Control, DeadLetter, EXCERPT_BYTES_MAX, Failure, HISTORY_MAX, Outcome, Reason, Reply,
    Tried,
};
pub use config::{Config, Limits, Network, OnDamage, Roots};
pub use delivery::{Http, Request, Transport};
#[doc(hidden)]
pub use engine::stepping;
pub use engine::{
    DeadLetterFilter, DeadLetterId, Delivery, DeliveryFilter, DeliveryPage, DeliveryPlace,
    DeliveryState, Engine, RecentAttempt, RecentOutcome, Tested,
};
pub use error::{Error, Result};
pub use event::{
    Accepted, Catalogue, Event, EventId, EventType, Published, RAW_CLOUD_API_WEBHOOK, WabaNumber,
};
pub use notice::{Notice, Notices};
pub use receipt::Receipt;
#[doc(hidden)]
pub use routing::Matching;
pub use stats::{Durations, LaneStats, Stats};
pub use store::Durability;
pub use subscription::{
    Accept, Authorization, BodyFormat, Breaker, ClientPair, Filter, Level, Ordering, Policy,
    Profile, RateLimit, Registered, Retiring, Retried, Retry, Secret, State, Subscription,
    SubscriptionId, Target, Tls,
};

/// The examples of the documents are run like those of the code. Nothing of this is built otherwise.
#[cfg(doctest)]
mod docs {
    #[doc = include_str!("../docs/architecture.md")]
    mod architecture {}
    #[doc = include_str!("../docs/benchmarks.md")]
    mod benchmarks {}
    #[doc = include_str!("../docs/commands.md")]
    mod commands {}
    #[doc = include_str!("../docs/decisions.md")]
    mod decisions {}
    #[doc = include_str!("../docs/durability.md")]
    mod durability {}
    #[doc = include_str!("../docs/embedding.md")]
    mod embedding {}
    #[doc = include_str!("../docs/fuzzing.md")]
    mod fuzzing {}
    #[doc = include_str!("../docs/gateways.md")]
    mod gateways {}
    #[doc = include_str!("../docs/lifecycle.md")]
    mod lifecycle {}
    #[doc = include_str!("../docs/migrating.md")]
    mod migrating {}
    #[doc = include_str!("../docs/operating.md")]
    mod operating {}
    #[doc = include_str!("../docs/receiving.md")]
    mod receiving {}
    #[doc = include_str!("../docs/requests.md")]
    mod requests {}
    #[doc = include_str!("../docs/simulation.md")]
    mod simulation {}
}
