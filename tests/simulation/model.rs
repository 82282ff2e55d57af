//! What the engine owes to which subscription, kept as plain lists that are scanned each time. The
//! model shares no code with the engine and knows it only by its receipts, requests, notices and
//! counters.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use wabahook::{Accepted, Limits, Notice, Receipt, Reply, Shortage, Stats, SubscriptionState};

use super::delivery_state::{DeliveryState, Outcome, Tries, after, outcome};
use super::dependency::GATE;
use super::endpoint::AT_ONCE;
use super::lane::{Lane, PAUSE_MAX_MS};
use super::plan::{Draft, Terms};
use super::retention::Since;

/// An event, by its index in publish order, and a subscription.
pub type Key = (usize, u32);

#[derive(Default)]
pub struct Model {
    pub limits: Limits,
    pub events: Vec<Event>,
    pub subs: BTreeMap<u32, Sub>,
    pub deliveries: BTreeMap<Key, Delivery>,
    /// What was sent to the committer and may not be durable yet, in order.
    pub queue: VecDeque<Queued>,
    /// A subscription whose registration a crash interrupted.
    pub creating: Option<Terms>,
    /// Deliveries that ended or were replayed together, and may not be durable yet.
    pub together: Vec<Vec<Key>>,
    pub counts: Counts,
    /// What the engine did not count as owed: cancelled while it was opened.
    pub cancelled_before: u64,
    /// Events of cancelled deliveries, which count for the bounds until the next group.
    pub cancelled_lately: BTreeSet<usize>,
    /// Both clocks.
    pub clocks: (u64, u64),
    /// When the present engine was opened.
    pub opened_ms: u64,
}

pub struct Event {
    pub draft: Draft,
    pub id: Option<String>,
    pub there: Presence,
    /// When it was accepted, at the earliest and at the latest, in wall time.
    pub walls: (u64, u64),
    /// Published together with these. Either all of them are there or none.
    pub together: Range<usize>,
}

/// Whether an event is on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Waiting,
    Yes,
    Maybe,
    No,
    /// It is a duplicate of another event with its dedup key.
    Duplicate,
}

pub struct Sub {
    pub terms: Terms,
    pub state: SubscriptionState,
    /// What a crash may have left instead.
    pub instead: Vec<(Terms, SubscriptionState)>,
    pub removed: bool,
    /// Its removal has begun, and a crash may have interrupted it.
    pub removing: bool,
    pub lane: Lane,
}

#[derive(Debug, Default)]
pub struct Delivery {
    /// What its state may be now: one, or several after a crash.
    pub now: Vec<DeliveryState>,
    /// What it may be on the device.
    pub durable: Vec<DeliveryState>,
    /// Later states, in order, each waiting for its group.
    pub queued: VecDeque<DeliveryState>,
    pub in_flight: bool,
    /// From when its age counts, before its first failure.
    pub since: Since,
    /// When it was last in flight.
    pub landed_ms: u64,
    /// Replayed, so exempt from ordering.
    pub revived: bool,
    /// In flight when the policy changed: it blocks its key until it ends.
    pub first: bool,
    /// Its last attempt ended with a panic, so it waits as a retry does.
    pub postponed: bool,
    /// Waits for its main delivery, if that was owed when this was decided.
    pub waits: bool,
    /// Delivered, and certainly not durable yet.
    pub settling: bool,
}

pub enum Queued {
    Publish(Awaited),
    Record(Key),
    Health(u32),
}

pub struct Awaited {
    pub places: Range<usize>,
    pub receipt: Waiting,
}

pub enum Waiting {
    One(Receipt),
    Many(Receipt<Vec<Accepted>>),
}

/// The counters that must agree, since the engine was opened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    pub accepted: u64,
    pub duplicates: u64,
    pub unrouted: u64,
    pub attempts: u64,
    pub delivered: u64,
    pub retried: u64,
    pub dead: u64,
    pub cancelled: u64,
    pub replayed: u64,
    /// Events given back.
    pub busy: u64,
}

impl Awaited {
    fn is_done(&self) -> bool {
        match &self.receipt {
            Waiting::One(receipt) => receipt.is_done(),
            Waiting::Many(receipt) => receipt.is_done(),
        }
    }

