//! Checks what the outbox takes: accepted is owed, an end is an end, and at a bound it refuses (I1, I7).

use super::*;

#[test]
fn accepted_events_are_owed_after_a_crash() {
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
        assert_eq!((&*event.account, event.waba.as_deref()), ("acme", Some("77")));
        assert_eq!(event.number.unwrap().to_string(), "919999999999");
    }
}

#[test]
fn each_end_of_a_delivery_survives() {
    let store = Memory::default();
    let (running, _) = open(store.clone());
    let sequence = publish(&running.outbox, vec![1], &[1, 2, 3, 4]);
    let bystander = publish(&running.outbox, vec![2], &[1, 2, 3, 4]);
    let letter = StoredDeadLetter {
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
fn a_removed_subscription_is_owed_nothing() {
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
fn sequences_are_never_used_twice() {
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
fn the_incarnation_stays_with_the_outbox() {
    let store = Memory::default();
    let (running, _) = open(store.clone());
    publish(&running.outbox, vec![], &[1]);
    let id = running.outbox.id_of(9);
    running.outbox.close();
    assert_eq!(open(store.crash()).0.outbox.id_of(9), id);
}

#[test]
fn a_full_queue_refuses_until_there_is_room() {
    let (faulty, faults) = faulty(&Memory::default());
    let limits = Limits { queue_events_max: 3, ..Limits::default() };
    let (running, _) = open_with(faulty, &limits);
    faults.hold_syncs();
    let waiting: Vec<_> =
        (0..3).map(|_| submit(&running.outbox, vec![routed(vec![1], &[1])])).collect();
    let reason = running.outbox.admit(1, 1).unwrap_err();
    assert!(reason.contains("3 events"), "{reason}");
    assert!(waiting.iter().all(|receipt| !receipt.is_done()), "nothing is promised before a sync");
    faults.release_syncs();
    waiting.into_iter().for_each(|receipt| assert!(receipt.wait().is_ok()));
    assert!(submit(&running.outbox, vec![routed(vec![4], &[1])]).wait().is_ok());
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

#[test]
fn on_sled_everything_survives_a_close() {
    let directory = tempfile::tempdir().unwrap();
    let store = || Sled::new(directory.path());
    let (running, _) = open(store());
    let sequence = publish(&running.outbox, vec![7; 50_000], &[1, 2]);
    running.outbox.record(Record::Settle(delivery(sequence, 1)));
    running.outbox.close();
    let (running, recovered) = open(store());
    assert_eq!(owed(&recovered), BTreeSet::from([(sequence, 2)]));
    assert_eq!(running.outbox.event(sequence).unwrap().payload, vec![7; 50_000]);
    let blobs = directory.path().join(databases::name_of(1)).join("blobs");
    let blobs = std::fs::read_dir(blobs).unwrap().count();
    assert_eq!(blobs, 0, "sled never syncs its blob files");
}
