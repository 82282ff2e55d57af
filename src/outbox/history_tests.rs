//! Checks what is kept of deliveries that fail: changes together, histories, health and keys, each
//! over crashes and over generations, with a bystander.

use crossbeam_channel::Receiver;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::*;
use crate::attempt::{LaneHealth, Letter, Reason, RetryState, Tried};
use crate::clock::Manual;
use crate::store::{Batch, Faults, Faulty, Memory, Operation, Pair, Store, Visit};

const WALL_MS: u64 = 1_700_000_000_000;

/// An outbox, what it told, and an engine's side of it: what is owed.
struct Bed {
    outbox: Outbox,
    committed: Receiver<Committed>,
    owing: Arc<Mutex<HashMap<SubscriptionId, RoaringTreemap>>>,
}

/// Small generations, so that a test fills many.
fn small() -> Limits {
    Limits { generation_bytes: 20_000, ..Limits::default() }
}

/// Reads what an outbox holds, without starting it.
fn read(store: impl Store) -> (Opened, Recovered) {
    let (clock, limits) = (Manual::new(WALL_MS, 3), small());
    let (store, catalogue) = (Arc::new(store), &Catalogue::default());
    let (on_damage, ordered) = (OnDamage::Refuse, [1, 4].into_iter().collect());
    let limits = &limits;
    Opened::read(Setting { store, catalogue, limits, on_damage, ordered, clock: &clock }).unwrap()
}

fn open(store: impl Store) -> (Bed, Recovered) {
    let (opened, recovered) = read(store);
    let (outbox, unstarted) = opened.prepare(&small());
    let owing = Arc::new(Mutex::new(recovered.owed.clone()));
    let known = Arc::clone(&owing);
    let asked: Owing = Box::new(move |sequences| {
        let all = known.lock();
        let among = all.iter().map(|(id, owed)| (*id, owed & sequences));
        among.filter(|(_, owed)| !owed.is_empty()).collect()
    });
    let (sender, committed) = crossbeam_channel::unbounded();
    let sink: Sink = Box::new(move |told| drop(sender.send(told)));
    outbox.start(unstarted, Arc::new(Manual::new(WALL_MS, 3)), asked, sink).unwrap();
    (Bed { outbox, committed, owing }, recovered)
}

impl Bed {
    fn publish_keyed(&self, bytes: usize, ids: &[u32], key_hash: u64) -> u64 {
        let matched = Matched {
            account: "acme".into(),
            kind: Catalogue::default().canonical("MESSAGE_RECEIVED").unwrap(),
            number: None,
            waba: None,
            key_hash,
            dedup: None,
            targets: ids.iter().copied().map(SubscriptionId).collect(),
            payload: vec![1; bytes],
        };
        let (promised, receipt) = promise();
        self.outbox.admit(1, bytes).unwrap();
        let promised = Answer::One(promised);
        self.outbox.submit(Submission { events: vec![matched], promised });
        let sequence = receipt.wait().unwrap().id.sequence();
        for id in ids {
            self.owing.lock().entry(SubscriptionId(*id)).or_default().insert(sequence);
        }
        sequence
    }

    fn publish(&self, ids: &[u32]) -> u64 {
        self.publish_keyed(100, ids, 0)
    }

    /// Ends a delivery as the engine does: out of the books and into the queue at one moment.
    fn end(&self, sequence: u64, id: u32, record: Record) {
        let mut all = self.owing.lock();
        all.entry(SubscriptionId(id)).or_default().remove(sequence);
        self.outbox.record(record);
    }

    /// Waits until everything recorded so far is on the device.
    fn settle_all(&self) {
        self.publish_keyed(1, &[], 0);
        self.outbox.forget(SubscriptionId(99)).wait().unwrap();
    }

    /// Publishes and settles for a bystander until a generation is gone, and everything in it that
    /// counts was copied.
    fn churn(&self, store: &Memory, gone: u64) {
        for _ in 0..600 {
            let sequence = self.publish_keyed(900, &[9], 0);
            self.end(sequence, 9, Record::Settle(delivery(sequence, 9)));
            if !store.list().unwrap().contains(&row::name_of(gone)) {
                return;
            }
        }
        panic!("generation {gone} is still there: {:?}", self.outbox.holding());
    }

