//! Whether an attempt may start, and which deliveries should have started. Each observation reduces
//! what a crash made uncertain, and one that contradicts an earlier observation fails.

use wabahook::SubscriptionState;
use wabahook::policy::Ordering;

use super::delivery_state::DeliveryState;
use super::model::{Delivery, Key, Model, Presence};
use wabahook::testing::Arrival;

impl Model {
    /// An attempt arrived at an endpoint.
    pub fn started(&mut self, arrival: &Arrival, now_ms: u64) -> Key {
        let place: usize = arrival.text().split(' ').next().unwrap().parse().unwrap();
        let event = &mut self.events[place];
        assert_eq!(event.draft.payload, arrival.text(), "the payload of event {place}");
        assert_eq!(event.draft.kind, arrival.event_type(), "the type of event {place}");
        assert_eq!(*event.id.get_or_insert(arrival.id.clone()), arrival.id, "the id of {place}");
        let served =
            self.subs.iter().find(|(_, sub)| sub.is_served() && sub.terms.url() == arrival.url);
        let (id, sub) = served.unwrap_or_else(|| panic!("nobody is served at {}", arrival.url));
        let (key, policy) = ((place, *id), sub.terms.policy.clone());
        assert_eq!(policy.timeout, arrival.timeout);
        assert!(self.deliveries.contains_key(&key), "{key:?} is not owed");
        self.confirm(place);
        let number = arrival.attempt;
        let delivery = self.deliveries.get_mut(&key).unwrap();
        assert!(!delivery.in_flight, "{key:?} is in flight twice");
        let seen = format!("attempt {number} starts at {now_ms}");
        delivery.narrow(key, &seen, |life| {
            life.tries().is_some_and(|tries| tries.attempts + 1 == number)
        });
        let may_start =
            |life: &DeliveryState| life.tries().is_some_and(|tries| tries.may_start(now_ms));
        assert!(delivery.now.iter().any(may_start), "{seen}, before its time: {delivery:?}");
        delivery.now.retain(may_start);
        delivery.now = vec![DeliveryState::merged(&delivery.now)];
        (delivery.in_flight, delivery.postponed) = (true, false);
        self.pass_dependency(key, number);
        self.check_order(key, policy.ordering);
        self.subs.get_mut(&key.1).unwrap().lane.start(key, &policy, now_ms);
        key
    }

    /// No other delivery of its key is in flight, and no earlier one is owed (I5).
    fn check_order(&mut self, key: Key, ordering: Ordering) {
        if self.deliveries[&key].revived {
            return;
        }
        let rivals = self.rivals(key, ordering);
        for rival in rivals {
            let delivery = &self.deliveries[&rival];
            assert!(!delivery.in_flight, "{key:?} starts while {rival:?} of its key is in flight");
            let goes_first = self.deliveries[&key].first;
            if rival.0 > key.0 || goes_first || !delivery.may_be_owed() {
                continue;
            }
            assert!(!delivery.is_owed(), "{key:?} starts before {rival:?} of its key");
            if delivery.now.contains(&DeliveryState::Absent) {
                let event = &self.events[rival.0];
                assert!(event.there != Presence::Yes);
            }
            let delivery = self.deliveries.get_mut(&rival).unwrap();
            delivery.narrow(rival, "one after it started", |life| !life.is_owed());
            if delivery.now == [DeliveryState::Absent] {
                self.deny(rival.0);
            }
        }
    }

    /// The other deliveries that are ordered with this one.
    fn rivals(&self, (place, id): Key, ordering: Ordering) -> Vec<Key> {
        let own = &self.events[place].draft.key;
        let in_line = |other: usize| match ordering {
            Ordering::PerKey => own.is_some() && self.events[other].draft.key == *own,
            Ordering::Strict => true,
            _ => false,
        };
        if ordering == Ordering::None {
            return Vec::new();
        }
        let others = self.deliveries.iter().filter(|((other, sub), delivery)| {
            *sub == id && *other != place && !delivery.revived && in_line(*other)
        });
        others.map(|(key, _)| *key).collect()
    }

