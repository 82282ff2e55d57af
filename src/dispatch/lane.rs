//! Decides how many attempts one subscription may start now, and how an attempt ends.
//!
//! Leaves to others: which delivery is next (`backlog`), whose turn it is (`turns`), what is known of
//! the endpoint (`endpoint`), the timers (`Dispatcher`). Invariant: an attempt that starts is among
//! its flights until it lands, and lands once.
//!
//! What holds a lane back: nobody knows it, the host paused it, its endpoint is left alone, its
//! rate. What holds one delivery back: its wait, its key, its main delivery.

use std::collections::HashMap;

use super::backlog::{Backlog, Place, Retrying};
use super::backoff;
use super::endpoint::Endpoint;
use super::flights::{Charge, Flight};
use super::rate::Rate;
use super::turns::{Ticket, Turns, Wish};
use crate::attempt::{LaneHealth, Outcome, Reason};
use crate::stats::LaneStats;
use crate::subscription::{Policy, RateLimit, State, SubscriptionId};

/// The live side of one subscription.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// `None` while nobody knows the subscription: what it is owed is held.
    policy: Option<Policy>,
    state: State,
    pub(super) backlog: Backlog,
    flights: Vec<Flight>,
    endpoint: Endpoint,
    rate: Rate,
    ticket: Option<Ticket>,
    /// When the dispatcher looks at the lane again because time alone makes it ready.
    pub(super) timer_ms: Option<u64>,
    delivered: u64,
    retried: u64,
    dead: u64,
}

/// How an attempt ended for its delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// No longer owed: the receiver has it.
    Delivered,
    /// Waits until it is due again.
    Waits(Retrying),
    /// No longer owed: given up.
    Dead(Reason),
    /// Where it was before the attempt.
    Again,
}

/// The moment of a step, and the chance in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now_ms: u64,
    pub(super) chance: u64,
}

/// Its terms.
impl Lane {
    /// Gives the lane its terms. What it is owed stays. `keys` are of what is owed, for an order that
    /// begins.
    pub(super) fn set(&mut self, policy: Policy, state: State, keys: &HashMap<u64, u64>) {
        if self.state == State::Disabled && state != State::Disabled {
            // The host says that it is mended; the time of failing begins anew.
            self.endpoint = Endpoint::default();
        }
        self.backlog.set_ordering(policy.ordering, keys);
        self.policy = Some(policy);
        self.state = state;
    }

    pub(super) fn disable(&mut self) {
        self.state = State::Disabled;
    }

    /// The subscription whose delivery of the same event goes first.
    pub(super) fn after(&self) -> Option<SubscriptionId> {
        self.policy.as_ref().and_then(|policy| policy.after)
    }

    /// Whether nobody knows the subscription.
    pub(super) fn is_held(&self) -> bool {
        self.policy.is_none()
    }

    /// Whether nothing of it is tried, whatever it owes.
    pub(super) fn is_held_back(&self) -> bool {
        self.is_held() || self.state != State::Active
    }

    fn retrying_max(&self) -> u32 {
        self.policy.as_ref().map_or(0, |policy| policy.retrying_max)
    }

    fn rate_limit(&self) -> Option<RateLimit> {
        self.policy.as_ref().and_then(|policy| policy.rate_limit)
    }

    /// What was known of the endpoint before the engine was opened.
    pub(super) fn resume(&mut self, health: &LaneHealth, now_ms: u64, wall_ms: u64) {
        self.endpoint = Endpoint::resumed(health, now_ms, wall_ms);
    }

    /// How often in a row the breaker opened; 0 while it is closed.
    pub(super) fn trips(&self) -> u32 {
        self.endpoint.trips()
    }

    pub(super) fn health(&self, now_ms: u64, wall_ms: u64) -> LaneHealth {
        self.endpoint.health(now_ms, wall_ms)
    }
}

/// Its attempts.
impl Lane {
    /// Starts the next attempt. `None` where nothing may start. An endpoint that never answered may
    /// hang and would hold a worker until it is stuck, so it is charged to the stuck budget from the
    /// start, where there is `room` in it.
    pub(super) fn start(&mut self, now_ms: u64, room: bool) -> Option<Flight> {
        let (sequence, number) = self.backlog.take_next(self.retrying_max())?;
        if let Some(limit) = self.rate_limit() {
            self.rate.start(limit, now_ms);
        }
        let presumed = self.endpoint.is_slow() || (room && !self.endpoint.is_proven());
        let charge = if presumed { Charge::Presumed } else { Charge::Worker };
        let flight = Flight { sequence, number, started_ms: now_ms, charge };
        self.flights.push(flight);
        Some(flight)
    }

    /// Takes an attempt out of those under way; `None` where there is no such attempt.
    pub(super) fn land(&mut self, sequence: u64, number: u32) -> Option<Flight> {
        let this = |flight: &Flight| flight.sequence == sequence && flight.number == number;
        let place = self.flights.iter().position(this)?;
        Some(self.flights.swap_remove(place))
    }

    /// Ends an attempt that was taken out of those under way. Returns how, and whether something is to
    /// be remembered of the endpoint.
    pub(super) fn end(
        &mut self,
        flight: Flight,
        outcome: Outcome,
        cap_max: usize,
        moment: Moment,
    ) -> (Ending, bool) {
        let Moment { now_ms, chance } = moment;
        let breaker = self.policy.as_ref().map(|policy| policy.breaker).unwrap_or_default();
        // The same bits would make the breaker's wait and the delivery's move together.
        let moment_of_lane = Moment { now_ms, chance: chance.rotate_left(32) };
        let learnt = self.endpoint.learn(flight, &outcome, breaker, cap_max, moment_of_lane);
        let ending = self.ending(flight, outcome, moment);
        let place = match &ending {
            Ending::Waits(retrying) => {
                self.retried += 1;
                Place::Waits(*retrying)
            }
            Ending::Again => Place::Again,
            Ending::Delivered => {
                self.delivered += 1;
                Place::Ended
            }
            Ending::Dead(_) => {
                self.dead += 1;
                Place::Ended
            }
        };
        self.backlog.put(flight.sequence, place);
        (ending, learnt)
    }

