//! Decides whether the dispatcher keeps its word, by random steps against a model.
//!
//! Leaves to others: single rules (the unit tests of each file). Invariant: the model shares no code
//! with the dispatcher; it keeps one plain state per delivery and scans all of them.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::{Completed, DispatchLimits, Dispatcher, Judged};
use crate::attempt::{Attempt, DeliveryId, Failure, Outcome, Reason, Record, RetryState};
use crate::subscription::{Breaker, Policy, Retry, State, SubscriptionId};

const LANES: u32 = 5;
const WALL_MS: u64 = 1_700_000_000_000;
const STEP_MS: u64 = 40;
const WAIT_MAX_MS: u64 = 150;
const ATTEMPTS_MAX: u32 = 4;
const LIMITS: DispatchLimits =
    DispatchLimits { lane_in_flight_max: 3, stuck_after_ms: 100, workers_max: 4, stuck_max: 2 };
/// No lane is served later than this, in turns: at worst it is slow, and all others are ready.
const TURNS_MAX: u32 = (super::turns::PROMPT_TURNS + 1) * LANES;

#[derive(Debug, Clone)]
enum Step {
    /// Owes the next event to these lanes, as bits.
    Accept(u8),
    Hold(u32),
    /// The outbox is opened again and this is found in it.
    Recover {
        lane: u32,
        pending: u64,
        attempts: u32,
        left_ms: u64,
    },
    Next,
    /// Ends the attempt under way at this place.
    Complete(usize, End),
    Pass(u64),
    SetLane(u32, bool),
    RemoveLane(u32),
}

#[derive(Debug, Clone, Copy)]
enum End {
    Delivered,
    Retry,
    Timeout,
    Dead,
    Gone,
    Interrupted,
}

