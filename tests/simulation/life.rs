//! Decides what a delivery's life may be, and what an answer must make of it.
//!
//! Leaves to others: which deliveries there are (`model`). Invariant: it is written from the
//! documents and shares no code with the engine; where jitter or a crash leave more than one time
//! possible, it keeps the least and the most.

use super::model::Key;
use wabahook::{Accept, Control, Failure, Policy, Reply, Retried, Retry};

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Life {
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

/// The attempts that a delivery has behind it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tries {
    pub attempts: u32,
    pub wait: Option<Wait>,
}

/// The wait after a failure, from a moment on both clocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Wait {
    pub from_ms: u64,
    pub from_wall_ms: u64,
    pub least_ms: u64,
    pub most_ms: u64,
    pub age_least_ms: u64,
    pub age_most_ms: u64,
}

impl Life {
    pub fn fresh() -> Life {
        Life::Owed(Tries::default())
    }

    /// One of several owed lives of as many attempts, where a crash left several waits.
    pub fn merged(lives: &[Life]) -> Life {
        let mut merged = lives[0].clone();
        let Life::Owed(Tries { wait: Some(wait), .. }) = &mut merged else { return merged };
        for other in lives.iter().filter_map(Life::tries).filter_map(|tries| tries.wait.as_ref()) {
            wait.age_least_ms = wait.age_least_ms.min(other.age_least_ms);
            wait.age_most_ms = wait.age_most_ms.max(other.age_most_ms);
        }
        merged
    }

    pub fn is_owed(&self) -> bool {
        matches!(self, Life::Owed(_))
    }

    pub fn tries(&self) -> Option<&Tries> {
        match self {
            Life::Owed(tries) => Some(tries),
            _ => None,
        }
    }

    /// The same life in an engine that was opened at this moment.
    pub fn resumed(&self, now_ms: u64, wall_ms: u64) -> Life {
        let Life::Owed(Tries { attempts, wait: Some(wait) }) = self else { return self.clone() };
        let down_ms = wall_ms.saturating_sub(wait.from_wall_ms);
        let wait = Wait {
            from_ms: now_ms,
            from_wall_ms: wall_ms,
            least_ms: wait.least_ms - down_ms.min(wait.least_ms),
            most_ms: wait.most_ms - down_ms.min(wait.most_ms),
            age_least_ms: wait.age_least_ms + down_ms.min(wait.least_ms),
            age_most_ms: wait.age_most_ms + down_ms.min(wait.most_ms),
        };
        Life::Owed(Tries { attempts: *attempts, wait: Some(wait) })
    }
}

impl Tries {
    /// Whether the next attempt may start.
    pub fn may_start(&self, now_ms: u64) -> bool {
        self.wait.as_ref().is_none_or(|wait| wait.from_ms + wait.least_ms <= now_ms)
    }

    /// Whether nothing but other deliveries can hold the next attempt back.
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.wait.as_ref().is_none_or(|wait| wait.from_ms + wait.most_ms <= now_ms)
    }
}

/// What an answer means for its delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    Delivered,
    Retry { reason: String, asked_ms: u64 },
    Dead(String),
}

/// What an answer means for its delivery, and why it disables its subscription, if it does.
pub fn meaning(reply: &Reply, policy: &Policy) -> (Meaning, Option<String>) {
    let answered = match reply {
        Reply::Failed(failure) => return (failed(failure, policy), None),
        Reply::Answered(answered) => answered,
    };
    let reason = format!("status:{}", answered.status);
    let accepted = match policy.accept {
        Accept::Only200 => answered.status == 200,
        _ => (200..300).contains(&answered.status),
    };
    let asked_ms = answered.retry_after_ms.unwrap_or(0).min(24 * 3_600_000);
    let control = answered.control.filter(|_| policy.obeys_receiver);
    let disable = (control == Some(Control::Disable)).then(|| "asked".to_owned());
    let meant = match answered.status {
        _ if accepted => Meaning::Delivered,
        _ if control == Some(Control::AbortMessage) => Meaning::Dead("aborted".to_owned()),
        _ if policy.retried == Retried::All => Meaning::Retry { reason, asked_ms },
        410 => return (Meaning::Dead(reason.clone()), Some(reason)),
        408 | 425 | 429 | 500..=599 | 200..=299 => Meaning::Retry { reason, asked_ms },
        _ => Meaning::Dead(reason),
    };
    (meant, disable)
}

fn failed(failure: &Failure, policy: &Policy) -> Meaning {
    match failure {
        Failure::Timeout if !policy.retry_on_timeout => Meaning::Dead("timeout".to_owned()),
        Failure::Guard(_) => Meaning::Dead(failure.to_string()),
        _ => Meaning::Retry { reason: failure.to_string(), asked_ms: 0 },
    }
}

/// The least and the most that a policy may wait after so many failures.
pub fn waits_ms(retry: &Retry, failures: u32, asked_ms: u64) -> (u64, u64) {
    let (least_ms, most_ms) = match retry {
        Retry::Exponential { initial_ms, max_ms, jitter_permille } => {
            let mut plain_ms = *initial_ms;
            (1..failures).for_each(|_| plain_ms = (plain_ms * 2).min(*max_ms));
            let moved_ms = plain_ms * u64::from(*jitter_permille) / 1_000;
            (plain_ms - moved_ms, plain_ms + moved_ms)
        }
        Retry::Linear { step_ms, max_ms } => {
            let wait_ms = (step_ms * u64::from(failures)).min(*max_ms);
            (wait_ms, wait_ms)
        }
        Retry::List { delays_ms } => {
            let place = (failures as usize - 1).min(delays_ms.len() - 1);
            (delays_ms[place], delays_ms[place])
        }
        other => panic!("{other:?} is not modelled"),
    };
    (least_ms.max(asked_ms), most_ms.max(asked_ms))
}

/// What may become of a delivery whose attempt failed and may be repeated: its wait, and whether it
/// can have been too old or young enough for that.
pub struct After {
    pub wait: Wait,
    pub may_expire: bool,
    pub may_wait: bool,
    pub is_used_up: bool,
}

impl After {
    /// Whether a delivery may have died of this, or lived on where it did not die.
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
    started_ms: u64,
    clocks: (u64, u64),
) -> After {
    let (now_ms, wall_ms) = clocks;
    let number = tries.attempts + 1;
    let (least_ms, most_ms) = waits_ms(&policy.retry, number, asked_ms);
    let (age_least_ms, age_most_ms) = match &tries.wait {
        None => (now_ms - started_ms, now_ms - started_ms),
        Some(wait) => {
            let since_ms = now_ms - wait.from_ms;
            (wait.age_least_ms + since_ms, wait.age_most_ms + since_ms)
        }
    };
    After {
        may_expire: age_most_ms + most_ms > policy.age_max_ms,
        may_wait: age_least_ms + least_ms <= policy.age_max_ms,
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
