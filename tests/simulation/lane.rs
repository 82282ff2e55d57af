//! Decides what an endpoint's answers allow its lane: how many attempts at once, and when.
//!
//! Leaves to others: which delivery goes (`starting`). Invariant: where jitter leaves more than one
//! time possible it keeps the earliest, so what it forbids is forbidden by the documents.

use std::collections::VecDeque;

use wabahook::{Policy, RateLimit, Reply};

use super::life::Meaning;
use super::model::Key;
use super::plan::LANDED;

/// What an engine knows of a lane; of this, what is [`Health`] outlives it.
#[derive(Debug, Default)]
pub struct Lane {
    /// Attempts that may be under way.
    pub cap: usize,
    /// Attempts under way, with their starts.
    pub flying: Vec<(Key, u64)>,
    /// Whether nothing is known against the endpoint: no failure since its last success.
    pub is_clean: bool,
    /// Starts of other lanes while this one was ready.
    pub passed_over: usize,
    /// When attempts started, for the rate.
    starts: Vec<u64>,
    /// How many of them started before the limit was what it is.
    unlimited: usize,
    /// Since when there may have been nothing but failure, and since when there surely has: a crash
    /// leaves open which of several healths was written. What failed before the engine was opened is
    /// counted back from there, which may be before the clock began.
    failing_maybe_since_ms: Option<i64>,
    failing_surely_since_ms: Option<i64>,
    /// Failures in a row, at least.
    failures: u32,
    /// Failures in a row that count for the breaker.
    strikes: u32,
    trips: u32,
    /// No attempt starts before, because the endpoint asked to be left alone.
    rests_until_ms: u64,
    /// That rest is surely over from here on.
    rests_surely_ms: u64,
    /// No attempt starts before, because the breaker is open.
    opens_ms: u64,
    /// The breaker's wait is surely over from here on.
    opens_surely_ms: u64,
    /// What may be on the device of its health; nothing where it never failed.
    saved: Vec<Health>,
    /// What it became since, each waiting for its group.
    queued: VecDeque<Health>,
}

/// What is written of a lane with each failure and with the first success after one.
#[derive(Debug, Clone, Default, PartialEq)]
struct Health {
    at_wall_ms: u64,
    failures: u32,
    trips: u32,
    /// For how long it had failed, at least and at most.
    failing_ms: (u64, u64),
    /// How much longer it is left alone, at least and at most.
    left_ms: (u64, u64),
}

impl Lane {
    pub fn fresh(is_clean: bool) -> Lane {
        Lane { cap: 1, is_clean, ..Lane::default() }
    }

    /// The same lane in an engine that was opened at this moment, after a crash.
    pub fn resumed(&mut self, (now_ms, wall_ms): (u64, u64)) -> Lane {
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
        let since_ms = |failing_ms: u64| now_ms as i64 - failing_ms as i64;
        let failing = || saved.iter().filter(|health| health.failures > 0);
        let surely = failing().map(|health| since_ms(health.failing_ms.0)).max();
        let failures = saved.iter().map(|health| health.failures).min().unwrap_or(0);
        Lane {
            failures,
            strikes: failures,
            trips: saved.iter().map(|health| health.trips).min().unwrap_or(0),
            opens_ms: now_ms + saved.iter().map(|health| left_ms(health).0).min().unwrap_or(0),
            opens_surely_ms: now_ms
                + saved.iter().map(|health| left_ms(health).1).max().unwrap_or(0),
            failing_maybe_since_ms: failing().map(|health| since_ms(health.failing_ms.1)).min(),
            failing_surely_since_ms: surely.filter(|_| failures > 0),
            is_clean: saved.iter().all(|health| *health == Health::default()),
            saved,
            ..Lane::fresh(false)
        }
    }

    /// What is to be written of it now, which the next group makes durable.
    pub fn save(&mut self, (now_ms, wall_ms): (u64, u64)) {
        let age_ms = |since_ms: Option<i64>| {
            since_ms.map_or(0, |since_ms| (now_ms as i64 - since_ms) as u64)
        };
        let most_ms = self.rests_surely_ms.max(self.opens_surely_ms).max(self.rest_ms());
        self.queued.push_back(Health {
            at_wall_ms: wall_ms,
            failures: self.failures,
            trips: self.trips,
            failing_ms: (age_ms(self.failing_surely_since_ms), age_ms(self.failing_maybe_since_ms)),
            left_ms: (self.rest_ms().saturating_sub(now_ms), most_ms.saturating_sub(now_ms)),
        });
    }

    /// The health that was to be written first is on the device.
    pub fn saved(&mut self) {
        if let Some(health) = self.queued.pop_front() {
            self.saved = vec![health];
        }
    }

    /// What was known against the endpoint counts no more; what is under way and the rate stay.
    pub fn begin_anew(&mut self) {
        let Lane { flying, starts, unlimited, saved, queued, .. } = std::mem::take(self);
        *self = Lane { flying, starts, unlimited, saved, queued, ..Lane::fresh(true) };
    }

