//! The simulated world: engine, disk, clock and receivers. Everything comes from the seed and happens
//! one step at a time on one thread, so a seed repeats exactly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wabahook::clock::{Clock, ManualClock};
use wabahook::store::Memory;
use wabahook::testing::{BegunAttempt, LayeredStore, Stepped};
use wabahook::{
    Account, Config, Engine, Error, Limits, Notice, Notices, Reply, Shortage, SubscriptionState,
};

use super::disk::Disk;
use super::endpoint::{BEHAVIORS, Behavior};
use super::lane::PAUSE_MAX_MS;
use super::model::{Key, Model, Sub};
use super::plan;
use super::random::Random;
use wabahook::testing::ScriptedTransport;

/// What happened, in words, for the replay of a seed.
pub type Trace = Arc<Mutex<Vec<String>>>;

pub struct World {
    pub random: Random,
    pub clock: Arc<ManualClock>,
    pub disk: Disk,
    pub line: Arc<ScriptedTransport>,
    pub limits: Limits,
    pub running: Option<Running>,
    pub model: Model,
    /// How the receivers behave, by the name of their subscription.
    pub behaviors: BTreeMap<String, Behavior>,
    pub in_flight: Vec<Flying>,
    pub names: u32,
    pub version: u32,
    /// By how much the wall clock may still jump without any dedup key leaving its window.
    pub jumps_left_ms: u64,
    /// For how long the seed may still pass time at a stretch, for the same reason.
    pub long_left_ms: u64,
    pub trace: Trace,
    /// Whether this engine met a shortage that lets it start fewer attempts, and until when it may pause.
    had_shortage: bool,
    calm_at_ms: u64,
    /// Until when nothing may start after it.
    paused_until_ms: u64,
}

pub struct Running {
    pub engine: Engine,
    pub stepped: Stepped,
    pub notices: Notices,
}

/// An attempt in flight, with what its receiver will answer and when.
pub struct Flying {
    begun: BegunAttempt,
    pub key: Key,
    name: String,
    pub ends_ms: u64,
    reply: Reply,
    /// Whether its lane was proven when it started.
    is_proven: bool,
}

fn is_bystander(name: &str) -> bool {
    name.starts_with("bystander")
}

/// The first subscription of every world, which nothing may delay.
const BYSTANDER: u32 = 1;

/// For how long nothing starts after a shortage of files, at least.
const PAUSE_MIN_MS: u64 = 50;

const BEGIN_WALL_MS: u64 = 1_700_000_000_000;

