//! What a lane knows of its endpoint, and how many attempts it may have in flight. A failing endpoint is
//! tried less and less, at least one attempt at a time. What is known survives a restart as [`LaneHealth`].
//!
//! ```text
//! closed --failures in a row--> open --rest is over--> probing --success--> closed
//!                                ^                         |
//!                                +---------failure---------+   (each time twice the rest)
//! ```

use super::lane_demand::LaneClass;
use super::{StepContext, backoff};
use crate::attempt::{LaneHealth, Outcome, Reason};
use crate::clock::millis;
use crate::subscription::{Breaker, Retry};
use crate::transport::Failure;

#[derive(Debug)]
pub(super) struct EndpointHealth {
    cap: usize,
    /// Whether it responded in time since the engine was opened.
    proven: bool,
    /// For how many more slow successes it counts as prompt.
    prompt_left: u32,
    /// How long its last attempt took, if that timed out; 0 if it timed out before the engine was opened.
    timed_out_after_ms: Option<u64>,
    pub(super) failures_in_row: u32,
    failing: Option<Failing>,
    /// Failures in a row that time may repair; a permanent refusal says nothing of the endpoint.
    strikes: u32,
    /// How many times in a row the breaker opened; 0 while it is closed.
    pub(super) trips: u32,
    open_until_ms: u64,
    /// Until when the endpoint asked not to be called.
    rests_until_ms: u64,
}

/// A time of nothing but failure.
#[derive(Debug, Clone, Copy)]
struct Failing {
    /// The failing time up to the last failure, without the parts over `gap_max_ms` between two failures.
    spread_ms: u64,
    last_ms: u64,
    /// The part of the present gap that lies before `last_ms`: from the last failure to the open of the engine.
    gap_before_ms: u64,
    gap_max_ms: u64,
}

/// The part of `disable_after` that one gap between two failures can add to the failing time. So a
/// subscription is disabled only after failures spread over the whole span.
const GAPS_MIN: u64 = 8;

/// An endpoint that responds within so many milliseconds is prompt.
const PROMPT_MS: u64 = 50;

/// It is prompt for so many responses, the prompt one included: slower ones of a busy moment say nothing of the endpoint.
/// A failed attempt ends it at once.
const PROMPT_FOR: u32 = 16;

/// Jitter, so that breakers opened by one outage do not all probe at once.
const JITTER_PERMILLE: u16 = 200;

/// The rules that decide what a failure means for the endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct HealthRules {
    pub(super) breaker: Breaker,
    pub(super) cap_max: usize,
    pub(super) disable_after_ms: Option<u64>,
}

/// How much of the time between two failures counts as failing.
pub(super) fn gap_max_ms(disable_after_ms: Option<u64>) -> u64 {
    disable_after_ms.map_or(u64::MAX, |span_ms| span_ms.div_ceil(GAPS_MIN))
}

impl Default for EndpointHealth {
    fn default() -> EndpointHealth {
        EndpointHealth {
            cap: 1,
            proven: false,
            prompt_left: 0,
            timed_out_after_ms: None,
            failures_in_row: 0,
            failing: None,
            strikes: 0,
            trips: 0,
            open_until_ms: 0,
            rests_until_ms: 0,
        }
    }
}

impl EndpointHealth {
    /// The health that was stored before the engine was opened. A jump of the wall clock lengthens no wait. The time
    /// since it was stored counts as failing, at most `gap_max_ms` of it.
    pub(super) fn resumed(
        health: &LaneHealth,
        now_ms: u64,
        wall_ms: u64,
        gap_max_ms: u64,
    ) -> EndpointHealth {
        let down_ms = wall_ms.saturating_sub(health.saved_wall_ms);
        let left_ms = health.breaker_left_ms.min(backoff::BREAKER_MAX_MS).saturating_sub(down_ms);
        let failing = Failing {
            spread_ms: health.failing_for_ms,
            last_ms: now_ms,
            gap_before_ms: down_ms.min(gap_max_ms),
            gap_max_ms: u64::MAX,
        };
        EndpointHealth {
            timed_out_after_ms: health.slow.then_some(0),
            failures_in_row: health.failures_in_row,
            failing: (health.failures_in_row > 0).then_some(failing),
            strikes: health.failures_in_row,
            trips: health.trips,
            open_until_ms: now_ms.saturating_add(left_ms),
            ..EndpointHealth::default()
        }
    }

