//! The live side of one subscription: which attempt it may start, and what the end of an attempt means.
//!
//! What holds a lane back: its subscription is unknown, paused or disabled, its endpoint rests, its rate is
//! used up, a shortage of ours. What holds one delivery back: its wait, its key, its main delivery.

use std::collections::HashMap;
use std::time::Duration;

use super::backlog::{Backlog, Disposition, Retrying};
use super::health::{EndpointHealth, HealthRules, gap_max_ms};
use super::lane_demand::{AccountSlot, LaneClass, LaneDemand, LaneGroup};
use super::outcome::{Judgement, judge};
use super::rate::Rate;
use super::ready_queue::ReadyQueue;
use super::thread_queue::QueueTicket;
use super::{StepContext, backoff};
use crate::attempt::{LaneHealth, LoopId, Outcome, Reason};
use crate::clock::millis;
use crate::stats::LaneStats;
use crate::subscription::{Ordering, Policy, RateLimit, SubscriptionId, SubscriptionState};
use crate::transport::Reply;
use crate::transport::Shortage;

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// `None` while the subscription is unknown: its deliveries are held.
    policy: Option<Policy>,
    state: SubscriptionState,
    account: AccountSlot,
    pub(super) thread: LoopId,
    pub(super) backlog: Backlog,
    in_flight: usize,
    pub(super) endpoint: EndpointHealth,
    /// Since when it is paused or disabled by a change of its settings.
    inactive_since_ms: Option<u64>,
    rate: Rate,
    ticket: Option<QueueTicket>,
    /// Until when a shortage of ours keeps it from starting.
    postponed_until_ms: u64,
    /// When the dispatcher looks at the lane again, because time makes it ready.
    pub(super) timer_ms: Option<u64>,
    /// When the dispatcher looks for deliveries whose age has ended.
    pub(super) expiry_ms: Option<u64>,
    /// When the endpoint's rest was last cut short for last attempts.
    rest_cut_ms: Option<u64>,
    delivered: u64,
    retried: u64,
    dead: u64,
}

/// What the end of an attempt needs to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InFlightAttempt {
    /// Which attempt of its delivery, from 1.
    pub(super) number: u32,
    pub(super) started_ms: u64,
    /// The account that it is counted under: its lane may get another one meanwhile.
    pub(super) account: AccountSlot,
    pub(super) group: LaneGroup,
    /// Whether its delivery was cancelled: then the result of the attempt changes nothing.
    pub(super) is_cancelled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeliveryAge {
    pub(super) counts_from_ms: i64,
    pub(super) ends_ms: u64,
}

/// How long a lane waits after a shortage that only concerns it, and how long a delivery waits after a panic.
const LANE_PAUSE_MS: u64 = 100;
const PANIC_PAUSE_MS: u64 = 5_000;

/// An endpoint's rest is cut short for last attempts at most once in this time, so that a steady stream of
/// deliveries that expire does not call a dead endpoint all the time.
const REST_CUT_MS: u64 = 60_000;

/// How far behind a lane queues for each attempt that it has in flight.
const IN_FLIGHT_SPACING_US: u64 = 4_000;

/// A prompt lane that owes at most [`FEW_OWED`] deliveries queues [`AHEAD_MS`] earlier, so a single event does not wait
/// behind many lanes with a backlog. That delays those by at most as much.
const FEW_OWED: u64 = 16;
const AHEAD_MS: u64 = 100;

/// Its settings.
impl Lane {
    /// Changes the lane's account, policy and state. Its deliveries stay. `keys` has the key hashes of
    /// owed events, for an ordering that begins.
    pub(super) fn set(
        &mut self,
        account: AccountSlot,
        policy: Policy,
        state: SubscriptionState,
        keys: &HashMap<u64, u64>,
        now_ms: u64,
    ) {
        if self.state == SubscriptionState::Disabled && state != SubscriptionState::Disabled {
            // The host says that the endpoint is repaired.
            self.endpoint = EndpointHealth::default();
        }
        match (state == SubscriptionState::Active, self.inactive_since_ms) {
            (false, None) => self.inactive_since_ms = Some(now_ms),
            (true, Some(since_ms)) => {
                self.endpoint.skip_inactive(since_ms, now_ms);
                self.inactive_since_ms = None;
            }
            _ => {}
        }
        self.backlog.set_ordering(policy.ordering, keys);
        self.account = account;
        self.policy = Some(policy);
        self.state = state;
    }

    pub(super) fn disable(&mut self) {
        self.state = SubscriptionState::Disabled;
    }

    /// The main subscription, whose delivery of the same event comes first.
    pub(super) fn after(&self) -> Option<SubscriptionId> {
        self.policy.as_ref().and_then(|policy| policy.after)
    }