    fn history(&self, sequence: u64, id: u32) -> Vec<Tried> {
        self.outbox.history(delivery(sequence, id)).unwrap()
    }

    fn told_settled(&self) -> Vec<DeliveryId> {
        let settled = self.committed.try_iter().map(|told| match told {
            Committed::Settled(deliveries) => deliveries,
            _ => Vec::new(),
        });
        settled.flatten().collect()
    }
}

fn delivery(sequence: u64, id: u32) -> DeliveryId {
    DeliveryId { sequence, subscription: SubscriptionId(id) }
}

fn letter(sequence: u64, id: u32, reason: Reason) -> Letter {
    Letter { delivery: delivery(sequence, id), reason, attempts: 1, at_wall_ms: WALL_MS }
}

fn tried(number: u32) -> Tried {
    let excerpt = vec![7; number as usize];
    Tried { number, at_ms: 40, took_ms: 5, reason: Reason::Status(503), excerpt }
}

fn retry_state() -> RetryState {
    RetryState { attempts: 2, age_ms: 30, due_wall_ms: 40, saved_wall_ms: 10 }
}

fn health(failures_in_row: u32) -> LaneHealth {
    LaneHealth { failures_in_row, slow: true, trips: 2, ..LaneHealth::default() }
}

fn owed(recovered: &Recovered) -> BTreeSet<(u64, u32)> {
    let pairs = recovered.owed.iter().flat_map(|(id, set)| set.iter().map(|s| (s, id.0)));
    pairs.collect()
}

fn faulty(store: &Memory) -> (Faulty, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    (Faulty::new(Arc::new(store.clone()), Arc::clone(&faults)), faults)
}

/// The main delivery of an event is to 1; 2 to 17 wait for it.
const MAIN_AND_DEPENDENTS: std::ops::RangeInclusive<u32> = 1..=17;

fn deaths(sequence: u64) -> Vec<Record> {
    let first = Record::Tried(delivery(sequence, 1), tried(1));
    let dead = MAIN_AND_DEPENDENTS.map(|id| {
        let reason = if id == 1 { Reason::Status(404) } else { Reason::Gate };
        Record::Dead(letter(sequence, id, reason))
    });
    std::iter::once(first).chain(dead).collect()
}

/// Cuts the power after every batch that the device was not made to keep, and checks that of the
/// given event either all deliveries are owed, or none; says how often which.
fn all_or_none(store: &Memory, sequence: u64, bystander: u64) -> (usize, usize) {
    let (mut all, mut none) = (0, 0);
    for kept in 0..=store.unsynced_batches() {
        let (_, recovered) = read(store.crash_keeping(kept));
        let found = owed(&recovered);
        assert!(found.contains(&(bystander, 1)), "the bystander is owed, {kept} batches kept");
        match MAIN_AND_DEPENDENTS.filter(|id| found.contains(&(sequence, *id))).count() {
            0 => none += 1,
            17 => all += 1,
            count => panic!("{count} of 17 deliveries are owed with {kept} batches kept"),
        }
    }
    (all, none)
}

#[test]
fn deaths_together_and_revivals_together_are_seen_whole_or_not_at_all_wherever_the_power_goes() {
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    let (bed, _) = open(faulty);
    let ids: Vec<u32> = MAIN_AND_DEPENDENTS.collect();
    let sequence = bed.publish(&ids);
    let bystander = bed.publish(&[1]);
    // Retries before the deaths, so that each death is two operations.
    for id in MAIN_AND_DEPENDENTS {
        bed.outbox.record(Record::Retry(delivery(sequence, id), retry_state()));
    }
    bed.settle_all();
    faults.skip_syncs();
    // As many records before it as let a batch end within the deaths if they were cut like others.
    for _ in 0..45 {
        bed.outbox.record(Record::Retry(delivery(bystander, 1), retry_state()));
    }
    bed.outbox.record_together(deaths(sequence));
    bed.settle_all();
    let batches = store.unsynced_batches();
    let (all, none) = all_or_none(&store, sequence, bystander);
    assert!(batches > 1 && all > 0 && none > 0, "{batches} batches: {all} whole, {none} gone");

    let again = store.crash_keeping(batches);
    let (faulty, faults) = self::faulty(&again);
    let (bed, _) = open(faulty);
    faults.skip_syncs();
    for _ in 0..45 {
        bed.outbox.record(Record::Retry(delivery(bystander, 1), retry_state()));
    }
    let together = MAIN_AND_DEPENDENTS.map(|id| delivery(sequence, id)).collect();
    assert_eq!(bed.outbox.revive(vec![together]).wait().unwrap(), 17);
    let (all, none) = all_or_none(&again, sequence, bystander);
    assert!(all > 0 && none > 0, "{all} whole, {none} gone");
}

