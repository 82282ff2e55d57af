//! Decides which dead letters are kept, and where each lies.
//!
//! Leaves to others: their records. Invariant: the letters kept never exceed the bound on their
//! number or age; the oldest go first, and whoever drops one is told how many.

use std::collections::{BTreeMap, HashMap};

use roaring::RoaringTreemap;

use crate::attempt::DeliveryId;

/// The dead letters kept, oldest first, with the generation that holds each one's record.
#[derive(Debug)]
pub(super) struct Letters {
    count_max: usize,
    age_max_ms: u64,
    kept: BTreeMap<(u64, DeliveryId), u64>,
    /// When each was given up.
    moments: HashMap<DeliveryId, u64>,
    /// How many of them lie in each generation.
    counts: HashMap<u64, u64>,
}

impl Letters {
    pub(super) fn new(count_max: usize, age_max_ms: u64) -> Letters {
        Letters {
            count_max,
            age_max_ms,
            kept: BTreeMap::new(),
            moments: HashMap::new(),
            counts: HashMap::new(),
        }
    }

    /// Keeps a letter whose record lies in `generation`, or notes that it lies there now.
    pub(super) fn keep(&mut self, at_wall_ms: u64, delivery: DeliveryId, generation: u64) {
        let before = self.kept.insert((at_wall_ms, delivery), generation);
        self.uncount(before);
        self.moments.insert(delivery, at_wall_ms);
        *self.counts.entry(generation).or_default() += 1;
    }

    /// Drops what is over the bounds, and says how many.
    pub(super) fn trim(&mut self, wall_ms: u64) -> u64 {
        let before = self.kept.len();
        let oldest_at_ms = wall_ms.saturating_sub(self.age_max_ms);
        while let Some(((at_wall_ms, _), _)) = self.kept.first_key_value() {
            let over_age = *at_wall_ms < oldest_at_ms;
            if !over_age && self.kept.len() <= self.count_max {
                break;
            }
            let Some(((_, delivery), generation)) = self.kept.pop_first() else { break };
            self.moments.remove(&delivery);
            self.uncount(Some(generation));
        }
        (before - self.kept.len()) as u64
    }

    /// The letters of some events: when each was written, of which delivery, and which generation
    /// holds its record.
    pub(super) fn of_events(&self, sequences: &RoaringTreemap) -> Vec<(u64, DeliveryId, u64)> {
        let theirs = self.kept.iter().filter(|((_, d), _)| sequences.contains(d.sequence));
        theirs.map(|((at_wall_ms, delivery), holder)| (*at_wall_ms, *delivery, *holder)).collect()
    }

    /// Takes a letter out because its delivery is owed again: when it was given up, and the
    /// generation that holds its record.
    pub(super) fn take(&mut self, delivery: DeliveryId) -> Option<(u64, u64)> {
        let at_wall_ms = self.moments.remove(&delivery)?;
        let generation = self.kept.remove(&(at_wall_ms, delivery))?;
        self.uncount(Some(generation));
        Some((at_wall_ms, generation))
    }

    /// The newest letters, at most so many, with the generation that holds each one's record.
    pub(super) fn newest(&self, count_max: usize) -> Vec<(DeliveryId, u64)> {
        let newest = self.kept.iter().rev().take(count_max);
        newest.map(|((_, delivery), generation)| (*delivery, *generation)).collect()
    }

    /// The generation that holds a letter's record.
    pub(super) fn generation_of(&self, delivery: DeliveryId) -> Option<u64> {
        let at_wall_ms = self.moments.get(&delivery)?;
        self.kept.get(&(*at_wall_ms, delivery)).copied()
    }

    /// How many letters lie in a generation.
    pub(super) fn count_in(&self, generation: u64) -> u64 {
        self.counts.get(&generation).copied().unwrap_or(0)
    }

    pub(super) fn len(&self) -> u64 {
        self.kept.len() as u64
    }

    fn uncount(&mut self, generation: Option<u64>) {
        if let Some(count) = generation.and_then(|generation| self.counts.get_mut(&generation)) {
            *count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::SubscriptionId;

    fn delivery(sequence: u64) -> DeliveryId {
        DeliveryId { sequence, subscription: SubscriptionId(1) }
    }

    /// The letters whose records lie in a generation, by event.
    fn inside(letters: &Letters, generation: u64) -> Vec<u64> {
        let all = letters.of_events(&(0..100).collect());
        all.iter().filter(|letter| letter.2 == generation).map(|(_, d, _)| d.sequence).collect()
    }

    #[test]
    fn the_oldest_letters_go_first_by_number_and_by_age() {
        let mut letters = Letters::new(3, 1_000);
        (1..=5).for_each(|n| letters.keep(n * 100, delivery(n), 1));
        assert_eq!(letters.trim(500), 2);
        assert_eq!(inside(&letters, 1), [3, 4, 5]);
        assert_eq!(letters.trim(1_350), 1);
        assert_eq!(inside(&letters, 1), [4, 5]);
        assert_eq!(letters.trim(1_350), 0);
    }

    #[test]
    fn a_letter_that_was_copied_lies_in_its_new_generation_alone() {
        let mut letters = Letters::new(3, 1_000);
        letters.keep(5, delivery(1), 1);
        letters.keep(6, delivery(2), 1);
        letters.keep(5, delivery(1), 2);
        assert_eq!((inside(&letters, 1), inside(&letters, 2)), (vec![2], vec![1]));
        assert_eq!((letters.count_in(1), letters.count_in(2)), (1, 1));
    }
}
