//! What is published before the power cut, and what must be there after it. A number always means the
//! same event, so that the check needs nothing from the process that published.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use wabahook::clock::ManualClock;
use wabahook::policy::{Policy, Retry};
use wabahook::{Config, Durability, Engine, Event, Limits, Subscription};

use crate::support::{DEADLINE, wait_until};
use wabahook::testing::{Arrival, ScriptedReply, ScriptedTransport};

/// How many events are published, in two sessions of which the second does not close.
const EVENTS: u32 = 90;
const FIRST_SESSION: u32 = 40;

/// Acknowledges everything at once.
const QUICK: &str = "quick.example";
/// Refuses everything, so that what it is owed outlives its generation.
const KEEPER: &str = "keeper.example";

const WALL_MS: u64 = 1_700_000_000_000;
const RETRY_AFTER_MS: u64 = 3_600_000;

/// A line on standard output when both subscriptions are durable.
pub const SUBSCRIBED: &str = "subscribed";
/// A line when an event is durable: its number and its id.
pub const ACCEPTED: &str = "accepted";
/// A line before the quick receiver acknowledges an event, which may be gone from then on.
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
    let retry = Retry::List { delays: vec![Duration::from_millis(RETRY_AFTER_MS); 9] };
    Subscription::to(format!("https://{host}/hook"))
        .unwrap()
        .name(host)
        .events([kind])
        .policy(Policy::default().retry(retry))
}

/// What arrived: the number of an event and its `webhook-id`.
type Arrivals = BTreeMap<u32, String>;

/// Says which event the quick receiver acknowledges, before it does; the keeper refuses everything.
fn receivers_that_say() -> Arc<ScriptedTransport> {
    let answer = |arrival: &Arrival| {
        if arrival.host == KEEPER {
            return ScriptedReply::Status(503);
        }
        say(&format!("{DELIVERED} {}", number_of(&arrival.body).unwrap()));
        ScriptedReply::Status(200)
    };
    Arc::new(ScriptedTransport::new(answer).unrecorded())
}

fn number_of(body: &[u8]) -> Option<u32> {
    std::str::from_utf8(body.get(..8)?).ok()?.parse().ok()
}

/// The events that arrived, once there are so many. An error if one was never published like that.
fn arrived(receivers: &ScriptedTransport, count: u64) -> Result<Arrivals, String> {
    if !wait_until(|| receivers.count() as u64 >= count) {
        return Err(format!("{} of {count} owed events arrived", receivers.count()));
    }
    let number = |arrival: &Arrival| {
        let number = number_of(&arrival.body).filter(|number| payload(*number) == arrival.body);
        let strange = || format!("an event that nobody published arrived: {}", arrival.id);
        Ok((number.ok_or_else(strange)?, arrival.id.clone()))
    };
    receivers.take().iter().map(number).collect()
}

/// Prints a line with one call.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn config(path: &Path, durability: Durability, receivers: &Arc<ScriptedTransport>) -> Config {
    // Small, so that generations change often and what the keeper is owed is copied forward.
    let limits = Limits::default().generation_bytes(200_000);
    Config::new(path).limits(limits).durability(durability).transport(receivers.clone())
}

/// Publishes everything from two threads, in the process whose power will be cut.
pub fn run(path: &Path, durability: Durability) {
    // As after a kill between creating the directories and syncing them.
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    for (from, to) in [(0, FIRST_SESSION), (FIRST_SESSION, EVENTS)] {
        let receivers = receivers_that_say();
        let clock = Arc::new(ManualClock::new(WALL_MS, 1));
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

/// What the process had promised at some moment, by its output.
#[derive(Debug, Default, Clone)]
pub struct Promised {
    subscribed: bool,
    accepted: Arrivals,
    delivered: BTreeSet<u32>,
}

impl Promised {
    /// Takes more output.
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

/// Opens what the device held. Returns what is missing or wrong.
pub fn check(image: &Path, promised: &Promised) -> Result<(), String> {
    let receivers = Arc::new(ScriptedTransport::default());
    // What the keeper refused is due by then.
    let clock = Arc::new(ManualClock::new(WALL_MS + 2 * RETRY_AFTER_MS, 2));
    let config = config(image, Durability::Process, &receivers).clock(clock);
    let engine = Engine::open(config).map_err(|error| format!("it does not open: {error}"))?;
    let notices = engine.notices();
    let known = engine.subscriptions().len();
    if promised.subscribed && known != 2 {
        return Err(format!("{known} of 2 subscriptions are there"));
    }
    let recovered = engine.stats().recovered;
    let arrived = arrived(&receivers, recovered).map_err(|why| {
        let told: Vec<_> = std::iter::from_fn(|| notices.try_next()).take(3).collect();
        format!("{why}; it told {told:?}")
    })?;
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

/// The engine accepts an event, recognizes an old one by its dedup key, and gives no id twice.
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