    /// What a reply means under the lane's policy; `None` for a lane without one.
    pub(super) fn judge(&self, reply: &Reply) -> Option<Judgement> {
        self.policy.as_ref().map(|policy| judge(reply, policy))
    }

    pub(super) fn is_held(&self) -> bool {
        self.policy.is_none()
    }

    /// Whether no attempt of it may start.
    pub(super) fn is_held_back(&self) -> bool {
        self.is_held() || self.state != SubscriptionState::Active
    }

    /// When a delivery that is due at this time can start: not before its endpoint's rest is over, and not while the
    /// lane is held back.
    pub(super) fn earliest_start_ms(&self, due_ms: u64) -> Option<u64> {
        (!self.is_held_back()).then_some(due_ms.max(self.rests_until_ms()))
    }

    fn rests_until_ms(&self) -> u64 {
        self.endpoint.opens_ms().max(self.postponed_until_ms)
    }

    /// How old a delivery may become; `None` while the subscription is unknown.
    pub(super) fn age_max_ms(&self) -> Option<u64> {
        self.policy.as_ref().map(|policy| millis(policy.age_max))
    }

    /// Ends the endpoint's rest for last attempts, unless that was done a moment ago.
    pub(super) fn cut_rest(&mut self, now_ms: u64) {
        let is_long_ago = |cut_ms: u64| now_ms.saturating_sub(cut_ms) >= REST_CUT_MS;
        if self.endpoint.opens_ms() > now_ms && self.rest_cut_ms.is_none_or(is_long_ago) {
            self.endpoint.end_rest(now_ms);
            self.rest_cut_ms = Some(now_ms);
        }
    }

    fn retrying_max(&self) -> u32 {
        self.policy.as_ref().map_or(0, |policy| policy.retrying_max)
    }

    fn rate_limit(&self) -> Option<RateLimit> {
        self.policy.as_ref().and_then(|policy| policy.rate_limit)
    }

    /// What was known of the endpoint before the engine was opened.
    pub(super) fn resume(&mut self, health: &LaneHealth, now_ms: u64, wall_ms: u64) {
        let gap_max_ms = match self.inactive_since_ms {
            None => gap_max_ms(self.disable_after_ms()),
            Some(_) => 0,
        };
        self.endpoint = EndpointHealth::resumed(health, now_ms, wall_ms, gap_max_ms);
    }

    /// For how long there has been nothing but failure. The time that it is not active does not count.
    fn failing_for_ms(&self, now_ms: u64) -> u64 {
        self.endpoint.failing_for_ms(self.inactive_since_ms.unwrap_or(now_ms))
    }
}

/// Its attempts.
impl Lane {
    /// Starts the next attempt, which counts as one of this group. `None` if nothing may start.
    pub(super) fn start(
        &mut self,
        now_ms: u64,
        group: LaneGroup,
    ) -> Option<(u64, InFlightAttempt)> {
        let (sequence, number) = self.backlog.take_next(self.retrying_max())?;
        self.in_flight += 1;
        let attempt = InFlightAttempt {
            number,
            started_ms: now_ms,
            account: self.account,
            group,
            is_cancelled: false,
        };
        Some((sequence, attempt))
    }

    /// Ends an attempt. Returns what that means for the delivery, and whether the endpoint's health must
    /// be saved.
    pub(super) fn end(
        &mut self,
        sequence: u64,
        attempt: InFlightAttempt,
        outcome: Outcome,
        cap_max: usize,
        (age, context): (DeliveryAge, StepContext),
    ) -> (Disposition, bool) {
        let outcome = waiting_at_most(outcome, age.ends_ms.saturating_sub(context.now_ms));
        let rules = HealthRules {
            breaker: self.policy.as_ref().map(|policy| policy.breaker).unwrap_or_default(),
            cap_max,
            disable_after_ms: self.disable_after_ms(),
        };
        // With the same random bits the breaker's jitter and the delivery's would be the same.
        let of_lane = StepContext { random: context.random.rotate_left(32), ..context };
        let took_ms = context.now_ms.saturating_sub(attempt.started_ms);
        let learnt = self.endpoint.learn(&outcome, took_ms, rules, of_lane);
        let disposition = self.disposition(attempt, outcome, age, context);
        match &disposition {
            Disposition::Delivered => self.delivered += 1,
            Disposition::Retry(_) => self.retried += 1,
            Disposition::Dead(_) => self.dead += 1,
            Disposition::Postponed(_) | Disposition::Unchanged => {}
        }
        self.put_back(sequence, &disposition, context.now_ms);
        (disposition, learnt)
    }

