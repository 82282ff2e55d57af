//! What each account uses of what it shares with the others, and the bounds that hold for it.
//!
//! The engine and the outbox count here; a publisher reads a few atomics and takes no lock that is held for long.
//! An account's share outlives the account as long as something of it is owed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::account::AccountLimits;
use crate::clock::millis;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::stats::LaneStats;
use crate::subscription::RateLimit;

/// The limits in force for one account.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountBounds {
    /// See [`AccountLimits::subscriptions_max`].
    pub subscriptions_max: usize,
    /// See [`AccountLimits::owed_events_max`].
    pub owed_events_max: u64,
    /// See [`AccountLimits::owed_bytes_max`].
    pub owed_bytes_max: u64,
    /// How many of its events may wait to be written to the device: half of the engine's
    /// [`queue_events_max`](Limits::queue_events_max) while there are several accounts.
    pub queued_events_max: u64,
    /// How many payload bytes of it may wait to be written to the device: half of the engine's
    /// [`queue_bytes_max`](Limits::queue_bytes_max) while there are several accounts.
    pub queued_bytes_max: u64,
    /// See [`AccountLimits::dead_letters_max`].
    pub dead_letters_max: usize,
    /// See [`AccountLimits::dedup_keys_max`].
    pub dedup_keys_max: usize,
    /// See [`AccountLimits::publish_rate`].
    pub publish_rate: Option<RateLimit>,
    /// See [`AccountLimits::in_flight_max`].
    pub in_flight_max: usize,
    /// See [`AccountLimits::tests_per_minute`].
    pub tests_per_minute: u32,
    /// See [`AccountLimits::notice_listeners_max`].
    pub notice_listeners_max: usize,
}

/// What an account uses, and the limits in force for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountUsage {
    /// Its subscriptions.
    pub subscriptions: u64,
    /// Its events with an owed delivery.
    pub owed_events: u64,
    /// The payload bytes of these events.
    pub owed_bytes: u64,
    /// Its events that wait to be written to the device.
    pub queued_events: u64,
    /// Its dead letters.
    pub dead_letters: u64,
    /// Its attempts in flight.
    pub in_flight: u64,
    /// The limits in force.
    pub bounds: AccountBounds,
}

const DEDUP_KEYS_MAX: usize = 1_000_000;
const TESTS_PER_MINUTE: u32 = 60;
const NOTICE_LISTENERS_MAX: usize = 16;
/// How many bytes the texts of an account's subscriptions may have together: this many for each subscription that it may
/// have, plus `TEXT_BYTES_BASE`.
const TEXT_BYTES_OF_SUBSCRIPTION: u64 = 1_024;
const TEXT_BYTES_BASE: u64 = if cfg!(test) { 256 * 1024 } else { 16 * 1024 * 1024 };
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct AccountShares {
    limits: Limits,
    in_flight_max: usize,
    defaults: RwLock<AccountLimits>,
    shares: RwLock<HashMap<Arc<str>, Arc<AccountShare>>>,
    /// The accounts that the engine has, without those of which only events are left.
    accounts: AtomicUsize,
}

/// One account's limits, and what it uses of them.
#[derive(Debug)]
pub(crate) struct AccountShare {
    name: Arc<str>,
    /// `None` for an account that the engine does not have.
    limits: RwLock<Option<AccountLimits>>,
    queued_events: AtomicU64,
    queued_bytes: AtomicU64,
    owed_events: AtomicU64,
    owed_bytes: AtomicU64,
    /// Events that were published and taken, and those of them without a subscriber, since the engine was opened.
    accepted: AtomicU64,
    unrouted: AtomicU64,
    removed_lanes: Mutex<LaneTotals>,
    published: Mutex<TokenBucket>,
    tests: Mutex<TokenBucket>,
}

/// Counters of subscriptions that were removed, so that those of the account never fall.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LaneTotals {
    pub(crate) delivered: u64,
    pub(crate) retried: u64,
    pub(crate) dead: u64,
}

