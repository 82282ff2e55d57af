//! What a seed consists of: limits, subscriptions with their policies, and events. Everything is drawn
//! from the seed, and every limit is small, so that a few hundred steps reach all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use wabahook::policy::{Accept, Breaker, Ordering, Policy, RateLimit, Retry, RetryOn};
use wabahook::{Event, Limits, Subscription};

use super::random::Random;

pub const KINDS: [&str; 3] = ["MESSAGE_RECEIVED", "MESSAGE_STATUS_UPDATED", "ADD_TAG"];
pub const NUMBERS: [&str; 3] = ["919999999999", "918888888888", "917777777777"];

/// The accounts, each with its WABA and its numbers.
pub const ACCOUNTS: [(&str, &str, &[&str]); 2] =
    [("acme", "1", &["919999999999", "918888888888"]), ("other", "2", &["917777777777"])];

/// The account that a number belongs to.
pub fn account_of(number: &str) -> &'static str {
    let owns = |numbers: &[&str]| numbers.contains(&number);
    ACCOUNTS.iter().find(|(_, _, numbers)| owns(numbers)).expect("a number of an account").0
}

fn numbers_of(account: &str) -> &'static [&'static str] {
    ACCOUNTS.iter().find(|(name, ..)| *name == account).expect("an account").2
}

pub fn limits(random: &mut Random) -> Limits {
    Limits::default()
        .outbox_events_max(random.pick(&[12, 20, 60, 10_000_000]))
        .in_flight_max(Some(random.pick(&[1, 1, 2, 3, 6, 8, 20])))
        .lane_in_flight_max(random.pick(&[1, 2, 3, 8]))
        .group_events_max(random.pick(&[1, 2, 4, 64]))
        .generation_bytes(random.pick(&[600, 2_000, 8_000, 1_000_000]))
        .cache_bytes_max(random.pick(&[0, 200, 1_000_000]))
}

/// A subscription as the model keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    pub account: &'static str,
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
        self.account == account_of(number)
            && self.kinds.as_ref().is_none_or(|kinds| kinds.contains(kind))
            && self.numbers.as_ref().is_none_or(|numbers| numbers.contains(number))
    }

    pub fn subscription(&self) -> Subscription {
        let mut subscription = Subscription::to(self.url())
            .unwrap()
            .account(self.account)
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

pub fn terms(random: &mut Random, account: &'static str, name: &str, version: u32) -> Terms {
    let some = |random: &mut Random, all: &[&'static str]| -> Option<BTreeSet<&'static str>> {
        let chosen: BTreeSet<_> = all.iter().copied().filter(|_| random.one_in(2)).collect();
        (random.one_in(3) && !chosen.is_empty()).then_some(chosen)
    };
    Terms {
        account,
        name: name.to_owned(),
        version,
        kinds: some(random, &KINDS),
        numbers: some(random, numbers_of(account)),
        policy: policy(random),
    }
}

/// A lane of each account that nothing may delay: it matches everything, and its receiver always answers.
pub fn bystanders() -> Vec<Terms> {
    let of_account = |(account, ..): (&'static str, &str, &[&str])| {
        let (name, kinds, numbers) = (format!("bystander-{account}"), None, None);
        Terms { account, name, version: 0, kinds, numbers, policy: Policy::default() }
    };
    ACCOUNTS.into_iter().map(of_account).collect()
}

fn policy(random: &mut Random) -> Policy {
    let retry = match random.below(4) {
        0 => Retry::Linear {
            step: Duration::from_millis(random.within(1, 900)),
            max: Duration::from_millis(3_000),
        },
        1 => {
            let count = random.within(1, 5);
            Retry::List {
                delays: (0..count).map(|_| Duration::from_millis(random.below(4_000))).collect(),
            }
        }
        _ => Retry::Exponential {
            initial: Duration::from_millis(random.within(10, 1_500)),
            max: Duration::from_millis(random.within(1_500, 20_000)),
            jitter_permille: random.pick(&[0, 200, 1_000]),
        },
    };
    let ms = Duration::from_millis;
    Policy::default()
        .retry(retry)
        .attempts_max(random.pick(&[None, None, Some(1), Some(3), Some(6)]))
        .age_max(ms(random.pick(&[3_000, 60_000, 24 * 3_600_000, 24 * 3_600_000])))
        .timeout(ms(random.pick(&[30, 1_000, 5_000, 15_000])))
        .retry_on_timeout(!random.one_in(6))
        .accept(random.pick(&[Accept::Any2xx, Accept::Any2xx, Accept::Only200]))
        .retry_on(random.pick(&[RetryOn::Transient, RetryOn::Transient, RetryOn::All]))
        .ordering(random.pick(&[
            Ordering::None,
            Ordering::None,
            Ordering::PerKey,
            Ordering::PerKey,
            Ordering::Strict,
        ]))
        .rate_limit(random.one_in(4).then(|| {
            let events = random.within(1, 4) as u32;
            RateLimit::new(events, ms(random.within(1, 2_000)))
        }))
        .breaker(
            Breaker::default()
                .failures(random.pick(&[None, Some(1), Some(2), Some(4), Some(10)]))
                .initial(ms(random.within(1, 2_000)))
                .max(ms(random.within(2_000, 30_000))),
        )
        .disable_after(
            random.pick(&[None, None, Some(5 * 24 * 3_600_000), Some(20_000), Some(2_000)]).map(ms),
        )
        .retrying_max(random.pick(&[1, 3, 1_000]))
        .honor_delivery_control(!random.one_in(3))
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
        let event = Event::new(self.kind, self.payload.clone()).number(self.number);
        let mut event = event.account(account_of(self.number));
        if let Some(key) = &self.key {
            event = event.key(key.clone());
        }
        if let Some(dedup) = &self.dedup {
            event = event.dedup_key(dedup.clone());
        }
        event
    }
}

/// The event of this index in publish order. The index is the payload's first word.
pub fn draft(random: &mut Random, place: usize) -> Draft {
    let filler = "x".repeat(random.pick(&[0, 10, 300, 9_000]) * usize::from(random.one_in(4)));
    Draft {
        kind: random.pick(&KINDS),
        number: random.pick(&NUMBERS),
        key: (!random.one_in(4)).then(|| format!("contact-{}", random.below(3))),
        dedup: random.one_in(2).then(|| format!("message-{place}")),
        payload: format!("{place} {filler}"),
    }
}

/// A duration in whole milliseconds, in which the model counts.
pub fn millis(span: Duration) -> u64 {
    span.as_millis() as u64
}
