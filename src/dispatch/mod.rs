//! Decides which attempt is next, and what the end of an attempt changes. The dispatcher is a pure state
//! machine (I6): events that were accepted, attempts that ended, the time and changed subscriptions go in;
//! attempts and records come out. The time, the wall time and randomness are arguments, and the next time at
//! which time alone changes something is a result.
//!
//! ```text
//! accepted -> blocked -> pending -+                  +-> settled (Delivered) --> releases dependents
//!           (key, dependency)     +-> next_attempt --+-> dead letter (Dead, Gone, used up, expired)
//! tick: waiting -> due -----------+        |         +-> waiting (Retry) -> tick
//!                                 ^        v
//!                                 +--- uncounted (interrupted, shortage)
//! ```
//!
//! A `lane` is the live side of one subscription, and the `ready_queue` chooses among the lanes that may start an
//! attempt. Start with [`Dispatcher::next_attempt_of`] and [`Dispatcher::complete`].
//!
//! Each step costs a few look-ups in maps and queues; none visits all lanes or all owed deliveries.

mod backlog;
mod backoff;
mod cancellation;
mod dependency;
mod expiry;
mod fan_out;
mod health;
mod lane;
mod lane_demand;
mod order;
mod outcome;
mod queries;
mod rate;
mod ready_queue;
mod recovery;
mod thread_queue;
mod throttle;

use std::collections::{BTreeSet, HashMap};

use roaring::RoaringTreemap;

pub(crate) use fan_out::{FAN_OUT_LANES_MAX, FanOut};
pub(crate) use outcome::{Judgement, judge};
pub(crate) use queries::{DeliveryStage, ListedDelivery};

use crate::attempt::{
    Attempt, AttemptEnd, DeliveryId, LoopId, Outcome, Reason, Record, RetryState, StoredDeadLetter,
};
use crate::subscription::{Policy, SubscriptionId, SubscriptionState};
use crate::transport::{Reply, Shortage};
use backlog::{Disposition, Retrying};
use expiry::{Expiry, age_ms};
use fan_out::WaitingFanOuts;
use lane::{InFlightAttempt, Lane};
use lane_demand::AccountSlot;
use ready_queue::ReadyQueue;
use throttle::Throttle;

/// The bounds of dispatch. [`Limits`](crate::Limits) explains their defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DispatchLimits {
    /// How many attempts one lane may have in flight; 0 counts as 1.
    pub(crate) lane_in_flight_max: usize,
    /// How many attempts all lanes may have in flight; 0 counts as 1.
    pub(crate) in_flight_max: usize,
    /// How many I/O threads make the attempts; 0 counts as 1.
    pub(crate) threads: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Dispatcher {
    limits: DispatchLimits,
    lanes: foldhash::HashMap<SubscriptionId, Box<Lane>>,
    accounts: foldhash::HashMap<String, AccountSlot>,
    ready_queue: ReadyQueue,
    /// The attempts in flight, also those whose lane was removed meanwhile: each holds a connection until it ends.
    in_flight: foldhash::HashMap<DeliveryId, InFlightAttempt>,
    throttle: Throttle,
    /// Deliveries that failed, by when they are due.
    waiting: BTreeSet<(u64, DeliveryId)>,
    /// Lanes that time makes ready, by when.
    resting: BTreeSet<(u64, SubscriptionId)>,
    expiry: Expiry,
    /// The subscriptions that wait for each main one. The opposite direction is in the policies of the lanes.
    dependents: HashMap<SubscriptionId, Vec<SubscriptionId>>,
    fan_outs: WaitingFanOuts,
    /// The latest time that was passed in.
    now_ms: u64,
    owed: u64,
    held: u64,
    /// Deliveries to removed subscriptions, until they are counted.
    cancelled: u64,
}

/// The time and the randomness of a step. They are arguments, so that a step is a pure function (I6).
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepContext {
    pub(crate) now_ms: u64,
    pub(crate) wall_ms: u64,
    /// 64 uniform bits, for jitter.
    pub(crate) random: u64,
}

/// What the end of an attempt changes outside the dispatcher.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "a record that is not made durable is lost at the next crash"]
pub(crate) struct Completed {
    /// The delivery's change of state, to be made durable. `None` if the attempt did not count, or its
    /// subscription was removed.
    pub(crate) record: Option<Record>,
    /// The dependents that end with the delivery, to be made durable in the same batch.
    pub(crate) with: Vec<Record>,
    /// The endpoint's health, if it must be saved.
    pub(crate) health: Option<Record>,
    /// Why the subscription must be disabled, if it must. The lane already is.
    pub(crate) disabled: Option<Reason>,
    /// Why the attempt failed; `None` if it did not.
    pub(crate) reason: Option<Reason>,
    pub(crate) took_ms: u64,
    /// How many times in a row the breaker has opened, if the attempt changed that; 0 if it closed.
    pub(crate) trips: Option<u32>,
}

