//! The scenario, and what its host does when the device refuses. The model learns of every call
//! before it is made, and of every result after it arrived.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use wabahook::clock::ManualClock;
use wabahook::store::{FaultInjectingStore, FaultPlan, Memory, Store};
use wabahook::testing::LayeredStore;
use wabahook::{Accepted, Config, Engine, Error, Event, Limits, Notice, Notices, Stats};

use super::Fault;
use super::model::{
    BYSTANDER, Call, CallResult, HOSTS, LEAVER, Model, Receivers, event, subscription,
};
use super::snapshots::{SnapshotStore, Snapshots};
use crate::world::{BEGIN_WALL_MS, DEADLINE};

/// One run of the scenario.
pub struct Run {
    pub store: Arc<FaultInjectingStore>,
    pub memory: Memory,
    pub faults: Arc<FaultPlan>,
    pub snapshots: Arc<Snapshots>,
    pub clock: Arc<ManualClock>,
    pub receivers: Arc<Receivers>,
    pub model: Arc<Mutex<Model>>,
    pub engine: Engine,
    pub notices: Notices,
    /// Operations after healing until the device fails once more.
    pub again_after: Option<u64>,
}

pub fn config(store: Arc<dyn Store>, clock: Arc<ManualClock>, receivers: Arc<Receivers>) -> Config {
    let (generation_bytes, dedup_window_ms) = (20_000, 24_000_000);
    let limits = Limits::default()
        .generation_bytes(generation_bytes)
        .dedup_window(Duration::from_millis(dedup_window_ms))
        .in_flight_max(Some(2));
    Config::new("unused").store(store).clock(clock).transport(receivers.transport()).limits(limits)
}

impl Run {
    /// Opens an engine. Operations are counted from here on, and snapshots are kept of those `wanted`.
    pub fn begin(fault: Fault, wanted: std::ops::Range<u64>) -> Run {
        let (memory, faults) = (Memory::default(), Arc::new(FaultPlan::default()));
        let (receivers, model) = (Arc::new(Receivers::default()), Arc::default());
        let snapshots = Arc::new(Snapshots {
            memory: memory.clone(),
            wanted,
            seen: AtomicU64::new(0),
            model: Arc::clone(&model),
            receivers: Arc::clone(&receivers),
            snapshots: Mutex::default(),
        });
        let inner = memory.clone();
        let watched = SnapshotStore { inner, snapshots: Arc::clone(&snapshots) };
        let watched = Arc::new(LayeredStore(watched));
        let store = Arc::new(FaultInjectingStore::new(watched, Arc::clone(&faults)));
        let clock = Arc::new(ManualClock::new(BEGIN_WALL_MS, 11));
        let config = config(store.clone(), clock.clone(), receivers.clone());
        let engine = Engine::open(config).unwrap();
        match fault {
            Fault::None => {}
            Fault::At(k) | Fault::Twice(k, _) => faults.fail_after(k),
            Fault::AnswerLost(k) => faults.fail_after_effect(k),
            Fault::LandsLate(k) => faults.fail_after_late(k),
        }
        let again_after = if let Fault::Twice(_, after) = fault { Some(after) } else { None };
        let notices = engine.notices();
        Run {
            store,
            memory,
            faults,
            snapshots,
            clock,
            receivers,
            model,
            engine,
            notices,
            again_after,
        }
    }

    pub fn play(&mut self) -> Result<(), String> {
        for host in HOSTS {
            self.subscribe(host)?;
        }
        self.publish("a.0")?;
        let first = self.publish("key.1")?;
        self.publish_many("b", 20)?;
        self.let_arrive()?;
        self.unsubscribe_the_leaver()?;
        self.let_arrive()?;
        let second = self.publish("key.1")?;
        if let (Some(first), Some(second)) = (first, second)
            && (first.id != second.id || !second.duplicate)
        {
            return Err(format!("{first:?} again is {second:?}"));
        }
        self.publish_many("c", 20)?;
        self.let_arrive()?;
        self.publish("d.0")?;
        self.publish("d.1")?;
        self.let_arrive()?;
        self.clock.advance(Duration::from_millis(30_000_000));
        self.publish("e.0")?;
        self.let_arrive()?;
        self.reopen()?;
        self.publish_many("f", 12)?;
        self.publish("key.2")?;
        self.let_arrive()?;
        *self.receivers.takes_all.lock() = true;
        self.heal()?;
        self.publish("g.0")?;
        self.let_arrive()
    }

    pub fn subscribe(&mut self, host: &str) -> Result<(), String> {
        for _ in 0..4 {
            match self.engine.subscribe(subscription(host)) {
                Ok(_) => {
                    self.model.lock().subscribed.insert(host.to_owned());
                    return Ok(());
                }
                Err(Error::Store { .. }) => {
                    self.heal()?;
                }
                Err(error) => return Err(format!("subscribe {host}: {error}")),
            }
        }
        Err(format!("{host} could not be subscribed on a sound device"))
    }

    pub fn unsubscribe_the_leaver(&mut self) -> Result<(), String> {
        self.model.lock().removing = true;
        self.model.lock().subscribed.remove(LEAVER);
        for _ in 0..4 {
            let subscriptions = self.engine.subscriptions();
            let Some(leaver) = subscriptions.iter().find(|one| one.name == LEAVER) else {
                break;
            };
            if self.engine.unsubscribe(leaver.id).is_ok() {
                break;
            }
            self.heal()?;
        }
        self.model.lock().removed = true;
        Ok(())
    }

