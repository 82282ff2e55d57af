//! Checks each promise of the dispatcher by itself; `simulation` checks them together.

use super::*;
use crate::attempt::{Failure, Outcome, Reason};
use crate::stats::LaneStats;
use crate::subscription::Retry;

pub(super) const LANE: SubscriptionId = SubscriptionId(1);
pub(super) const BYSTANDER: SubscriptionId = SubscriptionId(9);
pub(super) const WALL_MS: u64 = 1_700_000_000_000;

pub(super) const LIMITS: DispatchLimits =
    DispatchLimits { lane_in_flight_max: 4, stuck_after_ms: 250, workers_max: 8, stuck_max: 16 };

impl Dispatcher {
    /// One event.
    pub(super) fn accept(&mut self, sequence: u64, key_hash: u64, to: &[SubscriptionId]) -> u64 {
        self.accepted(sequence..=sequence, &[key_hash], to)
    }
}

/// Waits 1 s, 2 s, then 4 s for ever, with three attempts and ten seconds of age.
pub(super) fn policy() -> Policy {
    let retry = Retry::Exponential { initial_ms: 1_000, max_ms: 4_000, jitter_permille: 0 };
    Policy { retry, attempts_max: Some(3), age_max_ms: 10_000, ..Policy::default() }
}

/// One lane under test, and one that is paused with deliveries owed, which nothing may touch.
pub(super) struct Bench {
    pub(super) dispatcher: Dispatcher,
    pub(super) now_ms: u64,
}

impl Bench {
    pub(super) fn new(limits: DispatchLimits) -> Bench {
        let mut dispatcher = Dispatcher::new(limits);
        dispatcher.set_lane(BYSTANDER, policy(), State::Paused, &HashMap::new());
        assert!(dispatcher.accept(900, 0, &[BYSTANDER]) == 0);
        let state =
            RetryState { attempts: 2, age_ms: 7, due_wall_ms: WALL_MS, saved_wall_ms: WALL_MS };
        let failed = DeliveryId { sequence: 901, subscription: BYSTANDER };
        dispatcher.recovered_retry(failed, 0, &state, 0, WALL_MS);
        dispatcher.tick(0);
        dispatcher.set_lane(LANE, policy(), State::Active, &HashMap::new());
        Bench { dispatcher, now_ms: 0 }
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

    /// Without what is to be remembered of the endpoint, and without how long it took.
    pub(super) fn end(&mut self, attempt: Attempt, outcome: Outcome) -> Completed {
        let completed = self.end_whole(attempt, outcome);
        Completed { health: None, took_ms: 0, trips: None, ..completed }
    }

    pub(super) fn end_whole(&mut self, attempt: Attempt, outcome: Outcome) -> Completed {
        let disable = match &outcome {
            Outcome::Gone(reason) => Some(reason.clone()),
            _ => None,
        };
        let judged = Judged { outcome, disable };
        self.dispatcher.complete(attempt, judged, self.now_ms, WALL_MS + self.now_ms, 0)
    }

    pub(super) fn pass_ms(&mut self, span_ms: u64) {
        self.now_ms += span_ms;
        self.dispatcher.tick(self.now_ms);
    }

    pub(super) fn stats(&self, id: SubscriptionId) -> LaneStats {
        let all = self.dispatcher.lane_stats();
        all.into_iter().find(|stats| stats.subscription == id).unwrap_or_default()
    }

    /// Fills the cap and returns what is under way.
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
        for lane in self.dispatcher.lane_stats() {
            if lane.subscription != BYSTANDER {
                self.dispatcher.remove_lane(lane.subscription);
            }
        }
        assert_eq!(self.dispatcher.owed(), 2);
        self.dispatcher.set_lane(BYSTANDER, policy(), State::Active, &HashMap::new());
        for (sequence, number) in [(901, 3), (900, 1)] {
            let delivery = DeliveryId { sequence, subscription: BYSTANDER };
            let attempt = Attempt { delivery, number };
            assert_eq!(self.next(), Some(attempt));
            let ended = self.end(attempt, Outcome::Delivered);
            assert_eq!(ended.record, Some(Record::Settle(delivery)));
        }
    }
}

pub(super) fn delivery(sequence: u64) -> DeliveryId {
    DeliveryId { sequence, subscription: LANE }
}

pub(super) fn attempt(sequence: u64, number: u32) -> Attempt {
    Attempt { delivery: delivery(sequence), number }
}

pub(super) fn retry() -> Outcome {
    Outcome::Retry { reason: Reason::Status(503), retry_after_ms: None }
}

