//! What a host may expect after its calls, and whether what arrived matches. The model knows nothing
//! of the outbox, only what the host was told and when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use wabahook::clock::ManualClock;
use wabahook::{Engine, Event, Subscription};

use super::scenario::{config, until};
use super::snapshots::Snapshot;
use crate::world::{BEGIN_WALL_MS, DEADLINE, quick};
use wabahook::testing::{ScriptedReply, ScriptedTransport};

pub const SOUND: &str = "sound";
/// Refuses each first attempt with 503.
pub const SHAKY: &str = "shaky";
/// Refuses a fourth of the events permanently.
pub const REFUSING: &str = "refusing";
/// Accepts nothing, and is unsubscribed half-way.
pub const LEAVER: &str = "leaver";
/// Matches a tenth of the events and accepts them at the end.
pub const BYSTANDER: &str = "bystander";

pub const HOSTS: [&str; 5] = [SOUND, SHAKY, REFUSING, LEAVER, BYSTANDER];

/// The result of one call.
#[derive(Debug, Clone, PartialEq)]
pub enum CallResult {
    Pending,
    Accepted(Vec<String>),
    Refused,
    Unknown,
}

#[derive(Debug, Clone)]
pub struct Call {
    pub tags: Vec<String>,
    pub result: CallResult,
}

/// What the host knows.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub calls: Vec<Call>,
    pub subscribed: BTreeSet<String>,
    /// Whether the removal of `LEAVER` has begun, and whether it was acknowledged.
    pub removing: bool,
    pub removed: bool,
}

/// One attempt as it arrived.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub host: String,
    pub id: String,
    pub tag: String,
    pub is_end: bool,
}

/// Answers by host and event, and records what arrived.
#[derive(Default)]
pub struct Receivers {
    pub arrivals: Mutex<Vec<Arrival>>,
    /// From now on every receiver accepts everything.
    pub takes_all: Mutex<bool>,
}

pub fn place(tag: &str) -> usize {
    tag.rsplit('.').next().unwrap().parse().unwrap()
}

pub fn payload(tag: &str) -> Vec<u8> {
    let filler = tag.bytes().cycle().take(900 + 400 * (place(tag) % 4));
    format!("{tag} ").into_bytes().into_iter().chain(filler).collect()
}

pub fn event(tag: &str) -> Event {
    let kind = if place(tag) % 10 == 1 { "ADD_TAG" } else { "MESSAGE_RECEIVED" };
    let event = Event::new(kind, payload(tag)).number("919999999999");
    if tag.starts_with("key") { event.dedup_key(tag) } else { event }
}

pub fn wants(host: &str, tag: &str) -> bool {
    host != BYSTANDER || place(tag) % 10 == 1
}

pub fn subscription(host: &str) -> Subscription {
    if host == BYSTANDER { quick(host).events(["ADD_TAG"]) } else { quick(host) }
}

impl Receivers {
    pub fn transport(self: &Arc<Self>) -> Arc<ScriptedTransport> {
        let receivers = Arc::clone(self);
        Arc::new(ScriptedTransport::new(move |arrival| receivers.answer(arrival)).unrecorded())
    }

    fn answer(&self, arrival: &wabahook::testing::Arrival) -> ScriptedReply {
        let tag = arrival.text().split(' ').next().unwrap().to_owned();
        assert_eq!(payload(&tag), arrival.body, "a payload came torn");
        let status = match arrival.host.as_str() {
            _ if *self.takes_all.lock() => 200,
            SHAKY if arrival.attempt == 1 => 503,
            REFUSING if place(&tag) % 4 == 3 => 404,
            LEAVER | BYSTANDER => 503,
            _ => 200,
        };
        let (host, id, is_end) = (arrival.host.clone(), arrival.id.clone(), status != 503);
        self.arrivals.lock().push(Arrival { host, id, tag, is_end });
        ScriptedReply::Status(status)
    }
}