    pub(super) fn health(&self, now_ms: u64, wall_ms: u64) -> LaneHealth {
        LaneHealth {
            failures_in_row: self.failures_in_row,
            failing_for_ms: self.failing_for_ms(now_ms),
            trips: self.trips,
            breaker_left_ms: self.opens_ms().saturating_sub(now_ms),
            slow: self.timed_out_after_ms.is_some(),
            saved_wall_ms: wall_ms,
        }
    }

    /// Learns from the outcome of an attempt that took `took_ms`. Returns whether the health must be
    /// saved: after a failure, and after the first success that follows one.
    pub(super) fn learn(
        &mut self,
        outcome: &Outcome,
        took_ms: u64,
        rules: HealthRules,
        context: StepContext,
    ) -> bool {
        let StepContext { now_ms, random, .. } = context;
        let (reason, retry_after_ms) = match outcome {
            Outcome::Interrupted => return false,
            // Nothing was sent, so nothing was learnt.
            Outcome::Dead(Reason::Failed(Failure::TooLarge)) => return false,
            Outcome::Delivered => return self.succeed(took_ms, rules.cap_max),
            Outcome::Dead(reason) | Outcome::Gone(reason) => (reason, None),
            Outcome::Retry { reason, retry_after } => {
                self.strike(rules.breaker, context);
                (reason, retry_after.map(millis))
            }
        };
        let timed_out = matches!(reason, Reason::Failed(Failure::Timeout));
        self.timed_out_after_ms = timed_out.then_some(took_ms);
        self.proven |= !timed_out;
        self.prompt_left = 0;
        self.cap = (self.cap / 2).max(1);
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        self.note_failing(now_ms, gap_max_ms(rules.disable_after_ms));
        if matches!(reason, Reason::Status(429 | 502 | 504)) {
            let own_ms = wait_ms(rules.breaker, self.failures_in_row, random);
            // A receiver that asks for no wait is overloaded nevertheless.
            let asked_ms = retry_after_ms.filter(|asked_ms| *asked_ms > 0);
            let rest_ms = asked_ms.unwrap_or(own_ms).min(backoff::RETRY_AFTER_MAX_MS);
            self.rests_until_ms = self.rests_until_ms.max(now_ms.saturating_add(rest_ms));
        }
        true
    }

    fn succeed(&mut self, took_ms: u64, cap_max: usize) -> bool {
        let had_failed = self.failures_in_row > 0 || self.trips > 0;
        self.prompt_left = match took_ms <= PROMPT_MS {
            true => PROMPT_FOR,
            false => self.prompt_left.saturating_sub(1),
        };
        self.timed_out_after_ms = None;
        self.proven = true;
        self.cap = (self.cap + 1).min(cap_max.max(1));
        (self.failures_in_row, self.strikes, self.trips) = (0, 0, 0);
        (self.open_until_ms, self.failing) = (0, None);
        had_failed
    }

    fn note_failing(&mut self, now_ms: u64, gap_max_ms: u64) {
        let spread_ms = match self.failing {
            Some(before) => Failing { gap_max_ms, ..before }.until_ms(now_ms),
            None => 0,
        };
        self.failing = Some(Failing { spread_ms, last_ms: now_ms, gap_before_ms: 0, gap_max_ms });
    }

    /// The time between these two does not count as failing, because the subscription was not active.
    pub(super) fn skip_inactive(&mut self, since_ms: u64, now_ms: u64) {
        if let Some(failing) = &mut self.failing {
            failing.spread_ms = failing.until_ms(since_ms);
            (failing.last_ms, failing.gap_before_ms) = (now_ms, 0);
        }
    }

    /// Counts a failure that time may repair. While the breaker is open, attempts from before may still
    /// fail; they do not count.
    fn strike(&mut self, breaker: Breaker, context: StepContext) {
        let StepContext { now_ms, random, .. } = context;
        self.strikes = self.strikes.saturating_add(1);
        let reached = breaker.failures.is_some_and(|failures| self.strikes >= failures);
        if reached && now_ms >= self.open_until_ms {
            self.trips = self.trips.saturating_add(1);
            let wait_ms = wait_ms(breaker, self.trips, random);
            self.open_until_ms = now_ms.saturating_add(wait_ms);
        }
    }

    /// How many more attempts may start, besides `in_flight`.
    pub(super) fn room(&self, in_flight: usize, now_ms: u64) -> usize {
        if now_ms < self.opens_ms() {
            return 0;
        }
        let cap = if self.trips > 0 { 1 } else { self.cap };
        cap.saturating_sub(in_flight)
    }