/// What is left of the bounds that all accounts share. An account without a limit of its own may hold at most as much as
/// is still free. So accounts that take all they can leave room for one that has nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SharedRoom {
    pub(crate) owed_events: u64,
    pub(crate) owed_bytes: u64,
    pub(crate) queued_events: u64,
    pub(crate) queued_bytes: u64,
}

impl SharedRoom {
    const UNLIMITED: SharedRoom = SharedRoom {
        owed_events: u64::MAX,
        owed_bytes: u64::MAX,
        queued_events: u64::MAX,
        queued_bytes: u64::MAX,
    };
}

/// Room in the queue that an account holds until it is dropped.
#[derive(Debug)]
pub(crate) struct QueueClaim {
    share: Arc<AccountShare>,
    events: u64,
    bytes: u64,
}

impl Drop for QueueClaim {
    fn drop(&mut self) {
        self.share.queued_events.fetch_sub(self.events, Ordering::AcqRel);
        self.share.queued_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl AccountShares {
    /// The shares of an engine that may have `in_flight_max` attempts in flight. Without accounts.
    pub(crate) fn new(
        limits: &Limits,
        in_flight_max: usize,
        defaults: AccountLimits,
    ) -> AccountShares {
        AccountShares {
            limits: limits.clone(),
            in_flight_max,
            defaults: RwLock::new(defaults),
            shares: RwLock::default(),
            accounts: AtomicUsize::new(0),
        }
    }

    /// Changes the limits of accounts that set none of their own.
    pub(crate) fn set_defaults(&self, defaults: AccountLimits) {
        *self.defaults.write() = defaults;
    }

    /// Adds an account, or changes its limits.
    pub(crate) fn put(&self, account: &str, limits: AccountLimits) {
        let before = self.of(account).limits.write().replace(limits);
        self.accounts.fetch_add(usize::from(before.is_none()), Ordering::AcqRel);
    }

    /// Removes an account. What it uses stays counted until it ends.
    pub(crate) fn remove(&self, account: &str) {
        let before = self.of(account).limits.write().take();
        self.accounts.fetch_sub(usize::from(before.is_some()), Ordering::AcqRel);
    }

    /// The share of an account; an empty one for an account that is not known yet.
    pub(crate) fn of(&self, account: &str) -> Arc<AccountShare> {
        if let Some(share) = self.shares.read().get(account) {
            return Arc::clone(share);
        }
        let mut shares = self.shares.write();
        let name: Arc<str> = account.into();
        Arc::clone(
            shares.entry(Arc::clone(&name)).or_insert_with(|| Arc::new(AccountShare::new(name))),
        )
    }

    /// The share of an account, without keeping one for an account that is not known.
    pub(crate) fn look_up(&self, account: &str) -> Arc<AccountShare> {
        let known = self.shares.read().get(account).map(Arc::clone);
        known.unwrap_or_else(|| Arc::new(AccountShare::new(account.into())))
    }

    /// The accounts that the engine has.
    pub(crate) fn accounts(&self) -> Vec<Arc<str>> {
        let shares = self.shares.read();
        let known = shares.values().filter(|share| share.limits.read().is_some());
        known.map(|share| Arc::clone(&share.name)).collect()
    }

    /// The limits in force for an account.
    pub(crate) fn bounds(&self, share: &AccountShare) -> AccountBounds {
        self.bounds_within(&self.set_limits(share), SharedRoom::UNLIMITED)
    }

    /// The limits that were set for an account.
    pub(crate) fn set_limits(&self, share: &AccountShare) -> AccountLimits {
        let (own, defaults) = (share.limits.read(), self.defaults.read());
        own.as_ref().map_or_else(|| defaults.clone(), |own| own.or(&defaults))
    }

    fn bounds_within(&self, set: &AccountLimits, left: SharedRoom) -> AccountBounds {
        let is_only = self.accounts.load(Ordering::Acquire) <= 1;
        let part =
            |whole: u64, left: u64| if is_only { whole } else { whole.div_ceil(2).min(left) };
        let part_of = |whole: usize| if is_only { whole } else { whole.div_ceil(2) };
        let limits = &self.limits;
        AccountBounds {
            subscriptions_max: set.subscriptions_max.unwrap_or(part_of(limits.subscriptions_max)),
            owed_events_max: set
                .owed_events_max
                .unwrap_or(part(limits.outbox_events_max, left.owed_events)),
            owed_bytes_max: set
                .owed_bytes_max
                .unwrap_or(part(limits.outbox_bytes_max, left.owed_bytes)),
            queued_events_max: part(limits.queue_events_max as u64, left.queued_events),
            queued_bytes_max: part(limits.queue_bytes_max as u64, left.queued_bytes),
            dead_letters_max: set.dead_letters_max.unwrap_or(part_of(limits.dead_letters_max)),
            dedup_keys_max: set.dedup_keys_max.unwrap_or(DEDUP_KEYS_MAX),
            publish_rate: set.publish_rate,
            in_flight_max: set.in_flight_max.unwrap_or(part_of(self.in_flight_max)),
            tests_per_minute: set.tests_per_minute.unwrap_or(TESTS_PER_MINUTE),
            notice_listeners_max: set.notice_listeners_max.unwrap_or(NOTICE_LISTENERS_MAX),
        }
    }

    /// The limits in force for accounts that the engine does not have.
    pub(crate) fn bounds_of_others(&self) -> AccountBounds {
        self.bounds(&AccountShare::new("".into()))
    }

    /// The limits in force for an account, by its name.
    pub(crate) fn bounds_of(&self, account: &str) -> AccountBounds {
        self.bounds(&self.of(account))
    }

    /// Refuses what no amount of waiting would make fit into the limits that were set for an account.
    pub(crate) fn check_fits(
        &self,
        set: &AccountLimits,
        events: usize,
        bytes: usize,
    ) -> Result<()> {
        let bounds = self.bounds_within(set, SharedRoom::UNLIMITED);
        let rate = bounds.publish_rate.map_or(u64::MAX, |rate| rate.events.into());
        let limits = [
            ("events", events, bounds.owed_events_max.min(rate)),
            ("events.payload", bytes, bounds.owed_bytes_max),
        ];
        for (field, given, limit) in limits {
            let given = given as u64;
            if given > limit {
                return Err(Error::TooLarge { field: field.to_owned(), given, limit });
            }
        }
        Ok(())
    }

    /// Takes room for events of an account with these limits, or says which of them is reached.
    pub(crate) fn admit(
        &self,
        share: &Arc<AccountShare>,
        set: &AccountLimits,
        (events, bytes): (usize, usize),
        left: SharedRoom,
        now_ms: u64,
    ) -> Result<QueueClaim> {
        let bounds = self.bounds_within(set, left);
        let (events, bytes) = (events as u64, bytes as u64);
        let queued_events = share.queued_events.fetch_add(events, Ordering::AcqRel);
        let queued_bytes = share.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        let claim = QueueClaim { share: Arc::clone(share), events, bytes };
        let owed_events = share.owed_events.load(Ordering::Acquire) + queued_events;
        let owed_bytes = share.owed_bytes.load(Ordering::Acquire) + queued_bytes;
        check_room("owed_events_max", owed_events, events, bounds.owed_events_max)?;
        check_room("owed_bytes_max", owed_bytes, bytes, bounds.owed_bytes_max)?;
        // A submission that is larger than the account's part passes while nothing else of the account waits.
        if queued_events > 0 {
            check_room("queued_events_max", queued_events, events, bounds.queued_events_max)?;
            check_room("queued_bytes_max", queued_bytes, bytes, bounds.queued_bytes_max)?;
        }
        if let Some(rate) = bounds.publish_rate {
            let taken = share.published.lock().take(rate, events, now_ms);
            taken.map_err(|wait| rate_reached("publish_rate", rate, wait))?;
        }
        Ok(claim)
    }

    /// Counts a test delivery, or says when the next one may be sent.
    pub(crate) fn admit_test(&self, account: &str, now_ms: u64) -> Result<()> {
        let share = self.of(account);
        let rate = RateLimit { events: self.bounds(&share).tests_per_minute, per: MINUTE };
        let taken = share.tests.lock().take(rate, 1, now_ms);
        taken.map_err(|wait| rate_reached("tests_per_minute", rate, wait))
    }

    /// Refuses texts of subscriptions that grow above what an account may have of them: a part for each subscription
    /// that it may have, and some for few large ones.
    pub(crate) fn check_text_bytes(&self, account: &str, used: u64, wanted: u64) -> Result<()> {
        let subscriptions = self.bounds_of(account).subscriptions_max as u64;
        let allowed = subscriptions.saturating_mul(TEXT_BYTES_OF_SUBSCRIPTION) + TEXT_BYTES_BASE;
        if wanted <= used || wanted <= allowed {
            return Ok(());
        }
        Err(reached("subscription_bytes", used, allowed, None))
    }

    /// Refuses subscriptions over an account's limit.
    pub(crate) fn check_subscriptions(&self, account: &str, left: usize, new: usize) -> Result<()> {
        let allowed = self.bounds_of(account).subscriptions_max;
        if new == 0 || left + new <= allowed {
            return Ok(());
        }
        Err(reached("subscriptions_max", left as u64, allowed as u64, None))
    }
}

fn check_room(limit: &'static str, used: u64, more: u64, allowed: u64) -> Result<()> {
    if used.saturating_add(more) <= allowed {
        return Ok(());
    }
    // What is owed ends when receivers answer, so nobody knows when there is room again.
    Err(reached(limit, used, allowed, Some(Duration::from_secs(1))))
}

fn reached(limit: &'static str, used: u64, allowed: u64, retry_after: Option<Duration>) -> Error {
    Error::LimitReached { limit, used, allowed, retry_after }
}

fn rate_reached(limit: &'static str, rate: RateLimit, wait: Duration) -> Error {
    let allowed = rate.events.into();
    reached(limit, allowed, allowed, Some(wait))
}

impl AccountShare {
    fn new(name: Arc<str>) -> AccountShare {
        AccountShare {
            name,
            limits: RwLock::default(),
            queued_events: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            owed_events: AtomicU64::new(0),
            owed_bytes: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            unrouted: AtomicU64::new(0),
            removed_lanes: Mutex::default(),
            published: Mutex::default(),
            tests: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Counts an event that is owed from now on.
    pub(crate) fn owe(&self, bytes: u64) {
        self.owed_events.fetch_add(1, Ordering::AcqRel);
        self.owed_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Counts an event that is no longer owed.
    pub(crate) fn settle(&self, bytes: u64) {
        self.owed_events.fetch_sub(1, Ordering::AcqRel);
        self.owed_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Events that are owed, and their payload bytes.
    pub(crate) fn owed(&self) -> (u64, u64) {
        (self.owed_events.load(Ordering::Acquire), self.owed_bytes.load(Ordering::Acquire))
    }

    /// Counts an event that is taken.
    pub(crate) fn note_accepted(&self, is_unrouted: bool) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.unrouted.fetch_add(u64::from(is_unrouted), Ordering::Relaxed);
    }

    /// Events that were taken, and those of them without a subscriber.
    pub(crate) fn accepted(&self) -> (u64, u64) {
        (self.accepted.load(Ordering::Relaxed), self.unrouted.load(Ordering::Relaxed))
    }

    /// Keeps the counters of a subscription that is removed.
    pub(crate) fn note_removed(&self, lane: &LaneStats) {
        let mut totals = self.removed_lanes.lock();
        totals.delivered += lane.delivered;
        totals.retried += lane.retried;
        totals.dead += lane.dead;
    }

    pub(crate) fn removed_lanes(&self) -> LaneTotals {
        *self.removed_lanes.lock()
    }

    pub(crate) fn queued_events(&self) -> u64 {
        self.queued_events.load(Ordering::Acquire)
    }
}

/// Counts what happens against a rate: as many as the limit at once, then one in every part of the span.
#[derive(Debug, Default)]
struct TokenBucket {
    /// When the bucket is full again, in nanoseconds of the monotonic clock.
    full_at_ns: u64,
}

impl TokenBucket {
    /// Takes `count` tokens, or says how long it takes until there are as many.
    fn take(&mut self, rate: RateLimit, count: u64, now_ms: u64) -> Result<(), Duration> {
        let span_ns = millis(rate.per).saturating_mul(1_000_000);
        let Some(each_ns) = span_ns.checked_div(rate.events.into()) else { return Err(rate.per) };
        let now_ns = now_ms.saturating_mul(1_000_000);
        let full_at_ns = self.full_at_ns.max(now_ns).saturating_add(each_ns.saturating_mul(count));
        let over_ns = (full_at_ns - now_ns).saturating_sub(span_ns);
        if over_ns > 0 {
            return Err(Duration::from_nanos(over_ns));
        }
        self.full_at_ns = full_at_ns;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The shares of some accounts within the default limits.
    pub(crate) fn shares_of(accounts: &[&str]) -> Arc<AccountShares> {
        let shares = AccountShares::new(&Limits::default(), 100, AccountLimits::default());
        accounts.iter().for_each(|account| shares.put(account, AccountLimits::default()));
        Arc::new(shares)
    }

    fn shares(accounts: &[&str], defaults: AccountLimits) -> AccountShares {
        let limits = Limits::default().outbox_events_max(10).queue_events_max(8);
        let shares = AccountShares::new(&limits, 100, defaults);
        accounts.iter().for_each(|account| shares.put(account, AccountLimits::default()));
        shares
    }

    fn admit_within(
        shares: &AccountShares,
        account: &str,
        size: (usize, usize),
        left: SharedRoom,
        now_ms: u64,
    ) -> Result<QueueClaim> {
        let share = shares.of(account);
        shares.admit(&share, &shares.set_limits(&share), size, left, now_ms)
    }

    fn admit(
        shares: &AccountShares,
        account: &str,
        size: (usize, usize),
        now_ms: u64,
    ) -> Result<QueueClaim> {
        admit_within(shares, account, size, SharedRoom::UNLIMITED, now_ms)
    }

    #[test]
    fn accounts_that_take_all_they_can_leave_room_for_another() {
        const BOUND: u64 = 1_000;
        let names = ["noisy 1", "noisy 2", "noisy 3", "noisy 4", "noisy 5"];
        let limits = Limits::default().outbox_events_max(BOUND).queue_events_max(40);
        let shares = AccountShares::new(&limits, 100, AccountLimits::default());
        names.iter().for_each(|account| shares.put(account, AccountLimits::default()));
        shares.put("quiet", AccountLimits::default());
        let publish = |account: &str| {
            let owed: u64 = names.iter().map(|name| shares.of(name).owed().0).sum();
            let left = SharedRoom { owed_events: BOUND - owed, ..SharedRoom::UNLIMITED };
            admit_within(&shares, account, (1, 0), left, 0).map(|_| shares.of(account).owe(0))
        };
        while names.iter().filter(|account| publish(account).is_ok()).count() > 0 {}
        let owed: Vec<u64> = names.iter().map(|name| shares.of(name).owed().0).collect();
        assert!(owed.iter().all(|owed| (165..=167).contains(owed)), "equal parts: {owed:?}");
        assert!((0..80).all(|_| publish("quiet").is_ok()), "what is left is for the others");
        let queue = |queued_events| SharedRoom { queued_events, ..SharedRoom::UNLIMITED };
        let admit = |left| admit_within(&shares, "quiet", (1, 0), queue(left), 0);
        let waiting: Vec<_> = (0..4).map(|_| admit(10).unwrap()).collect();
        assert_eq!(limit_of(&admit(4).unwrap_err()), ("queued_events_max", 4, 4));
        drop(waiting);
        shares.put("quiet", AccountLimits::default().owed_events_max(Some(900)));
        let left = SharedRoom { owed_events: 100, ..SharedRoom::UNLIMITED };
        assert!(
            admit_within(&shares, "quiet", (50, 0), left, 0).is_ok(),
            "a limit that was set holds"
        );
    }

    fn limit_of(error: &Error) -> (&'static str, u64, u64) {
        match error {
            Error::LimitReached { limit, used, allowed, .. } => (limit, *used, *allowed),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_only_account_may_use_all_and_one_of_several_half() {
        let shares = shares(&["acme"], AccountLimits::default());
        assert_eq!(shares.bounds_of("acme").owed_events_max, 10);
        shares.put("beta", AccountLimits::default().owed_events_max(Some(7)));
        let owed_max = |account| shares.bounds_of(account).owed_events_max;
        assert_eq!((owed_max("acme"), owed_max("beta"), owed_max("removed")), (5, 7, 5));
        assert_eq!((shares.bounds_of("acme").in_flight_max, shares.accounts().len()), (50, 2));
        shares.remove("beta");
        shares.remove("beta");
        assert_eq!(owed_max("acme"), 10);
    }

    #[test]
    fn queued_and_owed_events_count_and_the_neighbour_is_admitted() {
        let shares = shares(&["acme", "beta"], AccountLimits::default());
        let claims: Vec<_> = (0..3).map(|_| admit(&shares, "acme", (1, 10), 0).unwrap()).collect();
        shares.of("acme").owe(10);
        shares.of("acme").owe(10);
        let refused = admit(&shares, "acme", (1, 10), 0).unwrap_err();
        assert_eq!(limit_of(&refused), ("owed_events_max", 5, 5));
        assert!(admit(&shares, "beta", (1, 10), 0).is_ok(), "the neighbour has its own");
        drop(claims);
        assert_eq!(shares.of("acme").queued_events(), 0, "a refusal takes nothing");
        shares.of("acme").settle(10);
        assert!(admit(&shares, "acme", (4, 10), 0).is_ok());
        assert_eq!(shares.of("acme").owed(), (1, 10));
    }

    #[test]
    fn a_submission_larger_than_its_part_of_the_queue_passes_alone() {
        let shares = shares(&["acme", "beta"], AccountLimits::default().owed_events_max(Some(99)));
        let large = admit(&shares, "acme", (6, 0), 0).unwrap();
        let refused = admit(&shares, "acme", (1, 0), 0).unwrap_err();
        assert_eq!(limit_of(&refused), ("queued_events_max", 6, 4));
        assert!(admit(&shares, "beta", (1, 0), 0).is_ok());
        drop(large);
        assert!(admit(&shares, "acme", (1, 0), 0).is_ok());
    }

    #[test]
    fn a_rate_admits_a_burst_and_says_when_to_come_back() {
        let rate = AccountLimits::default().publish_rate(2, Duration::from_millis(100));
        let shares = shares(&["acme", "beta"], rate.owed_events_max(Some(99)));
        let publish = |account, now_ms| admit(&shares, account, (1, 0), now_ms).map(drop);
        assert!(publish("acme", 0).is_ok() && publish("acme", 0).is_ok());
        let refused = publish("acme", 10).unwrap_err();
        let wait = Some(Duration::from_millis(40));
        assert!(matches!(refused, Error::LimitReached { retry_after, .. } if retry_after == wait));
        assert!(publish("beta", 10).is_ok(), "the neighbour has its own rate");
        assert!(publish("acme", 50).is_ok() && publish("acme", 99).is_err());
        let large = shares.check_fits(&shares.set_limits(&shares.of("acme")), 3, 0).unwrap_err();
        assert_eq!(large.field(), Some("events"), "three events never fit");
    }

    #[test]
    fn tests_are_counted_by_account() {
        let shares = shares(&["acme", "beta"], AccountLimits::default().tests_per_minute(Some(1)));
        assert!(shares.admit_test("acme", 0).is_ok());
        let refused = shares.admit_test("acme", 59_999).unwrap_err();
        assert_eq!(limit_of(&refused), ("tests_per_minute", 1, 1));
        assert!(shares.admit_test("beta", 0).is_ok() && shares.admit_test("acme", 60_000).is_ok());
        shares.put("acme", AccountLimits::default().tests_per_minute(Some(0)));
        assert!(shares.admit_test("acme", 600_000).is_err(), "none at all");
    }
}
