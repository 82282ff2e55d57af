//! A world for one test: an engine on the memory store under a manual clock, with receivers that
//! answer by script.

use std::sync::Arc;
use std::time::Duration;

use wabahook::clock::ManualClock;
use wabahook::policy::{Policy, Retry};
use wabahook::registration::Registration;
use wabahook::store::{FaultInjectingStore, FaultPlan, Memory};
use wabahook::{Config, Engine, Event, Stats, Subscription, Transport};

pub use crate::support::DEADLINE;
use crate::support::wait_until;
use wabahook::testing::ScriptedTransport;

/// One engine with what it stands on.
pub struct World {
    pub engine: Engine,
    pub store: Memory,
    pub clock: Arc<ManualClock>,
    pub receivers: Arc<ScriptedTransport>,
}

/// The time at which every world begins.
pub const BEGIN_WALL_MS: u64 = 1_700_000_000_000;

impl World {
    pub fn new() -> World {
        World::with(|config| config)
    }

    /// A world whose configuration is changed first.
    pub fn with(change: impl FnOnce(Config) -> Config) -> World {
        World::on(Memory::default(), Arc::new(ManualClock::new(BEGIN_WALL_MS, 11)), change)
    }

    /// A world whose device fails as its fault plan says.
    pub fn faulty(change: impl FnOnce(Config) -> Config) -> (World, Arc<FaultPlan>) {
        let (store, faults) = (Memory::default(), Arc::new(FaultPlan::default()));
        let faulty =
            Arc::new(FaultInjectingStore::new(Arc::new(store.clone()), Arc::clone(&faults)));
        let clock = Arc::new(ManualClock::new(BEGIN_WALL_MS, 11));
        let world = World::on(store, clock, |config| change(config.store(faulty)));
        (world, faults)
    }

    pub fn on(
        store: Memory,
        clock: Arc<ManualClock>,
        change: impl FnOnce(Config) -> Config,
    ) -> World {
        let receivers = Arc::new(ScriptedTransport::default());
        let config = Config::new("unused")
            .store(Arc::new(store.clone()))
            .clock(clock.clone())
            .transport(receivers.clone());
        let engine = Engine::open(change(config)).unwrap();
        World { engine, store, clock, receivers }
    }

    /// A world on what the device holds after a power cut now. This engine is abandoned.
    pub fn after_a_power_cut(self) -> World {
        let (store, clock) = (self.store.crash(), self.clock.clone());
        self.receivers.interrupt();
        World::on(store, clock, |config| config)
    }

    /// A world on the same store after this engine was closed.
    pub fn reopened(self) -> World {
        self.engine.close(DEADLINE).unwrap();
        World::on(self.store, self.clock, |config| config)
    }

    /// Subscribes `host` to everything, with quick linear retries.
    pub fn subscribe(&self, host: &str) -> wabahook::SubscriptionId {
        self.engine.subscribe(quick(host)).unwrap()
    }

    /// Publishes and waits until it is durable.
    pub fn publish(&self, event_type: &str, payload: &str) -> wabahook::Accepted {
        let event = Event::new(event_type, payload).number("919999999999");
        self.engine.publish(event).unwrap().wait_timeout(DEADLINE).unwrap().unwrap()
    }

    /// Calls a gateway's registration API, which must answer 200.
    pub fn register(&self, method: &str, path: &str, key: (&str, &str), body: &str) {
        let request = http::Request::builder().method(method).uri(path).header(key.0, key.1);
        let registration = Registration::new(self.engine.clone());
        let response = registration.respond(&request.body(body).unwrap());
        let told = String::from_utf8_lossy(response.body());
        assert_eq!(response.status(), 200, "{method} {path} {body}: {told}");
    }

    /// Waits until the counters meet a condition.
    pub fn wait_until(&self, is_so: impl Fn(&Stats) -> bool) -> Stats {
        let mut stats = self.engine.stats();
        let in_time = wait_until(|| {
            stats = self.engine.stats();
            is_so(&stats)
        });
        assert!(in_time, "not in time: {stats:?}");
        stats
    }
}

/// A subscription of `host` to everything, with retries after 1 s, 2 s, 3 s.
pub fn quick(host: &str) -> Subscription {
    Subscription::to(format!("https://{host}/hook")).unwrap().name(host).policy(quick_policy())
}

/// Retries after 1 s, 2 s, 3 s.
pub fn quick_policy() -> Policy {
    let retry =
        Retry::Linear { step: Duration::from_millis(1_000), max: Duration::from_millis(3_000) };
    Policy::default().retry(retry)
}
