//! The steps of a simulation, and how often each is taken. A step that a power cut interrupted is
//! recorded in the model as something that may have happened, whatever it returned.

use std::collections::BTreeSet;

use wabahook::{
    DeadLetter, DeadLetterFilter, Error, PurgeFilter, SubscriptionId, SubscriptionState,
};

use super::endpoint::{BEHAVIORS, Behavior};
use super::model::{Key, Presence, Sub, Waiting};
use super::plan::{self, Terms};
use super::world::World;

/// Which events a purge means.
type IsMeant = Box<dyn Fn(&plan::Draft) -> bool>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Publish,
    PublishMany,
    /// Publishes again what a crash made uncertain, as a host would.
    Again,
    Commit,
    CommitAll,
    Begin,
    Pump,
    Complete,
    /// An attempt in flight ends with a shortage of ours.
    EndShort,
    Pass,
    Jump,
    Behavior,
    Subscribe,
    Change,
    Unsubscribe,
    Pause,
    Resume,
    Replay,
    /// Purges a contact, a number or an account.
    Purge,
    Rest,
    Crash,
}

const STEPS: [(u64, Step); 21] = [
    (14, Step::Publish),
    (3, Step::PublishMany),
    (4, Step::Again),
    (10, Step::Commit),
    (6, Step::CommitAll),
    (14, Step::Begin),
    (14, Step::Pump),
    (24, Step::Complete),
    (2, Step::EndShort),
    (16, Step::Pass),
    (1, Step::Jump),
    (6, Step::Behavior),
    (1, Step::Subscribe),
    (4, Step::Change),
    (1, Step::Unsubscribe),
    (1, Step::Pause),
    (2, Step::Resume),
    (3, Step::Replay),
    (2, Step::Purge),
    (1, Step::Rest),
    (3, Step::Crash),
];

/// The most events of a seed, because the model scans all of them after every step.
const EVENTS_MAX: usize = 60;