    /// Ends an attempt that does not count because of a shortage of ours. The endpoint's health is
    /// unchanged (I12).
    pub(super) fn end_uncounted(
        &mut self,
        sequence: u64,
        attempt: InFlightAttempt,
        shortage: Shortage,
        (age, now_ms): (DeliveryAge, u64),
    ) -> Disposition {
        let disposition = match shortage {
            // The delivery itself may have caused it.
            Shortage::Panic => postponed(attempt, age, now_ms),
            Shortage::Lookups | Shortage::HostConnections => {
                self.postponed_until_ms = now_ms.saturating_add(LANE_PAUSE_MS);
                Disposition::Unchanged
            }
            // The dispatcher starts fewer attempts for a while.
            Shortage::Files | Shortage::Memory | Shortage::Ports | Shortage::Threads => {
                Disposition::Unchanged
            }
        };
        self.put_back(sequence, &disposition, now_ms);
        disposition
    }

    /// Puts a delivery back whose attempt ended.
    pub(super) fn put_back(&mut self, sequence: u64, disposition: &Disposition, now_ms: u64) {
        self.in_flight -= 1;
        if let Some(limit) = self.rate_limit() {
            self.rate.end(limit, now_ms);
        }
        self.backlog.put(sequence, disposition);
    }

    fn disposition(
        &self,
        attempt: InFlightAttempt,
        outcome: Outcome,
        age: DeliveryAge,
        context: StepContext,
    ) -> Disposition {
        let (reason, retry_after_ms) = match outcome {
            Outcome::Delivered => return Disposition::Delivered,
            Outcome::Dead(reason) | Outcome::Gone(reason) => return Disposition::Dead(reason),
            Outcome::Interrupted => return Disposition::Unchanged,
            Outcome::Retry { reason, retry_after } => (reason, retry_after.map(millis)),
        };
        // Only a lane with a policy makes attempts; without one, nothing may be given up.
        let Some(policy) = &self.policy else { return Disposition::Unchanged };
        if policy.attempts_max.is_some_and(|most| attempt.number >= most) {
            return Disposition::Dead(reason);
        }
        let StepContext { now_ms, random, .. } = context;
        let DeliveryAge { counts_from_ms, ends_ms } = age;
        let left_ms = ends_ms.saturating_sub(now_ms);
        if left_ms == 0 {
            return Disposition::Dead(Reason::Expired);
        }
        let own_ms = backoff::delay_ms(&policy.retry, attempt.number, None, random);
        // A delivery that holds up its key is retried whenever the breaker probes.
        let holds_up_others = policy.ordering != Ordering::None && policy.attempts_max.is_none();
        let most_ms = if holds_up_others { millis(policy.breaker.max) } else { u64::MAX };
        let asked_ms = retry_after_ms.unwrap_or(0).min(backoff::RETRY_AFTER_MAX_MS);
        // The last attempt is made when the age is used up.
        let wait_ms = own_ms.min(most_ms).max(asked_ms).min(left_ms);
        let due_ms = now_ms.saturating_add(wait_ms);
        let attempts = attempt.number;
        Disposition::Retry(Retrying { attempts, counts_from_ms, at_ms: now_ms, due_ms })
    }

    /// Gives up a delivery that is not in flight. Returns whether it was owed.
    pub(super) fn give_up(&mut self, sequence: u64) -> bool {
        let gave_up = self.backlog.cancel(sequence);
        self.dead += u64::from(gave_up);
        gave_up
    }

    /// Gives up a delivery whose main delivery was given up. Returns whether it waited for it.
    pub(super) fn give_up_dependent(&mut self, sequence: u64) -> bool {
        let gave_up = self.backlog.give_up_dependent(sequence);
        self.dead += u64::from(gave_up);
        gave_up
    }

    fn disable_after_ms(&self) -> Option<u64> {
        self.policy.as_ref().and_then(|policy| policy.disable_after).map(millis)
    }

    fn timeout_ms(&self) -> u64 {
        self.policy.as_ref().map_or(0, |policy| millis(policy.timeout))
    }

    /// Whether there has been nothing but failure for as long as the policy allows.
    pub(super) fn has_failed_for_too_long(&self, now_ms: u64) -> bool {
        let most_ms = self.disable_after_ms();
        self.state == SubscriptionState::Active
            && most_ms.is_some_and(|most_ms| self.failing_for_ms(now_ms) >= most_ms)
    }
}

