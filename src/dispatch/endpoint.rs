//! Decides what a lane has learnt of its endpoint, and how many attempts it may have under way now.
//!
//! Leaves to others: what is owed (`lane`) and whose turn it is (`turns`). Invariant: an endpoint that
//! fails is asked less and less, one attempt at a time and never given up by this file; what was
//! learnt of it survives a restart as [`LaneHealth`].
//!
//! ```text
//! closed --failures in a row--> open --its wait is over--> probing --success--> closed
//!                                ^                            |
//!                                +----------failure-----------+   (each time twice the wait)
//! ```

use super::backoff;
use super::flights::{Charge, Flight};
use super::lane::Moment;
use crate::attempt::{Failure, LaneHealth, Outcome, Reason};
use crate::subscription::{Breaker, Retry};

/// What is known of an endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// How many attempts may be under way.
    cap: usize,
    /// Whether it ever answered in time since the start.
    proven: bool,
    /// Whether its last word was that it did not answer in time.
    slow: bool,
    failures_in_row: u32,
    failing: Option<Failing>,
    /// Failures in a row that time may mend; what is refused for good says nothing of the endpoint.
    strikes: u32,
    /// How often in a row the breaker opened.
    trips: u32,
    open_until_ms: u64,
    /// Until when the endpoint asked to be left alone.
    rests_until_ms: u64,
}

/// Since when there has been nothing but failure.
#[derive(Debug, Clone, Copy)]
struct Failing {
    since_ms: u64,
    /// How long it had failed before that, in an earlier life of the engine.
    before_ms: u64,
}

/// Breakers of many lanes that one outage opened do not all probe at once.
const JITTER_PERMILLE: u16 = 200;

impl Default for Endpoint {
    fn default() -> Endpoint {
        Endpoint {
            cap: 1,
            proven: false,
            slow: false,
            failures_in_row: 0,
            failing: None,
            strikes: 0,
            trips: 0,
            open_until_ms: 0,
            rests_until_ms: 0,
        }
    }
}

impl Endpoint {
    /// What was known before the engine was opened. A wall clock that jumped lengthens no wait.
    pub(super) fn resumed(health: &LaneHealth, now_ms: u64, wall_ms: u64) -> Endpoint {
        let down_ms = wall_ms.saturating_sub(health.saved_wall_ms);
        let left_ms = health.breaker_left_ms.min(backoff::BREAKER_MAX_MS).saturating_sub(down_ms);
        let failing = Failing { since_ms: now_ms, before_ms: health.failing_for_ms };
        Endpoint {
            slow: health.slow,
            failures_in_row: health.failures_in_row,
            failing: (health.failures_in_row > 0).then_some(failing),
            strikes: health.failures_in_row,
            trips: health.trips,
            open_until_ms: now_ms.saturating_add(left_ms),
            ..Endpoint::default()
        }
    }

    /// What the next engine should know.
    pub(super) fn health(&self, now_ms: u64, wall_ms: u64) -> LaneHealth {
        LaneHealth {
            failures_in_row: self.failures_in_row,
            failing_for_ms: self.failing_for_ms(now_ms),
            trips: self.trips,
            breaker_left_ms: self.opens_ms().saturating_sub(now_ms),
            slow: self.slow,
            saved_wall_ms: wall_ms,
        }
    }

    /// Takes in how an attempt ended. Returns whether there is something to remember: a failure, or
    /// the first success after one.
    pub(super) fn learn(
        &mut self,
        flight: Flight,
        outcome: &Outcome,
        breaker: Breaker,
        cap_max: usize,
        moment: Moment,
    ) -> bool {
        let Moment { now_ms, chance } = moment;
        let (reason, retry_after_ms) = match outcome {
            Outcome::Interrupted => return false,
            // Nothing was sent, so nothing was learnt of who would have got it.
            Outcome::Dead(Reason::Failed(Failure::TooLarge)) => return false,
            Outcome::Delivered => return self.succeed(flight, cap_max),
            Outcome::Dead(reason) | Outcome::Gone(reason) => (reason, None),
            Outcome::Retry { reason, retry_after_ms } => {
                self.strike(breaker, moment);
                (reason, *retry_after_ms)
            }
        };
        let timed_out = matches!(reason, Reason::Failed(Failure::Timeout));
        self.slow = timed_out || flight.charge == Charge::Stuck;
        self.proven |= !self.slow;
        self.cap = (self.cap / 2).max(1);
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        self.failing.get_or_insert(Failing { since_ms: now_ms, before_ms: 0 });
        if matches!(reason, Reason::Status(429 | 502 | 504)) {
            let own_ms = wait_ms(breaker, self.failures_in_row, chance);
            let rest_ms = retry_after_ms.unwrap_or(own_ms).min(backoff::RETRY_AFTER_MAX_MS);
            self.rests_until_ms = self.rests_until_ms.max(now_ms.saturating_add(rest_ms));
        }
        true
    }

