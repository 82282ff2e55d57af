//! Decides what an endpoint's answers allow its lane: how many attempts at once, and when.
//!
//! Leaves to others: which delivery goes (`starting`). Invariant: where jitter leaves more than one
//! time possible it keeps the earliest, so what it forbids is forbidden by the documents.

use wabahook::{Policy, RateLimit, Reply};

use super::life::Meaning;
use super::model::Key;
use super::plan::LANDED;

/// What an engine knows of a lane; most of it is forgotten when it ends.
#[derive(Debug, Default)]
pub struct Lane {
    /// Attempts that may be under way.
    pub cap: usize,
    /// Attempts under way, with their starts.
    pub flying: Vec<(Key, u64)>,
    /// Whether nothing is known against the endpoint: no failure since its last success.
    pub is_clean: bool,
    /// Whether its past since the last success is known: it is not after a crash.
    is_known: bool,
    /// Starts of other lanes while this one was ready.
    pub passed_over: usize,
    /// When attempts started, for the rate.
    starts: Vec<u64>,
    /// How many of them started before the limit was what it is.
    unlimited: usize,
    /// The first failure since the last success; unknown after a crash.
    failing_since_ms: Option<u64>,
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
}

impl Lane {
    pub fn fresh(is_clean: bool) -> Lane {
        Lane { cap: 1, is_clean, is_known: is_clean, ..Lane::default() }
    }

    /// What was known against the endpoint counts no more; what is under way and the rate stay.
    pub fn begin_anew(&mut self) {
        let Lane { flying, starts, unlimited, .. } = std::mem::take(self);
        *self = Lane { flying, starts, unlimited, ..Lane::fresh(true) };
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

    /// Whether it has to be disabled for nothing but failure, and whether it may be: a crash hides
    /// since when it has failed.
    pub fn fails_for_too_long(&self, policy: &Policy, now_ms: u64) -> (bool, bool) {
        let Some(most_ms) = policy.disable_after_ms else { return (false, false) };
        let too_long = self.failing_since_ms.is_some_and(|since_ms| now_ms - since_ms >= most_ms);
        (too_long, too_long || !self.is_known)
    }

    pub fn learn(
        &mut self,
        meant: &Meaning,
        reply: &Reply,
        policy: &Policy,
        now_ms: u64,
        cap_max: usize,
    ) {
        if *meant == Meaning::Delivered {
            self.cap = (self.cap + 1).min(cap_max);
            self.is_clean = true;
            (self.strikes, self.trips) = (0, 0);
            (self.is_known, self.failing_since_ms) = (true, None);
            (self.opens_ms, self.opens_surely_ms) = (0, 0);
            return;
        }
        self.cap = (self.cap / 2).max(1);
        if self.is_known {
            self.failing_since_ms.get_or_insert(now_ms);
        }
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
