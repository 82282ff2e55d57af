//! How long a delivery waits before its next attempt. A wait is a function of its arguments, never overflows, and is
//! at most [`LONGEST_MS`].

use crate::attempt::RetryState;
use crate::clock::millis;
use crate::subscription::{LONGEST_MS, Retry};

/// A receiver may ask for a day at most, so that a wrong header does not silence it for a year.
pub(crate) const RETRY_AFTER_MAX_MS: u64 = 24 * 3_600_000;

/// A breaker rests for at most a day and its jitter.
pub(super) const BREAKER_MAX_MS: u64 = 2 * RETRY_AFTER_MAX_MS;

/// How long to wait after so many failures (from 1), in milliseconds: the later of the policy's own
/// wait and the receiver's `Retry-After`. `random` is 64 uniform bits, and only jitter uses them.
pub(crate) fn delay_ms(
    retry: &Retry,
    failures: u32,
    retry_after_ms: Option<u64>,
    random: u64,
) -> u64 {
    let asked_ms = retry_after_ms.unwrap_or(0).min(RETRY_AFTER_MAX_MS);
    own_ms(retry, failures.max(1), random).min(LONGEST_MS).max(asked_ms)
}

fn own_ms(retry: &Retry, failures: u32, random: u64) -> u64 {
    match retry {
        Retry::Exponential { initial, max, jitter_permille } => {
            let doublings = 1_u64.checked_shl(failures - 1).unwrap_or(u64::MAX);
            let wait_ms =
                millis(*initial).saturating_mul(doublings).min(millis(*max)).min(LONGEST_MS);
            jittered_ms(wait_ms, *jitter_permille, random)
        }
        Retry::Linear { step, max } => {
            millis(*step).saturating_mul(failures.into()).min(millis(*max))
        }
        Retry::List { delays } => {
            let place = usize::try_from(failures - 1).unwrap_or(usize::MAX);
            delays.get(place).or(delays.last()).map_or(LONGEST_MS, |delay| millis(*delay))
        }
    }
}

/// Moves a wait by up to its share in both directions. The longest wait is moved too; otherwise half of all
/// deliveries would be due at the same moment.
fn jittered_ms(wait_ms: u64, jitter_permille: u16, random: u64) -> u64 {
    let most_ms = wait_ms * u64::from(jitter_permille.min(1_000)) / 1_000;
    let span = u128::from(most_ms) * 2 + 1;
    // The high half of the product is uniform over the span.
    let moved_ms = u64::try_from((u128::from(random) * span) >> 64).unwrap_or(0);
    wait_ms - most_ms + moved_ms
}

