//! Decides which deliveries wait for another subscription's delivery of the same event (`after`).
//!
//! Leaves to others: what a lane does with a delivery that is held back (`backlog`), and saying when
//! the end of a main delivery is on the device (`outbox`). Invariant: a dependent delivery starts
//! only when the main one is no longer owed durably; so after a crash, a gate is closed if and only if
//! the main delivery is owed still, and nothing else needs to be remembered.
//!
//! The main delivery is Delivered: its dependents go once that is durable. It is given up: they are
//! given up in the same batch. It is cancelled with its subscription, or the event was never owed to
//! it: they go.

use std::collections::HashMap;

use roaring::RoaringTreemap;

use super::Dispatcher;
use super::lane::Lane;
use crate::attempt::{DeliveryId, Letter, Reason, Record};
use crate::subscription::SubscriptionId;

/// Who waits for whom, by the one waited for. The other way round it is in the terms of the lane.
#[derive(Debug, Default)]
pub(super) struct Gates {
    dependents: HashMap<SubscriptionId, Vec<SubscriptionId>>,
}

impl Gates {
    /// Notes that `dependent` waits for another main lane than before.
    pub(super) fn change(
        &mut self,
        dependent: SubscriptionId,
        before: Option<SubscriptionId>,
        main: Option<SubscriptionId>,
    ) {
        if let Some(before) = before
            && let Some(others) = self.dependents.get_mut(&before)
        {
            others.retain(|other| *other != dependent);
            if others.is_empty() {
                self.dependents.remove(&before);
            }
        }
        if let Some(main) = main {
            self.dependents.entry(main).or_default().push(dependent);
        }
    }

    /// Whether anybody waits for anybody.
    pub(super) fn are_there(&self) -> bool {
        !self.dependents.is_empty()
    }

    fn dependents_of(&self, main: SubscriptionId) -> Vec<SubscriptionId> {
        self.dependents.get(&main).cloned().unwrap_or_default()
    }
}

impl Dispatcher {
    /// Closes the gates of everything never tried whose main delivery is owed, after all that was owed
    /// has been recovered.
    pub(crate) fn close_gates(&mut self) {
        let mut dependents: Vec<_> = self.gates.dependents.values().flatten().copied().collect();
        // In an order of their own, so that a simulation repeats.
        dependents.sort_unstable();
        dependents.into_iter().for_each(|id| self.close_all_gates_of(id));
    }

    /// The ends of these main deliveries are durable: those that waited go.
    pub(crate) fn settled(&mut self, mains: &[DeliveryId]) {
        for DeliveryId { sequence, subscription } in mains {
            self.open_gates(*subscription, &[*sequence].into_iter().collect());
        }
    }

    /// Makes a lane wait for another than `before`, as its terms say. That holds for what is owed
    /// already.
    pub(super) fn change_main(&mut self, id: SubscriptionId, before: Option<SubscriptionId>) {
        let main = self.lanes.get(&id).and_then(|lane| lane.after());
        if main == before {
            return;
        }
        self.gates.change(id, before, main);
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.backlog.open_all();
        }
        self.close_all_gates_of(id);
    }

    /// The lane that another waits for. Nobody may ever come to know one that is held, so nobody waits
    /// for it.
    fn main_of(&self, dependent: SubscriptionId) -> Option<&Lane> {
        let main = self.lanes.get(&dependent)?.after()?;
        self.lanes.get(&main).map(|lane| &**lane).filter(|lane| !lane.is_held())
    }

    fn close_all_gates_of(&mut self, id: SubscriptionId) {
        let Some(main) = self.main_of(id) else { return };
        let owed = main.backlog.sequences();
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.backlog.gate_among(&owed);
        }
        self.refresh(id);
    }

    /// Holds the deliveries of one event back whose main one is owed.
    pub(super) fn close_gates_of(&mut self, sequence: u64, targets: &[SubscriptionId]) {
        for id in targets {
            let closed = self.main_of(*id).is_some_and(|main| main.backlog.owes(sequence));
            if closed && let Some(lane) = self.lanes.get_mut(id) {
                lane.backlog.gate(sequence);
            }
        }
    }

    pub(super) fn open_gates(&mut self, main: SubscriptionId, sequences: &RoaringTreemap) {
        for id in self.gates.dependents_of(main) {
            if let Some(lane) = self.lanes.get_mut(&id) {
                sequences.iter().for_each(|sequence| lane.backlog.open(sequence));
            }
            self.refresh(id);
        }
    }

    /// Whether a delivery of another lane waits for this one.
    pub(super) fn is_awaited(&self, main: DeliveryId) -> bool {
        let waits = |id: &SubscriptionId| {
            self.lanes.get(id).is_some_and(|lane| lane.backlog.is_gated(main.sequence))
        };
        self.gates.dependents.get(&main.subscription).is_some_and(|ids| ids.iter().any(waits))
    }

    /// Ends what waited for a delivery that was given up.
    pub(super) fn give_up_gated(&mut self, main: DeliveryId, wall_ms: u64) -> Vec<Record> {
        let mut records = Vec::new();
        for id in self.gates.dependents_of(main.subscription) {
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            if !lane.give_up_gated(main.sequence) {
                continue;
            }
            self.owed -= 1;
            let delivery = DeliveryId { sequence: main.sequence, subscription: id };
            let letter =
                Letter { delivery, reason: Reason::Gate, attempts: 0, at_wall_ms: wall_ms };
            records.push(Record::Dead(letter));
            self.refresh(id);
        }
        records
    }
}