    fn succeed(&mut self, flight: Flight, cap_max: usize) -> bool {
        let had_failed = self.failures_in_row > 0 || self.trips > 0;
        self.slow = flight.charge == Charge::Stuck;
        self.proven |= !self.slow;
        self.cap = (self.cap + 1).min(cap_max.max(1));
        (self.failures_in_row, self.strikes, self.trips) = (0, 0, 0);
        (self.open_until_ms, self.failing) = (0, None);
        had_failed
    }

    /// Counts a failure that time may mend. While the breaker is open, attempts from before it
    /// opened may still fail; they say nothing new.
    fn strike(&mut self, breaker: Breaker, moment: Moment) {
        let Moment { now_ms, chance } = moment;
        self.strikes = self.strikes.saturating_add(1);
        let reached = breaker.failures.is_some_and(|failures| self.strikes >= failures);
        if reached && now_ms >= self.open_until_ms {
            self.trips = self.trips.saturating_add(1);
            let wait_ms = wait_ms(breaker, self.trips, chance);
            self.open_until_ms = now_ms.saturating_add(wait_ms);
        }
    }

    /// How many more attempts may start, beside those under way.
    pub(super) fn room(&self, in_flight: usize, now_ms: u64) -> usize {
        if now_ms < self.opens_ms() {
            return 0;
        }
        let cap = if self.trips > 0 { 1 } else { self.cap };
        cap.saturating_sub(in_flight)
    }

    /// Until when no attempt may start; in the past where one may.
    pub(super) fn opens_ms(&self) -> u64 {
        self.open_until_ms.max(self.rests_until_ms)
    }

    /// For how long there has been nothing but failure, in milliseconds.
    pub(super) fn failing_for_ms(&self, now_ms: u64) -> u64 {
        let age_ms = |f: Failing| f.before_ms.saturating_add(now_ms.saturating_sub(f.since_ms));
        self.failing.map_or(0, age_ms)
    }

    /// An attempt has gone unanswered for too long: no other starts beside it, and the lane goes
    /// behind those that answer.
    pub(super) fn turn_slow(&mut self) {
        self.cap = 1;
        self.slow = true;
    }

    pub(super) fn is_slow(&self) -> bool {
        self.slow
    }

    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    pub(super) fn failures_in_row(&self) -> u32 {
        self.failures_in_row
    }

    /// How often in a row the breaker opened; 0 while it is closed.
    pub(super) fn trips(&self) -> u32 {
        self.trips
    }
}