/// How old a stored delivery is now and how long it still waits, both in milliseconds.
///
/// Downtime counts in full for the age. The rest of the wait is never longer than the wait was, so a wall clock that
/// jumped backwards at most repeats it.
pub(crate) fn resumed_ms(state: &RetryState, wall_ms: u64) -> (u64, u64) {
    let wait_ms = state.due_wall_ms.saturating_sub(state.saved_wall_ms).min(LONGEST_MS);
    let down_ms = wall_ms.saturating_sub(state.saved_wall_ms);
    (state.age_ms.saturating_add(down_ms), wait_ms.saturating_sub(down_ms))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    fn exponential(initial_ms: u64, max_ms: u64, jitter_permille: u16) -> Retry {
        Retry::Exponential {
            initial: Duration::from_millis(initial_ms),
            max: Duration::from_millis(max_ms),
            jitter_permille,
        }
    }

    fn check(retry: &Retry, expected_ms: &[u64]) {
        for (failures, expected) in (1..).zip(expected_ms) {
            assert_eq!(delay_ms(retry, failures, None, 0), *expected, "after {failures}");
        }
    }

    #[test]
    fn each_schedule_waits_as_it_is_named() {
        check(&exponential(1_000, 10_000, 0), &[1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        check(
            &Retry::Linear { step: Duration::from_millis(900), max: Duration::from_millis(3_000) },
            &[900, 1_800, 2_700, 3_000, 3_000],
        );
        check(
            &Retry::List { delays: [0, 5, 300].map(Duration::from_millis).to_vec() },
            &[0, 5, 300, 300, 300],
        );
    }

    #[test]
    fn jitter_reaches_both_ends_of_its_share_and_no_further() {
        let retry = exponential(1_000, 3_600_000, 200);
        assert_eq!(delay_ms(&retry, 1, None, 0), 800);
        assert_eq!(delay_ms(&retry, 1, None, u64::MAX / 2), 1_000);
        assert_eq!(delay_ms(&retry, 1, None, u64::MAX), 1_200);
        assert_eq!(delay_ms(&retry, 99, None, u64::MAX), 4_320_000, "the longest one too");
    }

    #[test]
    fn the_later_of_backoff_and_retry_after_counts() {
        let retry = exponential(1_000, 10_000, 0);
        assert_eq!(delay_ms(&retry, 1, Some(999), 0), 1_000);
        assert_eq!(delay_ms(&retry, 1, Some(1_001), 0), 1_001);
        assert_eq!(delay_ms(&retry, 1, Some(u64::MAX), 0), RETRY_AFTER_MAX_MS);
        let days = Retry::List { delays: vec![Duration::from_millis(2 * RETRY_AFTER_MAX_MS)] };
        assert_eq!(delay_ms(&days, 1, Some(u64::MAX), 0), 2 * RETRY_AFTER_MAX_MS);
    }

    #[test]
    fn downtime_counts_for_the_age_and_the_wait() {
        let state =
            RetryState { attempts: 2, age_ms: 500, due_wall_ms: 1_300, saved_wall_ms: 1_000 };
        for (wall_ms, resumed) in [
            (1_000, (500, 300)),
            (1_100, (600, 200)),
            (1_300, (800, 0)),
            (9_000, (8_500, 0)),
            (u64::MAX, (u64::MAX - 500, 0)),
            (0, (500, 300)),
        ] {
            assert_eq!(resumed_ms(&state, wall_ms), resumed, "at {wall_ms}");
        }
        let absurd = RetryState { due_wall_ms: u64::MAX, age_ms: u64::MAX, ..state };
        assert_eq!(resumed_ms(&absurd, 0), (u64::MAX, LONGEST_MS));
    }

    fn any_retry() -> impl Strategy<Value = Retry> {
        prop_oneof![
            (any::<u64>(), any::<u64>(), any::<u16>()).prop_map(|(initial_ms, max_ms, jitter)| {
                exponential(initial_ms, max_ms, jitter)
            }),
            (any::<u64>(), any::<u64>()).prop_map(|(step_ms, max_ms)| Retry::Linear {
                step: Duration::from_millis(step_ms),
                max: Duration::from_millis(max_ms)
            }),
            proptest::collection::vec(any::<u64>(), 0..5).prop_map(|delays_ms| {
                let delays = delays_ms.into_iter().map(Duration::from_millis).collect();
                Retry::List { delays }
            }),
        ]
    }

    proptest! {
        #[test]
        fn no_wait_overflows_or_is_longer_than_the_longest(
            retry in any_retry(),
            failures in any::<u32>(),
            asked in any::<Option<u64>>(),
            random in any::<u64>(),
        ) {
            let wait_ms = delay_ms(&retry, failures, asked, random);
            prop_assert!(wait_ms <= LONGEST_MS);
            prop_assert!(wait_ms >= asked.unwrap_or(0).min(RETRY_AFTER_MAX_MS));
        }

        #[test]
        fn jitter_stays_within_its_share(
            initial_ms in 1_u64..100_000,
            more_ms in 0_u64..10_000_000,
            permille in 0_u16..=1_000,
            failures in 1_u32..200,
            random in any::<u64>(),
        ) {
            let max_ms = initial_ms + more_ms;
            let plain = delay_ms(&exponential(initial_ms, max_ms, 0), failures, None, random);
            let moved = delay_ms(&exponential(initial_ms, max_ms, permille), failures, None, random);
            prop_assert!(moved.abs_diff(plain) <= plain * u64::from(permille) / 1_000);
        }

        #[test]
        fn without_jitter_a_later_wait_is_never_shorter(
            initial_ms in 0_u64..=LONGEST_MS,
            max_ms in 0_u64..=LONGEST_MS,
            failures in 0_u32..u32::MAX,
        ) {
            let linear = Retry::Linear { step: Duration::from_millis(initial_ms), max: Duration::from_millis(max_ms) };
            for retry in [exponential(initial_ms, max_ms, 0), linear] {
                let (now, next) = (
                    delay_ms(&retry, failures, None, 7),
                    delay_ms(&retry, failures + 1, None, 7),
                );
                prop_assert!(now <= next && next <= max_ms);
            }
        }
    }
}
