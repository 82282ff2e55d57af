//! Checks that a dead letter is kept within its bounds, with its event, and can be owed again.

use super::*;

#[test]
fn dead_letters_over_their_bounds_are_dropped() {
    let limits = Limits { dead_letters_max: 4, ..Limits::default() };
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
        .filter_map(|told| match told {
            CommitEvent::LettersDropped { account, letters } if &*account == "acme" => {
                Some(letters)
            }
            _ => None,
        })
        .sum();
    assert_eq!(dropped, 3);
    let (_, recovered) = open_with(store.crash(), &limits);
    assert_eq!(recovered.letters_dropped, 0, "their end is on the device, so they count once");
    assert_eq!(owed(&recovered).len(), 2, "a letter that was dropped is owed no more");
}

#[test]
fn letters_dropped_at_a_bound_stay_gone_after_a_restart() {
    let [limits, lowered] =
        [20, 8].map(|dead_letters_max| Limits { dead_letters_max, ..Limits::default() });
    let (store, bystander) = (Memory::default(), delivery(1, 1));
    let (running, _) = open_with(store.clone(), &limits);
    let mut beta = routed(vec![1], &[1]);
    beta.event.account = "beta".into();
    let accepted = submit(&running.outbox, vec![beta]).wait().unwrap();
    assert_eq!(accepted[0].id.sequence(), bystander.sequence);
    running.outbox.record(Record::Dead(letter(bystander.sequence, 1, WALL_MS)));
    let die = |outbox: &Outbox, count: usize| -> Vec<DeliveryId> {
        let sequences: Vec<u64> = (0..count).map(|_| publish(outbox, vec![1], &[1])).collect();
        let dead = |sequence: &u64| outbox.record(Record::Dead(letter(*sequence, 1, WALL_MS)));
        sequences.iter().for_each(dead);
        outbox.flush().unwrap();
        sequences.iter().map(|sequence| delivery(*sequence, 1)).collect()
    };
    // Of twenty letters, ten are over the account's half, and the host discards the others.
    let dead = die(&running.outbox, 20);
    assert_eq!(running.outbox.discard(dead[10..].to_vec()).wait().unwrap(), 10);
    let store = store.crash();
    let (running, _) = open_with(store.clone(), &limits);
    assert_eq!(running.outbox.letters_before(None, None, 99), [(WALL_MS, bystander)]);
    // Six of ten are over a bound that was lowered.
    let dead = die(&running.outbox, 10);
    let store = store.crash();
    let (running, recovered) = open_with(store.clone(), &lowered);
    assert_eq!(recovered.letters_dropped, 6);
    assert_eq!(running.outbox.discard(dead[6..].to_vec()).wait().unwrap(), 4);
    let (running, _) = open_with(store.crash(), &limits);
    assert_eq!(running.outbox.letters_before(None, None, 99), [(WALL_MS, bystander)]);
}

#[test]
fn a_replayed_letter_is_owed_until_it_ends_again() {
    let (running, store, ledger) = open_small();
    let outbox = &running.outbox;
    let sequence = ledger.publish(outbox, vec![1; 100], &[1, 2]);
    for id in [1, 2] {
        ledger.end(outbox, Record::Dead(letter(sequence, id, WALL_MS)));
    }
    publish(outbox, vec![], &[]);
    outbox.revive(vec![vec![delivery(sequence, 1)]]).wait().unwrap();
    ledger.accept(sequence, &[1]);
    told(&running, |told| matches!(told, CommitEvent::Revived(_)));
    let found = || owed(&read(store.crash(), &small(), OnDamage::Refuse).unwrap().1);
    assert_eq!(found(), BTreeSet::from([(sequence, 1)]));
    // Through the generations that follow, in which the event is copied forward.
    for _ in 0..200 {
        let other = ledger.publish(outbox, vec![1; 700], &[3]);
        ledger.end(outbox, Record::Settle(delivery(other, 3)));
    }
    assert_eq!(found().first(), Some(&(sequence, 1)));
    let letters = outbox.letters_before(None, None, 10);
    assert_eq!(letters, [(WALL_MS, delivery(sequence, 2))]);
    outbox.revive(vec![vec![delivery(sequence, 1)]]).wait().unwrap();
    ledger.end(outbox, Record::Settle(delivery(sequence, 1)));
    outbox.close();
    let (_, recovered) = open(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::new(), "a second revival of what is owed does nothing");
}

#[test]
fn a_late_letter_keeps_its_event_for_a_replay() {
    let (running, store, ledger) = open_small();
    let outbox = &running.outbox;
    let sequence = ledger.publish(outbox, vec![7; 100], &[1]);
    // Generations that are all owed stay, so that the letter lies in another one than its event.
    let others: Vec<u64> = (0..100).map(|_| publish(outbox, vec![1; 700], &[3])).collect();
    others.iter().for_each(|other| ledger.accept(*other, &[3]));
    let before = outbox.usage().generations;
    ledger.end(outbox, Record::Dead(letter(sequence, 1, WALL_MS)));
    publish(outbox, vec![], &[]);
    assert!(before > 3, "{before} generations");
    for other in others {
        ledger.end(outbox, Record::Settle(delivery(other, 3)));
    }
    for _ in 0..100 {
        let other = ledger.publish(outbox, vec![1; 700], &[3]);
        ledger.end(outbox, Record::Settle(delivery(other, 3)));
    }
    assert!(outbox.usage().generations < before, "{:?}", outbox.usage());
    outbox.revive(vec![vec![delivery(sequence, 1)]]).wait().unwrap();
    assert_eq!(outbox.event(sequence).unwrap().payload, vec![7; 100]);
    let (reopened, recovered) = open(store.crash());
    assert_eq!(owed(&recovered).first(), Some(&(sequence, 1)));
    assert_eq!(reopened.outbox.event(sequence).unwrap().payload, vec![7; 100]);
}