pub(super) fn timeout() -> Outcome {
    Outcome::Retry { reason: Reason::Failed(Failure::Timeout), retry_after_ms: None }
}

pub(super) fn dead(sequence: u64, reason: Reason, attempts: u32, at_ms: u64) -> Completed {
    let at_wall_ms = WALL_MS + at_ms;
    let letter = Letter { delivery: delivery(sequence), reason, attempts, at_wall_ms };
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
fn a_delivered_attempt_settles_and_one_that_is_not_under_way_changes_nothing() {
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
fn a_failed_delivery_waits_its_time_and_dies_of_its_last_failure_when_attempts_are_used_up() {
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
fn a_delivery_whose_next_attempt_would_be_too_late_is_expired() {
    let mut bench = Bench::new(LIMITS);
    let policy = Policy { attempts_max: None, ..policy() };
    bench.dispatcher.set_lane(LANE, policy, State::Active, &HashMap::new());
    bench.owe([1]);
    // Attempts at 0, 1, 3 and 7 s; the next would be at 11 s, over 10.
    for (number, wait_ms) in [(1, 1_000), (2, 2_000), (3, 4_000)] {
        let attempt = bench.take(1, number);
        let ended = bench.end(attempt, retry());
        assert_eq!(ended, waits(1, number, bench.now_ms, bench.now_ms, wait_ms));
        bench.pass_ms(wait_ms);
    }
    let last = bench.take(1, 4);
    assert_eq!(bench.end(last, retry()), dead(1, Reason::Expired, 4, 7_000));
}

#[test]
fn age_is_not_used_up_while_a_lane_is_paused_without_another_attempt() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1]);
    let first = bench.take(1, 1);
    assert_eq!(bench.end(first, retry()), waits(1, 1, 0, 0, 1_000));
    bench.dispatcher.set_lane(LANE, policy(), State::Paused, &HashMap::new());
    bench.pass_ms(50_000);
    assert_eq!(bench.next(), None);
    bench.dispatcher.set_lane(LANE, policy(), State::Active, &HashMap::new());
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
fn a_receiver_that_is_gone_disables_its_lane_and_what_else_it_is_owed_stays() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1, 2]);
    let first = bench.take(1, 1);
    let reason = Reason::Status(410);
    let expected = Completed { disabled: Some(reason.clone()), ..dead(1, reason.clone(), 1, 0) };
    assert_eq!(bench.end(first, Outcome::Gone(reason)), expected);
    bench.owe([3]);
    assert_eq!((bench.next(), bench.stats(LANE).owed), (None, 2));
    bench.dispatcher.set_lane(LANE, policy(), State::Active, &HashMap::new());
    bench.take(2, 1);
}

#[test]
fn an_interrupted_attempt_does_not_count() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1]);
    let first = bench.take(1, 1);
    assert_eq!(bench.end(first, Outcome::Interrupted), Completed::default());
    let again = bench.take(1, 1);
    let _ = bench.end(again, retry());
    bench.pass_ms(1_000);
    let second = bench.take(1, 2);
    assert_eq!(bench.end(second, Outcome::Interrupted), Completed::default());
    let second = bench.take(1, 2);
    let _ = bench.end(second, Outcome::Delivered);
    assert_eq!(bench.stats(LANE).owed, 0);
}

#[test]
fn what_failed_goes_before_what_was_never_tried_in_the_order_in_which_it_fell_due() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1, 2, 3]);
    for sequence in [1, 2] {
        let attempt = bench.take(sequence, 1);
        let _ = bench.end(attempt, retry());
        bench.now_ms += 1;
    }
    bench.pass_ms(2_000);
    for (sequence, number) in [(1, 2), (2, 2), (3, 1)] {
        let attempt = bench.take(sequence, number);
        let _ = bench.end(attempt, Outcome::Delivered);
    }
}

#[test]
fn retry_after_is_waited_for() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1]);
    let first = bench.take(1, 1);
    let asked = Outcome::Retry { reason: Reason::Status(429), retry_after_ms: Some(5_000) };
    assert_eq!(bench.end(first, asked), waits(1, 1, 0, 0, 5_000));
    assert_eq!(bench.dispatcher.next_wake_ms(), Some(5_000));
}