#[test]
fn deaths_together_stay_dead_through_generations_and_the_bystander_owed() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    let ids: Vec<u32> = MAIN_AND_DEPENDENTS.collect();
    let (sequence, bystander) = (bed.publish(&ids), bed.publish(&[1]));
    for id in MAIN_AND_DEPENDENTS {
        bed.owing.lock().get_mut(&SubscriptionId(id)).unwrap().remove(sequence);
    }
    bed.outbox.record_together(deaths(sequence));
    (1..4).for_each(|gone| bed.churn(&store, gone));
    bed.settle_all();
    let (_, recovered) = read(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::from([(bystander, 1)]));
    assert_eq!(bed.outbox.letters_before(None, 99).len(), 17);
    assert_eq!(bed.history(sequence, 1), [tried(1)]);
}

#[test]
fn the_end_of_a_main_is_told_when_it_is_durable_and_not_before_and_of_no_other() {
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    let (bed, _) = open(faulty);
    let sequence = bed.publish(&[1, 2]);
    faults.hold_syncs();
    bed.end(sequence, 1, Record::SettleMain(delivery(sequence, 1)));
    bed.end(sequence, 2, Record::Settle(delivery(sequence, 2)));
    while store.unsynced_batches() == 0 {
        std::thread::yield_now();
    }
    assert_eq!(bed.told_settled(), [], "it is written and not synced");
    faults.release_syncs();
    bed.settle_all();
    assert_eq!(bed.told_settled(), [delivery(sequence, 1)]);
    let (_, recovered) = read(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::new());
}

#[test]
fn the_end_of_a_main_that_the_device_refused_is_told_when_the_device_took_it() {
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    let (bed, _) = open(faulty);
    let (sequence, bystander) = (bed.publish(&[1, 2]), bed.publish(&[1]));
    faults.fail_after(0);
    bed.end(sequence, 1, Record::SettleMain(delivery(sequence, 1)));
    let deadline = std::time::Duration::from_secs(20);
    let mut told = Vec::new();
    while !told.iter().any(|told| matches!(told, Committed::Stalled(_))) {
        told.push(bed.committed.recv_timeout(deadline).unwrap());
    }
    assert!(!told.iter().any(|told| matches!(told, Committed::Settled(_))), "{told:?}");
    faults.heal();
    while !told.iter().any(|told| matches!(told, Committed::Settled(_))) {
        told.push(bed.committed.recv_timeout(deadline).unwrap());
    }
    let (_, recovered) = read(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::from([(sequence, 2), (bystander, 1)]));
}

#[test]
fn a_history_holds_the_newest_attempts_in_their_order_after_a_crash_and_through_generations() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    let (sequence, bystander) = (bed.publish(&[1]), bed.publish(&[1]));
    let fail = |sequence, number| {
        bed.outbox.record(Record::Tried(delivery(sequence, 1), tried(number)));
        bed.outbox.record(Record::Retry(delivery(sequence, 1), retry_state()));
    };
    (1..=3).for_each(|number| fail(sequence, number));
    fail(bystander, 1);
    bed.churn(&store, 1);
    // The same slots as before: what was copied must not stand before what is newer.
    (4..=10).for_each(|number| fail(sequence, number));
    bed.settle_all();
    let newest: Vec<Tried> = (3..=10).map(tried).collect();
    let check = |bed: &Bed| {
        assert_eq!(bed.history(sequence, 1), newest);
        assert_eq!(bed.history(bystander, 1), [tried(1)]);
        assert_eq!(bed.history(sequence, 2), [], "nobody else's");
    };
    check(&bed);
    check(&open(store.crash()).0);
    (2..5).for_each(|gone| bed.churn(&store, gone));
    check(&bed);
    let (reopened, recovered) = open(store.crash());
    check(&reopened);
    assert_eq!(recovered.retries.len(), 2);
}

