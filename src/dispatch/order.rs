//! Which delivery of a key goes first. Of the deliveries of a key one holds the key, the earliest that joined, and
//! the others are parked until it leaves (I5). Each is parked once, so a long queue costs nothing while it waits.

use std::collections::{BTreeSet, HashMap, VecDeque};

use roaring::RoaringTreemap;

/// The queues of one lane, by the hash of their key.
#[derive(Debug, Default)]
pub(super) struct Order {
    queues: HashMap<u64, KeyQueue>,
    /// The key of each queue, by the delivery that holds it.
    holders: HashMap<u64, u64>,
    parked: RoaringTreemap,
    /// Of these, those in flight since before the ordering began. They go first.
    ahead: BTreeSet<u64>,
}

#[derive(Debug)]
struct KeyQueue {
    holder: u64,
    /// Ascending, with some that were withdrawn.
    parked: VecDeque<u64>,
}

impl Order {
    /// Queues a delivery behind those of its key with a lower sequence. The holder stays, and so does a delivery
    /// that is already queued.
    pub(super) fn join(&mut self, sequence: u64, key_hash: u64) {
        let Some(queue) = self.queues.get_mut(&key_hash) else {
            let queue = KeyQueue { holder: sequence, parked: VecDeque::new() };
            self.queues.insert(key_hash, queue);
            self.holders.insert(sequence, key_hash);
            return;
        };
        if queue.holder == sequence || !self.parked.insert(sequence) {
            return;
        }
        let place = queue.parked.partition_point(|parked| *parked < sequence);
        queue.parked.insert(place, sequence);
    }

    /// Queues a delivery that is in flight, ahead of all that are not.
    pub(super) fn join_ahead(&mut self, sequence: u64, key_hash: u64) {
        self.join(sequence, key_hash);
        if self.is_parked(sequence) {
            self.ahead.insert(sequence);
        }
    }

    /// A delivery is no longer in flight, so only its sequence decides now.
    pub(super) fn land(&mut self, sequence: u64) {
        self.ahead.remove(&sequence);
    }

    /// Removes the holder of a key, and returns the one that holds it now. Does nothing for a delivery that holds
    /// no key.
    pub(super) fn leave(&mut self, sequence: u64) -> Option<u64> {
        let key_hash = self.holders.remove(&sequence)?;
        let queue = self.queues.get_mut(&key_hash)?;
        let ahead = |sequence: &u64| self.ahead.contains(sequence);
        let first = match self.ahead.is_empty() {
            true => None,
            false => queue.parked.iter().position(ahead),
        };
        let mut next = first.and_then(|place| queue.parked.remove(place));
        while next.is_none() {
            // Those that were withdrawn meanwhile are passed over.
            match queue.parked.pop_front() {
                Some(parked) => next = Some(parked).filter(|parked| self.parked.contains(*parked)),
                None => break,
            }
        }
        let Some(next) = next else {
            self.queues.remove(&key_hash);
            return None;
        };
        queue.holder = next;
        self.parked.remove(next);
        self.ahead.remove(&next);
        self.holders.insert(next, key_hash);
        Some(next)
    }

    /// Removes a delivery that has ended, and returns the one that holds its key now. One that is parked stays in
    /// its queue and is passed over later, so that many can end at once.
    pub(super) fn withdraw(&mut self, sequence: u64) -> Option<u64> {
        if !self.parked.remove(sequence) {
            return self.leave(sequence);
        }
        self.ahead.remove(&sequence);
        None
    }

    pub(super) fn is_parked(&self, sequence: u64) -> bool {
        self.parked.contains(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_moves_in_the_order_of_sequences() {
        let mut order = Order::default();
        for (sequence, key) in [(5, 1), (9, 1), (7, 1), (6, 2), (8, 2), (7, 1)] {
            order.join(sequence, key);
        }
        let parked: Vec<_> = (5..10).filter(|s| order.is_parked(*s)).collect();
        assert_eq!(parked, [7, 8, 9]);
        assert_eq!(order.leave(9), None, "it holds no key");
        assert_eq!((order.leave(5), order.leave(7), order.leave(9)), (Some(7), Some(9), None));
        assert!(order.is_parked(8));
        assert_eq!(order.leave(6), Some(8));
    }

    #[test]
    fn a_delivery_can_leave_from_anywhere_in_its_key() {
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
