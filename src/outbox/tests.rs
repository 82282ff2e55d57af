//! Checks the outbox as its users see it, on the memory store and on sled; here is what the checks
//! share, and each file below is one promise.

mod acceptance;
mod damage;
mod dedup;
mod device;
mod generations;
mod letters;
mod wholeness;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::*;
use crate::attempt::{DeliveryId, Failure, Letter, Reason, RetryState};
use crate::clock::Manual;
use crate::event::Accepted;
use crate::store::{Batch, Faults, Faulty, Memory, Sled, Store};

/// An outbox with the channel on which it tells what it committed.
struct Running {
    outbox: Outbox,
    committed: crossbeam_channel::Receiver<Committed>,
}

fn open(store: impl Store) -> (Running, Recovered) {
    open_with(store, &Limits::default())
}

fn open_with(store: impl Store, limits: &Limits) -> (Running, Recovered) {
    open_owing(store, limits, Box::new(|_| HashMap::new()))
}

/// Opens one that is told by `owing` what the engine still owes.
fn open_owing(store: impl Store, limits: &Limits, owing: Owing) -> (Running, Recovered) {
    let clock = Arc::new(Manual::new(WALL_MS, 3));
    let (opened, recovered) = read(store, limits, OnDamage::Refuse).unwrap();
    let (outbox, unstarted) = opened.prepare(limits);
    let (sender, committed) = crossbeam_channel::unbounded();
    let sink: Sink = Box::new(move |told| drop(sender.send(told)));
    outbox.start(unstarted, clock, owing, sink).unwrap();
    (Running { outbox, committed }, recovered)
}

const WALL_MS: u64 = 1_700_000_000_000;

fn read(
    store: impl Store,
    limits: &Limits,
    on_damage: OnDamage,
) -> crate::error::Result<(Opened, Recovered)> {
    let clock = Manual::new(WALL_MS, 3);
    let (store, catalogue) = (Arc::new(store), &Catalogue::default());
    let ordered = RoaringBitmap::new();
    Opened::read(Setting { store, catalogue, limits, on_damage, ordered, clock: &clock })
}

fn matched(payload: Vec<u8>, targets: &[u32]) -> Matched {
    Matched {
        account: "acme".into(),
        kind: Catalogue::default().canonical("MESSAGE_RECEIVED").unwrap(),
        number: "919999999999".parse().ok(),
        waba: Some("77".to_owned()),
        key_hash: 5,
        dedup: None,
        targets: targets.iter().copied().map(SubscriptionId).collect(),
        payload,
    }
}

fn submit(outbox: &Outbox, events: Vec<Matched>) -> Receipt<Vec<Accepted>> {
    let (promised, receipt) = promise();
    outbox.admit(events.len(), events.iter().map(|event| event.payload.len()).sum()).unwrap();
    outbox.submit(Submission { events, promised: Answer::Many(promised) });
    receipt
}

fn publish(outbox: &Outbox, payload: Vec<u8>, targets: &[u32]) -> u64 {
    submit(outbox, vec![matched(payload, targets)]).wait().unwrap()[0].id.sequence()
}

fn delivery(sequence: u64, id: u32) -> DeliveryId {
    DeliveryId { sequence, subscription: SubscriptionId(id) }
}

fn owed(recovered: &Recovered) -> BTreeSet<(u64, u32)> {
    let pairs = recovered.owed.iter().flat_map(|(id, set)| set.iter().map(|s| (s, id.0)));
    pairs.collect()
}

fn retry_state() -> RetryState {
    RetryState { attempts: 2, age_ms: 30, due_wall_ms: 40, saved_wall_ms: 10 }
}

fn told(running: &Running, expected: fn(&Committed) -> bool) -> Committed {
    let deadline = Duration::from_secs(20);
    loop {
        let told = running.committed.recv_timeout(deadline).expect("told in time");
        if expected(&told) {
            return told;
        }
    }
}

/// Flips a bit in the last record of a kind.
fn damage(store: &Memory, name: &str, kind: &[u8]) {
    let database = store.open(name).unwrap();
    let (key, mut sealed) = database.last(kind, &keys::numbered(kind, u64::MAX)).unwrap().unwrap();
    sealed[9] ^= 1;
    let mut batch = Batch::default();
    batch.put(key, sealed);
    database.apply(batch).unwrap();
    database.sync().unwrap();
}

fn faulty(store: &Memory) -> (Faulty, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    (Faulty::new(Arc::new(store.clone()), Arc::clone(&faults)), faults)
}

/// An engine's side of the outbox: what it is told is owed, and what it says of it.
#[derive(Default, Clone)]
struct Ledger(Arc<Mutex<HashMap<SubscriptionId, RoaringTreemap>>>);