impl World {
    /// Takes one step. Sometimes the power is cut in the middle of it.
    pub fn step(&mut self) {
        let step = self.random.weighted(&STEPS);
        if self.random.one_in(40) {
            let (operations, kept) = (self.random.within(1, 6), self.random.place(4));
            self.disk.cut_after(operations, kept);
        }
        self.take(step);
        let image = self.disk.take_image();
        if let Some(image) = image {
            self.note(|_| format!("the power goes in the middle of {step:?}"));
            self.crash(image);
        }
        self.check();
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Publish => self.publish(1),
            Step::PublishMany => {
                let count = self.random.within(2, 5) as usize;
                self.publish(count);
            }
            Step::Again => self.publish_again(),
            Step::Commit => _ = self.commit(false),
            Step::CommitAll => _ = self.commit(true),
            Step::Begin => drop(self.begin()),
            Step::Pump => self.pump(),
            Step::Complete => self.complete_one(),
            Step::EndShort => self.end_short(),
            Step::Pass => self.pass(),
            Step::Jump => self.jump(),
            Step::Behavior => self.change_mood(),
            Step::Subscribe => self.subscribe_another(),
            Step::Change => self.change(),
            Step::Unsubscribe => self.unsubscribe(),
            Step::Pause => self.pause(),
            Step::Resume => self.resume_one(),
            Step::Replay => self.replay(),
            Step::Purge => self.purge(),
            Step::Rest => self.running().stepped.rest(),
            Step::Crash => {
                let kept = self.random.place(4);
                self.note(|_| "the power goes".to_owned());
                let image = self.disk.cut_now(kept);
                self.crash(image);
            }
        }
    }

    fn publish(&mut self, count: usize) {
        let place = self.model.events.len();
        if place + count > EVENTS_MAX {
            return;
        }
        let places = place..place + count;
        let drafts: Vec<_> = places.map(|place| plan::draft(&mut self.random, place)).collect();
        self.note(|_| format!("publish {:?}", drafts.iter().map(short).collect::<Vec<_>>()));
        let engine = &self.running().engine;
        let receipt = match &drafts[..] {
            [draft] => engine.publish(draft.event()).map(Waiting::One),
            drafts => {
                let events = drafts.iter().map(plan::Draft::event).collect();
                engine.publish_many(events).map(Waiting::Many)
            }
        };
        self.model.admitted(drafts, receipt.map_err(|refused| refused.error));
    }

    fn publish_again(&mut self) {
        let place = self.model.events.len();
        let with = |there: Presence| {
            let events = self.model.events.iter().filter(move |event| event.there == there);
            events.map(|event| &event.draft).filter(|draft| draft.dedup.is_some())
        };
        // With two uncertain ones it would be unknown which of them a third repeats.
        let alone = |draft: &&plan::Draft| {
            with(Presence::Maybe).filter(|other| other.dedup == draft.dedup).count() == 1
        };
        let doubtful: Vec<_> = with(Presence::Maybe).filter(alone).collect();
        let known = if doubtful.is_empty() { with(Presence::Yes).collect() } else { doubtful };
        if known.is_empty() {
            return;
        }
        let draft = known[self.random.place(known.len())].clone();
        if place >= EVENTS_MAX + 20 {
            return;
        }
        let payload = format!("{place} again");
        let draft = plan::Draft { payload, ..draft };
        self.note(|_| format!("publish again {}", short(&draft)));
        let receipt = self.running().engine.publish(draft.event()).map(Waiting::One);
        self.model.admitted(vec![draft], receipt.map_err(|refused| refused.error));
    }

    /// Returns whether there was anything to commit.
    pub fn commit(&mut self, everything: bool) -> bool {
        let mut groups = 0;
        // Each group has at least one event. Maintenance may wait for time to pass and always report work.
        let groups_max = self.model.queue.len() + 20;
        while self.running().stepped.commit().expect("a device that works") {
            groups += 1;
            if !everything || groups > groups_max {
                break;
            }
        }
        if self.disk.is_cut() {
            return true;
        }
        self.note(|_| format!("{groups} groups are committed"));
        self.model.committed(everything);
        groups > 0
    }

    fn complete_one(&mut self) {
        let now_ms = self.now_ms();
        let ready = self.in_flight.iter().enumerate().filter(|(_, one)| one.ends_ms <= now_ms);
        let ready: Vec<usize> = ready.map(|(place, _)| place).collect();
        if !ready.is_empty() {
            let place = self.random.pick(&ready);
            return self.complete(place);
        }
        if let Some(ends_ms) = self.in_flight.iter().map(|one| one.ends_ms).min() {
            self.pass_ms(ends_ms - now_ms);
            if !self.random.one_in(3) {
                self.tick();
            }
        }
    }

    fn pass(&mut self) {
        let now_ms = self.now_ms();
        let stepped = &self.running().stepped;
        let wake_ms = stepped.next_wake_ms().unwrap_or(now_ms);
        let expiry_ms = stepped.next_expiry_ms().unwrap_or(now_ms);
        let span_ms = match self.random.below(8) {
            0 | 1 => wake_ms.saturating_sub(now_ms).min(60_000),
            2 => self.random.below(4_000),
            3 => self.long_ms(expiry_ms.saturating_sub(now_ms)),
            _ => self.random.below(60),
        };
        self.pass_ms(span_ms);
        if !self.random.one_in(4) {
            self.tick();
        }
    }

    /// A long time, as a rule up to when something may end by its age. All of them together are within the window of
    /// dedup keys.
    fn long_ms(&mut self, expiry_ms: u64) -> u64 {
        let hours = self.random.within(1, 30) * 3_600_000;
        let span_ms = self.random.pick(&[expiry_ms, expiry_ms, expiry_ms + 11_000, hours]);
        let span_ms = span_ms.min(self.long_left_ms);
        self.long_left_ms -= span_ms;
        span_ms
    }

    pub fn subscribe_another(&mut self) {
        if self.others().len() >= 7 {
            return;
        }
        self.names += 1;
        let name = format!("s{}", self.names);
        self.version += 1;
        let account = self.random.pick(&plan::ACCOUNTS).0;
        let mut terms = plan::terms(&mut self.random, account, &name, self.version);
        terms.policy.after = self.draw_main(account, None);
        let behavior = self.random.weighted(&BEHAVIORS);
        self.behaviors.insert(name, behavior);
        self.subscribe(terms);
    }

    pub fn subscribe(&mut self, terms: Terms) {
        self.note(|world| format!("subscribe {terms:?}, {:?}", world.behaviors.get(&terms.name)));
        let id = self.running().engine.subscribe(terms.subscription()).unwrap();
        if self.disk.is_cut() {
            self.model.creating = Some(terms);
            return;
        }
        let sub = Sub::new(terms);
        assert!(self.model.subs.insert(id.0, sub).is_none(), "the id {id} was given twice");
    }

    /// The host registers a name again, with another URL and policy.
    fn change(&mut self) {
        let ids = self.others();
        if ids.is_empty() {
            return;
        }
        let id = self.random.pick(&ids);
        self.renew(id);
    }

    pub fn renew(&mut self, id: u32) {
        self.version += 1;
        let Terms { name, account, .. } = self.model.subs[&id].terms.clone();
        let mut terms = plan::terms(&mut self.random, account, &name, self.version);
        terms.policy.after = self.draw_main(account, Some(id));
        self.note(|_| format!("subscribe {id} anew: {terms:?}"));
        let given = self.running().engine.subscribe(terms.subscription()).unwrap();
        assert_eq!(given, SubscriptionId(id), "a name keeps its id");
        let cut = self.disk.is_cut();
        if cut {
            let sub = self.model.subs.get_mut(&id).unwrap();
            sub.lane.may_be_cleared();
            let paused = sub.state == SubscriptionState::Paused;
            sub.instead.push((
                terms,
                if paused { SubscriptionState::Paused } else { SubscriptionState::Active },
            ));
            return;
        }
        self.model.changed(id, terms, self.clocks());
        // It waits until the cleared health is durable, and so is everything queued before it.
        self.model.committed(true);
        self.model.go_on_first(id);
    }

    /// The subscription to depend on, if there is to be one.
    fn draw_main(&mut self, account: &str, own: Option<u32>) -> Option<SubscriptionId> {
        let is_main = own.is_some_and(|own| !self.model.dependents_of(own).is_empty());
        let may_be = self
            .model
            .subs
            .iter()
            .filter(|(id, sub)| !sub.removed && sub.main().is_none() && Some(**id) != own)
            .filter(|(_, sub)| sub.terms.account == account);
        let may_be: Vec<u32> = may_be.map(|(id, _)| *id).collect();
        let draws = self.random.one_in(3) && !is_main && !may_be.is_empty();
        draws.then(|| SubscriptionId(self.random.pick(&may_be)))
    }

    fn pause(&mut self) {
        let ids = self.others();
        if ids.is_empty() {
            return;
        }
        let id = self.random.pick(&ids);
        self.note(|_| format!("pause {id}"));
        self.running().engine.pause(SubscriptionId(id)).unwrap();
        let cut = self.disk.is_cut();
        let sub = self.model.subs.get_mut(&id).unwrap();
        match (sub.state, cut) {
            (SubscriptionState::Disabled, _) => {}
            (_, true) => sub.instead.push((sub.terms.clone(), SubscriptionState::Paused)),
            (_, false) => sub.state = SubscriptionState::Paused,
        }
    }

    fn resume_one(&mut self) {
        let ids = self.held_back();
        if !ids.is_empty() {
            let id = self.random.pick(&ids);
            self.resume(id);
        }
    }

    fn resume(&mut self, id: u32) {
        self.note(|_| format!("resume {id}"));
        self.running().engine.resume(SubscriptionId(id)).unwrap();
        if self.disk.is_cut() {
            let sub = self.model.subs.get_mut(&id).unwrap();
            sub.lane.may_be_cleared();
            sub.instead.push((sub.terms.clone(), SubscriptionState::Active));
            return;
        }
        self.model.resumed(id, self.clocks());
        // It waits until the cleared health is durable, and so is everything queued before it.
        self.model.committed(true);
    }

    fn unsubscribe(&mut self) {
        let ids = self.others();
        if ids.len() < 2 {
            return;
        }
        let id = self.random.pick(&ids);
        self.note(|_| format!("unsubscribe {id}"));
        self.model.subs.get_mut(&id).unwrap().removing = true;
        self.running().engine.unsubscribe(SubscriptionId(id)).unwrap();
        if self.disk.is_cut() {
            return;
        }
        self.model.committed(true);
        let mut told = self.told();
        self.model.removed(id, &mut told);
        self.account_for(told);
    }

    fn replay(&mut self) {
        let letters = self
            .running()
            .engine
            .dead_letters(&Default::default(), None, usize::MAX)
            .unwrap()
            .items;
        if self.disk.is_cut() {
            return;
        }
        // The list waits for what ended before.
        self.model.settled();
        if letters.is_empty() {
            return;
        }
        let letter = self.random.pick(&letters);
        if self.random.one_in(3) {
            let filter = DeadLetterFilter::default().subscription(letter.subscription);
            return self.replay_matching(&filter, &letters);
        }
        let key = self.model.key_of(&letter);
        self.note(|_| format!("replay {key:?}"));
        let replayed = self.running().engine.replay(&letter);
        if self.model.subs[&key.1].removed {
            let error = replayed.expect_err("nobody is there to be owed it");
            assert!(matches!(error, Error::NotFound { what: "subscription", .. }), "{error}");
            return;
        }
        replayed.unwrap();
        let keys = self.model.with_dependents(key);
        if self.disk.is_cut() {
            self.model.replaying(&keys);
            self.model.together.push(keys);
            return;
        }
        self.model.committed(true);
        self.model.replayed(&keys);
    }

    fn purge(&mut self) {
        let number = self.random.pick(&plan::NUMBERS);
        let account = plan::account_of(number);
        let contact = format!("contact-{}", self.random.below(3));
        let (filter, meant): (PurgeFilter, IsMeant) = match self.random.below(4) {
            0 => (
                PurgeFilter::default().account(account),
                Box::new(move |draft| plan::account_of(draft.number) == account),
            ),
            1 => (
                PurgeFilter::default().number(number.parse().unwrap()),
                Box::new(move |draft| draft.number == number),
            ),
            _ => (
                PurgeFilter::default().account(account).contact(contact.clone()),
                Box::new(move |draft| {
                    let is_theirs = plan::account_of(draft.number) == account;
                    is_theirs && draft.key.as_ref() == Some(&contact)
                }),
            ),
        };
        self.note(|_| format!("purge {filter:?}"));
        let before = self.running().engine.stats();
        let purged = self.running().engine.purge(&filter).unwrap().deliveries;
        if self.disk.is_cut() {
            self.model.purging(&*meant);
            return;
        }
        self.model.committed(true);
        let after = self.running().engine.stats();
        let mut told = self.told();
        self.model.purged(&*meant, (&before, &after), purged, &mut told);
        self.account_for(told);
        // An order that begins now waits for the attempts that the purge left in flight.
        let mut left = self.others();
        left.retain(|id| self.in_flight.iter().any(|one| one.key.1 == *id));
        if !left.is_empty() && self.random.one_in(2) {
            let id = self.random.pick(&left);
            self.renew(id);
        }
    }

    fn replay_matching(&mut self, filter: &DeadLetterFilter, letters: &[DeadLetter]) {
        self.note(|_| format!("replay all of {filter:?}"));
        let count = self.running().engine.replay_matching(filter).unwrap();
        let admitted = letters.iter().filter(|letter| filter.admits(letter));
        let keys = admitted.map(|letter| self.model.key_of(letter));
        let there = keys.filter(|key| !self.model.subs[&key.1].removed);
        let wholes: Vec<Vec<Key>> = there.map(|key| self.model.with_dependents(key)).collect();
        let keys: BTreeSet<Key> = wholes.iter().flatten().copied().collect();
        let keys: Vec<Key> = keys.into_iter().collect();
        assert_eq!(count, keys.len() as u64, "replayed of {keys:?}");
        if self.disk.is_cut() {
            self.model.replaying(&keys);
            self.model.together.extend(wholes);
            return;
        }
        if keys.is_empty() {
            return self.model.settled();
        }
        self.model.committed(true);
        self.model.replayed(&keys);
    }
}

