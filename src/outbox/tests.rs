//! Checks the outbox as its users see it, on the memory store and on sled.

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
    Opened::read(Setting { store, catalogue, limits, on_damage, clock: &clock })
}

fn matched(payload: Vec<u8>, targets: &[u32]) -> Matched {
    Matched {
        account: "acme".to_owned(),
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

#[test]
fn what_was_accepted_is_owed_after_a_crash_and_reads_back_byte_for_byte() {
    let store = Memory::default();
    let (running, _) = open(store.clone());
    let payloads: Vec<Vec<u8>> = [0, 100, 20_000, 2_000_000].iter().map(|n| vec![7; *n]).collect();
    let sequences: Vec<u64> =
        payloads.iter().map(|payload| publish(&running.outbox, payload.clone(), &[1, 2])).collect();
    let (running, recovered) = open(store.crash());
    let expected: BTreeSet<_> = sequences.iter().flat_map(|s| [(*s, 1), (*s, 2)]).collect();
    assert_eq!(owed(&recovered), expected);
    for (sequence, payload) in sequences.iter().zip(&payloads) {
        let event = running.outbox.event(*sequence).unwrap();
        assert_eq!(&event.payload, payload);
        assert_eq!((event.account.as_str(), event.waba.as_deref()), ("acme", Some("77")));
        assert_eq!(event.number.unwrap().to_string(), "919999999999");
    }
}

#[test]
fn each_end_of_a_delivery_survives_and_its_neighbours_are_untouched() {
    let store = Memory::default();
    let (running, _) = open(store.clone());
    let sequence = publish(&running.outbox, vec![1], &[1, 2, 3, 4]);
    let bystander = publish(&running.outbox, vec![2], &[1, 2, 3, 4]);
    let letter = Letter {
        delivery: delivery(sequence, 2),
        reason: Reason::Failed(Failure::Guard("private".to_owned())),
        attempts: 1,
        at_wall_ms: 5,
    };
    running.outbox.record(Record::Settle(delivery(sequence, 1)));
    running.outbox.record(Record::Dead(letter));
    running.outbox.record(Record::Retry(delivery(sequence, 3), retry_state()));
    running.outbox.close();
    let (_, recovered) = open(store.crash());
    let expected = [(sequence, 3), (sequence, 4)].into_iter();
    assert_eq!(owed(&recovered), expected.chain((1..=4).map(|id| (bystander, id))).collect());
    assert_eq!(recovered.retries, [(delivery(sequence, 3), retry_state())]);
}

#[test]
fn a_removed_subscription_is_owed_nothing_and_another_keeps_its_own() {
    let store = Memory::default();
    let (running, _) = open(store.clone());
    let sequence = publish(&running.outbox, vec![1], &[1, 2]);
    running.outbox.forget(SubscriptionId(1)).wait().unwrap();
    let (_, recovered) = open(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::from([(sequence, 2)]));
    assert_eq!(recovered.cancelled, 1);
    assert!(recovered.removed.contains(&SubscriptionId(1)));
}

#[test]
fn sequences_are_never_given_twice_also_those_without_a_record() {
    let store = Memory::default();
    let mut given = BTreeSet::new();
    for _ in 0..5 {
        let (running, _) = open(store.clone());
        assert!(given.insert(publish(&running.outbox, vec![], &[])));
        assert!(given.insert(publish(&running.outbox, vec![], &[1])));
        assert!(given.insert(publish(&running.outbox, vec![], &[])));
        running.outbox.close();
    }
}

#[test]
fn the_incarnation_stays_with_the_outbox_and_a_new_one_has_its_own() {
    let store = Memory::default();
    let (running, _) = open(store.clone());
    publish(&running.outbox, vec![], &[1]);
    let id = running.outbox.id_of(9);
    running.outbox.close();
    assert_eq!(open(store.crash()).0.outbox.id_of(9), id);
}

#[test]
fn ten_thousand_events_are_all_there_or_none_at_whatever_batch_the_power_goes() {
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    let (running, _) = open(faulty);
    let bystander = publish(&running.outbox, vec![9], &[7]);
    faults.skip_syncs();
    let targets: Vec<u32> = (1..300).map(|n| n * 3).collect();
    let events = (0..10_000).map(|_| matched(vec![1; 100], &targets)).collect();
    submit(&running.outbox, events).wait().unwrap();
    let batches = store.unsynced_batches();
    assert!(batches > 2, "{batches} batches");
    for kept in 0..=batches {
        let (_, recovered) = open(store.crash_keeping(kept));
        let expected = if kept == batches { 10_000 * 299 } else { 0 };
        let owed: u64 = recovered.owed.values().map(RoaringTreemap::len).sum();
        assert!(recovered.owed[&SubscriptionId(7)].contains(bystander));
        assert_eq!(owed - 1, expected, "{kept} of {batches} batches on the device");
    }
}

#[test]
fn what_an_unfinished_group_left_is_cleared_and_the_outbox_goes_on() {
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    let (running, _) = open(faulty);
    faults.skip_syncs();
    let events = (0..5_000).map(|_| matched(vec![1; 100], &[1])).collect();
    submit(&running.outbox, events).wait().unwrap();
    let cut = store.crash_keeping(store.unsynced_batches() - 1);
    let (running, recovered) = open(cut.clone());
    assert_eq!(owed(&recovered), BTreeSet::new());
    let sequence = publish(&running.outbox, vec![5; 10], &[1]);
    running.outbox.close();
    let (running, recovered) = open(cut.crash());
    assert_eq!(owed(&recovered), BTreeSet::from([(sequence, 1)]));
    assert_eq!(running.outbox.event(sequence).unwrap().payload, vec![5; 10]);
}

#[test]
fn a_dedup_key_outlives_a_crash_with_its_event_and_not_without() {
    let store = Memory::default();
    let keyed = |key: &str| Matched {
        dedup: Some(key_hash("acme", "MESSAGE_RECEIVED", key)),
        ..matched(vec![1], &[1])
    };
    let (running, _) = open(store.clone());
    let first = submit(&running.outbox, vec![keyed("a"), keyed("bystander")]).wait().unwrap();
    let cut = store.crash();
    let (faulty, faults) = faulty(&cut);
    let (running, _) = open(faulty);
    faults.skip_syncs();
    let again = submit(&running.outbox, vec![keyed("a"), keyed("b")]).wait().unwrap();
    assert!(again[0].duplicate && again[0].id == first[0].id);
    assert!(!again[1].duplicate);
    for kept in 0..cut.unsynced_batches() {
        let (running, _) = open(cut.crash_keeping(kept));
        let third = submit(&running.outbox, vec![keyed("b"), keyed("bystander")]).wait().unwrap();
        assert!(!third[0].duplicate, "the event of key b is gone with its group");
        assert!(third[1].duplicate && third[1].id == first[1].id);
    }
}

#[test]
fn a_full_queue_refuses_and_takes_again_when_there_is_room() {
    let (faulty, faults) = faulty(&Memory::default());
    let limits = Limits { queue_events_max: 3, ..Limits::default() };
    let (running, _) = open_with(faulty, &limits);
    faults.hold_syncs();
    let waiting: Vec<_> =
        (0..3).map(|_| submit(&running.outbox, vec![matched(vec![1], &[1])])).collect();
    let reason = running.outbox.admit(1, 1).unwrap_err();
    assert!(reason.contains("3 events"), "{reason}");
    assert!(waiting.iter().all(|receipt| !receipt.is_done()), "nothing is promised before a sync");
    faults.release_syncs();
    waiting.into_iter().for_each(|receipt| assert!(receipt.wait().is_ok()));
    assert!(submit(&running.outbox, vec![matched(vec![4], &[1])]).wait().is_ok());
}

#[test]
fn a_full_outbox_refuses_by_events_and_by_bytes() {
    let limits = Limits { outbox_events_max: 2, ..Limits::default() };
    let (running, _) = open_with(Memory::default(), &limits);
    publish(&running.outbox, vec![1], &[1]);
    publish(&running.outbox, vec![1], &[1]);
    assert!(running.outbox.admit(1, 1).unwrap_err().contains("2 events"));
    let limits = Limits { outbox_bytes_max: 9_000, ..Limits::default() };
    let (running, _) = open_with(Memory::default(), &limits);
    publish(&running.outbox, vec![1; 5_000], &[1]);
    assert!(running.outbox.admit(1, 5_000).unwrap_err().contains("9000 bytes"));
    assert!(running.outbox.admit(1, 10).is_ok());
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

#[test]
fn a_device_that_refuses_leaves_receipts_unknown_and_is_tried_again_until_it_takes() {
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    let (running, _) = open(faulty);
    let bystander = publish(&running.outbox, vec![7], &[1, 2]);
    running.outbox.record(Record::Settle(delivery(bystander, 2)));
    faults.fail_after(0);
    let error = submit(&running.outbox, vec![matched(vec![1], &[1])]).wait().unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    told(&running, |told| matches!(told, Committed::Stalled(_)));
    let reason = running.outbox.admit(1, 1).unwrap_err();
    assert!(reason.contains("on purpose"), "{reason}");
    running.outbox.record(Record::Settle(delivery(bystander, 1)));
    faults.heal();
    told(&running, |told| matches!(told, Committed::Resumed));
    let after = publish(&running.outbox, vec![8], &[1]);
    running.outbox.close();
    let (_, recovered) = open(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::from([(after, 1)]), "records outlast the refusal");
}

#[test]
fn a_large_group_is_synced_as_it_is_written_and_a_small_one_once() {
    let (faulty, faults) = faulty(&Memory::default());
    let (running, _) = open(faulty);
    publish(&running.outbox, vec![7], &[1]);
    let before = faults.seen();
    publish(&running.outbox, vec![7], &[1]);
    let one_write_and_one_sync = 2;
    assert_eq!(faults.seen() - before, one_write_and_one_sync);
    let before = faults.seen();
    publish(&running.outbox, vec![7; 2_000_000], &[1]);
    let (writes, syncs) = (2_000_000 / (128 * 1024), 2_000_000 / (256 * 1024));
    assert!(faults.seen() - before > writes + syncs, "{} operations", faults.seen() - before);
}

#[test]
fn a_group_whose_answer_was_lost_is_owed_as_its_publisher_was_told_it_may_be() {
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    let (running, _) = open(faulty);
    faults.fail_after_effect(0);
    let error = submit(&running.outbox, vec![matched(vec![1], &[1])]).wait().unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    faults.heal();
    told(&running, |told| matches!(told, Committed::Resumed));
    let group = running.committed.try_iter().count();
    assert_eq!(group, 0, "everything was told before it resumed");
    running.outbox.close();
    let (_, recovered) = open(store.crash());
    assert_eq!(owed(&recovered).len(), 1);
}

#[test]
fn on_sled_everything_survives_a_close_and_the_directory_opens_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = || Sled::new(directory.path());
    let (running, _) = open(store());
    let sequence = publish(&running.outbox, vec![7; 50_000], &[1, 2]);
    running.outbox.record(Record::Settle(delivery(sequence, 1)));
    running.outbox.close();
    let (running, recovered) = open(store());
    assert_eq!(owed(&recovered), BTreeSet::from([(sequence, 2)]));
    assert_eq!(running.outbox.event(sequence).unwrap().payload, vec![7; 50_000]);
    let blobs = directory.path().join(row::name_of(1)).join("blobs");
    let blobs = std::fs::read_dir(blobs).unwrap().count();
    assert_eq!(blobs, 0, "sled never syncs its blob files");
}

#[test]
fn a_damaged_record_is_named_with_its_generation_or_its_generation_is_set_aside() {
    let store = Memory::default();
    let (running, _) = open(store.clone());
    publish(&running.outbox, vec![1], &[1]);
    running.outbox.close();
    damage(&store, &row::name_of(1), keys::HEADS);
    let error = read(store.crash(), &Limits::default(), OnDamage::Refuse).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("generation 1 (outbox-"), "{text}");
    assert!(text.contains("head page") && text.contains("checksum"), "{text}");
    let store = store.crash();
    let (_, recovered) = read(store.clone(), &Limits::default(), OnDamage::SetAside).unwrap();
    let (name, why) = &recovered.set_aside[0];
    assert!(name.starts_with("damaged-outbox-") && why.contains("checksum"), "{name}: {why}");
    assert!(store.list().unwrap().contains(name));
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
            Record::Settle(delivery) => *delivery,
            Record::Dead(letter) => letter.delivery,
            Record::Retry(..) | Record::Revive(_) => {
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

#[test]
fn generations_go_when_what_they_hold_is_settled_and_stragglers_live_on() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (running, _) = open_owing(store.clone(), &small(), ledger.owing());
    let outbox = &running.outbox;
    let payload = |n: u64| n.to_le_bytes().repeat(100);
    let mut kept = Vec::new();
    for n in 0..600_u64 {
        let sequence = publish(outbox, payload(n), &[1, 2]);
        ledger.accept(sequence, &[1, 2]);
        ledger.end(outbox, Record::Settle(delivery(sequence, 1)));
        match n {
            // Stragglers: owed, owed after a failure, dead.
            5 | 300 => kept.push((sequence, n)),
            6 | 301 => {
                ledger.end(outbox, Record::Retry(delivery(sequence, 2), retry_state()));
                kept.push((sequence, n));
            }
            7 | 302 => ledger.end(outbox, Record::Dead(letter(sequence, 2, WALL_MS))),
            _ => ledger.end(outbox, Record::Settle(delivery(sequence, 2))),
        }
    }
    outbox.close();
    assert!(generations(&store) < 8, "{} generations of about 40 are left", generations(&store));
    let (running, recovered) = open_owing(store.crash(), &small(), ledger.owing());
    assert_eq!(owed(&recovered), ledger.pairs());
    assert_eq!(owed(&recovered), kept.iter().map(|(sequence, _)| (*sequence, 2)).collect());
    assert_eq!(recovered.retries.len(), 2);
    for (sequence, n) in kept {
        let event = running.outbox.event(sequence).unwrap();
        assert_eq!(event.payload, payload(n));
        assert_eq!(event.id.sequence(), sequence);
    }
}

#[test]
fn a_crash_at_any_batch_of_rotating_and_copying_loses_and_repeats_nothing_settled() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (faulty, faults) = faulty(&store);
    let (running, _) = open_owing(faulty, &small(), ledger.owing());
    let outbox = &running.outbox;
    let bystander = publish(outbox, vec![9; 100], &[3]);
    ledger.accept(bystander, &[3]);
    for n in 0..200_u64 {
        let sequence = publish(outbox, vec![1; 700], &[1]);
        ledger.accept(sequence, &[1]);
        if !n.is_multiple_of(40) {
            ledger.end(outbox, Record::Settle(delivery(sequence, 1)));
        }
        // Everything published before this moment was acknowledged, so it must be there.
        let must = ledger.pairs();
        let (_, recovered) =
            read(store.crash(), &small(), OnDamage::Refuse).expect("a crash damages nothing");
        let found = owed(&recovered);
        assert!(found.is_superset(&must), "{:?} lost", must.difference(&found));
    }
    assert!(faults.seen() > 400);
    assert!(running.outbox.holding().generations < 8, "{:?}", running.outbox.holding());
}

#[test]
fn a_dedup_key_outlives_its_generation() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (running, _) = open_owing(store.clone(), &small(), ledger.owing());
    let keyed = |key: &str| Matched {
        dedup: Some(key_hash("acme", "MESSAGE_RECEIVED", key)),
        ..matched(vec![1; 900], &[1])
    };
    let first = submit(&running.outbox, vec![keyed("a")]).wait().unwrap()[0];
    running.outbox.record(Record::Settle(delivery(first.id.sequence(), 1)));
    for n in 0..200 {
        let next = submit(&running.outbox, vec![keyed(&format!("{n}"))]).wait().unwrap()[0];
        running.outbox.record(Record::Settle(delivery(next.id.sequence(), 1)));
    }
    running.outbox.close();
    assert!(!store.list().unwrap().contains(&row::name_of(1)), "the first generation is gone");
    let (running, _) = open(store.crash());
    let again = submit(&running.outbox, vec![keyed("a"), keyed("new")]).wait().unwrap();
    assert!(again[0].duplicate && again[0].id == first.id, "{again:?}");
    assert!(!again[1].duplicate);
}

