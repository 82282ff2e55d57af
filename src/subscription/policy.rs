//! Decides the terms of a subscription: when to try again, for how long, and what is success.
//!
//! Leaves to others: applying them (`dispatch::backoff`, `dispatch::outcome`). Invariant: a policy
//! that [`Policy::check`] admits always ends, by attempts or by age.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// When to try again, for how long, and what counts as success.
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
        }
    }
}

/// No wait and no age is longer than this: 30 days.
pub(crate) const LONGEST_MS: u64 = 30 * 24 * 3_600_000;

impl Policy {
    /// Checks every bound; what it admits always ends.
    pub(crate) fn check(&self) -> Result<()> {
        within("timeout_ms", self.timeout_ms, 1, 300_000)?;
        within("retry.max_age_ms", self.age_max_ms, 1, LONGEST_MS)?;
        if let Some(attempts_max) = self.attempts_max {
            within("retry.attempts", attempts_max.into(), 1, 10_000)?;
        }
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
