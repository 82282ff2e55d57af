//! What an endpoint's answers allow its lane: how many attempts at once, and when. Where jitter allows
//! several times it keeps the earliest, so whatever it forbids is forbidden by the documents.

use std::collections::VecDeque;

use wabahook::policy::{Policy, RateLimit};
use wabahook::{Failure, Reply};

use super::delivery_state::Outcome;
use super::model::Key;
use super::plan::millis;

/// What an engine knows of a lane. Only its [`Health`] is durable.
#[derive(Debug, Default)]
pub struct Lane {
    /// The in-flight cap.
    pub cap: usize,
    /// Attempts in flight, with their starts.
    pub in_flight: Vec<(Key, u64)>,
    /// Whether there was no failure since its last success.
    pub is_clean: bool,
    /// Starts of other lanes while this one was ready.
    pub passed_over: usize,
    /// Whether its last answer since the engine was opened came in time.
    pub is_proven: bool,
    /// Until when a shortage may keep it from starting.
    pub postponed_until_ms: u64,
    /// When attempts started and ended, for the rate.
    starts: Vec<u64>,
    ends: Vec<u64>,
    /// How many of them started before the present limit was set.
    unlimited: usize,
    /// For how long there have been only failures up to the last one, at least and at most, because a crash
    /// makes uncertain which health was written.
    failing_ms: Option<(u64, u64)>,
    last_failure_ms: u64,
    /// The part of the present gap that lies before the open of the engine, at most.
    gap_before_ms: u64,
    /// Consecutive failures, at least.
    failures: u32,
    /// Consecutive failures that count for the breaker.
    strikes: u32,
    trips: u32,
    /// No attempt starts before, because of `Retry-After`.
    rests_until_ms: u64,
    /// That pause is certainly over from here on.
    rests_surely_ms: u64,
    /// No attempt starts before, because the breaker is open.
    opens_ms: u64,
    /// The breaker's wait is certainly over from here on.
    opens_surely_ms: u64,
    /// The health that may be on the device; none if it never failed.
    saved: Vec<Health>,
    /// Later healths, each waiting for its group.
    queued: VecDeque<Health>,
}

/// What is written for a lane with each failure and with the first success after one.
#[derive(Debug, Clone, Default, PartialEq)]
struct Health {
    at_wall_ms: u64,
    failures: u32,
    trips: u32,
    /// How long it had failed, at least and at most.
    failing_ms: (u64, u64),
    /// How much longer it is paused, at least and at most.
    left_ms: (u64, u64),
}

/// No shortage keeps a lane or all of them from starting for longer.
pub const PAUSE_MAX_MS: u64 = 5_000;

impl Lane {
    pub fn fresh(is_clean: bool) -> Lane {
        Lane { cap: 1, is_clean, ..Lane::default() }
    }

    /// The same lane in an engine that was opened at this time, after a crash.
    pub fn resumed(&mut self, (now_ms, wall_ms): (u64, u64), policy: &Policy) -> Lane {
        let mut saved = std::mem::take(&mut self.saved);
        if saved.is_empty() {
            saved.push(Health::default());
        }
        saved.extend(self.queued.drain(..));
        let left_ms = |health: &Health| {
            let down_ms = wall_ms.saturating_sub(health.at_wall_ms);
            let (least_ms, most_ms) = health.left_ms;
            (least_ms.saturating_sub(down_ms), most_ms.saturating_sub(down_ms))
        };
        let failing = || saved.iter().filter(|health| health.failures > 0);
        // While it is active, the time since the last failure counts up to the longest gap.
        let since =
            |health: &Health| wall_ms.saturating_sub(health.at_wall_ms).min(gap_max_ms(policy));
        // The health by which it has failed longest by now, and the newest of those.
        let longest = failing().max_by_key(|health| health.failing_ms.1 + since(health));
        let failures = saved.iter().map(|health| health.failures).min().unwrap_or(0);
        let least_ms = failing().map(|health| health.failing_ms.0).min();
        let least_ms = least_ms.filter(|_| failures > 0).unwrap_or(0);
        Lane {
            failures,
            strikes: failures,
            trips: saved.iter().map(|health| health.trips).min().unwrap_or(0),
            opens_ms: now_ms + saved.iter().map(|health| left_ms(health).0).min().unwrap_or(0),
            opens_surely_ms: now_ms
                + saved.iter().map(|health| left_ms(health).1).max().unwrap_or(0),
            failing_ms: longest.map(|health| (least_ms, health.failing_ms.1)),
            last_failure_ms: now_ms,
            gap_before_ms: longest.map_or(0, since),
            is_clean: saved.iter().all(|health| *health == Health::default()),
            saved,
            ..Lane::fresh(false)
        }
    }

