//! Decides which attempt is next, and what an attempt's outcome changes.
//!
//! Leaves to others: making attempts (`delivery`), making changes durable (`outbox`), threads, locks
//! and the time (`engine`). Invariant (I6): a pure state machine. Values go in (accepted, completed,
//! tick, subscription changed), attempts and records come out; the time, the wall time and chance
//! are arguments, and the next moment at which time alone changes something is a result.
//!
//! ```text
//! accepted -> blocked -> pending -+                  +-> settled (Delivered) --> lets others go
//!               (key, gate)       +-> next_attempt --+-> dead letter (Dead, Gone, used up, expired)
//! tick: waiting -> due -----------+        |         +-> waiting (Retry) -> tick
//!                                 ^        v
//!                                 +--- interrupted
//! ```
//!
//! Every step costs a few look-ups in maps and queues; none looks at all lanes or all that is owed.

mod backlog;
mod backoff;
mod endpoint;
mod flights;
mod gate;
mod lane;
mod order;
mod outcome;
mod rate;
mod reading;
mod recovery;
#[cfg(test)]
mod simulation;
mod turns;

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;

use roaring::RoaringTreemap;

pub(crate) use outcome::{Judged, judge};
pub(crate) use reading::{Listed, Stage};

use crate::attempt::{Attempt, DeliveryId, Letter, Reason, Record, RetryState};
use crate::subscription::{Policy, State, SubscriptionId};
use backlog::Retrying;
use flights::{Flight, Flights};
use gate::Gates;
use lane::{Ending, Lane, Moment};
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
    lanes: foldhash::HashMap<SubscriptionId, Box<Lane>>,
    turns: Turns,
    flights: Flights,
    /// Attempts under way whose lane was removed: they hold a thread until they end, and no more.
    orphans: HashMap<DeliveryId, Flight>,
    /// Deliveries that failed, by the time at which they are due.
    waiting: BTreeSet<(u64, DeliveryId)>,
    /// Lanes that time alone makes ready, by when.
    resting: BTreeSet<(u64, SubscriptionId)>,
    gates: Gates,
    /// The latest moment that it was told.
    now_ms: u64,
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
    /// What ends with the delivery, to be made durable with it or not at all.
    pub(crate) with: Vec<Record>,
    /// What is to be remembered of the endpoint.
    pub(crate) health: Option<Record>,
    /// Why the lane is disabled now, which must be kept and told.
    pub(crate) disabled: Option<Reason>,
    /// How long the attempt took, in milliseconds.
    pub(crate) took_ms: u64,
    /// How often in a row the breaker has opened now, where the attempt changed that; 0 where it closed.
    pub(crate) trips: Option<u32>,
}

impl Completed {
    /// What became of the delivery, in one word.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.record {
            Some(Record::Settle(_) | Record::SettleMain(_)) => "delivered",
            Some(Record::Retry(..)) => "retry",
            Some(Record::Dead(_)) => "dead",
            _ => "interrupted",
        }
    }
}

/// How many timers one tick handles, so that the lock around it stays short. What is left is due at
/// once: [`Dispatcher::next_wake_ms`] says so.
const TICK_MAX: usize = 4_096;

impl Dispatcher {
    /// A dispatcher without lanes.
    pub(crate) fn new(limits: DispatchLimits) -> Dispatcher {
        Dispatcher {
            limits,
            lanes: foldhash::HashMap::default(),
            turns: Turns::default(),
            flights: Flights::default(),
            orphans: HashMap::new(),
            waiting: BTreeSet::new(),
            resting: BTreeSet::new(),
            gates: Gates::default(),
            now_ms: 0,
            owed: 0,
            held: 0,
        }
    }

    /// Adds a lane, or changes the terms of one; what it is owed stays, also what was held. Where an
    /// order begins, `keys` names the keys of what is owed: see [`note_keys`](Self::note_keys).
    pub(crate) fn set_lane(
        &mut self,
        id: SubscriptionId,
        policy: Policy,
        state: State,
        keys: &HashMap<u64, u64>,
    ) {
        let lane = self.lanes.entry(id).or_default();
        let before = lane.after();
        if lane.is_held() {
            self.held -= lane.backlog.owed();
        }
        lane.set(policy, state, keys);
        self.change_main(id, before);
        self.refresh(id);
    }

    /// Notes the keys of what a lane is owed from now on. Returns what it is owed already, whose keys
    /// the next [`set_lane`](Self::set_lane) must be given.
    pub(crate) fn note_keys(&mut self, id: SubscriptionId) -> RoaringTreemap {
        self.lanes.get_mut(&id).map(|lane| lane.backlog.note_keys()).unwrap_or_default()
    }

