//! A world for one test: an engine on the memory store under a manual clock, with receivers that
//! answer by script.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use wabahook::clock::Manual;
use wabahook::registration::Registration;
use wabahook::store::{Faults, Faulty, Memory};
use wabahook::{
    Answered, Config, Control, Engine, Event, Failure, Policy, Reply, Request, Retry, Stats,
    Subscription, Transport,
};

/// No wait of a test lasts longer; nothing passes or fails by how fast it is.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What one attempt looked like when it arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub host: String,
    pub id: String,
    pub attempt: u32,
    pub event_type: String,
    pub number: Option<String>,
    pub authorization: Option<String>,
    pub timeout_ms: u64,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
}

/// Receivers by host name. Each answers by its script, and then 200.
#[derive(Default)]
pub struct Receivers {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    scripts: HashMap<String, Vec<Answer>>,
    arrivals: Vec<Arrival>,
    interrupted: bool,
}

/// What a receiver does with one attempt.
#[derive(Debug, Clone)]
pub enum Answer {
    Status(u16),
    StatusAfter(u16, u64),
    /// Asks for something in the header `webhook-delivery`.
    Asks(u16, Control),
    /// The status depends on what arrived, and not on what arrived before it.
    Judges(fn(&Arrival) -> u16),
    Fails(Failure),
    /// Does not answer until the engine interrupts it.
    Hangs,
}

impl Receivers {
    /// Answers the attempts at `host` with these, the last one for ever after.
    pub fn script(&self, host: &str, answers: &[Answer]) {
        self.state.lock().scripts.insert(host.to_owned(), answers.to_vec());
    }

    /// Waits until so many attempts arrived at `host`, and returns them in their order.
    pub fn wait_for(&self, host: &str, count: usize) -> Vec<Arrival> {
        let mut state = self.state.lock();
        let too_few = |state: &mut State| arrivals_at(state, host).len() < count;
        let late = self.changed.wait_while_for(&mut state, too_few, DEADLINE).timed_out();
        let arrivals = arrivals_at(&state, host);
        assert!(!late, "{host} saw {} attempts of {count} in time", arrivals.len());
        arrivals
    }

    /// The attempts that arrived at `host` so far.
    pub fn at(&self, host: &str) -> Vec<Arrival> {
        arrivals_at(&self.state.lock(), host)
    }
}

fn arrivals_at(state: &State, host: &str) -> Vec<Arrival> {
    state.arrivals.iter().filter(|arrival| arrival.host == host).cloned().collect()
}

impl Transport for Receivers {
    fn send(&self, request: &Request<'_>) -> Reply {
        let host = request.url.host().unwrap_or_default().to_owned();
        let header = |name: &str| {
            let found = request.headers.iter().find(|(known, _)| known.as_str() == name);
            found.map(|(_, value)| value.to_str().unwrap().to_owned())
        };
        let mut state = self.state.lock();
        let arrival = Arrival {
            host: host.clone(),
            id: header("webhook-id").unwrap(),
            attempt: header("x-webhook-attempt").unwrap().parse().unwrap(),
            event_type: header("x-webhook-event").unwrap(),
            number: header("x-webhook-number"),
            authorization: header("authorization"),
            timeout_ms: request.timeout_ms,
            headers: request.headers.iter().cloned().collect(),
            body: request.body.to_vec(),
        };
        state.arrivals.push(arrival.clone());
        let script = state.scripts.entry(host).or_default();
        let answer = match script.len() {
            0 => Answer::Status(200),
            1 => script[0].clone(),
            _ => script.remove(0),
        };
        self.changed.notify_all();
        match answer {
            Answer::Status(status) => Reply::status(status),
            Answer::StatusAfter(status, after_ms) => {
                Reply::Answered(Answered::new(status).retry_after_ms(after_ms))
            }
            Answer::Asks(status, control) => {
                Reply::Answered(Answered::new(status).control(control))
            }
            Answer::Judges(status) => Reply::status(status(&arrival)),
            Answer::Fails(failure) => Reply::Failed(failure),
            Answer::Hangs => {
                self.changed.wait_while(&mut state, |state| !state.interrupted);
                Reply::Failed(Failure::Interrupted)
            }
        }
    }

    fn interrupt(&self) {
        self.state.lock().interrupted = true;
        self.changed.notify_all();
    }
}

/// One engine with what it stands on.
pub struct World {
    pub engine: Engine,
    pub store: Memory,
    pub clock: Arc<Manual>,
    pub receivers: Arc<Receivers>,
}

/// The moment at which every world begins.
pub const BEGIN_WALL_MS: u64 = 1_700_000_000_000;

impl World {
    pub fn new() -> World {
        World::with(|config| config)
    }

    /// A world whose configuration is changed first.
    pub fn with(change: impl FnOnce(Config) -> Config) -> World {
        World::on(Memory::default(), Arc::new(Manual::new(BEGIN_WALL_MS, 11)), change)
    }

    /// A world whose device fails when its faults say so.
    pub fn faulty(change: impl FnOnce(Config) -> Config) -> (World, Arc<Faults>) {
        let (store, faults) = (Memory::default(), Arc::new(Faults::default()));
        let faulty = Arc::new(Faulty::new(Arc::new(store.clone()), Arc::clone(&faults)));
        let clock = Arc::new(Manual::new(BEGIN_WALL_MS, 11));
        let world = World::on(store, clock, |config| change(config.store(faulty)));
        (world, faults)
    }

    pub fn on(store: Memory, clock: Arc<Manual>, change: impl FnOnce(Config) -> Config) -> World {
        let receivers = Arc::new(Receivers::default());
        let config = Config::new("unused")
            .store(Arc::new(store.clone()))
            .clock(clock.clone())
            .transport(receivers.clone());
        let engine = Engine::open(change(config)).unwrap();
        World { engine, store, clock, receivers }
    }

    /// What the next engine finds after the power went this moment; this one is left behind.
    pub fn after_a_power_cut(self) -> World {
        let (store, clock) = (self.store.crash(), self.clock.clone());
        self.receivers.interrupt();
        World::on(store, clock, |config| config)
    }

    /// What the next engine finds after this one was closed.
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

    /// Calls a gateway's registration API, which must honour it.
    pub fn register(&self, method: &str, path: &str, key: (&str, &str), body: &str) {
        let request = http::Request::builder().method(method).uri(path).header(key.0, key.1);
        let registration = Registration::new(self.engine.clone());
        let response = registration.answer(&request.body(body).unwrap());
        let told = String::from_utf8_lossy(response.body());
        assert_eq!(response.status(), 200, "{method} {path} {body}: {told}");
    }

    /// Waits until the counters say so.
    pub fn wait_until(&self, is_so: impl Fn(&Stats) -> bool) -> Stats {
        let deadline = std::time::Instant::now() + DEADLINE;
        loop {
            let stats = self.engine.stats();
            if is_so(&stats) {
                return stats;
            }
            assert!(std::time::Instant::now() < deadline, "not in time: {stats:?}");
            std::thread::yield_now();
        }
    }
}

/// A subscription of `host` to everything, which is tried again after 1 s, 2 s, 3 s.
pub fn quick(host: &str) -> Subscription {
    Subscription::to(format!("https://{host}/hook")).unwrap().name(host).policy(quick_policy())
}

/// Waits 1 s, 2 s, 3 s.
pub fn quick_policy() -> Policy {
    let retry = Retry::Linear { step_ms: 1_000, max_ms: 3_000 };
    Policy { retry, ..Policy::default() }
}
