//! Tests of the outbox through its handle, on the memory store and on sled. This file has what the tests share;
//! each file below checks one promise.

mod acceptance;
mod atomicity;
mod bounds;
mod compaction;
mod damage;
mod dead_letters;
mod dedup;
mod delivery_records;
mod device;
mod reads;
mod stores;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use roaring::{RoaringBitmap, RoaringTreemap};

use self::stores::FullDisk;
use super::batch::CommandQueue;
use super::codec::{encoded, heads, keys, payload::PAGE_BYTES};
use super::command::CommitterCommand;
use super::dedup::database::DEDUP_DATABASE;
use super::{generations as databases, *};
use crate::account::AccountLimits;
use crate::attempt::{DeliveryId, Reason, Record, RetryState, StoredDeadLetter};
use crate::clock::{Clock, ManualClock};
use crate::config::{Limits, OnDamage};
use crate::error::Error;
use crate::event::{Accepted, Catalogue, EventId, StoredEvent};
use crate::outbox::accounts::shares::AccountShares;
use crate::receipt::{Receipt, receipt_pair};
use crate::store::{Batch, FaultInjectingStore, FaultPlan, Memory, Sled, Store};
use crate::subscription::SubscriptionId;
use crate::transport::Failure;

/// An outbox and the channel of its commit events.
struct RunningOutbox {
    outbox: Outbox,
    committed: crossbeam_channel::Receiver<CommitEvent>,
}

fn open(store: impl Store) -> (RunningOutbox, RecoveredOutbox) {
    open_with(store, &Limits::default())
}

fn open_with(store: impl Store, limits: &Limits) -> (RunningOutbox, RecoveredOutbox) {
    open_owing(store, limits, Box::new(|_| HashMap::new()))
}

/// Opens an outbox that asks `owing` what the engine still owes.
fn open_owing(
    store: impl Store,
    limits: &Limits,
    owing: OwedQuery,
) -> (RunningOutbox, RecoveredOutbox) {
    let (opened, recovered) = read(store, limits, OnDamage::Refuse).unwrap();
    (start(opened, limits, owing), recovered)
}

/// An outbox whose device fails as its plan says.
fn open_faulty() -> (RunningOutbox, Memory, Arc<FaultPlan>) {
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    (open(faulty).0, store, faults)
}

/// An outbox of [`small`] limits, and the ledger that says what is owed.
fn open_small() -> (RunningOutbox, Memory, OwedLedger) {
    let (store, ledger) = (Memory::default(), OwedLedger::default());
    (open_owing(store.clone(), &small(), ledger.owing()).0, store, ledger)
}

fn start(opened: OpenedOutbox, limits: &Limits, owing: OwedQuery) -> RunningOutbox {
    start_at(opened, limits, owing, Arc::new(ManualClock::new(WALL_MS, 3)))
}

fn start_at(
    opened: OpenedOutbox,
    limits: &Limits,
    owing: OwedQuery,
    clock: Arc<ManualClock>,
) -> RunningOutbox {
    let (outbox, parts) = opened.prepare(limits, Arc::default());
    let (sender, committed) = crossbeam_channel::unbounded();
    let listener: CommitListener = Box::new(move |event| drop(sender.send(event)));
    outbox.start(parts, clock, owing, listener).unwrap();
    RunningOutbox { outbox, committed }
}

const WALL_MS: u64 = 1_700_000_000_000;

fn read(
    store: impl Store,
    limits: &Limits,
    on_damage: OnDamage,
) -> Result<(OpenedOutbox, RecoveredOutbox), Error> {
    read_ordered(store, limits, on_damage, RoaringBitmap::new())
}

/// Reads an outbox at the time of a clock.
fn read_at(store: impl Store, limits: &Limits, clock: &ManualClock) -> OpenedOutbox {
    let (store, catalogue) = (Arc::new(store), &Catalogue::default());
    let (on_damage, ordered) = (OnDamage::Refuse, RoaringBitmap::new());
    let shares = shares_of(limits);
    let options = OutboxOptions { store, catalogue, limits, on_damage, ordered, shares, clock };
    options.read().unwrap().0
}

/// Opens an outbox at the time of a clock.
fn open_at(store: impl Store, limits: &Limits, clock: &Arc<ManualClock>) -> RunningOutbox {
    let opened = read_at(store, limits, clock);
    start_at(opened, limits, Box::new(|_| HashMap::new()), Arc::clone(clock))
}

/// An outbox without a committer thread: tests decide when it works.
fn open_stepped(store: impl Store, limits: &Limits, owing: OwedQuery) -> Outbox {
    open_stepped_at(store, limits, owing, &Arc::new(ManualClock::new(WALL_MS, 3)))
}

fn open_stepped_at(
    store: impl Store,
    limits: &Limits,
    owing: OwedQuery,
    clock: &Arc<ManualClock>,
) -> Outbox {
    let (outbox, parts) = read_at(store, limits, clock).prepare(limits, Arc::default());
    outbox.start_stepped(parts, Arc::clone(clock) as Arc<dyn Clock>, owing, Box::new(drop));
    outbox
}

/// Reads an outbox in which the subscriptions in `ordered` need keys.
fn read_ordered(
    store: impl Store,
    limits: &Limits,
    on_damage: OnDamage,
    ordered: RoaringBitmap,
) -> Result<(OpenedOutbox, RecoveredOutbox), Error> {
    let clock = &ManualClock::new(WALL_MS, 3);
    let (store, catalogue, shares) = (Arc::new(store), &Catalogue::default(), shares_of(limits));
    let options = OutboxOptions { store, catalogue, limits, on_damage, ordered, shares, clock };
    options.read()
}