    fn answers(&self) -> Vec<Accepted> {
        let answers = match &self.receipt {
            Waiting::One(receipt) => {
                receipt.wait_timeout(AT_ONCE).map(|one| one.map(|one| vec![one]))
            }
            Waiting::Many(receipt) => receipt.wait_timeout(AT_ONCE),
        };
        answers.expect("it is done").expect("a device that works takes every group")
    }
}

impl Sub {
    pub fn new(terms: Terms) -> Sub {
        let lane = Lane::fresh(true);
        Sub {
            terms,
            state: SubscriptionState::Active,
            instead: vec![],
            removed: false,
            removing: false,
            lane,
        }
    }

    /// The host changed it, its URL too, so its health begins anew. One that was disabled becomes active.
    pub fn changed(&mut self, terms: Terms) {
        self.lane.begin_anew();
        if self.terms.policy.rate_limit != terms.policy.rate_limit {
            self.lane.forget_starts();
        }
        let state = if self.state == SubscriptionState::Paused {
            SubscriptionState::Paused
        } else {
            SubscriptionState::Active
        };
        (self.terms, self.state) = (terms, state);
    }

    pub fn main(&self) -> Option<u32> {
        self.terms.policy.after.map(|main| main.0)
    }

    pub fn is_served(&self) -> bool {
        !self.removed && self.state == SubscriptionState::Active
    }
}

impl Delivery {
    fn of_nothing() -> Delivery {
        Delivery {
            now: vec![DeliveryState::Absent],
            durable: vec![DeliveryState::Absent],
            ..Delivery::default()
        }
    }

    pub fn may_be_owed(&self) -> bool {
        self.now.iter().any(DeliveryState::is_owed)
    }

    pub fn is_owed(&self) -> bool {
        self.now.iter().all(DeliveryState::is_owed)
    }

    /// Keeps the states that match what was observed. One must.
    pub fn narrow(&mut self, key: Key, seen: &str, fits: impl Fn(&DeliveryState) -> bool) {
        let before = self.now.clone();
        self.now.retain(&fits);
        assert!(!self.now.is_empty(), "{key:?}: {seen}, but its state can only be {before:?}");
        if self.queued.is_empty() {
            self.durable.retain(&fits);
        }
    }

    pub fn become_durably(&mut self, life: DeliveryState) {
        self.now = vec![life.clone()];
        self.durable = vec![life];
        self.queued.clear();
    }
}

/// What is published.
impl Model {
    pub fn publish(&mut self, drafts: Vec<Draft>, receipt: Waiting) {
        let places = self.events.len()..self.events.len() + drafts.len();
        for draft in drafts {
            let place = self.events.len();
            for (id, sub) in &self.subs {
                let is_matched = !sub.removed && sub.state != SubscriptionState::Disabled;
                if is_matched && sub.terms.asks_for(draft.kind, draft.number) {
                    self.deliveries.insert((place, *id), Delivery::of_nothing());
                }
            }
            let together = places.clone();
            let (there, walls) = (Presence::Waiting, (self.clocks.1, self.clocks.1));
            self.events.push(Event { draft, id: None, there, walls, together });
        }
        self.queue.push_back(Queued::Publish(Awaited { places, receipt }));
    }

    /// The committer ran as often as it had work.
    pub fn committed(&mut self, everything: bool) {
        let waits = |queued: &Queued| matches!(queued, Queued::Publish(one) if !one.is_done());
        let is_done = |queued: &Queued| matches!(queued, Queued::Publish(one) if one.is_done());
        let none_waits = !self.queue.iter().any(waits);
        assert!(none_waits || !everything, "a receipt did not resolve with everything committed");
        let events = |queued: &Queued| match queued {
            Queued::Publish(awaited) => awaited.places.len(),
            Queued::Record(_) | Queued::Health(_) => 0,
        };
        // A group that was not full contains everything that waited.
        let full = self.queue.iter().map(events).sum::<usize>() >= self.limits.group_events_max;
        let count = match everything || (none_waits && !full) {
            true => self.queue.len(),
            false => self.queue.iter().rposition(is_done).map_or(0, |last| last + 1),
        };
        self.durable_up_to(count);
        if everything {
            self.together.clear();
        }
    }