#[test]
fn a_history_is_there_in_any_prefix_that_a_crash_leaves_and_never_of_another() {
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    let (bed, _) = open(faulty);
    let (sequence, bystander) = (bed.publish(&[1]), bed.publish(&[1]));
    bed.outbox.record(Record::Tried(delivery(bystander, 1), tried(1)));
    bed.settle_all();
    faults.skip_syncs();
    (1..=100).for_each(|n| bed.outbox.record(Record::Tried(delivery(sequence, 1), tried(n))));
    bed.settle_all();
    let batches = store.unsynced_batches();
    assert!(batches > 1);
    for kept in 0..=batches {
        let (cut, _) = open(store.crash_keeping(kept));
        let numbers: Vec<u32> = cut.history(sequence, 1).iter().map(|t| t.number).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
        assert!(numbers.len() <= 8, "{numbers:?}");
        if kept == batches {
            assert_eq!(numbers, (93..=100).collect::<Vec<_>>());
        }
        assert_eq!(cut.history(bystander, 1), [tried(1)]);
    }
}

#[test]
fn a_dead_letter_keeps_its_history_and_a_settled_or_revived_delivery_has_none() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    let [dead, settled, revived] = [0; 3].map(|_| bed.publish(&[1]));
    for sequence in [dead, settled, revived] {
        for number in 1..=2 {
            bed.outbox.record(Record::Tried(delivery(sequence, 1), tried(number)));
            bed.outbox.record(Record::Retry(delivery(sequence, 1), retry_state()));
        }
    }
    for sequence in [dead, revived] {
        bed.end(sequence, 1, Record::Dead(letter(sequence, 1, Reason::Status(404))));
    }
    bed.end(settled, 1, Record::Settle(delivery(settled, 1)));
    bed.settle_all();
    assert_eq!(bed.outbox.revive(vec![vec![delivery(revived, 1)]]).wait().unwrap(), 1);
    assert_eq!(bed.outbox.revive(vec![vec![delivery(revived, 1)]]).wait().unwrap(), 0);
    bed.owing.lock().entry(SubscriptionId(1)).or_default().insert(revived);
    let check = |bed: &Bed| {
        assert_eq!(bed.history(dead, 1), [tried(1), tried(2)]);
        assert_eq!((bed.history(settled, 1), bed.history(revived, 1)), (vec![], vec![]));
    };
    check(&bed);
    let (reopened, recovered) = open(store.crash());
    check(&reopened);
    assert_eq!(owed(&recovered), BTreeSet::from([(revived, 1)]));
    assert_eq!(recovered.retries, [], "it starts anew");
    (1..4).for_each(|gone| bed.churn(&store, gone));
    check(&bed);
    check(&open(store.crash()).0);
    bed.outbox.record(Record::Tried(delivery(revived, 1), tried(1)));
    bed.settle_all();
    assert_eq!(open(store.crash()).0.history(revived, 1), [tried(1)]);
}

#[test]
fn a_retry_state_from_before_a_revival_does_not_come_back_from_an_older_generation() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    let (sequence, bystander) = (bed.publish(&[1]), bed.publish(&[1]));
    for sequence in [sequence, bystander] {
        bed.outbox.record(Record::Retry(delivery(sequence, 1), retry_state()));
    }
    // What is owed in the first generation keeps it, while others are begun.
    while bed.outbox.holding().generations < 3 {
        bed.publish_keyed(900, &[1], 0);
    }
    bed.end(sequence, 1, Record::Dead(letter(sequence, 1, Reason::Status(404))));
    bed.settle_all();
    bed.outbox.revive(vec![vec![delivery(sequence, 1)]]).wait().unwrap();
    let (_, recovered) = read(store.crash());
    assert!(owed(&recovered).contains(&(sequence, 1)));
    assert_eq!(recovered.retries, [(delivery(bystander, 1), retry_state())]);
    bed.outbox.record(Record::Retry(delivery(sequence, 1), retry_state()));
    bed.settle_all();
    assert_eq!(read(store.crash()).1.retries.len(), 2, "one from after it counts");
}