/// Opens what a power cut left, lets every receiver accept everything, and checks the result.
pub fn look(snapshot: &Snapshot) -> Result<(), String> {
    let receivers = Arc::new(Receivers::default());
    *receivers.takes_all.lock() = true;
    let clock = Arc::new(ManualClock::new(BEGIN_WALL_MS + 40_000_000, 5));
    let config = || config(Arc::new(snapshot.store.clone()), clock.clone(), Arc::clone(&receivers));
    let engine = Engine::open(config()).map_err(|error| format!("opening: {error}"))?;
    until(&engine, &clock, DEADLINE, |stats| stats.owed == 0)?;
    let names: BTreeSet<String> =
        engine.subscriptions().iter().map(|one| one.name.clone()).collect();
    engine.close(DEADLINE).map_err(|error| error.to_string())?;
    let mut arrivals = snapshot.arrivals.clone();
    arrivals.extend(receivers.arrivals.lock().iter().cloned());
    judge(&snapshot.before, &snapshot.after, &arrivals)?;
    let missing: Vec<_> = snapshot.before.subscribed.difference(&names).collect();
    let is_back = snapshot.before.removed && names.contains(LEAVER);
    let may_miss = missing.is_empty() || snapshot.after.removing && *missing == [LEAVER];
    if is_back || !may_miss {
        return Err(format!("subscriptions are {names:?}: {:?}", snapshot.before));
    }
    let again = Engine::open(config()).map_err(|error| format!("opening again: {error}"))?;
    match again.stats().recovered {
        0 => Ok(()),
        owed => Err(format!("{owed} deliveries came back after an orderly end")),
    }
}

/// Compares what arrived with what the host was told before the cut, and did until after it.
pub fn judge(before: &Model, after: &Model, arrivals: &[Arrival]) -> Result<(), String> {
    let (mut ids, mut tags) = (BTreeMap::new(), BTreeMap::new());
    let mut ended: BTreeSet<(&str, &str)> = BTreeSet::new();
    for arrival in arrivals {
        let Arrival { host, id, tag, is_end } = arrival;
        // Many calls wake a healed device, all with the same tag.
        let known_id = if tag.starts_with("wake") { id } else { *ids.entry(tag).or_insert(id) };
        if known_id != id || *tags.entry(id).or_insert(tag) != tag {
            return Err(format!("{tag} came as {id} and as {known_id}"));
        }
        if !wants(host, tag) {
            return Err(format!("{host} never asked for {tag}"));
        }
        if *is_end {
            ended.insert((host, tag));
        }
    }
    for (place, call) in after.calls.iter().enumerate() {
        let there = call.tags.iter().filter(|tag| ids.contains_key(tag)).count();
        let result = before.calls.get(place).map_or(&CallResult::Pending, |call| &call.result);
        // A call that was repeated with its dedup key is checked through the others.
        let is_repeated = after.calls.iter().filter(|other| other.tags == call.tags).count() > 1;
        match result {
            CallResult::Refused if there > 0 && !is_repeated => {
                return Err(format!("refused and there: {call:?}"));
            }
            CallResult::Pending | CallResult::Unknown if there != 0 && there != call.tags.len() => {
                return Err(format!("{there} of {} are there: {call:?}", call.tags.len()));
            }
            CallResult::Accepted(accepted) => {
                for (tag, id) in call.tags.iter().zip(accepted) {
                    if ids.get(tag).is_none_or(|arrived| *arrived != id) {
                        return Err(format!("accepted as {id}, came as {:?}: {tag}", ids.get(tag)));
                    }
                    let hosts = HOSTS.iter().filter(|host| wants(host, tag));
                    let mut hosts = hosts.filter(|host| **host != LEAVER || !after.removing);
                    if let Some(host) = hosts.find(|host| !ended.contains(&(**host, tag))) {
                        return Err(format!("{tag} was accepted and never came to {host}"));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}