    /// The health to write now, which the next group makes durable.
    pub fn save(&mut self, (now_ms, wall_ms): (u64, u64)) {
        let most_ms = self.rests_surely_ms.max(self.opens_surely_ms).max(self.rest_ms());
        self.queued.push_back(Health {
            at_wall_ms: wall_ms,
            failures: self.failures,
            trips: self.trips,
            failing_ms: self.failing_ms.unwrap_or_default(),
            left_ms: (self.rest_ms().saturating_sub(now_ms), most_ms.saturating_sub(now_ms)),
        });
    }

    /// The first of the waiting healths is on the device.
    pub fn saved(&mut self) {
        if let Some(health) = self.queued.pop_front() {
            self.saved = vec![health];
        }
    }

    /// The health is cleared. Attempts in flight and the rate stay.
    pub fn begin_anew(&mut self) {
        let Lane { in_flight, starts, ends, unlimited, saved, queued, postponed_until_ms, .. } =
            std::mem::take(self);
        let fresh = Lane { saved, queued, postponed_until_ms, ..Lane::fresh(true) };
        *self = Lane { in_flight, starts, ends, unlimited, ..fresh };
    }

    /// A crash interrupted the change that clears the health, perhaps after that was durable.
    pub fn may_be_cleared(&mut self) {
        self.queued.push_back(Health::default());
    }

    pub fn land(&mut self, key: Key, now_ms: u64) -> Option<u64> {
        let place = self.in_flight.iter().position(|(in_flight, _)| *in_flight == key)?;
        self.ends.push(now_ms);
        Some(self.in_flight.swap_remove(place).1)
    }

    /// An attempt starts.
    pub fn start(&mut self, key: Key, policy: &Policy, now_ms: u64) {
        let (cap, trips, rests_until_ms) = (self.cap, self.trips, self.rest_ms());
        assert!(self.in_flight.len() < cap, "{key:?} starts over the cap of {cap}");
        assert!(trips == 0 || self.in_flight.is_empty(), "{key:?} is a second probe");
        assert!(
            rests_until_ms <= now_ms,
            "{key:?} starts before {rests_until_ms} of a lane at rest"
        );
        if let Some(limit) = policy.rate_limit {
            let recent = recent(&self.starts[self.unlimited..], limit, now_ms);
            assert!(recent < limit.events as usize, "{key:?} starts over the rate of {limit:?}");
        }
        self.starts.push(now_ms);
        self.in_flight.push((key, now_ms));
    }

    /// Its rest may be cut short for last attempts.
    pub fn rest_may_be_cut(&mut self, now_ms: u64) {
        self.opens_ms = self.opens_ms.min(now_ms);
        self.rests_until_ms = self.rests_until_ms.min(now_ms);
    }

    fn rest_ms(&self) -> u64 {
        self.rests_until_ms.max(self.opens_ms)
    }

    /// Whether the engine has no reason to delay this lane.
    pub fn is_open(&self, policy: &Policy, now_ms: u64) -> bool {
        let limit = policy.rate_limit;
        let has_rate =
            limit.is_none_or(|limit| recent(&self.ends, limit, now_ms) < limit.events as usize);
        self.is_clean
            && self.in_flight.is_empty()
            && has_rate
            && self.rest_ms().max(self.rests_surely_ms).max(self.postponed_until_ms) <= now_ms
    }

    /// A rate limit counts from the change that sets it.
    pub fn forget_starts(&mut self) {
        self.unlimited = self.starts.len();
    }

    /// Whether it must be disabled for failing, and whether it may be: a crash makes uncertain which
    /// failures were written.
    pub fn fails_for_too_long(&self, policy: &Policy) -> (bool, bool) {
        let (Some(most_ms), Some(failing_ms)) = (policy.disable_after.map(millis), self.failing_ms)
        else {
            return (false, false);
        };
        (failing_ms.0 >= most_ms, failing_ms.1 >= most_ms)
    }

