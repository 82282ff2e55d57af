//! The delivery policy of a subscription: retries, age, order, rate and what counts as success. `dispatch`
//! applies it. Under a policy that [`Policy::check`] admits every delivery ends, by attempts or by age.

use std::time::Duration;

use super::SubscriptionId;
use crate::clock::millis;
use crate::error::{Error, Result};
use crate::macros::setters;

/// How deliveries are retried, ordered and limited, and what counts as success.
///
/// ```
/// use std::time::Duration;
/// use wabahook::policy::{Accept, Policy, Retry};
/// use wabahook::Subscription;
/// let policy = Policy::default()
///     .retry(Retry::List { delays: [10, 60, 600].map(Duration::from_secs).to_vec() })
///     .attempts_max(Some(5))
///     .accept(Accept::Only200);
/// let crm = Subscription::to("https://crm.example/hook")?.policy(policy);
/// # let _ = crm;
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// The waits between attempts. Defaults to [`Retry::default`].
    pub retry: Retry,
    /// The most attempts. Defaults to no limit, because the age bounds them.
    pub attempts_max: Option<u32>,
    /// How long after acceptance a delivery is given up, whether or not it was ever tried, at most 30 days. Defaults
    /// to 24 hours, which outlasts an outage of one night.
    pub age_max: Duration,
    /// How long one attempt may take, from its first packet to the head of the response, 1 ms to 5
    /// minutes. Defaults to 15 s, the lower end of what Standard Webhooks recommends.
    pub timeout: Duration,
    /// Whether an attempt that timed out is retried. Defaults to true, because it is unknown what the
    /// receiver did.
    pub retry_on_timeout: bool,
    /// Which responses are success. Defaults to any 2xx.
    pub accept: Accept,
    /// Which failures are retried. Defaults to transient ones.
    pub retry_on: RetryOn,
    /// In which order deliveries start. Defaults to none, because in an order one failing delivery
    /// delays others.
    pub ordering: Ordering,
    /// How many attempts may start in any span of time. Defaults to no limit.
    pub rate_limit: Option<RateLimit>,
    /// Another subscription of the same account, whose delivery of the same event must succeed first.
    /// That one may not wait for a third. Defaults to none.
    pub after: Option<SubscriptionId>,
    /// When a failing endpoint gets a pause.
    pub breaker: Breaker,
    /// After how long without a success the subscription is disabled, at most 30 days. Defaults to 5
    /// days, longer than a long weekend. `None` never disables.
    pub disable_after: Option<Duration>,
    /// The most deliveries in retry, 1 to 1,000,000; above it no further delivery is tried for the
    /// first time. Defaults to 1,000, because each takes about 200 bytes of memory, and an untried one
    /// a few bits.
    pub retrying_max: u32,
    /// Whether the response header `webhook-delivery` controls the subscription. Defaults to true.
    pub honor_delivery_control: bool,
}

/// Which failures are retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RetryOn {
    /// Timeouts, connection errors, and the statuses 408, 425, 429 and 5xx.
    #[default]
    Transient,
    /// Everything that is not success, 410 included.
    All,
}

/// In which order the deliveries of a subscription start.
///
/// ```
/// use wabahook::policy::Ordering;
/// use wabahook::Subscription;
/// let crm = Subscription::to("https://crm.example/hook")?.ordering(Ordering::PerKey);
/// # let _ = crm;
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Ordering {
    /// No order: a failing delivery delays no other.
    #[default]
    None,
    /// Deliveries of one key one after the other, in the order published; those without a key in no
    /// order.
    PerKey,
    /// All deliveries one after the other, in the order published.
    Strict,
}

/// At most `events` attempts start in any span of `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimit {
    /// The attempts, 1 to 10,000. The start of each is remembered for the span.
    pub events: u32,
    /// The span, 1 ms to 1 day.
    pub per: Duration,
}

/// The circuit breaker: when a failing endpoint gets a pause, and for how long.
///
/// ```
/// use std::time::Duration;
/// use wabahook::policy::{Breaker, Policy};
/// // After three failures in a row, probed at least once a minute.
/// let breaker = Breaker::default().failures(Some(3)).max(Duration::from_secs(60));
/// let policy = Policy::default().breaker(breaker);
/// # let _ = policy;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Breaker {
    /// After how many consecutive failures it opens, 1 to 1,000; `None` for never. Defaults to 10: an
    /// endpoint that fails a third of its attempts at random reaches that once in 60,000.
    pub failures: Option<u32>,
    /// The first pause, which doubles with each failed probe. Defaults to 1 s, because a restart is the
    /// most common outage.
    pub initial: Duration,
    /// The longest pause, at most 1 day. Defaults to 5 minutes, within which a recovered endpoint is
    /// noticed.
    pub max: Duration,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker {
            failures: Some(10),
            initial: Duration::from_secs(1),
            max: Duration::from_secs(300),
        }
    }
}

/// Which responses count as success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Accept {
    /// Any status from 200 to 299.
    #[default]
    Any2xx,
    /// Status 200 and no other.
    Only200,
}

/// The waits between attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// Doubles from `initial` up to `max`. Each wait varies at random by up to `jitter_permille`
    /// thousandths either way, so that many deliveries do not return at once.
    Exponential {
        /// The first wait.
        initial: Duration,
        /// The longest wait.
        max: Duration,
        /// The largest random change of a wait, in thousandths.
        jitter_permille: u16,
    },
    /// Grows by `step` with each failure up to `max`, as the on-premises API does.
    Linear {
        /// The first wait, and the increase of each further one.
        step: Duration,
        /// The longest wait.
        max: Duration,
    },
    /// These waits; the last one repeats.
    List {
        /// The wait after the first failure, after the second, and so on.
        delays: Vec<Duration>,
    },
}