#[test]
fn the_cap_starts_at_one_grows_with_success_and_halves_on_failure() {
    let mut bench = Bench::new(LIMITS);
    bench.owe(1..100);
    // Each round fills the cap, then one attempt ends so.
    let mut under_way = bench.take_all();
    assert_eq!(under_way.len(), 1);
    for (outcome, expected) in [
        (Outcome::Delivered, 2),
        (Outcome::Delivered, 3),
        (Outcome::Delivered, 4),
        (Outcome::Delivered, 4),
        (Outcome::Interrupted, 4),
    ] {
        let ended = under_way.remove(0);
        let _ = bench.end(ended, outcome);
        under_way.extend(bench.take_all());
        assert_eq!(under_way.len(), expected);
    }
    for (expected, ended) in [(3, 0), (2, 0), (1, 0)] {
        let ended = under_way.remove(ended);
        let _ = bench.end(ended, retry());
        under_way.extend(bench.take_all());
        assert_eq!(under_way.len(), expected, "the cap is below what is under way");
    }
}

#[test]
fn ready_lanes_take_turns() {
    let mut bench = Bench::new(LIMITS);
    bench.dispatcher.set_lane(SubscriptionId(2), policy(), State::Active, &HashMap::new());
    bench.owe([1, 2, 3]);
    for sequence in [1, 2] {
        let _ = bench.dispatcher.accept(sequence, 0, &[SubscriptionId(2)]);
    }
    let mut served = Vec::new();
    while let Some(attempt) = bench.next() {
        served.push((attempt.delivery.subscription.0, attempt.delivery.sequence));
        let _ = bench.end(attempt, Outcome::Delivered);
    }
    assert_eq!(served, [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3)]);
}

#[test]
fn an_attempt_without_an_answer_is_stuck_and_a_replacement_is_wanted() {
    let mut bench = Bench::new(LIMITS);
    let other = SubscriptionId(2);
    bench.dispatcher.set_lane(other, policy(), State::Active, &HashMap::new());
    bench.owe([1, 2]);
    let first = bench.take(1, 1);
    assert_eq!(bench.dispatcher.workers_wanted(), 1);
    assert_eq!(bench.dispatcher.next_wake_ms(), Some(250));
    bench.pass_ms(249);
    assert_eq!(bench.dispatcher.stuck(), 0);
    bench.pass_ms(1);
    assert_eq!((bench.dispatcher.stuck(), bench.dispatcher.in_flight()), (1, 1));
    assert_eq!(bench.dispatcher.next_wake_ms(), None);
    let _ = bench.dispatcher.accept(7, 0, &[other]);
    assert_eq!(bench.dispatcher.workers_wanted(), 2, "one stuck, one for the other lane");
    assert_eq!(bench.next().unwrap().delivery.subscription, other);
    // Answered late: the lane goes on, behind the other one and at the stuck budget's cost.
    let _ = bench.end(first, Outcome::Delivered);
    assert_eq!(bench.dispatcher.stuck(), 0);
    let second = bench.take(2, 1);
    assert_eq!(bench.dispatcher.workers_wanted(), 2);
    // Answered in time: as good as any other again.
    let _ = bench.end(second, Outcome::Delivered);
    bench.owe([3]);
    bench.take(3, 1);
    assert_eq!(bench.dispatcher.flights.charged(), 1, "the other's, which never answered");
}

#[test]
fn a_stuck_attempt_takes_its_lane_back_to_one_at_a_time() {
    let mut bench = Bench::new(LIMITS);
    bench.owe(1..20);
    for sequence in 1..3 {
        let attempt = bench.take(sequence, 1);
        let _ = bench.end(attempt, Outcome::Delivered);
    }
    let mut under_way = bench.take_all();
    assert_eq!(under_way.len(), 3);
    bench.pass_ms(250);
    for left in [2, 1] {
        // An interruption is our doing, so it does not change the cap.
        let _ = bench.end(under_way.remove(0), Outcome::Interrupted);
        assert_eq!((bench.next(), bench.dispatcher.in_flight()), (None, left));
    }
    let _ = bench.end(under_way.remove(0), Outcome::Interrupted);
    assert_eq!(bench.take_all().len(), 1);
}

#[test]
fn a_lane_that_timed_out_goes_behind_lanes_never_tried() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1, 2]);
    let first = bench.take(1, 1);
    let _ = bench.end(first, timeout());
    let never_tried = SubscriptionId(2);
    bench.dispatcher.set_lane(never_tried, policy(), State::Active, &HashMap::new());
    let _ = bench.dispatcher.accept(5, 0, &[never_tried]);
    assert_eq!(bench.next().unwrap().delivery.subscription, never_tried);
    bench.take(2, 1);
}

