//! What a purge ends: every delivery that is owed and every dead letter of the events that are meant.

use wabahook::{Notice, Stats};

use super::delivery_state::DeliveryState;
use super::dependency::GATE;
use super::model::{Key, Model, Presence};
use super::plan::Draft;

impl Model {
    fn keys_of(&self, meant: &dyn Fn(&Draft) -> bool) -> Vec<Key> {
        let keys = self.deliveries.keys().filter(|key| meant(&self.events[key.0].draft));
        keys.copied().collect()
    }

    /// A purge returned. Of the deliveries that depended on others it is not known whether they were cancelled, or
    /// given up and discarded; the counters say how many.
    pub fn purged(
        &mut self,
        meant: &dyn Fn(&Draft) -> bool,
        (before, after): (&Stats, &Stats),
        purged: u64,
        told: &mut Vec<Notice>,
    ) {
        let cancelled = after.cancelled - before.cancelled;
        let given_up = after.dead - before.dead;
        let discarded = after.letters_discarded - before.letters_discarded;
        assert_eq!(purged, cancelled + discarded, "what the purge returned");
        let (mut owed, mut owed_most, mut dead, mut dead_most) = (0, 0, 0, 0);
        for key in self.keys_of(meant) {
            let delivery = self.deliveries.get_mut(&key).unwrap();
            let is_dead = |life: &DeliveryState| matches!(life, DeliveryState::Dead { .. });
            owed += u64::from(delivery.is_owed());
            owed_most += u64::from(delivery.may_be_owed());
            dead += u64::from(delivery.now.iter().all(is_dead));
            dead_most += u64::from(delivery.now.iter().any(is_dead));
            if delivery.may_be_owed() || delivery.now.iter().any(is_dead) {
                self.cancelled_lately.insert(key.0);
                delivery.waits = false;
                delivery.become_durably(DeliveryState::Cancelled);
            }
        }
        let ended = cancelled + given_up;
        assert!((owed..=owed_most).contains(&ended), "{ended} ended, not {owed} to {owed_most}");
        let listed = discarded - given_up;
        assert!(
            (dead..=dead_most).contains(&listed),
            "{listed} discarded, not {dead} to {dead_most}"
        );
        self.counts.cancelled += cancelled;
        self.counts.dead += given_up;
        let is_meant = |notice: &Notice| match notice {
            Notice::Purged { .. } => true,
            Notice::DeadLettered { reason, .. } => reason.to_string() == GATE,
            _ => false,
        };
        told.retain(|notice| !is_meant(notice));
    }

    /// The power went during a purge: each delivery may have ended.
    pub fn purging(&mut self, meant: &dyn Fn(&Draft) -> bool) {
        for key in self.keys_of(meant) {
            let delivery = self.deliveries.get_mut(&key).unwrap();
            if self.events[key.0].there == Presence::Waiting {
                delivery.durable.push(DeliveryState::fresh());
            }
            let may_be_left = || delivery.durable.iter().chain(&delivery.queued);
            let may_wait =
                may_be_left().any(|life| life.tries().is_some_and(|tries| tries.attempts == 0));
            let is_dead = |life: &DeliveryState| matches!(life, DeliveryState::Dead { .. });
            if may_be_left().any(|life| life.is_owed() || is_dead(life)) {
                if may_wait {
                    let reason = GATE.to_owned();
                    delivery.durable.push(DeliveryState::Dead { reason, attempts: 0 });
                }
                delivery.durable.push(DeliveryState::Cancelled);
            }
        }
    }
}