impl Completed {
    pub(crate) fn kind(&self) -> &'static str {
        match &self.record {
            Some(Record::Settle(_) | Record::SettleMain(_)) => "delivered",
            Some(Record::Retry(..)) => "retry",
            Some(Record::Dead(_)) => "dead",
            _ => "uncounted",
        }
    }
}

/// How many timers one tick handles, so that its lock is held shortly. The rest is due at once, as
/// [`Dispatcher::next_wake_ms`] tells.
const TICK_MAX: usize = 1_024;

impl Dispatcher {
    pub(crate) fn new(limits: DispatchLimits) -> Dispatcher {
        let ready_queue = ReadyQueue::new(limits.in_flight_max, limits.threads);
        Dispatcher { limits, ready_queue, ..Dispatcher::default() }
    }

    /// Adds a lane, or changes its settings; its deliveries stay, held ones too. If an ordering begins,
    /// `keys` has the key hashes of owed events: see [`note_keys`](Self::note_keys).
    pub(crate) fn set_lane(
        &mut self,
        id: SubscriptionId,
        account: &str,
        policy: Policy,
        state: SubscriptionState,
        keys: &HashMap<u64, u64>,
    ) {
        let account = self.account_index(account);
        self.owe_ahead(id);
        let lane = self.lanes.entry(id).or_default();
        let before = lane.after();
        if lane.is_held() {
            self.held -= lane.backlog.owed();
        }
        lane.set(account, policy, state, keys, self.now_ms);
        self.change_main(id, before);
        self.set_expiry(id, |ends_ms| ends_ms);
        self.refresh(id);
    }

