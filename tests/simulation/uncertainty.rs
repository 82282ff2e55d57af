//! What is uncertain after a crash, and what the state of the next engine makes certain. What a receipt
//! or a returned call promised is certain. What was in progress took effect completely or not at all
//! (I1, I2).

use std::collections::BTreeMap;

use wabahook::{DeadLetter, Stats, SubscriptionInfo};

use super::delivery_state::DeliveryState;
use super::model::{Counts, Delivery, Key, Model, Presence, Sub};
use super::retention::Since;

impl Model {
    /// The power was cut. Nothing that waited for its group is certain.
    pub fn crash(&mut self) {
        for event in self.events.iter_mut().filter(|event| event.there == Presence::Waiting) {
            event.there = Presence::Maybe;
        }
        for ((place, _), delivery) in &mut self.deliveries {
            delivery.crash();
            if self.events[*place].there == Presence::Maybe
                && delivery.durable == [DeliveryState::Absent]
            {
                delivery.durable.push(DeliveryState::fresh());
            }
        }
        let in_doubt = |key: &Key| {
            let durable = &self.deliveries[key].durable;
            let dead =
                durable.iter().filter(|life| matches!(life, DeliveryState::Dead { .. })).count();
            (durable.len(), dead) == (2, 1)
        };
        self.together.retain(|keys| keys.iter().all(in_doubt));
        self.queue.clear();
        self.counts = Counts::default();
    }

    /// An engine was opened on what the crash left.
    pub fn reopened(
        &mut self,
        registered: &[std::sync::Arc<SubscriptionInfo>],
        letters: &[DeadLetter],
        stats: &Stats,
        clocks: (u64, u64),
    ) {
        self.cancelled_before = stats.cancelled;
        self.settle_subscriptions(registered, clocks);
        for delivery in self.deliveries.values_mut() {
            delivery.now =
                delivery.durable.iter().map(|life| life.resumed(clocks.0, clocks.1)).collect();
        }
        self.ages_reopened();
        self.settle_letters(letters);
        self.recheck();
        self.look_at_all_gates();
    }

    /// A crash interrupted a replay. Each delivery is still a dead letter or is owed again.
    pub fn replaying(&mut self, keys: &[Key]) {
        for key in keys {
            let delivery = self.deliveries.get_mut(key).unwrap();
            delivery.revived = true;
            delivery.since = Since::now(self.clocks, true);
            delivery.durable.push(DeliveryState::fresh());
        }
    }

    pub fn key_of(&self, letter: &DeadLetter) -> Key {
        let id = letter.event.to_string();
        let place = self.events.iter().position(|event| event.id.as_ref() == Some(&id));
        (place.unwrap_or_else(|| panic!("a letter of nothing: {letter:?}")), letter.subscription.0)
    }

    /// When nothing is owed any more, uncertain deliveries do not exist.
    pub fn finish(&mut self) {
        let doubtful = |place: &usize| self.events[*place].there == Presence::Maybe;
        let wanted = |place: &usize| !self.targets_of(*place).is_empty();
        let places: Vec<usize> = (0..self.events.len()).filter(doubtful).filter(wanted).collect();
        places.into_iter().for_each(|place| self.deny(place));
        for (key, delivery) in &mut self.deliveries {
            let held = &self.subs[&key.1];
            if held.is_served() {
                delivery.narrow(*key, "nothing is owed any more", |life| !life.is_owed());
            }
        }
    }

    /// What is known of an event holds for all its deliveries.
    fn recheck(&mut self) {
        let mut known = BTreeMap::new();
        for ((place, _), delivery) in &self.deliveries {
            let is_there = |life: &DeliveryState| {
                matches!(life, DeliveryState::Delivered | DeliveryState::Dead { .. })
            };
            if delivery.now.iter().all(is_there) {
                known.insert(*place, ());
            }
        }
        known.into_keys().for_each(|place| self.confirm(place));
    }

