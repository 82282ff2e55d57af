//! Checks each promise of the dispatcher by itself; `simulation` checks them together.

mod bounds;
mod lanes;
mod policy;

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::*;
use crate::attempt::{Outcome, Reason};
use crate::stats::{Bound, LaneStats};
use crate::subscription::Retry;
use crate::transport::Failure;

pub(super) const LANE: SubscriptionId = SubscriptionId(1);
pub(super) const BYSTANDER: SubscriptionId = SubscriptionId(9);
pub(super) const WALL_MS: u64 = 1_700_000_000_000;

pub(super) const LIMITS: DispatchLimits =
    DispatchLimits { lane_in_flight_max: 4, in_flight_max: 16, threads: 1 };

pub(super) const ACTIVE: SubscriptionState = SubscriptionState::Active;
pub(super) const PAUSED: SubscriptionState = SubscriptionState::Paused;
const FILES: Bound = Bound::Shortage(Shortage::Files);
pub(super) const ACCOUNT: &str = "acme";

impl Dispatcher {
    fn accepted_whole(
        &mut self,
        sequences: RangeInclusive<u64>,
        key_hashes: &[u64],
        targets: &[SubscriptionId],
    ) -> u64 {
        let mut targets = targets.to_vec();
        targets.sort_unstable();
        let events = sequences.zip(key_hashes.iter().copied());
        self.owe(ACCOUNT, FanOut::new(events, targets.into()), usize::MAX);
        self.take_cancelled()
    }

    /// The next attempt where one thread makes all.
    pub(super) fn next_attempt(&mut self, now_ms: u64) -> Option<Attempt> {
        self.next_attempt_of(LoopId::default(), now_ms)
    }

    /// One event.
    pub(super) fn accept(&mut self, sequence: u64, key_hash: u64, to: &[SubscriptionId]) -> u64 {
        self.note_accepted(sequence, self.now_ms);
        self.accepted_whole(sequence..=sequence, &[key_hash], to)
    }
}

pub(super) const fn ms(span: u64) -> Duration {
    Duration::from_millis(span)
}

/// Waits 1 s, 2 s, then 4 s for ever, with three attempts and ten seconds of age.
pub(super) fn policy() -> Policy {
    let retry = Retry::Exponential { initial: ms(1_000), max: ms(4_000), jitter_permille: 0 };
    Policy { retry, attempts_max: Some(3), age_max: ms(10_000), ..Policy::default() }
}

/// One lane under test, and one that is paused with deliveries owed, which nothing may touch.
pub(super) struct Bench {
    pub(super) dispatcher: Dispatcher,
    pub(super) now_ms: u64,
}

impl Bench {
    pub(super) fn new(limits: DispatchLimits) -> Bench {
        let mut dispatcher = Dispatcher::new(limits);
        dispatcher.set_lane(BYSTANDER, ACCOUNT, policy(), PAUSED, &HashMap::new());
        assert!(dispatcher.accept(900, 0, &[BYSTANDER]) == 0);
        let state =
            RetryState { attempts: 2, age_ms: 7, due_wall_ms: WALL_MS, saved_wall_ms: WALL_MS };
        let failed = DeliveryId { sequence: 901, subscription: BYSTANDER };
        dispatcher.recovered_retry(failed, 0, &state, 0, WALL_MS);
        dispatcher.tick(0);
        dispatcher.set_lane(LANE, ACCOUNT, policy(), ACTIVE, &HashMap::new());
        Bench { dispatcher, now_ms: 0 }
    }

    pub(super) fn set(&mut self, id: SubscriptionId, policy: Policy, state: SubscriptionState) {
        self.dispatcher.set_lane(id, ACCOUNT, policy, state, &HashMap::new());
    }

    pub(super) fn owe(&mut self, sequences: impl IntoIterator<Item = u64>) {
        for sequence in sequences {
            assert!(self.dispatcher.accept(sequence, 0, &[LANE]) == 0);
        }
    }

    pub(super) fn next(&mut self) -> Option<Attempt> {
        self.dispatcher.next_attempt(self.now_ms)
    }

    pub(super) fn take(&mut self, sequence: u64, number: u32) -> Attempt {
        let attempt = attempt(sequence, number);
        assert_eq!(self.next(), Some(attempt));
        attempt
    }

    /// Takes an attempt and ends it so.
    pub(super) fn run(&mut self, sequence: u64, number: u32, outcome: Outcome) {
        let attempt = self.take(sequence, number);
        let _ = self.end(attempt, outcome);
    }

    /// Without what is to be remembered of the endpoint, and without how long it took.
    pub(super) fn end(&mut self, attempt: Attempt, outcome: Outcome) -> Completed {
        let completed = self.end_whole(attempt, outcome);
        Completed { health: None, reason: None, took_ms: 0, trips: None, ..completed }
    }

