//! Which deliveries wait for the main subscription's delivery of the same event. This is decided when
//! the delivery or the policy begins: it waits if the main delivery is owed then. If a crash made that
//! uncertain, the attempts and ends that follow make it certain.

use wabahook::Notice;

use super::delivery_state::DeliveryState;
use super::model::{Key, Model};

/// The reason of a delivery whose main delivery died.
pub const GATE: &str = "gate";

fn was_never_tried(life: &DeliveryState) -> bool {
    life.tries().is_some_and(|tries| tries.attempts == 0)
}

impl Model {
    /// The subscriptions that depend on one.
    pub fn dependents_of(&self, main: u32) -> Vec<u32> {
        let waiting = self.subs.iter().filter(|(_, sub)| !sub.removed && sub.main() == Some(main));
        waiting.map(|(id, _)| *id).collect()
    }

    fn main_of(&self, (place, id): Key) -> Option<Key> {
        let main = (place, self.subs[&id].main()?);
        self.deliveries.contains_key(&main).then_some(main)
    }

    /// A delivery is owed from now on, or with another policy.
    pub fn decide_dependency(&mut self, key: Key) {
        let main = self.main_of(key);
        let closed = main.is_some_and(|main| self.deliveries[&main].may_be_owed());
        let delivery = self.deliveries.get_mut(&key).unwrap();
        let waits = !delivery.in_flight && delivery.now.iter().any(was_never_tried);
        delivery.waits = closed && waits;
    }

    pub fn look_at_gates_of(&mut self, id: u32) {
        let keys: Vec<Key> = self.deliveries.keys().filter(|(_, of)| *of == id).copied().collect();
        keys.into_iter().for_each(|key| self.decide_dependency(key));
    }

    pub fn look_at_all_gates(&mut self) {
        let keys: Vec<Key> = self.deliveries.keys().copied().collect();
        keys.into_iter().for_each(|key| self.decide_dependency(key));
    }

    /// A main subscription is removed. No subscription depends on it any more.
    pub fn open_gates_of(&mut self, main: u32) {
        for id in self.dependents_of(main) {
            self.subs.get_mut(&id).unwrap().terms.policy.after = None;
            self.look_at_gates_of(id);
        }
    }

    /// An attempt starts. If it is the first, the main delivery has ended and that is durable. Later
    /// attempts do not depend on it.
    pub fn pass_dependency(&mut self, key: Key, number: u32) {
        let waits = std::mem::take(&mut self.deliveries.get_mut(&key).unwrap().waits);
        let waited = waits && number == 1;
        let Some(main) = self.main_of(key).filter(|_| waited) else { return };
        let delivery = self.deliveries.get_mut(&main).unwrap();
        assert!(!delivery.settling, "{key:?} starts before the end of {main:?} is durable");
        assert!(!delivery.is_owed(), "{key:?} starts while {main:?} is owed");
        if delivery.may_be_owed() {
            delivery.narrow(main, "one that waited for it started", |life| !life.is_owed());
        }
    }

    /// Whether its main delivery, if there is one, certainly does not block it.
    pub fn is_let_go(&self, key: Key) -> bool {
        let Some(main) = self.main_of(key).filter(|_| self.deliveries[&key].waits) else {
            return true;
        };
        let main = &self.deliveries[&main];
        !main.may_be_owed() && main.queued.is_empty()
    }

    /// A main delivery died. Its dependents die, too, and the host gets a notice.
    pub fn give_up_dependents(&mut self, main: Key, told: &mut Vec<Notice>) -> Vec<Key> {
        let mut ended = Vec::new();
        for id in self.dependents_of(main.1) {
            let key = (main.0, id);
            if !self.deliveries.contains_key(&key) {
                continue;
            }
            // One that did not wait may expire by itself.
            let died = self.take_died_of(key, GATE, told);
            let delivery = self.deliveries.get_mut(&key).unwrap();
            let waits = std::mem::take(&mut delivery.waits);
            let Some(reason) = died else {
                let seen = "its main delivery was given up without it";
                if waits {
                    delivery.narrow(key, seen, |life| !was_never_tried(life));
                }
                continue;
            };
            assert!(waits && reason == GATE, "{key:?} died of {reason} with {main:?}");
            delivery.narrow(key, "it was given up with its main delivery", was_never_tried);
            ended.push(key);
        }
        ended
    }

    /// A dead letter, and those of its event that died because of it.
    pub fn with_dependents(&self, key: Key) -> Vec<Key> {
        let dependents = self.dependents_of(key.1).into_iter().map(|id| (key.0, id));
        let ended = |key: &Key| {
            let delivery = self.deliveries.get(key);
            delivery.is_some_and(|delivery| {
                matches!(&delivery.now[..], [DeliveryState::Dead { reason, .. }] if reason == GATE)
            })
        };
        std::iter::once(key).chain(dependents.filter(ended)).collect()
    }
}
