//! Decides what one subscription is owed, which delivery of it is next, and how an attempt ends.
//!
//! Leaves to others: whose turn it is (`turns`), the time of day and the timers (`Dispatcher`).
//! Invariant: an owed delivery is in exactly one place: pending (never tried), waiting for its time,
//! due, or under way; so none is lost and none is tried twice at once.
//!
//! Whether a lane is ready is [`Lane::wish`], and which delivery is its next is
//! [`Lane::next_delivery`]: what holds a lane or a delivery back later belongs there.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use roaring::RoaringTreemap;

use super::backoff;
use super::flights::{Charge, Flight};
use super::turns::{Ticket, Turns, Wish};
use crate::attempt::{Failure, Outcome, Reason};
use crate::stats::LaneStats;
use crate::subscription::{Policy, State, SubscriptionId};

/// The live side of one subscription.
#[derive(Debug)]
pub(super) struct Lane {
    /// `None` while nobody knows the subscription: what it is owed is held.
    policy: Option<Policy>,
    state: State,
    /// Deliveries never tried. One that succeeds at once costs its bit here and no more.
    pending: RoaringTreemap,
    /// The bitmap would count itself by walking its containers.
    pending_len: u64,
    /// Deliveries that failed, wherever they are now.
    retries: BTreeMap<u64, Retrying>,
    /// Of these, the ones whose time has come, in the order in which it came.
    due: VecDeque<u64>,
    flights: Vec<Flight>,
    /// How many attempts may be under way.
    cap: usize,
    /// Whether the last word of this endpoint was that it did not answer in time.
    slow: bool,
    ticket: Option<Ticket>,
    delivered: u64,
    retried: u64,
    dead: u64,
    failures_in_row: u64,
}

/// A delivery that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retrying {
    pub(super) attempts: u32,
    /// Its age at `at_ms`, counted from its first attempt.
    pub(super) age_ms: u64,
    pub(super) at_ms: u64,
    pub(super) due_ms: u64,
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
    /// As `Dead`, and the lane is disabled.
    Gone(Reason),
    /// Where it was before the attempt.
    Again,
}

impl Lane {
    /// A lane whose subscription nobody knows: it keeps what it is owed and is never ready.
    pub(super) fn held() -> Lane {
        Lane {
            policy: None,
            state: State::Active,
            pending: RoaringTreemap::new(),
            pending_len: 0,
            retries: BTreeMap::new(),
            due: VecDeque::new(),
            flights: Vec::new(),
            cap: 1,
            slow: false,
            ticket: None,
            delivered: 0,
            retried: 0,
            dead: 0,
            failures_in_row: 0,
        }
    }

    /// Gives the lane its terms. What it is owed stays.
    pub(super) fn set(&mut self, policy: Policy, state: State) {
        self.policy = Some(policy);
        self.state = state;
    }

    /// Owes a delivery that was never tried. Returns whether it was not owed before.
    pub(super) fn owe(&mut self, sequence: u64) -> bool {
        let known = self.retries.contains_key(&sequence) || self.is_in_flight(sequence);
        let new = !known && self.pending.insert(sequence);
        self.pending_len += u64::from(new);
        new
    }

    /// Owes consecutive deliveries as [`owe`](Lane::owe) does. Returns how many were not owed before.
    pub(super) fn owe_run(&mut self, sequences: RangeInclusive<u64>) -> u64 {
        let is_known = self.retries.range(sequences.clone()).next().is_some()
            || self.flights.iter().any(|flight| sequences.contains(&flight.sequence));
        if is_known {
            return sequences.filter(|sequence| self.owe(*sequence)).count() as u64;
        }
        let new = self.pending.insert_range(sequences);
        self.pending_len += new;
        new
    }

    /// Owes many deliveries that were never tried. Returns how many were not owed before.
    pub(super) fn owe_all(&mut self, mut sequences: RoaringTreemap) -> u64 {
        for sequence in self.retries.keys().chain(self.flights.iter().map(|f| &f.sequence)) {
            sequences.remove(*sequence);
        }
        self.pending |= sequences;
        let before = std::mem::replace(&mut self.pending_len, self.pending.len());
        self.pending_len - before
    }