    /// Removes a lane. Returns what it was owed, which is cancelled with it; the end of a delivery
    /// under way is ignored later, and what waited for its deliveries waits no longer.
    pub(crate) fn remove_lane(&mut self, id: SubscriptionId) -> RoaringTreemap {
        let Some(mut lane) = self.lanes.remove(&id) else { return RoaringTreemap::new() };
        lane.leave_place(&mut self.turns);
        if let Some(timer_ms) = lane.timer_ms {
            self.resting.remove(&(timer_ms, id));
        }
        let cancelled = lane.backlog.sequences();
        self.owed -= cancelled.len();
        if lane.is_held() {
            self.held -= cancelled.len();
        }
        for (sequence, retrying) in lane.backlog.retries() {
            let delivery = DeliveryId { sequence, subscription: id };
            self.waiting.remove(&(retrying.due_ms, delivery));
        }
        self.gates.change(id, lane.after(), None);
        for flight in lane.into_flights() {
            let delivery = DeliveryId { sequence: flight.sequence, subscription: id };
            self.orphans.insert(delivery, flight);
        }
        self.open_gates(id, &cancelled);
        cancelled
    }

    /// Owes durable events of consecutive sequences to targets that they share, whose keys hash to
    /// `key_hashes`. Returns how many deliveries are cancelled, because their subscriptions were
    /// removed since the events were matched. A run costs most lanes about as much as one event does.
    #[must_use = "a cancelled delivery is counted"]
    pub(crate) fn accepted(
        &mut self,
        sequences: RangeInclusive<u64>,
        key_hashes: &[u64],
        targets: &[SubscriptionId],
    ) -> u64 {
        let mut missing = 0;
        let gated = self.gates.are_there();
        for id in targets {
            let Some(lane) = self.lanes.get_mut(id) else {
                missing += 1;
                continue;
            };
            let new = lane.backlog.owe_run(sequences.clone(), key_hashes);
            self.owed += new;
            if lane.is_held() {
                self.held += new;
            }
            if !gated {
                place(lane, *id, &mut self.turns, &mut self.resting, self.now_ms);
            }
        }
        if gated {
            sequences.clone().for_each(|sequence| self.close_gates_of(sequence, targets));
            targets.iter().for_each(|id| self.refresh(*id));
        }
        missing * sequences.count() as u64
    }

    /// Owes dead letters again, which are durably owed; one whose lane is gone is returned.
    #[must_use = "a cancelled delivery is counted"]
    pub(crate) fn revived(&mut self, deliveries: &[DeliveryId]) -> Vec<DeliveryId> {
        let mut cancelled = Vec::new();
        for delivery in deliveries {
            let Some(lane) = self.lanes.get_mut(&delivery.subscription) else {
                cancelled.push(*delivery);
                continue;
            };
            let new = lane.backlog.owe_again(delivery.sequence);
            self.count_owed(delivery.subscription, u64::from(new));
        }
        for DeliveryId { sequence, subscription } in deliveries {
            self.close_gates_of(*sequence, &[*subscription]);
            self.refresh(*subscription);
        }
        cancelled
    }

    /// Of these sequences, what each subscription is owed.
    pub(crate) fn owed_among(
        &self,
        sequences: &RoaringTreemap,
    ) -> HashMap<SubscriptionId, RoaringTreemap> {
        let lanes = self.lanes.iter().map(|(id, lane)| (*id, lane.backlog.owed_among(sequences)));
        lanes.filter(|(_, owed)| !owed.is_empty()).collect()
    }

    /// The next attempt, if a lane is ready. Whoever takes it must [`complete`](Self::complete) it.
    pub(crate) fn next_attempt(&mut self, now_ms: u64) -> Option<Attempt> {
        self.now_ms = self.now_ms.max(now_ms);
        let room = self.slow_room() > 0;
        let id = self.turns.choose(room)?;
        let lane = self.lanes.get_mut(&id)?;
        // Leaving and joining again is what puts the lane behind the others.
        lane.leave_place(&mut self.turns);
        let flight = lane.start(now_ms, room)?;
        let delivery = DeliveryId { sequence: flight.sequence, subscription: id };
        self.flights.start(delivery, flight);
        self.refresh(id);
        Some(Attempt { delivery, number: flight.number })
    }