#[test]
fn a_sealed_generation_that_lost_a_page_without_a_word_is_found() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (running, _) = open_owing(store.clone(), &small(), ledger.owing());
    let mut sequences = Vec::new();
    for _ in 0..60 {
        let sequence = publish(&running.outbox, vec![1; 900], &[1]);
        ledger.accept(sequence, &[1]);
        sequences.push(sequence);
    }
    running.outbox.close();
    let store = store.crash();
    let database = store.open(&row::name_of(1)).unwrap();
    let mut batch = Batch::default();
    batch.remove(keys::numbered(keys::HEADS, sequences[1]));
    database.apply(batch).unwrap();
    database.sync().unwrap();
    drop(database);
    let error = read(store.crash(), &small(), OnDamage::Refuse).err().unwrap().to_string();
    assert!(error.contains("generation 1") && error.contains("pages"), "{error}");
    let (_, recovered) = read(store.crash(), &small(), OnDamage::SetAside).unwrap();
    assert_eq!(recovered.set_aside.len(), 1);
    let found = owed(&recovered);
    assert!(!found.is_empty() && found.is_subset(&ledger.pairs()), "the others are recovered");
}

#[test]
fn dead_letters_over_their_bounds_are_dropped_and_told() {
    let limits = Limits { dead_letters_max: 2, ..Limits::default() };
    let store = Memory::default();
    let (running, _) = open_with(store.clone(), &limits);
    for at_wall_ms in 0..5 {
        let sequence = publish(&running.outbox, vec![1], &[1]);
        running.outbox.record(Record::Dead(letter(sequence, 1, WALL_MS + at_wall_ms)));
    }
    (0..2).for_each(|_| assert!(publish(&running.outbox, vec![], &[1]) > 0));
    running.outbox.close();
    let dropped: u64 = running
        .committed
        .try_iter()
        .map(|told| if let Committed::LettersDropped(dropped) = told { dropped } else { 0 })
        .sum();
    assert_eq!(dropped, 3);
    let (_, recovered) = open_with(store.crash(), &limits);
    assert!(recovered.letters_dropped >= 3, "what lies on the device is held to the bound too");
    assert_eq!(owed(&recovered).len(), 2, "a letter that was dropped is owed no more");
}