    fn note_failing(&mut self, policy: &Policy, now_ms: u64) {
        let (gap_ms, gap_max_ms) = (now_ms - self.last_failure_ms, gap_max_ms(policy));
        let gap_most_ms = (gap_ms + std::mem::take(&mut self.gap_before_ms)).min(gap_max_ms);
        let later = |(least_ms, most_ms): (u64, u64)| {
            (least_ms + gap_ms.min(gap_max_ms), most_ms + gap_most_ms)
        };
        // Where it may not have failed before, the failing time may begin with this failure.
        let is_uncertain = self.failures <= 1;
        self.failing_ms = Some(match self.failing_ms {
            None => (0, 0),
            Some(before) if is_uncertain => (0, later(before).1),
            Some(before) => later(before),
        });
        self.last_failure_ms = now_ms;
    }

    /// Takes an answer. Returns whether the health is written.
    pub fn learn(
        &mut self,
        meant: &Outcome,
        reply: &Reply,
        policy: &Policy,
        now_ms: u64,
        cap_max: usize,
        (left_least_ms, left_most_ms): (u64, u64),
    ) -> bool {
        if *meant == Outcome::Delivered {
            self.cap = (self.cap + 1).min(cap_max);
            self.is_clean = true;
            (self.strikes, self.trips, self.failures) = (0, 0, 0);
            (self.opens_ms, self.opens_surely_ms) = (0, 0);
            self.is_proven = true;
            return self.failing_ms.take().is_some();
        }
        self.failures += 1;
        self.cap = (self.cap / 2).max(1);
        self.note_failing(policy, now_ms);
        self.is_clean = false;
        self.is_proven = !matches!(reply, Reply::Failed(Failure::Timeout));
        if let Outcome::Retry { .. } = meant {
            self.strikes += 1;
            self.strike(policy, now_ms);
        }
        if let Reply::Response(answered) = reply
            && matches!(answered.status, 429 | 502 | 504)
        {
            let own_ms = millis(policy.breaker.initial) * 4 / 5;
            let asked_ms = answered.retry_after.map(millis).filter(|asked_ms| *asked_ms > 0);
            // It is cut to the age that is left; an endpoint that asks for none rests as it would otherwise.
            let rest_ms = match asked_ms {
                Some(asked_ms) if left_least_ms > 0 => asked_ms.min(left_least_ms),
                // A crash made the age uncertain, and next to nothing of it may be left.
                Some(_) if left_most_ms > 0 => own_ms.min(1),
                _ => own_ms,
            };
            let asked_ms = asked_ms.filter(|_| left_least_ms > 0);
            let asked_ms = asked_ms.map(|asked_ms| asked_ms.min(left_most_ms));
            self.rests_until_ms = self.rests_until_ms.max(now_ms + rest_ms);
            let most_ms = asked_ms.unwrap_or(millis(policy.breaker.max) * 6 / 5 + 1);
            self.rests_surely_ms = self.rests_surely_ms.max(now_ms + most_ms);
        }
        true
    }

    fn strike(&mut self, policy: &Policy, now_ms: u64) {
        let breaker = policy.breaker;
        let opens = breaker.failures.is_some_and(|failures| self.strikes >= failures);
        if !opens || now_ms < self.opens_ms {
            return;
        }
        let longest_ms = millis(breaker.max) * 6 / 5 + 1;
        if now_ms < self.opens_surely_ms {
            // It may still have been open, and then this failure changed nothing.
            self.opens_surely_ms = now_ms + longest_ms;
            return;
        }
        self.trips += 1;
        let doubled = (1..self.trips)
            .fold(millis(breaker.initial), |ms, _| (ms * 2).min(millis(breaker.max)));
        // Jitter of a fifth in both directions.
        self.opens_ms = now_ms + doubled * 4 / 5;
        self.opens_surely_ms = now_ms + doubled * 6 / 5 + 1;
    }
}

/// A gap between two failures counts for at most an eighth of the time after which it is disabled.
fn gap_max_ms(policy: &Policy) -> u64 {
    policy.disable_after.map_or(u64::MAX, |span| millis(span).div_ceil(8))
}

fn recent(starts: &[u64], limit: RateLimit, now_ms: u64) -> usize {
    starts.iter().filter(|start_ms| **start_ms + millis(limit.per) > now_ms).count()
}