    /// Ends an attempt. An attempt that is not under way changes nothing.
    pub(crate) fn complete(
        &mut self,
        attempt: Attempt,
        judged: Judged,
        now_ms: u64,
        wall_ms: u64,
        chance: u64,
    ) -> Completed {
        self.now_ms = self.now_ms.max(now_ms);
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
        let moment = Moment { now_ms, chance };
        let Judged { outcome, disable } = judged;
        let trips_before = lane.trips();
        let (ending, learnt) = lane.end(flight, outcome, cap_max, moment);
        let trips = Some(lane.trips()).filter(|trips| *trips != trips_before);
        let failed_for_too_long = learnt && lane.has_failed_for_too_long(now_ms);
        let disabled = disable.or(failed_for_too_long.then_some(Reason::Failing));
        if disabled.is_some() {
            lane.disable();
        }
        let health = learnt.then(|| Record::Health(id, lane.health(now_ms, wall_ms)));
        let took_ms = now_ms.saturating_sub(flight.started_ms);
        let mut completed = Completed { health, disabled, took_ms, trips, ..Completed::default() };
        self.follow(attempt, ending, wall_ms, &mut completed);
        self.refresh(id);
        completed
    }

    /// What the end of an attempt means for its delivery, and for those that waited for it.
    fn follow(
        &mut self,
        attempt: Attempt,
        ending: Ending,
        wall_ms: u64,
        completed: &mut Completed,
    ) {
        let Attempt { delivery, number } = attempt;
        completed.record = match ending {
            Ending::Again => None,
            Ending::Waits(retrying) => {
                self.waiting.insert((retrying.due_ms, delivery));
                Some(Record::Retry(delivery, retry_state(retrying, wall_ms)))
            }
            Ending::Delivered => {
                self.owed -= 1;
                let awaited = self.is_awaited(delivery);
                Some(if awaited { Record::SettleMain(delivery) } else { Record::Settle(delivery) })
            }
            Ending::Dead(reason) => {
                self.owed -= 1;
                completed.with = self.give_up_gated(delivery, wall_ms);
                let letter = Letter { delivery, reason, attempts: number, at_wall_ms: wall_ms };
                Some(Record::Dead(letter))
            }
        };
    }

    /// Does what time alone does: makes deliveries due, lanes ready and attempts stuck. Call it at
    /// [`next_wake_ms`](Self::next_wake_ms).
    pub(crate) fn tick(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        for _ in 0..TICK_MAX {
            let Some(first) = self.waiting.first().filter(|first| first.0 <= now_ms) else { break };
            let (due_ms, delivery) = *first;
            self.waiting.remove(&(due_ms, delivery));
            let id = delivery.subscription;
            if let Some(lane) = self.lanes.get_mut(&id) {
                lane.backlog.fall_due(delivery.sequence);
                self.refresh(id);
            }
        }
        for _ in 0..TICK_MAX {
            let Some(first) = self.resting.first().filter(|first| first.0 <= now_ms) else { break };
            let id = first.1;
            self.refresh(id);
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
        let opens_ms = self.resting.first().map(|first| first.0);
        let stuck_after_ms = self.limits.stuck_after_ms;
        let stuck_ms = self.flights.oldest_ms().map(|at_ms| at_ms.saturating_add(stuck_after_ms));
        [due_ms, opens_ms, stuck_ms].into_iter().flatten().min()
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
        self.flights.stuck() >= self.limits.stuck_max.max(1)
    }

    /// Brings a lane's turn and its timer in line with what it is now.
    fn refresh(&mut self, id: SubscriptionId) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            place(lane, id, &mut self.turns, &mut self.resting, self.now_ms);
        }
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
            self.refresh(id);
        }
    }

    /// How many more attempts may be charged to the stuck budget. Where it is none at all, slow lanes
    /// still have one attempt at a time: they are delayed, never given up.
    fn slow_room(&self) -> usize {
        self.limits.stuck_max.max(1).saturating_sub(self.flights.charged())
    }
}

/// Gives a lane its turn where it is ready, and a timer where time alone makes it ready.
fn place(
    lane: &mut Lane,
    id: SubscriptionId,
    turns: &mut Turns,
    resting: &mut BTreeSet<(u64, SubscriptionId)>,
    now_ms: u64,
) {
    lane.take_place(id, turns, now_ms);
    let opens_ms = lane.opens_ms(now_ms);
    let set_ms = std::mem::replace(&mut lane.timer_ms, opens_ms);
    if set_ms == opens_ms {
        return;
    }
    if let Some(set_ms) = set_ms {
        resting.remove(&(set_ms, id));
    }
    if let Some(opens_ms) = opens_ms {
        resting.insert((opens_ms, id));
    }
}

fn retry_state(retrying: Retrying, wall_ms: u64) -> RetryState {
    let Retrying { attempts, age_ms, at_ms, due_ms } = retrying;
    let due_wall_ms = wall_ms.saturating_add(due_ms.saturating_sub(at_ms));
    RetryState { attempts, age_ms, due_wall_ms, saved_wall_ms: wall_ms }
}

#[cfg(test)]
mod terms_tests;
#[cfg(test)]
mod tests;
