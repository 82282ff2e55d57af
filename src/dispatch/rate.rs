//! How many attempts a lane may start now under its rate limit. In no span of `per` does the receiver get more
//! than `events` requests: an attempt counts from its start until `per` after its end, because its request
//! may arrive at any time in between. A token bucket would admit twice as many where two spans meet. A
//! restart forgets the attempts before it.

use std::collections::VecDeque;

use crate::clock::millis;
use crate::subscription::RateLimit;

/// When the attempts of the last span ended, oldest first.
#[derive(Debug, Default)]
pub(super) struct Rate {
    ends_ms: VecDeque<u64>,
}

impl Rate {
    /// How many attempts may start now, besides `in_flight`.
    pub(super) fn room(&self, limit: RateLimit, in_flight: usize, now_ms: u64) -> usize {
        let recent = self.ends_ms.len() - self.passed(limit, now_ms);
        events(limit).saturating_sub(recent.saturating_add(in_flight))
    }

    /// When the next attempt may start, if none may start now. `None` also if an attempt in flight must end
    /// first.
    pub(super) fn opens_ms(&self, limit: RateLimit, in_flight: usize, now_ms: u64) -> Option<u64> {
        if self.room(limit, in_flight, now_ms) > 0 {
            return None;
        }
        // The end that must leave the span so that one more fits.
        let place = self.ends_ms.len().checked_sub(events(limit).checked_sub(in_flight)?)?;
        self.ends_ms.get(place).map(|end_ms| end_ms.saturating_add(millis(limit.per)))
    }

    pub(super) fn end(&mut self, limit: RateLimit, now_ms: u64) {
        self.ends_ms.drain(..self.passed(limit, now_ms));
        self.ends_ms.push_back(now_ms);
    }

    fn passed(&self, limit: RateLimit, now_ms: u64) -> usize {
        let span_ms = millis(limit.per);
        self.ends_ms.partition_point(|end_ms| end_ms.saturating_add(span_ms) <= now_ms)
    }
}

fn events(limit: RateLimit) -> usize {
    usize::try_from(limit.events).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn room_returns_as_each_end_leaves_the_span() {
        let limit = RateLimit { events: 2, per: Duration::from_millis(100) };
        let mut rate = Rate::default();
        assert_eq!((rate.room(limit, 0, 0), rate.opens_ms(limit, 0, 0)), (2, None));
        assert_eq!((rate.room(limit, 2, 0), rate.opens_ms(limit, 2, 0)), (0, None));
        rate.end(limit, 0);
        assert_eq!((rate.room(limit, 1, 60), rate.opens_ms(limit, 1, 60)), (0, Some(100)));
        rate.end(limit, 60);
        assert_eq!((rate.room(limit, 0, 99), rate.opens_ms(limit, 0, 99)), (0, Some(100)));
        assert_eq!((rate.room(limit, 0, 100), rate.room(limit, 0, 160)), (1, 2));
        let narrower = RateLimit { events: 1, per: Duration::from_millis(100) };
        assert_eq!(rate.opens_ms(narrower, 0, 99), Some(160), "a limit that was lowered");
    }

    proptest! {
        /// Requests arrive anywhere between the start and the end of their attempt.
        #[test]
        fn no_span_holds_more_arrivals_than_the_limit(
            events in 1_u32..6,
            per_ms in 1_u64..50,
            steps in prop::collection::vec((0_u64..20, any::<bool>()), 1..200),
        ) {
            let limit = RateLimit { events, per: Duration::from_millis(per_ms) };
            let (mut rate, mut now_ms) = (Rate::default(), 0);
            let (mut in_flight, mut arrivals) = (Vec::<u64>::new(), Vec::new());
            for (step_ms, ends) in steps {
                now_ms += step_ms;
                if ends && !in_flight.is_empty() {
                    let started_ms = in_flight.remove(0);
                    // At the start or at the end of the attempt, alternately.
                    arrivals.push(if arrivals.len() % 2 == 0 { started_ms } else { now_ms });
                    rate.end(limit, now_ms);
                } else if rate.room(limit, in_flight.len(), now_ms) > 0 {
                    in_flight.push(now_ms);
                } else if let Some(opens_ms) = rate.opens_ms(limit, in_flight.len(), now_ms) {
                    let room = rate.room(limit, in_flight.len(), opens_ms);
                    prop_assert!(opens_ms > now_ms && room > 0);
                } else {
                    prop_assert!(in_flight.len() >= events as usize);
                }
            }
            for from in &arrivals {
                let span = *from..from + per_ms;
                let inside = arrivals.iter().filter(|arrival| span.contains(arrival)).count();
                prop_assert!(inside <= events as usize);
            }
        }
    }
}
