//! Decides what happens next in a simulated world, and tells the model of it.
//!
//! Leaves to others: what that must lead to (`model`). Invariant: everything comes from the seed, one
//! step at a time on one thread, so a seed repeats exactly.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use wabahook::clock::{Clock, Manual};
use wabahook::stepping::{Begun, Stepped};
use wabahook::store::Memory;
use wabahook::{Config, Engine, Limits, Notice, Notices, Reply, State};

use super::chance::Chance;
use super::disk::Disk;
use super::endpoint::{Line, MOODS, Mood};
use super::model::{Key, Model};
use super::plan;

/// What was done, in words, for whoever replays a seed.
pub type Trace = Arc<Mutex<Vec<String>>>;

pub struct World {
    pub chance: Chance,
    pub clock: Arc<Manual>,
    pub disk: Disk,
    pub line: Arc<Line>,
    pub limits: Limits,
    pub running: Option<Running>,
    pub model: Model,
    /// How the receivers are, by the name of their subscription.
    pub moods: BTreeMap<String, Mood>,
    pub flying: Vec<Flying>,
    pub names: u32,
    pub version: u32,
    /// Wall time that jumps may still take, so that no dedup key leaves its window by them.
    pub jumps_left_ms: u64,
    pub trace: Trace,
}

pub struct Running {
    pub engine: Engine,
    pub stepped: Stepped,
    pub notices: Notices,
}

/// An attempt under way, with what its receiver will answer and when.
pub struct Flying {
    begun: Begun,
    key: Key,
    name: String,
    started_ms: u64,
    pub ends_ms: u64,
    reply: Reply,
    is_late: bool,
}

/// The first subscription of every world: nothing may hold it up.
const BYSTANDER: u32 = 1;

const BEGIN_WALL_MS: u64 = 1_700_000_000_000;

impl World {
    pub fn new(seed: u64, trace: Trace) -> World {
        let mut chance = Chance::new(seed);
        let limits = plan::limits(&mut chance);
        let clock = Arc::new(Manual::new(BEGIN_WALL_MS, chance.bits()));
        let disk = Disk::new(Memory::default());
        let model = Model { limits: limits.clone(), ..Model::default() };
        let mut world = World {
            chance,
            clock,
            disk,
            line: Arc::default(),
            limits,
            running: None,
            model,
            moods: BTreeMap::new(),
            flying: Vec::new(),
            names: 0,
            version: 0,
            jumps_left_ms: 8 * 3_600_000,
            trace,
        };
        world.note(|world| format!("{:?}", world.limits));
        world.open();
        world.subscribe(plan::bystander());
        world.moods.insert("bystander".to_owned(), Mood::Fast);
        for _ in 0..world.chance.within(1, 5) {
            world.subscribe_another();
        }
        world
    }

    pub fn now_ms(&self) -> u64 {
        self.clock.monotonic_ms()
    }

    pub fn clocks(&self) -> (u64, u64) {
        (self.clock.monotonic_ms(), self.clock.wall_ms())
    }

    pub fn note(&self, line: impl FnOnce(&World) -> String) {
        let line = format!("{:>7} ms  {}", self.now_ms(), line(self));
        self.trace.lock().push(line);
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("an engine is open")
    }

    /// Opens an engine on what the disk holds; a cut while it opens leaves another disk to open on.
    pub fn open(&mut self) {
        loop {
            let config = Config::new("unused")
                .store(Arc::new(self.disk.clone()))
                .clock(Arc::clone(&self.clock) as Arc<dyn Clock>)
                .transport(Arc::clone(&self.line) as Arc<_>)
                .limits(self.limits.clone());
            let (engine, stepped) = Stepped::open(config).expect("what a crash left opens");
            if let Some(image) = self.disk.take_image() {
                self.note(|_| "the power goes while it opens".to_owned());
                self.disk = Disk::new(image);
                continue;
            }
            let notices = engine.notices();
            self.running = Some(Running { engine, stepped, notices });
            return;
        }
    }

    /// The power goes; the next engine is opened on what is left.
    pub fn crash(&mut self, image: Memory) {
        self.running = None;
        self.flying.clear();
        self.model.crash();
        self.disk = Disk::new(image);
        if self.chance.one_in(4) {
            let (operations, kept) = (self.chance.within(1, 8), self.chance.place(3));
            self.disk.cut_after(operations, kept);
        }
        if self.chance.one_in(3) {
            self.jump();
        }
        self.open();
        let engine = &self.running().engine;
        let letters = engine.dead_letters(&Default::default(), None, usize::MAX).unwrap();
        let (registered, stats) = (engine.subscriptions(), engine.stats());
        self.model.reopened(&registered, &letters, &stats, self.clocks());
    }

    /// What the engine told since the last step.
    pub fn told(&self) -> Vec<Notice> {
        std::iter::from_fn(|| self.running().notices.try_next()).collect()
    }

    /// Whatever was told and nothing accounts for.
    pub fn account_for(&self, told: Vec<Notice>) {
        let unknown = told.into_iter().find(|n| !matches!(n, Notice::StuckBudgetSpent { .. }));
        assert_eq!(unknown, None, "a notice that nothing accounts for");
    }

    pub fn check(&mut self) {
        self.account_for(self.told());
        let stats = self.running().engine.stats();
        self.model.check(&stats);
        assert_eq!(stats.in_flight as usize, self.flying.len());
        let workers_max = (self.limits.workers_max + self.limits.stuck_max) as u64;
        assert!(stats.workers <= workers_max.max(2), "{} workers", stats.workers);
    }
}