    pub fn publish(&mut self, tag: &str) -> Result<Option<Accepted>, String> {
        let accepted = self.call(vec![tag.to_owned()], |engine| {
            let receipt = engine.publish(event(tag))?;
            receipt.wait_timeout(DEADLINE).ok_or(Error::Closed)?.map(|accepted| vec![accepted])
        });
        accepted.map(|accepted| accepted.and_then(|all| all.first().copied()))
    }

    pub fn publish_many(&mut self, name: &str, size: usize) -> Result<(), String> {
        let tags: Vec<String> = (0..size).map(|place| format!("{name}.{place}")).collect();
        let events: Vec<Event> = tags.iter().map(|tag| event(tag)).collect();
        let accepted = self.call(tags, |engine| {
            engine.publish_many(events)?.wait_timeout(DEADLINE).ok_or(Error::Closed)?
        });
        accepted.map(drop)
    }

    /// Makes a call and records its result. After a failure another call must fail, too, and then the
    /// device is healed.
    pub fn call(
        &mut self,
        tags: Vec<String>,
        publish: impl FnOnce(&Engine) -> wabahook::Result<Vec<Accepted>>,
    ) -> Result<Option<Vec<Accepted>>, String> {
        let place = self.model.lock().calls.len();
        let is_probe = tags.iter().any(|tag| tag.starts_with("probe"));
        self.model.lock().calls.push(Call { tags, result: CallResult::Pending });
        let (result, accepted) = match publish(&self.engine) {
            Ok(accepted) => {
                let ids = accepted.iter().map(|one| one.id.to_string()).collect();
                (CallResult::Accepted(ids), Some(accepted))
            }
            Err(Error::Busy { .. } | Error::Refused { .. }) => (CallResult::Refused, None),
            Err(Error::Unknown { .. }) => (CallResult::Unknown, None),
            Err(error) => return Err(format!("publish: {error:?}")),
        };
        self.model.lock().calls[place].result = result;
        if accepted.is_none() && !is_probe {
            self.publish(&format!("probe{place}.1"))?;
            self.heal()?;
        }
        Ok(accepted)
    }

    /// Heals the device, lets it fail a second time if the fault says so, and waits until the engine
    /// accepts events again.
    pub fn heal(&mut self) -> Result<(), String> {
        self.faults.heal();
        if let Some(after) = self.again_after.take() {
            let seen = self.faults.operations();
            self.faults.fail_after(after);
            let deadline = Instant::now() + Duration::from_millis(700);
            while self.faults.operations() <= seen + after && Instant::now() < deadline {
                let _ = self.notices.next_timeout(Duration::from_millis(5));
            }
            self.faults.heal();
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.engine.publish(event("wake.2")) {
                Ok(receipt) => match receipt.wait_timeout(DEADLINE) {
                    Some(Ok(_)) => return Ok(()),
                    Some(Err(Error::Unknown { .. } | Error::Refused { .. })) => {}
                    other => return Err(format!("after healing: {other:?}")),
                },
                Err(error) if error.is_busy() => {}
                Err(error) => return Err(format!("after healing: {error:?}")),
            }
            if let Some(Notice::Poisoned { why }) = self.notices.next_timeout(WINK) {
                return Err(format!("poisoned: {why}"));
            }
            if Instant::now() > deadline {
                return Err("the device is sound and the engine does not go on".to_owned());
            }
        }
    }

    /// Closes and reopens the same store. The device is healed if it refuses that.
    pub fn reopen(&mut self) -> Result<(), String> {
        let _ = self.engine.close(DEADLINE);
        let config = || config(self.store.clone(), self.clock.clone(), Arc::clone(&self.receivers));
        let opened = Engine::open(config()).or_else(|error| {
            if matches!(error, Error::Damaged { .. }) {
                return Err(error);
            }
            self.faults.heal();
            Engine::open(config())
        });
        self.engine = opened.map_err(|error| format!("opening again: {error}"))?;
        self.notices = self.engine.notices();
        Ok(())
    }

    /// Waits until everything is delivered that receivers accept now. If the device refused only a
    /// record, no call failed, but events that must be read from the device wait. Then the device is
    /// healed, and the engine must continue without a call that wakes it.
    pub fn let_arrive(&mut self) -> Result<(), String> {
        if self.arrive(PATIENCE).is_ok() {
            return Ok(());
        }
        if self.faults.refuses() {
            self.faults.heal();
        }
        self.arrive(DEADLINE)
    }

    fn arrive(&self, patience: Duration) -> Result<(), String> {
        let waits: Vec<_> = self.engine.subscriptions();
        let waits = waits.iter().filter(|one| [LEAVER, BYSTANDER].contains(&one.name.as_str()));
        let waits: Vec<_> = waits.map(|one| one.id).collect();
        let takes_all = *self.receivers.takes_all.lock();
        until(&self.engine, &self.clock, patience, |stats| {
            let lanes = stats.lanes.iter();
            let mut owing = lanes.filter(|lane| takes_all || !waits.contains(&lane.subscription));
            owing.all(|lane| lane.owed == 0)
        })
    }
}

/// How long to wait for deliveries before checking whether the device delays them.
const PATIENCE: Duration = Duration::from_secs(1);

pub const WINK: Duration = Duration::from_millis(2);

/// Advances the clock until a condition is met.
pub fn until(
    engine: &Engine,
    clock: &ManualClock,
    patience: Duration,
    is_so: impl Fn(&Stats) -> bool,
) -> Result<(), String> {
    let notices = engine.notices();
    let deadline = Instant::now() + patience;
    loop {
        let stats = engine.stats();
        if is_so(&stats) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("it did not arrive in time: {stats:?}"));
        }
        clock.advance(Duration::from_millis(1_000));
        let _ = notices.next_timeout(WINK);
    }
}