#[test]
fn a_letter_that_is_dropped_takes_its_history_with_it() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    let (dropped, kept) = (bed.publish(&[1]), bed.publish(&[1]));
    for (sequence, at_wall_ms) in [(dropped, 0), (kept, WALL_MS)] {
        bed.outbox.record(Record::Tried(delivery(sequence, 1), tried(1)));
        let letter = Letter { at_wall_ms, ..letter(sequence, 1, Reason::Status(404)) };
        bed.end(sequence, 1, Record::Dead(letter));
    }
    bed.settle_all();
    let check = |bed: &Bed| {
        assert_eq!(bed.history(dropped, 1), []);
        assert_eq!(bed.history(kept, 1), [tried(1)]);
    };
    check(&bed);
    check(&open(store.crash()).0);
}

#[test]
fn histories_that_outweigh_a_generation_are_not_copied_on_with_each_that_goes() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    let sequences: Vec<u64> = (0..40).map(|_| bed.publish(&[1])).collect();
    for number in 1..=8 {
        for sequence in &sequences {
            let tried = Tried { excerpt: vec![1; 256], ..tried(number) };
            bed.outbox.record(Record::Tried(delivery(*sequence, 1), tried));
        }
        bed.settle_all();
    }
    bed.outbox.close();
    let (counted, written) = Counted::on(&store.crash());
    let (bed, recovered) = open(counted);
    assert_eq!(owed(&recovered).len(), 40);
    let mut published = 0;
    for _ in 0..1_000 {
        let sequence = bed.publish_keyed(900, &[9], 0);
        bed.end(sequence, 9, Record::Settle(delivery(sequence, 9)));
        published += 900;
    }
    let written = written.load(Ordering::Acquire);
    assert!(2 * written < 3 * published, "{written} bytes written for {published} published");
    assert!(sequences.iter().all(|sequence| bed.history(*sequence, 1).len() == 8));
}

/// A store that counts the bytes written to it.
#[derive(Debug, Clone)]
struct Counted(Memory, Arc<AtomicUsize>);

#[derive(Debug)]
struct CountedDatabase(Arc<dyn Database>, Arc<AtomicUsize>);

type Done<T> = std::result::Result<T, crate::store::Failure>;

impl Counted {
    fn on(store: &Memory) -> (Counted, Arc<AtomicUsize>) {
        let bytes = Arc::new(AtomicUsize::new(0));
        (Counted(store.clone(), Arc::clone(&bytes)), bytes)
    }
}

impl Store for Counted {
    fn open(&self, name: &str) -> Done<Arc<dyn Database>> {
        Ok(Arc::new(CountedDatabase(self.0.open(name)?, Arc::clone(&self.1))))
    }

    fn list(&self) -> Done<Vec<String>> {
        self.0.list()
    }

    fn remove(&self, name: &str) -> Done<()> {
        self.0.remove(name)
    }

    fn set_aside(&self, name: &str) -> Done<String> {
        self.0.set_aside(name)
    }
}

impl Database for CountedDatabase {
    fn apply(&self, batch: Batch) -> Done<()> {
        let bytes = batch.clone().into_operations().into_iter().map(|operation| match operation {
            Operation::Put(key, value) => key.len() + value.len(),
            Operation::Remove(key) => key.len(),
        });
        self.1.fetch_add(bytes.sum(), Ordering::AcqRel);
        self.0.apply(batch)
    }

    fn sync(&self) -> Done<()> {
        self.0.sync()
    }

    fn get(&self, key: &[u8]) -> Done<Option<Vec<u8>>> {
        self.0.get(key)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Done<()> {
        self.0.scan(prefix, from, visit)
    }

    fn last(&self, prefix: &[u8], to: &[u8]) -> Done<Option<Pair>> {
        self.0.last(prefix, to)
    }
}

#[test]
fn of_what_two_generations_hold_the_newer_counts() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    let (sequence, bystander) = (bed.publish(&[1]), bed.publish(&[1]));
    let write = |sequence, failures, number| {
        bed.outbox.record(Record::Health(SubscriptionId(1), health(failures)));
        bed.outbox.record(Record::Tried(delivery(sequence, 1), tried(number)));
        bed.settle_all();
    };
    write(sequence, 1, 1);
    bed.outbox.record(Record::Tried(delivery(bystander, 1), tried(1)));
    // What is owed in the first generation keeps it, while others are begun.
    while bed.outbox.holding().generations < 3 {
        bed.publish_keyed(900, &[1], 0);
    }
    write(sequence, 2, 9);
    assert!(store.list().unwrap().contains(&row::name_of(1)));
    let (reopened, recovered) = open(store.crash());
    assert_eq!(recovered.health, HashMap::from([(SubscriptionId(1), health(2))]));
    assert_eq!(reopened.history(sequence, 1), [tried(9)]);
    assert_eq!(reopened.history(bystander, 1), [tried(1)]);
}