fn any_end() -> impl Strategy<Value = End> {
    prop_oneof![
        6 => Just(End::Delivered),
        4 => Just(End::Retry),
        2 => Just(End::Timeout),
        1 => Just(End::Dead),
        1 => Just(End::Gone),
        1 => Just(End::Interrupted),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let recover = (1..=LANES, 0_u64..4, 1..ATTEMPTS_MAX, 0_u64..300).prop_map(
        |(lane, pending, attempts, left_ms)| Step::Recover { lane, pending, attempts, left_ms },
    );
    prop_oneof![
        8 => any::<u8>().prop_map(Step::Accept),
        1 => (1..=LANES).prop_map(Step::Hold),
        1 => recover,
        16 => Just(Step::Next),
        14 => (0_usize..8, any_end()).prop_map(|(place, end)| Step::Complete(place, end)),
        5 => (0..STEP_MS).prop_map(Step::Pass),
        3 => (1..=LANES, prop::bool::weighted(0.8)).prop_map(|(l, on)| Step::SetLane(l, on)),
        1 => (1..=LANES).prop_map(Step::RemoveLane),
    ]
}

fn policy() -> Policy {
    let retry = Retry::Linear { step_ms: 60, max_ms: WAIT_MAX_MS };
    let breaker = Breaker { failures: None, ..Breaker::default() };
    Policy { retry, attempts_max: Some(ATTEMPTS_MAX), breaker, ..Policy::default() }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Ready,
    Waits { due_ms: u64 },
    UnderWay,
}

#[derive(Debug, Clone, Copy)]
struct Owed {
    attempts: u32,
    place: Place,
}

#[derive(Debug)]
struct ModelLane {
    known: bool,
    active: bool,
    disabled: bool,
    cap: usize,
    proven: bool,
    slow: bool,
    /// Turns that others had while this lane was ready.
    passed_over: u32,
}

impl ModelLane {
    /// A lane that changes its queue joins at the back, so its wait begins anew.
    fn turn_slow(&mut self, slow: bool) {
        if slow != self.slow {
            self.passed_over = 0;
        }
        self.slow = slow;
    }
}

#[derive(Debug, Clone, Copy)]
struct UnderWay {
    attempt: Attempt,
    started_ms: u64,
    late: bool,
    /// Whether its lane was slow when it started.
    presumed: bool,
}

/// What is owed, seen by somebody who looks at all of it each time.
struct Model {
    dispatcher: Dispatcher,
    owed: BTreeMap<DeliveryId, Owed>,
    lanes: BTreeMap<u32, ModelLane>,
    under_way: Vec<UnderWay>,
    now_ms: u64,
    next_sequence: u64,
    ended: BTreeMap<DeliveryId, &'static str>,
}

impl Model {
    fn new() -> Model {
        let mut model = Model {
            dispatcher: Dispatcher::new(LIMITS),
            owed: BTreeMap::new(),
            lanes: BTreeMap::new(),
            under_way: Vec::new(),
            now_ms: 0,
            next_sequence: 0,
            ended: BTreeMap::new(),
        };
        (1..LANES).for_each(|lane| model.set_lane(lane, true));
        model
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Accept(bits) => self.accept(bits),
            Step::Hold(lane) => self.hold(lane),
            Step::Recover { lane, pending, attempts, left_ms } => {
                self.recover(lane, pending, attempts, left_ms);
            }
            Step::Next => self.next(),
            Step::Complete(place, end) if !self.under_way.is_empty() => {
                let place = place % self.under_way.len();
                self.complete(place, end);
            }
            Step::Complete(..) => {}
            Step::Pass(span_ms) => self.pass(span_ms),
            Step::SetLane(lane, active) => self.set_lane(lane, active),
            Step::RemoveLane(lane) => self.remove_lane(lane),
        }
        self.check();
    }

    fn sequence(&mut self) -> u64 {
        self.next_sequence += 1;
        self.next_sequence
    }

    fn owe(&mut self, sequence: u64, lane: u32, attempts: u32, place: Place) {
        let unknown = ModelLane {
            known: false,
            active: true,
            cap: 1,
            disabled: false,
            proven: false,
            slow: false,
            passed_over: 0,
        };
        self.lanes.entry(lane).or_insert(unknown);
        self.owed.insert(id(sequence, lane), Owed { attempts, place });
    }

    fn accept(&mut self, bits: u8) {
        let sequence = self.sequence();
        let targets: Vec<u32> = (1..=LANES).filter(|lane| bits & (1 << lane) != 0).collect();
        let cancelled = self.dispatcher.accept(
            sequence,
            0,
            &targets.iter().copied().map(SubscriptionId).collect::<Vec<_>>(),
        );
        let gone: Vec<_> = targets
            .iter()
            .filter(|lane| !self.lanes.contains_key(lane))
            .map(|lane| SubscriptionId(*lane))
            .collect();
        assert_eq!(cancelled, gone.len() as u64);
        for lane in targets.into_iter().filter(|lane| !gone.contains(&SubscriptionId(*lane))) {
            self.owe(sequence, lane, 0, Place::Ready);
        }
    }

    fn hold(&mut self, lane: u32) {
        let sequence = self.sequence();
        self.dispatcher.recovered(
            SubscriptionId(lane),
            [sequence].into_iter().collect(),
            &HashMap::new(),
        );
        self.owe(sequence, lane, 0, Place::Ready);
    }

    fn recover(&mut self, lane: u32, pending: u64, attempts: u32, left_ms: u64) {
        let sequences: Vec<u64> = (0..pending).map(|_| self.sequence()).collect();
        self.dispatcher.recovered(
            SubscriptionId(lane),
            sequences.iter().copied().collect(),
            &HashMap::new(),
        );
        sequences.iter().for_each(|sequence| self.owe(*sequence, lane, 0, Place::Ready));
        let sequence = self.sequence();
        let saved_wall_ms = WALL_MS - 1_000;
        let due_wall_ms = WALL_MS + self.now_ms + left_ms;
        let state = RetryState { attempts, age_ms: 0, due_wall_ms, saved_wall_ms };
        let wall_ms = WALL_MS + self.now_ms;
        self.dispatcher.recovered_retry(id(sequence, lane), 0, &state, self.now_ms, wall_ms);
        self.owe(sequence, lane, attempts, Place::Waits { due_ms: self.now_ms + left_ms });
    }

    fn next(&mut self) {
        let ready: Vec<u32> = (1..=LANES).filter(|lane| self.is_ready(*lane)).collect();
        let charged = self.charged();
        let served = self.dispatcher.next_attempt(self.now_ms);
        let Some(attempt) = served else {
            let waits = |lane: &u32| self.lanes[lane].slow && charged >= LIMITS.stuck_max;
            assert!(ready.iter().all(waits), "{ready:?} are ready and none was served");
            return;
        };
        let lane = attempt.delivery.subscription.0;
        assert!(ready.contains(&lane), "{lane} is not ready");
        let owed = self.owed.get_mut(&attempt.delivery).expect("what is attempted is owed");
        assert_eq!(owed.place, Place::Ready, "{attempt:?} is not ready");
        assert_eq!(attempt.number, owed.attempts + 1);
        owed.place = Place::UnderWay;
        let retried_first = self.owed.iter().all(|(other, owed)| {
            let before = owed.attempts > 0 && owed.place == Place::Ready;
            other.subscription.0 != lane || !before || attempt.number > 1
        });
        assert!(retried_first, "{attempt:?} went before a retry");
        let unproven = !self.lanes[&lane].proven && charged < LIMITS.stuck_max;
        let presumed = self.lanes[&lane].slow || unproven;
        self.under_way.push(UnderWay { attempt, started_ms: self.now_ms, late: false, presumed });
        for other in ready {
            let other_lane = self.lanes.get_mut(&other).unwrap();
            let admitted = !other_lane.slow || charged < LIMITS.stuck_max;
            other_lane.passed_over += u32::from(admitted);
            if other == lane {
                other_lane.passed_over = 0;
            }
            let most = match other_lane.slow {
                true => TURNS_MAX,
                // All other lanes, and one slow one's turn between them.
                false => LANES + 1,
            };
            assert!(other_lane.passed_over <= most, "{other} waits too long for its turn");
        }
    }

    fn complete(&mut self, place: usize, end: End) {
        let UnderWay { attempt, late, .. } = self.under_way.remove(place);
        let outcome = outcome(end);
        let (now_ms, wall_ms) = (self.now_ms, WALL_MS + self.now_ms);
        let disable = match &outcome {
            Outcome::Gone(reason) => Some(reason.clone()),
            _ => None,
        };
        let judged = Judged { outcome, disable };
        let completed = self.dispatcher.complete(attempt, judged.clone(), now_ms, wall_ms, 0);
        let again = self.dispatcher.complete(attempt, judged, now_ms, wall_ms, 0);
        assert_eq!(again, Completed::default(), "an attempt ends once");
        let delivery = attempt.delivery;
        let Some(owed) = self.owed.get_mut(&delivery) else {
            assert_eq!(completed, Completed::default(), "{delivery:?} was cancelled");
            return;
        };
        let lane = self.lanes.get_mut(&delivery.subscription.0).unwrap();
        assert_eq!(completed.disabled.is_some(), matches!(end, End::Gone));
        match end {
            End::Interrupted => {
                assert_eq!(completed.record, None);
                owed.place = Place::Ready;
                return;
            }
            End::Delivered => lane.cap = (lane.cap + 1).min(LIMITS.lane_in_flight_max),
            _ => lane.cap = (lane.cap / 2).max(1),
        }
        lane.turn_slow(late || matches!(end, End::Timeout));
        lane.proven |= !lane.slow;
        lane.active &= !matches!(end, End::Gone);
        lane.disabled |= matches!(end, End::Gone);
        owed.attempts += 1;
        let last = owed.attempts >= ATTEMPTS_MAX;
        match (completed.record.expect("an attempt that counts has a record"), end) {
            (Record::Settle(settled), End::Delivered) => {
                assert_eq!(settled, delivery);
                self.finish(delivery, "delivered");
            }
            (Record::Retry(retried, state), End::Retry | End::Timeout) if !last => {
                let wait_ms = (60 * u64::from(owed.attempts)).min(WAIT_MAX_MS);
                assert_eq!((retried, state.attempts), (delivery, owed.attempts));
                assert_eq!(state.due_wall_ms, wall_ms + wait_ms);
                owed.place = Place::Waits { due_ms: now_ms + wait_ms };
            }
            (Record::Dead(letter), End::Retry | End::Timeout) if last => {
                assert_eq!((letter.delivery, letter.attempts), (delivery, ATTEMPTS_MAX));
                self.finish(delivery, "used up");
            }
            (Record::Dead(letter), End::Dead | End::Gone) => {
                assert_eq!(letter.delivery, delivery);
                self.finish(delivery, "dead");
            }
            other => panic!("{other:?} after {} attempts", owed.attempts),
        }
    }

    fn finish(&mut self, delivery: DeliveryId, how: &'static str) {
        self.owed.remove(&delivery);
        assert_eq!(self.ended.insert(delivery, how), None, "{delivery:?} ended twice");
    }

    fn pass(&mut self, span_ms: u64) {
        let wake_ms = self.dispatcher.next_wake_ms();
        let first_due_ms = self
            .owed
            .values()
            .filter_map(|owed| match owed.place {
                Place::Waits { due_ms } => Some(due_ms),
                _ => None,
            })
            .min();
        if let Some(due_ms) = first_due_ms {
            assert!(wake_ms.is_some_and(|wake_ms| wake_ms <= due_ms));
        }
        self.now_ms += span_ms;
        self.dispatcher.tick(self.now_ms);
        for owed in self.owed.values_mut() {
            if let Place::Waits { due_ms } = owed.place
                && due_ms <= self.now_ms
            {
                owed.place = Place::Ready;
            }
        }
        for flight in self.under_way.iter_mut().filter(|flight| !flight.late) {
            flight.late = self.now_ms - flight.started_ms >= LIMITS.stuck_after_ms;
            if flight.late && self.owed.contains_key(&flight.attempt.delivery) {
                let lane = flight.attempt.delivery.subscription.0;
                let lane = self.lanes.get_mut(&lane).unwrap();
                lane.cap = 1;
                lane.turn_slow(true);
            }
        }
    }

    fn set_lane(&mut self, lane: u32, active: bool) {
        let state = if active { State::Active } else { State::Paused };
        self.dispatcher.set_lane(SubscriptionId(lane), policy(), state, &HashMap::new());
        let new = ModelLane {
            known: true,
            active,
            cap: 1,
            disabled: false,
            proven: false,
            slow: false,
            passed_over: 0,
        };
        let lane = self.lanes.entry(lane).or_insert(new);
        (lane.known, lane.active) = (true, active);
        if std::mem::take(&mut lane.disabled) {
            (lane.cap, lane.slow, lane.proven) = (1, false, false);
        }
    }

    fn remove_lane(&mut self, lane: u32) {
        let before = self.owed.len();
        self.owed.retain(|delivery, _| delivery.subscription.0 != lane);
        self.lanes.remove(&lane);
        let cancelled = self.dispatcher.remove_lane(SubscriptionId(lane)).len();
        assert_eq!(cancelled, (before - self.owed.len()) as u64);
    }

    fn is_ready(&self, lane: u32) -> bool {
        let Some(known) = self.lanes.get(&lane).filter(|l| l.known && l.active) else {
            return false;
        };
        let waits = |place: Place| self.in_lane(lane, place);
        self.lane_in_flight(lane) < known.cap && waits(Place::Ready) > 0
    }

    fn in_lane(&self, lane: u32, place: Place) -> usize {
        let of = |(d, o): &(&DeliveryId, &Owed)| d.subscription.0 == lane && o.place == place;
        self.owed.iter().filter(of).count()
    }

    fn lane_in_flight(&self, lane: u32) -> usize {
        self.in_lane(lane, Place::UnderWay)
    }

    fn charged(&self) -> usize {
        self.under_way.iter().filter(|flight| flight.late || flight.presumed).count()
    }

    fn check(&mut self) {
        for lane in 1..=LANES {
            if !self.is_ready(lane)
                && let Some(lane) = self.lanes.get_mut(&lane)
            {
                lane.passed_over = 0;
            }
            assert!(self.lane_in_flight(lane) <= LIMITS.lane_in_flight_max);
        }
        let held = |d: &&DeliveryId| !self.lanes[&d.subscription.0].known;
        assert_eq!(self.dispatcher.owed(), self.owed.len() as u64);
        assert_eq!(self.dispatcher.held(), self.owed.keys().filter(held).count() as u64);
        assert_eq!(self.dispatcher.in_flight(), self.under_way.len());
        let late = self.under_way.iter().filter(|flight| flight.late).count();
        assert_eq!(self.dispatcher.stuck(), late);
        assert_eq!(self.dispatcher.stuck_budget_spent(), late >= LIMITS.stuck_max);
        let wanted = self.dispatcher.workers_wanted();
        assert!(wanted <= LIMITS.workers_max + LIMITS.stuck_max);
        for stats in self.dispatcher.lane_stats() {
            let lane = stats.subscription.0;
            let owed = self.owed.keys().filter(|d| d.subscription.0 == lane).count() as u64;
            assert_eq!((stats.owed, stats.in_flight), (owed, self.lane_in_flight(lane) as u64));
        }
    }

    /// Lets every endpoint answer well: all that is owed to known, served lanes must then end.
    fn drain(&mut self) {
        (1..=LANES).for_each(|lane| self.set_lane(lane, true));
        let mut left = 100_000_u32;
        // What is under way may be owed no more, and holds a thread until it ends all the same.
        while !self.owed.is_empty() || !self.under_way.is_empty() {
            left -= 1;
            assert!(left > 0, "{} deliveries are never attempted", self.owed.len());
            self.next();
            while !self.under_way.is_empty() {
                self.complete(0, End::Delivered);
            }
            if let Some(wake_ms) = self.dispatcher.next_wake_ms() {
                self.pass(wake_ms.saturating_sub(self.now_ms));
            }
            self.check();
        }
        assert_eq!((self.dispatcher.owed(), self.dispatcher.next_attempt(self.now_ms)), (0, None));
        assert_eq!(self.dispatcher.next_wake_ms(), None);
        assert_eq!((self.dispatcher.stuck(), self.charged()), (0, 0));
        assert_eq!(self.dispatcher.workers_wanted(), 0);
        assert!(self.dispatcher.orphans.is_empty());
    }
}

fn id(sequence: u64, lane: u32) -> DeliveryId {
    DeliveryId { sequence, subscription: SubscriptionId(lane) }
}

fn outcome(end: End) -> Outcome {
    let retry = |reason| Outcome::Retry { reason, retry_after_ms: None };
    match end {
        End::Delivered => Outcome::Delivered,
        End::Retry => retry(Reason::Status(500)),
        End::Timeout => retry(Reason::Failed(Failure::Timeout)),
        End::Dead => Outcome::Dead(Reason::Status(404)),
        End::Gone => Outcome::Gone(Reason::Status(410)),
        End::Interrupted => Outcome::Interrupted,
    }
}

proptest! {
    #[test]
    fn no_delivery_is_lost_or_doubled_and_every_ready_lane_has_its_turn(
        steps in proptest::collection::vec(any_step(), 1..300),
    ) {
        let mut model = Model::new();
        steps.into_iter().for_each(|step| model.step(step));
        model.drain();
    }
}
