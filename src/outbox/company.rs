//! Decides when the committer and the workers step back for those that run.
//!
//! Leaves to others: how a thread does so (`threads`). Invariant: what comes alone is not kept waiting: they
//! step back only while groups have company, and while that costs less than it saves.
//!
//! `publish` wakes the committer, and an answer wakes a worker. Where events come one upon the other, a
//! committer that takes the core at once breaks off the host's thread in the middle of a call and finds
//! one event; a little later it finds them all. Where they come one by one it would find no more by waiting,
//! and where every core has a thread that never sleeps it waits for milliseconds.

/// Over about how many groups means are taken, as a power of two.
const GROUPS_SHIFT: u32 = 3;

/// What counts of one group at most, so that a large one is soon forgotten.
const COUNTED_MAX: u64 = 16;

/// From how many together on a group has company, in the mean, and below how many it has no longer.
const BEGINS: u64 = 5;
const ENDS: u64 = 3;

/// How long the committer may wait for a core for each that came together, in the mean, in microseconds.
/// To write one by itself takes twice as long on a fast device.
const WAITED_MAX_US: u64 = 100;

/// What counts of one wait at most: a single one, however long, changes nothing.
const WAITED_COUNTED_MAX_US: u64 = 640;

/// How long nobody steps back after it cost more than it saved, in milliseconds. To find that out takes a
/// few groups, which is to be little of it.
const REST_MS: u64 = 1_000;

/// How many came together lately, and how long the committer waited for a core.
#[derive(Debug, Default)]
pub(super) struct Company {
    together: Mean,
    waited_us: Mean,
    rests_until_ms: u64,
    is_kept: bool,
}

impl Company {
    /// Notes how many came together in a group, and how long the committer waited for a core since
    /// the one before. Returns whether that changed what is kept.
    pub(super) fn note(&mut self, together: usize, waited_us: u64, now_ms: u64) -> bool {
        let together = together as u64;
        let waited_for_each_us = waited_us / together.max(1);
        self.together.note(together.min(COUNTED_MAX));
        self.waited_us.note(waited_for_each_us.min(WAITED_COUNTED_MAX_US));
        let was_kept = self.is_kept;
        if was_kept && self.waited_us.value() > WAITED_MAX_US {
            self.rests_until_ms = now_ms + REST_MS;
        }
        let wanted = if was_kept { ENDS } else { BEGINS };
        self.is_kept = self.together.value() >= wanted && now_ms >= self.rests_until_ms;
        self.is_kept != was_kept
    }

    /// Whether groups have company that is worth stepping back for.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }
}

/// A mean that forgets.
#[derive(Debug, Default)]
struct Mean {
    /// Times 2 to the power of `GROUPS_SHIFT`.
    scaled: u64,
}

impl Mean {
    fn note(&mut self, value: u64) {
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

    /// Notes so many groups, of so many together, that waited so long.
    fn note(company: &mut Company, groups: usize, together: usize, waited_us: u64, now_ms: u64) {
        for _ in 0..groups {
            let was_kept = company.is_kept();
            let changed = company.note(together, waited_us, now_ms);
            assert_eq!(changed, company.is_kept() != was_kept);
        }
    }

    fn after(groups: &[(usize, usize)]) -> bool {
        let mut company = Company::default();
        groups.iter().for_each(|&(groups, together)| note(&mut company, groups, together, 0, 0));
        company.is_kept()
    }

    #[test]
    fn what_comes_alone_is_not_kept_waiting_and_what_comes_together_is() {
        assert!(!after(&[(1_000, 1)]));
        assert!(!after(&[(1_000, 4)]));
        assert!(after(&[(40, 6)]));
        assert!(after(&[(1_000, 60)]));
    }

    #[test]
    fn one_large_group_is_no_company_and_a_while_of_them_is_soon_forgotten() {
        assert!(!after(&[(100, 1), (1, 8_192)]));
        assert!(after(&[(100, 1), (4, 8_192)]));
        assert!(!after(&[(1_000, 8_192), (20, 1)]));
    }

    #[test]
    fn company_that_has_begun_does_not_end_with_a_little_less_of_it() {
        assert!(!after(&[(100, 3)]));
        assert!(after(&[(100, 16), (100, 4)]));
    }

    #[test]
    fn nobody_steps_back_for_a_while_after_waits_that_cost_more_than_they_saved() {
        let mut company = Company::default();
        note(&mut company, 100, 24, 2_000, 0);
        assert!(company.is_kept(), "83 us for each");
        note(&mut company, 100, 500, 4_000, 0);
        assert!(company.is_kept(), "8 us for each");
        note(&mut company, 1, 24, 1_000_000, 0);
        assert!(company.is_kept(), "a single wait changes nothing");
        note(&mut company, 4, 24, 8_000, 5_000);
        assert!(!company.is_kept(), "333 us for each");
        note(&mut company, 100, 24, 0, 5_000 + REST_MS - 1);
        assert!(!company.is_kept(), "it rests");
        note(&mut company, 1, 24, 0, 5_000 + REST_MS);
        assert!(company.is_kept(), "it tries again");
        note(&mut company, 4, 24, 8_000, 6_100);
        assert!(!company.is_kept());
    }
}