#[test]
fn the_newest_health_of_a_lane_survives_crashes_and_generations_and_goes_with_its_subscription() {
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    let (bed, _) = open(faulty);
    let record = |id, failures| {
        bed.outbox.record(Record::Health(SubscriptionId(id), health(failures)));
        bed.settle_all();
    };
    record(1, 1);
    record(2, 7);
    record(3, 9);
    bed.churn(&store, 1);
    record(1, 2);
    let found = |store: Memory| read(store).1.health;
    let expected = |all: &[(u32, u32)]| {
        let all = all.iter().map(|(id, failures)| (SubscriptionId(*id), health(*failures)));
        all.collect::<HashMap<_, _>>()
    };
    assert_eq!(found(store.crash()), expected(&[(1, 2), (2, 7), (3, 9)]));
    bed.outbox.forget(SubscriptionId(3)).wait().unwrap();
    record(3, 10);
    assert_eq!(found(store.crash()), expected(&[(1, 2), (2, 7)]));
    (2..6).for_each(|gone| bed.churn(&store, gone));
    assert_eq!(found(store.crash()), expected(&[(1, 2), (2, 7)]));
    faults.skip_syncs();
    record(1, 3);
    let batches = store.unsynced_batches();
    let seen: Vec<_> = (0..=batches).map(|kept| found(store.crash_keeping(kept))).collect();
    assert_eq!(seen.first(), Some(&expected(&[(1, 2), (2, 7)])));
    assert_eq!(seen.last(), Some(&expected(&[(1, 3), (2, 7)])));
}

#[test]
fn keys_are_recovered_for_those_who_need_them_and_read_later_for_any() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    // 1 and 4 need keys, 2 does not.
    let ordered = bed.publish_keyed(100, &[1, 2], 77);
    let unordered = bed.publish_keyed(100, &[2], 78);
    let settled = bed.publish_keyed(100, &[4, 2], 79);
    let keyless = bed.publish_keyed(100, &[1], 0);
    bed.end(settled, 4, Record::Settle(delivery(settled, 4)));
    let check = |bed: &Bed, recovered: &Recovered| {
        assert_eq!(recovered.keys, HashMap::from([(ordered, 77)]));
        let all = [ordered, unordered, settled, keyless, 1 << 40].into_iter().collect();
        let hashes = bed.outbox.key_hashes(&all).unwrap();
        assert_eq!(hashes, HashMap::from([(ordered, 77), (unordered, 78), (settled, 79)]));
    };
    bed.settle_all();
    let (reopened, recovered) = open(store.crash());
    check(&reopened, &recovered);
    (1..4).for_each(|gone| bed.churn(&store, gone));
    let (reopened, recovered) = open(store.crash());
    check(&reopened, &recovered);
    check(&bed, &recovered);
}

#[test]
fn the_bytes_of_the_new_records_are_frozen() {
    let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let tried = Tried { reason: Reason::Gate, excerpt: b"no".to_vec(), ..tried(9) };
    let value = group::encoded("failed attempt", &(300_u64, tried)).unwrap();
    assert_eq!(hex(value), "01f3640f6bfb2c0109280503026e6f");
    let value = group::encoded("health", &LaneHealth { saved_wall_ms: 7, ..health(3) }).unwrap();
    assert_eq!(hex(value), "010dcaf990030002000107");
    assert_eq!(hex(keys::of_attempt(delivery(9, 8), 7)), "6600000000000000090000000807");
    assert_eq!(hex(keys::of_subscription(keys::HEALTH, SubscriptionId(8))), "6c00000008");
}
