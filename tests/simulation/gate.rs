//! Decides which deliveries wait for another subscription's delivery of the same event.
//!
//! Leaves to others: what else holds one back (`starting`, `lane`). Invariant: a gate is looked at
//! when its delivery or its terms come to be, and is closed if the main delivery is owed then; where
//! a crash left open whether it is, what is seen to start or to end with it settles that.

use wabahook::Notice;

use super::life::Life;
use super::model::{Key, Model};

/// Why a delivery is given up whose main one was.
pub const GATE: &str = "gate";

fn was_never_tried(life: &Life) -> bool {
    life.tries().is_some_and(|tries| tries.attempts == 0)
}

impl Model {
    /// Those that wait for a subscription.
    pub fn dependents_of(&self, main: u32) -> Vec<u32> {
        let waiting = self.subs.iter().filter(|(_, sub)| !sub.removed && sub.main() == Some(main));
        waiting.map(|(id, _)| *id).collect()
    }

    fn main_of(&self, (place, id): Key) -> Option<Key> {
        let main = (place, self.subs[&id].main()?);
        self.deliveries.contains_key(&main).then_some(main)
    }

    /// A delivery is owed from now on, or on other terms.
    pub fn look_at_gate(&mut self, key: Key) {
        let main = self.main_of(key);
        let closed = main.is_some_and(|main| self.deliveries[&main].may_be_owed());
        let delivery = self.deliveries.get_mut(&key).unwrap();
        let waits = !delivery.in_flight && delivery.now.iter().any(was_never_tried);
        delivery.gated = closed && waits;
    }

    pub fn look_at_gates_of(&mut self, id: u32) {
        let keys: Vec<Key> = self.deliveries.keys().filter(|(_, of)| *of == id).copied().collect();
        keys.into_iter().for_each(|key| self.look_at_gate(key));
    }

    pub fn look_at_all_gates(&mut self) {
        let keys: Vec<Key> = self.deliveries.keys().copied().collect();
        keys.into_iter().for_each(|key| self.look_at_gate(key));
    }

    /// A main subscription is removed: nobody waits for it any more.
    pub fn open_gates_of(&mut self, main: u32) {
        for id in self.dependents_of(main) {
            self.subs.get_mut(&id).unwrap().terms.policy.after = None;
            self.look_at_gates_of(id);
        }
    }

    /// An attempt starts. If it is the first, its main delivery is at its end, and that is on the
    /// device; what was tried before waits for nobody.
    pub fn pass_gate(&mut self, key: Key, number: u32) {
        let gated = std::mem::take(&mut self.deliveries.get_mut(&key).unwrap().gated);
        let waited = gated && number == 1;
        let Some(main) = self.main_of(key).filter(|_| waited) else { return };
        let delivery = self.deliveries.get_mut(&main).unwrap();
        assert!(!delivery.settling, "{key:?} starts before the end of {main:?} is on the device");
        assert!(!delivery.is_owed(), "{key:?} starts while {main:?} is owed");
        if delivery.may_be_owed() {
            delivery.narrow(main, "one that waited for it started", |life| !life.is_owed());
        }
    }

    /// Whether its main delivery, if it has one, surely holds it back no more.
    pub fn is_let_go(&self, key: Key) -> bool {
        let Some(main) = self.main_of(key).filter(|_| self.deliveries[&key].gated) else {
            return true;
        };
        let main = &self.deliveries[&main];
        !main.may_be_owed() && main.queued.is_empty()
    }

    /// A main delivery was given up: what waited for it is, too, and the host is told.
    pub fn give_up_gated(&mut self, main: Key, told: &mut Vec<Notice>) -> Vec<Key> {
        let mut ended = Vec::new();
        for id in self.dependents_of(main.1) {
            let key = (main.0, id);
            if !self.deliveries.contains_key(&key) {
                continue;
            }
            let died = self.take_died(key, told);
            let delivery = self.deliveries.get_mut(&key).unwrap();
            let gated = std::mem::take(&mut delivery.gated);
            let Some(reason) = died else {
                let seen = "its main delivery was given up without it";
                if gated {
                    delivery.narrow(key, seen, |life| !was_never_tried(life));
                }
                continue;
            };
            assert!(gated && reason == GATE, "{key:?} died of {reason} with {main:?}");
            delivery.narrow(key, "it was given up with its main delivery", was_never_tried);
            ended.push(key);
        }
        ended
    }

    /// A dead letter, and those of its event that ended because it did.
    pub fn with_dependents(&self, key: Key) -> Vec<Key> {
        let dependents = self.dependents_of(key.1).into_iter().map(|id| (key.0, id));
        let ended = |key: &Key| {
            let delivery = self.deliveries.get(key);
            delivery.is_some_and(|delivery| {
                matches!(&delivery.now[..], [Life::Dead { reason, .. }] if reason == GATE)
            })
        };
        std::iter::once(key).chain(dependents.filter(ended)).collect()
    }
}
