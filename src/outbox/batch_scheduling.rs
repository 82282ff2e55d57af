//! Decides when the committer and the workers yield the CPU to running threads.
//!
//! `publish` wakes the committer, and a response wakes a worker. When events arrive close together, a committer
//! that takes the core at once interrupts the publisher in the middle of a call and finds one event; a little
//! later it finds them all. When events arrive one at a time, yielding gains nothing, and where every core runs
//! a thread that never sleeps it costs milliseconds. So threads yield only while events arrive in batches and
//! while the time lost waiting for a core is less than the time saved. How a thread yields is in `threads`.

/// Means are taken over about 2 to this power groups.
const GROUPS_SHIFT: u32 = 3;

/// The largest size that counts for one group, so that one large group is soon forgotten.
const COUNTED_MAX: u64 = 16;

/// Yielding begins at this mean group size and ends below the other one.
const BEGINS: u64 = 5;
const ENDS: u64 = 3;

/// How long the committer may wait for a core, in microseconds per event or record, in the mean. Writing one
/// alone takes twice as long on a fast device.
const WAITED_MAX_US: u64 = 100;

/// The longest wait that counts, so that a single long wait changes nothing.
const WAITED_COUNTED_MAX_US: u64 = 640;

/// How long yielding is off after it cost more than it saved, in milliseconds. Finding that out takes a few
/// groups, which should be a small part of the time.
const REST_MS: u64 = 1_000;

/// Tracks the sizes of recent groups and how long the committer waited for a core.
#[derive(Debug, Default)]
pub(super) struct ContentionMonitor {
    size: DecayingMean,
    waited_us: DecayingMean,
    rests_until_ms: u64,
    should_yield: bool,
}

impl ContentionMonitor {
    /// Records the size of a group and how long the committer waited for a core since the group before.
    /// Returns whether [`should_yield`](ContentionMonitor::should_yield) changed.
    pub(super) fn record(&mut self, size: usize, waited_us: u64, now_ms: u64) -> bool {
        let size = size as u64;
        let waited_each_us = waited_us / size.max(1);
        self.size.record(size.min(COUNTED_MAX));
        self.waited_us.record(waited_each_us.min(WAITED_COUNTED_MAX_US));
        let before = self.should_yield;
        if before && self.waited_us.value() > WAITED_MAX_US {
            self.rests_until_ms = now_ms + REST_MS;
        }
        let needed = if before { ENDS } else { BEGINS };
        self.should_yield = self.size.value() >= needed && now_ms >= self.rests_until_ms;
        self.should_yield != before
    }

    /// Whether events arrive in batches and yielding pays.
    pub(super) fn should_yield(&self) -> bool {
        self.should_yield
    }
}

/// A mean in which old values lose weight.
#[derive(Debug, Default)]
struct DecayingMean {
    /// The mean times 2 to the power of `GROUPS_SHIFT`.
    scaled: u64,
}

impl DecayingMean {
    fn record(&mut self, value: u64) {
        self.scaled -= self.scaled >> GROUPS_SHIFT;
        self.scaled += value;
    }

    fn value(&self) -> u64 {
        self.scaled >> GROUPS_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(
        monitor: &mut ContentionMonitor,
        groups: usize,
        size: usize,
        waited_us: u64,
        now_ms: u64,
    ) {
        for _ in 0..groups {
            let before = monitor.should_yield();
            let changed = monitor.record(size, waited_us, now_ms);
            assert_eq!(changed, monitor.should_yield() != before);
        }
    }

    fn yields_after(groups: &[(usize, usize)]) -> bool {
        let mut monitor = ContentionMonitor::default();
        groups.iter().for_each(|&(groups, size)| record(&mut monitor, groups, size, 0, 0));
        monitor.should_yield()
    }

    #[test]
    fn single_events_are_not_delayed_and_batches_are() {
        assert!(!yields_after(&[(1_000, 1)]));
        assert!(!yields_after(&[(1_000, 4)]));
        assert!(yields_after(&[(40, 6)]));
        assert!(yields_after(&[(1_000, 60)]));
    }

    #[test]
    fn one_large_group_changes_nothing_and_many_are_soon_forgotten() {
        assert!(!yields_after(&[(100, 1), (1, 8_192)]));
        assert!(yields_after(&[(100, 1), (4, 8_192)]));
        assert!(!yields_after(&[(1_000, 8_192), (20, 1)]));
    }

    #[test]
    fn slightly_smaller_batches_do_not_end_it() {
        assert!(!yields_after(&[(100, 3)]));
        assert!(yields_after(&[(100, 16), (100, 4)]));
    }

    #[test]
    fn waits_that_cost_more_than_they_save_turn_it_off_for_a_while() {
        let mut monitor = ContentionMonitor::default();
        record(&mut monitor, 100, 24, 2_000, 0);
        assert!(monitor.should_yield(), "83 us for each");
        record(&mut monitor, 100, 500, 4_000, 0);
        assert!(monitor.should_yield(), "8 us for each");
        record(&mut monitor, 1, 24, 1_000_000, 0);
        assert!(monitor.should_yield(), "a single wait changes nothing");
        record(&mut monitor, 4, 24, 8_000, 5_000);
        assert!(!monitor.should_yield(), "333 us for each");
        record(&mut monitor, 100, 24, 0, 5_000 + REST_MS - 1);
        assert!(!monitor.should_yield(), "it is still off");
        record(&mut monitor, 1, 24, 0, 5_000 + REST_MS);
        assert!(monitor.should_yield(), "it is tried again");
        record(&mut monitor, 4, 24, 8_000, 6_100);
        assert!(!monitor.should_yield());
    }
}
