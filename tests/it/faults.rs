//! I1, I2, I3 over a device that fails: one story, told once for every write and sync in it, with
//! that one failing, failing although it took effect, or being the last before a power cut.
//!
//! A model that knows nothing of the outbox judges each telling: what a receipt promised arrives,
//! what was refused never does, what is unknown is there whole or not at all, and no id is given
//! twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use wabahook::clock::Manual;
use wabahook::store::{self, Batch, Database, Faults, Faulty, Memory, Pair, Store, Visit};
use wabahook::{
    Accepted, Config, Engine, Error, Event, Limits, Notice, Notices, Reply, Request, Stats,
    Subscription, Transport,
};

use crate::world::{BEGIN_WALL_MS, DEADLINE, quick};

const SOUND: &str = "sound";
/// Refuses each first attempt with 503.
const SHAKY: &str = "shaky";
/// Refuses a fourth of the events for good.
const REFUSING: &str = "refusing";
/// Takes nothing, and is unsubscribed half-way.
const LEAVER: &str = "leaver";
/// Wants a tenth of the events and takes them at the end.
const BYSTANDER: &str = "bystander";

const HOSTS: [&str; 5] = [SOUND, SHAKY, REFUSING, LEAVER, BYSTANDER];

/// How a telling goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Nothing fails.
    None,
    /// This operation fails and every one after it, until the device is healed.
    At(u64),
    /// The same, but this operation takes effect: only its answer is lost.
    AnswerLost(u64),
    /// As `At`, and so many operations after healing the device fails once more.
    Twice(u64, u64),
}

/// What became of one call.
#[derive(Debug, Clone, PartialEq)]
enum Fate {
    Pending,
    Accepted(Vec<String>),
    Refused,
    Unknown,
}

#[derive(Debug, Clone)]
struct Call {
    tags: Vec<String>,
    fate: Fate,
}

/// What the host knows.
#[derive(Debug, Clone, Default)]
struct Model {
    calls: Vec<Call>,
    subscribed: BTreeSet<String>,
    /// The leaver's removal was begun, and its end was acknowledged.
    removing: bool,
    removed: bool,
}

/// One attempt as it arrived.
#[derive(Debug, Clone)]
struct Arrival {
    host: String,
    id: String,
    tag: String,
    is_end: bool,
}

/// Answers by host and event, and notes what arrived.
#[derive(Default)]
struct Receivers {
    arrivals: Mutex<Vec<Arrival>>,
    /// Everything is taken now, by everybody.
    takes_all: Mutex<bool>,
}

fn place(tag: &str) -> usize {
    tag.rsplit('.').next().unwrap().parse().unwrap()
}

fn payload(tag: &str) -> Vec<u8> {
    let filler = tag.bytes().cycle().take(900 + 400 * (place(tag) % 4));
    format!("{tag} ").into_bytes().into_iter().chain(filler).collect()
}

fn event(tag: &str) -> Event {
    let kind = if place(tag) % 10 == 1 { "ADD_TAG" } else { "MESSAGE_RECEIVED" };
    let event = Event::new(kind, payload(tag)).number("919999999999");
    if tag.starts_with("key") { event.dedup_key(tag) } else { event }
}

fn wants(host: &str, tag: &str) -> bool {
    host != BYSTANDER || place(tag) % 10 == 1
}

fn subscription(host: &str) -> Subscription {
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
        assert_eq!(payload(&tag), request.body, "a payload came torn");
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
        Reply::Answered { status, retry_after_ms: None }
    }

    fn interrupt(&self) {}
}

/// What a power cut right after one operation leaves, and what the host knew then.
struct Image {
    store: Memory,
    /// Before the cut: what was promised by then is on the device.
    before: Model,
    /// After the cut: only what is in here can have reached it.
    after: Model,
    arrivals: Vec<Arrival>,
}

/// A store in memory that keeps such images of the operations `wanted`.
struct Camera {
    inner: Memory,
    film: Arc<Film>,
}

struct Film {
    memory: Memory,
    wanted: std::ops::Range<u64>,
    seen: AtomicU64,
    model: Arc<Mutex<Model>>,
    receivers: Arc<Receivers>,
    images: Mutex<Vec<Image>>,
}

impl Film {
    fn expose(&self) {
        let seen = self.seen.fetch_add(1, Ordering::AcqRel);
        if !self.wanted.contains(&seen) {
            return;
        }
        // How many unsynced batches the device had written all the same differs from cut to cut.
        for kept in [0, 1 + seen as usize % 3] {
            let before = self.model.lock().clone();
            let store = self.memory.crash_keeping(kept);
            let after = self.model.lock().clone();
            let arrivals = self.receivers.arrivals.lock().clone();
            self.images.lock().push(Image { store, before, after, arrivals });
        }
    }
}

