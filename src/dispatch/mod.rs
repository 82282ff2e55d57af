//! Decides which attempt is next, and what an attempt's outcome changes.
//!
//! Leaves to others: making attempts (`delivery`), making changes durable (`outbox`), threads, locks
//! and the time (`engine`). Invariant (I6): a pure state machine. Values go in (accepted, completed,
//! tick, subscription changed), attempts and records come out; the time, the wall time and chance
//! are arguments, and the next moment at which time alone changes something is a result.
//!
//! ```text
//! accepted ----> pending --+                    +--> settled (Delivered)
//!                          +--> next_attempt ---+--> dead letter (Dead, Gone, used up, expired)
//! tick: waiting --> due ---+         |          +--> waiting (Retry) --> tick
//!                          ^         v
//!                          +---- interrupted
//! ```
//!
//! Every step costs a few look-ups in maps and queues; none looks at all lanes or all that is owed.

mod backoff;
mod flights;
mod lane;
mod outcome;
#[cfg(test)]
mod simulation;
mod turns;

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;

use roaring::RoaringTreemap;

pub(crate) use outcome::outcome;

use crate::attempt::{Attempt, DeliveryId, Letter, Outcome, Record, RetryState};
use crate::stats::LaneStats;
use crate::subscription::{Policy, State, SubscriptionId};
use flights::{Flight, Flights};
use lane::{Ending, Lane, Retrying};
use turns::Turns;

/// The bounds of dispatch; [`Limits`](crate::Limits) says why their defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DispatchLimits {
    /// How many attempts one lane may have under way; 0 counts as 1.
    pub(crate) lane_in_flight_max: usize,
    /// After how long an attempt without an answer is stuck, in milliseconds.
    pub(crate) stuck_after_ms: u64,
    /// How many worker threads are useful beside those of attempts without an answer.
    pub(crate) workers_max: usize,
    /// How many threads may wait on attempts without an answer.
    pub(crate) stuck_max: usize,
}

/// What every subscription is owed, and which attempt is next.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    limits: DispatchLimits,
    lanes: HashMap<SubscriptionId, Box<Lane>>,
    turns: Turns,
    flights: Flights,
    /// Attempts under way whose lane was removed: they hold a thread until they end, and no more.
    orphans: HashMap<DeliveryId, Flight>,
    /// Deliveries that failed, by the time at which they are due.
    waiting: BTreeSet<(u64, DeliveryId)>,
    owed: u64,
    held: u64,
}

/// What the end of an attempt changes for others.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "a record that is not made durable is lost at the next crash"]
pub(crate) struct Completed {
    /// The delivery's change of state, to be made durable. `None` where there is none: the attempt
    /// was interrupted, or its subscription is removed.
    pub(crate) record: Option<Record>,
    /// Whether the receiver is gone and the lane is disabled now, which must be kept and told.
    pub(crate) disabled: bool,
}

/// How many timers one tick handles, so that the lock around it stays short. What is left is due at
/// once: [`Dispatcher::next_wake_ms`] says so.
const TICK_MAX: usize = 4_096;

impl Dispatcher {
    /// A dispatcher without lanes.
    pub(crate) fn new(limits: DispatchLimits) -> Dispatcher {
        Dispatcher {
            limits,
            lanes: HashMap::new(),
            turns: Turns::default(),
            flights: Flights::default(),
            orphans: HashMap::new(),
            waiting: BTreeSet::new(),
            owed: 0,
            held: 0,
        }
    }

    /// Adds a lane, or changes the terms of one; what it is owed stays, also what was held.
    pub(crate) fn set_lane(&mut self, id: SubscriptionId, policy: Policy, state: State) {
        let lane = self.lanes.entry(id).or_insert_with(|| Box::new(Lane::held()));
        if lane.is_held() {
            self.held -= lane.owed();
        }
        lane.set(policy, state);
        lane.take_place(id, &mut self.turns);
    }

