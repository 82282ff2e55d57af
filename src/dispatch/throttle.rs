//! Lowers the number of attempts in flight after a shortage of ours (I12): no file, no memory, no local port
//! or no thread for one more. As many as were in flight then are what the process can hold; the limit grows
//! again with each attempt that succeeds, and starting pauses for a moment, longer each time it repeats.

use crate::transport::Shortage;

#[derive(Debug, Default)]
pub(super) struct Throttle {
    limited: Option<Limited>,
}

#[derive(Debug, Clone, Copy)]
struct Limited {
    shortage: Shortage,
    limit: usize,
    opens_ms: u64,
    pause_ms: u64,
}

/// The first pause, and the longest.
const PAUSE_MS: u64 = 50;
const PAUSE_MAX_MS: u64 = 5_000;

impl Throttle {
    /// An attempt met a shortage while `in_flight` others were in flight.
    pub(super) fn note(&mut self, shortage: Shortage, in_flight: usize, now_ms: u64) {
        let pause_ms = match self.limited {
            // Attempts of the same moment meet the same shortage.
            Some(before) if now_ms < before.opens_ms => before.pause_ms,
            Some(before) => before.pause_ms.saturating_mul(2).min(PAUSE_MAX_MS),
            None => PAUSE_MS,
        };
        let opens_ms = now_ms.saturating_add(pause_ms);
        self.limited = Some(Limited { shortage, limit: in_flight.max(1), opens_ms, pause_ms });
    }

    /// An attempt succeeded, so one more may be in flight. At `in_flight_max` the shortage is over.
    pub(super) fn succeed(&mut self, in_flight_max: usize, now_ms: u64) {
        let Some(limited) = &mut self.limited else { return };
        if now_ms >= limited.opens_ms {
            limited.limit += 1;
        }
        if limited.limit >= in_flight_max {
            self.limited = None;
        }
    }

    pub(super) fn limit(&self, now_ms: u64) -> usize {
        match self.limited {
            None => usize::MAX,
            Some(limited) if now_ms < limited.opens_ms => 0,
            Some(limited) => limited.limit,
        }
    }

    pub(super) fn opens_ms(&self, now_ms: u64) -> Option<u64> {
        self.limited.map(|limited| limited.opens_ms).filter(|opens_ms| now_ms < *opens_ms)
    }

    pub(super) fn shortage(&self) -> Option<Shortage> {
        self.limited.map(|limited| limited.shortage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_limits_to_what_was_in_flight_and_success_lifts_it() {
        let mut throttle = Throttle::default();
        assert_eq!((throttle.limit(0), throttle.shortage()), (usize::MAX, None));
        throttle.note(Shortage::Files, 3, 100);
        throttle.note(Shortage::Files, 3, 120);
        assert_eq!((throttle.limit(169), throttle.opens_ms(169)), (0, Some(170)));
        assert_eq!((throttle.limit(170), throttle.opens_ms(170)), (3, None));
        throttle.succeed(6, 169);
        assert_eq!(throttle.limit(170), 3, "from before the pause was over");
        throttle.succeed(6, 170);
        throttle.succeed(6, 170);
        assert_eq!((throttle.limit(170), throttle.shortage()), (5, Some(Shortage::Files)));
        throttle.succeed(6, 170);
        assert_eq!((throttle.limit(170), throttle.shortage()), (usize::MAX, None));
    }

    #[test]
    fn a_shortage_that_repeats_pauses_longer_up_to_a_bound() {
        let mut throttle = Throttle::default();
        let mut now_ms = 0;
        for expected_ms in [50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            throttle.note(Shortage::Memory, 0, now_ms);
            assert_eq!(throttle.opens_ms(now_ms), Some(now_ms + expected_ms));
            now_ms += expected_ms;
            assert_eq!(throttle.limit(now_ms), 1, "one attempt tries again");
        }
    }
}
