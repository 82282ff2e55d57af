//! Deliveries that wait for the delivery of the same event to another subscription, the main delivery
//! (`after`). A dependent starts only once the main delivery is durably no longer owed. So after a crash a
//! dependent is held if and only if its main delivery is still owed, and nothing else needs to be stored.
//!
//! Main delivered: its dependents start once that is durable. Main given up: they are given up in the same
//! batch. Main cancelled with its subscription, or never owed: they start.

use roaring::RoaringTreemap;

use super::Dispatcher;
use super::lane::Lane;
use crate::attempt::{DeliveryId, Reason, Record, StoredDeadLetter};
use crate::subscription::SubscriptionId;

impl Dispatcher {
    /// Makes a subscription wait for `main` instead of `before`.
    pub(super) fn set_main(
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

    fn dependents_of(&self, main: SubscriptionId) -> Vec<SubscriptionId> {
        self.dependents.get(&main).cloned().unwrap_or_default()
    }

    /// Holds every delivery that was never tried and whose main delivery is owed. To be called after
    /// everything owed has been recovered.
    pub(crate) fn hold_recovered_dependents(&mut self) {
        let mut dependents: Vec<_> = self.dependents.values().flatten().copied().collect();
        // Ordered, so that a simulation repeats exactly.
        dependents.sort_unstable();
        dependents.into_iter().for_each(|id| self.hold_all_of(id));
    }

    /// Releases the dependents of main deliveries whose end is durable.
    pub(crate) fn settled(&mut self, mains: &[DeliveryId]) {
        for DeliveryId { sequence, subscription } in mains {
            self.release_dependents(*subscription, &[*sequence].into_iter().collect());
        }
    }

    /// Makes a lane wait for the main subscription of its policy instead of `before`, also for what it is
    /// already owed.
    pub(super) fn change_main(&mut self, id: SubscriptionId, before: Option<SubscriptionId>) {
        let main = self.lanes.get(&id).and_then(|lane| lane.after());
        if main == before {
            return;
        }
        self.set_main(id, before, main);
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.backlog.release_all_dependents();
        }
        self.hold_all_of(id);
    }

    /// The lane that `dependent` waits for. A held lane is not waited for, because its subscription may never
    /// be known.
    fn main_of(&self, dependent: SubscriptionId) -> Option<&Lane> {
        let main = self.lanes.get(&dependent)?.after()?;
        self.lanes.get(&main).map(|lane| &**lane).filter(|lane| !lane.is_held())
    }

    fn hold_all_of(&mut self, id: SubscriptionId) {
        let Some(main) = self.main_of(id) else { return };
        let owed = main.backlog.sequences();
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.backlog.hold_among(&owed);
        }
        self.refresh(id);
    }

    /// Those of some targets that wait for another subscription or for which another one waits, ascending.
    pub(super) fn related(&self, targets: &[SubscriptionId]) -> Vec<SubscriptionId> {
        if self.dependents.is_empty() {
            return Vec::new();
        }
        let waits =
            |id: &SubscriptionId| self.lanes.get(id).is_some_and(|lane| lane.after().is_some());
        let is_related = |id: &SubscriptionId| self.dependents.contains_key(id) || waits(id);
        let mut related: Vec<_> = targets.iter().copied().filter(is_related).collect();
        related.sort_unstable();
        related
    }

    /// Holds the deliveries of one event whose main delivery is owed.
    pub(super) fn hold_dependents(&mut self, sequence: u64, targets: &[SubscriptionId]) {
        for id in targets {
            let is_held = self.main_of(*id).is_some_and(|main| main.backlog.owes(sequence));
            if is_held && let Some(lane) = self.lanes.get_mut(id) {
                lane.backlog.hold(sequence);
            }
        }
    }

    pub(super) fn release_dependents(&mut self, main: SubscriptionId, sequences: &RoaringTreemap) {
        for id in self.dependents_of(main) {
            if let Some(lane) = self.lanes.get_mut(&id) {
                sequences.iter().for_each(|sequence| lane.backlog.release_dependent(sequence));
            }
            self.refresh(id);
        }
    }

    pub(super) fn is_awaited(&self, main: DeliveryId) -> bool {
        let waits = |id: &SubscriptionId| {
            self.lanes.get(id).is_some_and(|lane| lane.backlog.awaits_main(main.sequence))
        };
        self.dependents.get(&main.subscription).is_some_and(|ids| ids.iter().any(waits))
    }

    /// Gives up the dependents of a delivery that was given up.
    pub(super) fn give_up_dependents(&mut self, main: DeliveryId, wall_ms: u64) -> Vec<Record> {
        let mut records = Vec::new();
        for id in self.dependents_of(main.subscription) {
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            if !lane.give_up_dependent(main.sequence) {
                continue;
            }
            self.owed -= 1;
            let delivery = DeliveryId { sequence: main.sequence, subscription: id };
            let letter = StoredDeadLetter {
                delivery,
                reason: Reason::Gate,
                attempts: 0,
                at_wall_ms: wall_ms,
            };
            records.push(Record::Dead(letter));
            self.refresh(id);
        }
        records
    }
}