    pub(super) fn end_whole(&mut self, attempt: Attempt, outcome: Outcome) -> Completed {
        let context = self.context();
        self.dispatcher.end(attempt, judged(outcome), context)
    }

    pub(super) fn end_short(&mut self, attempt: Attempt, shortage: Shortage) -> Completed {
        let end = AttemptEnd::Uncounted(shortage);
        self.dispatcher.complete(attempt, &end, self.context())
    }

    pub(super) fn context(&self) -> StepContext {
        StepContext { now_ms: self.now_ms, wall_ms: WALL_MS + self.now_ms, random: 0 }
    }

    pub(super) fn pass_ms(&mut self, span_ms: u64) {
        self.now_ms += span_ms;
        self.dispatcher.tick(self.now_ms);
    }

    pub(super) fn stats(&self, id: SubscriptionId) -> LaneStats {
        let all = self.dispatcher.lane_stats(self.now_ms);
        all.into_iter().find(|stats| stats.subscription == id).unwrap_or_default()
    }

    /// Fills the cap and returns what is in flight.
    pub(super) fn take_all(&mut self) -> Vec<Attempt> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

impl Drop for Bench {
    /// The bystander is as it was: both deliveries owed, at their attempts, in their order.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let expected =
            LaneStats { subscription: BYSTANDER, owed: 2, retrying: 1, ..LaneStats::default() };
        assert_eq!(self.stats(BYSTANDER), expected);
        for lane in self.dispatcher.lane_stats(self.now_ms) {
            if lane.subscription != BYSTANDER {
                self.dispatcher.remove_lane(lane.subscription);
            }
        }
        assert_eq!(self.dispatcher.owed(), 2);
        self.dispatcher.set_lane(BYSTANDER, ACCOUNT, policy(), ACTIVE, &HashMap::new());
        for (sequence, number) in [(901, 3), (900, 1)] {
            let delivery = DeliveryId { sequence, subscription: BYSTANDER };
            let attempt = Attempt { delivery, number };
            assert_eq!(self.next(), Some(attempt));
            let ended = self.end(attempt, Outcome::Delivered);
            assert_eq!(ended.record, Some(Record::Settle(delivery)));
        }
    }
}

pub(super) fn judged(outcome: Outcome) -> Judgement {
    let disable = match &outcome {
        Outcome::Gone(reason) => Some(reason.clone()),
        _ => None,
    };
    Judgement { outcome, disable }
}

fn answered(status: u16) -> AttemptEnd {
    AttemptEnd::Reply(Reply::status(status))
}

pub(super) fn delivery(sequence: u64) -> DeliveryId {
    DeliveryId { sequence, subscription: LANE }
}

pub(super) fn attempt(sequence: u64, number: u32) -> Attempt {
    Attempt { delivery: delivery(sequence), number }
}

pub(super) fn retry() -> Outcome {
    Outcome::Retry { reason: Reason::Status(503), retry_after: None }
}

pub(super) fn timeout() -> Outcome {
    Outcome::Retry { reason: Reason::Failed(Failure::Timeout), retry_after: None }
}

pub(super) fn dead(sequence: u64, reason: Reason, attempts: u32, at_ms: u64) -> Completed {
    let at_wall_ms = WALL_MS + at_ms;
    let letter = StoredDeadLetter { delivery: delivery(sequence), reason, attempts, at_wall_ms };
    Completed { record: Some(Record::Dead(letter)), ..Completed::default() }
}

pub(super) fn waits(
    sequence: u64,
    attempts: u32,
    age_ms: u64,
    at_ms: u64,
    wait_ms: u64,
) -> Completed {
    let saved_wall_ms = WALL_MS + at_ms;
    let due_wall_ms = saved_wall_ms + wait_ms;
    let state = RetryState { attempts, age_ms, due_wall_ms, saved_wall_ms };
    Completed { record: Some(Record::Retry(delivery(sequence), state)), ..Completed::default() }
}

#[test]
fn an_attempt_ends_once_and_settles_its_delivery() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1]);
    assert_eq!(bench.end(attempt(1, 1), Outcome::Delivered), Completed::default());
    let first = bench.take(1, 1);
    assert_eq!(bench.end(attempt(1, 2), Outcome::Delivered), Completed::default());
    let ended = bench.end(first, Outcome::Delivered);
    assert_eq!(ended.record, Some(Record::Settle(delivery(1))));
    assert_eq!(bench.end(first, Outcome::Delivered), Completed::default());
    assert_eq!((bench.next(), bench.dispatcher.owed()), (None, 2));
    assert_eq!(bench.stats(LANE).delivered, 1);
}

