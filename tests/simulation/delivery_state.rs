//! The states that a delivery may have, and what an answer must change. It is written from the
//! documents and shares no code with the engine. Where jitter or a crash allow several times, it keeps
//! the earliest and the latest.

use super::model::Key;
use super::plan::millis;
use super::retention::Since;
use wabahook::policy::{Accept, Ordering, Policy, Retry, RetryOn};
use wabahook::{DeliveryControl, Failure, Reply};

/// The state of a delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum DeliveryState {
    /// Its event is not on the device.
    Absent,
    Owed(Tries),
    Delivered,
    Dead {
        reason: String,
        attempts: u32,
    },
    Cancelled,
}

/// The attempts that a delivery has had.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tries {
    pub attempts: u32,
    pub wait: Option<Wait>,
}

/// The backoff after a failure, from a time on both clocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Wait {
    pub from_ms: u64,
    pub from_wall_ms: u64,
    pub least_ms: u64,
    pub most_ms: u64,
    pub age_least_ms: u64,
    pub age_most_ms: u64,
}

impl DeliveryState {
    pub fn fresh() -> DeliveryState {
        DeliveryState::Owed(Tries::default())
    }

    /// One of several owed states with the same number of attempts, where a crash left several waits.
    pub fn merged(lives: &[DeliveryState]) -> DeliveryState {
        let mut merged = lives[0].clone();
        let DeliveryState::Owed(Tries { wait: Some(wait), .. }) = &mut merged else {
            return merged;
        };
        for other in
            lives.iter().filter_map(DeliveryState::tries).filter_map(|tries| tries.wait.as_ref())
        {
            wait.age_least_ms = wait.age_least_ms.min(other.age_least_ms);
            wait.age_most_ms = wait.age_most_ms.max(other.age_most_ms);
        }
        merged
    }

    pub fn is_owed(&self) -> bool {
        matches!(self, DeliveryState::Owed(_))
    }

    pub fn tries(&self) -> Option<&Tries> {
        match self {
            DeliveryState::Owed(tries) => Some(tries),
            _ => None,
        }
    }

    /// The same state in an engine that was opened at this time.
    pub fn resumed(&self, now_ms: u64, wall_ms: u64) -> DeliveryState {
        let DeliveryState::Owed(Tries { attempts, wait: Some(wait) }) = self else {
            return self.clone();
        };
        let down_ms = wall_ms.saturating_sub(wait.from_wall_ms);
        let wait = Wait {
            from_ms: now_ms,
            from_wall_ms: wall_ms,
            least_ms: wait.least_ms - down_ms.min(wait.least_ms),
            most_ms: wait.most_ms - down_ms.min(wait.most_ms),
            age_least_ms: wait.age_least_ms + down_ms,
            age_most_ms: wait.age_most_ms + down_ms,
        };
        DeliveryState::Owed(Tries { attempts: *attempts, wait: Some(wait) })
    }
}

impl Tries {
    /// Whether the next attempt may start.
    pub fn may_start(&self, now_ms: u64) -> bool {
        self.wait.as_ref().is_none_or(|wait| wait.from_ms + wait.least_ms <= now_ms)
    }

    /// Whether only other deliveries can delay the next attempt.
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.wait.as_ref().is_none_or(|wait| wait.from_ms + wait.most_ms <= now_ms)
    }
}

/// What an answer means for its delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Delivered,
    Retry { reason: String, asked_ms: u64 },
    Dead(String),
}

/// What an answer means for its delivery, and the reason if it disables the subscription.
pub fn outcome(reply: &Reply, policy: &Policy) -> (Outcome, Option<String>) {
    let answered = match reply {
        Reply::Failed(failure) => return (failed(failure, policy), None),
        Reply::Response(answered) => answered,
        other => unreachable!("no endpoint of the plan replies {other:?}"),
    };
    let reason = format!("status:{}", answered.status);
    let accepted = match policy.accept {
        Accept::Only200 => answered.status == 200,
        _ => (200..300).contains(&answered.status),
    };
    let asked_ms = answered.retry_after.map_or(0, millis).min(24 * 3_600_000);
    let control = answered.control.filter(|_| policy.honor_delivery_control);
    let disable =
        (control == Some(DeliveryControl::Disable)).then(|| "receiver_disabled".to_owned());
    let meant = match answered.status {
        _ if accepted => Outcome::Delivered,
        _ if control == Some(DeliveryControl::AbortMessage) => Outcome::Dead("aborted".to_owned()),
        _ if policy.retry_on == RetryOn::All => Outcome::Retry { reason, asked_ms },
        410 => return (Outcome::Dead(reason.clone()), Some(reason)),
        408 | 425 | 429 | 500..=599 | 200..=299 => Outcome::Retry { reason, asked_ms },
        _ => Outcome::Dead(reason),
    };
    (meant, disable)
}