impl Default for Retry {
    /// Exponential from 1 s to 1 h with 20 % jitter: quick after a restart of the receiver, and two
    /// dozen attempts per day.
    fn default() -> Retry {
        Retry::Exponential {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(3_600),
            jitter_permille: 200,
        }
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            retry: Retry::default(),
            attempts_max: None,
            age_max: DAY,
            timeout: Duration::from_secs(15),
            retry_on_timeout: true,
            accept: Accept::default(),
            retry_on: RetryOn::default(),
            ordering: Ordering::default(),
            rate_limit: None,
            after: None,
            breaker: Breaker::default(),
            disable_after: Some(5 * DAY),
            retrying_max: 1_000,
            honor_delivery_control: true,
        }
    }
}

setters!(Policy {
    retry: Retry,
    attempts_max: Option<u32>,
    age_max: Duration,
    timeout: Duration,
    retry_on_timeout: bool,
    accept: Accept,
    retry_on: RetryOn,
    ordering: Ordering,
    rate_limit: Option<RateLimit>,
    after: Option<SubscriptionId>,
    breaker: Breaker,
    disable_after: Option<Duration>,
    retrying_max: u32,
    honor_delivery_control: bool,
});

setters!(Breaker { failures: Option<u32>, initial: Duration, max: Duration });

impl RateLimit {
    /// At most `events` attempts in any span of `per`.
    pub fn new(events: u32, per: Duration) -> RateLimit {
        RateLimit { events, per }
    }
}

const DAY: Duration = Duration::from_secs(24 * 3_600);
const DAY_MS: u64 = 24 * 3_600_000;

/// No wait and no age is longer than this: 30 days.
pub(crate) const LONGEST_MS: u64 = 30 * DAY_MS;

impl Policy {
    /// Checks every bound.
    pub(crate) fn check(&self) -> Result<()> {
        within("timeout_ms", millis(self.timeout), 1, 300_000)?;
        within("retry.max_age_ms", millis(self.age_max), 1, LONGEST_MS)?;
        if let Some(attempts_max) = self.attempts_max {
            within("retry.attempts", attempts_max.into(), 1, 10_000)?;
        }
        if let Some(RateLimit { events, per }) = self.rate_limit {
            within("rate_limit.events", events.into(), 1, 10_000)?;
            within("rate_limit.per_ms", millis(per), 1, DAY_MS)?;
        }
        if let Some(failures) = self.breaker.failures {
            within("breaker.failures", failures.into(), 1, 1_000)?;
        }
        let initial_ms = millis(self.breaker.initial);
        within("breaker.initial_ms", initial_ms, 1, DAY_MS)?;
        within("breaker.max_ms", millis(self.breaker.max), initial_ms, DAY_MS)?;
        if let Some(disable_after) = self.disable_after {
            within("disable_after_ms", millis(disable_after), 1, LONGEST_MS)?;
        }
        within("retrying_max", self.retrying_max.into(), 1, 1_000_000)?;
        self.retry.check()
    }
}

impl Retry {
    fn check(&self) -> Result<()> {
        match self {
            Retry::Exponential { initial, max, jitter_permille } => {
                within("retry.initial_ms", millis(*initial), 1, LONGEST_MS)?;
                within("retry.max_ms", millis(*max), millis(*initial), LONGEST_MS)?;
                within("retry.jitter", (*jitter_permille).into(), 0, 1_000)
            }
            Retry::Linear { step, max } => {
                within("retry.step_ms", millis(*step), 1, LONGEST_MS)?;
                within("retry.max_ms", millis(*max), millis(*step), LONGEST_MS)
            }
            Retry::List { delays } => {
                within("retry.delays_ms", delays.len() as u64, 1, 1_000).map_err(|_| {
                    let given = format!("{} delays", delays.len());
                    Error::invalid("retry.delays_ms", given, "1 to 1000 delays")
                })?;
                delays
                    .iter()
                    .try_for_each(|delay| within("retry.delays_ms", millis(*delay), 0, LONGEST_MS))
            }
        }
    }
}

fn within(field: &str, given: u64, least: u64, most: u64) -> Result<()> {
    if (least..=most).contains(&given) {
        return Ok(());
    }
    Err(Error::invalid(field, given, format!("a number from {least} to {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(change: impl Fn(&mut Policy), field: &str) {
        let mut policy = Policy::default();
        assert!(policy.check().is_ok());
        change(&mut policy);
        assert_eq!(policy.check().unwrap_err().field(), Some(field));
    }

    #[test]
    fn policies_that_never_end_or_never_wait_are_refused() {
        check_refused(|p| p.timeout = Duration::ZERO, "timeout_ms");
        check_refused(|p| p.timeout = Duration::from_millis(300_001), "timeout_ms");
        check_refused(|p| p.age_max = Duration::MAX, "retry.max_age_ms");
        check_refused(|p| p.attempts_max = Some(0), "retry.attempts");
        check_refused(|p| p.retry = Retry::List { delays: vec![] }, "retry.delays_ms");
        check_refused(
            |p| p.retry = Retry::Linear { step: Duration::ZERO, max: Duration::from_millis(1) },
            "retry.step_ms",
        );
        check_refused(
            |p| {
                let (initial, max) = (Duration::from_millis(5), Duration::from_millis(4));
                p.retry = Retry::Exponential { initial, max, jitter_permille: 0 };
            },
            "retry.max_ms",
        );
    }
}
