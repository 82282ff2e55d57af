//! How much one account may take of the engine, so that no account takes what the others need (I4).
//!
//! A limit that an account does not set has the default of [`Config::account_limits`](crate::Config::account_limits),
//! and a limit that is set nowhere has the default documented at its field. The engine's own
//! [`Limits`](crate::Limits) stay in force for all accounts together.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::setters::setters;
use crate::subscription::RateLimit;

/// How much one account may take. Start from [`AccountLimits::default`], where nothing is set, and change fields.
///
/// "Half of the engine's" below means: of the bound in [`Limits`](crate::Limits), while there are several accounts.
/// The only account of an engine may use all of it.
///
/// ```
/// use wabahook::{Account, AccountLimits, Config};
/// let small = AccountLimits::default().subscriptions_max(Some(20)).publish_rate(Some((600, 60_000)));
/// let config = Config::new("outbox")
///     .account_limits(AccountLimits::default().owed_events_max(Some(100_000)))
///     .account(Account::new("acme").limits(small))
///     .account(Account::new("beta"));
/// # let _ = config;
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountLimits {
    /// How many subscriptions it may have. Defaults to half of the engine's `subscriptions_max`.
    pub subscriptions_max: Option<usize>,
    /// How many events with an owed delivery it may have. Defaults to half of the engine's `outbox_events_max`, so that
    /// an account whose receivers are all down leaves the others room. `publish` then answers
    /// [`Error::LimitReached`].
    pub owed_events_max: Option<u64>,
    /// How many payload bytes these events may have together. Defaults to half of the engine's `outbox_bytes_max`.
    pub owed_bytes_max: Option<u64>,
    /// How many of its dead letters are kept, the newest. Defaults to half of the engine's `dead_letters_max`. Where
    /// all accounts together exceed that bound, the account with the most letters loses its oldest ones.
    pub dead_letters_max: Option<usize>,
    /// How many of its dedup keys are remembered, the newest. Defaults to 1,000,000, which is 1.6 events/s over the
    /// window of 7 days and takes about 50 MB.
    pub dedup_keys_max: Option<usize>,
    /// How many events it may publish, and in how many milliseconds: that many at once, then evenly. Defaults to
    /// no limit, because the limits on owed events already bound what it costs the others.
    pub publish_rate: Option<(u32, u64)>,
    /// How many of its attempts may be in flight. Defaults to half of the engine's `in_flight_max`, so that receivers
    /// that hang do not hold every connection.
    pub in_flight_max: Option<usize>,
    /// How many test deliveries it may send a minute. Defaults to 60: a person clicks less often, and a loop could
    /// use the host to send requests to others.
    pub tests_per_minute: Option<u32>,
    /// How many requests may listen to its notices at the same time. Defaults to 16: a few consoles and a monitor.
    pub notice_listeners_max: Option<usize>,
}

setters!(AccountLimits {
    subscriptions_max: Option<usize>,
    owed_events_max: Option<u64>,
    owed_bytes_max: Option<u64>,
    dead_letters_max: Option<usize>,
    dedup_keys_max: Option<usize>,
    publish_rate: Option<(u32, u64)>,
    in_flight_max: Option<usize>,
    tests_per_minute: Option<u32>,
    notice_listeners_max: Option<usize>,
});
