//! Decides which delivery of a key goes before which.
//!
//! Leaves to others: when a delivery that may go is tried (`lane`). Invariant (I5): of the deliveries
//! of a key one holds the line, the earliest that joined, and the others are parked until it leaves;
//! each is parked once, so a long line costs nothing while it waits.

use std::collections::{BTreeSet, HashMap, VecDeque};

use roaring::RoaringTreemap;

/// The lines of one lane, by the hash of their key.
#[derive(Debug, Default)]
pub(super) struct Order {
    lines: HashMap<u64, Line>,
    /// The key of each line, by the delivery that holds it.
    holders: HashMap<u64, u64>,
    /// All that wait in lines.
    parked: RoaringTreemap,
    /// Of these, the ones that were under way when the order began, and are: they go first.
    ahead: BTreeSet<u64>,
}

#[derive(Debug)]
struct Line {
    holder: u64,
    /// Ascending.
    parked: VecDeque<u64>,
}

impl Order {
    /// Puts a delivery into the line of its key, behind those with a lower sequence; the holder
    /// stays. A delivery that is in the line already stays where it is.
    pub(super) fn join(&mut self, sequence: u64, key_hash: u64) {
        let Some(line) = self.lines.get_mut(&key_hash) else {
            let line = Line { holder: sequence, parked: VecDeque::new() };
            self.lines.insert(key_hash, line);
            self.holders.insert(sequence, key_hash);
            return;
        };
        if line.holder == sequence || !self.parked.insert(sequence) {
            return;
        }
        let place = line.parked.partition_point(|parked| *parked < sequence);
        line.parked.insert(place, sequence);
    }

    /// Puts a delivery that is under way into its line, ahead of all that are not.
    pub(super) fn join_ahead(&mut self, sequence: u64, key_hash: u64) {
        self.join(sequence, key_hash);
        if self.is_parked(sequence) {
            self.ahead.insert(sequence);
        }
    }

    /// A delivery is no longer under way: from now on its sequence says when it goes.
    pub(super) fn land(&mut self, sequence: u64) {
        self.ahead.remove(&sequence);
    }

    /// Takes the holder of a line out of it, and returns the one that holds it now. Whoever holds no
    /// line changes nothing.
    pub(super) fn leave(&mut self, sequence: u64) -> Option<u64> {
        let key_hash = self.holders.remove(&sequence)?;
        let line = self.lines.get_mut(&key_hash)?;
        let ahead = |sequence: &u64| self.ahead.contains(sequence);
        let place = match self.ahead.is_empty() {
            true => 0,
            false => line.parked.iter().position(ahead).unwrap_or(0),
        };
        let Some(next) = line.parked.remove(place) else {
            self.lines.remove(&key_hash);
            return None;
        };
        line.holder = next;
        self.parked.remove(next);
        self.ahead.remove(&next);
        self.holders.insert(next, key_hash);
        Some(next)
    }

    /// Takes a delivery out that has ended. Looks through all lines where it is parked, which is
    /// rare: only a delivery that waits for another subscription's as well ends without an attempt, and
    /// only one that was under way when the order began ends without having held its line.
    pub(super) fn withdraw(&mut self, sequence: u64) -> Option<u64> {
        if !self.parked.remove(sequence) {
            return self.leave(sequence);
        }
        self.ahead.remove(&sequence);
        for line in self.lines.values_mut() {
            if let Ok(place) = line.parked.binary_search(&sequence) {
                line.parked.remove(place);
            }
        }
        None
    }

    /// Whether a delivery waits behind another of its key.
    pub(super) fn is_parked(&self, sequence: u64) -> bool {
        self.parked.contains(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_moves_in_the_order_of_sequences_and_another_key_is_untouched() {
        let mut order = Order::default();
        for (sequence, key) in [(5, 1), (9, 1), (7, 1), (6, 2), (8, 2), (7, 1)] {
            order.join(sequence, key);
        }
        let parked: Vec<_> = (5..10).filter(|s| order.is_parked(*s)).collect();
        assert_eq!(parked, [7, 8, 9]);
        assert_eq!(order.leave(9), None, "it holds no line");
        assert_eq!((order.leave(5), order.leave(7), order.leave(9)), (Some(7), Some(9), None));
        assert!(order.is_parked(8));
        assert_eq!(order.leave(6), Some(8));
    }

    #[test]
    fn one_that_will_never_go_leaves_from_anywhere_in_its_line() {
        let mut order = Order::default();
        for (sequence, key) in [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)] {
            order.join(sequence, key);
        }
        assert_eq!(order.withdraw(2), None);
        assert_eq!(order.withdraw(1), Some(3));
        assert_eq!(order.withdraw(3), None);
        assert!(order.is_parked(5) && !order.is_parked(2));
        assert_eq!(order.leave(4), Some(5));
    }
}
