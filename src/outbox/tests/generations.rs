//! Checks that generations come and go, and what is alive in one outlives it (I3).

use super::*;

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
fn a_delivery_that_dies_while_its_generation_is_copied_keeps_its_event() {
    let (store, ledger) = (Memory::default(), Ledger::default());
    let (sender, records) = crossbeam_channel::unbounded::<Record>();
    let dies = Arc::new(Mutex::new(None::<u64>));
    let queue: Arc<Mutex<Option<Queue>>> = Arc::default();
    let owing = {
        let (ledger, queue, dies) = (ledger.clone(), Arc::clone(&queue), Arc::clone(&dies));
        let ask = ledger.owing();
        let owing: Owing = Box::new(move |sequences| {
            // The delivery ended a moment ago: it is in the queue and no more in the books.
            if let Some(sequence) = dies.lock().take_if(|sequence| sequences.contains(*sequence)) {
                ledger.0.lock().get_mut(&SubscriptionId(2)).unwrap().remove(sequence);
                let dead = Record::Dead(letter(sequence, 2, WALL_MS));
                queue.lock().as_ref().unwrap().send(Command::Record(dead.clone()));
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
    // A payload, a head and a sync for each group, and perhaps another generation.
    assert!(faults.seen() - before < 70, "{} writes", faults.seen() - before);
    let again = running.committed.try_iter().filter(|told| matches!(told, Committed::Faulty(_)));
    assert_eq!(again.count(), 0);
    assert!(store.list().unwrap().contains(&row::name_of(1)));
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
    // A generation begins before another group does: nothing is owed and nothing happens. The one
    // before may be gone by the time this looks, because it owes nothing.
    while outbox.row.newest().is_none_or(|newest| newest.number < 2) {
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
