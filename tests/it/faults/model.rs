//! Decides what a host may expect of what it did, and whether what arrived is that.
//!
//! Leaves to others: doing it (`telling`). Invariant: it knows nothing of the outbox, only what the
//! host was told and when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use wabahook::clock::Manual;
use wabahook::{Engine, Event, Reply, Request, Subscription, Transport};

use super::camera::Image;
use super::telling::{config, until};
use crate::world::{BEGIN_WALL_MS, DEADLINE, quick};

pub const SOUND: &str = "sound";
/// Refuses each first attempt with 503.
pub const SHAKY: &str = "shaky";
/// Refuses a fourth of the events for good.
pub const REFUSING: &str = "refusing";
/// Takes nothing, and is unsubscribed half-way.
pub const LEAVER: &str = "leaver";
/// Wants a tenth of the events and takes them at the end.
pub const BYSTANDER: &str = "bystander";

pub const HOSTS: [&str; 5] = [SOUND, SHAKY, REFUSING, LEAVER, BYSTANDER];

/// What became of one call.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    Pending,
    Accepted(Vec<String>),
    Refused,
    Unknown,
}

#[derive(Debug, Clone)]
pub struct Call {
    pub tags: Vec<String>,
    pub fate: Fate,
}

/// What the host knows.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub calls: Vec<Call>,
    pub subscribed: BTreeSet<String>,
    /// The leaver's removal was begun, and its end was acknowledged.
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

/// Answers by host and event, and notes what arrived.
#[derive(Default)]
pub struct Receivers {
    pub arrivals: Mutex<Vec<Arrival>>,
    /// Everything is taken now, by everybody.
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

impl Transport for Receivers {
    fn send(&self, request: &Request<'_>) -> Reply {
        let host = request.url.host().unwrap_or_default().to_owned();
        let header = |name: &str| {
            let found = request.headers.iter().find(|(known, _)| known.as_str() == name);
            found.map(|(_, value)| value.to_str().unwrap().to_owned()).unwrap()
        };
        let text = String::from_utf8(request.body.to_vec()).unwrap();
        let tag = text.split(' ').next().unwrap().to_owned();
        assert_eq!(payload(&tag), *request.body, "a payload came torn");
        let is_first = header("x-webhook-attempt") == "1";
        let status = match host.as_str() {
            _ if *self.takes_all.lock() => 200,
            SHAKY if is_first => 503,
            REFUSING if place(&tag) % 4 == 3 => 404,
            LEAVER | BYSTANDER => 503,
            _ => 200,
        };
        let (id, is_end) = (header("webhook-id"), status != 503);
        self.arrivals.lock().push(Arrival { host, id, tag, is_end });
        Reply::status(status)
    }

    fn interrupt(&self) {}
}

/// Opens what a power cut left, lets everybody take everything, and judges it all.
pub fn look(image: &Image) -> Result<(), String> {
    let receivers = Arc::new(Receivers::default());
    *receivers.takes_all.lock() = true;
    let clock = Arc::new(Manual::new(BEGIN_WALL_MS + 40_000_000, 5));
    let config = || config(Arc::new(image.store.clone()), clock.clone(), Arc::clone(&receivers));
    let engine = Engine::open(config()).map_err(|error| format!("opening: {error}"))?;
    until(&engine, &clock, DEADLINE, |stats| stats.owed == 0)?;
    let names: BTreeSet<String> =
        engine.subscriptions().iter().map(|one| one.name.clone()).collect();
    engine.close(DEADLINE).map_err(|error| error.to_string())?;
    let mut arrivals = image.arrivals.clone();
    arrivals.extend(receivers.arrivals.lock().iter().cloned());
    judge(&image.before, &image.after, &arrivals)?;
    let missing: Vec<_> = image.before.subscribed.difference(&names).collect();
    let is_back = image.before.removed && names.contains(LEAVER);
    let may_miss = missing.is_empty() || image.after.removing && *missing == [LEAVER];
    if is_back || !may_miss {
        return Err(format!("subscriptions are {names:?}: {:?}", image.before));
    }
    let again = Engine::open(config()).map_err(|error| format!("opening again: {error}"))?;
    match again.stats().recovered {
        0 => Ok(()),
        owed => Err(format!("{owed} deliveries came back after an orderly end")),
    }
}

/// Holds what arrived against what the host was told before, and did until after.
pub fn judge(before: &Model, after: &Model, arrivals: &[Arrival]) -> Result<(), String> {
    let (mut ids, mut tags) = (BTreeMap::new(), BTreeMap::new());
    let mut ended: BTreeSet<(&str, &str)> = BTreeSet::new();
    for arrival in arrivals {
        let Arrival { host, id, tag, is_end } = arrival;
        // The calls that wake a healed device are many, of the same tag.
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
        let fate = before.calls.get(place).map_or(&Fate::Pending, |call| &call.fate);
        // A call repeated with its dedup key is judged by the others.
        let is_repeated = after.calls.iter().filter(|other| other.tags == call.tags).count() > 1;
        match fate {
            Fate::Refused if there > 0 && !is_repeated => {
                return Err(format!("refused and there: {call:?}"));
            }
            Fate::Pending | Fate::Unknown if there != 0 && there != call.tags.len() => {
                return Err(format!("{there} of {} are there: {call:?}", call.tags.len()));
            }
            Fate::Accepted(accepted) => {
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