/// The shares of two accounts, which may each take half.
fn shares_of(limits: &Limits) -> Arc<AccountShares> {
    let shares = AccountShares::new(limits, 100, AccountLimits::default());
    ["acme", "beta"].iter().for_each(|account| shares.put(account, AccountLimits::default()));
    Arc::new(shares)
}

pub(super) fn routed(payload: Vec<u8>, targets: &[u32]) -> RoutedEvent {
    let event = StoredEvent {
        number: "919999999999".parse().ok(),
        waba: Some("77".to_owned()),
        key_hash: 5,
        payload,
        ..StoredEvent::example()
    };
    let targets = targets.iter().copied().map(SubscriptionId).collect();
    RoutedEvent { event, dedup: None, targets, traced: None }
}

fn submit(outbox: &Outbox, events: Vec<RoutedEvent>) -> Receipt<Vec<Accepted>> {
    let (sender, receipt) = receipt_pair();
    outbox.admit(events.len(), events.iter().map(|one| one.event.payload.len()).sum()).unwrap();
    let (events, claims) = (events.into(), smallvec::SmallVec::new());
    outbox.submit(Submission { events, claims, sender: SubmissionSender::Many(sender) });
    receipt
}

fn publish(outbox: &Outbox, payload: Vec<u8>, targets: &[u32]) -> u64 {
    submit(outbox, vec![routed(payload, targets)]).wait().unwrap()[0].id.sequence()
}

fn delivery(sequence: u64, id: u32) -> DeliveryId {
    DeliveryId { sequence, subscription: SubscriptionId(id) }
}

fn owed(recovered: &RecoveredOutbox) -> BTreeSet<(u64, u32)> {
    let pairs = recovered.owed.iter().flat_map(|(id, set)| set.iter().map(|s| (s, id.0)));
    pairs.collect()
}

fn retry_state() -> RetryState {
    RetryState { attempts: 2, age_ms: 30, due_wall_ms: 40, saved_wall_ms: 10 }
}

fn told(running: &RunningOutbox, expected: fn(&CommitEvent) -> bool) -> CommitEvent {
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
    *sealed.last_mut().unwrap() ^= 1;
    let mut batch = Batch::default();
    batch.put(key, sealed);
    database.commit(vec![batch]).unwrap();
}

fn faulty(store: &Memory) -> (FaultInjectingStore, Arc<FaultPlan>) {
    let faults = Arc::new(FaultPlan::default());
    (FaultInjectingStore::new(Arc::new(store.clone()), Arc::clone(&faults)), faults)
}

/// The engine's view of the outbox: what is owed.
#[derive(Default, Clone)]
struct OwedLedger(Arc<Mutex<HashMap<SubscriptionId, RoaringTreemap>>>);

impl OwedLedger {
    fn owing(&self) -> OwedQuery {
        let ledger = self.clone();
        Box::new(move |sequences| {
            let all = ledger.0.lock();
            let among = all.iter().map(|(id, owed)| (*id, owed & sequences));
            among.filter(|(_, owed)| !owed.is_empty()).collect()
        })
    }

    /// Publishes an event that is owed from then on.
    fn publish(&self, outbox: &Outbox, payload: Vec<u8>, ids: &[u32]) -> u64 {
        let sequence = publish(outbox, payload, ids);
        self.accept(sequence, ids);
        sequence
    }

    /// Publishes events that stay owed, until there are so many generations.
    fn fill(&self, outbox: &Outbox, generations: usize) {
        while outbox.usage().generations < generations {
            self.publish(outbox, vec![1; 900], &[1]);
        }
    }

    fn accept(&self, sequence: u64, ids: &[u32]) {
        for id in ids {
            self.0.lock().entry(SubscriptionId(*id)).or_default().insert(sequence);
        }
    }

    fn end(&self, outbox: &Outbox, record: Record) {
        let Some(delivery) = record.ended() else { return outbox.record(record) };
        // Like the engine: removed from what is owed and queued at the same moment.
        let mut all = self.0.lock();
        all.entry(delivery.subscription).or_default().remove(delivery.sequence);
        outbox.record(record);
    }

    fn pairs(&self) -> BTreeSet<(u64, u32)> {
        let all = self.0.lock();
        all.iter().flat_map(|(id, set)| set.iter().map(|s| (s, id.0))).collect()
    }
}

fn letter(sequence: u64, id: u32, at_wall_ms: u64) -> StoredDeadLetter {
    let reason = Reason::Status(404);
    StoredDeadLetter { delivery: delivery(sequence, id), reason, attempts: 1, at_wall_ms }
}

/// Small generations, so that a test fills many of them.
fn small() -> Limits {
    Limits { generation_bytes: 20_000, ..Limits::default() }
}

fn generations(store: &Memory) -> usize {
    store.list().unwrap().iter().filter(|name| databases::number_of(name).is_some()).count()
}

/// Publishes and settles for a bystander until a generation is gone, and everything alive in it was copied.
fn churn(outbox: &Outbox, ledger: &OwedLedger, store: &Memory, gone: u64) {
    for _ in 0..600 {
        let sequence = ledger.publish(outbox, vec![1; 900], &[9]);
        ledger.end(outbox, Record::Settle(delivery(sequence, 9)));
        if !store.list().unwrap().contains(&databases::name_of(gone)) {
            return;
        }
    }
    panic!("generation {gone} is still there: {:?}", outbox.usage());
}