#[test]
fn a_delivery_dies_of_its_last_failure() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1]);
    let first = bench.take(1, 1);
    bench.now_ms = 10;
    assert_eq!(bench.end(first, retry()), waits(1, 1, 10, 10, 1_000));
    assert_eq!(bench.dispatcher.next_wake_ms(), Some(1_010));
    bench.pass_ms(999);
    assert_eq!(bench.next(), None);
    bench.pass_ms(1);
    let second = bench.take(1, 2);
    assert_eq!(bench.end(second, retry()), waits(1, 2, 1_010, 1_010, 2_000));
    bench.pass_ms(2_000);
    let third = bench.take(1, 3);
    assert_eq!(bench.end(third, timeout()), dead(1, Reason::Failed(Failure::Timeout), 3, 3_010));
    assert_eq!(bench.dispatcher.next_wake_ms(), None);
    assert_eq!((bench.stats(LANE).dead, bench.stats(LANE).failures_in_row), (1, 3));
}

#[test]
fn a_last_attempt_is_made_at_the_end_of_the_age() {
    let mut bench = Bench::new(LIMITS);
    let policy = Policy { attempts_max: None, ..policy() };
    bench.set(LANE, policy, ACTIVE);
    bench.owe([1]);
    // Attempts at 0, 1, 3 and 7 s; the next would be at 11 s, so the last one is at 10 s.
    for (number, wait_ms) in [(1, 1_000), (2, 2_000), (3, 4_000), (4, 3_000)] {
        let attempt = bench.take(1, number);
        let ended = bench.end(attempt, retry());
        assert_eq!(ended, waits(1, number, bench.now_ms, bench.now_ms, wait_ms));
        bench.pass_ms(wait_ms);
    }
    let last = bench.take(1, 5);
    assert_eq!(bench.end(last, retry()), dead(1, Reason::Expired, 5, 10_000));
}

#[test]
fn a_paused_lane_still_makes_another_attempt() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1]);
    let first = bench.take(1, 1);
    assert_eq!(bench.end(first, retry()), waits(1, 1, 0, 0, 1_000));
    bench.set(LANE, policy(), PAUSED);
    bench.pass_ms(50_000);
    assert_eq!(bench.next(), None);
    bench.set(LANE, policy(), ACTIVE);
    let second = bench.take(1, 2);
    let ended = bench.end(second, Outcome::Delivered);
    assert_eq!(ended.record, Some(Record::Settle(delivery(1))));
}

#[test]
fn a_dead_outcome_ends_a_delivery_at_once() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1, 2]);
    let first = bench.take(1, 1);
    let reason = Reason::Status(404);
    assert_eq!(bench.end(first, Outcome::Dead(reason.clone())), dead(1, reason, 1, 0));
    let _ = bench.take(2, 1);
    assert_eq!(bench.stats(LANE).owed, 1);
}

#[test]
fn a_receiver_that_is_gone_disables_its_lane() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1, 2]);
    let first = bench.take(1, 1);
    let reason = Reason::Status(410);
    let expected = Completed { disabled: Some(reason.clone()), ..dead(1, reason.clone(), 1, 0) };
    assert_eq!(bench.end(first, Outcome::Gone(reason)), expected);
    bench.owe([3]);
    assert_eq!((bench.next(), bench.stats(LANE).owed), (None, 2));
    bench.set(LANE, policy(), ACTIVE);
    bench.take(2, 1);
}

#[test]
fn an_interrupted_attempt_does_not_count() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1]);
    let first = bench.take(1, 1);
    assert_eq!(bench.end(first, Outcome::Interrupted), Completed::default());
    bench.run(1, 1, retry());
    bench.pass_ms(1_000);
    let second = bench.take(1, 2);
    assert_eq!(bench.end(second, Outcome::Interrupted), Completed::default());
    bench.run(1, 2, Outcome::Delivered);
    assert_eq!(bench.stats(LANE).owed, 0);
}

#[test]
fn retries_go_before_first_attempts() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1, 2, 3]);
    for sequence in [1, 2] {
        bench.run(sequence, 1, retry());
        bench.now_ms += 1;
    }
    bench.pass_ms(2_000);
    for (sequence, number) in [(1, 2), (2, 2), (3, 1)] {
        bench.run(sequence, number, Outcome::Delivered);
    }
}

#[test]
fn retry_after_is_waited_for() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1]);
    let first = bench.take(1, 1);
    let asked = Outcome::Retry { reason: Reason::Status(429), retry_after: Some(ms(5_000)) };
    assert_eq!(bench.end(first, asked), waits(1, 1, 0, 0, 5_000));
    assert_eq!(bench.dispatcher.next_wake_ms(), Some(5_000));
}
