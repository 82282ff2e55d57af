//! Decides the terms of a subscription: when to try again, for how long, in which order, and what is
//! success.
//!
//! Leaves to others: applying them (`dispatch::backoff`, `dispatch::outcome`). Invariant: a policy
//! that [`Policy::check`] admits always ends, by attempts or by age.

use serde::{Deserialize, Serialize};

use super::SubscriptionId;
use crate::error::{Error, Result};

/// When to try again, for how long, and what counts as success.
///
/// ```
/// use wabahook::{Accept, Policy, Retry, Subscription};
/// let mut terms = Policy::default();
/// terms.retry = Retry::List { delays_ms: vec![10_000, 60_000, 600_000] };
/// terms.attempts_max = Some(5);
/// terms.accept = Accept::Only200;
/// let crm = Subscription::to("https://crm.example/hook")?.policy(terms);
/// # let _ = crm;
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The waits between attempts. Defaults to [`Retry::default`].
    pub retry: Retry,
    /// How many attempts at most. Defaults to no limit of its own, because age bounds them.
    pub attempts_max: Option<u32>,
    /// How long after its first attempt a delivery is given up, in milliseconds, at most 30 days.
    /// Defaults to 24 hours, because a day outlasts a night's outage and no more.
    pub age_max_ms: u64,
    /// How long one attempt may take, from looking up the name to the end of the answer, in
    /// milliseconds, 1 to 300,000. Defaults to 15,000, the lower end of what Standard Webhooks
    /// recommends.
    pub timeout_ms: u64,
    /// Whether an attempt that timed out is tried again. Defaults to true, because nothing is known
    /// of what the receiver did.
    pub retry_on_timeout: bool,
    /// Which answers are success. Defaults to any 2xx.
    pub accept: Accept,
    /// Which failures are tried again. Defaults to those that time may mend.
    pub retried: Retried,
    /// In which order deliveries start. Defaults to none, because order makes one failing delivery
    /// hold up others.
    pub ordering: Ordering,
    /// How many attempts may start in any span of time. Defaults to no limit.
    pub rate_limit: Option<RateLimit>,
    /// Another subscription of the same account, whose delivery of the same event must have
    /// succeeded first. That one may not wait for a third. Defaults to none.
    pub after: Option<SubscriptionId>,
    /// When an endpoint that fails is left alone for a while.
    pub breaker: Breaker,
    /// After how long of nothing but failure the subscription is disabled, in milliseconds, at most
    /// 30 days. Defaults to 5 days: longer than a long weekend. `None` never disables.
    pub disable_after_ms: Option<u64>,
    /// With so many deliveries in retry, none is tried for the first time, 1 to 1,000,000. Defaults
    /// to 1,000, because each takes about 200 bytes of memory, and one that was never tried a few
    /// bits.
    pub retrying_max: u32,
    /// Whether the receiver's response header `webhook-delivery` is honoured. Defaults to true.
    pub obeys_receiver: bool,
}

/// Which failures are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Retried {
    /// Those that time may mend: 408, 425, 429, 5xx, timeouts and connections that fail.
    #[default]
    Passing,
    /// Everything that is not success, 410 included.
    All,
}

/// In which order the deliveries of a subscription start.
///
/// ```
/// use wabahook::{Ordering, Subscription};
/// let crm = Subscription::to("https://crm.example/hook")?.ordering(Ordering::PerKey);
/// # let _ = crm;
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Ordering {
    /// In none: a delivery that fails holds up no other.
    #[default]
    None,
    /// Deliveries of one key one after the other, in the order published; those without a key in
    /// none.
    PerKey,
    /// All deliveries one after the other, in the order published.
    Strict,
}

/// At most `events` attempts start in any span of `per_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Attempts, 1 to 10,000: the start of each is remembered for the span.
    pub events: u32,
    /// The span, in milliseconds, 1 to 86,400,000.
    pub per_ms: u64,
}

/// When an endpoint that fails is left alone, and for how long.
///
/// ```
/// use wabahook::{Breaker, Policy};
/// let mut terms = Policy::default();
/// terms.breaker = Breaker { failures: Some(3), ..Breaker::default() };
/// terms.breaker.max_ms = 60_000; // asked once a minute at least
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// After how many failures in a row, 1 to 1,000; `None` for never. Defaults to 10: an endpoint
    /// that fails a third of its attempts by chance meets that once in 60,000.
    pub failures: Option<u32>,
    /// How long it is left alone at first, in milliseconds. The wait doubles with each probe that
    /// fails. Defaults to 1 s, because a restart is the most common outage.
    pub initial_ms: u64,
    /// How long it is left alone at most, in milliseconds, at most 1 day. Defaults to 5 minutes: the
    /// time after which an endpoint that came back is found.
    pub max_ms: u64,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker { failures: Some(10), initial_ms: 1_000, max_ms: 300_000 }
    }
}

/// Which answers count as success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Accept {
    /// Any status from 200 to 299.
    #[default]
    Any2xx,
    /// Status 200 and no other.
    Only200,
}