    /// Until when no attempt may start; in the past if one may.
    pub(super) fn opens_ms(&self) -> u64 {
        self.open_until_ms.max(self.rests_until_ms)
    }

    /// Ends the rest now. While the breaker is not closed, one probe may start.
    pub(super) fn end_rest(&mut self, now_ms: u64) {
        self.open_until_ms = self.open_until_ms.min(now_ms);
        self.rests_until_ms = self.rests_until_ms.min(now_ms);
    }

    /// For how long there has been nothing but failure, in milliseconds.
    pub(super) fn failing_for_ms(&self, now_ms: u64) -> u64 {
        self.failing.map_or(0, |failing| failing.until_ms(now_ms))
    }

    /// Its class in the ready queue. `timeout_ms` stands for the latency of a time-out before the engine
    /// was opened.
    pub(super) fn class(&self, timeout_ms: u64) -> LaneClass {
        match self.timed_out_after_ms {
            Some(0) => LaneClass::TimedOut(timeout_ms),
            Some(latency_ms) => LaneClass::TimedOut(latency_ms),
            None if self.proven => LaneClass::Proven,
            None => LaneClass::Untried,
        }
    }

    pub(super) fn is_prompt(&self) -> bool {
        self.prompt_left > 0
    }

    /// Whether it has failed since its last success, or rests.
    pub(super) fn has_failures(&self) -> bool {
        self.failures_in_row > 0 || self.trips > 0 || self.opens_ms() > 0
    }
}

impl Failing {
    fn until_ms(&self, now_ms: u64) -> u64 {
        let gap_ms = now_ms.saturating_sub(self.last_ms).saturating_add(self.gap_before_ms);
        self.spread_ms.saturating_add(gap_ms.min(self.gap_max_ms))
    }
}

