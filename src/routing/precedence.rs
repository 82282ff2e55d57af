//! Removes from a match the subscriptions that do not get the event: a number's webhook takes precedence over
//! its WABA's, and gateways that only know whole callbacks get no parts of them. The result is a function of
//! the match and the event (I6). An independent subscription that takes parts is never removed.

use foldhash::{HashMap, HashSet};

use crate::profile::Profile;
use crate::subscription::{Precedence, SubscriptionId, TargetIds};

/// The subscriptions for which more than the filter decides.
#[derive(Debug, Default)]
pub(super) struct PrecedenceTable {
    levels: HashMap<SubscriptionId, Precedence>,
    whole_only: HashSet<SubscriptionId>,
}

/// The properties of an event that decide besides its type and number.
#[derive(Debug, Clone, Copy)]
pub(super) struct MatchContext {
    /// It belongs to one number.
    pub(super) has_number: bool,
    /// It is a part of a callback that is also published whole.
    pub(super) is_part: bool,
}

impl PrecedenceTable {
    pub(super) fn put(&mut self, id: SubscriptionId, precedence: Precedence, profile: Profile) {
        self.remove(id);
        if precedence != Precedence::Independent {
            self.levels.insert(id, precedence);
        }
        if !profile.receives_split_events() {
            self.whole_only.insert(id);
        }
    }

    pub(super) fn remove(&mut self, id: SubscriptionId) {
        self.levels.remove(&id);
        self.whole_only.remove(&id);
    }

    /// Whether the filter alone decides for every subscription.
    pub(super) fn is_empty(&self) -> bool {
        self.levels.is_empty() && self.whole_only.is_empty()
    }

    /// Removes from `found` the subscriptions that do not get the event. An event without a number belongs to
    /// the WABA's webhook, as with Meta, where no number overrides it.
    pub(super) fn settle(&self, found: &mut TargetIds, context: MatchContext) {
        let has = |found: &[SubscriptionId], precedence| {
            found.iter().any(|id| self.levels.get(id) == Some(&precedence))
        };
        let beaten = match context.has_number {
            true if has(found, Precedence::Number) => Some(Precedence::Waba),
            false if has(found, Precedence::Waba) => Some(Precedence::Number),
            _ => None,
        };
        found.retain(|id| {
            let id = &*id;
            let precedence = self.levels.get(id).copied();
            let silent = precedence == Some(Precedence::Masked)
                || (precedence.is_some() && precedence == beaten);
            let unknown = context.is_part && self.whole_only.contains(id);
            !silent && !unknown
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: &[u32], has_number: bool, is_part: bool, expected: &[u32]) {
        let mut table = PrecedenceTable::default();
        let put = [
            (1, Precedence::Independent, Profile::Wabahook),
            (2, Precedence::Number, Profile::Dialog360),
            (3, Precedence::Waba, Profile::Dialog360),
            (4, Precedence::Masked, Profile::Dialog360),
            (5, Precedence::Independent, Profile::BusinessApi),
        ];
        for (id, precedence, profile) in put {
            table.put(SubscriptionId(id), precedence, profile);
        }
        let mut found: TargetIds = found.iter().map(|id| SubscriptionId(*id)).collect();
        table.settle(&mut found, MatchContext { has_number, is_part });
        let left: Vec<_> = found.iter().map(|id| id.0).collect();
        assert_eq!(left, expected);
    }

    #[test]
    fn a_number_precedes_its_waba_but_not_without_a_number() {
        check(&[1, 2, 3, 5], true, false, &[1, 2, 5]);
        check(&[1, 3, 5], true, false, &[1, 3, 5]);
        check(&[1, 2, 3, 5], false, false, &[1, 3, 5]);
        check(&[1, 2, 5], false, false, &[1, 2, 5]);
    }

    #[test]
    fn a_masked_subscription_gets_nothing_and_masks_nobody() {
        check(&[1, 3, 4], true, false, &[1, 3]);
        check(&[4], false, false, &[]);
    }

    #[test]
    fn parts_reach_only_profiles_that_take_them() {
        check(&[1, 2, 5], true, true, &[1]);
        check(&[1, 3, 5], true, true, &[1]);
    }

    #[test]
    fn replacing_or_removing_leaves_nothing_behind() {
        let mut table = PrecedenceTable::default();
        table.put(SubscriptionId(1), Precedence::Masked, Profile::Dialog360);
        table.put(SubscriptionId(2), Precedence::Waba, Profile::Wabahook);
        table.put(SubscriptionId(1), Precedence::Independent, Profile::Wabahook);
        assert!(!table.is_empty());
        table.remove(SubscriptionId(2));
        assert!(table.is_empty());
    }
}
