//! Checks that a group is there as a whole or not at all (I2).

use super::*;

#[test]
fn ten_thousand_events_survive_a_power_cut_all_or_none() {
    let (running, store, faults) = open_faulty();
    let bystander = publish(&running.outbox, vec![9], &[7]);
    faults.skip_syncs();
    let targets: Vec<u32> = (1..300).map(|n| n * 3).collect();
    let events = (0..10_000).map(|_| routed(vec![1; 100], &targets)).collect();
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
fn leftovers_of_an_incomplete_group_are_removed() {
    let (running, store, faults) = open_faulty();
    faults.skip_syncs();
    let events = (0..5_000).map(|_| routed(vec![1; 100], &[1])).collect();
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
fn a_small_group_is_one_commit() {
    let (faulty, faults) = faulty(&Memory::default());
    let (running, _) = open(faulty);
    publish(&running.outbox, vec![7], &[1]);
    let before = faults.operations();
    publish(&running.outbox, vec![7], &[1]);
    let payload_head_and_one_sync = 3;
    assert_eq!(faults.operations() - before, payload_head_and_one_sync);
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
    let database = store.open(&databases::name_of(1)).unwrap();
    let mut units = Vec::new();
    database
        .scan(keys::HEADS, b"", &mut |key, sealed| {
            let first = keys::number_of(key).unwrap();
            let page = heads::read(
                &*database,
                &Catalogue::default(),
                &RoaringBitmap::new(),
                first,
                sealed,
            )
            .unwrap();
            units.push(page.unit);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    let distinct: BTreeSet<u64> = units.iter().copied().collect();
    assert_eq!((units.len(), distinct.len()), (6, 6), "{units:?}");
}