fn wait_ms(breaker: Breaker, times: u32, chance: u64) -> u64 {
    let Breaker { initial_ms, max_ms, .. } = breaker;
    let retry = Retry::Exponential { initial_ms, max_ms, jitter_permille: JITTER_PERMILLE };
    backoff::delay_ms(&retry, times, None, chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BREAKER: Breaker = Breaker { failures: Some(3), initial_ms: 1_000, max_ms: 3_000 };
    /// In the middle of the jitter: the wait as it stands.
    const CHANCE: u64 = u64::MAX / 2;

    fn flight(charge: Charge) -> Flight {
        Flight { sequence: 1, number: 1, started_ms: 0, charge }
    }

    fn status(status: u16) -> Outcome {
        Outcome::Retry { reason: Reason::Status(status), retry_after_ms: None }
    }

    fn learn(endpoint: &mut Endpoint, outcome: &Outcome, now_ms: u64) -> bool {
        let moment = Moment { now_ms, chance: CHANCE };
        endpoint.learn(flight(Charge::Worker), outcome, BREAKER, 4, moment)
    }

    #[test]
    fn the_cap_grows_with_success_halves_on_failure_and_is_bounded() {
        let mut endpoint = Endpoint::default();
        let room = |endpoint: &Endpoint| endpoint.room(0, 0);
        for expected in [2, 3, 4, 4] {
            assert!(!learn(&mut endpoint, &Outcome::Delivered, 0));
            assert_eq!(room(&endpoint), expected);
        }
        for expected in [2, 1] {
            assert!(learn(&mut endpoint, &status(500), 0));
            assert_eq!(room(&endpoint), expected);
        }
        assert!(learn(&mut endpoint, &Outcome::Delivered, 0), "the first success after a failure");
        assert!(!learn(&mut endpoint, &Outcome::Interrupted, 0));
        assert_eq!((room(&endpoint), endpoint.room(5, 0)), (2, 0));
    }

    #[test]
    fn the_breaker_opens_waits_longer_after_each_probe_that_fails_and_closes_with_a_success() {
        let mut endpoint = Endpoint::default();
        learn(&mut endpoint, &Outcome::Delivered, 0);
        for _ in 0..3 {
            assert_eq!(endpoint.trips(), 0);
            learn(&mut endpoint, &status(503), 10);
        }
        assert_eq!((endpoint.room(0, 1_009), endpoint.opens_ms()), (0, 1_010));
        learn(&mut endpoint, &status(503), 500);
        assert_eq!(endpoint.opens_ms(), 1_010, "one from before it opened");
        assert_eq!((endpoint.room(0, 1_010), endpoint.room(1, 1_010)), (1, 0), "one probe");
        for (now_ms, opens_ms) in [(1_010, 3_010), (3_010, 6_010), (6_010, 9_010)] {
            learn(&mut endpoint, &status(503), now_ms);
            assert_eq!(endpoint.opens_ms(), opens_ms);
        }
        assert!(learn(&mut endpoint, &Outcome::Delivered, 9_010));
        assert_eq!((endpoint.trips(), endpoint.room(0, 9_010)), (0, 2));
    }

    #[test]
    fn what_is_refused_for_good_opens_no_breaker_but_counts_as_failing() {
        let mut endpoint = Endpoint::default();
        for now_ms in 0..9 {
            learn(&mut endpoint, &Outcome::Dead(Reason::Status(404)), now_ms);
        }
        assert_eq!((endpoint.trips(), endpoint.failures_in_row()), (0, 9));
        assert_eq!(endpoint.failing_for_ms(1_000), 1_000);
    }

    #[test]
    fn an_event_that_no_request_could_hold_says_nothing_of_the_endpoint() {
        let (mut endpoint, mut bystander) = (Endpoint::default(), Endpoint::default());
        for one in [&mut endpoint, &mut bystander] {
            learn(one, &Outcome::Delivered, 0);
            learn(one, &status(500), 1);
        }
        assert!(!learn(&mut endpoint, &Outcome::Dead(Reason::Failed(Failure::TooLarge)), 2));
        assert_eq!(endpoint.health(9, 9), bystander.health(9, 9));
        assert_eq!(endpoint.room(0, 9), bystander.room(0, 9));
    }

    #[test]
    fn an_endpoint_that_is_overloaded_is_left_alone_for_as_long_as_it_asks() {
        for code in [429, 502, 504] {
            let mut endpoint = Endpoint::default();
            learn(&mut endpoint, &status(code), 0);
            assert_eq!(endpoint.opens_ms(), 1_000, "{code}");
        }
        let mut endpoint = Endpoint::default();
        let asked = Some(70_000);
        let outcome = Outcome::Retry { reason: Reason::Status(429), retry_after_ms: asked };
        learn(&mut endpoint, &outcome, 5);
        learn(&mut endpoint, &Outcome::Delivered, 6);
        assert_eq!((endpoint.room(0, 70_004), endpoint.room(0, 70_005)), (0, 2));
        learn(&mut endpoint, &status(500), 70_005);
        assert_eq!(endpoint.room(0, 70_005), 1, "another failure rests nothing");
    }

    #[test]
    fn a_restart_keeps_the_breaker_and_the_time_of_failing_and_no_jump_lengthens_them() {
        let mut endpoint = Endpoint::default();
        for now_ms in [100, 200, 300] {
            learn(&mut endpoint, &status(500), now_ms);
        }
        let health = endpoint.health(400, 5_000);
        let expected = LaneHealth {
            failures_in_row: 3,
            failing_for_ms: 300,
            trips: 1,
            breaker_left_ms: 900,
            slow: false,
            saved_wall_ms: 5_000,
        };
        assert_eq!(health, expected);
        for (wall_ms, opens_ms) in [(5_000, 907), (5_400, 507), (9_000, 7), (0, 907)] {
            let mut resumed = Endpoint::resumed(&health, 7, wall_ms);
            assert_eq!(resumed.opens_ms(), opens_ms, "at {wall_ms}");
            assert_eq!(resumed.failing_for_ms(107), 400);
            learn(&mut resumed, &status(500), 1_000);
            assert_eq!(resumed.trips(), 2, "a probe that failed");
        }
    }

    #[test]
    fn an_endpoint_is_proven_by_an_answer_in_time_and_by_nothing_else() {
        let mut endpoint = Endpoint::default();
        let timeout =
            Outcome::Retry { reason: Reason::Failed(Failure::Timeout), retry_after_ms: None };
        learn(&mut endpoint, &timeout, 0);
        let moment = Moment { now_ms: 0, chance: 0 };
        endpoint.learn(flight(Charge::Stuck), &Outcome::Delivered, BREAKER, 4, moment);
        assert!(endpoint.is_slow() && !endpoint.is_proven());
        learn(&mut endpoint, &status(500), 0);
        assert!(!endpoint.is_slow() && endpoint.is_proven());
    }
}