#[test]
fn workers_are_wanted_up_to_both_maxima_and_a_spent_budget_is_told() {
    let limits = DispatchLimits { workers_max: 2, stuck_max: 3, ..LIMITS };
    let mut bench = Bench::new(limits);
    let lanes: Vec<_> = (10..18).map(SubscriptionId).collect();
    for id in &lanes {
        bench.dispatcher.set_lane(*id, policy(), State::Active, &HashMap::new());
    }
    let _ = bench.dispatcher.accept(1, 0, &lanes);
    let _ = bench.dispatcher.accept(2, 0, &lanes);
    assert_eq!(bench.dispatcher.workers_wanted(), 2);
    for (hanging, wanted, spent) in [(2, 4, false), (3, 5, true), (5, 5, true)] {
        while bench.dispatcher.in_flight() < hanging {
            assert!(bench.next().is_some());
        }
        bench.pass_ms(250);
        assert_eq!(bench.dispatcher.stuck(), hanging);
        assert_eq!(bench.dispatcher.workers_wanted(), wanted);
        assert_eq!(bench.dispatcher.stuck_budget_spent(), spent);
    }
}

#[test]
fn without_a_stuck_budget_a_slow_lane_is_still_served() {
    let mut bench = Bench::new(DispatchLimits { stuck_max: 0, ..LIMITS });
    bench.owe([1, 2, 3]);
    for sequence in [1, 2, 3] {
        let attempt = bench.take(sequence, 1);
        assert_eq!(bench.dispatcher.workers_wanted(), 1);
        bench.pass_ms(300);
        assert_eq!(bench.dispatcher.workers_wanted(), 1);
        let _ = bench.end(attempt, Outcome::Delivered);
    }
}

#[test]
fn a_removed_lane_is_cancelled_and_its_attempts_under_way_are_ignored_but_hold_threads() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1, 2, 3]);
    let first = bench.take(1, 1);
    let _ = bench.end(first, retry());
    let second = bench.take(2, 1);
    assert_eq!(bench.dispatcher.remove_lane(LANE).len(), 3);
    assert_eq!(bench.dispatcher.remove_lane(LANE).len(), 0);
    assert_eq!((bench.dispatcher.owed(), bench.dispatcher.in_flight()), (2, 1));
    bench.pass_ms(250);
    assert_eq!(bench.dispatcher.next_wake_ms(), None, "no timer of it is left");
    bench.pass_ms(1_750);
    assert_eq!((bench.next(), bench.dispatcher.stuck()), (None, 1));
    let targets = [LANE, BYSTANDER];
    bench.dispatcher.set_lane(BYSTANDER, policy(), State::Paused, &HashMap::new());
    assert_eq!(bench.dispatcher.accept(900, 0, &targets), 1);
    assert_eq!(bench.end(second, Outcome::Delivered), Completed::default());
    assert_eq!(bench.dispatcher.workers_wanted(), 0);
    assert!(bench.dispatcher.orphans.is_empty());
}

#[test]
fn what_is_owed_to_somebody_unknown_is_held_until_its_lane_is_set() {
    let mut bench = Bench::new(LIMITS);
    let unknown = SubscriptionId(3);
    bench.dispatcher.recovered(unknown, [1].into_iter().collect(), &HashMap::new());
    bench.dispatcher.recovered(unknown, [1].into_iter().collect(), &HashMap::new());
    bench.dispatcher.recovered(unknown, (2..5).collect(), &HashMap::new());
    let failed = DeliveryId { sequence: 5, subscription: unknown };
    let state = RetryState { attempts: 1, age_ms: 0, due_wall_ms: WALL_MS, saved_wall_ms: WALL_MS };
    bench.dispatcher.recovered_retry(failed, 0, &state, 0, WALL_MS);
    bench.pass_ms(1);
    assert_eq!((bench.dispatcher.held(), bench.dispatcher.owed()), (5, 7));
    assert_eq!(bench.next(), None);
    bench.dispatcher.set_lane(unknown, policy(), State::Active, &HashMap::new());
    assert_eq!((bench.dispatcher.held(), bench.dispatcher.owed()), (0, 7));
    assert_eq!(bench.next(), Some(Attempt { delivery: failed, number: 2 }));
    bench.dispatcher.recovered(SubscriptionId(4), [1].into_iter().collect(), &HashMap::new());
    assert_eq!(bench.dispatcher.remove_lane(SubscriptionId(4)).len(), 1);
    assert_eq!((bench.dispatcher.held(), bench.dispatcher.remove_lane(unknown).len()), (0, 5));
}

