//! Checks the outbox as its users see it, on the memory store and on sled.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::attempt::{DeadLetter, DeliveryId, Failure, Reason, RetryState};
use crate::clock::Manual;
use crate::event::Accepted;
use crate::store::{Batch, Memory, Sled, Store};

/// An outbox with the channel on which it tells what it committed.
struct Running {
    outbox: Outbox,
    committed: crossbeam_channel::Receiver<Committed>,
}

fn open(database: Arc<dyn Database>) -> (Running, Recovered) {
    open_with(database, &Limits::default())
}

fn open_with(database: Arc<dyn Database>, limits: &Limits) -> (Running, Recovered) {
    let clock = Arc::new(Manual::new(1_700_000_000_000, 3));
    let mut opened = Opened::read(database, &Catalogue::default(), limits, &*clock).unwrap();
    let recovered = std::mem::take(&mut opened.recovered);
    let (outbox, unstarted) = opened.prepare(limits);
    let (sender, committed) = crossbeam_channel::unbounded();
    let sink: Sink = Box::new(move |told| drop(sender.send(told)));
    outbox.start(unstarted, clock, sink).unwrap();
    (Running { outbox, committed }, recovered)
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
    let (running, _) = open(store.open("outbox").unwrap());
    let payloads: Vec<Vec<u8>> = [0, 100, 20_000, 2_000_000].iter().map(|n| vec![7; *n]).collect();
    let sequences: Vec<u64> =
        payloads.iter().map(|payload| publish(&running.outbox, payload.clone(), &[1, 2])).collect();
    let (running, recovered) = open(store.crash().open("outbox").unwrap());
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
    let (running, _) = open(store.open("outbox").unwrap());
    let sequence = publish(&running.outbox, vec![1], &[1, 2, 3, 4]);
    let bystander = publish(&running.outbox, vec![2], &[1, 2, 3, 4]);
    let letter = DeadLetter {
        delivery: delivery(sequence, 2),
        reason: Reason::Failed(Failure::Guard("private".to_owned())),
        attempts: 1,
        at_wall_ms: 5,
    };
    running.outbox.record(Record::Settle(delivery(sequence, 1)));
    running.outbox.record(Record::Dead(letter));
    running.outbox.record(Record::Retry(delivery(sequence, 3), retry_state()));
    running.outbox.close();
    let (_, recovered) = open(store.crash().open("outbox").unwrap());
    let expected = [(sequence, 3), (sequence, 4)].into_iter();
    assert_eq!(owed(&recovered), expected.chain((1..=4).map(|id| (bystander, id))).collect());
    assert_eq!(recovered.retries, [(delivery(sequence, 3), retry_state())]);
    assert_eq!(recovered.dead, 1);
}

#[test]
fn a_removed_subscription_is_owed_nothing_and_another_keeps_its_own() {
    let store = Memory::default();
    let (running, _) = open(store.open("outbox").unwrap());
    let sequence = publish(&running.outbox, vec![1], &[1, 2]);
    running.outbox.forget(SubscriptionId(1)).wait().unwrap();
    let (_, recovered) = open(store.crash().open("outbox").unwrap());
    assert_eq!(owed(&recovered), BTreeSet::from([(sequence, 2)]));
    assert_eq!(recovered.cancelled, 1);
    assert!(recovered.removed.contains(&SubscriptionId(1)));
}

#[test]
fn sequences_are_never_given_twice_also_those_without_a_record() {
    let store = Memory::default();
    let mut given = BTreeSet::new();
    for _ in 0..5 {
        let (running, _) = open(store.open("outbox").unwrap());
        assert!(given.insert(publish(&running.outbox, vec![], &[])));
        assert!(given.insert(publish(&running.outbox, vec![], &[1])));
        assert!(given.insert(publish(&running.outbox, vec![], &[])));
        running.outbox.close();
    }
}

#[test]
fn the_incarnation_stays_with_the_outbox_and_a_new_one_has_its_own() {
    let store = Memory::default();
    let (running, _) = open(store.open("outbox").unwrap());
    publish(&running.outbox, vec![], &[1]);
    let id = running.outbox.id_of(9);
    running.outbox.close();
    assert_eq!(open(store.crash().open("outbox").unwrap()).0.outbox.id_of(9), id);
}

