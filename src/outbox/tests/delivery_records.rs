//! Tests of what is kept of failing deliveries: atomic changes, histories, health and keys, each over crashes and
//! generations, with a bystander.

use super::stores::WrittenBytes;
use super::*;
use crate::attempt::{FailedAttempt, LaneHealth};
use std::sync::atomic::Ordering;

/// An outbox, its commit events, and the engine's view of it.
struct OutboxBed {
    outbox: Outbox,
    committed: crossbeam_channel::Receiver<CommitEvent>,
    owing: OwedLedger,
}

/// Reads an outbox in which 1 and 4 need keys.
fn read(store: impl Store) -> (OpenedOutbox, RecoveredOutbox) {
    read_ordered(store, &small(), OnDamage::Refuse, [1, 4].into_iter().collect()).unwrap()
}

fn open(store: impl Store) -> (OutboxBed, RecoveredOutbox) {
    let (opened, recovered) = read(store);
    let owing = OwedLedger(Arc::new(Mutex::new(recovered.owed.clone())));
    let RunningOutbox { outbox, committed } = start(opened, &small(), owing.owing());
    (OutboxBed { outbox, committed, owing }, recovered)
}

/// A bed whose device fails as its plan says.
fn open_faulty() -> (OutboxBed, Memory, Arc<FaultPlan>) {
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    (open(faulty).0, store, faults)
}

impl OutboxBed {
    fn publish_keyed(&self, bytes: usize, ids: &[u32], key_hash: u64) -> u64 {
        let mut event = routed(vec![1; bytes], ids);
        event.event.key_hash = key_hash;
        let sequence = submit(&self.outbox, vec![event]).wait().unwrap()[0].id.sequence();
        self.owing.accept(sequence, ids);
        sequence
    }

    fn publish(&self, ids: &[u32]) -> u64 {
        self.publish_keyed(100, ids, 0)
    }

    fn end(&self, record: Record) {
        self.owing.end(&self.outbox, record);
    }

    /// Waits until everything recorded so far is on the device.
    fn settle_all(&self) {
        self.publish_keyed(1, &[], 0);
        self.outbox.forget(SubscriptionId(99)).wait().unwrap();
    }

    fn churn(&self, store: &Memory, gone: u64) {
        churn(&self.outbox, &self.owing, store, gone);
    }

    fn history(&self, sequence: u64, id: u32) -> Vec<FailedAttempt> {
        self.outbox.history(delivery(sequence, id)).unwrap()
    }

    fn told_settled(&self) -> Vec<DeliveryId> {
        let settled = self.committed.try_iter().map(|event| match event {
            CommitEvent::Settled(deliveries) => deliveries,
            _ => Vec::new(),
        });
        settled.flatten().collect()
    }
}

fn letter(sequence: u64, id: u32, reason: Reason) -> StoredDeadLetter {
    StoredDeadLetter { delivery: delivery(sequence, id), reason, attempts: 1, at_wall_ms: WALL_MS }
}

fn tried(number: u32) -> FailedAttempt {
    let (excerpt, took) = (vec![7; number as usize], Duration::from_millis(5));
    FailedAttempt { number, at_ms: 40, took, reason: Reason::Status(503), excerpt }
}

fn health(failures_in_row: u32) -> LaneHealth {
    LaneHealth { failures_in_row, slow: true, trips: 2, ..LaneHealth::default() }
}

/// The main delivery of an event is to 1; 2 to 17 wait for it.
const MAIN_AND_DEPENDENTS: std::ops::RangeInclusive<u32> = 1..=17;

