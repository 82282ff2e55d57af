//! How old deliveries are, and which of them end by age. The age counts from acceptance or from a replay. A crash
//! leaves only wall times, so afterwards the model knows an earliest and a latest time.

use wabahook::policy::Policy;
use wabahook::{Notice, SubscriptionState};

use super::delivery_state::{DeliveryState, Wait};
use super::model::{Delivery, Key, Model, Presence};
use super::plan::{self, millis};

/// For how long an active lane may still start a last attempt.
const LAST_ATTEMPT_MS: u64 = 10_000;

/// How much later than that a lane is looked at.
const LATE_MS: u64 = 2_000;

/// After an open everything keeps at least this part of its age.
const KEPT_PART: u64 = 24;

/// Ends a seed whose crash left an event that cannot be told from another one.
pub struct Abandoned;

/// From when an age counts, at the earliest and at the latest.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Since {
    /// On the monotonic clock; negative before the engine was opened.
    pub least_ms: i64,
    pub most_ms: i64,
    pub walls: (u64, u64),
    /// It counts from a replay, whose time is kept exactly.
    pub is_replay: bool,
}

impl Since {
    pub fn now((now_ms, wall_ms): (u64, u64), is_replay: bool) -> Since {
        let now_ms = now_ms as i64;
        Since { least_ms: now_ms, most_ms: now_ms, walls: (wall_ms, wall_ms), is_replay }
    }

    /// The same in an engine that was opened now. Events before it were accepted at `before_ms` at the latest.
    fn reopened(self, (now_ms, wall_ms): (u64, u64), before_ms: u64) -> Since {
        let oldest_ms = wall_ms.saturating_sub(self.walls.0);
        let latest_ms = if self.is_replay { self.walls.1 } else { self.walls.1.max(before_ms) };
        let youngest_ms = wall_ms.saturating_sub(latest_ms);
        // Times of runs of events are merged.
        let merged_ms = if self.is_replay { 0 } else { oldest_ms / 256 + 300 };
        let least_ms = now_ms as i64 - oldest_ms as i64;
        let most_ms = now_ms as i64 - youngest_ms.saturating_sub(merged_ms) as i64;
        Since { least_ms, most_ms, ..self }
    }

    fn of(wait: &Wait) -> Since {
        let from_ms = wait.from_ms as i64;
        let (least_ms, most_ms) =
            (from_ms - wait.age_most_ms as i64, from_ms - wait.age_least_ms as i64);
        Since { least_ms, most_ms, ..Since::default() }
    }

    /// When an age that counts from here ends, at the earliest and at the latest.
    pub fn ends_ms(&self, policy: &Policy, opened_ms: u64) -> (u64, u64) {
        let age_max_ms = millis(policy.age_max);
        let kept_ms = opened_ms + age_max_ms / KEPT_PART;
        let end_ms = |since_ms: i64| ((since_ms + age_max_ms as i64).max(0) as u64).max(kept_ms);
        (end_ms(self.least_ms), end_ms(self.most_ms))
    }
}

impl Delivery {
    /// From when the age of one of its states counts.
    pub fn since(&self, life: &DeliveryState) -> Since {
        let wait = life.tries().and_then(|tries| tries.wait.as_ref());
        wait.map_or(self.since, Since::of)
    }
}

impl Model {
    /// The clocks moved.
    pub fn clocks_moved(&mut self, clocks: (u64, u64)) {
        self.clocks = clocks;
        for event in self.events.iter_mut().filter(|event| event.there == Presence::Waiting) {
            event.walls = (event.walls.0.min(clocks.1), event.walls.1.max(clocks.1));
        }
    }

    /// An engine was opened: ages count from the times that are on the device.
    pub fn ages_reopened(&mut self) {
        self.opened_ms = self.clocks.0;
        let mut before_ms = 0;
        for place in 0..self.events.len() {
            let event = &self.events[place];
            let (walls, there) = (event.walls, event.there);
            for (_, delivery) in self.deliveries.range_mut((place, 0)..=(place, u32::MAX)) {
                if !delivery.since.is_replay {
                    delivery.since.walls = walls;
                }
                delivery.since = delivery.since.reopened(self.clocks, before_ms);
            }
            if matches!(there, Presence::Yes | Presence::Maybe) {
                before_ms = before_ms.max(walls.1);
            }
        }
    }

    /// When the age of an owed delivery ends, at the earliest and at the latest.
    pub fn ends_ms(&self, key: Key) -> (u64, u64) {
        let (delivery, policy) = (&self.deliveries[&key], &self.subs[&key.1].terms.policy);
        let owed = delivery.now.iter().filter(|life| life.is_owed());
        let ends = owed.map(|life| delivery.since(life).ends_ms(policy, self.opened_ms));
        let (least, most): (Vec<u64>, Vec<u64>) = ends.unzip();
        (least.into_iter().min().unwrap_or(0), most.into_iter().max().unwrap_or(0))
    }

