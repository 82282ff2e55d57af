//! Decides who of those that asked for an event gets it: a number's webhook beats its WABA's, and
//! gateways that know callbacks only whole get no parts of them.
//!
//! Leaves to others: who asked (`index`). Invariant (I6): a function of what is found and of the event;
//! a subscription that stands beside all others and takes parts is never left out.

use foldhash::{HashMap, HashSet};

use crate::subscription::{Found, Level, Profile, SubscriptionId};

/// The subscriptions for which more than their filter decides.
#[derive(Debug, Default)]
pub(super) struct Precedence {
    levels: HashMap<SubscriptionId, Level>,
    whole_only: HashSet<SubscriptionId>,
}

/// What about an event decides beside its type and number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bearing {
    /// It belongs to one number.
    pub(super) has_number: bool,
    /// It is a part of a callback that is published whole beside it.
    pub(super) is_part: bool,
}

impl Precedence {
    pub(super) fn put(&mut self, id: SubscriptionId, level: Level, profile: Profile) {
        self.remove(id);
        if level != Level::Beside {
            self.levels.insert(id, level);
        }
        if !profile.takes_parts() {
            self.whole_only.insert(id);
        }
    }

    pub(super) fn remove(&mut self, id: SubscriptionId) {
        self.levels.remove(&id);
        self.whole_only.remove(&id);
    }

    /// Whether whoever asked gets it, always.
    pub(super) fn is_empty(&self) -> bool {
        self.levels.is_empty() && self.whole_only.is_empty()
    }

    /// Leaves out of `found` who does not get the event. What belongs to no number is the WABA's first:
    /// Meta lets no number override it.
    pub(super) fn settle(&self, found: &mut Found, bearing: Bearing) {
        let has = |found: &[SubscriptionId], level| {
            found.iter().any(|id| self.levels.get(id) == Some(&level))
        };
        let beaten = match bearing.has_number {
            true if has(found, Level::Number) => Some(Level::Waba),
            false if has(found, Level::Waba) => Some(Level::Number),
            _ => None,
        };
        found.retain(|id| {
            let id = &*id;
            let level = self.levels.get(id).copied();
            let silent = level == Some(Level::Masked) || (level.is_some() && level == beaten);
            let unknown = bearing.is_part && self.whole_only.contains(id);
            !silent && !unknown
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: &[u32], has_number: bool, is_part: bool, expected: &[u32]) {
        let mut precedence = Precedence::default();
        let put = [
            (1, Level::Beside, Profile::Wabahook),
            (2, Level::Number, Profile::Dialog360),
            (3, Level::Waba, Profile::Dialog360),
            (4, Level::Masked, Profile::Dialog360),
            (5, Level::Beside, Profile::BusinessApi),
        ];
        for (id, level, profile) in put {
            precedence.put(SubscriptionId(id), level, profile);
        }
        let mut found: Found = found.iter().map(|id| SubscriptionId(*id)).collect();
        precedence.settle(&mut found, Bearing { has_number, is_part });
        let left: Vec<_> = found.iter().map(|id| id.0).collect();
        assert_eq!(left, expected);
    }

    #[test]
    fn a_number_beats_its_waba_and_what_has_no_number_is_the_wabas() {
        check(&[1, 2, 3, 5], true, false, &[1, 2, 5]);
        check(&[1, 3, 5], true, false, &[1, 3, 5]);
        check(&[1, 2, 3, 5], false, false, &[1, 3, 5]);
        check(&[1, 2, 5], false, false, &[1, 2, 5]);
    }

    #[test]
    fn what_is_masked_gets_nothing_and_silences_nobody() {
        check(&[1, 3, 4], true, false, &[1, 3]);
        check(&[4], false, false, &[]);
    }

    #[test]
    fn parts_of_a_callback_reach_only_those_that_know_them() {
        check(&[1, 2, 5], true, true, &[1]);
        check(&[1, 3, 5], true, true, &[1]);
    }

    #[test]
    fn one_that_is_put_anew_or_removed_leaves_nothing_behind() {
        let mut precedence = Precedence::default();
        precedence.put(SubscriptionId(1), Level::Masked, Profile::Dialog360);
        precedence.put(SubscriptionId(2), Level::Waba, Profile::Wabahook);
        precedence.put(SubscriptionId(1), Level::Beside, Profile::Wabahook);
        assert!(!precedence.is_empty());
        precedence.remove(SubscriptionId(2));
        assert!(precedence.is_empty());
    }
}