    fn ending(&self, flight: Flight, outcome: Outcome, moment: Moment) -> Ending {
        let (reason, retry_after_ms) = match outcome {
            Outcome::Delivered => return Ending::Delivered,
            Outcome::Dead(reason) | Outcome::Gone(reason) => return Ending::Dead(reason),
            Outcome::Interrupted => return Ending::Again,
            Outcome::Retry { reason, retry_after_ms } => (reason, retry_after_ms),
        };
        // An attempt was made, so the lane has its terms; without them nothing may be given up.
        let Some(policy) = &self.policy else { return Ending::Again };
        if policy.attempts_max.is_some_and(|most| flight.number >= most) {
            return Ending::Dead(reason);
        }
        let Moment { now_ms, chance } = moment;
        let wait_ms = backoff::delay_ms(&policy.retry, flight.number, retry_after_ms, chance);
        let age_ms = match self.backlog.retrying(flight.sequence) {
            Some(before) => before.age_ms.saturating_add(now_ms.saturating_sub(before.at_ms)),
            None => now_ms.saturating_sub(flight.started_ms),
        };
        if age_ms.saturating_add(wait_ms) > policy.age_max_ms {
            return Ending::Dead(Reason::Expired);
        }
        let due_ms = now_ms.saturating_add(wait_ms);
        Ending::Waits(Retrying { attempts: flight.number, age_ms, at_ms: now_ms, due_ms })
    }

    /// Ends a delivery whose main one was given up. Returns whether it had waited for it.
    pub(super) fn give_up_gated(&mut self, sequence: u64) -> bool {
        let gave_up = self.backlog.give_up_gated(sequence);
        self.dead += u64::from(gave_up);
        gave_up
    }

    /// Whether there has been nothing but failure for as long as the terms allow.
    pub(super) fn has_failed_for_too_long(&self, now_ms: u64) -> bool {
        let most_ms = self.policy.as_ref().and_then(|policy| policy.disable_after_ms);
        self.state == State::Active
            && most_ms.is_some_and(|most_ms| self.endpoint.failing_for_ms(now_ms) >= most_ms)
    }

    /// The attempt of a delivery, to be marked as stuck.
    pub(super) fn turn_stuck(&mut self, sequence: u64) -> Option<&mut Flight> {
        let flight = self.flights.iter_mut().find(|flight| flight.sequence == sequence)?;
        self.endpoint.turn_slow();
        Some(flight)
    }

    /// Ends the lane and gives up its attempts under way.
    pub(super) fn into_flights(self) -> Vec<Flight> {
        self.flights
    }
}

/// Its place among the turns.
impl Lane {
    /// Brings the lane's place among the turns in line with whether it is ready.
    pub(super) fn take_place(&mut self, id: SubscriptionId, turns: &mut Turns, now_ms: u64) {
        let wish = self.wish(now_ms);
        turns.update(id, &mut self.ticket, wish);
    }

    /// Takes the lane out of the turns.
    pub(super) fn leave_place(&mut self, turns: &mut Turns) {
        turns.leave(&mut self.ticket);
    }

    /// What the lane asks of the turns; `None` while it is not ready.
    fn wish(&self, now_ms: u64) -> Option<Wish> {
        let mut attempts = self.ready().min(self.endpoint.room(self.flights.len(), now_ms));
        if let Some(limit) = self.rate_limit() {
            attempts = attempts.min(self.rate.room(limit, now_ms));
        }
        (attempts > 0).then_some(Wish { slow: self.endpoint.is_slow(), attempts })
    }

    /// How many deliveries may start, as far as they and the host are concerned.
    fn ready(&self) -> usize {
        if self.is_held_back() { 0 } else { self.backlog.ready(self.retrying_max()) }
    }

    /// When time alone makes the lane ready; `None` where it does not.
    pub(super) fn opens_ms(&self, now_ms: u64) -> Option<u64> {
        if self.ready() == 0 {
            return None;
        }
        let rate_ms = self.rate_limit().and_then(|limit| self.rate.opens_ms(limit, now_ms));
        Some(self.endpoint.opens_ms()).max(rate_ms).filter(|opens_ms| *opens_ms > now_ms)
    }

    /// A reading; `None` for a lane that is owed nothing and never was.
    pub(super) fn stats(&self, subscription: SubscriptionId, now_ms: u64) -> Option<LaneStats> {
        let stats = LaneStats {
            subscription,
            owed: self.backlog.owed(),
            retrying: self.backlog.waiting(),
            blocked: self.backlog.blocked(),
            in_flight: self.flights.len() as u64,
            delivered: self.delivered,
            retried: self.retried,
            dead: self.dead,
            failures_in_row: self.endpoint.failures_in_row().into(),
            failing_for_ms: self.endpoint.failing_for_ms(now_ms),
            breaker_trips: self.endpoint.trips().into(),
            rests_for_ms: self.endpoint.opens_ms().saturating_sub(now_ms),
        };
        let untouched = LaneStats { subscription, ..LaneStats::default() };
        (stats != untouched).then_some(stats)
    }
}
