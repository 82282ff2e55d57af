//! Read-only queries of a backlog.

use roaring::RoaringTreemap;

use super::{Backlog, Retrying};
use crate::dispatch::{DeliveryStage, ListedDelivery};

impl Backlog {
    pub(crate) fn owed(&self) -> u64 {
        let first_attempts = self.in_flight.len() - self.retries_in_flight();
        self.pending.len + self.blocked.len + self.retries.len() as u64 + first_attempts as u64
    }

    pub(crate) fn owes(&self, sequence: u64) -> bool {
        self.pending.set.contains(sequence)
            || self.blocked.set.contains(sequence)
            || self.retries.contains_key(&sequence)
            || self.is_in_flight(sequence)
    }

    pub(crate) fn sequences(&self) -> RoaringTreemap {
        let mut sequences = &self.pending.set | &self.blocked.set;
        sequences.extend(self.retries.keys().chain(&self.in_flight).copied());
        sequences
    }

    pub(crate) fn owed_among(&self, sequences: &RoaringTreemap) -> RoaringTreemap {
        let mut owed = &self.pending.set & sequences;
        owed |= &self.blocked.set & sequences;
        let others = self.retries.keys().chain(&self.in_flight).copied();
        owed.extend(others.filter(|sequence| sequences.contains(*sequence)));
        owed
    }

    pub(crate) fn retrying(&self, sequence: u64) -> Option<&Retrying> {
        self.retries.get(&sequence)
    }

    pub(crate) fn retries(&self) -> impl Iterator<Item = (u64, &Retrying)> {
        self.retries.iter().map(|(sequence, retrying)| (*sequence, retrying))
    }

    /// How many deliveries failed and are not in flight.
    pub(crate) fn waiting(&self) -> u64 {
        (self.retries.len() - self.retries_in_flight()) as u64
    }

    /// How many deliveries were never tried and are held back.
    pub(crate) fn blocked(&self) -> u64 {
        self.blocked.len
    }

    /// What is owed from a sequence on, in the order published, at the stages that are wanted. Deliveries that
    /// were never tried and that nothing here holds back have the stage `never_tried`.
    pub(crate) fn listed(
        &self,
        from: u64,
        never_tried: DeliveryStage,
        wanted: impl Fn(DeliveryStage) -> bool,
        count_max: usize,
    ) -> Vec<ListedDelivery> {
        let mut listed = Vec::new();
        let mut add = |stage: DeliveryStage, sequences: &mut dyn Iterator<Item = u64>| {
            if wanted(stage) {
                let next = sequences.filter(|sequence| *sequence >= from).take(count_max);
                listed.extend(next.map(|sequence| ListedDelivery { sequence, stage }));
            }
        };
        let (mut pending, mut blocked) = (self.pending.set.iter(), self.blocked.set.iter());
        pending.advance_to(from);
        blocked.advance_to(from);
        add(never_tried, &mut pending);
        add(DeliveryStage::Blocked, &mut blocked);
        let mut first: Vec<u64> = self.in_flight.clone();
        first.retain(|sequence| !self.retries.contains_key(sequence));
        add(DeliveryStage::Owed, &mut first.into_iter());
        let failed = |(sequence, retrying): (&u64, &Retrying)| {
            let Retrying { attempts, due_ms, .. } = *retrying;
            ListedDelivery {
                sequence: *sequence,
                stage: DeliveryStage::Retrying { attempts, due_ms: Some(due_ms) },
            }
        };
        if wanted(DeliveryStage::Retrying { attempts: 0, due_ms: None }) {
            listed.extend(self.retries.range(from..).map(failed).take(count_max));
        }
        listed.sort_unstable_by_key(|one| one.sequence);
        listed.truncate(count_max);
        listed
    }

    pub(super) fn retries_in_flight(&self) -> usize {
        self.in_flight.iter().filter(|sequence| self.retries.contains_key(sequence)).count()
    }

    pub(super) fn is_in_flight(&self, sequence: u64) -> bool {
        self.in_flight.contains(&sequence)
    }
}