    fn settle_subscriptions(
        &mut self,
        registered: &[std::sync::Arc<SubscriptionInfo>],
        clocks: (u64, u64),
    ) {
        let is_there = |id: u32| registered.iter().any(|one| one.id.0 == id);
        for sub in self.subs.values_mut().filter(|sub| !sub.removed) {
            let waiting = sub.instead.iter_mut().map(|(terms, _)| terms);
            for terms in waiting.chain([&mut sub.terms]) {
                terms.policy.after = terms.policy.after.filter(|main| is_there(main.0));
            }
        }
        for one in registered {
            let id = one.id.0;
            let Some(sub) = self.subs.get_mut(&id) else {
                let terms = self.creating.take();
                let terms = terms.unwrap_or_else(|| panic!("nobody registered {id}"));
                assert_eq!(terms.name, one.name);
                self.subs.insert(id, Sub::new(terms));
                continue;
            };
            assert!(!sub.removed, "subscription {id} came back");
            sub.removing = false;
            let url = one.target.url().to_string();
            let is_it = |(terms, state): &&(super::plan::Terms, wabahook::SubscriptionState)| {
                terms.url() == url && terms.policy == one.policy && *state == one.state
            };
            if sub.terms.url() != url || sub.state != one.state {
                let instead = sub.instead.iter().find(is_it).cloned();
                let instead = instead.unwrap_or_else(|| panic!("{id} is {one:?}"));
                (sub.terms, sub.state) = instead;
            }
            assert_eq!(sub.terms.policy, one.policy);
        }
        self.creating = None;
        for (id, sub) in &mut self.subs {
            sub.instead.clear();
            sub.lane = sub.lane.resumed(clocks, &sub.terms.policy);
            if sub.removed || is_there(*id) {
                continue;
            }
            assert!(sub.removing, "subscription {id} is gone");
            (sub.removed, sub.removing) = (true, false);
            for (_, delivery) in self.deliveries.iter_mut().filter(|((_, of), _)| of == id) {
                delivery.cancel();
            }
        }
    }

    /// The dead letters show which of the uncertain deaths were written.
    fn settle_letters(&mut self, letters: &[DeadLetter]) {
        for keys in std::mem::take(&mut self.together) {
            let there = keys.iter().filter(|key| !self.subs[&key.1].removed);
            let there: Vec<Key> = there.copied().collect();
            let listed = |key: &&Key| {
                let id = self.events[key.0].id.as_ref();
                letters.iter().any(|letter| {
                    letter.subscription.0 == key.1 && Some(&letter.event.to_string()) == id
                })
            };
            let listed = there.iter().filter(listed).count();
            assert!(listed == 0 || listed == there.len(), "a part of {there:?} is dead");
        }
        let mut listed: BTreeMap<(String, u32), String> = BTreeMap::new();
        for letter in letters {
            // A purge that was interrupted may have given up deliveries of an event that had no receipt.
            self.place_of(&letter.event.to_string(), letter.subscription.0);
            let key = (letter.event.to_string(), letter.subscription.0);
            listed.insert(key, letter.reason.to_string());
        }
        for (key, delivery) in &mut self.deliveries {
            let id = self.events[key.0].id.clone();
            let letter = id.and_then(|id| listed.remove(&(id, key.1)));
            if self.subs[&key.1].removed {
                continue;
            }
            delivery.narrow(*key, &format!("its letter is {letter:?}"), |life| {
                match (life, &letter) {
                    (DeliveryState::Dead { reason, .. }, Some(listed)) => reason == listed,
                    (DeliveryState::Dead { .. }, None) | (_, Some(_)) => false,
                    (_, None) => true,
                }
            });
        }
        assert!(listed.is_empty(), "dead letters of deliveries that did not die: {listed:?}");
    }
}

impl Delivery {
    fn crash(&mut self) {
        for life in self.queued.drain(..) {
            if !self.durable.contains(&life) {
                self.durable.push(life);
            }
        }
        (self.in_flight, self.first, self.settling) = (false, false, false);
        self.postponed = false;
    }

    fn cancel(&mut self) {
        self.durable
            .iter_mut()
            .filter(|life| life.is_owed())
            .for_each(|life| *life = DeliveryState::Cancelled);
    }
}