impl fmt::Debug for Camera {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Camera").finish_non_exhaustive()
    }
}

impl Store for Camera {
    fn open(&self, name: &str) -> Result<Arc<dyn Database>, store::Failure> {
        let inner = self.inner.open(name)?;
        Ok(Arc::new(Watched { inner, film: Arc::clone(&self.film) }))
    }

    fn list(&self) -> Result<Vec<String>, store::Failure> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> Result<(), store::Failure> {
        self.inner.remove(name)
    }

    fn set_aside(&self, name: &str) -> Result<String, store::Failure> {
        self.inner.set_aside(name)
    }
}

struct Watched {
    inner: Arc<dyn Database>,
    film: Arc<Film>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl Database for Watched {
    fn apply(&self, batch: Batch) -> Result<(), store::Failure> {
        self.inner.apply(batch)?;
        self.film.expose();
        Ok(())
    }

    fn sync(&self) -> Result<(), store::Failure> {
        self.inner.sync()?;
        self.film.expose();
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, store::Failure> {
        self.inner.get(key)
    }

    fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), store::Failure> {
        self.inner.scan(prefix, from, visit)
    }

    fn last(&self, prefix: &[u8], to: &[u8]) -> Result<Option<Pair>, store::Failure> {
        self.inner.last(prefix, to)
    }
}

/// One telling of the story.
struct Telling {
    store: Arc<Faulty>,
    memory: Memory,
    faults: Arc<Faults>,
    film: Arc<Film>,
    clock: Arc<Manual>,
    receivers: Arc<Receivers>,
    model: Arc<Mutex<Model>>,
    engine: Engine,
    notices: Notices,
    /// Operations after healing until the device fails once more.
    again_after: Option<u64>,
    reopened_for_the_book: u64,
}

fn config(store: Arc<dyn Store>, clock: Arc<Manual>, receivers: Arc<Receivers>) -> Config {
    let (generation_bytes, dedup_window_ms) = (20_000, 24_000_000);
    let limits = Limits { generation_bytes, dedup_window_ms, workers_max: 2, ..Limits::default() };
    Config::new("unused").store(store).clock(clock).transport(receivers).limits(limits)
}

impl Telling {
    /// Opens, with the fault counted from the first operation after; films the operations `wanted`.
    fn begin(fault: Fault, wanted: std::ops::Range<u64>) -> Telling {
        let (memory, faults) = (Memory::default(), Arc::new(Faults::default()));
        let (receivers, model) = (Arc::new(Receivers::default()), Arc::default());
        let film = Arc::new(Film {
            memory: memory.clone(),
            wanted,
            seen: AtomicU64::new(0),
            model: Arc::clone(&model),
            receivers: Arc::clone(&receivers),
            images: Mutex::default(),
        });
        let camera = Camera { inner: memory.clone(), film: Arc::clone(&film) };
        let store = Arc::new(Faulty::new(Arc::new(camera), Arc::clone(&faults)));
        let clock = Arc::new(Manual::new(BEGIN_WALL_MS, 11));
        let config = config(store.clone(), clock.clone(), receivers.clone());
        let engine = Engine::open(config).unwrap();
        match fault {
            Fault::None => {}
            Fault::At(k) | Fault::Twice(k, _) => faults.fail_after(k),
            Fault::AnswerLost(k) => faults.fail_after_effect(k),
        }
        let again_after = if let Fault::Twice(_, after) = fault { Some(after) } else { None };
        let notices = engine.notices();
        let reopened_for_the_book = 0;
        Telling {
            store,
            memory,
            faults,
            film,
            clock,
            receivers,
            model,
            engine,
            notices,
            again_after,
            reopened_for_the_book,
        }
    }

    fn tell(&mut self) -> Result<(), String> {
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
        self.clock.advance_ms(30_000_000);
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

    fn subscribe(&mut self, host: &str) -> Result<(), String> {
        for _ in 0..4 {
            match self.engine.subscribe(subscription(host)) {
                Ok(_) => {
                    self.model.lock().subscribed.insert(host.to_owned());
                    return Ok(());
                }
                Err(Error::Store { .. }) => {
                    self.heal()?;
                    self.reopened_for_the_book += 1;
                    self.reopen()?;
                }
                Err(error) => return Err(format!("subscribe {host}: {error}")),
            }
        }
        Err(format!("{host} could not be subscribed on a sound device"))
    }

    fn unsubscribe_the_leaver(&mut self) -> Result<(), String> {
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
            self.reopened_for_the_book += 1;
            self.reopen()?;
        }
        self.model.lock().removed = true;
        Ok(())
    }