#[test]
fn a_revived_letter_is_owed_after_any_crash_until_it_ends_again_and_another_stays_dead() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (running, _) = open_owing(store.clone(), &small(), ledger.owing());
    let outbox = &running.outbox;
    let sequence = publish(outbox, vec![1; 100], &[1, 2]);
    ledger.accept(sequence, &[1, 2]);
    for id in [1, 2] {
        ledger.end(outbox, Record::Dead(letter(sequence, id, WALL_MS)));
    }
    publish(outbox, vec![], &[]);
    outbox.revive(delivery(sequence, 1)).wait().unwrap();
    ledger.accept(sequence, &[1]);
    told(&running, |told| matches!(told, Committed::Revived(_)));
    let found = || owed(&read(store.crash(), &small(), OnDamage::Refuse).unwrap().1);
    assert_eq!(found(), BTreeSet::from([(sequence, 1)]));
    // Through the generations that follow, in which the event is copied forward.
    for _ in 0..200 {
        let other = publish(outbox, vec![1; 700], &[3]);
        ledger.accept(other, &[3]);
        ledger.end(outbox, Record::Settle(delivery(other, 3)));
    }
    assert_eq!(found().first(), Some(&(sequence, 1)));
    let letters = outbox.letters(10).unwrap();
    assert_eq!(letters.iter().map(|l| l.delivery).collect::<Vec<_>>(), [delivery(sequence, 2)]);
    outbox.revive(delivery(sequence, 1)).wait().unwrap();
    ledger.end(outbox, Record::Settle(delivery(sequence, 1)));
    outbox.close();
    let (_, recovered) = open(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::new(), "a second revival of what is owed does nothing");
}