/// Its place in the ready queue.
impl Lane {
    /// Updates the lane's place in the queue. A lane that joins queues `behind_us` microseconds behind, and more
    /// the more attempts it has in flight: where all cannot start at once, a lane with few events does not wait
    /// a whole turn of many busy lanes for each of them. A prompt lane that owes little queues ahead.
    pub(super) fn update_place(
        &mut self,
        id: SubscriptionId,
        ready_queue: &mut ReadyQueue,
        now_ms: u64,
        behind_us: u64,
    ) {
        let is_ahead = self.is_ahead();
        let demand = self.demand(now_ms, is_ahead);
        let behind_us = behind_us + self.in_flight as u64 * IN_FLIGHT_SPACING_US;
        let from_ms = now_ms.saturating_sub(if is_ahead { AHEAD_MS } else { 0 });
        ready_queue.update(id, &mut self.ticket, demand, from_ms, behind_us);
    }

    pub(super) fn leave_queue(&mut self, ready_queue: &mut ReadyQueue) {
        ready_queue.leave(&mut self.ticket);
    }

    /// What the lane asks for; `None` while it is not ready.
    fn demand(&self, now_ms: u64, is_ahead: bool) -> Option<LaneDemand> {
        if now_ms < self.postponed_until_ms {
            return None;
        }
        let mut attempts = self.ready().min(self.endpoint.room(self.in_flight, now_ms));
        if let Some(limit) = self.rate_limit() {
            attempts = attempts.min(self.rate.room(limit, self.in_flight, now_ms));
        }
        let has_none_in_flight = self.in_flight == 0 && self.endpoint.is_prompt();
        let class = match self.endpoint.class(self.timeout_ms()) {
            LaneClass::Proven if has_none_in_flight || is_ahead => LaneClass::Prompt,
            class => class,
        };
        let Lane { account, thread, .. } = *self;
        (attempts > 0).then_some(LaneDemand { account, thread, class, attempts })
    }

    /// Whether it is prompt and owes little, so that it queues ahead of lanes with a backlog.
    fn is_ahead(&self) -> bool {
        self.endpoint.is_prompt() && self.backlog.owed() <= FEW_OWED
    }

    /// How many deliveries may start, apart from the endpoint's rest and the rate limit.
    fn ready(&self) -> usize {
        if self.is_held_back() { 0 } else { self.backlog.ready(self.retrying_max()) }
    }

    /// When time makes the lane ready; `None` if it does not.
    pub(super) fn opens_ms(&self, now_ms: u64) -> Option<u64> {
        if self.ready() == 0 {
            return None;
        }
        let in_flight = self.in_flight;
        let rate = self.rate_limit();
        let rate_ms = rate.and_then(|limit| self.rate.opens_ms(limit, in_flight, now_ms));
        Some(self.rests_until_ms()).max(rate_ms).filter(|opens_ms| *opens_ms > now_ms)
    }

    /// The lane's figures; `None` for a lane that never owed anything.
    pub(super) fn stats(&self, subscription: SubscriptionId, now_ms: u64) -> Option<LaneStats> {
        let stats = LaneStats {
            subscription,
            owed: self.backlog.owed(),
            retrying: self.backlog.waiting(),
            blocked: self.backlog.blocked(),
            in_flight: self.in_flight as u64,
            delivered: self.delivered,
            retried: self.retried,
            dead: self.dead,
            failures_in_row: self.endpoint.failures_in_row.into(),
            failing_for: Duration::from_millis(self.failing_for_ms(now_ms)),
            breaker_trips: self.endpoint.trips.into(),
            rests_for: Duration::from_millis(self.endpoint.opens_ms().saturating_sub(now_ms)),
        };
        let untouched = LaneStats { subscription, ..LaneStats::default() };
        (stats != untouched).then_some(stats)
    }
}

/// After a panic, the delivery may have caused it, so it waits. It is given up at the end of its age.
fn postponed(attempt: InFlightAttempt, age: DeliveryAge, now_ms: u64) -> Disposition {
    let DeliveryAge { counts_from_ms, ends_ms } = age;
    if ends_ms <= now_ms {
        return Disposition::Dead(Reason::Expired);
    }
    let due_ms = now_ms.saturating_add(PANIC_PAUSE_MS).min(ends_ms);
    let attempts = attempt.number.saturating_sub(1);
    Disposition::Postponed(Retrying { attempts, counts_from_ms, at_ms: now_ms, due_ms })
}

/// The outcome with a `Retry-After` of at most the age that is left.
fn waiting_at_most(outcome: Outcome, left_ms: u64) -> Outcome {
    match outcome {
        Outcome::Retry { reason, retry_after: Some(asked) } => {
            Outcome::Retry { reason, retry_after: Some(asked.min(Duration::from_millis(left_ms))) }
        }
        other => other,
    }
}
