//! When each slot is due next: attempts, and idle connections. A slot holds at most one current entry: it is moved to a later time for free,
//! because an entry that comes up early is put back, and so 80,000 attempts a second that all end in time
//! leave nothing behind.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The times at which numbered slots are due, in milliseconds of the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    due_ms: u64,
    /// The time of its current entry in the heap; others of this slot mean nothing.
    entry_ms: u64,
}

const NEVER: u64 = u64::MAX;

impl Deadlines {
    /// Makes a slot due at this time and at no other.
    pub(super) fn set(&mut self, slot: usize, due_ms: u64) {
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, Slot { due_ms: NEVER, entry_ms: NEVER });
        }
        if let Some(entry) = self.slots.get_mut(slot) {
            entry.due_ms = due_ms;
            if due_ms < entry.entry_ms {
                entry.entry_ms = due_ms;
                self.heap.push(Reverse((due_ms, slot)));
            }
        }
    }

    /// A slot is not due at all.
    pub(super) fn clear(&mut self, slot: usize) {
        if let Some(entry) = self.slots.get_mut(slot) {
            entry.due_ms = NEVER;
        }
    }

    /// Takes out a slot that is due.
    pub(super) fn pop(&mut self, now_ms: u64) -> Option<usize> {
        while let Some(&Reverse((entry_ms, slot))) = self.heap.peek() {
            if entry_ms > now_ms {
                return None;
            }
            self.heap.pop();
            let Some(entry) = self.slots.get_mut(slot) else { continue };
            if entry.entry_ms != entry_ms {
                continue;
            }
            entry.entry_ms = NEVER;
            let due_ms = std::mem::replace(&mut entry.due_ms, NEVER);
            if due_ms <= now_ms {
                return Some(slot);
            }
            if due_ms < NEVER {
                self.set(slot, due_ms);
            }
        }
        None
    }

    /// Takes out the slot that is due first.
    pub(super) fn pop_first(&mut self) -> Option<usize> {
        while let Some(entry_ms) = self.next_ms() {
            if let Some(slot) = self.pop(entry_ms) {
                return Some(slot);
            }
        }
        None
    }

    /// When to look again: never later than the next slot is due, and rarely earlier.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((entry_ms, _))| *entry_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_due_in_order_and_once() {
        let mut deadlines = Deadlines::default();
        deadlines.set(2, 30);
        deadlines.set(0, 10);
        deadlines.set(1, 20);
        deadlines.clear(1);
        assert_eq!(deadlines.next_ms(), Some(10));
        assert_eq!(deadlines.pop(9), None);
        assert_eq!(deadlines.pop(100), Some(0));
        assert_eq!(deadlines.pop(100), Some(2));
        assert_eq!(deadlines.pop(100), None);
        assert_eq!(deadlines.next_ms(), None);
    }

    #[test]
    fn a_slot_that_is_moved_is_due_at_its_last_time_alone() {
        let mut deadlines = Deadlines::default();
        deadlines.set(0, 10);
        deadlines.set(0, 50);
        assert_eq!(deadlines.pop(49), None);
        deadlines.set(0, 20);
        assert_eq!(deadlines.pop(20), Some(0));
        assert_eq!(deadlines.pop(100), None);
    }

    #[test]
    fn the_first_is_the_one_that_is_due_first_now() {
        let mut deadlines = Deadlines::default();
        for (slot, due_ms) in [(0, 10), (1, 20), (2, 30), (0, 40)] {
            deadlines.set(slot, due_ms);
        }
        deadlines.clear(1);
        let order: Vec<_> = std::iter::from_fn(|| deadlines.pop_first()).collect();
        assert_eq!(order, [2, 0]);
    }

    #[test]
    fn slots_used_again_and_again_leave_one_entry_each() {
        let mut deadlines = Deadlines::default();
        for now_ms in 0..10_000 {
            deadlines.set(0, now_ms + 15_000);
            deadlines.clear(0);
        }
        assert_eq!(deadlines.heap.len(), 1);
    }
}