    fn publish(&mut self, tag: &str) -> Result<Option<Accepted>, String> {
        let accepted = self.call(vec![tag.to_owned()], |engine| {
            let receipt = engine.publish(event(tag))?;
            receipt.wait_timeout(DEADLINE).ok_or(Error::Closed)?.map(|accepted| vec![accepted])
        });
        accepted.map(|accepted| accepted.and_then(|all| all.first().copied()))
    }

    fn publish_many(&mut self, name: &str, size: usize) -> Result<(), String> {
        let tags: Vec<String> = (0..size).map(|place| format!("{name}.{place}")).collect();
        let events: Vec<Event> = tags.iter().map(|tag| event(tag)).collect();
        let accepted = self.call(tags, |engine| {
            engine.publish_many(events)?.wait_timeout(DEADLINE).ok_or(Error::Closed)?
        });
        accepted.map(drop)
    }

    /// Makes a call and keeps what was said of it. After trouble the device is healed, once it was
    /// seen to refuse another call.
    fn call(
        &mut self,
        tags: Vec<String>,
        publish: impl FnOnce(&Engine) -> wabahook::Result<Vec<Accepted>>,
    ) -> Result<Option<Vec<Accepted>>, String> {
        let place = self.model.lock().calls.len();
        let is_probe = tags.iter().any(|tag| tag.starts_with("probe"));
        self.model.lock().calls.push(Call { tags, fate: Fate::Pending });
        let (fate, accepted) = match publish(&self.engine) {
            Ok(accepted) => {
                let ids = accepted.iter().map(|one| one.id.to_string()).collect();
                (Fate::Accepted(ids), Some(accepted))
            }
            Err(Error::Busy { .. } | Error::Refused { .. }) => (Fate::Refused, None),
            Err(Error::Unknown { .. }) => (Fate::Unknown, None),
            Err(error) => return Err(format!("publish: {error:?}")),
        };
        self.model.lock().calls[place].fate = fate;
        if accepted.is_none() && !is_probe {
            self.publish(&format!("probe{place}.1"))?;
            self.heal()?;
        }
        Ok(accepted)
    }