    /// What ended before is durable; events may still wait.
    pub fn settled(&mut self) {
        self.durable_up_to(self.queue.len());
    }

    /// Of so many first ones in the queue all records are durable, and the events whose receipts have resolved.
    fn durable_up_to(&mut self, count: usize) {
        let waits = |queued: &Queued| matches!(queued, Queued::Publish(one) if !one.is_done());
        // Accounts take turns, so an event may overtake one of another account. Records wait for no event.
        let taken: Vec<Queued> = self.queue.drain(..count).collect();
        let (durable, left): (Vec<_>, Vec<_>) = taken.into_iter().partition(|one| !waits(one));
        left.into_iter().rev().for_each(|one| self.queue.push_front(one));
        for queued in durable {
            match queued {
                Queued::Publish(awaited) => {
                    let answers = awaited.answers();
                    assert_eq!(answers.len(), awaited.places.len());
                    for (place, answer) in awaited.places.zip(answers) {
                        self.accepted(place, answer);
                    }
                }
                Queued::Record(key) => {
                    let delivery = self.deliveries.get_mut(&key).unwrap();
                    if let Some(life) = delivery.queued.pop_front() {
                        delivery.durable = vec![life];
                    }
                }
                Queued::Health(id) => self.subs.get_mut(&id).unwrap().lane.saved(),
            }
        }
        self.cancelled_lately.clear();
        // Any record that was queued may be durable now.
        self.deliveries.values_mut().for_each(|delivery| delivery.settling = false);
    }

    fn accepted(&mut self, place: usize, accepted: Accepted) {
        let id = accepted.id.to_string();
        let originals = self.originals_of(place);
        if accepted.duplicate {
            self.counts.duplicates += 1;
            let known = |original: &&usize| self.events[**original].id.as_ref() == Some(&id);
            let unnamed = |original: &&usize| self.events[**original].id.is_none();
            let original = originals.iter().find(known).or(originals.iter().find(unnamed));
            let Some(original) = original.copied() else {
                panic!("event {place} is a duplicate of nothing that is there");
            };
            self.events[place].there = Presence::Duplicate;
            assert_eq!(accepted.owed, 0, "a duplicate owes nothing");
            self.events[original].id = Some(id);
            self.confirm(original);
            return;
        }
        for original in originals {
            let there = self.events[original].there;
            assert!(
                there != Presence::Yes,
                "event {place} was accepted although {original} is there"
            );
            self.deny(original);
        }
        self.counts.accepted += 1;
        self.counts.unrouted += u64::from(accepted.owed == 0);
        self.events[place].there = Presence::Yes;
        self.events[place].walls = (self.clocks.1, self.clocks.1);
        self.events[place].id = Some(id);
        let since = Since::now(self.clocks, false);
        let targets = self.targets_of(place);
        // A subscription that is removed in the same group is not owed it.
        let dropped = targets.len() - accepted.owed as usize;
        let leaving = |id: &&u32| self.subs[*id].removing;
        let leaving = targets.iter().filter(leaving).count();
        assert!(dropped <= leaving, "event {place} owes {}, not {targets:?}", accepted.owed);
        for id in &targets {
            let is_dropped = dropped > 0 && self.subs[id].removing;
            let life = if is_dropped { DeliveryState::Cancelled } else { DeliveryState::fresh() };
            let delivery = self.deliveries.get_mut(&(place, *id)).unwrap();
            delivery.since = since;
            delivery.become_durably(life);
        }
        targets.into_iter().for_each(|id| self.decide_dependency((place, id)));
    }

    pub fn targets_of(&self, place: usize) -> Vec<u32> {
        self.deliveries.range((place, 0)..=(place, u32::MAX)).map(|((_, id), _)| *id).collect()
    }

    /// Earlier events with the same dedup key that are or may be there.
    fn originals_of(&self, place: usize) -> Vec<usize> {
        let repeats = self.repeats_of(place).into_iter();
        let is_there =
            |other: &usize| matches!(self.events[*other].there, Presence::Yes | Presence::Maybe);
        repeats.filter(|other| *other < place).filter(is_there).collect()
    }