fn deaths(sequence: u64) -> Vec<Record> {
    let first = Record::FailedAttempt(delivery(sequence, 1), tried(1));
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
fn atomic_changes_survive_a_power_cut_whole_or_not_at_all() {
    let (bed, store, faults) = open_faulty();
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
    let (faulty, faults) = super::faulty(&again);
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
fn deaths_together_stay_dead_through_generations() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    let ids: Vec<u32> = MAIN_AND_DEPENDENTS.collect();
    let (sequence, bystander) = (bed.publish(&ids), bed.publish(&[1]));
    for id in MAIN_AND_DEPENDENTS {
        bed.owing.0.lock().get_mut(&SubscriptionId(id)).unwrap().remove(sequence);
    }
    bed.outbox.record_together(deaths(sequence));
    (1..4).for_each(|gone| bed.churn(&store, gone));
    bed.settle_all();
    let (_, recovered) = read(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::from([(bystander, 1)]));
    assert_eq!(bed.outbox.letters_before(None, None, 99).len(), 17);
    assert_eq!(bed.history(sequence, 1), [tried(1)]);
}

#[test]
fn the_end_of_a_main_delivery_is_told_when_it_is_durable() {
    let (bed, store, faults) = open_faulty();
    let sequence = bed.publish(&[1, 2]);
    faults.hold_syncs();
    bed.end(Record::SettleMain(delivery(sequence, 1)));
    bed.end(Record::Settle(delivery(sequence, 2)));
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
fn a_refused_end_of_a_main_delivery_is_told_when_written() {
    let (bed, store, faults) = open_faulty();
    let (sequence, bystander) = (bed.publish(&[1, 2]), bed.publish(&[1]));
    faults.fail_after(0);
    bed.end(Record::SettleMain(delivery(sequence, 1)));
    let deadline = std::time::Duration::from_secs(20);
    let mut told = Vec::new();
    while !told.iter().any(|told| matches!(told, CommitEvent::Stalled(_))) {
        told.push(bed.committed.recv_timeout(deadline).unwrap());
    }
    assert!(!told.iter().any(|told| matches!(told, CommitEvent::Settled(_))), "{told:?}");
    faults.heal();
    while !told.iter().any(|told| matches!(told, CommitEvent::Settled(_))) {
        told.push(bed.committed.recv_timeout(deadline).unwrap());
    }
    let (_, recovered) = read(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::from([(sequence, 2), (bystander, 1)]));
}

#[test]
fn a_history_has_the_newest_attempts_through_generations() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    let (sequence, bystander) = (bed.publish(&[1]), bed.publish(&[1]));
    let fail = |sequence, number| {
        bed.outbox.record(Record::FailedAttempt(delivery(sequence, 1), tried(number)));
        bed.outbox.record(Record::Retry(delivery(sequence, 1), retry_state()));
    };
    (1..=3).for_each(|number| fail(sequence, number));
    fail(bystander, 1);
    bed.churn(&store, 1);
    // The same slots as before: what was copied must not stand before what is newer.
    (4..=10).for_each(|number| fail(sequence, number));
    bed.settle_all();
    let newest: Vec<FailedAttempt> = (3..=10).map(tried).collect();
    let check = |bed: &OutboxBed| {
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
fn a_history_is_consistent_after_any_crash() {
    let (bed, store, faults) = open_faulty();
    let (sequence, bystander) = (bed.publish(&[1]), bed.publish(&[1]));
    bed.outbox.record(Record::FailedAttempt(delivery(bystander, 1), tried(1)));
    bed.settle_all();
    faults.skip_syncs();
    (1..=100)
        .for_each(|n| bed.outbox.record(Record::FailedAttempt(delivery(sequence, 1), tried(n))));
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
fn only_dead_letters_and_owed_deliveries_have_a_history() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    let [dead, settled, revived] = [0; 3].map(|_| bed.publish(&[1]));
    for sequence in [dead, settled, revived] {
        for number in 1..=2 {
            bed.outbox.record(Record::FailedAttempt(delivery(sequence, 1), tried(number)));
            bed.outbox.record(Record::Retry(delivery(sequence, 1), retry_state()));
        }
    }
    for sequence in [dead, revived] {
        bed.end(Record::Dead(letter(sequence, 1, Reason::Status(404))));
    }
    bed.end(Record::Settle(delivery(settled, 1)));
    bed.settle_all();
    assert_eq!(bed.outbox.revive(vec![vec![delivery(revived, 1)]]).wait().unwrap(), 1);
    assert_eq!(bed.outbox.revive(vec![vec![delivery(revived, 1)]]).wait().unwrap(), 0);
    bed.owing.0.lock().entry(SubscriptionId(1)).or_default().insert(revived);
    let check = |bed: &OutboxBed| {
        assert_eq!(bed.history(dead, 1), [tried(1), tried(2)]);
        assert_eq!((bed.history(settled, 1), bed.history(revived, 1)), (vec![], vec![]));
    };
    check(&bed);
    let (reopened, recovered) = open(store.crash());
    check(&reopened);
    assert_eq!(owed(&recovered), BTreeSet::from([(revived, 1)]));
    assert_eq!(recovered.retries, [(delivery(revived, 1), replayed())], "it starts anew");
    (1..4).for_each(|gone| bed.churn(&store, gone));
    check(&bed);
    check(&open(store.crash()).0);
    bed.outbox.record(Record::FailedAttempt(delivery(revived, 1), tried(1)));
    bed.settle_all();
    assert_eq!(open(store.crash()).0.history(revived, 1), [tried(1)]);
}

/// The state that a replay leaves.
fn replayed() -> RetryState {
    RetryState { attempts: 0, age_ms: 0, due_wall_ms: WALL_MS, saved_wall_ms: WALL_MS }
}

#[test]
fn a_retry_state_from_before_a_revival_does_not_come_back() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    let (sequence, bystander) = (bed.publish(&[1]), bed.publish(&[1]));
    for sequence in [sequence, bystander] {
        bed.outbox.record(Record::Retry(delivery(sequence, 1), retry_state()));
    }
    // What is owed in the first generation keeps it, while others are begun.
    while bed.outbox.usage().generations < 3 {
        bed.publish_keyed(900, &[1], 0);
    }
    bed.end(Record::Dead(letter(sequence, 1, Reason::Status(404))));
    bed.settle_all();
    bed.outbox.revive(vec![vec![delivery(sequence, 1)]]).wait().unwrap();
    let (_, recovered) = read(store.crash());
    assert!(owed(&recovered).contains(&(sequence, 1)));
    let attempts = |recovered: &RecoveredOutbox| {
        let states = recovered.retries.iter();
        states.map(|(delivery, state)| (delivery.sequence, state.attempts)).collect::<BTreeSet<_>>()
    };
    assert_eq!(attempts(&recovered), BTreeSet::from([(sequence, 0), (bystander, 2)]));
    bed.outbox.record(Record::Retry(delivery(sequence, 1), retry_state()));
    bed.settle_all();
    let both = BTreeSet::from([(sequence, 2), (bystander, 2)]);
    assert_eq!(attempts(&read(store.crash()).1), both, "one from after it counts");
}

#[test]
fn a_dropped_letter_takes_its_history_along() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    let (dropped, kept) = (bed.publish(&[1]), bed.publish(&[1]));
    for (sequence, at_wall_ms) in [(dropped, 0), (kept, WALL_MS)] {
        bed.outbox.record(Record::FailedAttempt(delivery(sequence, 1), tried(1)));
        let letter = StoredDeadLetter { at_wall_ms, ..letter(sequence, 1, Reason::Status(404)) };
        bed.end(Record::Dead(letter));
    }
    bed.settle_all();
    let check = |bed: &OutboxBed| {
        assert_eq!(bed.history(dropped, 1), []);
        assert_eq!(bed.history(kept, 1), [tried(1)]);
    };
    check(&bed);
    check(&open(store.crash()).0);
}

#[test]
fn large_histories_are_not_copied_again_and_again() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    let sequences: Vec<u64> = (0..40).map(|_| bed.publish(&[1])).collect();
    for number in 1..=8 {
        for sequence in &sequences {
            let tried = FailedAttempt { excerpt: vec![1; 256], ..tried(number) };
            bed.outbox.record(Record::FailedAttempt(delivery(*sequence, 1), tried));
        }
        bed.settle_all();
    }
    bed.outbox.close();
    let (counted, written) = WrittenBytes::on(&store.crash());
    let (bed, recovered) = open(counted);
    assert_eq!(owed(&recovered).len(), 40);
    let mut published = 0;
    for _ in 0..1_000 {
        let sequence = bed.publish_keyed(900, &[9], 0);
        bed.end(Record::Settle(delivery(sequence, 9)));
        published += 900;
    }
    let written = written.load(Ordering::Acquire);
    assert!(2 * written < 3 * published, "{written} bytes written for {published} published");
    assert!(sequences.iter().all(|sequence| bed.history(*sequence, 1).len() == 8));
}