    /// Heals the device, lets it fail a second time where the fault says so, and waits until the
    /// engine accepts again.
    fn heal(&mut self) -> Result<(), String> {
        self.faults.heal();
        if let Some(after) = self.again_after.take() {
            let seen = self.faults.seen();
            self.faults.fail_after(after);
            let deadline = Instant::now() + Duration::from_millis(700);
            while self.faults.seen() <= seen + after && Instant::now() < deadline {
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
                Err(Error::Busy { .. }) => {}
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

    /// Closes and opens the same store; the device is healed where it refuses that.
    fn reopen(&mut self) -> Result<(), String> {
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

    /// Waits until everything is taken that anybody takes now.
    fn let_arrive(&self) -> Result<(), String> {
        let waits: Vec<_> = self.engine.subscriptions();
        let waits = waits.iter().filter(|one| [LEAVER, BYSTANDER].contains(&one.name.as_str()));
        let waits: Vec<_> = waits.map(|one| one.id).collect();
        let takes_all = *self.receivers.takes_all.lock();
        until(&self.engine, &self.clock, |stats| {
            let lanes = stats.lanes.iter();
            let mut owing = lanes.filter(|lane| takes_all || !waits.contains(&lane.subscription));
            owing.all(|lane| lane.owed == 0)
        })
    }
}

const WINK: Duration = Duration::from_millis(2);

/// Lets time pass until it is so.
fn until(engine: &Engine, clock: &Manual, is_so: impl Fn(&Stats) -> bool) -> Result<(), String> {
    let notices = engine.notices();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let stats = engine.stats();
        if is_so(&stats) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("it did not arrive in time: {stats:?}"));
        }
        clock.advance_ms(1_000);
        let _ = notices.next_timeout(WINK);
    }
}

/// Opens what a power cut left, lets everybody take everything, and judges it all.
fn look(image: &Image) -> Result<(), String> {
    let receivers = Arc::new(Receivers::default());
    *receivers.takes_all.lock() = true;
    let clock = Arc::new(Manual::new(BEGIN_WALL_MS + 40_000_000, 5));
    let config = || config(Arc::new(image.store.clone()), clock.clone(), Arc::clone(&receivers));
    let engine = Engine::open(config()).map_err(|error| format!("opening: {error}"))?;
    until(&engine, &clock, |stats| stats.owed == 0)?;
    let names: BTreeSet<String> =
        engine.subscriptions().iter().map(|one| one.name.clone()).collect();
    engine.close(DEADLINE).map_err(|error| error.to_string())?;
    let mut arrivals = image.arrivals.clone();
    arrivals.extend(receivers.arrivals.lock().iter().cloned());
    judge(&image.before, &image.after, &arrivals)?;
    let missing: Vec<_> = image.before.subscribed.difference(&names).collect();
    let is_back = image.before.removed && names.contains(LEAVER);
    if is_back || !missing.is_empty() && !(image.after.removing && *missing == [LEAVER]) {
        return Err(format!("subscriptions are {names:?}: {:?}", image.before));
    }
    let again = Engine::open(config()).map_err(|error| format!("opening again: {error}"))?;
    match again.stats().recovered {
        0 => Ok(()),
        owed => Err(format!("{owed} deliveries came back after an orderly end")),
    }
}

/// Holds what arrived against what the host was told before, and did until after.
fn judge(before: &Model, after: &Model, arrivals: &[Arrival]) -> Result<(), String> {
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

/// What a family of tellings came to.
#[derive(Debug, Default)]
struct Totals {
    tellings: u64,
    images: u64,
    accepted: u64,
    refused: u64,
    unknown: u64,
    reopened_for_the_book: u64,
    broken: Vec<String>,
}

/// Tells the story with this fault; judges it while it lives, as it ends, and every image of it.
fn check(fault: Fault, wanted: std::ops::Range<u64>, totals: &Mutex<Totals>) {
    let mut telling = Telling::begin(fault, wanted);
    let told = telling.tell();
    let _ = telling.engine.close(DEADLINE);
    let model = telling.model.lock().clone();
    let arrivals = telling.receivers.arrivals.lock().clone();
    let mut verdicts = vec![("told", told.clone())];
    if told.is_ok() {
        verdicts.push(("alive", judge(&model, &model, &arrivals)));
    }
    let store = telling.memory.clone();
    let (before, after) = (model.clone(), model.clone());
    verdicts.push(("at the end", look(&Image { store, before, after, arrivals })));
    let images = std::mem::take(&mut *telling.film.images.lock());
    verdicts.extend(images.iter().map(|image| ("after a power cut", look(image))));
    let mut totals = totals.lock();
    totals.tellings += 1;
    totals.images += images.len() as u64;
    totals.reopened_for_the_book += telling.reopened_for_the_book;
    for call in &model.calls {
        match &call.fate {
            Fate::Accepted(ids) => totals.accepted += ids.len() as u64,
            Fate::Refused => totals.refused += 1,
            Fate::Unknown | Fate::Pending => totals.unknown += 1,
        }
    }
    let broken = verdicts.into_iter().filter_map(|(when, verdict)| Some((when, verdict.err()?)));
    totals.broken.extend(broken.map(|(when, why)| format!("{fault:?}, {when}: {why}")));
}

/// How many operations the story takes when nothing fails.
fn operations() -> u64 {
    let mut telling = Telling::begin(Fault::None, 0..0);
    let before = telling.faults.seen();
    telling.tell().unwrap();
    telling.faults.seen() - before
}

/// Checks every fault, several at a time because a stall mostly waits.
fn check_each(faults: Vec<(Fault, std::ops::Range<u64>)>) -> Totals {
    let (next, totals) = (AtomicU64::new(0), Mutex::default());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some((fault, wanted)) =
                    faults.get(next.fetch_add(1, Ordering::AcqRel) as usize)
                {
                    check(*fault, wanted.clone(), &totals);
                }
            });
        }
    });
    let totals = totals.into_inner();
    println!("{totals:#?}");
    assert!(totals.broken.is_empty(), "{}", totals.broken.join("\n"));
    totals
}

#[test]
fn a_power_cut_after_any_write_or_sync_loses_nothing_promised() {
    let count = operations();
    let totals = check_each(vec![(Fault::None, 0..count + 20)]);
    assert!(totals.images >= count, "{} images of {count} operations", totals.images);
}

#[test]
fn an_error_at_any_write_or_sync_loses_nothing_promised() {
    let count = operations();
    let totals = check_each((0..count).map(|k| (Fault::At(k), k..k + 6)).collect());
    assert!(totals.refused > 0 && totals.unknown > 0 && totals.images > 0, "{totals:?}");
}

#[test]
fn an_answer_lost_at_any_write_or_sync_loses_nothing_promised() {
    let count = operations();
    let totals = check_each((0..count).map(|k| (Fault::AnswerLost(k), k..k + 6)).collect());
    assert!(totals.refused > 0 && totals.unknown > 0 && totals.images > 0, "{totals:?}");
}

#[test]
fn a_device_that_fails_again_while_the_engine_recovers_is_recovered_from_too() {
    let count = operations();
    let twice = (0..count).map(|k| (Fault::Twice(k, 1 + k % 3), 0..0));
    let totals = check_each(twice.collect());
    assert!(totals.refused > 0 && totals.unknown > 0, "{totals:?}");
}