impl World {
    pub fn new(seed: u64, trace: Trace) -> World {
        let mut random = Random::new(seed);
        let limits = plan::limits(&mut random);
        let clock = Arc::new(ManualClock::new(BEGIN_WALL_MS, random.bits()));
        let disk = Disk::new(Memory::default());
        let clocks = (clock.monotonic_ms(), clock.wall_ms());
        let model = Model { limits: limits.clone(), clocks, ..Model::default() };
        let mut world = World {
            random,
            clock,
            disk,
            line: Arc::default(),
            limits,
            running: None,
            model,
            behaviors: BTreeMap::new(),
            in_flight: Vec::new(),
            names: 0,
            version: 0,
            jumps_left_ms: 8 * 3_600_000,
            long_left_ms: 4 * 24 * 3_600_000,
            trace,
            had_shortage: false,
            calm_at_ms: 0,
            paused_until_ms: 0,
        };
        world.note(|world| format!("{:?}", world.limits));
        world.open();
        for terms in plan::bystanders() {
            world.behaviors.insert(terms.name.clone(), Behavior::Fast);
            world.subscribe(terms);
        }
        for _ in 0..world.random.within(1, 5) {
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

    /// Opens an engine on what the disk holds, again after each power cut during the open.
    pub fn open(&mut self) {
        loop {
            let config = Config::new("unused")
                .store(Arc::new(LayeredStore(self.disk.clone())))
                .clock(Arc::clone(&self.clock) as Arc<dyn Clock>)
                .transport(Arc::clone(&self.line) as Arc<_>)
                .limits(self.limits.clone());
            let account = |config: Config, (name, waba, numbers): (&str, &str, &[&str])| {
                config.account(Account::new(name).waba(waba, numbers))
            };
            let config = plan::ACCOUNTS.into_iter().fold(config, account);
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

    /// Cuts the power, or lets another owner take over, and opens the next engine on what is left. The old engine
    /// may go on for a step, as a process that was stopped does, and can write nothing.
    pub fn crash(&mut self, image: Memory) {
        self.disk.fence();
        if let Some(old) = self.running.take() {
            let ended = old.stepped.commit();
            assert!(matches!(ended, Ok(_) | Err(Error::NotOwner)), "{ended:?}");
        }
        self.in_flight.clear();
        (self.had_shortage, self.paused_until_ms) = (false, 0);
        self.model.crash();
        self.disk = Disk::new(image);
        if self.random.one_in(4) {
            let (operations, kept) = (self.random.within(1, 8), self.random.place(3));
            self.disk.cut_after(operations, kept);
        }
        if self.random.one_in(3) {
            self.jump();
        }
        self.open();
        let engine = &self.running().engine;
        let letters = engine.dead_letters(&Default::default(), None, usize::MAX).unwrap().items;
        let (registered, stats) = (engine.subscriptions(), engine.stats());
        self.model.reopened(&registered, &letters, &stats, self.clocks());
    }

    /// The notices since the last step.
    pub fn told(&self) -> Vec<Notice> {
        std::iter::from_fn(|| self.running().notices.try_next()).collect()
    }

    /// Fails on notices that nothing explains.
    pub fn account_for(&self, told: Vec<Notice>) {
        let unknown = told.into_iter().find(|n| !matches!(n, Notice::BoundReached { .. }));
        assert_eq!(unknown, None, "a notice that nothing explains");
    }

    pub fn check(&mut self) {
        self.account_for(self.told());
        let stats = self.running().engine.stats();
        self.model.check(&stats);
        assert_eq!(stats.in_flight as usize, self.in_flight.len());
        let threads_max = self.in_flight_max().max(2) as u64;
        assert!(stats.transport_threads <= threads_max, "{} threads", stats.transport_threads);
    }
}

/// Attempts.
impl World {
    /// An idle worker takes an attempt, if one is ready.
    pub fn begin(&mut self) -> bool {
        let waiting = self.model.startable(self.now_ms());
        let startable = self.model.startable_of(BYSTANDER, self.now_ms());
        let begun = self.running().stepped.begin();
        begun.is_some_and(|begun| {
            self.begun(begun, startable.is_some());
            self.check_share(&waiting);
            true
        })
    }

    fn begun(&mut self, begun: BegunAttempt, bystander_ready: bool) {
        let arrival = self.line.take().pop().unwrap_or_else(|| panic!("not sent: {begun:?}"));
        let now_ms = self.now_ms();
        assert!(now_ms >= self.paused_until_ms, "an attempt starts right after a shortage");
        let key = self.model.started(&arrival, now_ms);
        self.pass_over(key, bystander_ready);
        let name = self.model.subs[&key.1].terms.name.clone();
        let behavior = self.behaviors[&name];
        let answer = behavior.answer(&mut self.random, arrival.timeout.as_millis() as u64);
        let ends_ms = now_ms + answer.after_ms;
        self.note(|_| {
            let reply = &answer.reply;
            format!("{key:?} of {name} attempt {} will be {reply:?} at {ends_ms}", arrival.attempt)
        });
        let is_proven = self.model.subs[&key.1].lane.is_proven;
        let reply = answer.reply;
        self.in_flight.push(Flying { begun, key, name, ends_ms, reply, is_proven });
        let account = |id: u32| self.model.subs[&id].terms.account;
        let unproven = || self.in_flight.iter().filter(|one| !one.is_proven);
        let own = unproven().filter(|one| account(one.key.1) == account(key.1)).count();
        let is_alone = |(id, sub): (&u32, &Sub)| sub.removed || account(*id) == account(key.1);
        let own_max = match self.model.subs.iter().all(is_alone) {
            true => self.unproven_max(),
            false => self.unproven_max().div_ceil(2),
        };
        let unproven = unproven().count();
        assert!(
            is_proven || unproven <= self.unproven_max() && own <= own_max,
            "{unproven} unproven in flight, {own} of its account"
        );
        assert!(self.in_flight.len() <= self.in_flight_max(), "{} in flight", self.in_flight.len());
    }

    /// No account starts an attempt above its share while another one waits below its own (I4).
    fn check_share(&self, waiting: &[Key]) {
        let Some((started, before)) = self.in_flight.split_last() else { return };
        let sub = |key: &Key| &self.model.subs[&key.1];
        let load =
            |account| before.iter().filter(|one| sub(&one.key).terms.account == account).count();
        let (most, account) = (self.in_flight_max(), sub(&started.key).terms.account);
        let share = (most / plan::ACCOUNTS.len()).max(1);
        // Without room a prompt lane uses the part that is kept for such lanes.
        let has_room = before.len() < most - most / 16 && !self.had_shortage;
        if !has_room || load(account) < share {
            return;
        }
        let passed_over = waiting.iter().find(|key| {
            let of = sub(key).terms.account;
            of != account && load(of) < share && sub(key).lane.is_proven
        });
        assert_eq!(passed_over, None, "{:?} starts above its share", started.key);
    }

    /// Counts how long the lane that nothing may delay waits for its turn.
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
        self.tick();
        while self.begin() {
            self.tick();
        }
        self.check_nobody_waits();
    }

    pub fn tick(&mut self) {
        self.model.rests_may_be_cut();
        self.running().stepped.tick();
        let mut told = self.told();
        self.model.expired(&mut told);
        self.account_for(told);
    }

    fn in_flight_max(&self) -> usize {
        self.limits.in_flight_max.expect("the plan draws one")
    }

    /// How many attempts to unproven endpoints may be in flight.
    fn unproven_max(&self) -> usize {
        let most = self.in_flight_max();
        (most - most / 4).max(1)
    }

    /// While there is room, no lane waits that could be served, and a proven one has a part of its own (I4).
    fn check_nobody_waits(&self) {
        let waiting = self.model.startable(self.now_ms());
        if self.had_shortage {
            let is_calm = self.in_flight.is_empty() && self.now_ms() >= self.calm_at_ms;
            assert!(!is_calm || waiting.is_empty(), "{waiting:?} wait for a shortage that is over");
            return;
        }
        let is_proven = |key: &Key| self.model.subs[&key.1].lane.is_proven;
        let account = |key: &Key| self.model.subs[&key.1].terms.account;
        for key in &waiting {
            let all = self.in_flight.len();
            let own = self.in_flight.iter().filter(|one| account(&one.key) == account(key)).count();
            // One account of several may use half.
            // A sixteenth is for prompt lanes alone.
            let most_proven = self.in_flight_max() - self.in_flight_max() / 16;
            let most = if is_proven(key) { most_proven } else { self.unproven_max() };
            let has_room = all < most && own < most.div_ceil(2);
            assert!(!has_room, "{key:?} waits beside {all} in flight, {own} of its account");
        }
    }

    /// An attempt in flight ends because the engine is short of something.
    pub fn end_short(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let place = self.random.place(self.in_flight.len());
        let Flying { begun, key, name, .. } = self.in_flight.swap_remove(place);
        let shortage = match self.random.below(4) {
            0 => Shortage::HostConnections,
            // A delivery whose attempts panic ends by its age, which the model does not count here.
            1 if self.model.ends_ms(key).0 > self.now_ms() => Shortage::Panic,
            _ => Shortage::Files,
        };
        self.note(|_| format!("{key:?} of {name} is short of {shortage}"));
        if shortage == Shortage::Files {
            (self.had_shortage, self.calm_at_ms) = (true, self.now_ms() + PAUSE_MAX_MS);
            self.paused_until_ms = self.now_ms() + PAUSE_MIN_MS;
        }
        let now_ms = self.now_ms();
        self.model.ended_short(key, shortage, now_ms);
        let next = self.running().stepped.complete_uncounted(begun, shortage);
        if let Some(next) = next {
            self.begun(next, false);
        }
    }

    /// An attempt in flight is answered.
    pub fn complete(&mut self, place: usize) {
        let in_flight = self.in_flight.swap_remove(place);
        let Flying { mut begun, key, name, reply, .. } = in_flight;
        begun.reply = reply.clone();
        self.note(|_| format!("{key:?} of {name} hears {reply:?}"));
        let next = self.running().stepped.complete(begun);
        let mut told = self.told();
        let before = self.model.subs[&key.1].state;
        self.model.ended(key, &reply, self.clocks(), &mut told);
        self.account_for(told);
        let cut = self.disk.is_cut();
        let sub = self.model.subs.get_mut(&key.1).unwrap();
        if cut && sub.state != before {
            sub.instead.push((sub.terms.clone(), before));
        }
        if let Some(next) = next {
            self.begun(next, false);
        }
    }

    pub fn ready_to_end(&self) -> Option<usize> {
        let now_ms = self.now_ms();
        self.in_flight.iter().position(|in_flight| in_flight.ends_ms <= now_ms)
    }

    pub fn pass_ms(&mut self, span_ms: u64) {
        self.clock.advance(Duration::from_millis(span_ms));
        self.model.clocks_moved(self.clocks());
    }

    /// The wall clock jumps, as after a change by an administrator or a time server.
    pub fn jump(&mut self) {
        let span_ms = self.random.pick(&[5, 3_000, 60_000, 3_600_000]).min(self.jumps_left_ms);
        self.jumps_left_ms -= span_ms;
        let wall_ms = self.clock.wall_ms();
        let back = self.random.one_in(2);
        self.note(|_| {
            format!("the wall clock jumps {span_ms} ms {}", if back { "back" } else { "on" })
        });
        self.clock.set_wall_ms(if back { wall_ms - span_ms } else { wall_ms + span_ms });
        self.model.clocks_moved(self.clocks());
    }

    pub fn change_mood(&mut self) {
        let names: Vec<String> =
            self.behaviors.keys().filter(|name| !is_bystander(name)).cloned().collect();
        if names.is_empty() {
            return;
        }
        let (name, behavior) = (self.random.pick(&names), self.random.weighted(&BEHAVIORS));
        self.note(|_| format!("{name} is {behavior:?} from now on"));
        self.behaviors.insert(name, behavior);
    }

    /// Ids of the registered subscriptions, without the bystander.
    pub fn others(&self) -> Vec<u32> {
        let there = self.model.subs.iter();
        let there = there.filter(|(_, sub)| !sub.removed && !is_bystander(&sub.terms.name));
        there.map(|(id, _)| *id).collect()
    }

    pub fn held_back(&self) -> Vec<u32> {
        let is_off = |id: &u32| self.model.subs[id].state != SubscriptionState::Active;
        self.others().into_iter().filter(is_off).collect()
    }
}