#[test]
fn a_letter_written_long_after_its_event_keeps_the_event_for_its_replay() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (running, _) = open_owing(store.clone(), &small(), ledger.owing());
    let outbox = &running.outbox;
    let sequence = publish(outbox, vec![7; 100], &[1]);
    ledger.accept(sequence, &[1]);
    // Generations that are all owed stay, so that the letter lies in another one than its event.
    let others: Vec<u64> = (0..100).map(|_| publish(outbox, vec![1; 700], &[3])).collect();
    others.iter().for_each(|other| ledger.accept(*other, &[3]));
    let before = outbox.holding().generations;
    ledger.end(outbox, Record::Dead(letter(sequence, 1, WALL_MS)));
    publish(outbox, vec![], &[]);
    assert!(before > 3, "{before} generations");
    for other in others {
        ledger.end(outbox, Record::Settle(delivery(other, 3)));
    }
    for _ in 0..100 {
        let other = publish(outbox, vec![1; 700], &[3]);
        ledger.accept(other, &[3]);
        ledger.end(outbox, Record::Settle(delivery(other, 3)));
    }
    assert!(outbox.holding().generations < before, "{:?}", outbox.holding());
    outbox.revive(delivery(sequence, 1)).wait().unwrap();
    assert_eq!(outbox.event(sequence).unwrap().payload, vec![7; 100]);
    let (reopened, recovered) = open(store.crash());
    assert_eq!(owed(&recovered).first(), Some(&(sequence, 1)));
    assert_eq!(reopened.outbox.event(sequence).unwrap().payload, vec![7; 100]);
}

