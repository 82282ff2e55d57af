//! Checks that generations come and go, and what is alive in one outlives it (I3).

use super::*;

#[test]
fn generations_are_cleared_and_stragglers_live_on() {
    let (running, store, ledger) = open_small();
    let outbox = &running.outbox;
    let payload = |n: u64| n.to_le_bytes().repeat(100);
    let mut kept = Vec::new();
    for n in 0..600_u64 {
        let sequence = ledger.publish(outbox, payload(n), &[1, 2]);
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
fn a_crash_during_compaction_loses_nothing() {
    let (store, ledger) = (Memory::default(), OwedLedger::default());
    let (faulty, faults) = faulty(&store);
    let (running, _) = open_owing(faulty, &small(), ledger.owing());
    let outbox = &running.outbox;
    // A bystander, which the ledger knows.
    ledger.publish(outbox, vec![9; 100], &[3]);
    for n in 0..200_u64 {
        let sequence = ledger.publish(outbox, vec![1; 700], &[1]);
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
    assert!(faults.operations() > 400);
    assert!(running.outbox.usage().generations < 8, "{:?}", running.outbox.usage());
}

#[test]
fn a_delivery_that_dies_during_copying_keeps_its_event() {
    let (store, ledger) = (Memory::default(), OwedLedger::default());
    let (sender, records) = crossbeam_channel::unbounded::<Record>();
    let dies = Arc::new(Mutex::new(None::<u64>));
    let queue: Arc<Mutex<Option<CommandQueue>>> = Arc::default();
    let owing = {
        let (ledger, queue, dies) = (ledger.clone(), Arc::clone(&queue), Arc::clone(&dies));
        let ask = ledger.owing();
        let owing: OwedQuery = Box::new(move |sequences| {
            // The delivery ended a moment ago: it is in the queue and no more in the books.
            if let Some(sequence) = dies.lock().take_if(|sequence| sequences.contains(*sequence)) {
                ledger.0.lock().get_mut(&SubscriptionId(2)).unwrap().remove(sequence);
                let dead = Record::Dead(letter(sequence, 2, WALL_MS));
                queue
                    .lock()
                    .as_ref()
                    .unwrap()
                    .send(CommitterCommand::Change([dead.clone()].into(), None));
                sender.send(dead).unwrap();
            }
            ask(sequences)
        });
        owing
    };
    let (running, _) = open_owing(store.clone(), &small(), owing);
    *queue.lock() = Some(running.outbox.queue.clone());
    let sequence = ledger.publish(&running.outbox, vec![5; 900], &[2]);
    *dies.lock() = Some(sequence);
    churn(&running.outbox, &ledger, &store, 1);
    assert_eq!(records.try_iter().count(), 1);
    assert_eq!(running.outbox.event(sequence).unwrap().payload, vec![5; 900]);
}

#[test]
fn damage_in_an_old_generation_is_not_copied_and_blocks_nothing() {
    let (running, store, ledger) = open_small();
    let outbox = &running.outbox;
    let owe = |dedup, id: u32| {
        let event = RoutedEvent { dedup: Some(dedup), ..routed(vec![9; 300], &[id]) };
        let sequence = submit(outbox, vec![event]).wait().unwrap()[0].id.sequence();
        ledger.accept(sequence, &[id]);
        delivery(sequence, id)
    };
    let [bystander, retried, dead] = [owe(8, 4), owe(9, 2), owe(7, 3)];
    let (excerpt, took, reason) = (Vec::new(), Duration::ZERO, Reason::Status(503));
    let tried = crate::attempt::FailedAttempt { number: 1, at_ms: 40, took, reason, excerpt };
    outbox.record(Record::FailedAttempt(retried, tried));
    outbox.record(Record::Retry(retried, retry_state()));
    outbox.record(Record::Health(SubscriptionId(2), Default::default()));
    ledger.end(outbox, Record::Dead(letter(dead.sequence, 3, WALL_MS)));
    ledger.fill(outbox, 6);
    for kind in [keys::RETRY, keys::TRIED, keys::HEALTH, keys::DEAD, keys::DEDUP] {
        damage(&store, &databases::name_of(1), kind);
    }
    for (sequence, id) in ledger.pairs().into_iter().filter(|(_, id)| *id == 1) {
        ledger.end(outbox, Record::Settle(delivery(sequence, id)));
    }
    churn(&running.outbox, &ledger, &store, 1);
    told(&running, |told| matches!(told, CommitEvent::Faulty(why) if why.contains("generation 1")));
    assert_eq!(
        outbox.letters_before(None, None, 9),
        [],
        "a letter that cannot be read is not shown"
    );
    running.outbox.close();
    let (running, recovered) = open(store.crash());
    let owed_before = [bystander, retried].map(|one| (one.sequence, one.subscription.0));
    assert_eq!(owed(&recovered), BTreeSet::from(owed_before));
    for delivery in [bystander, retried] {
        assert_eq!(running.outbox.event(delivery.sequence).unwrap().payload, [9; 300]);
    }
    let known = [8, 9, 7].map(|dedup| {
        let event = RoutedEvent { dedup: Some(dedup), ..routed(vec![1], &[1]) };
        submit(&running.outbox, vec![event]).wait().unwrap()[0].duplicate
    });
    assert_eq!(known, [true, true, false], "the page of the last was damaged");
}

#[test]
fn a_generation_that_cannot_be_copied_is_reported_once() {
    let (store, ledger) = (Memory::default(), OwedLedger::default());
    let (faulty, faults) = faulty(&store);
    let (running, _) = open_owing(faulty, &small(), ledger.owing());
    let outbox = &running.outbox;
    let keyed = RoutedEvent { dedup: Some(7), ..routed(vec![1; 900], &[2]) };
    let straggler = submit(outbox, vec![keyed]).wait().unwrap()[0].id.sequence();
    ledger.accept(straggler, &[2]);
    ledger.fill(outbox, 6);
    let pages = store.open(&databases::name_of(1)).unwrap();
    let key = keys::numbered(keys::HEADS, straggler);
    let head_page = pages.get(&key).unwrap().unwrap();
    let mut batch = Batch::default();
    batch.put(key, head_page[..9].to_vec());
    pages.write(vec![batch]).unwrap();
    drop(pages);
    for next in ledger.pairs().into_iter().filter(|next| next.1 == 1) {
        ledger.end(outbox, Record::Settle(delivery(next.0, next.1)));
    }
    publish(outbox, vec![1], &[9]);
    told(&running, |told| matches!(told, CommitEvent::Faulty(_)));
    let before = faults.operations();
    for _ in 0..20 {
        publish(outbox, vec![1], &[9]);
    }
    // A payload, a head and a sync for each group, and perhaps another generation.
    assert!(faults.operations() - before < 70, "{} writes", faults.operations() - before);
    let again = running.committed.try_iter().filter(|told| matches!(told, CommitEvent::Faulty(_)));
    assert_eq!(again.count(), 0);
    assert!(store.list().unwrap().contains(&databases::name_of(1)));
}

#[test]
fn a_generation_without_events_hides_none_of_the_next() {
    let (running, store, ledger) = open_small();
    let outbox = &running.outbox;
    let straggler = ledger.publish(outbox, vec![3; 900], &[2]);
    // Failures alone fill generations.
    while outbox.usage().generations < 4 {
        ledger.end(outbox, Record::Retry(delivery(straggler, 2), retry_state()));
        outbox.forget(SubscriptionId(77)).wait().unwrap();
    }
    let kept = ledger.publish(outbox, vec![4; 900], &[2]);
    for gone in 1..4 {
        churn(&running.outbox, &ledger, &store, gone);
    }
    assert_eq!(outbox.event(kept).unwrap().payload, vec![4; 900]);
    assert_eq!(outbox.event(straggler).unwrap().payload, vec![3; 900]);
    running.outbox.close();
    let (_, recovered) = open(store.crash());
    assert_eq!(owed(&recovered), ledger.pairs());
}

#[test]
fn a_failed_group_puts_no_later_event_in_a_wrong_generation() {
    let (store, ledger) = (Memory::default(), OwedLedger::default());
    let (faulty, faults) = faulty(&store);
    let (running, _) = open_owing(faulty, &small(), ledger.owing());
    let outbox = &running.outbox;
    // BatchRecords alone reserve no sequences, and make the generation worth another one.
    (0..200).for_each(|_| outbox.record(Record::Retry(delivery(99, 2), retry_state())));
    outbox.forget(SubscriptionId(77)).wait().unwrap();
    faults.fail_after(0);
    let events = (0..5).map(|_| routed(vec![1; 100], &[1])).collect();
    assert!(submit(outbox, events).wait().is_err());
    faults.heal();
    told(&running, |told| matches!(told, CommitEvent::Resumed));
    // A generation begins before another group does: nothing is owed and nothing happens. The one
    // before may be gone by the time this looks, because it owes nothing.
    while outbox.generations.newest().is_none_or(|newest| newest.number < 2) {
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
fn a_generation_being_read_is_removed_later() {
    let (running, store, ledger) = open_small();
    let outbox = &running.outbox;
    let mut firsts = Vec::new();
    while outbox.usage().generations < 7 {
        let next = ledger.publish(outbox, vec![1; 900], &[1]);
        if firsts.len() < outbox.usage().generations {
            firsts.push(next);
        }
    }
    let reader = outbox.generations.database(1).unwrap();
    firsts.iter().for_each(|sequence| drop(outbox.read(*sequence).unwrap()));
    outbox.read(firsts[0]).expect("another reader of the first generation");
    for next in ledger.pairs() {
        ledger.end(outbox, Record::Settle(delivery(next.0, next.1)));
    }
    for _ in 0..5 {
        publish(outbox, vec![1; 900], &[9]);
    }
    assert!(store.list().unwrap().contains(&databases::name_of(1)), "it is read from");
    drop(reader);
    churn(&running.outbox, &ledger, &store, 1);
    churn(&running.outbox, &ledger, &store, 5);
}

#[test]
fn a_tombstone_ends_once_the_removal_is_stored() {
    let (running, store, ledger) = open_small();
    // More tombstones than a generation has room for: copied on, they would fill one after the other.
    let removed: Vec<_> = (100..10_100).map(SubscriptionId).collect();
    let receipts: Vec<_> = removed.iter().map(|id| running.outbox.forget(*id)).collect();
    running.outbox.forget(SubscriptionId(5)).wait().unwrap();
    receipts.into_iter().for_each(|receipt| receipt.wait().unwrap());
    running.outbox.removals_stored(&removed);
    for gone in 1..4 {
        churn(&running.outbox, &ledger, &store, gone);
    }
    running.outbox.close();
    let (_, recovered) = open(store.crash());
    assert_eq!(recovered.removed, std::collections::HashSet::from([SubscriptionId(5)]));
}

#[test]
fn a_sealed_generation_is_open_only_while_it_is_read() {
    let (store, ledger) = (Memory::default(), OwedLedger::default());
    let limits = Limits { cache_bytes_max: 0, ..small() };
    let (running, _) = open_owing(store.clone(), &limits, ledger.owing());
    let generations = &running.outbox.generations;
    let mut first_of = Vec::new();
    while generations.totals().generations < 5 {
        let sequence = ledger.publish(&running.outbox, vec![1; 900], &[1]);
        if generations.newest().unwrap().number > first_of.len() as u64 {
            first_of.push(sequence);
        }
    }
    assert!(!generations.has_open_sealed(), "what was sealed is closed");
    for sequence in &first_of {
        assert_eq!(running.outbox.event(*sequence).unwrap().payload, vec![1; 900]);
    }
    let reading = generations.database(1).unwrap();
    generations.close_unread();
    assert!(generations.has_open_sealed(), "all of those open were read since");
    generations.close_unread();
    assert!(generations.has_open_sealed(), "one is being read");
    drop(reading);
    generations.close_unread();
    assert!(!generations.has_open_sealed());
    assert_eq!(running.outbox.event(first_of[0]).unwrap().payload, vec![1; 900]);
    assert!(generations.has_open_sealed(), "it is opened again");
}

/// Removes the payload page in which an event begins.
fn lose_payload(store: &Memory, generation: u64, sequence: u64) {
    let database = store.open(&databases::name_of(generation)).unwrap();
    let head = heads::find(&*database, &Catalogue::default(), EventId::new(0, sequence)).unwrap();
    let mut batch = Batch::default();
    batch.remove(keys::numbered(keys::PAYLOAD, head.payload.page));
    database.commit(vec![batch]).unwrap();
}

#[test]
fn a_lost_payload_page_blocks_no_compaction() {
    let (store, ledger) = (Memory::default(), OwedLedger::default());
    let limits = Limits { cache_bytes_max: 0, ..small() };
    let (running, _) = open_owing(store.clone(), &limits, ledger.owing());
    let [lost, bystander] = [5, 6].map(|n| publish(&running.outbox, vec![n; 900], &[2]));
    ledger.accept(lost, &[2]);
    ledger.accept(bystander, &[2]);
    let mut others = Vec::new();
    while running.outbox.usage().generations < 3 {
        let next = ledger.publish(&running.outbox, vec![1; 900], &[1]);
        others.push(next);
    }
    running.outbox.close();
    let store = store.crash();
    lose_payload(&store, 1, lost);
    let (running, _) = open_owing(store.clone(), &limits, ledger.owing());
    for other in others {
        ledger.end(&running.outbox, Record::Settle(delivery(other, 1)));
    }
    churn(&running.outbox, &ledger, &store, 1);
    told(&running, |event| matches!(event, CommitEvent::Faulty(_)));
    (2..6).for_each(|gone| churn(&running.outbox, &ledger, &store, gone));
    let check = |outbox: &Outbox| {
        assert_eq!(outbox.event(bystander).unwrap().payload, [6; 900]);
        let error = outbox.event(lost).unwrap_err();
        assert!(error.is_damage(), "{error}");
    };
    check(&running.outbox);
    running.outbox.close();
    let (running, recovered) = open_owing(store.crash(), &limits, ledger.owing());
    assert_eq!(owed(&recovered), ledger.pairs(), "it is still owed");
    check(&running.outbox);
}

#[test]
fn the_number_of_a_lost_payload_page_is_never_used_again() {
    let store = Memory::default();
    let (running, _) = open(store.clone());
    let bystander = publish(&running.outbox, vec![4; 900], &[1]);
    let lost = publish(&running.outbox, vec![5; 3 * PAGE_BYTES], &[1]);
    running.outbox.close();
    let store = store.crash();
    let database = store.open(&databases::name_of(1)).unwrap();
    let mut batch = Batch::default();
    (2..=4).for_each(|page| batch.remove(keys::numbered(keys::PAYLOAD, page)));
    database.commit(vec![batch]).unwrap();
    drop(database);
    let (running, _) = open(store.clone());
    publish(&running.outbox, vec![9; 3 * PAGE_BYTES], &[7]);
    let read = running.outbox.event(lost);
    assert!(read.is_err(), "it has the payload of another event");
    assert_eq!(running.outbox.event(bystander).unwrap().payload, [4; 900]);
}
