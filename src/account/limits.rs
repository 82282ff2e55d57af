//! How much one account may take of the engine, so that no account takes what the others need (I4).
//!
//! A limit that an account does not set has the default of [`Config::account_limits`](crate::Config::account_limits),
//! and a limit that is set nowhere has the default documented at its field. The engine's own
//! [`Limits`](crate::Limits) stay in force for all accounts together.

use std::time::Duration;

use crate::clock::millis;
use crate::error::{Error, Result};
use crate::macros::setters;
use crate::subscription::RateLimit;

/// How much one account may take. Start from [`AccountLimits::default`], where nothing is set, and change fields.
///
/// "Half of the engine's" below means: of the bound in [`Limits`](crate::Limits), while there are several accounts.
/// The only account of an engine may use all of it.
///
/// ```
/// use std::time::Duration;
/// use wabahook::{Account, AccountLimits, Config};
/// let small = AccountLimits::default()
///     .subscriptions_max(Some(20))
///     .publish_rate(600, Duration::from_secs(60));
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
    /// an account whose receivers are all down leaves the others room.
    pub owed_events_max: Option<u64>,
    /// How many payload bytes these events may have together. Defaults to half of the engine's `outbox_bytes_max`.
    pub owed_bytes_max: Option<u64>,
    /// How many of its dead letters are kept, the newest. Defaults to half of the engine's `dead_letters_max`. Where
    /// all accounts together exceed that bound, the account with the most letters loses its oldest ones.
    pub dead_letters_max: Option<usize>,
    /// How many of its dedup keys are remembered, the newest. Defaults to 1,000,000, which is 1.6 events/s over the
    /// window of 7 days and takes about 50 MB.
    pub dedup_keys_max: Option<usize>,
    /// How many events it may publish in which span: that many at once, then evenly over the span. With Meta's
    /// callbacks at least 1,000, as many as one callback may have. Defaults to no limit, because the limits on owed
    /// events already bound what it costs the others.
    pub publish_rate: Option<RateLimit>,
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
    in_flight_max: Option<usize>,
    tests_per_minute: Option<u32>,
    notice_listeners_max: Option<usize>,
});

/// The longest span of a publish rate.
const SPAN_MAX: Duration = Duration::from_secs(24 * 3_600);

impl AccountLimits {
    /// Sets the field `publish_rate`: `events` in any `per`.
    #[must_use]
    pub fn publish_rate(mut self, events: u32, per: Duration) -> AccountLimits {
        self.publish_rate = Some(RateLimit { events, per });
        self
    }

    /// Refuses a limit with which the account could do nothing. `field` is what the caller calls these limits.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the limit.
    pub fn check(&self, field: &str) -> Result<()> {
        let at_least_one = [
            ("owed_events_max", self.owed_events_max),
            ("owed_bytes_max", self.owed_bytes_max),
            ("in_flight_max", self.in_flight_max.map(|most| most as u64)),
        ];
        for (name, given) in at_least_one {
            if given == Some(0) {
                return Err(Error::invalid(format!("{field}.{name}"), 0, "at least 1"));
            }
        }
        let Some(RateLimit { events, per }) = self.publish_rate else { return Ok(()) };
        if events == 0 {
            let name = format!("{field}.publish_rate.events");
            return Err(Error::invalid(name, events, "at least 1"));
        }
        if per < Duration::from_millis(1) || per > SPAN_MAX {
            let expected = format!("a number from 1 to {}", millis(SPAN_MAX));
            return Err(Error::invalid(
                format!("{field}.publish_rate.per_ms"),
                millis(per),
                expected,
            ));
        }
        Ok(())
    }

    /// These limits, and those of `defaults` where one is not set.
    pub(crate) fn or(&self, defaults: &AccountLimits) -> AccountLimits {
        AccountLimits {
            subscriptions_max: self.subscriptions_max.or(defaults.subscriptions_max),
            owed_events_max: self.owed_events_max.or(defaults.owed_events_max),
            owed_bytes_max: self.owed_bytes_max.or(defaults.owed_bytes_max),
            dead_letters_max: self.dead_letters_max.or(defaults.dead_letters_max),
            dedup_keys_max: self.dedup_keys_max.or(defaults.dedup_keys_max),
            publish_rate: self.publish_rate.or(defaults.publish_rate),
            in_flight_max: self.in_flight_max.or(defaults.in_flight_max),
            tests_per_minute: self.tests_per_minute.or(defaults.tests_per_minute),
            notice_listeners_max: self.notice_listeners_max.or(defaults.notice_listeners_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_with_which_nothing_works_are_refused_by_name() {
        let check = |limits: AccountLimits| {
            limits.check("limits.per_account").unwrap_err().field().map(str::to_owned)
        };
        let limits = AccountLimits::default;
        let found = [
            check(limits().owed_events_max(Some(0))),
            check(limits().owed_bytes_max(Some(0))),
            check(limits().in_flight_max(Some(0))),
            check(limits().publish_rate(0, Duration::from_secs(1))),
            check(limits().publish_rate(1, Duration::ZERO)),
            check(limits().publish_rate(1, SPAN_MAX * 2)),
        ];
        let named = ["owed_events_max", "owed_bytes_max", "in_flight_max"];
        let rates = ["publish_rate.events", "publish_rate.per_ms", "publish_rate.per_ms"];
        let expected =
            named.into_iter().chain(rates).map(|name| format!("limits.per_account.{name}"));
        assert_eq!(found.to_vec(), expected.map(Some).collect::<Vec<_>>());
        let none =
            limits().subscriptions_max(Some(0)).dead_letters_max(Some(0)).tests_per_minute(Some(0));
        assert!(none.check("").is_ok(), "an account may be denied these");
    }

    #[test]
    fn a_limit_that_is_not_set_has_the_default() {
        let own = AccountLimits::default().tests_per_minute(Some(3));
        let defaults = AccountLimits::default().tests_per_minute(Some(9)).in_flight_max(Some(7));
        assert_eq!(own.or(&defaults), own.clone().in_flight_max(Some(7)));
    }
}
