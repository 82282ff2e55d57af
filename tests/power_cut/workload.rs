//! Decides what is published while the power may go, and what must be there after it went.
//!
//! Leaves to others: recording and cutting (`main`). Invariant: the same number always means the
//! same event, so that whoever checks needs nothing from the process that published.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use wabahook::clock::Manual;
use wabahook::{
    Config, Durability, Engine, Event, Limits, Policy, Reply, Request, Retry, Subscription,
    Transport,
};

/// No wait lasts longer; nothing passes or fails by how fast it is.
const DEADLINE: Duration = Duration::from_secs(20);

/// How many events are published, in two sessions of which the second does not close.
const EVENTS: u32 = 90;
const FIRST_SESSION: u32 = 40;

/// Receives what it acknowledges at once.
const QUICK: &str = "quick.example";
/// Refuses everything, so that what it is owed outlives its generation.
const KEEPER: &str = "keeper.example";

const WALL_MS: u64 = 1_700_000_000_000;
const RETRY_AFTER_MS: u64 = 3_600_000;

/// A line on standard output when both subscriptions are durable.
pub const SUBSCRIBED: &str = "subscribed";
/// A line when an event is: its number and its id.
pub const ACCEPTED: &str = "accepted";
/// A line before the quick receiver acknowledges an event, of which nothing need be left then.
pub const DELIVERED: &str = "delivered";

/// One event in five is for the receiver that refuses, the rest for the quick one.
fn is_kept(number: u32) -> bool {
    number % 5 == 3 || number == 29
}

fn bytes_of(number: u32) -> usize {
    match number {
        7 | 29 | 71 => 2_000_000,
        _ if number % 4 == 1 || number % 10 == 3 => 20_000,
        _ => 100,
    }
}

/// The payload begins with its number, and its bytes are those of no other.
fn payload(number: u32) -> Vec<u8> {
    let mut payload = format!("{number:08} ").into_bytes();
    let mut state = u64::from(number) * 2 + 1;
    while payload.len() < bytes_of(number) {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        payload.extend_from_slice(&state.to_le_bytes());
    }
    payload.truncate(bytes_of(number));
    payload
}

fn event(number: u32) -> Event {
    let kind = if is_kept(number) { "kept" } else { "quick" };
    Event::new(kind, payload(number)).number("919999999999").dedup_key(number.to_string())
}

fn subscription(host: &str, kind: &str) -> Subscription {
    let retry = Retry::List { delays_ms: vec![RETRY_AFTER_MS; 9] };
    Subscription::to(format!("https://{host}/hook"))
        .unwrap()
        .name(host)
        .events([kind])
        .policy(Policy { retry, ..Policy::default() })
}

/// What arrived: the number of an event and its `webhook-id`.
type Arrivals = BTreeMap<u32, String>;

/// Both receivers. Says what it acknowledges, or keeps it.
struct Receivers {
    keeper_refuses: bool,
    /// What arrived, and what arrived that was never published so.
    arrived: Mutex<(Arrivals, Vec<String>)>,
    changed: Condvar,
}

impl Receivers {
    fn new(keeper_refuses: bool) -> Receivers {
        Receivers { keeper_refuses, arrived: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits until so many deliveries arrived.
    fn wait_for(&self, count: u64) -> Result<(Arrivals, Vec<String>), String> {
        let too_few = |arrived: &mut (Arrivals, Vec<String>)| {
            ((arrived.0.len() + arrived.1.len()) as u64) < count
        };
        let mut arrived = self.arrived.lock();
        let late = self.changed.wait_while_for(&mut arrived, too_few, DEADLINE).timed_out();
        if late {
            return Err(format!("{} of {count} owed events arrived", arrived.0.len()));
        }
        Ok(std::mem::take(&mut *arrived))
    }
}

impl Transport for Receivers {
    fn send(&self, request: &Request<'_>) -> Reply {
        let number = request.body.get(..8).and_then(|text| std::str::from_utf8(text).ok());
        let number: Option<u32> = number.and_then(|text| text.parse().ok());
        let id = request.headers.iter().find(|(name, _)| name.as_str() == "webhook-id");
        let id = id.unwrap().1.to_str().unwrap().to_owned();
        let refuses = self.keeper_refuses && request.url.host() == Some(KEEPER);
        if self.keeper_refuses && !refuses {
            say(&format!("{DELIVERED} {}", number.unwrap()));
        }
        let mut arrived = self.arrived.lock();
        match number.filter(|number| payload(*number) == *request.body) {
            Some(number) => drop(arrived.0.insert(number, id)),
            None => arrived.1.push(format!("{id} with {} other bytes", request.body.len())),
        }
        self.changed.notify_all();
        Reply::status(if refuses { 503 } else { 200 })
    }

    fn interrupt(&self) {}
}

/// One line, in one call.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn config(path: &Path, durability: Durability, receivers: &Arc<Receivers>) -> Config {
    // Small, so that generations change often and what the keeper is owed is copied forward.
    let limits = Limits { generation_bytes: 200_000, ..Limits::default() };
    Config::new(path).limits(limits).durability(durability).transport(receivers.clone())
}

/// Publishes everything from two threads, in the process whose power will be cut.
pub fn run(path: &Path, durability: Durability) {
    // As a start leaves it that was killed between making the directories and syncing them.
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    for (from, to) in [(0, FIRST_SESSION), (FIRST_SESSION, EVENTS)] {
        let receivers = Arc::new(Receivers::new(true));
        let clock = Arc::new(Manual::new(WALL_MS, 1));
        let engine = Engine::open(config(path, durability, &receivers).clock(clock)).unwrap();
        engine.subscribe(subscription(QUICK, "quick")).unwrap();
        engine.subscribe(subscription(KEEPER, "kept")).unwrap();
        say(SUBSCRIBED);
        let next = AtomicU32::new(from);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| publish_all(&engine, &next, to));
            }
        });
        if to < EVENTS {
            engine.close(DEADLINE).unwrap();
        }
    }
}

