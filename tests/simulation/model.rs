//! Decides what the engine owes whom, as somebody keeps it who writes everything down and scans all
//! of it each time.
//!
//! Leaves to others: what one attempt may make of a delivery (`life`), what may start when
//! (`starting`), what a crash leaves open (`doubt`). Invariant: it shares no code with the engine;
//! it knows the engine by its receipts, its requests, its notices and its counters alone.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use wabahook::{Accepted, Limits, Notice, Receipt, Reply, State, Stats};

use super::endpoint::AT_ONCE;
use super::lane::Lane;
use super::life::{Life, Meaning, Tries, after, meaning};
use super::plan::{Draft, Terms};

/// Which event, by its place in the order of publishing, for which subscription.
pub type Key = (usize, u32);

#[derive(Default)]
pub struct Model {
    pub limits: Limits,
    pub events: Vec<Event>,
    pub subs: BTreeMap<u32, Sub>,
    pub deliveries: BTreeMap<Key, Delivery>,
    /// What was sent to the committer and may not be on the device yet, in the order sent.
    pub queue: VecDeque<Queued>,
    /// A subscription that a crash met while it was registered.
    pub creating: Option<Terms>,
    pub counts: Counts,
    /// What the engine could not know to be owed when it counted: cancelled while it was opened.
    pub cancelled_before: u64,
}

pub struct Event {
    pub draft: Draft,
    pub id: Option<String>,
    pub there: There,
    /// Published together with these: all of them are there or none.
    pub together: Range<usize>,
}

/// Whether an event is on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    Waiting,
    Yes,
    Maybe,
    No,
    /// Another event with its dedup key is in its place.
    Duplicate,
}

pub struct Sub {
    pub terms: Terms,
    pub state: State,
    /// What a crash may have left instead.
    pub instead: Vec<(Terms, State)>,
    pub removed: bool,
    /// Its removal has begun, and a crash may have ended it.
    pub removing: bool,
    pub lane: Lane,
}

#[derive(Debug)]
pub struct Delivery {
    /// What its life may be now: one, but where a crash left a doubt.
    pub now: Vec<Life>,
    /// What it may be on the device.
    pub durable: Vec<Life>,
    /// What it became since, in order, each waiting for its group.
    pub queued: VecDeque<Life>,
    pub in_flight: bool,
    /// Replayed: exempt from order.
    pub revived: bool,
    /// Under way when the terms changed: it holds its line until it ends.
    pub first: bool,
}

pub enum Queued {
    Publish(Awaited),
    Record(Key),
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
        Sub { terms, state: State::Active, instead: vec![], removed: false, removing: false, lane }
    }

    /// The host gave it other terms; one that was disabled begins anew.
    pub fn changed(&mut self, terms: Terms) {
        if self.state == State::Disabled {
            self.lane.begin_anew();
        }
        if self.terms.policy.rate_limit != terms.policy.rate_limit {
            self.lane.forget_starts();
        }
        (self.terms, self.state) = (terms, State::Active);
    }

    pub fn is_served(&self) -> bool {
        !self.removed && self.state == State::Active
    }
}

impl Delivery {
    fn of_nothing() -> Delivery {
        Delivery {
            now: vec![Life::Absent],
            durable: vec![Life::Absent],
            queued: VecDeque::new(),
            in_flight: false,
            revived: false,
            first: false,
        }
    }

    pub fn may_be_owed(&self) -> bool {
        self.now.iter().any(Life::is_owed)
    }

    pub fn is_owed(&self) -> bool {
        self.now.iter().all(Life::is_owed)
    }

    /// Keeps the lives that fit what was seen; one must.
    pub fn narrow(&mut self, key: Key, seen: &str, fits: impl Fn(&Life) -> bool) {
        let before = self.now.clone();
        self.now.retain(&fits);
        assert!(!self.now.is_empty(), "{key:?}: {seen}, but its life can only be {before:?}");
        if self.queued.is_empty() {
            self.durable.retain(&fits);
        }
    }

