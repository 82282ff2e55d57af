//! Checks that a key seen within its window stores nothing, as long as its event counts.

use super::*;

/// An event with a dedup key.
fn keyed(key: &str, bytes: usize) -> Matched {
    Matched {
        dedup: Some(key_hash("acme", "MESSAGE_RECEIVED", key)),
        ..matched(vec![1; bytes], &[1])
    }
}

#[test]
fn a_dedup_key_outlives_a_crash_with_its_event_and_not_without() {
    let store = Memory::default();
    let (running, _) = open(store.clone());
    let first = submit(&running.outbox, vec![keyed("a", 1), keyed("bystander", 1)]).wait().unwrap();
    let cut = store.crash();
    let (faulty, faults) = faulty(&cut);
    let (running, _) = open(faulty);
    faults.skip_syncs();
    let again = submit(&running.outbox, vec![keyed("a", 1), keyed("b", 1)]).wait().unwrap();
    assert!(again[0].duplicate && again[0].id == first[0].id);
    assert!(!again[1].duplicate);
    for kept in 0..cut.unsynced_batches() {
        let (running, _) = open(cut.crash_keeping(kept));
        let third =
            submit(&running.outbox, vec![keyed("b", 1), keyed("bystander", 1)]).wait().unwrap();
        assert!(!third[0].duplicate, "the event of key b is gone with its group");
        assert!(third[1].duplicate && third[1].id == first[1].id);
    }
}

#[test]
fn a_dedup_key_outlives_its_generation() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (running, _) = open_owing(store.clone(), &small(), ledger.owing());
    let first = submit(&running.outbox, vec![keyed("a", 900)]).wait().unwrap()[0];
    running.outbox.record(Record::Settle(delivery(first.id.sequence(), 1)));
    for n in 0..200 {
        let next = submit(&running.outbox, vec![keyed(&format!("{n}"), 900)]).wait().unwrap()[0];
        running.outbox.record(Record::Settle(delivery(next.id.sequence(), 1)));
    }
    running.outbox.close();
    assert!(!store.list().unwrap().contains(&row::name_of(1)), "the first generation is gone");
    let (running, _) = open(store.crash());
    let again = submit(&running.outbox, vec![keyed("a", 900), keyed("new", 900)]).wait().unwrap();
    assert!(again[0].duplicate && again[0].id == first.id, "{again:?}");
    assert!(!again[1].duplicate);
}

#[test]
fn dedup_keys_that_cannot_be_moved_are_moved_when_the_device_takes_writes_again() {
    let (full, ledger) = (Full::default(), Ledger::default());
    let (running, _) = open_owing(full.clone(), &small(), ledger.owing());
    let first = submit(&running.outbox, vec![keyed("a", 900)]).wait().unwrap()[0];
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
    assert!(submit(&running.outbox, vec![keyed("a", 900)]).wait().unwrap()[0].duplicate);
}

#[test]
fn an_idle_engine_tries_again_to_move_dedup_keys_without_a_group_to_write() {
    let (full, ledger) = (Full::default(), Ledger::default());
    let (running, _) = open_owing(full.clone(), &small(), ledger.owing());
    let first = submit(&running.outbox, vec![keyed("a", 900)]).wait().unwrap()[0];
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
    assert!(submit(&running.outbox, vec![keyed("a", 900)]).wait().unwrap()[0].duplicate);
}

#[test]
fn a_dedup_key_of_a_failed_group_counts_at_no_later_open() {
    // Its payload pages, its dedup page, its head: each in turn is what fails.
    for written in 0..PAGES + 2 {
        let (store, running, faults) = with_a_bystander();
        faults.fail_after(written as u64);
        assert!(submit(&running.outbox, vec![keyed("failed", SEVERAL_PAGES)]).wait().is_err());
        faults.heal();
        told(&running, |told| matches!(told, Committed::Resumed));
        publish(&running.outbox, vec![1], &[1]);
        running.outbox.close();
        let (running, _) = open(store.crash());
        check_only_the_bystander_is_known(&running, "failed", "its event was never stored");
    }
}

/// A payload of several pages, which lie between the dedup page and the head.
const SEVERAL_PAGES: usize = PAGES * page::PAGE_BYTES;
const PAGES: usize = 4;

/// An outbox that knows a key already.
fn with_a_bystander() -> (Memory, Running, Arc<Faults>) {
    let store = Memory::default();
    let (faulty, faults) = faulty(&store);
    let (running, _) = open(faulty);
    submit(&running.outbox, vec![keyed("bystander", 1)]).wait().unwrap();
    (store, running, faults)
}

fn check_only_the_bystander_is_known(running: &Running, key: &str, why: &str) {
    let again = submit(&running.outbox, vec![keyed(key, 1), keyed("bystander", 1)]);
    let again = again.wait().unwrap();
    assert!(!again[0].duplicate, "{why}");
    assert!(again[1].duplicate);
}

#[test]
fn a_dedup_key_of_a_group_that_a_crash_cut_counts_at_no_later_open() {
    let (store, running, faults) = with_a_bystander();
    faults.skip_syncs();
    submit(&running.outbox, vec![keyed("cut", SEVERAL_PAGES)]).wait().unwrap();
    for kept in 0..store.unsynced_batches() {
        let cut = store.crash_keeping(kept);
        let (running, _) = open(cut.clone());
        publish(&running.outbox, vec![1], &[1]);
        running.outbox.close();
        let (running, _) = open(cut.crash());
        let why = format!("its event is not there; {kept} batches were kept");
        check_only_the_bystander_is_known(&running, "cut", &why);
    }
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