fn publish_all(engine: &Engine, next: &AtomicU32, to: u32) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= to {
            return;
        }
        let receipt = engine.publish(event(number)).unwrap();
        let accepted = receipt.wait_timeout(DEADLINE).expect("accepted in time").unwrap();
        say(&format!("{ACCEPTED} {number} {}", accepted.id));
    }
}

/// What the process had promised at some moment, by what it had said.
#[derive(Debug, Default, Clone)]
pub struct Promised {
    subscribed: bool,
    accepted: Arrivals,
    delivered: BTreeSet<u32>,
}

impl Promised {
    /// Notes what was said.
    pub fn hear(&mut self, said: &str) {
        for line in said.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                [SUBSCRIBED] => self.subscribed = true,
                [ACCEPTED, number, id] => {
                    self.accepted.insert(number.parse().unwrap(), id.to_owned());
                }
                [DELIVERED, number] => drop(self.delivered.insert(number.parse().unwrap())),
                _ => panic!("it said {line:?}"),
            }
        }
    }

    /// How many events must be there.
    pub fn owed(&self) -> usize {
        self.accepted.keys().filter(|number| !self.delivered.contains(number)).count()
    }

    pub fn accepted(&self) -> usize {
        self.accepted.len()
    }
}

/// Opens what the device held, and says what is missing of what was promised, or wrong.
pub fn check(image: &Path, promised: &Promised) -> Result<(), String> {
    let receivers = Arc::new(Receivers::new(false));
    // What the keeper refused is due by then.
    let clock = Arc::new(Manual::new(WALL_MS + 2 * RETRY_AFTER_MS, 2));
    let config = config(image, Durability::Process, &receivers).clock(clock);
    let engine = Engine::open(config).map_err(|error| format!("it does not open: {error}"))?;
    let notices = engine.notices();
    let known = engine.subscriptions().len();
    if promised.subscribed && known != 2 {
        return Err(format!("{known} of 2 subscriptions are there"));
    }
    let recovered = engine.stats().recovered;
    let (arrived, strange) = receivers.wait_for(recovered).map_err(|why| {
        let told: Vec<_> = std::iter::from_fn(|| notices.try_next()).take(3).collect();
        format!("{why}; it told {told:?}")
    })?;
    if let Some(strange) = strange.first() {
        return Err(format!("an event that nobody published arrived: {strange}"));
    }
    let missing = |(number, id): &(&u32, &String)| {
        let there = arrived.get(number);
        there != Some(*id) && (there.is_some() || !promised.delivered.contains(number))
    };
    let missing: Vec<_> = promised.accepted.iter().filter(missing).map(|(n, _)| n).collect();
    if !missing.is_empty() {
        return Err(format!("accepted and not there, or not under its id: {missing:?}"));
    }
    goes_on(&engine, promised)?;
    engine.close(DEADLINE).map_err(|error| error.to_string())
}

/// It takes an event, knows an old one by its key, and gives no id twice.
fn goes_on(engine: &Engine, promised: &Promised) -> Result<(), String> {
    let notices = engine.notices();
    let publish = |number| -> Result<_, String> {
        let receipt = engine.publish(event(number)).map_err(|error| error.to_string())?;
        let accepted = receipt.wait_timeout(DEADLINE).ok_or_else(|| {
            let told: Vec<_> = std::iter::from_fn(|| notices.try_next()).take(3).collect();
            format!("no receipt in time; it told {told:?}")
        })?;
        accepted.map_err(|error| error.to_string())
    };
    let fresh = publish(EVENTS)?;
    if fresh.duplicate || promised.accepted.values().any(|id| *id == fresh.id.to_string()) {
        return Err(format!("the id {} was given before", fresh.id));
    }
    if let Some((number, id)) = promised.accepted.last_key_value() {
        let again = publish(*number)?;
        if !again.duplicate || again.id.to_string() != *id {
            return Err(format!("event {number} was accepted as {id} and again as {}", again.id));
        }
    }
    Ok(())
}