    /// Removes a lane. Returns what it was owed, which is cancelled with it; the end of a delivery
    /// under way is ignored later.
    pub(crate) fn remove_lane(&mut self, id: SubscriptionId) -> RoaringTreemap {
        let Some(mut lane) = self.lanes.remove(&id) else { return RoaringTreemap::new() };
        lane.leave_place(&mut self.turns);
        let cancelled = lane.sequences();
        self.owed -= cancelled.len();
        if lane.is_held() {
            self.held -= cancelled.len();
        }
        for (sequence, retrying) in lane.retries() {
            let delivery = DeliveryId { sequence, subscription: id };
            self.waiting.remove(&(retrying.due_ms, delivery));
        }
        for flight in lane.into_flights() {
            let delivery = DeliveryId { sequence: flight.sequence, subscription: id };
            self.orphans.insert(delivery, flight);
        }
        cancelled
    }

    /// Owes a durable event to its targets. Returns the targets that have no lane, because they were
    /// removed since the event was matched: their deliveries are cancelled.
    #[must_use = "a cancelled delivery is counted"]
    pub(crate) fn accepted(
        &mut self,
        sequence: u64,
        targets: impl Iterator<Item = SubscriptionId>,
    ) -> Vec<SubscriptionId> {
        let mut cancelled = Vec::new();
        for id in targets {
            let Some(lane) = self.lanes.get_mut(&id) else {
                cancelled.push(id);
                continue;
            };
            let new = lane.owe(sequence);
            self.count_owed(id, u64::from(new));
        }
        cancelled
    }

    /// Owes durable events of consecutive sequences to targets that they share. Returns how many
    /// deliveries are cancelled, as [`accepted`](Self::accepted) says. It costs each lane about as
    /// much as one event does.
    #[must_use = "a cancelled delivery is counted"]
    pub(crate) fn accepted_run(
        &mut self,
        sequences: RangeInclusive<u64>,
        targets: &[SubscriptionId],
    ) -> u64 {
        let mut missing = 0;
        for id in targets {
            let Some(lane) = self.lanes.get_mut(id) else {
                missing += 1;
                continue;
            };
            let new = lane.owe_run(sequences.clone());
            self.owed += new;
            if lane.is_held() {
                self.held += new;
            }
            lane.take_place(*id, &mut self.turns);
        }
        missing * sequences.count() as u64
    }

    /// Owes what was found never tried when the outbox was opened; held where the lane is unknown.
    pub(crate) fn recovered(&mut self, id: SubscriptionId, pending: RoaringTreemap) {
        let new = self.lane_or_held(id).owe_all(pending);
        self.count_owed(id, new);
    }

    /// Owes a delivery that had failed before the outbox was opened; held where its lane is unknown.
    /// It is due after what is left of its wait, of which a jump of the wall clock can add nothing.
    pub(crate) fn recovered_retry(
        &mut self,
        delivery: DeliveryId,
        state: &RetryState,
        now_ms: u64,
        wall_ms: u64,
    ) {
        let (age_ms, left_ms) = backoff::resumed_ms(state, wall_ms);
        let due_ms = now_ms.saturating_add(left_ms);
        let retrying = Retrying { attempts: state.attempts, age_ms, at_ms: now_ms, due_ms };
        let id = delivery.subscription;
        let (waits, new) = self.lane_or_held(id).owe_retry(delivery.sequence, retrying);
        if waits {
            self.waiting.insert((due_ms, delivery));
        }
        self.count_owed(id, u64::from(new));
    }

    /// Of these sequences, what each subscription is owed.
    pub(crate) fn owed_among(
        &self,
        sequences: &RoaringTreemap,
    ) -> HashMap<SubscriptionId, RoaringTreemap> {
        let lanes = self.lanes.iter().map(|(id, lane)| (*id, lane.owed_among(sequences)));
        lanes.filter(|(_, owed)| !owed.is_empty()).collect()
    }

