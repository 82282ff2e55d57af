//! Decides what a seed is made of: limits, subscriptions and their terms, events.
//!
//! Leaves to others: what happens with them (`world`). Invariant: everything is drawn from the seed,
//! and every bound is small, so that a few hundred steps reach all of them.

use std::collections::BTreeSet;

use wabahook::{
    Accept, Breaker, Event, Limits, Ordering, Policy, RateLimit, Retried, Retry, Subscription,
};

use super::chance::Chance;

/// Whether order, rates, breakers and the receivers' wishes are simulated.
pub const LANDED: bool = true;

pub const KINDS: [&str; 3] = ["MESSAGE_RECEIVED", "MESSAGE_STATUS_UPDATED", "ADD_TAG"];
pub const NUMBERS: [&str; 2] = ["919999999999", "918888888888"];

pub fn limits(chance: &mut Chance) -> Limits {
    Limits {
        workers_max: chance.pick(&[1, 1, 2, 3, 6]),
        stuck_max: chance.pick(&[1, 2, 4, 16]),
        stuck_after_ms: chance.pick(&[50, 100, 250]),
        lane_in_flight_max: chance.pick(&[1, 2, 3, 8]),
        group_events_max: chance.pick(&[1, 2, 4, 64]),
        generation_bytes: chance.pick(&[600, 2_000, 8_000, 1_000_000]),
        cache_bytes_max: chance.pick(&[0, 200, 1_000_000]),
        ..Limits::default()
    }
}

/// What a subscription asks for and on which terms, as the model keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    pub name: String,
    /// Counts up with each change; part of the URL.
    pub version: u32,
    pub kinds: Option<BTreeSet<&'static str>>,
    pub numbers: Option<BTreeSet<&'static str>>,
    pub policy: Policy,
}

impl Terms {
    pub fn url(&self) -> String {
        format!("https://{}.example/v{}", self.name, self.version)
    }

    pub fn asks_for(&self, kind: &str, number: &str) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(kind))
            && self.numbers.as_ref().is_none_or(|numbers| numbers.contains(number))
    }

    pub fn subscription(&self) -> Subscription {
        let mut subscription = Subscription::to(self.url())
            .unwrap()
            .name(self.name.clone())
            .secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
            .policy(self.policy.clone());
        if let Some(kinds) = &self.kinds {
            subscription = subscription.events(kinds.iter().copied());
        }
        if let Some(numbers) = &self.numbers {
            subscription = subscription.numbers(numbers);
        }
        subscription
    }
}

pub fn terms(chance: &mut Chance, name: &str, version: u32) -> Terms {
    let some = |chance: &mut Chance, all: &[&'static str]| -> Option<BTreeSet<&'static str>> {
        let chosen: BTreeSet<_> = all.iter().copied().filter(|_| chance.one_in(2)).collect();
        (chance.one_in(3) && !chosen.is_empty()).then_some(chosen)
    };
    Terms {
        name: name.to_owned(),
        version,
        kinds: some(chance, &KINDS),
        numbers: some(chance, &NUMBERS),
        policy: policy(chance),
    }
}

/// The lane that nothing may hold up: it asks for everything, and its receiver always answers.
pub fn bystander() -> Terms {
    let (name, kinds, numbers) = ("bystander".to_owned(), None, None);
    Terms { name, version: 0, kinds, numbers, policy: Policy::default() }
}

fn policy(chance: &mut Chance) -> Policy {
    let retry = match chance.below(4) {
        0 => Retry::Linear { step_ms: chance.within(1, 900), max_ms: 3_000 },
        1 => {
            let count = chance.within(1, 5);
            Retry::List { delays_ms: (0..count).map(|_| chance.below(4_000)).collect() }
        }
        _ => Retry::Exponential {
            initial_ms: chance.within(10, 1_500),
            max_ms: chance.within(1_500, 20_000),
            jitter_permille: chance.pick(&[0, 200, 1_000]),
        },
    };
    let policy = Policy {
        retry,
        attempts_max: chance.pick(&[None, None, Some(1), Some(3), Some(6)]),
        age_max_ms: chance.pick(&[3_000, 60_000, 24 * 3_600_000, 24 * 3_600_000]),
        timeout_ms: chance.pick(&[30, 1_000, 5_000, 15_000]),
        retry_on_timeout: !chance.one_in(6),
        accept: chance.pick(&[Accept::Any2xx, Accept::Any2xx, Accept::Only200]),
        retried: chance.pick(&[Retried::Passing, Retried::Passing, Retried::All]),
        ordering: chance.pick(&[
            Ordering::None,
            Ordering::None,
            Ordering::PerKey,
            Ordering::PerKey,
            Ordering::Strict,
        ]),
        rate_limit: chance.one_in(4).then(|| RateLimit {
            events: chance.within(1, 4) as u32,
            per_ms: chance.within(1, 2_000),
        }),
        breaker: Breaker {
            failures: chance.pick(&[None, Some(1), Some(2), Some(4), Some(10)]),
            initial_ms: chance.within(1, 2_000),
            max_ms: chance.within(2_000, 30_000),
        },
        disable_after_ms: chance.pick(&[None, None, Some(5 * 24 * 3_600_000), Some(20_000)]),
        retrying_max: chance.pick(&[1, 3, 1_000]),
        obeys_receiver: !chance.one_in(3),
        ..Policy::default()
    };
    if LANDED {
        return policy;
    }
    Policy {
        retried: Retried::Passing,
        ordering: Ordering::None,
        rate_limit: None,
        breaker: Breaker { failures: None, ..Breaker::default() },
        disable_after_ms: None,
        retrying_max: 1_000,
        obeys_receiver: false,
        ..policy
    }
}

/// What is published, as the model keeps it.
#[derive(Debug, Clone)]
pub struct Draft {
    pub kind: &'static str,
    pub number: &'static str,
    pub key: Option<String>,
    pub dedup: Option<String>,
    pub payload: String,
}

impl Draft {
    pub fn event(&self) -> Event {
        let mut event = Event::new(self.kind, self.payload.clone()).number(self.number);
        if let Some(key) = &self.key {
            event = event.key(key.clone());
        }
        if let Some(dedup) = &self.dedup {
            event = event.dedup_key(dedup.clone());
        }
        event
    }
}

/// The event of this place in the order of publishing; the place is the payload's first word.
pub fn draft(chance: &mut Chance, place: usize) -> Draft {
    let filler = "x".repeat(chance.pick(&[0, 10, 300, 9_000]) * usize::from(chance.one_in(4)));
    Draft {
        kind: chance.pick(&KINDS),
        number: chance.pick(&NUMBERS),
        key: (!chance.one_in(4)).then(|| format!("contact-{}", chance.below(3))),
        dedup: chance.one_in(2).then(|| format!("message-{place}")),
        payload: format!("{place} {filler}"),
    }
}
