//! An index of the dead letters that are kept: when each was written, and which generation holds it.
//!
//! The number and the age of dead letters never exceed their bounds. The oldest are dropped first, and the caller
//! learns which.

use std::collections::{BTreeMap, HashMap, VecDeque};

use roaring::RoaringTreemap;

use crate::attempt::DeliveryId;

/// The sort key of a dead letter: when its delivery was given up, in milliseconds since the Unix epoch, and the
/// delivery.
pub(super) type LetterPosition = (u64, DeliveryId);

/// The dead letters, oldest first.
#[derive(Debug)]
pub(super) struct DeadLetterIndex {
    count_max: usize,
    age_max_ms: u64,
    /// With the generation that holds each record.
    kept: BTreeMap<LetterPosition, u64>,
    /// When each delivery was given up.
    times: HashMap<DeliveryId, u64>,
    /// The letters replayed last, and when each delivery had been given up.
    revived: VecDeque<(DeliveryId, u64)>,
    /// The number of letters in each generation.
    counts: HashMap<u64, u64>,
}

impl DeadLetterIndex {
    pub(super) fn new(count_max: usize, age_max_ms: u64) -> DeadLetterIndex {
        DeadLetterIndex {
            count_max,
            age_max_ms,
            kept: BTreeMap::new(),
            times: HashMap::new(),
            revived: VecDeque::new(),
            counts: HashMap::new(),
        }
    }

    /// Adds a letter whose record is in `generation`, or updates the generation of a copied one.
    pub(super) fn keep(&mut self, at_wall_ms: u64, delivery: DeliveryId, generation: u64) {
        let before = self.kept.insert((at_wall_ms, delivery), generation);
        self.uncount(before);
        self.times.insert(delivery, at_wall_ms);
        *self.counts.entry(generation).or_default() += 1;
    }

    /// Drops the letters that are over the bounds and returns them.
    pub(super) fn trim(&mut self, wall_ms: u64) -> Vec<DeliveryId> {
        let mut dropped = Vec::new();
        let oldest_at_ms = wall_ms.saturating_sub(self.age_max_ms);
        while let Some(((at_wall_ms, _), _)) = self.kept.first_key_value() {
            let over_age = *at_wall_ms < oldest_at_ms;
            if !over_age && self.kept.len() <= self.count_max {
                break;
            }
            let Some(((_, delivery), generation)) = self.kept.pop_first() else { break };
            self.times.remove(&delivery);
            self.uncount(Some(generation));
            dropped.push(delivery);
        }
        dropped
    }

    /// The letters of some events: when each was written, its delivery and its generation.
    pub(super) fn of_events(&self, sequences: &RoaringTreemap) -> Vec<(u64, DeliveryId, u64)> {
        let theirs = self.kept.iter().filter(|((_, d), _)| sequences.contains(d.sequence));
        theirs.map(|((at_wall_ms, delivery), holder)| (*at_wall_ms, *delivery, *holder)).collect()
    }

    /// Removes a letter because its delivery is owed again. Returns when the delivery was given up, and the
    /// generation of the record.
    pub(super) fn take(&mut self, delivery: DeliveryId) -> Option<(u64, u64)> {
        let at_wall_ms = self.times.remove(&delivery)?;
        let generation = self.kept.remove(&(at_wall_ms, delivery))?;
        self.uncount(Some(generation));
        self.revived.push_back((delivery, at_wall_ms));
        if self.revived.len() > self.count_max {
            self.revived.pop_front();
        }
        Some((at_wall_ms, generation))
    }

    /// The newest letters before a position, or the newest of all.
    pub(super) fn before(
        &self,
        position: Option<LetterPosition>,
        count_max: usize,
    ) -> Vec<LetterPosition> {
        let older = match position {
            Some(position) => self.kept.range(..position),
            None => self.kept.range(..),
        };
        older.rev().take(count_max).map(|(position, _)| *position).collect()
    }

    /// The position of a letter. Recently replayed letters have one too, because a caller may replay the
    /// first pages of a list while it reads the next.
    pub(super) fn position_of(&self, delivery: DeliveryId) -> Option<LetterPosition> {
        let kept = self.times.get(&delivery).copied();
        let revived = || self.revived.iter().rev().find(|(letter, _)| *letter == delivery);
        kept.or_else(|| revived().map(|(_, at_wall_ms)| *at_wall_ms)).map(|at| (at, delivery))
    }

    /// The generation that holds the record of a letter.
    pub(super) fn holder_of(&self, delivery: DeliveryId) -> Option<u64> {
        let at_wall_ms = self.times.get(&delivery)?;
        self.kept.get(&(*at_wall_ms, delivery)).copied()
    }

    /// The number of letters in a generation.
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

    /// The events of the letters in a generation.
    fn inside(letters: &DeadLetterIndex, generation: u64) -> Vec<u64> {
        let all = letters.of_events(&(0..100).collect());
        all.iter().filter(|letter| letter.2 == generation).map(|(_, d, _)| d.sequence).collect()
    }

    #[test]
    fn the_oldest_letters_are_dropped_by_number_and_by_age() {
        let mut letters = DeadLetterIndex::new(3, 1_000);
        (1..=5).for_each(|n| letters.keep(n * 100, delivery(n), 1));
        assert_eq!(letters.trim(500), [delivery(1), delivery(2)]);
        assert_eq!(inside(&letters, 1), [3, 4, 5]);
        assert_eq!(letters.trim(1_350), [delivery(3)]);
        assert_eq!(inside(&letters, 1), [4, 5]);
        assert_eq!(letters.trim(1_350), []);
    }

    #[test]
    fn a_copied_letter_is_only_in_its_new_generation() {
        let mut letters = DeadLetterIndex::new(3, 1_000);
        letters.keep(5, delivery(1), 1);
        letters.keep(6, delivery(2), 1);
        letters.keep(5, delivery(1), 2);
        assert_eq!((inside(&letters, 1), inside(&letters, 2)), (vec![2], vec![1]));
        assert_eq!((letters.count_in(1), letters.count_in(2)), (1, 1));
    }

    #[test]
    fn paging_continues_after_a_replayed_letter() {
        let mut letters = DeadLetterIndex::new(3, 1_000);
        (1..=3).for_each(|n| letters.keep(n * 100, delivery(n), 1));
        let page = letters.before(None, 2);
        assert_eq!(page, [(300, delivery(3)), (200, delivery(2))]);
        assert_eq!(letters.take(delivery(2)), Some((200, 1)));
        assert_eq!(letters.holder_of(delivery(2)), None);
        let after = letters.position_of(delivery(2)).unwrap();
        assert_eq!(letters.before(Some(after), 2), [(100, delivery(1))]);
        assert_eq!(letters.position_of(delivery(9)), None);
        assert_eq!(letters.holder_of(delivery(3)), Some(1));
        for n in 10..20 {
            letters.keep(n * 100, delivery(n), 1);
            letters.take(delivery(n));
        }
        assert_eq!(letters.position_of(delivery(2)), None, "what is remembered is bounded");
    }
}