impl Ledger {
    fn owing(&self) -> Owing {
        let ledger = self.clone();
        Box::new(move |sequences| {
            let all = ledger.0.lock();
            let among = all.iter().map(|(id, owed)| (*id, owed & sequences));
            among.filter(|(_, owed)| !owed.is_empty()).collect()
        })
    }

    fn accept(&self, sequence: u64, ids: &[u32]) {
        for id in ids {
            self.0.lock().entry(SubscriptionId(*id)).or_default().insert(sequence);
        }
    }

    fn end(&self, outbox: &Outbox, record: Record) {
        let delivery = match &record {
            Record::Settle(delivery) | Record::SettleMain(delivery) => *delivery,
            Record::Dead(letter) => letter.delivery,
            Record::Retry(..) | Record::Revive(_) | Record::Tried(..) | Record::Health(..) => {
                return outbox.record(record);
            }
        };
        // As the engine does: out of the books and into the queue at one moment.
        let mut all = self.0.lock();
        all.entry(delivery.subscription).or_default().remove(delivery.sequence);
        outbox.record(record);
    }

    fn pairs(&self) -> BTreeSet<(u64, u32)> {
        let all = self.0.lock();
        all.iter().flat_map(|(id, set)| set.iter().map(|s| (s, id.0))).collect()
    }
}

fn letter(sequence: u64, id: u32, at_wall_ms: u64) -> Letter {
    let reason = Reason::Status(404);
    Letter { delivery: delivery(sequence, id), reason, attempts: 1, at_wall_ms }
}

/// Small generations, so that a test fills many.
fn small() -> Limits {
    Limits { generation_bytes: 20_000, ..Limits::default() }
}

fn generations(store: &Memory) -> usize {
    store.list().unwrap().iter().filter(|name| row::number_of(name).is_some()).count()
}

/// A store whose databases open at any time, while the writes to some of them fail.
#[derive(Debug, Clone, Default)]
struct Full {
    inner: Memory,
    /// The databases that take no writes: those whose name begins so.
    refuses: Arc<Mutex<Option<&'static str>>>,
    /// Whether a refused write takes effect all the same: its answer is lost.
    takes_effect: bool,
}

#[derive(Debug)]
struct FullDatabase {
    inner: Arc<dyn Database>,
    name: String,
    refuses: Arc<Mutex<Option<&'static str>>>,
    takes_effect: bool,
    failed: std::sync::atomic::AtomicBool,
}

type Done<T> = std::result::Result<T, crate::store::Failure>;

impl Store for Full {
    fn open(&self, name: &str) -> Done<Arc<dyn Database>> {
        let (inner, name) = (self.inner.open(name)?, name.to_owned());
        let refuses = Arc::clone(&self.refuses);
        let (takes_effect, failed) = (self.takes_effect, false.into());
        Ok(Arc::new(FullDatabase { inner, name, refuses, takes_effect, failed }))
    }

    fn list(&self) -> Done<Vec<String>> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> Done<()> {
        self.inner.remove(name)
    }

    fn set_aside(&self, name: &str) -> Done<String> {
        self.inner.set_aside(name)
    }
}

impl FullDatabase {
    fn check(&self) -> Done<()> {
        let refuses = self.refuses.lock().is_some_and(|prefix| self.name.starts_with(prefix));
        if refuses || self.failed.load(Ordering::Acquire) {
            self.failed.store(true, Ordering::Release);
            return Err(crate::store::Failure::io(std::io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    fn meet(&self, work: impl FnOnce() -> Done<()>) -> Done<()> {
        let refused = self.check();
        if refused.is_ok() || self.takes_effect {
            work()?;
        }
        refused
    }
}

impl Database for FullDatabase {
    fn apply(&self, batch: Batch) -> Done<()> {
        self.meet(|| self.inner.apply(batch))
    }

    fn sync(&self) -> Done<()> {
        self.meet(|| self.inner.sync())
    }

    fn get(&self, key: &[u8]) -> Done<Option<Vec<u8>>> {
        self.inner.get(key)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut crate::store::Visit<'_>) -> Done<()> {
        self.inner.scan(prefix, from, visit)
    }

    fn last(&self, prefix: &[u8], to: &[u8]) -> Done<Option<crate::store::Pair>> {
        self.inner.last(prefix, to)
    }
}

/// Publishes and settles until the generation that is newest now is gone.
fn churn(running: &Running, ledger: &Ledger, store: &Memory, gone: u64) {
    for _ in 0..400 {
        let sequence = publish(&running.outbox, vec![1; 900], &[1]);
        ledger.accept(sequence, &[1]);
        ledger.end(&running.outbox, Record::Settle(delivery(sequence, 1)));
        if !store.list().unwrap().contains(&row::name_of(gone)) {
            return;
        }
    }
    panic!("generation {gone} is still there: {:?}", running.outbox.holding());
}