/// Attempts.
impl World {
    /// One worker that is idle takes an attempt, if one is ready.
    pub fn begin(&mut self) -> bool {
        let startable = self.model.startable_of(BYSTANDER, self.now_ms());
        let begun = self.running().stepped.begin();
        begun.is_some_and(|begun| {
            self.begun(begun, startable.is_some());
            true
        })
    }

    fn begun(&mut self, begun: Begun, bystander_ready: bool) {
        let arrival = self.line.take().unwrap_or_else(|| panic!("not sent: {begun:?}"));
        let now_ms = self.now_ms();
        let key = self.model.started(&arrival, now_ms);
        self.pass_over(key, bystander_ready);
        let name = self.model.subs[&key.1].terms.name.clone();
        let mood = self.moods[&name];
        let answer = mood.answer(&mut self.chance, arrival.timeout_ms);
        let ends_ms = now_ms + answer.after_ms;
        self.note(|_| {
            let reply = &answer.reply;
            format!("{key:?} of {name} attempt {} will be {reply:?} at {ends_ms}", arrival.number)
        });
        let (reply, is_late) = (answer.reply, false);
        self.flying.push(Flying { begun, key, name, started_ms: now_ms, ends_ms, reply, is_late });
    }

    /// Counts how long the lane that nothing may hold up waits for its turn.
    fn pass_over(&mut self, started: Key, was_ready: bool) {
        let lanes = self.model.subs.values().filter(|sub| !sub.removed).count();
        let lane = &mut self.model.subs.get_mut(&BYSTANDER).unwrap().lane;
        lane.passed_over = match was_ready && started.1 != BYSTANDER {
            true => lane.passed_over + 1,
            false => 0,
        };
        assert!(lane.passed_over <= 2 * lanes + 2, "the bystander waits for its turn");
    }

    /// The timekeeper's turn, and then every worker's.
    pub fn pump(&mut self) {
        self.mark_time();
        while self.begin() {
            self.mark_time();
        }
        self.check_nobody_waits();
    }

    pub fn mark_time(&mut self) {
        self.running().stepped.mark_time();
        let now_ms = self.now_ms();
        let stuck_after_ms = self.limits.stuck_after_ms;
        for flying in self.flying.iter_mut().filter(|flying| !flying.is_late) {
            flying.is_late = now_ms - flying.started_ms >= stuck_after_ms;
            let sub = self.model.subs.get_mut(&flying.key.1).unwrap();
            let flies = sub.lane.flying.iter().any(|(key, _)| *key == flying.key);
            if flying.is_late && flies {
                sub.lane.turn_stuck();
            }
        }
    }

    /// With a worker to spare no lane waits that could be served (I4).
    fn check_nobody_waits(&self) {
        let Limits { workers_max, stuck_max, .. } = self.limits;
        let late = self.flying.iter().filter(|flying| flying.is_late).count();
        let working = self.flying.len() - late.min(stuck_max);
        let waiting = self.model.startable(self.now_ms());
        if let Some(key) = waiting.iter().find(|key| key.1 == BYSTANDER) {
            assert!(working >= workers_max, "the bystander's {key:?} waits, a worker being free");
        }
        let spare = self.flying.len() < workers_max.min(stuck_max.max(1));
        assert!(!spare || waiting.is_empty(), "{waiting:?} wait, a worker being free");
    }

    /// An attempt under way is answered.
    pub fn complete(&mut self, place: usize) {
        let flying = self.flying.swap_remove(place);
        let Flying { mut begun, key, name, reply, is_late, .. } = flying;
        begun.reply = reply.clone();
        self.note(|_| format!("{key:?} of {name} hears {reply:?}"));
        let next = self.running().stepped.complete(begun);
        let mut told = self.told();
        self.model.ended(key, (&reply, is_late), self.clocks(), &mut told);
        self.account_for(told);
        if let Some(next) = next {
            self.begun(next, false);
        }
    }

    pub fn ready_to_end(&self) -> Option<usize> {
        let now_ms = self.now_ms();
        self.flying.iter().position(|flying| flying.ends_ms <= now_ms)
    }

    pub fn pass_ms(&mut self, span_ms: u64) {
        self.clock.advance_ms(span_ms);
    }

    /// The wall clock jumps, as an administrator or a time server would have it.
    pub fn jump(&mut self) {
        let span_ms = self.chance.pick(&[5, 3_000, 60_000, 3_600_000]).min(self.jumps_left_ms);
        self.jumps_left_ms -= span_ms;
        let wall_ms = self.clock.wall_ms();
        let back = self.chance.one_in(2);
        self.note(|_| {
            format!("the wall clock jumps {span_ms} ms {}", if back { "back" } else { "on" })
        });
        self.clock.set_wall_ms(if back { wall_ms - span_ms } else { wall_ms + span_ms });
    }

    pub fn change_mood(&mut self) {
        let names: Vec<String> = self.moods.keys().filter(|n| *n != "bystander").cloned().collect();
        if names.is_empty() {
            return;
        }
        let (name, mood) = (self.chance.pick(&names), self.chance.weighted(&MOODS));
        self.note(|_| format!("{name} is {mood:?} from now on"));
        self.moods.insert(name, mood);
    }

    /// Ids of subscriptions that are there, the bystander aside.
    pub fn others(&self) -> Vec<u32> {
        let there = self.model.subs.iter();
        let there = there.filter(|(_, sub)| !sub.removed && sub.terms.name != "bystander");
        there.map(|(id, _)| *id).collect()
    }

    pub fn disabled(&self) -> Vec<u32> {
        let is_off = |id: &u32| self.model.subs[id].state != State::Active;
        self.others().into_iter().filter(is_off).collect()
    }
}