#[test]
fn a_letter_that_was_dropped_never_comes_back_as_owed_through_a_copy_of_its_event() {
    let limits = Limits { dead_letters_max: 1, ..small() };
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (running, _) = open_owing(store.clone(), &limits, ledger.owing());
    let outbox = &running.outbox;
    let rotate = || {
        for _ in 0..60 {
            let other = publish(outbox, vec![1; 700], &[3]);
            ledger.accept(other, &[3]);
            ledger.end(outbox, Record::Settle(delivery(other, 3)));
        }
    };
    // One delivery of the event stays owed, so that the event is copied on with its dead one.
    let sequence = publish(outbox, vec![7; 100], &[1, 2]);
    ledger.accept(sequence, &[1, 2]);
    rotate();
    ledger.end(outbox, Record::Dead(letter(sequence, 1, WALL_MS)));
    rotate();
    let other = publish(outbox, vec![7; 100], &[1]);
    ledger.accept(other, &[1]);
    ledger.end(outbox, Record::Dead(letter(other, 1, WALL_MS + 5)));
    for _ in 0..4 {
        rotate();
        let (_, recovered) = read(store.crash(), &limits, OnDamage::Refuse).unwrap();
        let found = owed(&recovered);
        assert!(found.contains(&(sequence, 2)), "the bystander is still owed");
        assert!(!found.contains(&(sequence, 1)) && !found.contains(&(other, 1)), "{found:?}");
    }
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

#[test]
fn a_disk_that_opens_and_takes_no_writes_is_waited_for_and_nothing_is_lost() {
    let full = Full::default();
    let (running, _) = open(full.clone());
    let outbox = &running.outbox;
    let bystander = publish(outbox, vec![7], &[1, 2]);
    *full.refuses.lock() = Some("outbox-");
    let error = submit(outbox, vec![matched(vec![1], &[1])]).wait().unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    outbox.record(Record::Settle(delivery(bystander, 1)));
    told(&running, |told| matches!(told, Committed::Stalled(_)));
    // Long enough for the device to be tried again more than once.
    let again = running.committed.recv_timeout(Duration::from_millis(500));
    assert!(again.is_err(), "nothing is told while it refuses: {again:?}");
    *full.refuses.lock() = None;
    told(&running, |told| matches!(told, Committed::Resumed));
    let after = publish(outbox, vec![8], &[1]);
    outbox.close();
    let (_, recovered) = open(full.inner.crash());
    assert_eq!(owed(&recovered), BTreeSet::from([(bystander, 2), (after, 1)]));
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

#[test]
fn dedup_keys_that_cannot_be_moved_are_moved_when_the_device_takes_writes_again() {
    let (full, ledger) = (Full::default(), Ledger::default());
    let (running, _) = open_owing(full.clone(), &small(), ledger.owing());
    let keyed = || Matched {
        dedup: Some(key_hash("acme", "MESSAGE_RECEIVED", "a")),
        ..matched(vec![1; 900], &[1])
    };
    let first = submit(&running.outbox, vec![keyed()]).wait().unwrap()[0];
    running.outbox.record(Record::Settle(delivery(first.id.sequence(), 1)));
    *full.refuses.lock() = Some("dedup");
    for _ in 0..100 {
        let sequence = publish(&running.outbox, vec![1; 900], &[1]);
        running.outbox.record(Record::Settle(delivery(sequence, 1)));
    }
    assert!(full.inner.list().unwrap().contains(&row::name_of(1)), "it holds the key");
    *full.refuses.lock() = None;
    churn(&running, &ledger, &full.inner, 1);
    running.outbox.close();
    let (running, _) = open(full.inner.crash());
    assert!(submit(&running.outbox, vec![keyed()]).wait().unwrap()[0].duplicate);
}

#[test]
fn an_idle_engine_tries_again_to_move_dedup_keys_without_a_group_to_write() {
    let (full, ledger) = (Full::default(), Ledger::default());
    let (running, _) = open_owing(full.clone(), &small(), ledger.owing());
    let keyed = || Matched {
        dedup: Some(key_hash("acme", "MESSAGE_RECEIVED", "a")),
        ..matched(vec![1; 900], &[1])
    };
    let first = submit(&running.outbox, vec![keyed()]).wait().unwrap()[0];
    running.outbox.record(Record::Settle(delivery(first.id.sequence(), 1)));
    *full.refuses.lock() = Some("dedup");
    for _ in 0..100 {
        let sequence = publish(&running.outbox, vec![1; 900], &[1]);
        running.outbox.record(Record::Settle(delivery(sequence, 1)));
    }
    let owed_still = publish(&running.outbox, vec![1; 900], &[1, 2]);
    assert!(full.inner.list().unwrap().contains(&row::name_of(1)), "it holds the key");
    // Until nothing more is told, so that no group is left to be written.
    while running.committed.recv_timeout(Duration::from_millis(300)).is_ok() {}
    *full.refuses.lock() = None;
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while full.inner.list().unwrap().contains(&row::name_of(1)) {
        assert!(std::time::Instant::now() < deadline, "generation 1 is there still");
        std::thread::yield_now();
    }
    assert_eq!(running.outbox.event(owed_still).unwrap().payload, [1; 900]);
    running.outbox.close();
    let (running, _) = open(full.inner.crash());
    assert!(submit(&running.outbox, vec![keyed()]).wait().unwrap()[0].duplicate);
}

#[test]
fn a_generation_that_could_not_be_begun_is_not_taken_for_the_newest() {
    let (full, ledger) = (Full { takes_effect: true, ..Full::default() }, Ledger::default());
    let (running, _) = open_owing(full.clone(), &small(), ledger.owing());
    *full.refuses.lock() = Some("outbox-0000000000000002");
    for _ in 0..40 {
        let sequence = publish(&running.outbox, vec![1; 900], &[1]);
        ledger.accept(sequence, &[1]);
    }
    assert_eq!(running.outbox.holding().generations, 1);
    let (opened, recovered) = read(full.inner.crash(), &small(), OnDamage::Refuse).unwrap();
    assert_eq!(owed(&recovered), ledger.pairs());
    let (outbox, _) = opened.prepare(&small());
    for (sequence, _) in ledger.pairs() {
        assert_eq!(outbox.event(sequence).unwrap().payload, vec![1; 900]);
    }
    *full.refuses.lock() = None;
    publish(&running.outbox, vec![1; 900], &[9]);
    publish(&running.outbox, vec![1; 900], &[9]);
    assert_eq!(running.outbox.holding().generations, 2);
}

#[test]
fn a_dead_letter_keeps_its_event_and_holds_up_no_generation() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (running, _) = open_owing(store.clone(), &small(), ledger.owing());
    let sequence = publish(&running.outbox, vec![5; 900], &[2]);
    ledger.accept(sequence, &[2]);
    // The letter's record lies in a later generation than its event.
    while running.outbox.holding().generations < 3 {
        let next = publish(&running.outbox, vec![1; 900], &[1]);
        ledger.accept(next, &[1]);
    }
    ledger.end(&running.outbox, Record::Dead(letter(sequence, 2, WALL_MS)));
    for next in ledger.pairs() {
        ledger.end(&running.outbox, Record::Settle(delivery(next.0, next.1)));
    }
    churn(&running, &ledger, &store, 1);
    assert_eq!(running.outbox.event(sequence).unwrap().payload, vec![5; 900]);
    // And on through many generations more.
    for gone in 2..9 {
        churn(&running, &ledger, &store, gone);
    }
    assert_eq!(running.outbox.event(sequence).unwrap().payload, vec![5; 900]);
    running.outbox.close();
    let (running, recovered) = open(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::new());
    assert_eq!(running.outbox.event(sequence).unwrap().payload, vec![5; 900]);
}

#[test]
fn a_letter_is_read_where_it_was_copied_and_one_that_went_is_left_out() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (running, _) = open_owing(store.clone(), &small(), ledger.owing());
    let outbox = &running.outbox;
    let sequence = publish(outbox, vec![5; 900], &[2, 3]);
    ledger.accept(sequence, &[2, 3]);
    ledger.end(outbox, Record::Dead(letter(sequence, 2, WALL_MS)));
    ledger.end(outbox, Record::Dead(letter(sequence, 3, WALL_MS)));
    churn(&running, &ledger, &store, 1);
    outbox.revive(delivery(sequence, 3)).wait().unwrap();
    // As they were listed a moment before their generation went.
    let listed = 1;
    let read = outbox.letter(delivery(sequence, 2), listed).unwrap();
    assert_eq!(read, Some(letter(sequence, 2, WALL_MS)));
    assert_eq!(outbox.letter(delivery(sequence, 3), listed).unwrap(), None);
}

