//! Decides which long answers are kept, so that events asked for alike share them.
//!
//! Leaves to others: how an answer is found (`index`). Invariants: what is kept is what would be found,
//! because a change of the index forgets all of it; what is kept is bounded (I10).

use std::sync::Arc;

use foldhash::HashMap;
use parking_lot::Mutex;

use super::index::Asked;
use crate::subscription::SubscriptionId;

/// Answers given lately.
#[derive(Debug, Default)]
pub(super) struct Answers {
    known: Mutex<Known>,
    /// How often the index has changed.
    changes: u64,
}

#[derive(Debug, Default)]
struct Known {
    by_asked: HashMap<Asked, Answer>,
    /// Ids in the answers, and so many for each answer itself as it weighs.
    weight: usize,
}

#[derive(Debug)]
struct Answer {
    /// How often the index had changed when it was given.
    changes: u64,
    targets: Arc<[SubscriptionId]>,
}

/// How much the known answers may weigh, in ids of 4 bytes.
const WEIGHT_MAX: usize = 1 << 18;

/// What an answer weighs beside its ids.
const ANSWER_WEIGHT: usize = 16;

impl Answers {
    /// The answer that is known, or the one that is found, which is known from then on.
    pub(super) fn known_or(
        &self,
        asked: Asked,
        find: impl FnOnce() -> Arc<[SubscriptionId]>,
    ) -> Arc<[SubscriptionId]> {
        let known = self.known.lock();
        if let Some(answer) = known.by_asked.get(&asked)
            && answer.changes == self.changes
        {
            return Arc::clone(&answer.targets);
        }
        drop(known);
        let targets = find();
        let answer = Answer { changes: self.changes, targets: Arc::clone(&targets) };
        self.known.lock().keep(asked, answer);
        targets
    }

    /// Forgets every answer. They go when their room is needed, so that a change takes no longer for them.
    pub(super) fn forget(&mut self) {
        self.changes += 1;
    }
}

impl Known {
    fn keep(&mut self, asked: Asked, answer: Answer) {
        let weight = weight(&answer);
        if weight > WEIGHT_MAX {
            return;
        }
        if self.weight + weight > WEIGHT_MAX {
            *self = Known::default();
        }
        self.weight += weight;
        if let Some(before) = self.by_asked.insert(asked, answer) {
            self.weight -= self::weight(&before);
        }
    }
}

fn weight(answer: &Answer) -> usize {
    answer.targets.len() + ANSWER_WEIGHT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(number: u64) -> Asked {
        Asked::new(number)
    }

    fn ids(count: u32) -> Arc<[SubscriptionId]> {
        (0..count).map(SubscriptionId).collect()
    }

    #[test]
    fn an_answer_is_shared_until_the_index_changes() {
        let mut answers = Answers::default();
        let first = answers.known_or(asked(1), || ids(20));
        let bystander = answers.known_or(asked(2), || ids(30));
        assert!(Arc::ptr_eq(&first, &answers.known_or(asked(1), || ids(0))));
        answers.forget();
        let found = answers.known_or(asked(1), || ids(21));
        assert_eq!((found.len(), first.len()), (21, 20));
        assert!(Arc::ptr_eq(&found, &answers.known_or(asked(1), || ids(0))));
        assert_eq!(bystander.len(), 30, "who has an answer keeps it");
    }

    #[test]
    fn what_is_known_is_bounded_and_an_answer_above_the_bound_is_given_and_not_kept() {
        let answers = Answers::default();
        for number in 0..2 * u32::try_from(WEIGHT_MAX / ANSWER_WEIGHT).unwrap() {
            answers.known_or(asked(u64::from(number % 20_000)), || ids(number % 40));
        }
        let sum = |known: &Known| known.by_asked.values().map(weight).sum::<usize>();
        let before = {
            let known = answers.known.lock();
            assert!(known.weight <= WEIGHT_MAX && !known.by_asked.is_empty());
            assert_eq!(known.weight, sum(&known));
            known.by_asked.len()
        };
        let most = u32::try_from(WEIGHT_MAX).unwrap();
        assert_eq!(answers.known_or(asked(1 << 40), || ids(most)).len(), WEIGHT_MAX);
        assert_eq!(answers.known.lock().by_asked.len(), before);
    }
}