    /// The other events with the same dedup key.
    pub fn repeats_of(&self, place: usize) -> Vec<usize> {
        let Draft { kind, dedup: Some(dedup), .. } = &self.events[place].draft else {
            return Vec::new();
        };
        let same = |other: &usize| {
            let draft = &self.events[*other].draft;
            *other != place && draft.kind == *kind && draft.dedup.as_ref() == Some(dedup)
        };
        (0..self.events.len()).filter(same).collect()
    }
}

/// What attempts lead to.
impl Model {
    /// A worker got an answer. What it caused is read from the notices.
    pub fn ended(&mut self, key: Key, reply: &Reply, clocks: (u64, u64), told: &mut Vec<Notice>) {
        self.counts.attempts += 1;
        let ends_ms = self.ends_ms(key);
        let sub = self.subs.get_mut(&key.1).unwrap();
        // If its subscription was removed meanwhile, its end changes nothing.
        if sub.lane.land(key, clocks.0).is_none() {
            return;
        }
        // Nor if its event was purged.
        let delivery = self.deliveries.get_mut(&key).unwrap();
        if !delivery.may_be_owed() {
            delivery.in_flight = false;
            return;
        }
        let policy = sub.terms.policy.clone();
        let (meant, disable) = outcome(reply, &policy);
        let cap_max = self.limits.lane_in_flight_max;
        let left_ms = (ends_ms.0.saturating_sub(clocks.0), ends_ms.1.saturating_sub(clocks.0));
        if sub.lane.learn(&meant, reply, &policy, clocks.0, cap_max, left_ms) {
            sub.lane.save(clocks);
            self.queue.push_back(Queued::Health(key.1));
        }
        let active = sub.state == SubscriptionState::Active && meant != Outcome::Delivered;
        let (must, may) = sub.lane.fails_for_too_long(&policy);
        let delivery = self.deliveries.get_mut(&key).unwrap();
        (delivery.in_flight, delivery.landed_ms) = (false, clocks.0);
        let [DeliveryState::Owed(tries)] = &delivery.now[..] else {
            panic!("{key:?} was under way")
        };
        let tries = tries.clone();
        let since = delivery.since(&delivery.now[0]);
        let died = self.take_died(key, told);
        match disable {
            Some(why) => self.disabled(key.1, &why, told),
            None if active && may && (must || says_failing(told)) => {
                self.disabled(key.1, "failing", told);
            }
            None => {}
        }
        let attempts = tries.attempts + 1;
        let life = match (meant, died) {
            (Outcome::Delivered, None) => DeliveryState::Delivered,
            (Outcome::Dead(reason), Some(died)) => {
                assert_eq!(reason, died, "why {key:?} died");
                DeliveryState::Dead { reason, attempts }
            }
            (Outcome::Retry { reason, asked_ms }, died) => {
                let after = after(&tries, &policy, asked_ms, since, ends_ms, clocks);
                after.check(key, &reason, died.as_deref());
                match died {
                    Some(reason) => DeliveryState::Dead { reason, attempts },
                    None => DeliveryState::Owed(Tries { attempts, wait: Some(after.wait) }),
                }
            }
            (meant, died) => panic!("{key:?} died of {died:?} after an answer of {meant:?}"),
        };
        self.record_all(key, life, told);
    }

    /// A change of a delivery's state, and the ends of those that it gives up, in one group.
    pub fn record_all(&mut self, key: Key, life: DeliveryState, told: &mut Vec<Notice>) {
        let given_up = matches!(life, DeliveryState::Dead { .. });
        let with = if given_up { self.give_up_dependents(key, told) } else { Vec::new() };
        self.record(key, life);
        for dependent in &with {
            self.record(*dependent, DeliveryState::Dead { reason: GATE.to_owned(), attempts: 0 });
        }
        self.together.push([vec![key], with].concat());
    }

    /// An attempt ended with a shortage: it does not count, and nothing else changes.
    pub fn ended_short(&mut self, key: Key, shortage: Shortage, now_ms: u64) {
        let sub = self.subs.get_mut(&key.1).unwrap();
        if sub.lane.land(key, now_ms).is_some() {
            sub.lane.postponed_until_ms = now_ms + PAUSE_MAX_MS;
            let delivery = self.deliveries.get_mut(&key).unwrap();
            (delivery.in_flight, delivery.landed_ms) = (false, now_ms);
            delivery.postponed = shortage == Shortage::Panic;
        }
    }