#[test]
fn a_delivery_that_dies_while_its_generation_is_copied_keeps_its_event() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (sender, records) = crossbeam_channel::unbounded::<Record>();
    let dies = Arc::new(Mutex::new(None::<u64>));
    let queue: Arc<Mutex<Option<Sender<Command>>>> = Arc::default();
    let owing = {
        let (ledger, queue, dies) = (ledger.clone(), Arc::clone(&queue), Arc::clone(&dies));
        let ask = ledger.owing();
        let owing: Owing = Box::new(move |sequences| {
            // The delivery ended a moment ago: it is in the queue and no more in the books.
            if let Some(sequence) = dies.lock().take_if(|sequence| sequences.contains(*sequence)) {
                ledger.0.lock().get_mut(&SubscriptionId(2)).unwrap().remove(sequence);
                let dead = Record::Dead(letter(sequence, 2, WALL_MS));
                queue.lock().as_ref().unwrap().send(Command::Record(dead.clone())).unwrap();
                sender.send(dead).unwrap();
            }
            ask(sequences)
        });
        owing
    };
    let (running, _) = open_owing(store.clone(), &small(), owing);
    *queue.lock() = Some(running.outbox.commands.clone());
    let sequence = publish(&running.outbox, vec![5; 900], &[2]);
    ledger.accept(sequence, &[2]);
    *dies.lock() = Some(sequence);
    churn(&running, &ledger, &store, 1);
    assert_eq!(records.try_iter().count(), 1);
    assert_eq!(running.outbox.event(sequence).unwrap().payload, vec![5; 900]);
}

#[test]
fn a_letter_that_is_replayed_and_dies_again_while_its_generation_is_copied_keeps_its_event() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let queue: Arc<Mutex<Option<Sender<Command>>>> = Arc::default();
    let (replay, replayed) = promise();
    let commands = vec![
        Command::Record(Record::Dead(letter(1, 2, WALL_MS))),
        Command::Revive(delivery(1, 2), replay),
    ];
    let owing: Owing = {
        let (ask, queue) = (ledger.owing(), Arc::clone(&queue));
        let commands = Mutex::new(commands);
        Box::new(move |sequences| {
            // Replayed before the mark; that it died again is in the queue when the copies are made.
            if let Some(command) = commands.lock().pop() {
                queue.lock().as_ref().unwrap().send(command).unwrap();
            }
            ask(sequences)
        })
    };
    let (running, _) = open_owing(store.clone(), &small(), owing);
    *queue.lock() = Some(running.outbox.commands.clone());
    let outbox = &running.outbox;
    let sequence = publish(outbox, vec![5; 900], &[2]);
    let bystander = publish(outbox, vec![6; 900], &[2]);
    assert_eq!(sequence, 1);
    ledger.accept(bystander, &[2]);
    ledger.end(outbox, Record::Dead(letter(sequence, 2, WALL_MS)));
    churn(&running, &ledger, &store, 1);
    assert!(replayed.wait().is_ok());
    assert_eq!(outbox.event(sequence).unwrap().payload, vec![5; 900]);
    assert_eq!(outbox.event(bystander).unwrap().payload, vec![6; 900]);
    outbox.close();
    let (running, _) = open_owing(store.crash(), &small(), ledger.owing());
    assert_eq!(running.outbox.letters(9).unwrap(), [letter(sequence, 2, WALL_MS)]);
}

#[test]
fn units_of_one_generation_never_share_a_number() {
    let store = Memory::default();
    for _ in 0..3 {
        let (running, _) = open(store.clone());
        publish(&running.outbox, vec![1], &[1]);
        publish(&running.outbox, vec![2], &[1]);
        running.outbox.close();
    }
    let database = store.open(&row::name_of(1)).unwrap();
    let mut units = Vec::new();
    database
        .scan(keys::HEADS, b"", &mut |key, sealed| {
            let first = keys::number_of(key).unwrap();
            let page = heads::read(&*database, &Catalogue::default(), first, sealed).unwrap();
            units.push(page.unit);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    let distinct: BTreeSet<u64> = units.iter().copied().collect();
    assert_eq!((units.len(), distinct.len()), (6, 6), "{units:?}");
}

#[test]
fn a_sealed_generation_that_lost_everything_without_a_word_is_found() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (running, _) = open_owing(store.clone(), &small(), ledger.owing());
    while running.outbox.holding().generations < 3 {
        let next = publish(&running.outbox, vec![1; 900], &[1]);
        ledger.accept(next, &[1]);
    }
    running.outbox.close();
    let store = store.crash();
    store.remove(&row::name_of(1)).unwrap();
    drop(store.open(&row::name_of(1)).unwrap());
    let error = read(store.crash(), &small(), OnDamage::Refuse).err().expect("it is missed");
    assert!(error.to_string().contains("generation 1"), "{error}");
}

#[test]
fn a_generation_that_cannot_be_copied_is_told_once_and_not_written_of_again_and_again() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (faulty, faults) = faulty(&store);
    let (running, _) = open_owing(faulty, &small(), ledger.owing());
    let outbox = &running.outbox;
    let keyed = Matched { dedup: Some(7), ..matched(vec![1; 900], &[2]) };
    let straggler = submit(outbox, vec![keyed]).wait().unwrap()[0].id.sequence();
    ledger.accept(straggler, &[2]);
    while outbox.holding().generations < 6 {
        let next = publish(outbox, vec![1; 900], &[1]);
        ledger.accept(next, &[1]);
    }
    damage(&store, &row::name_of(1), keys::PAYLOAD);
    let pages = store.open(&row::name_of(1)).unwrap();
    let first = pages.get(&keys::numbered(keys::PAYLOAD, 1)).unwrap().unwrap();
    let mut batch = Batch::default();
    batch.put(keys::numbered(keys::PAYLOAD, 1), first[..9].to_vec());
    pages.apply(batch).unwrap();
    drop(pages);
    for next in ledger.pairs().into_iter().filter(|next| next.1 == 1) {
        ledger.end(outbox, Record::Settle(delivery(next.0, next.1)));
    }
    publish(outbox, vec![1], &[9]);
    told(&running, |told| matches!(told, Committed::Faulty(_)));
    let before = faults.seen();
    for _ in 0..20 {
        publish(outbox, vec![1], &[9]);
    }
    // A write and a sync for each group, and perhaps another generation.
    assert!(faults.seen() - before < 50, "{} writes", faults.seen() - before);
    let again = running.committed.try_iter().filter(|told| matches!(told, Committed::Faulty(_)));
    assert_eq!(again.count(), 0);
    assert!(store.list().unwrap().contains(&row::name_of(1)));
}

