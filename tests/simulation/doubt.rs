//! Decides what a crash leaves open, and what the next engine's first words settle of it.
//!
//! Leaves to others: what happens between crashes (`model`). Invariant: what a receipt or a return
//! promised is certain; what was under way is there as a whole or not at all (I1, I2).

use std::collections::BTreeMap;

use wabahook::{DeadLetter, Registered, Stats};

use super::lane::Lane;
use super::life::Life;
use super::model::{Counts, Delivery, Key, Model, Sub, There};

impl Model {
    /// The power went. Nothing that waited for its group is certain.
    pub fn crash(&mut self) {
        for event in self.events.iter_mut().filter(|event| event.there == There::Waiting) {
            event.there = There::Maybe;
        }
        for ((place, _), delivery) in &mut self.deliveries {
            delivery.crash();
            if self.events[*place].there == There::Maybe && delivery.durable == [Life::Absent] {
                delivery.durable.push(Life::fresh());
            }
        }
        self.queue.clear();
        self.counts = Counts::default();
    }

    /// An engine was opened on what the crash left.
    pub fn reopened(
        &mut self,
        registered: &[std::sync::Arc<Registered>],
        letters: &[DeadLetter],
        stats: &Stats,
        clocks: (u64, u64),
    ) {
        self.cancelled_before = stats.cancelled;
        self.settle_subscriptions(registered);
        for delivery in self.deliveries.values_mut() {
            delivery.now =
                delivery.durable.iter().map(|life| life.resumed(clocks.0, clocks.1)).collect();
        }
        self.settle_letters(letters);
        self.recheck();
    }

    /// A crash met a replay: it is a letter still, or owed again.
    pub fn replaying(&mut self, key: Key) {
        let delivery = self.deliveries.get_mut(&key).unwrap();
        delivery.revived = true;
        let removed = self.subs[&key.1].removed;
        delivery.durable.push(if removed { Life::Cancelled } else { Life::fresh() });
    }

    pub fn key_of(&self, letter: &DeadLetter) -> Key {
        let id = letter.event.to_string();
        let place = self.events.iter().position(|event| event.id.as_ref() == Some(&id));
        (place.unwrap_or_else(|| panic!("a letter of nothing: {letter:?}")), letter.subscription.0)
    }

    /// With nothing owed any more, what was in doubt was not there.
    pub fn finish(&mut self) {
        let doubtful = |place: &usize| self.events[*place].there == There::Maybe;
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

    /// What an event has come to be known as holds for all of its deliveries.
    fn recheck(&mut self) {
        let mut known = BTreeMap::new();
        for ((place, _), delivery) in &self.deliveries {
            let is_there = |life: &Life| matches!(life, Life::Delivered | Life::Dead { .. });
            if delivery.now.iter().all(is_there) {
                known.insert(*place, ());
            }
        }
        known.into_keys().for_each(|place| self.confirm(place));
    }

    fn settle_subscriptions(&mut self, registered: &[std::sync::Arc<Registered>]) {
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
            let is_it = |(terms, state): &&(super::plan::Terms, wabahook::State)| {
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
            sub.lane = Lane::fresh(false);
            let is_there = registered.iter().any(|one| one.id.0 == *id);
            if sub.removed || is_there {
                continue;
            }
            assert!(sub.removing, "subscription {id} is gone");
            (sub.removed, sub.removing) = (true, false);
            for (_, delivery) in self.deliveries.iter_mut().filter(|((_, of), _)| of == id) {
                delivery.cancel();
            }
        }
    }

    /// The dead letters say which of the deaths in doubt were written.
    fn settle_letters(&mut self, letters: &[DeadLetter]) {
        let mut listed: BTreeMap<(String, u32), String> = BTreeMap::new();
        for letter in letters {
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
                    (Life::Dead { reason, .. }, Some(listed)) => reason == listed,
                    (Life::Dead { .. }, None) | (_, Some(_)) => false,
                    (_, None) => true,
                }
            });
        }
        assert!(listed.is_empty(), "letters of nothing that died: {listed:?}");
    }
}

impl Delivery {
    fn crash(&mut self) {
        for life in self.queued.drain(..) {
            if !self.durable.contains(&life) {
                self.durable.push(life);
            }
        }
        (self.in_flight, self.first) = (false, false);
    }

    fn cancel(&mut self) {
        self.durable
            .iter_mut()
            .filter(|life| life.is_owed())
            .for_each(|life| *life = Life::Cancelled);
    }
}