    pub fn become_durably(&mut self, life: Life) {
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
                let is_matched = !sub.removed && sub.state != State::Disabled;
                if is_matched && sub.terms.asks_for(draft.kind, draft.number) {
                    self.deliveries.insert((place, *id), Delivery::of_nothing());
                }
            }
            let together = places.clone();
            self.events.push(Event { draft, id: None, there: There::Waiting, together });
        }
        self.queue.push_back(Queued::Publish(Awaited { places, receipt }));
    }

    /// The committer had a turn, or as many as it had work for.
    pub fn committed(&mut self, everything: bool) {
        let waits = |queued: &Queued| matches!(queued, Queued::Publish(one) if !one.is_done());
        let is_done = |queued: &Queued| matches!(queued, Queued::Publish(one) if one.is_done());
        let none_waits = !self.queue.iter().any(waits);
        assert!(none_waits || !everything, "a receipt did not resolve with everything committed");
        let events = |queued: &Queued| match queued {
            Queued::Publish(awaited) => awaited.places.len(),
            Queued::Record(_) => 0,
        };
        // A group that was not full took everything that waited.
        let full = self.queue.iter().map(events).sum::<usize>() >= self.limits.group_events_max;
        let count = match everything || (none_waits && !full) {
            true => self.queue.len(),
            false => self.queue.iter().rposition(is_done).map_or(0, |last| last + 1),
        };
        let durable: Vec<Queued> = self.queue.drain(..count).collect();
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
            }
        }
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
            self.events[place].there = There::Duplicate;
            assert_eq!(accepted.owed, 0, "a duplicate owes nothing");
            self.events[original].id = Some(id);
            self.confirm(original);
            return;
        }
        for original in originals {
            let there = self.events[original].there;
            assert!(there != There::Yes, "event {place} was accepted although {original} is there");
            self.deny(original);
        }
        self.counts.accepted += 1;
        self.counts.unrouted += u64::from(accepted.owed == 0);
        self.events[place].there = There::Yes;
        self.events[place].id = Some(id);
        let targets = self.targets_of(place);
        // A subscription that is removed in the same group is owed nothing of it.
        let dropped = targets.len() - accepted.owed as usize;
        let leaving = |id: &&u32| self.subs[*id].removing;
        let leaving = targets.iter().filter(leaving).count();
        assert!(dropped <= leaving, "event {place} owes {}, not {targets:?}", accepted.owed);
        for id in targets {
            let is_dropped = dropped > 0 && self.subs[&id].removing;
            let life = if is_dropped { Life::Cancelled } else { Life::fresh() };
            self.deliveries.get_mut(&(place, id)).unwrap().become_durably(life);
        }
    }

    pub fn targets_of(&self, place: usize) -> Vec<u32> {
        self.deliveries.range((place, 0)..=(place, u32::MAX)).map(|((_, id), _)| *id).collect()
    }

    /// Earlier events with the same dedup key that are or may be there.
    fn originals_of(&self, place: usize) -> Vec<usize> {
        let repeats = self.repeats_of(place).into_iter();
        let is_there =
            |other: &usize| matches!(self.events[*other].there, There::Yes | There::Maybe);
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
    /// A worker heard back. What followed is read off the notices.
    pub fn ended(
        &mut self,
        key: Key,
        (reply, is_late): (&Reply, bool),
        clocks: (u64, u64),
        told: &mut Vec<Notice>,
    ) {
        self.counts.attempts += 1;
        let sub = self.subs.get_mut(&key.1).unwrap();
        // Where its subscription was removed meanwhile, its end changes nothing.
        let Some(started_ms) = sub.lane.land(key) else { return };
        let policy = sub.terms.policy.clone();
        let (meant, disable) = meaning(reply, &policy);
        sub.lane.learn(&meant, reply, &policy, clocks.0, self.limits.lane_in_flight_max);
        sub.lane.is_clean &= !is_late;
        let active = sub.state == State::Active && meant != Meaning::Delivered;
        let (must, may) = sub.lane.fails_for_too_long(&policy, clocks.0);
        let delivery = self.deliveries.get_mut(&key).unwrap();
        delivery.in_flight = false;
        let [Life::Owed(tries)] = &delivery.now[..] else { panic!("{key:?} was under way") };
        let tries = tries.clone();
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
            (Meaning::Delivered, None) => Life::Delivered,
            (Meaning::Dead(reason), Some(died)) => {
                assert_eq!(reason, died, "why {key:?} died");
                Life::Dead { reason, attempts }
            }
            (Meaning::Retry { reason, asked_ms }, died) => {
                let after = after(&tries, &policy, asked_ms, started_ms, clocks);
                after.check(key, &reason, died.as_deref());
                match died {
                    Some(reason) => Life::Dead { reason, attempts },
                    None => Life::Owed(Tries { attempts, wait: Some(after.wait) }),
                }
            }
            (meant, died) => panic!("{key:?} died of {died:?} after an answer of {meant:?}"),
        };
        self.record(key, life);
    }

    /// A change of a delivery's life that the next group makes durable.
    pub fn record(&mut self, key: Key, life: Life) {
        match &life {
            Life::Delivered => self.counts.delivered += 1,
            Life::Dead { .. } => self.counts.dead += 1,
            _ => self.counts.retried += 1,
        }
        let delivery = self.deliveries.get_mut(&key).unwrap();
        delivery.now = vec![life.clone()];
        delivery.queued.push_back(life);
        self.queue.push_back(Queued::Record(key));
    }

    /// Takes the notice of a death out of what was told.
    fn take_died(&self, key: Key, told: &mut Vec<Notice>) -> Option<String> {
        let id = self.events[key.0].id.as_ref()?;
        let died = told.iter().position(|notice| {
            matches!(notice, Notice::Died { event, subscription, .. }
                if event.to_string() == *id && subscription.0 == key.1)
        });
        match told.remove(died?) {
            Notice::Died { reason, .. } => Some(reason.to_string()),
            _ => None,
        }
    }

    fn disabled(&mut self, id: u32, why: &str, told: &mut Vec<Notice>) {
        let sub = self.subs.get_mut(&id).unwrap();
        if sub.state == State::Disabled {
            return;
        }
        sub.state = State::Disabled;
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

/// What the host does.
impl Model {
    pub fn removed(&mut self, id: u32, told: &mut Vec<Notice>) {
        let sub = self.subs.get_mut(&id).unwrap();
        (sub.removed, sub.removing) = (true, false);
        sub.lane = Lane::fresh(false);
        let (mut least, mut most) = (0, 0);
        for (_, delivery) in self.deliveries.iter_mut().filter(|((_, sub), _)| *sub == id) {
            least += u64::from(delivery.is_owed());
            most += u64::from(delivery.may_be_owed());
            delivery.in_flight = false;
            if delivery.may_be_owed() {
                delivery.become_durably(Life::Cancelled);
            }
        }
        let notice = told.iter().position(|notice| {
            matches!(notice, Notice::Cancelled { subscription, .. } if subscription.0 == id)
        });
        let said = match notice.map(|notice| told.remove(notice)) {
            Some(Notice::Cancelled { deliveries, .. }) => deliveries,
            _ => 0,
        };
        assert!((least..=most).contains(&said), "{said} cancelled of {id}, not {least} to {most}");
        self.counts.cancelled += said;
    }

    /// What is under way when an order begins holds its line, whatever was published before it.
    pub fn go_on_first(&mut self, id: u32) {
        let of_lane = self.deliveries.iter_mut().filter(|((_, sub), _)| *sub == id);
        of_lane.for_each(|(_, delivery)| delivery.first |= delivery.in_flight);
    }

    /// A dead letter is owed again.
    pub fn replayed(&mut self, key: Key) {
        self.counts.replayed += 1;
        let gone = self.subs[&key.1].removed;
        self.counts.cancelled += u64::from(gone);
        let delivery = self.deliveries.get_mut(&key).unwrap();
        delivery.revived = true;
        delivery.become_durably(if gone { Life::Cancelled } else { Life::fresh() });
    }
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
        };
        assert_eq!(counted, self.counts, "the engine counts (left) what did not happen (right)");
        assert_eq!((stats.held, stats.busy, stats.letters_dropped), (0, 0, 0));
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
            assert_eq!(stats.in_flight as usize, self.subs[&id].lane.flying.len(), "in lane {id}");
        }
        let forgotten: Vec<_> = lanes.iter().filter(|(_, (least, _))| *least > 0).collect();
        assert!(forgotten.is_empty(), "lanes without a word: {forgotten:?}");
    }
}