    pub fn land(&mut self, key: Key) -> Option<u64> {
        let place = self.flying.iter().position(|(flying, _)| *flying == key)?;
        Some(self.flying.swap_remove(place).1)
    }

    /// An attempt starts.
    pub fn start(&mut self, key: Key, policy: &Policy, now_ms: u64) {
        let (cap, trips, rests_until_ms) = (self.cap, self.trips, self.rest_ms());
        assert!(self.flying.len() < cap, "{key:?} starts over the cap of {cap}");
        assert!(trips == 0 || self.flying.is_empty(), "{key:?} is a second probe");
        assert!(
            rests_until_ms <= now_ms,
            "{key:?} starts before {rests_until_ms} of a lane at rest"
        );
        if let Some(limit) = policy.rate_limit {
            let recent = recent(&self.starts[self.unlimited..], limit, now_ms);
            assert!(recent < limit.events as usize, "{key:?} starts over the rate of {limit:?}");
        }
        self.starts.push(now_ms);
        self.flying.push((key, now_ms));
    }

    fn rest_ms(&self) -> u64 {
        self.rests_until_ms.max(self.opens_ms)
    }

    /// Whether the engine has no reason to hold this lane back at all.
    pub fn is_open(&self, policy: &Policy, now_ms: u64) -> bool {
        let limit = policy.rate_limit;
        let has_rate =
            limit.is_none_or(|limit| recent(&self.starts, limit, now_ms) < limit.events as usize);
        self.is_clean
            && self.flying.is_empty()
            && has_rate
            && self.rest_ms().max(self.rests_surely_ms) <= now_ms
    }

    /// A limit begins to count with the change that brings it.
    pub fn forget_starts(&mut self) {
        self.unlimited = self.starts.len();
    }

    pub fn turn_stuck(&mut self) {
        self.cap = 1;
        self.is_clean = false;
    }

    /// Whether it has to be disabled for nothing but failure, and whether it may be: a crash leaves
    /// open which failures were written.
    pub fn fails_for_too_long(&self, policy: &Policy, now_ms: u64) -> (bool, bool) {
        let Some(most_ms) = policy.disable_after_ms else { return (false, false) };
        let too_long = |since_ms: Option<i64>| {
            since_ms.is_some_and(|since_ms| now_ms as i64 - since_ms >= most_ms as i64)
        };
        (too_long(self.failing_surely_since_ms), too_long(self.failing_maybe_since_ms))
    }

    /// Takes in an answer. Returns whether that is written.
    pub fn learn(
        &mut self,
        meant: &Meaning,
        reply: &Reply,
        policy: &Policy,
        now_ms: u64,
        cap_max: usize,
    ) -> bool {
        if *meant == Meaning::Delivered {
            self.cap = (self.cap + 1).min(cap_max);
            self.is_clean = true;
            (self.strikes, self.trips, self.failures) = (0, 0, 0);
            (self.opens_ms, self.opens_surely_ms) = (0, 0);
            self.failing_surely_since_ms = None;
            return self.failing_maybe_since_ms.take().is_some();
        }
        self.failures += 1;
        self.cap = (self.cap / 2).max(1);
        self.failing_maybe_since_ms.get_or_insert(now_ms as i64);
        self.failing_surely_since_ms.get_or_insert(now_ms as i64);
        self.is_clean = false;
        if let Meaning::Retry { .. } = meant {
            self.strikes += 1;
            self.strike(policy, now_ms);
        }
        if let Reply::Answered(answered) = reply
            && LANDED
            && matches!(answered.status, 429 | 502 | 504)
        {
            let own_ms = policy.breaker.initial_ms * 4 / 5;
            let rest_ms = answered.retry_after_ms.unwrap_or(own_ms);
            self.rests_until_ms = self.rests_until_ms.max(now_ms + rest_ms);
            let most_ms = answered.retry_after_ms.unwrap_or(policy.breaker.max_ms * 6 / 5 + 1);
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
        let longest_ms = breaker.max_ms * 6 / 5 + 1;
        if now_ms < self.opens_surely_ms {
            // It may have been open still, and then this failure said nothing new.
            self.opens_surely_ms = now_ms + longest_ms;
            return;
        }
        self.trips += 1;
        let doubled =
            (1..self.trips).fold(breaker.initial_ms, |ms, _| (ms * 2).min(breaker.max_ms));
        // A fifth of jitter either way.
        self.opens_ms = now_ms + doubled * 4 / 5;
        self.opens_surely_ms = now_ms + doubled * 6 / 5 + 1;
    }
}

fn recent(starts: &[u64], limit: RateLimit, now_ms: u64) -> usize {
    starts.iter().filter(|start_ms| **start_ms + limit.per_ms > now_ms).count()
}
