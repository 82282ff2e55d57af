//! Tests that bounds count what is owed and what is queued, and that nothing is refused for ever.

use super::*;

fn settle(outbox: &Outbox, sequence: u64, id: u32) {
    outbox.record_and_tell(Record::Settle(delivery(sequence, id))).wait().unwrap();
}

#[test]
fn a_drained_outbox_is_never_full() {
    let limits = [
        Limits { outbox_events_max: 50, ..Limits::default() },
        Limits { outbox_bytes_max: 20_000, ..Limits::default() },
    ];
    for limits in limits {
        let (running, _) = open_with(Memory::default(), &limits);
        for n in 0..500 {
            let admitted = running.outbox.admit(0, 0);
            assert!(admitted.is_ok(), "after {n} delivered events: {admitted:?}");
            let sequence = publish(&running.outbox, vec![1; 400], &[1, 2]);
            settle(&running.outbox, sequence, 1);
            settle(&running.outbox, sequence, 2);
        }
    }
}

#[test]
fn the_bounds_count_owed_events_exactly_and_after_a_restart() {
    let limits = Limits { outbox_events_max: 10, ..small() };
    let store = Memory::default();
    let (running, _) = open_with(store.clone(), &limits);
    let sequences: Vec<u64> =
        (0..10).map(|_| publish(&running.outbox, vec![1; 900], &[1, 2])).collect();
    let check = |outbox: &Outbox, owed: usize| {
        assert!(outbox.admit(11 - owed, 0).unwrap_err().contains("10 events"), "{owed} owed");
        assert!(outbox.admit(10 - owed, 0).is_ok(), "{owed} owed");
    };
    check(&running.outbox, 10);
    sequences[..5].iter().for_each(|sequence| settle(&running.outbox, *sequence, 1));
    check(&running.outbox, 10);
    sequences[..5].iter().for_each(|sequence| settle(&running.outbox, *sequence, 2));
    check(&running.outbox, 5);
    running.outbox.close();
    let (running, _) = open_with(store.crash(), &limits);
    check(&running.outbox, 5);
    settle(&running.outbox, sequences[9], 1);
    settle(&running.outbox, sequences[9], 2);
    check(&running.outbox, 4);
}

#[test]
fn the_bound_on_bytes_counts_large_events_among_small_ones() {
    let limits = Limits { outbox_bytes_max: 100_000, ..Limits::default() };
    let (store, ledger) = (Memory::default(), OwedLedger::default());
    let (running, _) = open_owing(store.clone(), &limits, ledger.owing());
    let large = publish(&running.outbox, vec![1; 60_000], &[1]);
    for _ in 0..200 {
        let small = publish(&running.outbox, vec![1; 100], &[1]);
        settle(&running.outbox, small, 1);
    }
    assert!(running.outbox.admit(1, 50_000).unwrap_err().contains("100000 bytes"));
    running.outbox.close();
    let (running, _) = open_with(store.crash(), &limits);
    assert!(running.outbox.admit(1, 50_000).is_err(), "after a restart");
    assert!(running.outbox.admit(1, 30_000).is_ok());
    settle(&running.outbox, large, 1);
    assert!(running.outbox.admit(1, 60_000).is_ok());
}

#[test]
fn a_full_disk_bound_seals_and_clears_the_newest_generation() {
    let limits = Limits { outbox_bytes_max: 20_000, generation_bytes: 60_000, ..Limits::default() };
    let (store, ledger) = (Memory::default(), OwedLedger::default());
    let (running, _) = open_owing(store.clone(), &limits, ledger.owing());
    let bystander = ledger.publish(&running.outbox, vec![7; 900], &[2]);
    let mut most = 0;
    for _ in 0..300 {
        let sequence = publish(&running.outbox, vec![1; 900], &[1]);
        settle(&running.outbox, sequence, 1);
        most = most.max(running.outbox.usage().bytes);
    }
    assert!(most < 45_000, "{most} bytes on the device");
    assert_eq!(running.outbox.event(bystander).unwrap().payload, [7; 900]);
}

#[test]
fn the_queue_counts_and_bounds_what_its_target_lists_take() {
    let (faulty, faults) = faulty(&Memory::default());
    let limits = Limits { queue_bytes_max: 1_000_000, ..Limits::default() };
    let (running, _) = open_with(faulty, &limits);
    faults.hold_syncs();
    let refused_after = (0..2_000_u32).find(|n| {
        if running.outbox.admit(1, 1).is_err() {
            return true;
        }
        // Scattered and different each time, so that nothing can be shared.
        let targets: Vec<u32> = (0..20_000).map(|id| id * 17 + n).collect();
        let events = vec![routed(vec![1], &targets)].into();
        let sender = SubmissionSender::Many(receipt_pair().0);
        running.outbox.submit(Submission { events, claims: smallvec::SmallVec::new(), sender });
        false
    });
    faults.release_syncs();
    assert!(refused_after.is_some_and(|n| n < 100), "refused after {refused_after:?} events");
    running.outbox.forget(SubscriptionId(1)).wait().unwrap();
    assert_eq!(running.outbox.queued(), (0, 0), "everything is released");
    assert!(running.outbox.admit(1, 1).is_ok());
}

#[test]
fn tombstones_of_many_removals_are_carried_on_in_few_writes() {
    let (store, ledger) = (Memory::default(), OwedLedger::default());
    let (faulty, faults) = faulty(&store);
    let limits = Limits { generation_bytes: 400_000, ..Limits::default() };
    let (running, _) = open_owing(faulty, &limits, ledger.owing());
    let receipts: Vec<_> =
        (100..5_100).map(|id| running.outbox.forget(SubscriptionId(id))).collect();
    receipts.into_iter().for_each(|receipt| receipt.wait().unwrap());
    let before = faults.operations();
    let mut published = 0;
    while store.list().unwrap().contains(&databases::name_of(1)) {
        let sequence = publish(&running.outbox, vec![1; 6_000], &[1]);
        settle(&running.outbox, sequence, 1);
        published += 1;
        assert!(published < 500, "{:?}", running.outbox.usage());
    }
    let writes = faults.operations() - before;
    assert!(writes < 8 * published + 200, "{writes} writes for {published} events");
    running.outbox.close();
    let (_, recovered) = read(store.crash(), &limits, OnDamage::Refuse).unwrap();
    assert_eq!(recovered.removed.len(), 5_000);
}