fn wait_ms(breaker: Breaker, times: u32, random: u64) -> u64 {
    let Breaker { initial, max, .. } = breaker;
    let retry = Retry::Exponential { initial, max, jitter_permille: JITTER_PERMILLE };
    backoff::delay_ms(&retry, times, None, random)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BREAKER: Breaker =
        Breaker { failures: Some(3), initial: Duration::from_secs(1), max: Duration::from_secs(3) };
    /// In the middle of the jitter: the wait as it stands.
    const RANDOM: u64 = u64::MAX / 2;

    fn context_at(now_ms: u64) -> StepContext {
        StepContext { now_ms, wall_ms: 0, random: RANDOM }
    }

    const RULES: HealthRules =
        HealthRules { breaker: BREAKER, cap_max: 4, disable_after_ms: Some(8_000) };

    fn status(status: u16) -> Outcome {
        Outcome::Retry { reason: Reason::Status(status), retry_after: None }
    }

    fn learn(endpoint: &mut EndpointHealth, outcome: &Outcome, now_ms: u64) -> bool {
        endpoint.learn(outcome, 20, RULES, context_at(now_ms))
    }

    #[test]
    fn the_cap_grows_with_success_and_halves_on_failure() {
        let mut endpoint = EndpointHealth::default();
        let room = |endpoint: &EndpointHealth| endpoint.room(0, 0);
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
    fn each_failed_probe_doubles_the_breakers_rest() {
        let mut endpoint = EndpointHealth::default();
        learn(&mut endpoint, &Outcome::Delivered, 0);
        for _ in 0..3 {
            assert_eq!(endpoint.trips, 0);
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
        assert_eq!((endpoint.trips, endpoint.room(0, 9_010)), (0, 2));
    }

    #[test]
    fn a_permanent_refusal_fails_without_opening_the_breaker() {
        let mut endpoint = EndpointHealth::default();
        for now_ms in 0..9 {
            learn(&mut endpoint, &Outcome::Dead(Reason::Status(404)), now_ms);
        }
        assert_eq!((endpoint.trips, endpoint.failures_in_row), (0, 9));
        assert_eq!(endpoint.failing_for_ms(1_000), 1_000);
    }

    #[test]
    fn a_request_too_large_to_send_says_nothing_of_the_endpoint() {
        let (mut endpoint, mut bystander) = (EndpointHealth::default(), EndpointHealth::default());
        for one in [&mut endpoint, &mut bystander] {
            learn(one, &Outcome::Delivered, 0);
            learn(one, &status(500), 1);
        }
        assert!(!learn(&mut endpoint, &Outcome::Dead(Reason::Failed(Failure::TooLarge)), 2));
        assert_eq!(endpoint.health(9, 9), bystander.health(9, 9));
        assert_eq!(endpoint.room(0, 9), bystander.room(0, 9));
    }

    #[test]
    fn an_overloaded_endpoint_rests_as_long_as_it_asks() {
        let zero =
            Outcome::Retry { reason: Reason::Status(429), retry_after: Some(Duration::ZERO) };
        for outcome in [status(429), status(502), status(504), zero] {
            let mut endpoint = EndpointHealth::default();
            learn(&mut endpoint, &outcome, 0);
            assert_eq!(endpoint.opens_ms(), 1_000, "{outcome:?}");
        }
        let mut endpoint = EndpointHealth::default();
        let asked = Some(70_000);
        let outcome = Outcome::Retry {
            reason: Reason::Status(429),
            retry_after: asked.map(Duration::from_millis),
        };
        learn(&mut endpoint, &outcome, 5);
        learn(&mut endpoint, &Outcome::Delivered, 6);
        assert_eq!((endpoint.room(0, 70_004), endpoint.room(0, 70_005)), (0, 2));
        learn(&mut endpoint, &status(500), 70_005);
        assert_eq!(endpoint.room(0, 70_005), 1, "another failure rests nothing");
    }

    #[test]
    fn a_restart_keeps_the_breaker_and_the_failing_time() {
        let mut endpoint = EndpointHealth::default();
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
            let mut resumed = EndpointHealth::resumed(&health, 7, wall_ms, 1_000);
            assert_eq!(resumed.opens_ms(), opens_ms, "at {wall_ms}");
            let down_ms = wall_ms.saturating_sub(5_000).min(1_000);
            assert_eq!(resumed.failing_for_ms(107), 400 + down_ms, "at {wall_ms}");
            learn(&mut resumed, &status(500), 1_000);
            assert_eq!(resumed.trips, 2, "a probe that failed");
        }
    }

    #[test]
    fn an_endpoint_is_proven_by_a_response_in_time() {
        let mut endpoint = EndpointHealth::default();
        assert_eq!(endpoint.class(9), LaneClass::Untried);
        let timeout =
            Outcome::Retry { reason: Reason::Failed(Failure::Timeout), retry_after: None };
        learn(&mut endpoint, &timeout, 0);
        assert_eq!(endpoint.class(9), LaneClass::TimedOut(20));
        let resumed = EndpointHealth::resumed(&endpoint.health(0, 0), 0, 0, 0);
        assert_eq!(resumed.class(9), LaneClass::TimedOut(9), "its latency is not kept");
        learn(&mut endpoint, &status(500), 0);
        assert_eq!(endpoint.class(9), LaneClass::Proven);
        learn(&mut endpoint, &timeout, 0);
        learn(&mut endpoint, &Outcome::Delivered, 0);
        assert_eq!(endpoint.class(9), LaneClass::Proven);
    }

    #[test]
    fn failures_must_be_spread_to_count_as_failing() {
        let mut endpoint = EndpointHealth::default();
        for now_ms in [0, 100_000] {
            learn(&mut endpoint, &status(500), now_ms);
        }
        assert_eq!(endpoint.failing_for_ms(100_000), 1_000, "one gap counts an eighth of the span");
        endpoint.skip_inactive(100_200, 200_000);
        assert_eq!(endpoint.failing_for_ms(200_500), 1_700);
        for now_ms in (201_000..=208_000).step_by(1_000) {
            learn(&mut endpoint, &status(500), now_ms);
        }
        assert_eq!(endpoint.failing_for_ms(208_000), 9_200);
    }

    #[test]
    fn a_gap_over_a_restart_counts_once() {
        const HALF_GAP_MS: u64 = 15 * 3_600_000;
        let rules = HealthRules { disable_after_ms: Some(8 * HALF_GAP_MS), ..RULES };
        let mut endpoint = EndpointHealth::default();
        endpoint.learn(&status(500), 20, rules, context_at(0));
        for gaps in 1..=8 {
            let (failed_ms, now_ms) = ((gaps - 1) * 2 * HALF_GAP_MS, gaps * 2 * HALF_GAP_MS);
            let (stored, opened_ms) =
                (endpoint.health(failed_ms, failed_ms), failed_ms + HALF_GAP_MS);
            endpoint = EndpointHealth::resumed(&stored, opened_ms, opened_ms, HALF_GAP_MS);
            endpoint.learn(&status(500), 20, rules, context_at(now_ms));
            assert_eq!(endpoint.failing_for_ms(now_ms), gaps * HALF_GAP_MS, "an eighth for each");
        }
    }
}
