//! An embedded webhook engine for WhatsApp Business events: the public interface.
//!
//! The route of one event:
//!
//! ```text
//! host -> publish -> routing (which subscriptions) -> outbox (one group, one sync) -> receipt
//!                                                       | durable
//!    dispatch (which attempt next, pure)  <-------------+
//!         |
//!    delivery: request -> sign -> guard -> send -> reply
//!         |
//!    dispatch (what the reply means) -> settle | retry | dead letter -> outbox (next group)
//! ```
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![deny(clippy::cast_possible_truncation, unreachable_pub)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

// docs/architecture.md draws these modules, lowest first, and says where to start reading.
mod account;
mod attempt;
mod book;
pub mod clock;
mod config;
mod delivery;
mod dispatch;
mod engine;
mod error;
mod event;
#[cfg(feature = "postgres")]
mod fleet;
mod history;
pub mod inbound;
mod macros;
mod network;
mod notice;
mod outbox;
mod payload;
mod process;
mod profile;
mod receipt;
pub mod registration;
mod routing;
mod secret;
pub mod signature;
mod stats;
pub mod store;
mod subscription;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod text;
mod transport;

pub use account::{
    Account, AccountId, AccountInfo, AccountLimits, AccountState, Accounts, ApiKey,
    DEFAULT_ACCOUNT, KeyDigest, Waba, key_in_header,
};
pub use attempt::{DeadLetter, FailedAttempt, HISTORY_MAX, Outcome, Reason};
pub use config::{Config, Limits, OnDamage};
pub use delivery::Http;
pub use engine::{
    AccountChanges, ConditionReport, DeadLetterFilter, DeadLetterId, Delivery, DeliveryCursor,
    DeliveryFilter, DeliveryOutcome, DeliveryState, DeliveryTrace, Engine, EventCursor, EventQuery,
    EventTrace, MatchReport, Migration, Page, PurgeFilter, Purged, RecentAttempt, RecentOutcome,
    TestDelivery,
};
pub use error::{Error, Result};
pub use event::{
    Accepted, Catalogue, Event, EventId, EventType, HintReason, PublishError,
    RAW_CLOUD_API_WEBHOOK, StoredEvent, TypeHint, WabaNumber,
};
#[cfg(feature = "postgres")]
pub use fleet::{Fleet, FleetHost, FleetListener, FleetMembership, FleetOptions, ShardPlace};
pub use network::{Network, Roots};
pub use notice::{Notice, Notices};
pub use outbox::{AccountBounds, AccountUsage};
pub use profile::Profile;
pub use receipt::Receipt;
pub use secret::Secret;
#[cfg(feature = "metrics")]
pub use stats::metrics;
pub use stats::{Bound, CallbackRefusal, DurationHistogram, LaneStats, Stats, UnownedSource};
pub use store::Durability;
pub use subscription::{
    Authorization, BodyFormat, ClientCertificate, Condition, Filter, PayloadFormat, Precedence,
    RetiringSecret, Subscription, SubscriptionId, SubscriptionInfo, SubscriptionState, Target, Tls,
    UnreadablePayload,
};
pub use transport::{
    Answer, DeliveryControl, EXCERPT_BYTES_MAX, Failure, Reply, Request, Response, Shortage,
    Transport,
};

/// When a failed delivery is retried, in which order deliveries start, how fast, and when a failing endpoint is
/// left alone.
pub mod policy {
    pub use crate::subscription::{Accept, Breaker, Ordering, Policy, RateLimit, Retry, RetryOn};
}

/// Runs the examples of the documents as doc tests. Not built otherwise.
#[cfg(doctest)]
mod docs {
    #[doc = include_str!("../docs/architecture.md")]
    mod architecture {}
    #[doc = include_str!("../docs/benchmarks.md")]
    mod benchmarks {}
    #[doc = include_str!("../docs/commands.md")]
    mod commands {}
    #[doc = include_str!("../docs/conditions.md")]
    mod conditions {}
    #[doc = include_str!("../docs/decisions.md")]
    mod decisions {}
    #[doc = include_str!("../docs/durability.md")]
    mod durability {}
    #[doc = include_str!("../docs/embedding.md")]
    mod embedding {}
    #[doc = include_str!("../docs/events.md")]
    mod events {}
    #[doc = include_str!("../docs/gateways.md")]
    mod gateways {}
    #[doc = include_str!("../docs/host.md")]
    mod host {}
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
    #[doc = include_str!("../docs/testing.md")]
    mod testing {}
}
