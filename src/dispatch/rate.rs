//! Decides how many attempts a lane may start now under its rate limit.
//!
//! Leaves to others: whether anything is ready (`lane`). Invariant: in no span of `per_ms`, wherever
//! it begins, do more than `events` attempts start; a bucket of tokens would let through twice as
//! many where two spans meet. A restart forgets the attempts before it.

use std::collections::VecDeque;

use crate::subscription::RateLimit;

/// When the attempts of the last span started, oldest first.
#[derive(Debug, Default)]
pub(super) struct Rate {
    starts_ms: VecDeque<u64>,
}

impl Rate {
    /// How many attempts may start now.
    pub(super) fn room(&self, limit: RateLimit, now_ms: u64) -> usize {
        let recent = self.starts_ms.len() - self.passed(limit, now_ms);
        events(limit).saturating_sub(recent)
    }

    /// When the next attempt may start, where none may start now.
    pub(super) fn opens_ms(&self, limit: RateLimit, now_ms: u64) -> Option<u64> {
        if self.room(limit, now_ms) > 0 {
            return None;
        }
        // The start that must leave the span so that one more fits.
        let place = self.starts_ms.len().checked_sub(events(limit))?;
        self.starts_ms.get(place).map(|start_ms| start_ms.saturating_add(limit.per_ms))
    }

    /// Notes that an attempt starts.
    pub(super) fn start(&mut self, limit: RateLimit, now_ms: u64) {
        self.starts_ms.drain(..self.passed(limit, now_ms));
        self.starts_ms.push_back(now_ms);
    }

    fn passed(&self, limit: RateLimit, now_ms: u64) -> usize {
        self.starts_ms.partition_point(|start_ms| start_ms.saturating_add(limit.per_ms) <= now_ms)
    }
}

fn events(limit: RateLimit) -> usize {
    usize::try_from(limit.events).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn room_comes_back_as_each_start_leaves_the_span() {
        let limit = RateLimit { events: 2, per_ms: 100 };
        let mut rate = Rate::default();
        assert_eq!((rate.room(limit, 0), rate.opens_ms(limit, 0)), (2, None));
        rate.start(limit, 0);
        rate.start(limit, 60);
        assert_eq!((rate.room(limit, 99), rate.opens_ms(limit, 99)), (0, Some(100)));
        assert_eq!((rate.room(limit, 100), rate.room(limit, 160)), (1, 2));
        let narrower = RateLimit { events: 1, per_ms: 100 };
        assert_eq!(rate.opens_ms(narrower, 99), Some(160), "a limit that was lowered");
    }

    proptest! {
        #[test]
        fn no_span_holds_more_starts_than_the_limit(
            events in 1_u32..6,
            per_ms in 1_u64..50,
            steps in proptest::collection::vec(0_u64..20, 1..200),
        ) {
            let limit = RateLimit { events, per_ms };
            let (mut rate, mut now_ms, mut starts) = (Rate::default(), 0, Vec::new());
            for step_ms in steps {
                now_ms += step_ms;
                if rate.room(limit, now_ms) > 0 {
                    rate.start(limit, now_ms);
                    starts.push(now_ms);
                } else {
                    let opens_ms = rate.opens_ms(limit, now_ms).unwrap();
                    prop_assert!(opens_ms > now_ms && rate.room(limit, opens_ms) > 0);
                }
            }
            for from in &starts {
                let inside = starts.iter().filter(|s| (*from..from + per_ms).contains(*s)).count();
                prop_assert!(inside <= events as usize);
            }
        }
    }
}
