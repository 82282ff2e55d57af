//! The conditions that subscriptions add to their filters, apart from the posting lists, so that a subscription
//! without one costs nothing here. An event's payload is parsed once for all conditions, and not at all where no
//! matched subscription has one.

use foldhash::HashMap;

use crate::subscription::{Condition, ParsedPayload, SubscriptionId, Targets};

/// The conditions of those subscriptions that have one.
#[derive(Debug, Default)]
pub(super) struct ConditionTable(HashMap<SubscriptionId, Condition>);

impl ConditionTable {
    pub(super) fn put(&mut self, id: SubscriptionId, condition: Condition) {
        self.0.insert(id, condition);
    }

    pub(super) fn remove(&mut self, id: SubscriptionId) {
        self.0.remove(&id);
        if self.0.is_empty() {
            self.0.shrink_to_fit();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The conditions of some subscriptions, in their order.
    pub(super) fn of(&self, targets: &[SubscriptionId]) -> Vec<(SubscriptionId, Condition)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let each = targets.iter().filter_map(|id| Some((*id, self.0.get(id)?.clone())));
        each.collect()
    }
}

/// The subscriptions whose filters match an event, with their conditions still to be evaluated.
#[derive(Debug)]
pub(crate) struct FilterMatch {
    pub(super) targets: Targets,
    /// The conditions of those that have one, in the order of the targets.
    pub(super) conditions: Vec<(SubscriptionId, Condition)>,
}

/// The subscriptions that an event is owed to.
#[derive(Debug)]
pub(crate) struct ConditionMatch {
    pub(crate) targets: Targets,
    /// Whether a condition had to be evaluated and the payload cannot be read.
    pub(crate) is_unparsable: bool,
}

impl FilterMatch {
    /// Whether a subscription's filter matches.
    pub(crate) fn has_target(&self, id: SubscriptionId) -> bool {
        self.targets.binary_search(&id).is_ok()
    }

    /// Leaves out the subscriptions whose conditions do not hold for a payload.
    pub(crate) fn evaluate(self, payload: &[u8]) -> ConditionMatch {
        let FilterMatch { targets, conditions } = self;
        if conditions.is_empty() {
            return ConditionMatch { targets, is_unparsable: false };
        }
        let payload = ParsedPayload::parse(payload);
        let holds = |condition: &Condition| payload.as_ref().is_ok_and(|one| condition.holds(one));
        let failing = conditions.iter().filter(|(_, condition)| !holds(condition));
        let mut failing = failing.map(|(id, _)| *id).peekable();
        let is_unparsable = payload.is_err();
        if failing.peek().is_none() {
            return ConditionMatch { targets, is_unparsable };
        }
        // Both are in ascending order.
        let kept = targets.iter().filter(|id| failing.next_if_eq(*id).is_none());
        ConditionMatch { targets: kept.copied().collect(), is_unparsable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluate(ids: &[u32], conditions: &[(u32, &str)], payload: &str) -> (Vec<u32>, bool) {
        let mut table = ConditionTable::default();
        for (id, condition) in conditions {
            table.put(SubscriptionId(*id), condition.parse().unwrap());
        }
        let targets: Targets = ids.iter().map(|id| SubscriptionId(*id)).collect();
        let conditions = table.of(&targets);
        let matched = FilterMatch { targets, conditions }.evaluate(payload.as_bytes());
        (matched.targets.iter().map(|id| id.0).collect(), matched.is_unparsable)
    }

    const ONE: &str = r#"{"pointer":"/a","eq":1}"#;
    const NOT_ONE: &str = r#"{"not":{"pointer":"/a","eq":1}}"#;

    #[test]
    fn targets_whose_condition_fails_are_left_out() {
        let conditions = [(2, ONE), (3, NOT_ONE), (5, NOT_ONE), (9, ONE)];
        let ids = [1, 2, 3, 4, 5];
        assert_eq!(evaluate(&ids, &conditions, r#"{"a":1}"#), (vec![1, 2, 4], false));
        assert_eq!(evaluate(&ids, &conditions, r#"{"a":2}"#), (vec![1, 3, 4, 5], false));
        assert_eq!(evaluate(&[5], &conditions, r#"{"a":1}"#), (vec![], false));
    }

    #[test]
    fn a_payload_that_is_not_json_meets_no_condition() {
        assert_eq!(evaluate(&[1, 2, 3], &[(2, ONE), (3, NOT_ONE)], "{"), (vec![1], true));
        // Nobody asks for its content, so it is not read.
        assert_eq!(evaluate(&[1, 4], &[(2, ONE)], "{"), (vec![1, 4], false));
        assert_eq!(evaluate(&[1, 4], &[], "{"), (vec![1, 4], false));
    }

    #[test]
    fn a_removed_condition_is_gone() {
        let mut table = ConditionTable::default();
        table.put(SubscriptionId(1), ONE.parse().unwrap());
        table.put(SubscriptionId(1), NOT_ONE.parse().unwrap());
        assert_eq!(table.of(&[SubscriptionId(1)]).len(), 1);
        table.remove(SubscriptionId(1));
        assert!(table.of(&[SubscriptionId(1)]).is_empty());
    }
}