#[test]
fn the_newer_of_two_records_counts() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    let (sequence, bystander) = (bed.publish(&[1]), bed.publish(&[1]));
    let write = |sequence, failures, number| {
        bed.outbox.record(Record::Health(SubscriptionId(1), health(failures)));
        bed.outbox.record(Record::FailedAttempt(delivery(sequence, 1), tried(number)));
        bed.settle_all();
    };
    write(sequence, 1, 1);
    bed.outbox.record(Record::FailedAttempt(delivery(bystander, 1), tried(1)));
    // What is owed in the first generation keeps it, while others are begun.
    while bed.outbox.usage().generations < 3 {
        bed.publish_keyed(900, &[1], 0);
    }
    write(sequence, 2, 9);
    assert!(store.list().unwrap().contains(&databases::name_of(1)));
    let (reopened, recovered) = open(store.crash());
    assert_eq!(recovered.health, HashMap::from([(SubscriptionId(1), health(2))]));
    assert_eq!(reopened.history(sequence, 1), [tried(9)]);
    assert_eq!(reopened.history(bystander, 1), [tried(1)]);
}

#[test]
fn the_health_of_a_lane_survives_until_its_subscription_goes() {
    let (bed, store, faults) = open_faulty();
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
fn keys_are_recovered_where_needed_and_read_later() {
    let store = Memory::default();
    let (bed, _) = open(store.clone());
    // 1 and 4 need keys, 2 does not.
    let ordered = bed.publish_keyed(100, &[1, 2], 77);
    let unordered = bed.publish_keyed(100, &[2], 78);
    let settled = bed.publish_keyed(100, &[4, 2], 79);
    let keyless = bed.publish_keyed(100, &[1], 0);
    bed.end(Record::Settle(delivery(settled, 4)));
    let check = |bed: &OutboxBed, recovered: &RecoveredOutbox| {
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
fn the_bytes_of_attempts_and_health_are_pinned() {
    let hex = |bytes: Vec<u8>| crate::text::hex(&bytes);
    let tried = FailedAttempt { reason: Reason::Gate, excerpt: b"no".to_vec(), ..tried(9) };
    let value = encoded("failed attempt", &(300_u64, tried)).unwrap();
    assert_eq!(hex(value), "01f3640f6bfb2c0109280503026e6f");
    let value = encoded("health", &LaneHealth { saved_wall_ms: 7, ..health(3) }).unwrap();
    assert_eq!(hex(value), "010dcaf990030002000107");
    assert_eq!(hex(keys::of_attempt(delivery(9, 8), 7)), "6600000000000000090000000807");
    assert_eq!(hex(keys::of_subscription(keys::HEALTH, SubscriptionId(8))), "6c00000008");
}