#[test]
fn a_dedup_key_of_a_failed_group_counts_at_no_later_open() {
    let keyed = |key: &str, bytes: usize| Matched {
        dedup: Some(key_hash("acme", "MESSAGE_RECEIVED", key)),
        ..matched(vec![1; bytes], &[1])
    };
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    let (running, _) = open(faulty);
    submit(&running.outbox, vec![keyed("bystander", 1)]).wait().unwrap();
    // Its payload and its dedup page fill a batch; the batch with its head fails.
    let bytes = (group::BATCH_OPERATIONS - 1) * page::PAGE_BYTES;
    faults.fail_after(1);
    assert!(submit(&running.outbox, vec![keyed("failed", bytes)]).wait().is_err());
    faults.heal();
    told(&running, |told| matches!(told, Committed::Resumed));
    publish(&running.outbox, vec![1], &[1]);
    running.outbox.close();
    let (running, _) = open(store.crash());
    let again = submit(&running.outbox, vec![keyed("failed", 1), keyed("bystander", 1)]);
    let again = again.wait().unwrap();
    assert!(!again[0].duplicate, "its event was never stored");
    assert!(again[1].duplicate);
}

#[test]
fn a_dedup_key_of_a_group_that_a_crash_cut_counts_at_no_later_open() {
    let keyed = |key: &str, bytes: usize| Matched {
        dedup: Some(key_hash("acme", "MESSAGE_RECEIVED", key)),
        ..matched(vec![1; bytes], &[1])
    };
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    let (running, _) = open(faulty);
    submit(&running.outbox, vec![keyed("bystander", 1)]).wait().unwrap();
    faults.skip_syncs();
    // Its payload and its dedup page fill a batch, so that its head lies in another.
    let bytes = (group::BATCH_OPERATIONS - 1) * page::PAGE_BYTES;
    submit(&running.outbox, vec![keyed("cut", bytes)]).wait().unwrap();
    for kept in 0..store.unsynced_batches() {
        let cut = store.crash_keeping(kept);
        let (running, _) = open(cut.clone());
        publish(&running.outbox, vec![1], &[1]);
        running.outbox.close();
        let (running, _) = open(cut.crash());
        let again = submit(&running.outbox, vec![keyed("cut", 1), keyed("bystander", 1)]);
        let again = again.wait().unwrap();
        assert!(!again[0].duplicate, "its event is not there; {kept} batches were kept");
        assert!(again[1].duplicate);
    }
}

#[test]
fn a_generation_in_which_no_event_was_accepted_hides_none_of_the_next() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (running, _) = open_owing(store.clone(), &small(), ledger.owing());
    let outbox = &running.outbox;
    let straggler = publish(outbox, vec![3; 900], &[2]);
    ledger.accept(straggler, &[2]);
    // Failures alone fill generations.
    while outbox.holding().generations < 4 {
        ledger.end(outbox, Record::Retry(delivery(straggler, 2), retry_state()));
        outbox.forget(SubscriptionId(77)).wait().unwrap();
    }
    let kept = publish(outbox, vec![4; 900], &[2]);
    ledger.accept(kept, &[2]);
    for gone in 1..4 {
        churn(&running, &ledger, &store, gone);
    }
    assert_eq!(outbox.event(kept).unwrap().payload, vec![4; 900]);
    assert_eq!(outbox.event(straggler).unwrap().payload, vec![3; 900]);
    running.outbox.close();
    let (_, recovered) = open(store.crash());
    assert_eq!(owed(&recovered), ledger.pairs());
}

#[test]
fn sequences_of_a_group_that_failed_leave_no_later_event_in_the_wrong_generation() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (faulty, faults) = faulty(&store);
    let (running, _) = open_owing(faulty, &small(), ledger.owing());
    let outbox = &running.outbox;
    // Records alone reserve no sequences, and make the generation worth another one.
    (0..200).for_each(|_| outbox.record(Record::Retry(delivery(99, 2), retry_state())));
    outbox.forget(SubscriptionId(77)).wait().unwrap();
    faults.fail_after(0);
    let events = (0..5).map(|_| matched(vec![1; 100], &[1])).collect();
    assert!(submit(outbox, events).wait().is_err());
    faults.heal();
    told(&running, |told| matches!(told, Committed::Resumed));
    // A generation begins before another group does: nothing is owed and nothing happens.
    while outbox.holding().generations < 2 {
        std::thread::yield_now();
    }
    // Without a cache, so that both are read from the device.
    let limits = Limits { cache_bytes_max: 0, ..small() };
    let (running, _) = open_owing(store.crash(), &limits, ledger.owing());
    let kept = publish(&running.outbox, vec![2; 900], &[1]);
    let bystander = publish(&running.outbox, vec![3; 900], &[2]);
    assert_eq!(running.outbox.event(kept).unwrap().payload, vec![2; 900]);
    assert_eq!(running.outbox.event(bystander).unwrap().payload, vec![3; 900]);
}