fn short(draft: &plan::Draft) -> String {
    let plan::Draft { kind, number, key, dedup, payload } = draft;
    let place = payload.split(' ').next().unwrap_or_default();
    format!("{place} {kind} {number} {key:?} {dedup:?} {} bytes", payload.len())
}

/// The end of a seed. Every endpoint works, so everything owed must be delivered.
impl World {
    pub fn recover_everybody(&mut self) {
        self.behaviors.values_mut().for_each(|behavior| *behavior = Behavior::Fast);
        self.note(|_| "everybody is well from now on".to_owned());
    }

    /// The host registers it again, or resumes it.
    fn serve_again(&mut self, id: u32) {
        let is_paused = self.model.subs[&id].state == SubscriptionState::Paused;
        if is_paused || self.random.one_in(2) { self.resume(id) } else { self.renew(id) }
    }

    pub fn drain(&mut self) {
        self.recover_everybody();
        let mut turns_left = 300 + 30 * self.model.deliveries.len();
        loop {
            self.held_back().into_iter().for_each(|id| self.serve_again(id));
            self.commit(true);
            self.pump();
            while let Some(place) = self.ready_to_end() {
                self.complete(place);
            }
            self.check();
            let stats = self.running().engine.stats();
            if stats.owed == 0 && self.in_flight.is_empty() {
                break;
            }
            if !self.held_back().is_empty() {
                continue;
            }
            turns_left -= 1;
            assert!(turns_left > 0, "not served in time: {:?}", self.model.unfinished());
            let wake_ms = self.running().stepped.next_wake_ms();
            let ends_ms = self.in_flight.iter().map(|one| one.ends_ms).min();
            let next_ms = wake_ms.into_iter().chain(ends_ms).min();
            // The end of a main delivery releases its dependents when it is durable.
            if next_ms.is_none() && self.commit(true) {
                continue;
            }
            let next_ms = next_ms.unwrap_or_else(|| {
                panic!("nothing will ever happen to {:?}", self.model.unfinished())
            });
            self.pass_ms(next_ms.saturating_sub(self.now_ms()));
        }
        self.commit(true);
        assert_eq!(self.model.unfinished(), [], "owed, but not by the engine");
        self.check();
        self.model.finish();
    }

    /// What has ended is not owed again.
    pub fn reopen_at_the_end(&mut self) {
        let image = self.disk.cut_now(0);
        self.crash(image);
        self.check();
        assert_eq!(self.running().engine.stats().owed, 0, "what had ended is owed again");
    }
}