    /// Owes a delivery that failed before. Returns whether it is new among those that failed, and
    /// whether it was not owed before.
    pub(super) fn owe_retry(&mut self, sequence: u64, retrying: Retrying) -> (bool, bool) {
        if self.retries.contains_key(&sequence) || self.is_in_flight(sequence) {
            return (false, false);
        }
        self.retries.insert(sequence, retrying);
        let was_pending = self.pending.remove(sequence);
        self.pending_len -= u64::from(was_pending);
        (true, !was_pending)
    }

    /// Makes a delivery that failed due, now that its time has come.
    pub(super) fn fall_due(&mut self, sequence: u64) {
        self.due.push_back(sequence);
    }

    /// Starts the next attempt. `None` where nothing is due or pending.
    pub(super) fn start(&mut self, now_ms: u64) -> Option<Flight> {
        let (sequence, number) = self.next_delivery()?;
        let charge = if self.slow { Charge::Presumed } else { Charge::Worker };
        let flight = Flight { sequence, number, started_ms: now_ms, charge };
        self.flights.push(flight);
        Some(flight)
    }

    /// The next delivery, taken from where it waited, with the number of its attempt: what failed
    /// before goes before what was never tried.
    fn next_delivery(&mut self) -> Option<(u64, u32)> {
        if let Some(sequence) = self.due.pop_front() {
            let attempts = self.retries.get(&sequence).map_or(0, |retrying| retrying.attempts);
            return Some((sequence, attempts.saturating_add(1)));
        }
        let sequence = self.pending.min()?;
        self.pending.remove(sequence);
        self.pending_len -= 1;
        Some((sequence, 1))
    }

    /// Takes an attempt out of those under way; `None` where there is no such attempt.
    pub(super) fn land(&mut self, sequence: u64, number: u32) -> Option<Flight> {
        let this = |flight: &Flight| flight.sequence == sequence && flight.number == number;
        let place = self.flights.iter().position(this)?;
        Some(self.flights.swap_remove(place))
    }

    /// Ends an attempt that was taken out of those under way.
    pub(super) fn end(
        &mut self,
        flight: Flight,
        outcome: Outcome,
        cap_max: usize,
        now_ms: u64,
        chance: u64,
    ) -> Ending {
        self.learn(flight, &outcome, cap_max);
        let ending = self.ending(flight, outcome, now_ms, chance);
        match &ending {
            Ending::Waits(retrying) => {
                self.retried += 1;
                self.retries.insert(flight.sequence, *retrying);
            }
            Ending::Again => self.put_back(flight.sequence),
            Ending::Delivered => {
                self.delivered += 1;
                self.retries.remove(&flight.sequence);
            }
            Ending::Dead(_) | Ending::Gone(_) => {
                self.dead += 1;
                self.retries.remove(&flight.sequence);
            }
        }
        if let Ending::Gone(_) = ending {
            self.state = State::Disabled;
        }
        ending
    }

    /// What the endpoint's answer says about the endpoint.
    fn learn(&mut self, flight: Flight, outcome: &Outcome, cap_max: usize) {
        let reason = match outcome {
            Outcome::Interrupted => return,
            Outcome::Delivered => None,
            Outcome::Retry { reason, .. } | Outcome::Dead(reason) | Outcome::Gone(reason) => {
                Some(reason)
            }
        };
        let timed_out = matches!(reason, Some(Reason::Failed(Failure::Timeout)));
        self.slow = timed_out || flight.charge == Charge::Stuck;
        if reason.is_none() {
            self.cap = (self.cap + 1).min(cap_max.max(1));
            self.failures_in_row = 0;
        } else {
            self.cap = (self.cap / 2).max(1);
            self.failures_in_row += 1;
        }
    }

    fn ending(&self, flight: Flight, outcome: Outcome, now_ms: u64, chance: u64) -> Ending {
        let (reason, retry_after_ms) = match outcome {
            Outcome::Delivered => return Ending::Delivered,
            Outcome::Dead(reason) => return Ending::Dead(reason),
            Outcome::Gone(reason) => return Ending::Gone(reason),
            Outcome::Interrupted => return Ending::Again,
            Outcome::Retry { reason, retry_after_ms } => (reason, retry_after_ms),
        };
        // An attempt was made, so the lane has its terms; without them nothing may be given up.
        let Some(policy) = &self.policy else { return Ending::Again };
        if policy.attempts_max.is_some_and(|most| flight.number >= most) {
            return Ending::Dead(reason);
        }
        let wait_ms = backoff::delay_ms(&policy.retry, flight.number, retry_after_ms, chance);
        let age_ms = match self.retries.get(&flight.sequence) {
            Some(before) => before.age_ms.saturating_add(now_ms.saturating_sub(before.at_ms)),
            None => now_ms.saturating_sub(flight.started_ms),
        };
        if age_ms.saturating_add(wait_ms) > policy.age_max_ms {
            return Ending::Dead(Reason::Expired);
        }
        let due_ms = now_ms.saturating_add(wait_ms);
        Ending::Waits(Retrying { attempts: flight.number, age_ms, at_ms: now_ms, due_ms })
    }