    /// The next attempt, if a lane is ready. Whoever takes it must [`complete`](Self::complete) it.
    pub(crate) fn next_attempt(&mut self, now_ms: u64) -> Option<Attempt> {
        let id = self.turns.choose(self.slow_room() > 0)?;
        let lane = self.lanes.get_mut(&id)?;
        // Leaving and joining again is what puts the lane behind the others.
        lane.leave_place(&mut self.turns);
        let flight = lane.start(now_ms)?;
        lane.take_place(id, &mut self.turns);
        let delivery = DeliveryId { sequence: flight.sequence, subscription: id };
        self.flights.start(delivery, flight);
        Some(Attempt { delivery, number: flight.number })
    }

    /// Ends an attempt. An attempt that is not under way changes nothing.
    pub(crate) fn complete(
        &mut self,
        attempt: Attempt,
        outcome: Outcome,
        now_ms: u64,
        wall_ms: u64,
        chance: u64,
    ) -> Completed {
        let Attempt { delivery, number } = attempt;
        let id = delivery.subscription;
        let landed = self.lanes.get_mut(&id).and_then(|lane| {
            let flight = lane.land(delivery.sequence, number)?;
            Some((lane, flight))
        });
        let Some((lane, flight)) = landed else {
            self.end_orphan(attempt);
            return Completed::default();
        };
        self.flights.end(delivery, flight);
        let cap_max = self.limits.lane_in_flight_max;
        let ending = lane.end(flight, outcome, cap_max, now_ms, chance);
        lane.take_place(id, &mut self.turns);
        let disabled = matches!(ending, Ending::Gone(_));
        let record = match ending {
            Ending::Again => None,
            Ending::Waits(retrying) => {
                self.waiting.insert((retrying.due_ms, delivery));
                Some(Record::Retry(delivery, retry_state(retrying, wall_ms)))
            }
            Ending::Delivered => {
                self.owed -= 1;
                Some(Record::Settle(delivery))
            }
            Ending::Dead(reason) | Ending::Gone(reason) => {
                self.owed -= 1;
                let at_wall_ms = wall_ms;
                Some(Record::Dead(Letter { delivery, reason, attempts: number, at_wall_ms }))
            }
        };
        Completed { record, disabled }
    }

    /// Does what time alone does: makes deliveries due and attempts stuck. Call it at
    /// [`next_wake_ms`](Self::next_wake_ms).
    pub(crate) fn tick(&mut self, now_ms: u64) {
        for _ in 0..TICK_MAX {
            let Some(first) = self.waiting.first().filter(|first| first.0 <= now_ms) else { break };
            let (due_ms, delivery) = *first;
            self.waiting.remove(&(due_ms, delivery));
            let id = delivery.subscription;
            if let Some(lane) = self.lanes.get_mut(&id) {
                lane.fall_due(delivery.sequence);
                lane.take_place(id, &mut self.turns);
            }
        }
        let Some(started_ms) = now_ms.checked_sub(self.limits.stuck_after_ms) else { return };
        while let Some(delivery) = self.flights.pop_late(started_ms) {
            self.turn_stuck(delivery);
        }
    }

    /// When [`tick`](Self::tick) has something to do next, in monotonic milliseconds; in the past
    /// where it has something to do now. Changes with every call that takes `&mut self`.
    pub(crate) fn next_wake_ms(&self) -> Option<u64> {
        let due_ms = self.waiting.first().map(|first| first.0);
        let stuck_after_ms = self.limits.stuck_after_ms;
        let stuck_ms = self.flights.oldest_ms().map(|at_ms| at_ms.saturating_add(stuck_after_ms));
        [due_ms, stuck_ms].into_iter().flatten().min()
    }

