//! What one group writes and answers, and how its operations become batches of the store.

use std::ops::Range;

use crate::attempt::DeliveryId;
use crate::store::{BATCH_OPERATIONS_MAX, Batch, Operation};

use super::codec::dedup_page::DedupKey;
use super::codec::keys;
use super::command::{AcceptedEvents, SubmissionSender};
use super::commit_event::{OwedEvent, TracedEvent};

#[derive(Default)]
pub(super) struct CommitGroup {
    pub(super) operations: Vec<Operation>,
    /// Runs of operations that go into one batch each, in ascending order.
    pub(super) atomic: Vec<Range<usize>>,
    pub(super) owed: Vec<OwedEvent>,
    /// What to tell the history.
    pub(super) traced: Vec<TracedEvent>,
    pub(super) answers: Vec<(SubmissionSender, AcceptedEvents)>,
    pub(super) unrouted: u64,
    pub(super) duplicates: u64,
    /// The sequence of each delivery that ended.
    pub(super) ended: Vec<u64>,
    /// Dead letters that are owed again.
    pub(super) revived: Vec<TakenLetter>,
    /// Dead letters that the host discarded.
    pub(super) discarded: Vec<TakenLetter>,
    /// Dead letters that were dropped earlier; this group writes that they ended.
    pub(super) dropped: Vec<DeliveryId>,
    /// Settled deliveries that others depend on.
    pub(super) settled_mains: Vec<DeliveryId>,
    pub(super) dedup_keys: Vec<DedupKey>,
    pub(super) dedup_page_keys: Vec<Vec<u8>>,
    /// The group's events exist if the last of these head pages does.
    pub(super) head_keys: Vec<Vec<u8>>,
    pub(super) synced: bool,
}

/// A dead letter that is owed again or discarded, with what the index of dead letters knew about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct TakenLetter {
    pub(super) delivery: DeliveryId,
    pub(super) at_wall_ms: u64,
    pub(super) generation: u64,
}

impl CommitGroup {
    pub(super) fn bytes(&self) -> u64 {
        self.operations.iter().map(bytes_of).sum::<usize>() as u64
    }

    pub(super) fn prepend(&mut self, operations: Vec<Operation>) {
        let added = operations.len();
        self.operations.splice(0..0, operations);
        for range in &mut self.atomic {
            *range = range.start + added..range.end + added;
        }
    }

    /// The number of head pages and settle pages that it writes.
    pub(super) fn pages(&self) -> u64 {
        let counted = self.operations.iter().filter(|operation| match operation {
            Operation::Put(key, _) => keys::is_page(key),
            Operation::Remove(_) => false,
        });
        counted.count() as u64
    }
}

fn bytes_of(operation: &Operation) -> usize {
    match operation {
        Operation::Put(key, value) => key.len() + value.len(),
        Operation::Remove(key) => key.len(),
    }
}

/// Operations as batches in the same order. An atomic run is one batch and every other operation is its own batch: a
/// crash may cut the group anywhere else, and sled applies a single operation for a fraction of the cost of several
/// together.
pub(super) fn batches(operations: Vec<Operation>, atomic: &[Range<usize>]) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::with_capacity(operations.len());
    let mut ranges = atomic.iter().peekable();
    for (index, operation) in operations.into_iter().enumerate() {
        while ranges.next_if(|range| range.end <= index).is_some() {}
        let continues = ranges.peek().is_some_and(|range| range.start < index);
        // The store always refuses more; atomic runs are far smaller.
        let has_room = |last: &&mut Batch| last.len() < BATCH_OPERATIONS_MAX;
        match batches.last_mut().filter(|_| continues).filter(has_room) {
            Some(batch) => batch.push(operation),
            None => batches.push(operation.into()),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_runs_are_never_cut_and_the_order_is_kept() {
        let operations: Vec<_> =
            (0..1_000_u64).map(|n| Operation::Remove(n.to_be_bytes().to_vec())).collect();
        for length in [1, 2, 17, 63, 64, 65, 200] {
            let starts = [0, 300, 300 + length, 530, 1_000 - length];
            let atomic: Vec<_> = starts.map(|start| start..start + length).to_vec();
            let cut = batches(operations.clone(), &atomic);
            let ends = cut.iter().scan(0, |end, batch| {
                *end += batch.len();
                Some(*end)
            });
            for end in ends {
                let within = atomic.iter().find(|range| range.start < end && end < range.end);
                assert_eq!(within, None, "a run of {length} is cut at {end}");
            }
            assert!(cut.iter().all(|batch| batch.check().is_ok() && !batch.is_empty()));
            let flat: Vec<_> = cut.into_iter().flat_map(Batch::into_operations).collect();
            assert_eq!(flat, operations);
        }
    }
}