#[test]
fn ten_thousand_events_are_all_there_or_none_at_whatever_batch_the_power_goes() {
    let store = Memory::default();
    let database = store.open("outbox").unwrap();
    let (running, _) = open(Arc::new(Unsynced(Arc::clone(&database))));
    let bystander = publish(&running.outbox, vec![9], &[7]);
    database.sync().unwrap();
    let targets: Vec<u32> = (1..300).map(|n| n * 3).collect();
    let events = (0..10_000).map(|_| matched(vec![1; 100], &targets)).collect();
    submit(&running.outbox, events).wait().unwrap();
    let batches = store.unsynced_batches();
    assert!(batches > 2, "{batches} batches");
    for kept in 0..=batches {
        let (_, recovered) = open(store.crash_keeping(kept).open("outbox").unwrap());
        let expected = if kept == batches { 10_000 * 299 } else { 0 };
        let owed: u64 = recovered.owed.values().map(roaring::RoaringTreemap::len).sum();
        assert!(recovered.owed[&SubscriptionId(7)].contains(bystander));
        assert_eq!(owed - 1, expected, "{kept} of {batches} batches on the device");
    }
}

#[test]
fn what_an_unfinished_group_left_is_cleared_and_the_outbox_goes_on() {
    let store = Memory::default();
    let (running, _) = open(Arc::new(Unsynced(store.open("outbox").unwrap())));
    let events = (0..5_000).map(|_| matched(vec![1; 100], &[1])).collect();
    submit(&running.outbox, events).wait().unwrap();
    let cut = store.crash_keeping(store.unsynced_batches() - 1);
    let (running, recovered) = open(cut.open("outbox").unwrap());
    assert_eq!(owed(&recovered), BTreeSet::new());
    let sequence = publish(&running.outbox, vec![5; 10], &[1]);
    running.outbox.close();
    let (running, recovered) = open(cut.crash().open("outbox").unwrap());
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
    let (running, _) = open(store.open("outbox").unwrap());
    let first = submit(&running.outbox, vec![keyed("a"), keyed("bystander")]).wait().unwrap();
    let cut = store.crash();
    let (running, _) = open(Arc::new(Unsynced(cut.open("outbox").unwrap())));
    let again = submit(&running.outbox, vec![keyed("a"), keyed("b")]).wait().unwrap();
    assert!(again[0].duplicate && again[0].id == first[0].id);
    assert!(!again[1].duplicate);
    for kept in 0..cut.unsynced_batches() {
        let (running, _) = open(cut.crash_keeping(kept).open("outbox").unwrap());
        let third = submit(&running.outbox, vec![keyed("b"), keyed("bystander")]).wait().unwrap();
        assert!(!third[0].duplicate, "the event of key b is gone with its group");
        assert!(third[1].duplicate && third[1].id == first[1].id);
    }
}

#[test]
fn a_full_queue_refuses_and_takes_again_when_there_is_room() {
    let store = Memory::default();
    let gate = Arc::new(Gate::default());
    let held = Held { inner: store.open("outbox").unwrap(), gate: Arc::clone(&gate) };
    let limits = Limits { queue_events_max: 3, ..Limits::default() };
    let (running, _) = open_with(Arc::new(held), &limits);
    let waiting: Vec<_> =
        (0..3).map(|_| submit(&running.outbox, vec![matched(vec![1], &[1])])).collect();
    let reason = running.outbox.admit(1, 1).unwrap_err();
    assert!(reason.contains("3 events"), "{reason}");
    assert!(waiting.iter().all(|receipt| !receipt.is_done()), "nothing is promised before a sync");
    gate.open();
    waiting.into_iter().for_each(|receipt| assert!(receipt.wait().is_ok()));
    assert!(submit(&running.outbox, vec![matched(vec![4], &[1])]).wait().is_ok());
}