    /// How many worker threads are useful now: one for each attempt under way and each that could
    /// start, up to `workers_max`, and those of the stuck budget in use, up to `stuck_max`.
    pub(crate) fn workers_wanted(&self) -> usize {
        let charged = self.flights.charged();
        let budgeted = charged.min(self.limits.stuck_max);
        // What exceeds the budget holds workers.
        let working = self.flights.in_flight() - budgeted;
        let useful = working.saturating_add(self.turns.attempts(self.slow_room()));
        useful.min(self.limits.workers_max).saturating_add(budgeted)
    }

    /// Whether attempts without an answer use all threads that they may: slow endpoints now wait for
    /// each other, and an endpoint that turns slow now holds a worker.
    pub(crate) fn stuck_budget_spent(&self) -> bool {
        self.slow_room() == 0
    }

    /// Deliveries owed, at any stage, held ones included.
    pub(crate) fn owed(&self) -> u64 {
        self.owed
    }

    /// Deliveries held because nobody knows their subscription.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Attempts under way, those of removed lanes included.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.in_flight()
    }

    /// Attempts under way that have gone unanswered for `stuck_after_ms`.
    pub(crate) fn stuck(&self) -> usize {
        self.flights.stuck()
    }

    /// A reading of every lane that is owed something or was, by id. Looks at all lanes.
    pub(crate) fn lane_stats(&self) -> Vec<LaneStats> {
        let mut stats: Vec<_> = self.lanes.iter().filter_map(|(id, l)| l.stats(*id)).collect();
        stats.sort_unstable_by_key(|stats| stats.subscription);
        stats
    }

    fn lane_or_held(&mut self, id: SubscriptionId) -> &mut Lane {
        self.lanes.entry(id).or_insert_with(|| Box::new(Lane::held()))
    }

    fn count_owed(&mut self, id: SubscriptionId, new: u64) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        self.owed += new;
        if lane.is_held() {
            self.held += new;
        }
        lane.take_place(id, &mut self.turns);
    }

    fn end_orphan(&mut self, attempt: Attempt) {
        let this = self.orphans.get(&attempt.delivery).filter(|f| f.number == attempt.number);
        if let Some(flight) = this.copied() {
            self.orphans.remove(&attempt.delivery);
            self.flights.end(attempt.delivery, flight);
        }
    }

    fn turn_stuck(&mut self, delivery: DeliveryId) {
        let id = delivery.subscription;
        if let Some(orphan) = self.orphans.get_mut(&delivery) {
            self.flights.mark_stuck(orphan);
        } else if let Some(lane) = self.lanes.get_mut(&id) {
            if let Some(flight) = lane.turn_stuck(delivery.sequence) {
                self.flights.mark_stuck(flight);
            }
            lane.take_place(id, &mut self.turns);
        }
    }

    /// How many more attempts may be charged to the stuck budget. Where it is none at all, slow lanes
    /// still have one attempt at a time: they are delayed, never given up.
    fn slow_room(&self) -> usize {
        self.limits.stuck_max.max(1).saturating_sub(self.flights.charged())
    }
}