#[test]
fn a_generation_that_is_read_from_is_read_by_another_and_removed_without_a_pause() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (running, _) = open_owing(store.clone(), &small(), ledger.owing());
    let outbox = &running.outbox;
    let mut firsts = Vec::new();
    while outbox.holding().generations < 7 {
        let next = publish(outbox, vec![1; 900], &[1]);
        ledger.accept(next, &[1]);
        if firsts.len() < outbox.holding().generations {
            firsts.push(next);
        }
    }
    let reader = outbox.row.database(1).unwrap();
    firsts.iter().for_each(|sequence| drop(outbox.read(*sequence).unwrap()));
    outbox.read(firsts[0]).expect("another reader of the first generation");
    for next in ledger.pairs() {
        ledger.end(outbox, Record::Settle(delivery(next.0, next.1)));
    }
    for _ in 0..5 {
        publish(outbox, vec![1; 900], &[9]);
    }
    assert!(store.list().unwrap().contains(&row::name_of(1)), "it is read from");
    drop(reader);
    churn(&running, &ledger, &store, 1);
    churn(&running, &ledger, &store, 5);
}

#[test]
fn a_removal_is_known_as_long_as_the_engine_runs_whatever_generation_goes() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (running, _) = open_owing(store.clone(), &small(), ledger.owing());
    running.outbox.forget(SubscriptionId(5)).wait().unwrap();
    for gone in 1..4 {
        churn(&running, &ledger, &store, gone);
    }
    running.outbox.close();
    let (_, recovered) = open(store.crash());
    assert_eq!(recovered.removed, std::collections::HashSet::from([SubscriptionId(5)]));
}

#[test]
fn a_removal_that_the_device_refuses_is_told_so_and_written_when_it_takes_writes() {
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    let (running, _) = open(faulty);
    let outbox = &running.outbox;
    let sequence = publish(outbox, vec![1], &[1, 2]);
    faults.fail_after(0);
    let first = outbox.forget(SubscriptionId(1));
    told(&running, |told| matches!(told, Committed::Stalled(_)));
    let second = outbox.forget(SubscriptionId(3));
    assert!(matches!(first.wait(), Err(Error::Unknown { .. })));
    assert!(matches!(second.wait(), Err(Error::Refused { .. })));
    faults.heal();
    told(&running, |told| matches!(told, Committed::Resumed));
    outbox.close();
    let (_, recovered) = open(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::from([(sequence, 2)]));
}

#[test]
fn a_damaged_database_of_dedup_keys_is_set_aside_and_the_events_stay() {
    let store = Memory::default();
    let (running, _) = open(store.clone());
    let sequence = publish(&running.outbox, vec![1], &[1]);
    running.outbox.close();
    let store = store.crash();
    let database = store.open(recovery::DEDUP_DATABASE).unwrap();
    let mut batch = Batch::default();
    batch.put(keys::in_bucket(1, 1), vec![1; 30]);
    database.apply(batch).unwrap();
    database.sync().unwrap();
    drop(database);
    let error = read(store.crash(), &Limits::default(), OnDamage::Refuse).err().unwrap();
    assert!(error.to_string().contains("dedup page"), "{error}");
    let (_, recovered) = read(store.crash(), &Limits::default(), OnDamage::SetAside).unwrap();
    assert_eq!(recovered.set_aside[0].0, "damaged-dedup");
    assert_eq!(owed(&recovered), BTreeSet::from([(sequence, 1)]));
}

#[test]
fn of_many_generations_the_damaged_ones_alone_are_set_aside() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (running, _) = open_owing(store.clone(), &small(), ledger.owing());
    let mut held = BTreeSet::new();
    while running.outbox.holding().generations < 14 {
        let sequence = publish(&running.outbox, vec![1; 900], &[1, 2]);
        ledger.accept(sequence, &[1, 2]);
        held.extend([(sequence, 1), (sequence, 2)]);
    }
    let row = Arc::clone(&running.outbox.row);
    running.outbox.close();
    let damaged = [3, 8, 9];
    for number in damaged {
        damage(&store, &row::name_of(number), keys::HEADS);
        let lost = |sequence| row.generation_of(sequence) == Some(number);
        held.retain(|(sequence, _)| !lost(*sequence));
    }
    let error = read(store.clone(), &small(), OnDamage::Refuse).err().expect("it is refused");
    assert!(error.to_string().contains("generation 9"), "the newest is told first: {error}");
    let (opened, recovered) = read(store.clone(), &small(), OnDamage::SetAside).unwrap();
    let names: Vec<&str> = recovered.set_aside.iter().map(|(name, _)| name.as_str()).collect();
    let expected = damaged.map(|number| format!("damaged-{}", row::name_of(number)));
    assert_eq!(names, expected.iter().rev().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(owed(&recovered), held);
    assert_eq!(opened.read.row.generations(), 14 - damaged.len());
}

#[test]
fn a_sealed_generation_is_open_only_while_it_is_read_from() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let limits = Limits { cache_bytes_max: 0, ..small() };
    let (running, _) = open_owing(store.clone(), &limits, ledger.owing());
    let row = &running.outbox.row;
    let mut first_of = Vec::new();
    while row.generations() < 5 {
        let sequence = publish(&running.outbox, vec![1; 900], &[1]);
        ledger.accept(sequence, &[1]);
        if row.newest().unwrap().number > first_of.len() as u64 {
            first_of.push(sequence);
        }
    }
    assert!(!row.has_open_sealed(), "what was sealed is closed");
    for sequence in &first_of {
        assert_eq!(running.outbox.event(*sequence).unwrap().payload, vec![1; 900]);
    }
    let reading = row.database(1).unwrap();
    row.close_unread();
    assert!(row.has_open_sealed(), "all of those open were read since");
    row.close_unread();
    assert!(row.has_open_sealed(), "one is being read");
    drop(reading);
    row.close_unread();
    assert!(!row.has_open_sealed());
    assert_eq!(running.outbox.event(first_of[0]).unwrap().payload, vec![1; 900]);
    assert!(row.has_open_sealed(), "it is opened again");
}
