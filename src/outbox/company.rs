//! Decides when the committer and the workers step back for those that run.
//!
//! Leaves to others: how a thread does so (`threads`). Invariant: what comes alone is not kept waiting: they
//! step back only while groups have company.
//!
//! `publish` wakes the committer, and an answer wakes a worker. Where events come one upon the other, a
//! committer that takes the core at once breaks off the host's thread in the middle of a call and finds
//! one event; a little later it finds them all. Where they come one by one it would find no more by waiting,
//! and beside threads that never sleep each would be on the device milliseconds later.

/// Over about how many groups company is averaged, as a power of two.
const GROUPS_SHIFT: u32 = 3;

/// What counts of one group at most, so that a large one is soon forgotten.
const COUNTED_MAX: usize = 16;

/// From how many together on a group has company, in the mean, and below how many it has no longer.
const BEGINS: usize = 5;
const ENDS: usize = 3;

/// How many came together lately.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// The mean, times 2 to the power of `GROUPS_SHIFT`.
    scaled: usize,
    is_kept: bool,
}

impl Company {
    /// Notes how many came together in a group. Returns whether that changed what is kept.
    pub(super) fn note(&mut self, together: usize) -> bool {
        self.scaled -= self.scaled >> GROUPS_SHIFT;
        self.scaled += together.min(COUNTED_MAX);
        let mean = self.scaled >> GROUPS_SHIFT;
        let was_kept = self.is_kept;
        self.is_kept = mean >= if was_kept { ENDS } else { BEGINS };
        self.is_kept != was_kept
    }

    /// Whether groups have company.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(groups: &[(usize, usize)]) -> bool {
        let mut company = Company::default();
        for &(groups, together) in groups {
            for _ in 0..groups {
                let was_kept = company.is_kept();
                assert_eq!(company.note(together), company.is_kept() != was_kept);
            }
        }
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
}
