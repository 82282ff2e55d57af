//! Checks that a key seen within its window stores nothing, as long as its event counts.

use super::*;

fn keyed(key: &str, bytes: usize) -> RoutedEvent {
    RoutedEvent {
        dedup: Some(dedup_key_of("acme", "MESSAGE_RECEIVED", key)),
        ..routed(vec![1; bytes], &[1])
    }
}

#[test]
fn a_dedup_key_survives_a_crash_only_with_its_event() {
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
    let (running, store, _) = open_small();
    let first = submit(&running.outbox, vec![keyed("a", 900)]).wait().unwrap()[0];
    running.outbox.record(Record::Settle(delivery(first.id.sequence(), 1)));
    for n in 0..200 {
        let next = submit(&running.outbox, vec![keyed(&format!("{n}"), 900)]).wait().unwrap()[0];
        running.outbox.record(Record::Settle(delivery(next.id.sequence(), 1)));
    }
    running.outbox.close();
    assert!(
        !store.list().unwrap().contains(&databases::name_of(1)),
        "the first generation is gone"
    );
    let (running, _) = open(store.crash());
    let again = submit(&running.outbox, vec![keyed("a", 900), keyed("new", 900)]).wait().unwrap();
    assert!(again[0].duplicate && again[0].id == first.id, "{again:?}");
    assert!(!again[1].duplicate);
}

/// An outbox whose first generation cannot be removed, because the key in it finds no other place.
fn with_a_key_that_cannot_be_moved() -> (FullDisk, RunningOutbox) {
    let full = FullDisk::default();
    let (running, _) = open_with(full.store(), &small());
    let first = submit(&running.outbox, vec![keyed("a", 900)]).wait().unwrap()[0];
    running.outbox.record(Record::Settle(delivery(first.id.sequence(), 1)));
    *full.refuses.lock() = Some("dedup");
    for _ in 0..100 {
        let sequence = publish(&running.outbox, vec![1; 900], &[1]);
        running.outbox.record(Record::Settle(delivery(sequence, 1)));
    }
    assert!(full.inner.list().unwrap().contains(&databases::name_of(1)), "it holds the key");
    (full, running)
}

#[test]
fn dedup_keys_are_moved_when_the_device_accepts_writes_again() {
    let (full, running) = with_a_key_that_cannot_be_moved();
    *full.refuses.lock() = None;
    churn(&running.outbox, &OwedLedger::default(), &full.inner, 1);
    running.outbox.close();
    let (running, _) = open(full.inner.crash());
    assert!(submit(&running.outbox, vec![keyed("a", 900)]).wait().unwrap()[0].duplicate);
}

#[test]
fn an_idle_engine_tries_again_to_move_dedup_keys() {
    let (full, running) = with_a_key_that_cannot_be_moved();
    let owed_still = publish(&running.outbox, vec![1; 900], &[1, 2]);
    // Until nothing more is told, so that no group is left to be written.
    while running.committed.recv_timeout(Duration::from_millis(300)).is_ok() {}
    *full.refuses.lock() = None;
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while full.inner.list().unwrap().contains(&databases::name_of(1)) {
        assert!(std::time::Instant::now() < deadline, "generation 1 is there still");
        std::thread::yield_now();
    }
    assert_eq!(running.outbox.event(owed_still).unwrap().payload, [1; 900]);
    running.outbox.close();
    let (running, _) = open(full.inner.crash());
    assert!(submit(&running.outbox, vec![keyed("a", 900)]).wait().unwrap()[0].duplicate);
}

#[test]
fn a_dedup_key_of_a_failed_group_never_counts() {
    // Its payload pages, its dedup page, its head: each in turn is what fails.
    for written in 0..PAGES + 2 {
        let (store, running, faults) = with_a_bystander();
        faults.fail_after(written as u64);
        assert!(submit(&running.outbox, vec![keyed("failed", SEVERAL_PAGES)]).wait().is_err());
        faults.heal();
        told(&running, |told| matches!(told, CommitEvent::Resumed));
        publish(&running.outbox, vec![1], &[1]);
        running.outbox.close();
        let (running, _) = open(store.crash());
        check_only_the_bystander_is_known(&running, "failed", "its event was never stored");
    }
}

/// A payload of several pages, which lie between the dedup page and the head.
const SEVERAL_PAGES: usize = PAGES * PAGE_BYTES;
const PAGES: usize = 4;

/// An outbox that knows a key already.
fn with_a_bystander() -> (Memory, RunningOutbox, Arc<FaultPlan>) {
    let (running, store, faults) = open_faulty();
    submit(&running.outbox, vec![keyed("bystander", 1)]).wait().unwrap();
    (store, running, faults)
}

fn check_only_the_bystander_is_known(running: &RunningOutbox, key: &str, why: &str) {
    let again = submit(&running.outbox, vec![keyed(key, 1), keyed("bystander", 1)]);
    let again = again.wait().unwrap();
    assert!(!again[0].duplicate, "{why}");
    assert!(again[1].duplicate);
}

