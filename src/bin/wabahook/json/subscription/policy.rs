//! The policy of a subscription: when a failed delivery is retried, in which order deliveries start, how
//! fast, and the circuit breaker. `Engine::register` checks the bounds of the values.

use serde::{Deserialize, Serialize};
use wabahook::policy::{Accept, Breaker, Ordering, Policy, RateLimit, Retry, RetryOn};

use crate::json::problem::JsonProblem;
use crate::json::values::{Millis, OrNever, Whole, Word, Words};

/// When a failed delivery is retried. Which members there are depends on the kind.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryJson {
    kind: Word<RetryKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    initial_ms: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step_ms: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_ms: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delays_ms: Option<Vec<Millis>>,
    /// The random share of a wait, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Whole<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age_ms: Option<Millis>,
}

#[derive(Clone, Copy, PartialEq)]
enum RetryKind {
    Exponential,
    Linear,
    List,
}

/// At most so many attempts in a span.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateLimitJson {
    events: Whole<u32>,
    per_ms: Millis,
}

/// The circuit breaker: when deliveries to a failing endpoint pause, and for how long.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BreakerJson {
    failures: Option<Whole<u32>>,
    initial_ms: Option<Millis>,
    max_ms: Option<Millis>,
}

impl Words for RetryKind {
    const WORDS: &'static [(&'static str, RetryKind)] = &[
        ("exponential", RetryKind::Exponential),
        ("linear", RetryKind::Linear),
        ("list", RetryKind::List),
    ];
}

impl Words for Accept {
    const WORDS: &'static [(&'static str, Accept)] =
        &[("2xx", Accept::Any2xx), ("200", Accept::Only200)];
}

impl Words for RetryOn {
    const WORDS: &'static [(&'static str, RetryOn)] =
        &[("transient", RetryOn::Transient), ("all", RetryOn::All)];
}

impl Words for Ordering {
    const WORDS: &'static [(&'static str, Ordering)] =
        &[("none", Ordering::None), ("per_key", Ordering::PerKey), ("strict", Ordering::Strict)];
}

impl RateLimitJson {
    pub(in crate::json) fn of(limit: RateLimit) -> RateLimitJson {
        RateLimitJson { events: Whole(limit.events), per_ms: Millis(limit.per) }
    }

    pub(in crate::json) fn limit(&self) -> RateLimit {
        RateLimit::new(self.events.0, self.per_ms.0)
    }
}

impl RetryJson {
    /// Changes the retries of a policy. What is left out inside of `retry` is at its default.
    pub(in crate::json) fn apply(&self, to: &mut Policy) -> Result<(), JsonProblem> {
        RetryJson::reset(to);
        to.retry = self.retry()?;
        to.attempts_max = self.attempts.map(|count| count.0);
        to.age_max = self.max_age_ms.map_or(to.age_max, |span| span.0);
        Ok(())
    }

    /// Puts the retries of a policy back to the default.
    pub(in crate::json) fn reset(to: &mut Policy) {
        let default = Policy::default();
        (to.retry, to.attempts_max, to.age_max) =
            (default.retry, default.attempts_max, default.age_max);
    }

    pub(in crate::json) fn of(policy: &Policy) -> RetryJson {
        let mut shown = RetryJson {
            kind: Word(RetryKind::Exponential),
            initial_ms: None,
            step_ms: None,
            max_ms: None,
            delays_ms: None,
            jitter: None,
            attempts: policy.attempts_max.map(Whole),
            max_age_ms: Some(Millis(policy.age_max)),
        };
        match &policy.retry {
            Retry::Linear { step, max } => {
                shown.kind = Word(RetryKind::Linear);
                shown.step_ms = Some(Millis(*step));
                shown.max_ms = Some(Millis(*max));
            }
            Retry::List { delays } => {
                shown.kind = Word(RetryKind::List);
                shown.delays_ms = Some(delays.iter().copied().map(Millis).collect());
            }
            Retry::Exponential { initial, max, jitter_permille } => {
                shown.initial_ms = Some(Millis(*initial));
                shown.max_ms = Some(Millis(*max));
                shown.jitter = Some(f64::from(*jitter_permille) / 1000.0);
            }
            _ => {}
        }
        shown
    }

    fn retry(&self) -> Result<Retry, JsonProblem> {
        let needed = |name: &str, given: Option<Millis>| {
            given.map(|span| span.0).ok_or_else(|| JsonProblem::missing(&format!("retry.{name}")))
        };
        self.check_members()?;
        Ok(match self.kind.0 {
            RetryKind::Exponential => Retry::Exponential {
                initial: needed("initial_ms", self.initial_ms)?,
                max: needed("max_ms", self.max_ms)?,
                jitter_permille: self.jitter_permille()?,
            },
            RetryKind::Linear => Retry::Linear {
                step: needed("step_ms", self.step_ms)?,
                max: needed("max_ms", self.max_ms)?,
            },
            RetryKind::List => {
                let delays = self.delays_ms.as_ref();
                let delays = delays.ok_or_else(|| JsonProblem::missing("retry.delays_ms"))?;
                Retry::List { delays: delays.iter().map(|ms| ms.0).collect() }
            }
        })
    }

    /// Refuses a member that another kind has.
    fn check_members(&self) -> Result<(), JsonProblem> {
        let kind = self.kind.0;
        let (exponential, list) = (kind == RetryKind::Exponential, kind == RetryKind::List);
        let foreign = [
            ("initial_ms", self.initial_ms.is_some() && !exponential),
            ("step_ms", self.step_ms.is_some() && kind != RetryKind::Linear),
            ("max_ms", self.max_ms.is_some() && list),
            ("delays_ms", self.delays_ms.is_some() && !list),
            ("jitter", self.jitter.is_some() && !exponential),
        ];
        match foreign.iter().find(|(_, is_foreign)| *is_foreign) {
            Some((name, _)) => {
                let problem = format!("unknown field of a retry of the kind \"{}\"", kind.word());
                Err(JsonProblem::at(&format!("retry.{name}"), problem))
            }
            None => Ok(()),
        }
    }

    fn jitter_permille(&self) -> Result<u16, JsonProblem> {
        let Some(jitter) = self.jitter else {
            let Retry::Exponential { jitter_permille, .. } = Retry::default() else { return Ok(0) };
            return Ok(jitter_permille);
        };
        if !(0.0..=1.0).contains(&jitter) {
            let problem = format!("{jitter} given; expected a share from 0 to 1");
            return Err(JsonProblem::at("retry.jitter", problem));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to 1000 by the check above"
        )]
        Ok((jitter * 1000.0).round() as u16)
    }
}

impl BreakerJson {
    pub(in crate::json) fn of(breaker: Breaker) -> OrNever<BreakerJson> {
        OrNever(breaker.failures.map(|failures| BreakerJson {
            failures: Some(Whole(failures)),
            initial_ms: Some(Millis(breaker.initial)),
            max_ms: Some(Millis(breaker.max)),
        }))
    }

    pub(in crate::json) fn breaker(given: OrNever<BreakerJson>) -> Breaker {
        let default = Breaker::default();
        let Some(given) = given.0 else { return default.failures(None) };
        default
            .failures(given.failures.map(|count| count.0).or(default.failures))
            .initial(given.initial_ms.map_or(default.initial, |span| span.0))
            .max(given.max_ms.map_or(default.max, |span| span.0))
    }
}