#[test]
fn a_dropped_letter_never_comes_back_as_owed() {
    let limits = Limits { dead_letters_max: 1, ..small() };
    let (store, ledger) = (Memory::default(), OwedLedger::default());
    let (running, _) = open_owing(store.clone(), &limits, ledger.owing());
    let outbox = &running.outbox;
    let rotate = || {
        for _ in 0..60 {
            let other = ledger.publish(outbox, vec![1; 700], &[3]);
            ledger.end(outbox, Record::Settle(delivery(other, 3)));
        }
    };
    // One delivery of the event stays owed, so that the event is copied on with its dead one.
    let sequence = ledger.publish(outbox, vec![7; 100], &[1, 2]);
    rotate();
    ledger.end(outbox, Record::Dead(letter(sequence, 1, WALL_MS)));
    rotate();
    let other = ledger.publish(outbox, vec![7; 100], &[1]);
    ledger.end(outbox, Record::Dead(letter(other, 1, WALL_MS + 5)));
    for _ in 0..4 {
        rotate();
        let (_, recovered) = read(store.crash(), &limits, OnDamage::Refuse).unwrap();
        let found = owed(&recovered);
        assert!(found.contains(&(sequence, 2)), "the bystander is still owed");
        assert!(!found.contains(&(sequence, 1)) && !found.contains(&(other, 1)), "{found:?}");
    }
}

#[test]
fn a_dead_letter_keeps_its_event_but_no_generation() {
    let (running, store, ledger) = open_small();
    let sequence = ledger.publish(&running.outbox, vec![5; 900], &[2]);
    // The letter's record lies in a later generation than its event.
    ledger.fill(&running.outbox, 3);
    ledger.end(&running.outbox, Record::Dead(letter(sequence, 2, WALL_MS)));
    for next in ledger.pairs() {
        ledger.end(&running.outbox, Record::Settle(delivery(next.0, next.1)));
    }
    churn(&running.outbox, &ledger, &store, 1);
    assert_eq!(running.outbox.event(sequence).unwrap().payload, vec![5; 900]);
    // And on through many generations more.
    for gone in 2..9 {
        churn(&running.outbox, &ledger, &store, gone);
    }
    assert_eq!(running.outbox.event(sequence).unwrap().payload, vec![5; 900]);
    running.outbox.close();
    let (running, recovered) = open(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::new());
    assert_eq!(running.outbox.event(sequence).unwrap().payload, vec![5; 900]);
}

#[test]
fn a_copied_letter_is_read_and_a_replayed_one_is_not() {
    let (running, store, ledger) = open_small();
    let outbox = &running.outbox;
    let sequence = ledger.publish(outbox, vec![5; 900], &[2, 3]);
    ledger.end(outbox, Record::Dead(letter(sequence, 2, WALL_MS)));
    ledger.end(outbox, Record::Dead(letter(sequence, 3, WALL_MS)));
    churn(&running.outbox, &ledger, &store, 1);
    outbox.revive(vec![vec![delivery(sequence, 3)]]).wait().unwrap();
    let read = outbox.letter(delivery(sequence, 2)).unwrap();
    assert_eq!(read, Some(letter(sequence, 2, WALL_MS)));
    assert_eq!(outbox.letter(delivery(sequence, 3)).unwrap(), None);
}

#[test]
fn a_letter_that_dies_again_during_copying_keeps_its_event() {
    let (store, ledger) = (Memory::default(), OwedLedger::default());
    let queue: Arc<Mutex<Option<CommandQueue>>> = Arc::default();
    let (replay, replayed) = receipt_pair();
    let commands = vec![
        CommitterCommand::Change([Record::Dead(letter(1, 2, WALL_MS))].into(), None),
        CommitterCommand::Revive(vec![vec![delivery(1, 2)]], replay),
    ];
    let owing: OwedQuery = {
        let (ask, queue) = (ledger.owing(), Arc::clone(&queue));
        let commands = Mutex::new(commands);
        Box::new(move |sequences| {
            // Replayed before the mark; that it died again is in the queue when the copies are made.
            if let Some(command) = commands.lock().pop() {
                queue.lock().as_ref().unwrap().send(command);
            }
            ask(sequences)
        })
    };
    let (running, _) = open_owing(store.clone(), &small(), owing);
    *queue.lock() = Some(running.outbox.queue.clone());
    let outbox = &running.outbox;
    let sequence = publish(outbox, vec![5; 900], &[2]);
    let bystander = publish(outbox, vec![6; 900], &[2]);
    assert_eq!(sequence, 1);
    ledger.accept(bystander, &[2]);
    ledger.end(outbox, Record::Dead(letter(sequence, 2, WALL_MS)));
    churn(&running.outbox, &ledger, &store, 1);
    assert!(replayed.wait().is_ok());
    assert_eq!(outbox.event(sequence).unwrap().payload, vec![5; 900]);
    assert_eq!(outbox.event(bystander).unwrap().payload, vec![6; 900]);
    outbox.close();
    let (running, _) = open_owing(store.crash(), &small(), ledger.owing());
    let kept = running.outbox.letter(delivery(sequence, 2)).unwrap();
    assert_eq!(kept, Some(letter(sequence, 2, WALL_MS)));
}