#[test]
fn a_dedup_key_of_a_cut_group_never_counts() {
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
fn a_damaged_database_of_dedup_keys_is_set_aside() {
    let store = Memory::default();
    let (running, _) = open(store.clone());
    let sequence = publish(&running.outbox, vec![1], &[1]);
    running.outbox.close();
    let store = store.crash();
    let database = store.open(DEDUP_DATABASE).unwrap();
    let mut batch = Batch::default();
    batch.put(keys::in_bucket(1, 1), vec![1; 30]);
    database.commit(vec![batch]).unwrap();
    drop(database);
    let error = read(store.crash(), &Limits::default(), OnDamage::Refuse).err().unwrap();
    assert!(error.to_string().contains("dedup page"), "{error}");
    let (_, recovered) = read(store.crash(), &Limits::default(), OnDamage::SetAside).unwrap();
    assert_eq!(recovered.set_aside[0].0, "damaged-dedup");
    assert_eq!(owed(&recovered), BTreeSet::from([(sequence, 1)]));
}

/// Publishes an event with this dedup key and returns whether it is a duplicate.
fn is_duplicate(running: &RunningOutbox, key: &str) -> bool {
    submit(&running.outbox, vec![keyed(key, 1)]).wait().unwrap()[0].duplicate
}

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn a_restart_after_the_outbox_drained_keeps_every_dedup_key() {
    let (store, ledger) = (Memory::default(), OwedLedger::default());
    let outbox = open_stepped(store.clone(), &small(), ledger.owing());
    let keys: Vec<String> = (0..20).map(|n| format!("key {n}")).collect();
    for key in &keys {
        let receipt = submit(&outbox, vec![keyed(key, 500)]);
        let sequence = outbox.wait(receipt).unwrap()[0].id.sequence();
        outbox.record(Record::Settle(delivery(sequence, 1)));
    }
    for _ in 0..100 {
        outbox.step().unwrap();
    }
    assert_eq!(outbox.usage().events, 0, "it drained");
    outbox.close();
    let (running, _) = open(store.crash());
    let duplicates = keys.iter().filter(|key| is_duplicate(&running, key)).count();
    assert_eq!(duplicates, keys.len());
    assert!(!is_duplicate(&running, "new"));
}

#[test]
fn a_changed_window_applies_to_keys_from_before_the_change() {
    for (before, after) in [(24, 7 * 24), (7 * 24, 24)] {
        let limits = |hours: u32| Limits { dedup_window: hours * HOUR, ..Limits::default() };
        let clock = Arc::new(ManualClock::new(WALL_MS, 3));
        let store = Memory::default();
        let running = open_at(store.clone(), &limits(before), &clock);
        assert!(!is_duplicate(&running, "old"));
        running.outbox.close();
        clock.advance(HOUR);
        let soon = open_at(store.crash(), &limits(after), &clock);
        assert!(is_duplicate(&soon, "old"), "{before} to {after} hours: within the window");
        let restart = store.crash();
        clock.advance((after - 2) * HOUR);
        let later = open_at(restart.clone(), &limits(after), &clock);
        assert!(is_duplicate(&later, "old"), "{before} to {after} hours: still within");
        clock.advance(before.max(after) / 24 * HOUR + 2 * HOUR);
        let end = open_at(restart.crash(), &limits(after), &clock);
        assert!(!is_duplicate(&end, "old"), "{before} to {after} hours: the window is over");
        assert!(is_duplicate(&end, "old"));
    }
}

#[test]
fn at_open_the_newest_keys_survive_a_lowered_bound() {
    let (running, store, ledger) = open_small();
    let keys: Vec<String> = (0..60).map(|n| format!("key {n}")).collect();
    for key in &keys {
        let accepted = submit(&running.outbox, vec![keyed(key, 900)]).wait().unwrap()[0];
        // Owed, so that every generation stays.
        ledger.accept(accepted.id.sequence(), &[1]);
    }
    assert!(running.outbox.usage().generations > 2);
    running.outbox.close();
    let limits = Limits { dedup_keys_max: 10, ..small() };
    let (running, _) = open_with(store.crash(), &limits);
    assert!(keys[50..].iter().all(|key| is_duplicate(&running, key)), "the newest ten are known");
    assert!(!is_duplicate(&running, &keys[0]));
}

#[test]
fn one_account_at_its_bound_costs_no_other_account_a_key() {
    let limits = Limits { dedup_keys_max: 6, group_events_max: 1, ..Limits::default() };
    let clock = Arc::new(ManualClock::new(WALL_MS, 3));
    let store = Memory::default();
    let running = open_at(store.clone(), &limits, &clock);
    assert!(!is_duplicate(&running, "bystander"));
    for n in 0..100 {
        let dedup = Some(dedup_key_of("busy", "MESSAGE_RECEIVED", &format!("{n}")));
        let mut event = RoutedEvent { dedup, ..routed(vec![1], &[1]) };
        event.event.account = "busy".into();
        assert!(!submit(&running.outbox, vec![event]).wait().unwrap()[0].duplicate);
        clock.advance(HOUR / 10);
    }
    assert!(is_duplicate(&running, "bystander"));
    let dropped: Vec<_> = running
        .committed
        .try_iter()
        .filter_map(|event| match event {
            CommitEvent::KeysDropped(dropped) => Some(dropped),
            _ => None,
        })
        .collect();
    assert_eq!(dropped.iter().map(|dropped| dropped.keys).sum::<u64>(), 95);
    let told = dropped.iter().filter(|dropped| dropped.begins).count();
    assert_eq!(told, 1, "reaching the bound is told once");
    running.outbox.close();
    let reopened = open_at(store.crash(), &limits, &clock);
    assert!(is_duplicate(&reopened, "bystander"), "after a restart too");
}

/// How many keys are in the dedup pages of every database, and how many bytes these pages have.
fn stored_keys(store: &Memory) -> (usize, usize) {
    let (mut keys, mut bytes) = (0, 0);
    let store = store.crash();
    for name in store.list().unwrap().iter().filter(|name| has_database(name)) {
        let database = store.open(name).unwrap();
        codec::scan(&*database, keys::DEDUP, |key, sealed| {
            keys += codec::dedup_page::read(sealed).unwrap().len();
            bytes += key.len() + sealed.len();
            Ok(())
        })
        .unwrap();
    }
    (keys, bytes)
}

/// An outbox whose accounts may each have 500 keys, and what was published to it.
struct KeyedOutbox {
    store: Memory,
    outbox: Outbox,
    clock: Arc<ManualClock>,
    published: u64,
}

impl KeyedOutbox {
    fn limits() -> Limits {
        Limits { dedup_keys_max: 1_000, ..small() }
    }

    fn new() -> KeyedOutbox {
        let (store, clock) = (Memory::default(), Arc::new(ManualClock::new(WALL_MS, 3)));
        KeyedOutbox::open(store, clock, 0)
    }

    fn open(store: Memory, clock: Arc<ManualClock>, published: u64) -> KeyedOutbox {
        let owing: OwedQuery = Box::new(|_| HashMap::new());
        let outbox = open_stepped_at(store.clone(), &KeyedOutbox::limits(), owing, &clock);
        KeyedOutbox { store, outbox, clock, published }
    }

    fn restart(self) -> KeyedOutbox {
        KeyedOutbox::open(self.store.crash(), self.clock, self.published)
    }

    /// Publishes keys and settles their events. Returns how many are duplicates.
    fn publish(&mut self, account: &str, keys: impl Iterator<Item = u64>) -> usize {
        let event = |n| {
            let dedup = Some(dedup_key_of(account, "MESSAGE_RECEIVED", &format!("{n}")));
            let mut event = RoutedEvent { dedup, ..routed(vec![1; 100], &[1]) };
            event.event.account = account.into();
            event
        };
        let accepted = submit(&self.outbox, keys.map(event).collect());
        let accepted = self.outbox.wait(accepted).unwrap();
        for new in accepted.iter().filter(|accepted| !accepted.duplicate) {
            self.outbox.record(Record::Settle(delivery(new.id.sequence(), 1)));
        }
        accepted.iter().filter(|accepted| accepted.duplicate).count()
    }

    /// Publishes new keys of a busy account, a hundred a minute.
    fn churn(&mut self, minutes: u64) {
        for _ in 0..minutes {
            self.publish("acme", self.published..self.published + 100);
            self.published += 100;
            self.clock.advance(Duration::from_secs(60));
            for _ in 0..3 {
                self.outbox.step().unwrap();
            }
        }
    }
}

#[test]
fn keys_dropped_at_a_bound_leave_the_disk() {
    let mut keyed = KeyedOutbox::new();
    assert_eq!(keyed.publish("beta", 0..300), 0);
    keyed.churn(200);
    let (keys, bytes) = stored_keys(&keyed.store);
    keyed.churn(400);
    let (keys_later, bytes_later) = stored_keys(&keyed.store);
    assert!(keys_later < 9_000, "{keys} keys after 200 minutes, {keys_later} after 600");
    assert!(bytes_later < 250_000, "{bytes} bytes after 200 minutes, {bytes_later} after 600");
    for _ in 0..2 {
        let newest = keyed.published - 500..keyed.published;
        assert_eq!(keyed.publish("acme", newest), 500, "those within the bound are known");
        assert_eq!(keyed.publish("beta", 0..300), 300, "and all of the bystander's");
        keyed = keyed.restart();
    }
    assert_eq!(keyed.publish("acme", 0..100), 0, "the oldest were dropped");
}
