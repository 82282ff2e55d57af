//! Deliveries while the device refuses writes: they continue as long as their results fit into memory,
//! an attempt that cannot read its event does not count, and all continue when writes succeed again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use wabahook::clock::ManualClock;
use wabahook::policy::{Breaker, Policy, Retry};
use wabahook::store::{Database, FaultInjectingStore, FaultPlan, Memory, Store, StoreFailure};
use wabahook::testing::{LayeredStore, ScriptedReply, StoreLayer};
use wabahook::{Error, Event, Limits, Notice, Notices};

use crate::world::{BEGIN_WALL_MS, DEADLINE, World, quick};

/// Publishes an event that the device refuses.
fn refused(world: &World) {
    let event = Event::new("ADD_TAG", "lost").number("919999999999");
    let told = world.engine.publish(event).unwrap().wait_timeout(DEADLINE).unwrap();
    assert!(matches!(told, Err(Error::Unknown { .. })), "{told:?}");
}

/// Waits for a notice, and returns the earlier ones.
fn told(notices: &Notices, is_it: fn(&Notice) -> bool) -> Vec<Notice> {
    let mut before = Vec::new();
    loop {
        let next = notices.next_timeout(DEADLINE).expect("it is told in time");
        if is_it(&next) {
            return before;
        }
        before.push(next);
    }
}

#[test]
fn deliveries_continue_until_too_many_results_wait() {
    let bounds = Limits::default().queue_events_max(3).in_flight_max(Some(2));
    let (world, faults) = World::faulty(|config| config.limits(bounds));
    let notices = world.engine.notices();
    let breaker = Breaker::default().failures(None);
    let retry =
        Retry::Linear { step: Duration::from_millis(1_000), max: Duration::from_millis(3_000) };
    let unbroken = Policy::default().breaker(breaker).retry(retry);
    world.engine.subscribe(quick("first").policy(unbroken)).unwrap();
    world.subscribe("bystander");
    let mut script = vec![ScriptedReply::Status(503); 20];
    script.push(ScriptedReply::Status(200));
    world.receivers.script("first", &script);
    for n in 0..20 {
        world.publish("ADD_TAG", &n.to_string());
    }
    world.wait_until(|stats| (stats.retried, stats.delivered) == (20, 20));
    faults.fail_after(0);
    refused(&world);
    told(&notices, |notice| matches!(notice, Notice::Stalled { .. }));
    // Now all are due at once.
    world.clock.advance(Duration::from_millis(1_000));
    world.receivers.wait_for("first", 23);
    let again = notices.next_timeout(Duration::from_millis(300));
    assert!(again.is_none(), "{again:?}");
    let arrived = world.receivers.at("first").len();
    assert!(arrived <= 20 + 3 + 2, "{arrived} attempts, of which 20 before the refusal");
    faults.heal();
    told(&notices, |notice| matches!(notice, Notice::Resumed));
    let arrivals = world.receivers.wait_for("first", 40);
    assert!(arrivals[20..].iter().all(|arrival| arrival.attempt == 2), "each once more");
    let stats = world.wait_until(|stats| stats.owed == 0);
    assert_eq!((stats.attempts, stats.dead, stats.delivered), (60, 0, 40));
    assert_eq!(world.receivers.at("bystander").len(), 20, "it had its events and gets each once");
}

/// A store whose reads of payloads can be held, and then fail.
#[derive(Debug, Default)]
struct Reads {
    mode: Mutex<Mode>,
    changed: Condvar,
    held: AtomicBool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Mode {
    #[default]
    Passing,
    Held,
    Failing,
}

impl Reads {
    fn set(&self, mode: Mode) {
        *self.mode.lock() = mode;
        self.changed.notify_all();
    }

    /// Waits until a read is held.
    fn wait_for_one(&self) {
        let mut mode = self.mode.lock();
        let none_held = |_: &mut Mode| !self.held.load(Ordering::Acquire);
        let late = self.changed.wait_while_for(&mut mode, none_held, DEADLINE).timed_out();
        assert!(!late, "nothing was read in time");
    }

    fn meet(&self) -> Result<(), StoreFailure> {
        let mut mode = self.mode.lock();
        if *mode == Mode::Held {
            self.held.store(true, Ordering::Release);
            self.changed.notify_all();
        }
        self.changed.wait_while(&mut mode, |mode| *mode == Mode::Held);
        match *mode {
            Mode::Failing => Err(StoreFailure::io(std::io::Error::other("no reads either"))),
            _ => Ok(()),
        }
    }
}

#[derive(Clone)]
struct Slow(Arc<dyn Store>, Arc<Reads>);

impl StoreLayer for Slow {
    fn inner(&self) -> &dyn Store {
        &*self.0
    }

    fn get(&self, from: &dyn Database, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFailure> {
        if key.starts_with(b"p") {
            self.1.meet()?;
        }
        from.get(key)
    }
}

#[test]
fn an_attempt_without_its_event_does_not_count() {
    let (memory, faults) = (Memory::default(), Arc::new(FaultPlan::default()));
    let reads = Arc::new(Reads::default());
    let faulty = Arc::new(FaultInjectingStore::new(Arc::new(memory.clone()), Arc::clone(&faults)));
    let slow = Arc::new(LayeredStore(Slow(faulty, Arc::clone(&reads))));
    let clock = Arc::new(ManualClock::new(BEGIN_WALL_MS, 11));
    let limits = Limits::default().cache_bytes_max(0);
    let world = World::on(memory, clock, |config| config.store(slow).limits(limits));
    let notices = world.engine.notices();
    // If it counted, it would be the last.
    let retry =
        Retry::Linear { step: Duration::from_millis(1_000), max: Duration::from_millis(3_000) };
    let once = Policy::default().retry(retry).attempts_max(Some(1));
    for host in ["first", "bystander"] {
        world.engine.subscribe(quick(host).policy(once.clone())).unwrap();
    }
    reads.set(Mode::Held);
    let kept = world.publish("ADD_TAG", "one");
    reads.wait_for_one();
    faults.fail_after(0);
    refused(&world);
    told(&notices, |notice| matches!(notice, Notice::Stalled { .. }));
    reads.set(Mode::Failing);
    let again = notices.next_timeout(Duration::from_millis(300));
    assert!(again.is_none(), "a read that fails now is no news: {again:?}");
    assert_eq!((world.engine.stats().attempts, world.engine.stats().dead), (0, 0));
    reads.set(Mode::Passing);
    faults.heal();
    let between = told(&notices, |notice| matches!(notice, Notice::Resumed));
    assert!(between.is_empty(), "{between:?}");
    for host in ["first", "bystander"] {
        let arrivals = world.receivers.wait_for(host, 1);
        assert_eq!((arrivals[0].attempt, &arrivals[0].id), (1, &kept.id.to_string()));
    }
    let stats = world.wait_until(|stats| stats.owed == 0);
    assert_eq!((stats.attempts, stats.dead, stats.delivered), (2, 0, 2));
}