    fn put_back(&mut self, sequence: u64) {
        if self.retries.contains_key(&sequence) {
            self.due.push_front(sequence);
        } else {
            self.pending_len += u64::from(self.pending.insert(sequence));
        }
    }

    /// The attempt of a delivery, to be marked as stuck: the lane starts no other beside it until
    /// one is acknowledged, and goes behind the lanes that answer.
    pub(super) fn turn_stuck(&mut self, sequence: u64) -> Option<&mut Flight> {
        let flight = self.flights.iter_mut().find(|flight| flight.sequence == sequence)?;
        self.cap = 1;
        self.slow = true;
        Some(flight)
    }

    /// Brings the lane's place among the turns in line with whether it is ready.
    pub(super) fn take_place(&mut self, id: SubscriptionId, turns: &mut Turns) {
        let wish = self.wish();
        turns.update(id, &mut self.ticket, wish);
    }

    /// Takes the lane out of the turns.
    pub(super) fn leave_place(&mut self, turns: &mut Turns) {
        turns.leave(&mut self.ticket);
    }

    /// What the lane asks of the turns; `None` while it is not ready.
    fn wish(&self) -> Option<Wish> {
        if self.is_held() || self.state != State::Active {
            return None;
        }
        let pending = usize::try_from(self.pending_len).unwrap_or(usize::MAX);
        let waiting = pending.saturating_add(self.due.len());
        let attempts = waiting.min(self.cap.saturating_sub(self.flights.len()));
        (attempts > 0).then_some(Wish { slow: self.slow, attempts })
    }

    /// Whether nobody knows the subscription.
    pub(super) fn is_held(&self) -> bool {
        self.policy.is_none()
    }

    /// Deliveries owed, at any stage.
    pub(super) fn owed(&self) -> u64 {
        let first_attempts = self.flights.len() - self.retries_in_flight();
        self.pending_len + self.retries.len() as u64 + first_attempts as u64
    }

    /// The sequences of everything that is owed.
    pub(super) fn sequences(&self) -> RoaringTreemap {
        let mut sequences = self.pending.clone();
        sequences.extend(self.retries.keys().copied());
        sequences.extend(self.flights.iter().map(|flight| flight.sequence));
        sequences
    }

    /// Of these sequences, the ones that are owed.
    pub(super) fn owed_among(&self, sequences: &RoaringTreemap) -> RoaringTreemap {
        let mut owed = &self.pending & sequences;
        let others = self.retries.keys().chain(self.flights.iter().map(|f| &f.sequence));
        owed.extend(others.copied().filter(|sequence| sequences.contains(*sequence)));
        owed
    }

    /// The deliveries that failed, each with what is known of it.
    pub(super) fn retries(&self) -> impl Iterator<Item = (u64, &Retrying)> {
        self.retries.iter().map(|(sequence, retrying)| (*sequence, retrying))
    }

    /// Ends the lane and gives up its attempts under way.
    pub(super) fn into_flights(self) -> Vec<Flight> {
        self.flights
    }

    /// A reading; `None` for a lane that is owed nothing and never was.
    pub(super) fn stats(&self, subscription: SubscriptionId) -> Option<LaneStats> {
        let stats = LaneStats {
            subscription,
            owed: self.owed(),
            retrying: (self.retries.len() - self.retries_in_flight()) as u64,
            in_flight: self.flights.len() as u64,
            delivered: self.delivered,
            retried: self.retried,
            dead: self.dead,
            failures_in_row: self.failures_in_row,
        };
        let untouched = LaneStats { subscription, ..LaneStats::default() };
        (stats != untouched).then_some(stats)
    }

    fn retries_in_flight(&self) -> usize {
        self.flights.iter().filter(|flight| self.retries.contains_key(&flight.sequence)).count()
    }

    fn is_in_flight(&self, sequence: u64) -> bool {
        self.flights.iter().any(|flight| flight.sequence == sequence)
    }
}