    /// An event is on the device, and so are those published together with it.
    pub fn confirm(&mut self, place: usize) {
        let together = self.events[place].together.clone();
        for place in together {
            let there = self.events[place].there;
            assert!(there != Presence::No, "event {place} exists and did not");
            if there == Presence::Yes || there == Presence::Duplicate {
                continue;
            }
            self.events[place].there = Presence::Yes;
            self.narrow_event(place, "its event is there", |life| *life != DeliveryState::Absent);
            for repeat in self.repeats_of(place) {
                if self.events[repeat].there == Presence::Maybe {
                    self.deny(repeat);
                }
            }
        }
    }

    /// An event is not on the device, and neither are those published together with it.
    pub fn deny(&mut self, place: usize) {
        let together = self.events[place].together.clone();
        for place in together {
            let there = self.events[place].there;
            assert!(there != Presence::Yes, "event {place} is missing and existed");
            if there != Presence::Maybe {
                continue;
            }
            self.events[place].there = Presence::No;
            let gone = |life: &DeliveryState| {
                matches!(life, DeliveryState::Absent | DeliveryState::Cancelled)
            };
            self.narrow_event(place, "its event is not there", gone);
        }
    }

    fn narrow_event(&mut self, place: usize, seen: &str, fits: impl Fn(&DeliveryState) -> bool) {
        for (key, delivery) in self.deliveries.range_mut((place, 0)..=(place, u32::MAX)) {
            delivery.narrow(*key, seen, &fits);
        }
    }

    /// Which deliveries can certainly start now, one for each lane that nothing delays.
    pub fn startable(&self, now_ms: u64) -> Vec<Key> {
        self.subs.keys().filter_map(|id| self.startable_of(*id, now_ms)).collect()
    }

    /// One of a lane, if nothing delays the lane.
    pub fn startable_of(&self, id: u32, now_ms: u64) -> Option<Key> {
        let sub = self.subs.get(&id)?;
        let policy = &sub.terms.policy;
        if !sub.is_served() || !sub.lane.is_open(policy, now_ms) {
            return None;
        }
        let of_lane = || self.deliveries.iter().filter(move |((_, sub), _)| *sub == id);
        let has_failed =
            |life: &DeliveryState| life.tries().is_some_and(|tries| tries.attempts > 0);
        let may_retry = |(_, delivery): &(&Key, &Delivery)| {
            let waits_as_retry = delivery.postponed && delivery.may_be_owed() && !delivery.waits;
            waits_as_retry || delivery.now.iter().any(has_failed)
        };
        let retrying = of_lane().filter(may_retry).count();
        let mut found = of_lane().filter(|(key, delivery)| {
            let due = |life: &DeliveryState| life.tries().is_some_and(|tries| tries.is_due(now_ms));
            // A first attempt waits while many deliveries retry, and a crash may have left which it is uncertain.
            let has_room =
                retrying < policy.retrying_max as usize || delivery.now.iter().all(has_failed);
            delivery.now.iter().all(due)
                && has_room
                && !delivery.revived
                && self.leads(**key)
                && self.is_let_go(**key)
        });
        found.next().map(|(key, _)| *key)
    }

    /// Whether no delivery of its key can be before it.
    fn leads(&self, key: Key) -> bool {
        let ordering = self.subs[&key.1].terms.policy.ordering;
        let blocks = |rival: &Key| {
            let delivery = &self.deliveries[rival];
            let before = rival.0 < key.0 || delivery.first;
            delivery.in_flight || (before && delivery.may_be_owed())
        };
        let revived = |((_, id), delivery): (&Key, &Delivery)| {
            *id == key.1 && delivery.revived && delivery.may_be_owed()
        };
        ordering == Ordering::None
            || (!self.rivals(key, ordering).iter().any(blocks)
                && !self.deliveries.iter().any(revived))
    }

    /// What must have ended once every endpoint answers and every wait is over.
    pub fn unfinished(&self) -> Vec<Key> {
        let owed = self.deliveries.iter().filter(|((_, id), delivery)| {
            let held = self.subs[id].state != SubscriptionState::Active && !self.subs[id].removed;
            delivery.is_owed() && !held
        });
        owed.map(|(key, _)| *key).collect()
    }
}