    /// Sets where a lane's attempts lead. One I/O thread makes all attempts to a destination.
    pub(crate) fn set_destination(&mut self, id: SubscriptionId, number: usize) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.thread = LoopId(number % self.limits.threads.max(1));
            self.refresh(id);
        }
    }

    /// Sets how many attempts of an account may be in flight; 0 counts as 1. Without a limit it may have as many as all
    /// accounts together.
    pub(crate) fn set_account_limit(&mut self, account: &str, in_flight_max: usize) {
        let index = self.account_index(account);
        self.ready_queue.set_in_flight_max(index, in_flight_max);
    }

    fn account_index(&mut self, name: &str) -> AccountSlot {
        if let Some(index) = self.accounts.get(name) {
            return *index;
        }
        let index = self.ready_queue.add_account();
        self.accounts.insert(name.to_owned(), index);
        index
    }

    /// Records the key hashes of events owed from now on. Returns the deliveries that are already owed, whose key
    /// hashes the next [`set_lane`](Self::set_lane) needs.
    pub(crate) fn note_keys(&mut self, id: SubscriptionId) -> RoaringTreemap {
        self.lanes.get_mut(&id).map(|lane| lane.backlog.note_keys()).unwrap_or_default()
    }

    /// Removes a lane. Returns its owed deliveries, which are cancelled. The end of an attempt in flight
    /// changes nothing any more, and its dependents are released.
    pub(crate) fn remove_lane(&mut self, id: SubscriptionId) -> RoaringTreemap {
        self.owe_ahead(id);
        let Some(mut lane) = self.lanes.remove(&id) else { return RoaringTreemap::new() };
        lane.leave_queue(&mut self.ready_queue);
        if let Some(timer_ms) = lane.timer_ms {
            self.resting.remove(&(timer_ms, id));
        }
        self.expiry.forget(&lane, id);
        let cancelled = lane.backlog.sequences();
        self.owed -= cancelled.len();
        if lane.is_held() {
            self.held -= cancelled.len();
        }
        for (sequence, retrying) in lane.backlog.retries() {
            let delivery = DeliveryId { sequence, subscription: id };
            self.waiting.remove(&(retrying.due_ms, delivery));
        }
        self.set_main(id, lane.after(), None);
        self.release_dependents(id, &cancelled);
        cancelled
    }

    pub(crate) fn owed_among(
        &self,
        sequences: &RoaringTreemap,
    ) -> HashMap<SubscriptionId, RoaringTreemap> {
        let lanes = self.lanes.iter().map(|(id, lane)| (*id, lane.backlog.owed_among(sequences)));
        let mut owed: HashMap<_, _> = lanes.filter(|(_, owed)| !owed.is_empty()).collect();
        let is_wanted = |sequence| sequences.contains(sequence);
        self.waiting_among(is_wanted, |id, sequence| {
            owed.entry(id).or_default().insert(sequence);
        });
        owed
    }

    /// The next attempt of a thread, if one may start. Its end must be passed to [`complete`](Self::complete).
    pub(crate) fn next_attempt_of(&mut self, thread: LoopId, now_ms: u64) -> Option<Attempt> {
        self.advance(now_ms);
        let (id, group) = self.ready_queue.choose(thread, self.throttle.limit(self.now_ms))?;
        let lane = self.lanes.get_mut(&id)?;
        // Leaving and joining again puts the lane behind the others.
        lane.leave_queue(&mut self.ready_queue);
        let (sequence, attempt) = lane.start(now_ms, group)?;
        self.ready_queue.start(attempt.account, group);
        let delivery = DeliveryId { sequence, subscription: id };
        self.in_flight.insert(delivery, attempt);
        self.refresh(id);
        Some(Attempt { delivery, number: attempt.number })
    }

    /// Ends an attempt. An attempt that is not in flight changes nothing.
    pub(crate) fn complete(
        &mut self,
        attempt: Attempt,
        end: &AttemptEnd,
        context: StepContext,
    ) -> Completed {
        let lane = self.lanes.get(&attempt.delivery.subscription);
        match end {
            AttemptEnd::Uncounted(shortage) => self.end_uncounted(attempt, *shortage, context),
            AttemptEnd::Reply(reply) => {
                if matches!(reply, Reply::Response(_)) {
                    self.throttle.succeed(self.limits.in_flight_max, context.now_ms);
                }
                let judgement = lane.and_then(|lane| lane.judge(reply));
                let interrupted = Judgement { outcome: Outcome::Interrupted, disable: None };
                self.end(attempt, judgement.unwrap_or(interrupted), context)
            }
        }
    }

    fn end(&mut self, attempt: Attempt, judgement: Judgement, context: StepContext) -> Completed {
        let StepContext { now_ms, wall_ms, .. } = context;
        let Attempt { delivery, .. } = attempt;
        let id = delivery.subscription;
        let Some(in_flight) = self.take_in_flight(attempt, now_ms) else {
            return Completed::default();
        };
        let Some(lane) = self.lanes.get_mut(&id) else { return Completed::default() };
        if in_flight.is_cancelled {
            return self.end_cancelled(delivery, in_flight, now_ms);
        }
        let cap_max = self.limits.lane_in_flight_max;
        let Judgement { outcome, disable } = judgement;
        let age = self.expiry.age(lane, delivery.sequence, now_ms);
        let reason = outcome.clone().into_reason();
        let trips_before = lane.endpoint.trips;
        let (disposition, learnt) =
            lane.end(delivery.sequence, in_flight, outcome, cap_max, (age, context));
        let trips = Some(lane.endpoint.trips).filter(|trips| *trips != trips_before);
        let failed_for_too_long = learnt && lane.has_failed_for_too_long(now_ms);
        let disabled = disable.or(failed_for_too_long.then_some(Reason::Failing));
        if disabled.is_some() {
            lane.disable();
        }
        let health = learnt.then(|| Record::Health(id, lane.endpoint.health(now_ms, wall_ms)));
        let took_ms = now_ms.saturating_sub(in_flight.started_ms);
        let mut completed =
            Completed { health, disabled, reason, took_ms, trips, ..Completed::default() };
        self.apply(attempt, disposition, wall_ms, &mut completed);
        self.refresh(id);
        completed
    }

    fn end_uncounted(
        &mut self,
        attempt: Attempt,
        shortage: Shortage,
        context: StepContext,
    ) -> Completed {
        let StepContext { now_ms, wall_ms, .. } = context;
        let Attempt { delivery, .. } = attempt;
        let Some(in_flight) = self.take_in_flight(attempt, now_ms) else {
            return Completed::default();
        };
        match shortage {
            Shortage::Files | Shortage::Memory | Shortage::Ports | Shortage::Threads => {
                self.throttle.note(shortage, self.ready_queue.in_flight(), now_ms);
            }
            Shortage::Lookups | Shortage::HostConnections | Shortage::Panic => {}
        }
        let took_ms = now_ms.saturating_sub(in_flight.started_ms);
        let mut completed = Completed { took_ms, ..Completed::default() };
        let Some(lane) = self.lanes.get_mut(&delivery.subscription) else { return completed };
        if in_flight.is_cancelled {
            return self.end_cancelled(delivery, in_flight, now_ms);
        }
        let age = self.expiry.age(lane, delivery.sequence, now_ms);
        let disposition = lane.end_uncounted(delivery.sequence, in_flight, shortage, (age, now_ms));
        self.apply(attempt, disposition, wall_ms, &mut completed);
        self.refresh(delivery.subscription);
        completed
    }

    fn take_in_flight(&mut self, attempt: Attempt, now_ms: u64) -> Option<InFlightAttempt> {
        self.advance(now_ms);
        let is_it = |found: &InFlightAttempt| found.number == attempt.number;
        self.in_flight.get(&attempt.delivery).copied().filter(is_it)?;
        let in_flight = self.in_flight.remove(&attempt.delivery)?;
        self.ready_queue.end(in_flight.account, in_flight.group);
        Some(in_flight)
    }

    /// Applies what the end of an attempt means for its delivery, and for the dependents of it.
    fn apply(
        &mut self,
        attempt: Attempt,
        disposition: Disposition,
        wall_ms: u64,
        completed: &mut Completed,
    ) {
        let Attempt { delivery, number } = attempt;
        completed.record = match disposition {
            Disposition::Unchanged => None,
            Disposition::Postponed(retrying) => {
                self.waiting.insert((retrying.due_ms, delivery));
                None
            }
            Disposition::Retry(retrying) => {
                self.waiting.insert((retrying.due_ms, delivery));
                Some(Record::Retry(delivery, retry_state(retrying, wall_ms)))
            }
            Disposition::Delivered => {
                self.owed -= 1;
                let awaited = self.is_awaited(delivery);
                Some(if awaited { Record::SettleMain(delivery) } else { Record::Settle(delivery) })
            }
            Disposition::Dead(reason) => {
                self.owed -= 1;
                completed.with = self.give_up_dependents(delivery, wall_ms);
                let letter =
                    StoredDeadLetter { delivery, reason, attempts: number, at_wall_ms: wall_ms };
                Some(Record::Dead(letter))
            }
        };
    }

    /// Moves the time from which changes count.
    pub(crate) fn advance(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// Does what time causes: makes deliveries due and lanes ready. To be called at
    /// [`next_wake_ms`](Self::next_wake_ms).
    pub(crate) fn tick(&mut self, now_ms: u64) {
        self.advance(now_ms);
        self.ready_queue.clear_bound();
        self.owe_waiting();
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
    }

    /// When [`tick`](Self::tick) has something to do next or attempts may start again, in monotonic
    /// milliseconds; in the past if now. May change with every call that takes `&mut self`.
    pub(crate) fn next_wake_ms(&self) -> Option<u64> {
        let due_ms = self.waiting.first().map(|first| first.0);
        let rested_ms = self.resting.first().map(|first| first.0);
        let has_ready = self.ready_queue.attempts() > 0;
        let opens_ms = self.throttle.opens_ms(self.now_ms).filter(|_| has_ready);
        let fan_outs_ms = (!self.fan_outs.is_empty()).then_some(self.now_ms);
        [due_ms, rested_ms, opens_ms, fan_outs_ms].into_iter().flatten().min()
    }

    /// Brings a lane's place in the queue and its timer in line with its state.
    fn refresh(&mut self, id: SubscriptionId) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            place(lane, id, &mut self.ready_queue, &mut self.resting, (self.now_ms, 0));
        }
    }
}

/// Queues a lane that is ready, `behind_us` behind the others, and sets a timer if time makes it ready.
fn place(
    lane: &mut Lane,
    id: SubscriptionId,
    ready_queue: &mut ReadyQueue,
    resting: &mut BTreeSet<(u64, SubscriptionId)>,
    (now_ms, behind_us): (u64, u64),
) {
    lane.update_place(id, ready_queue, now_ms, behind_us);
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
    let Retrying { attempts, counts_from_ms, at_ms, due_ms } = retrying;
    let age_ms = age_ms(counts_from_ms, at_ms);
    let due_wall_ms = wall_ms.saturating_add(due_ms.saturating_sub(at_ms));
    RetryState { attempts, age_ms, due_wall_ms, saved_wall_ms: wall_ms }
}

#[cfg(test)]
mod tests;