#[test]
fn a_failed_sync_leaves_receipts_unknown_and_stops_the_committer() {
    let store = Memory::default();
    let (running, _) = open(Arc::new(Failing(store.open("outbox").unwrap())));
    let error = submit(&running.outbox, vec![matched(vec![1], &[1])]).wait().unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    let told = running.committed.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(matches!(told, Committed::Failed(_)), "{told:?}");
    let late = submit(&running.outbox, vec![matched(vec![1], &[1])]).wait().unwrap_err();
    assert!(matches!(late, Error::Closed), "{late}");
}

#[test]
fn on_sled_everything_survives_a_close_and_the_directory_opens_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = Sled::new(directory.path());
    let (running, _) = open(store.open("outbox").unwrap());
    let sequence = publish(&running.outbox, vec![7; 50_000], &[1, 2]);
    running.outbox.record(Record::Settle(delivery(sequence, 1)));
    running.outbox.close();
    let (running, recovered) = open(store.open("outbox").unwrap());
    assert_eq!(owed(&recovered), BTreeSet::from([(sequence, 2)]));
    assert_eq!(running.outbox.event(sequence).unwrap().payload, vec![7; 50_000]);
    let blobs = std::fs::read_dir(directory.path().join("outbox/blobs")).unwrap().count();
    assert_eq!(blobs, 0, "sled never syncs its blob files");
}

#[test]
fn a_damaged_record_is_named() {
    let store = Memory::default();
    let (running, _) = open(store.open("outbox").unwrap());
    publish(&running.outbox, vec![1], &[1]);
    running.outbox.close();
    let database = store.crash().open("outbox").unwrap();
    let (key, mut sealed) =
        database.last(keys::HEADS, &keys::numbered(keys::HEADS, u64::MAX)).unwrap().unwrap();
    sealed[9] ^= 1;
    let mut batch = Batch::default();
    batch.put(key, sealed);
    database.apply(batch).unwrap();
    let clock = Manual::new(0, 1);
    let opened = Opened::read(database, &Catalogue::default(), &Limits::default(), &clock);
    let error = opened.err().unwrap().to_string();
    assert!(error.contains("head page") && error.contains("checksum"), "{error}");
}

/// A database whose syncs are put off, so that a test decides what reached the device.
#[derive(Debug)]
struct Unsynced(Arc<dyn Database>);

/// A database whose sync fails.
#[derive(Debug)]
struct Failing(Arc<dyn Database>);

/// A database whose sync waits for a gate.
#[derive(Debug)]
struct Held {
    inner: Arc<dyn Database>,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: parking_lot::Condvar,
}

impl Gate {
    fn open(&self) {
        *self.is_open.lock() = true;
        self.opened.notify_all();
    }
}

/// Passes everything on but `sync`.
macro_rules! database_with_sync {
    ($name:ty, $inner:tt, |$this:ident| $sync:expr) => {
        impl Database for $name {
            fn apply(&self, batch: Batch) -> std::result::Result<(), crate::store::Failure> {
                self.$inner.apply(batch)
            }
            fn sync(&self) -> std::result::Result<(), crate::store::Failure> {
                let $this = self;
                $sync
            }
            fn get(
                &self,
                key: &[u8],
            ) -> std::result::Result<Option<Vec<u8>>, crate::store::Failure> {
                self.$inner.get(key)
            }
            fn scan(
                &self,
                prefix: &[u8],
                from: &[u8],
                visit: &mut crate::store::Visit<'_>,
            ) -> std::result::Result<(), crate::store::Failure> {
                self.$inner.scan(prefix, from, visit)
            }
            fn last(
                &self,
                prefix: &[u8],
                to: &[u8],
            ) -> std::result::Result<Option<crate::store::Pair>, crate::store::Failure> {
                self.$inner.last(prefix, to)
            }
        }
    };
}

database_with_sync!(Unsynced, 0, |_this| Ok(()));
database_with_sync!(Failing, 0, |_this| {
    Err(crate::store::Failure::io(std::io::Error::other("no space")))
});
database_with_sync!(Held, inner, |this| {
    let mut is_open = this.gate.is_open.lock();
    this.gate.opened.wait_while(&mut is_open, |is_open| !*is_open);
    this.inner.sync()
});