/// The waits between attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Retry {
    /// Doubles from `initial_ms` up to `max_ms`, each wait moved at random by up to
    /// `jitter_permille` thousandths either way, so that many deliveries do not come back at once.
    Exponential {
        /// The first wait, in milliseconds.
        initial_ms: u64,
        /// The longest wait, in milliseconds.
        max_ms: u64,
        /// The greatest random share of a wait, in thousandths.
        jitter_permille: u16,
    },
    /// Grows by `step_ms` with each failure up to `max_ms`: the on-premises rule.
    Linear {
        /// The first wait and each one's increase, in milliseconds.
        step_ms: u64,
        /// The longest wait, in milliseconds.
        max_ms: u64,
    },
    /// These waits, in milliseconds, the last one repeated.
    List {
        /// The wait after the first failure, after the second, and so on.
        delays_ms: Vec<u64>,
    },
}

impl Default for Retry {
    /// Exponential from 1 s to 1 h with 20 % jitter: soon enough for a restart of the receiver, and
    /// two dozen attempts in a day.
    fn default() -> Retry {
        Retry::Exponential { initial_ms: 1_000, max_ms: 3_600_000, jitter_permille: 200 }
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            retry: Retry::default(),
            attempts_max: None,
            age_max_ms: 24 * 3_600_000,
            timeout_ms: 15_000,
            retry_on_timeout: true,
            accept: Accept::default(),
            retried: Retried::default(),
            ordering: Ordering::default(),
            rate_limit: None,
            after: None,
            breaker: Breaker::default(),
            disable_after_ms: Some(5 * DAY_MS),
            retrying_max: 1_000,
            obeys_receiver: true,
        }
    }
}

const DAY_MS: u64 = 24 * 3_600_000;

/// No wait and no age is longer than this: 30 days.
pub(crate) const LONGEST_MS: u64 = 30 * DAY_MS;

impl Policy {
    /// Checks every bound; what it admits always ends.
    pub(crate) fn check(&self) -> Result<()> {
        within("timeout_ms", self.timeout_ms, 1, 300_000)?;
        within("retry.max_age_ms", self.age_max_ms, 1, LONGEST_MS)?;
        if let Some(attempts_max) = self.attempts_max {
            within("retry.attempts", attempts_max.into(), 1, 10_000)?;
        }
        if let Some(RateLimit { events, per_ms }) = self.rate_limit {
            within("rate_limit.events", events.into(), 1, 10_000)?;
            within("rate_limit.per_ms", per_ms, 1, DAY_MS)?;
        }
        if let Some(failures) = self.breaker.failures {
            within("breaker.failures", failures.into(), 1, 1_000)?;
        }
        within("breaker.initial_ms", self.breaker.initial_ms, 1, DAY_MS)?;
        within("breaker.max_ms", self.breaker.max_ms, self.breaker.initial_ms, DAY_MS)?;
        if let Some(disable_after_ms) = self.disable_after_ms {
            within("disable_after_ms", disable_after_ms, 1, LONGEST_MS)?;
        }
        within("retrying_max", self.retrying_max.into(), 1, 1_000_000)?;
        self.retry.check()
    }
}

impl Retry {
    fn check(&self) -> Result<()> {
        match self {
            Retry::Exponential { initial_ms, max_ms, jitter_permille } => {
                within("retry.initial_ms", *initial_ms, 1, LONGEST_MS)?;
                within("retry.max_ms", *max_ms, *initial_ms, LONGEST_MS)?;
                within("retry.jitter", (*jitter_permille).into(), 0, 1_000)
            }
            Retry::Linear { step_ms, max_ms } => {
                within("retry.step_ms", *step_ms, 1, LONGEST_MS)?;
                within("retry.max_ms", *max_ms, *step_ms, LONGEST_MS)
            }
            Retry::List { delays_ms } => {
                within("retry.delays_ms", delays_ms.len() as u64, 1, 1_000).map_err(|_| {
                    let given = format!("{} delays", delays_ms.len());
                    Error::invalid("retry.delays_ms", given, "1 to 1000 delays")
                })?;
                delays_ms.iter().try_for_each(|d| within("retry.delays_ms", *d, 0, LONGEST_MS))
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
    fn bounds_that_would_never_end_or_never_wait_are_refused() {
        check_refused(|p| p.timeout_ms = 0, "timeout_ms");
        check_refused(|p| p.timeout_ms = 300_001, "timeout_ms");
        check_refused(|p| p.age_max_ms = u64::MAX, "retry.max_age_ms");
        check_refused(|p| p.attempts_max = Some(0), "retry.attempts");
        check_refused(|p| p.retry = Retry::List { delays_ms: vec![] }, "retry.delays_ms");
        check_refused(|p| p.retry = Retry::Linear { step_ms: 0, max_ms: 1 }, "retry.step_ms");
        check_refused(
            |p| {
                p.retry = Retry::Exponential { initial_ms: 5, max_ms: 4, jitter_permille: 0 };
            },
            "retry.max_ms",
        );
    }
}