fn failed(failure: &Failure, policy: &Policy) -> Outcome {
    match failure {
        Failure::Timeout if !policy.retry_on_timeout => Outcome::Dead("timeout".to_owned()),
        Failure::Guard(_) => Outcome::Dead(failure.to_string()),
        _ => Outcome::Retry { reason: failure.to_string(), asked_ms: 0 },
    }
}

/// The shortest and the longest backoff of a policy after so many failures.
pub fn waits_ms(retry: &Retry, failures: u32, asked_ms: u64) -> (u64, u64) {
    let (least_ms, most_ms) = match retry {
        Retry::Exponential { initial, max, jitter_permille } => {
            let mut plain_ms = millis(*initial);
            (1..failures).for_each(|_| plain_ms = (plain_ms * 2).min(millis(*max)));
            let moved_ms = plain_ms * u64::from(*jitter_permille) / 1_000;
            (plain_ms - moved_ms, plain_ms + moved_ms)
        }
        Retry::Linear { step, max } => {
            let wait_ms = (millis(*step) * u64::from(failures)).min(millis(*max));
            (wait_ms, wait_ms)
        }
        Retry::List { delays } => {
            let place = (failures as usize - 1).min(delays.len() - 1);
            (millis(delays[place]), millis(delays[place]))
        }
        other => panic!("{other:?} is not modelled"),
    };
    (least_ms.max(asked_ms), most_ms.max(asked_ms))
}

/// What may happen to a delivery whose attempt failed and may be retried: its backoff, and whether it
/// may have been too old or still young enough.
pub struct After {
    pub wait: Wait,
    pub may_expire: bool,
    pub may_wait: bool,
    pub is_used_up: bool,
}

impl After {
    /// Whether a delivery may have died for this reason, or have stayed owed.
    pub fn check(&self, key: Key, reason: &str, died: Option<&str>) {
        match died {
            Some(died) if self.is_used_up => assert_eq!(died, reason, "why {key:?} died"),
            Some(died) => {
                assert!(self.may_expire && died == "expired", "{key:?} died of {died} too early");
            }
            None => assert!(
                self.may_wait && !self.is_used_up,
                "{key:?} is tried on after its last attempt or past its age"
            ),
        }
    }
}

pub fn after(
    tries: &Tries,
    policy: &Policy,
    asked_ms: u64,
    since: Since,
    (ends_least_ms, ends_most_ms): (u64, u64),
    clocks: (u64, u64),
) -> After {
    let (now_ms, wall_ms) = clocks;
    let number = tries.attempts + 1;
    let (least_ms, most_ms) = waits_ms(&policy.retry, number, 0);
    let is_ordered = policy.ordering != Ordering::None && policy.attempts_max.is_none();
    let probed_ms = if is_ordered { millis(policy.breaker.max) } else { u64::MAX };
    let (least_ms, most_ms) = (least_ms.min(probed_ms), most_ms.min(probed_ms));
    let age_ms = |since_ms: i64| (now_ms as i64 - since_ms) as u64;
    let (age_least_ms, age_most_ms) = (age_ms(since.most_ms), age_ms(since.least_ms));
    // The last attempt is made when the age is used up.
    let left_least_ms = ends_least_ms.saturating_sub(now_ms);
    let left_most_ms = ends_most_ms.saturating_sub(now_ms);
    let least_ms = least_ms.max(asked_ms).min(left_least_ms);
    let most_ms = most_ms.max(asked_ms).min(left_most_ms);
    After {
        may_expire: left_least_ms == 0,
        may_wait: left_most_ms > 0,
        is_used_up: policy.attempts_max.is_some_and(|most| number >= most),
        wait: Wait {
            from_ms: now_ms,
            from_wall_ms: wall_ms,
            least_ms,
            most_ms,
            age_least_ms,
            age_most_ms,
        },
    }
}