fn retry_state(retrying: Retrying, wall_ms: u64) -> RetryState {
    let Retrying { attempts, age_ms, at_ms, due_ms } = retrying;
    let due_wall_ms = wall_ms.saturating_add(due_ms.saturating_sub(at_ms));
    RetryState { attempts, age_ms, due_wall_ms, saved_wall_ms: wall_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::{Failure, Reason};
    use crate::subscription::Retry;

    const LANE: SubscriptionId = SubscriptionId(1);
    const BYSTANDER: SubscriptionId = SubscriptionId(9);
    const WALL_MS: u64 = 1_700_000_000_000;

    const LIMITS: DispatchLimits = DispatchLimits {
        lane_in_flight_max: 4,
        stuck_after_ms: 250,
        workers_max: 8,
        stuck_max: 16,
    };

    /// Waits 1 s, 2 s, then 4 s for ever, with three attempts and ten seconds of age.
    fn policy() -> Policy {
        let retry = Retry::Exponential { initial_ms: 1_000, max_ms: 4_000, jitter_permille: 0 };
        Policy { retry, attempts_max: Some(3), age_max_ms: 10_000, ..Policy::default() }
    }

    /// One lane under test, and one that is paused with deliveries owed, which nothing may touch.
    struct Bench {
        dispatcher: Dispatcher,
        now_ms: u64,
    }

    impl Bench {
        fn new(limits: DispatchLimits) -> Bench {
            let mut dispatcher = Dispatcher::new(limits);
            dispatcher.set_lane(BYSTANDER, policy(), State::Paused);
            assert!(dispatcher.accepted(900, [BYSTANDER].into_iter()).is_empty());
            let state =
                RetryState { attempts: 2, age_ms: 7, due_wall_ms: WALL_MS, saved_wall_ms: WALL_MS };
            let failed = DeliveryId { sequence: 901, subscription: BYSTANDER };
            dispatcher.recovered_retry(failed, &state, 0, WALL_MS);
            dispatcher.tick(0);
            dispatcher.set_lane(LANE, policy(), State::Active);
            Bench { dispatcher, now_ms: 0 }
        }

        fn owe(&mut self, sequences: impl IntoIterator<Item = u64>) {
            for sequence in sequences {
                assert!(self.dispatcher.accepted(sequence, [LANE].into_iter()).is_empty());
            }
        }

        fn next(&mut self) -> Option<Attempt> {
            self.dispatcher.next_attempt(self.now_ms)
        }

        fn take(&mut self, sequence: u64, number: u32) -> Attempt {
            let attempt = attempt(sequence, number);
            assert_eq!(self.next(), Some(attempt));
            attempt
        }

        fn end(&mut self, attempt: Attempt, outcome: Outcome) -> Completed {
            self.dispatcher.complete(attempt, outcome, self.now_ms, WALL_MS + self.now_ms, 0)
        }

        fn pass_ms(&mut self, span_ms: u64) {
            self.now_ms += span_ms;
            self.dispatcher.tick(self.now_ms);
        }

        fn stats(&self, id: SubscriptionId) -> LaneStats {
            let all = self.dispatcher.lane_stats();
            all.into_iter().find(|stats| stats.subscription == id).unwrap_or_default()
        }

        /// Fills the cap and returns what is under way.
        fn take_all(&mut self) -> Vec<Attempt> {
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
            self.dispatcher.set_lane(BYSTANDER, policy(), State::Active);
            for (sequence, number) in [(901, 3), (900, 1)] {
                let delivery = DeliveryId { sequence, subscription: BYSTANDER };
                let attempt = Attempt { delivery, number };
                assert_eq!(self.next(), Some(attempt));
                let ended = self.end(attempt, Outcome::Delivered);
                assert_eq!(ended.record, Some(Record::Settle(delivery)));
            }
        }
    }

    fn delivery(sequence: u64) -> DeliveryId {
        DeliveryId { sequence, subscription: LANE }
    }

    fn attempt(sequence: u64, number: u32) -> Attempt {
        Attempt { delivery: delivery(sequence), number }
    }

    fn retry() -> Outcome {
        Outcome::Retry { reason: Reason::Status(503), retry_after_ms: None }
    }

    fn timeout() -> Outcome {
        Outcome::Retry { reason: Reason::Failed(Failure::Timeout), retry_after_ms: None }
    }

    fn dead(sequence: u64, reason: Reason, attempts: u32, at_ms: u64) -> Completed {
        let at_wall_ms = WALL_MS + at_ms;
        let letter = Letter { delivery: delivery(sequence), reason, attempts, at_wall_ms };
        Completed { record: Some(Record::Dead(letter)), disabled: false }
    }

    fn waits(sequence: u64, attempts: u32, age_ms: u64, at_ms: u64, wait_ms: u64) -> Completed {
        let saved_wall_ms = WALL_MS + at_ms;
        let due_wall_ms = saved_wall_ms + wait_ms;
        let state = RetryState { attempts, age_ms, due_wall_ms, saved_wall_ms };
        Completed { record: Some(Record::Retry(delivery(sequence), state)), disabled: false }
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
        assert_eq!(
            bench.end(third, timeout()),
            dead(1, Reason::Failed(Failure::Timeout), 3, 3_010)
        );
        assert_eq!(bench.dispatcher.next_wake_ms(), None);
        assert_eq!((bench.stats(LANE).dead, bench.stats(LANE).failures_in_row), (1, 3));
    }

    #[test]
    fn a_delivery_whose_next_attempt_would_be_too_late_is_expired() {
        let mut bench = Bench::new(LIMITS);
        let policy = Policy { attempts_max: None, ..policy() };
        bench.dispatcher.set_lane(LANE, policy, State::Active);
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
        bench.dispatcher.set_lane(LANE, policy(), State::Paused);
        bench.pass_ms(50_000);
        assert_eq!(bench.next(), None);
        bench.dispatcher.set_lane(LANE, policy(), State::Active);
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
        let expected = Completed { disabled: true, ..dead(1, reason.clone(), 1, 0) };
        assert_eq!(bench.end(first, Outcome::Gone(reason)), expected);
        bench.owe([3]);
        assert_eq!((bench.next(), bench.stats(LANE).owed), (None, 2));
        bench.dispatcher.set_lane(LANE, policy(), State::Active);
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
        bench.dispatcher.set_lane(SubscriptionId(2), policy(), State::Active);
        bench.owe([1, 2, 3]);
        for sequence in [1, 2] {
            let _ = bench.dispatcher.accepted(sequence, [SubscriptionId(2)].into_iter());
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
        bench.dispatcher.set_lane(other, policy(), State::Active);
        bench.owe([1, 2]);
        let first = bench.take(1, 1);
        assert_eq!(bench.dispatcher.workers_wanted(), 1);
        assert_eq!(bench.dispatcher.next_wake_ms(), Some(250));
        bench.pass_ms(249);
        assert_eq!(bench.dispatcher.stuck(), 0);
        bench.pass_ms(1);
        assert_eq!((bench.dispatcher.stuck(), bench.dispatcher.in_flight()), (1, 1));
        assert_eq!(bench.dispatcher.next_wake_ms(), None);
        let _ = bench.dispatcher.accepted(7, [other].into_iter());
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
        assert_eq!(bench.dispatcher.flights.charged(), 0);
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
        bench.dispatcher.set_lane(never_tried, policy(), State::Active);
        let _ = bench.dispatcher.accepted(5, [never_tried].into_iter());
        assert_eq!(bench.next().unwrap().delivery.subscription, never_tried);
        bench.take(2, 1);
    }

    #[test]
    fn workers_are_wanted_up_to_both_maxima_and_a_spent_budget_is_told() {
        let limits = DispatchLimits { workers_max: 2, stuck_max: 3, ..LIMITS };
        let mut bench = Bench::new(limits);
        let lanes: Vec<_> = (10..18).map(SubscriptionId).collect();
        for id in &lanes {
            bench.dispatcher.set_lane(*id, policy(), State::Active);
        }
        let _ = bench.dispatcher.accepted(1, lanes.iter().copied());
        let _ = bench.dispatcher.accepted(2, lanes.iter().copied());
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
    fn a_run_of_events_is_owed_as_one_after_the_other_is() {
        let mut bench = Bench::new(LIMITS);
        let other = SubscriptionId(2);
        bench.dispatcher.set_lane(other, policy(), State::Paused);
        bench.owe([2, 4]);
        let failed = bench.take(2, 1);
        let _ = bench.end(failed, retry());
        let _under_way = bench.take(4, 1);
        // Of the run, 2 waits for its next attempt and 4 is under way.
        let targets = [LANE, SubscriptionId(77), other];
        assert_eq!(bench.dispatcher.accepted_run(1..=5, &targets), 5, "77 has no lane");
        assert_eq!(bench.dispatcher.accepted_run(5..=6, &[LANE]), 0);
        assert_eq!(bench.dispatcher.owed(), 6 + 5 + 2);
        let mut owed = bench.dispatcher.owed_among(&(0..100).collect());
        assert_eq!(owed.remove(&LANE), Some((1..=6).collect()));
        assert_eq!(owed.remove(&other), Some((1..=5).collect()));
        assert_eq!(owed.len(), 0);
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
        bench.dispatcher.set_lane(BYSTANDER, policy(), State::Paused);
        assert_eq!(bench.dispatcher.accepted(900, targets.into_iter()), [LANE]);
        assert_eq!(bench.end(second, Outcome::Delivered), Completed::default());
        assert_eq!(bench.dispatcher.workers_wanted(), 0);
        assert!(bench.dispatcher.orphans.is_empty());
    }

    #[test]
    fn what_is_owed_to_somebody_unknown_is_held_until_its_lane_is_set() {
        let mut bench = Bench::new(LIMITS);
        let unknown = SubscriptionId(3);
        bench.dispatcher.recovered(unknown, [1].into_iter().collect());
        bench.dispatcher.recovered(unknown, [1].into_iter().collect());
        bench.dispatcher.recovered(unknown, (2..5).collect());
        let failed = DeliveryId { sequence: 5, subscription: unknown };
        let state =
            RetryState { attempts: 1, age_ms: 0, due_wall_ms: WALL_MS, saved_wall_ms: WALL_MS };
        bench.dispatcher.recovered_retry(failed, &state, 0, WALL_MS);
        bench.pass_ms(1);
        assert_eq!((bench.dispatcher.held(), bench.dispatcher.owed()), (5, 7));
        assert_eq!(bench.next(), None);
        bench.dispatcher.set_lane(unknown, policy(), State::Active);
        assert_eq!((bench.dispatcher.held(), bench.dispatcher.owed()), (0, 7));
        assert_eq!(bench.next(), Some(Attempt { delivery: failed, number: 2 }));
        bench.dispatcher.recovered(SubscriptionId(4), [1].into_iter().collect());
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
        bench.dispatcher.recovered_retry(delivery(1), &state, 50, WALL_MS + 200);
        bench.dispatcher.recovered_retry(delivery(2), &state, 50, 0);
        bench.dispatcher.recovered_retry(delivery(2), &state, 50, WALL_MS + 9_000);
        bench.dispatcher.recovered(LANE, (1..4).collect());
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
        bench.dispatcher.recovered(LANE, (1..3).collect());
        assert_eq!(bench.stats(LANE).owed, 2);
        let _ = bench.end(first, retry());
        bench.owe([1]);
        bench.dispatcher.recovered(LANE, (1..3).collect());
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
        bench.dispatcher.set_lane(LANE, once, State::Active);
        assert_eq!(bench.end(first, retry()), dead(1, Reason::Status(503), 1, 0));
    }

    #[test]
    fn a_tick_is_bounded_and_says_that_there_is_more() {
        let mut bench = Bench::new(LIMITS);
        let state =
            RetryState { attempts: 1, age_ms: 0, due_wall_ms: WALL_MS, saved_wall_ms: WALL_MS };
        let many = TICK_MAX as u64 + 1;
        for sequence in 0..many {
            bench.dispatcher.recovered_retry(delivery(sequence), &state, 0, WALL_MS);
        }
        bench.pass_ms(1);
        assert_eq!(bench.dispatcher.next_wake_ms(), Some(0));
        bench.pass_ms(0);
        assert_eq!(bench.dispatcher.next_wake_ms(), None);
        assert_eq!(bench.stats(LANE).retrying, many);
    }
}