#[test]
fn recovered_deliveries_go_on_at_their_attempt_their_age_and_what_is_left_of_their_wait() {
    let mut bench = Bench::new(LIMITS);
    bench.now_ms = 50;
    let state = RetryState {
        attempts: 1,
        age_ms: 6_000,
        due_wall_ms: WALL_MS + 1_000,
        saved_wall_ms: WALL_MS,
    };
    // Two hundred milliseconds of downtime; then again with a clock that jumped back.
    bench.dispatcher.recovered_retry(delivery(1), 0, &state, 50, WALL_MS + 200);
    bench.dispatcher.recovered_retry(delivery(2), 0, &state, 50, 0);
    bench.dispatcher.recovered_retry(delivery(2), 0, &state, 50, WALL_MS + 9_000);
    bench.dispatcher.recovered(LANE, (1..4).collect(), &HashMap::new());
    assert_eq!(bench.stats(LANE).owed, 3);
    assert_eq!(bench.dispatcher.next_wake_ms(), Some(850));
    let third = bench.take(3, 1);
    let _ = bench.end(third, Outcome::Delivered);
    bench.pass_ms(800);
    let first = bench.take(1, 2);
    assert_eq!(bench.dispatcher.next_wake_ms(), Some(1_050));
    assert_eq!(bench.end(first, retry()), waits(1, 2, 7_000, 850, 2_000));
    bench.pass_ms(200);
    let second = bench.take(2, 2);
    bench.now_ms += 2_001;
    assert_eq!(bench.end(second, retry()), dead(2, Reason::Expired, 2, 3_051));
}

#[test]
fn a_delivery_owed_twice_is_owed_once_wherever_it_is() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1, 1, 2]);
    let first = bench.take(1, 1);
    bench.owe([1]);
    bench.dispatcher.recovered(LANE, (1..3).collect(), &HashMap::new());
    assert_eq!(bench.stats(LANE).owed, 2);
    let _ = bench.end(first, retry());
    bench.owe([1]);
    bench.dispatcher.recovered(LANE, (1..3).collect(), &HashMap::new());
    assert_eq!(bench.stats(LANE).owed, 2);
    let second = bench.take(2, 1);
    let _ = bench.end(second, Outcome::Delivered);
    assert_eq!(bench.next(), None);
}

#[test]
fn changed_terms_apply_to_what_is_already_owed() {
    let mut bench = Bench::new(LIMITS);
    bench.owe([1]);
    let first = bench.take(1, 1);
    let once = Policy { attempts_max: Some(1), ..policy() };
    bench.dispatcher.set_lane(LANE, once, State::Active, &HashMap::new());
    assert_eq!(bench.end(first, retry()), dead(1, Reason::Status(503), 1, 0));
}

#[test]
fn a_tick_is_bounded_and_says_that_there_is_more() {
    let mut bench = Bench::new(LIMITS);
    let state = RetryState { attempts: 1, age_ms: 0, due_wall_ms: WALL_MS, saved_wall_ms: WALL_MS };
    let many = TICK_MAX as u64 + 1;
    for sequence in 0..many {
        bench.dispatcher.recovered_retry(delivery(sequence), 0, &state, 0, WALL_MS);
    }
    bench.pass_ms(1);
    assert_eq!(bench.dispatcher.next_wake_ms(), Some(0));
    bench.pass_ms(0);
    assert_eq!(bench.dispatcher.next_wake_ms(), None);
    assert_eq!(bench.stats(LANE).retrying, many);
}

#[test]
fn a_run_of_events_is_owed_as_one_after_the_other_is() {
    let mut bench = Bench::new(LIMITS);
    let other = SubscriptionId(2);
    bench.dispatcher.set_lane(other, policy(), State::Paused, &HashMap::new());
    bench.owe([2, 4]);
    let failed = bench.take(2, 1);
    let _ = bench.end(failed, retry());
    let _under_way = bench.take(4, 1);
    // Of the run, 2 waits for its next attempt and 4 is under way.
    let targets = [LANE, SubscriptionId(77), other];
    assert_eq!(bench.dispatcher.accepted(1..=5, &[0; 5], &targets), 5, "77 has no lane");
    assert_eq!(bench.dispatcher.accepted(5..=6, &[0; 2], &[LANE]), 0);
    assert_eq!(bench.dispatcher.owed(), 6 + 5 + 2);
    let mut owed = bench.dispatcher.owed_among(&(0..100).collect());
    assert_eq!(owed.remove(&LANE), Some((1..=6).collect()));
    assert_eq!(owed.remove(&other), Some((1..=5).collect()));
    assert_eq!(owed.len(), 0);
}