    /// The rest of an endpoint may be cut short for deliveries whose age ends.
    pub fn rests_may_be_cut(&mut self) {
        let now_ms = self.clocks.0;
        let owed = self.deliveries.iter().filter(|(_, delivery)| delivery.may_be_owed());
        let keys: Vec<Key> = owed.map(|(key, _)| *key).collect();
        for key in keys {
            if self.subs[&key.1].is_served() && self.ends_ms(key).0 <= now_ms {
                self.subs.get_mut(&key.1).unwrap().lane.rest_may_be_cut(now_ms);
            }
        }
    }

    /// The timekeeper ended deliveries by their age.
    pub fn expired(&mut self, told: &mut Vec<Notice>) {
        let expired = |told: &[Notice]| {
            told.iter().find_map(|notice| match notice {
                Notice::DeadLettered { event, subscription, reason }
                    if reason.to_string() == "expired" =>
                {
                    Some((event.to_string(), subscription.0))
                }
                _ => None,
            })
        };
        while let Some((id, subscription)) = expired(told) {
            let key = (self.place_of(&id, subscription), subscription);
            assert_eq!(self.take_died(key, told).as_deref(), Some("expired"));
            self.expire(key, told);
        }
        self.check_ages();
    }

    fn expire(&mut self, key: Key, told: &mut Vec<Notice>) {
        self.confirm(key.0);
        let (now_ms, opened_ms) = (self.clocks.0, self.opened_ms);
        let sub = &self.subs[&key.1];
        let slack_ms = if sub.state == SubscriptionState::Active { LAST_ATTEMPT_MS } else { 0 };
        let policy = sub.terms.policy.clone();
        let delivery = self.deliveries.get_mut(&key).unwrap();
        assert!(!delivery.in_flight, "{key:?} expires in flight");
        let since: Vec<Since> = delivery.now.iter().map(|life| delivery.since(life)).collect();
        let mut since = since.into_iter();
        let states = std::mem::take(&mut delivery.now);
        let seen = format!("{key:?} expires at {now_ms}: {states:?}");
        delivery.now = states;
        delivery.now.retain(|life| {
            let ends_ms = since.next().map_or(u64::MAX, |one| one.ends_ms(&policy, opened_ms).0);
            life.is_owed() && ends_ms + slack_ms <= now_ms
        });
        assert!(!delivery.now.is_empty(), "{seen}, before its time");
        let attempts = delivery.now[0].tries().map_or(0, |tries| tries.attempts);
        delivery.waits = false;
        self.record_all(key, DeliveryState::Dead { reason: "expired".to_owned(), attempts }, told);
    }

    /// Nothing is owed after the end of its age.
    fn check_ages(&self) {
        let now_ms = self.clocks.0;
        for (key, delivery) in &self.deliveries {
            let is_waiting = delivery.is_owed() && !delivery.in_flight;
            if !is_waiting || self.subs[&key.1].removed {
                continue;
            }
            let ends_ms =
                (self.ends_ms(*key).1 + LAST_ATTEMPT_MS).max(delivery.landed_ms) + LATE_MS;
            assert!(now_ms < ends_ms, "{key:?} is owed past {ends_ms}: {delivery:?}");
        }
    }

    /// The event of an id. After a crash the model does not know every id.
    pub fn place_of(&mut self, id: &str, subscription: u32) -> usize {
        let known = self.events.iter().position(|event| event.id.as_deref() == Some(id));
        if let Some(place) = known {
            return place;
        }
        let may_be = |place: &usize| {
            let event = &self.events[*place];
            let delivery = self.deliveries.get(&(*place, subscription));
            let is_owed = delivery.is_some_and(|delivery| delivery.may_be_owed());
            // Events of one account keep their order; accounts take turns.
            let account = plan::account_of(event.draft.number);
            let in_order = self.events.iter().enumerate().all(|(other, event)| {
                let other_id = event.id.as_deref();
                other_id.is_none_or(|other_id| (other < *place) == (other_id < id))
                    || event.there == Presence::Duplicate
                    || plan::account_of(event.draft.number) != account
            });
            let may_exist = matches!(event.there, Presence::Maybe | Presence::Yes);
            event.id.is_none() && may_exist && is_owed && in_order
        };
        let places: Vec<usize> = (0..self.events.len()).filter(may_be).collect();
        match places[..] {
            [place] => {
                self.events[place].id = Some(id.to_owned());
                place
            }
            [] => panic!("{id} of {subscription} is no event"),
            _ => std::panic::panic_any(Abandoned),
        }
    }
}