    /// A change of a delivery's state that the next group makes durable.
    fn record(&mut self, key: Key, life: DeliveryState) {
        match &life {
            DeliveryState::Delivered => self.counts.delivered += 1,
            DeliveryState::Dead { .. } => self.counts.dead += 1,
            _ => self.counts.retried += 1,
        }
        let delivery = self.deliveries.get_mut(&key).unwrap();
        delivery.now = vec![life.clone()];
        delivery.settling = life == DeliveryState::Delivered;
        delivery.queued.push_back(life);
        self.queue.push_back(Queued::Record(key));
    }

    /// Takes the notice of a death out of the notices.
    pub fn take_died(&self, key: Key, told: &mut Vec<Notice>) -> Option<String> {
        self.take_died_of(key, "", told)
    }

    /// The same, if it died of this reason.
    pub fn take_died_of(&self, key: Key, of: &str, told: &mut Vec<Notice>) -> Option<String> {
        let id = self.events[key.0].id.as_ref()?;
        let died = told.iter().position(|notice| {
            matches!(notice, Notice::DeadLettered { event, subscription, reason }
                if event.to_string() == *id
                    && subscription.0 == key.1
                    && (of.is_empty() || reason.to_string() == of))
        });
        match told.remove(died?) {
            Notice::DeadLettered { reason, .. } => Some(reason.to_string()),
            _ => None,
        }
    }

    fn disabled(&mut self, id: u32, why: &str, told: &mut Vec<Notice>) {
        let sub = self.subs.get_mut(&id).unwrap();
        if sub.state == SubscriptionState::Disabled {
            return;
        }
        sub.state = SubscriptionState::Disabled;
        let notice = told.iter().position(|notice| {
            matches!(notice, Notice::Disabled { subscription, reason }
                if subscription.0 == id && reason.to_string() == why)
        });
        let notice = notice.unwrap_or_else(|| panic!("{id} was disabled without a word"));
        told.remove(notice);
    }
}

fn says_failing(told: &[Notice]) -> bool {
    told.iter().any(|notice| matches!(notice, Notice::Disabled { .. }))
}

/// What must agree after every step.
impl Model {
    pub fn check(&self, stats: &Stats) {
        let counted = Counts {
            accepted: stats.accepted,
            duplicates: stats.duplicates,
            unrouted: stats.unrouted,
            attempts: stats.attempts,
            delivered: stats.delivered,
            retried: stats.retried,
            dead: stats.dead,
            cancelled: stats.cancelled - self.cancelled_before,
            replayed: stats.replayed,
            busy: stats.busy,
        };
        assert_eq!(counted, self.counts, "the engine counts (left) what did not happen (right)");
        assert_eq!((stats.held, stats.letters_dropped), (0, 0));
        let (mut least, mut most) = (0, 0);
        let mut lanes: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for ((_, id), delivery) in &self.deliveries {
            let (owed, may) = (delivery.is_owed(), delivery.may_be_owed());
            (least, most) = (least + u64::from(owed), most + u64::from(may));
            let lane = lanes.entry(*id).or_default();
            *lane = (lane.0 + u64::from(owed), lane.1 + u64::from(may));
        }
        let owed = stats.owed;
        assert!((least..=most).contains(&owed), "{owed} owed, not {least} to {most}");
        for stats in &stats.lanes {
            let id = stats.subscription.0;
            let (least, most) = lanes.remove(&id).unwrap_or_default();
            let owed = stats.owed;
            assert!((least..=most).contains(&owed), "{owed} owed to {id}, not {least} to {most}");
            assert_eq!(
                stats.in_flight as usize,
                self.subs[&id].lane.in_flight.len(),
                "in lane {id}"
            );
        }
        let forgotten: Vec<_> = lanes.iter().filter(|(_, (least, _))| *least > 0).collect();
        assert!(forgotten.is_empty(), "lanes missing in the statistics: {forgotten:?}");
    }
}
