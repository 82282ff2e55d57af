//! Checks that damage is found, named, and costs no more than the generation it lies in.

use super::*;

#[test]
fn a_damaged_record_is_named_or_its_generation_set_aside() {
    let store = Memory::default();
    let (running, _) = open(store.clone());
    publish(&running.outbox, vec![1], &[1]);
    running.outbox.close();
    damage(&store, &databases::name_of(1), keys::HEADS);
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

#[test]
fn a_silently_lost_page_of_a_sealed_generation_is_found() {
    let (running, store, ledger) = open_small();
    let mut sequences = Vec::new();
    for _ in 0..60 {
        let sequence = ledger.publish(&running.outbox, vec![1; 900], &[1]);
        sequences.push(sequence);
    }
    running.outbox.close();
    let store = store.crash();
    let database = store.open(&databases::name_of(1)).unwrap();
    let mut batch = Batch::default();
    batch.remove(keys::numbered(keys::HEADS, sequences[1]));
    database.commit(vec![batch]).unwrap();
    drop(database);
    let error = read(store.crash(), &small(), OnDamage::Refuse).err().unwrap().to_string();
    assert!(error.contains("generation 1") && error.contains("pages"), "{error}");
    let (_, recovered) = read(store.crash(), &small(), OnDamage::SetAside).unwrap();
    assert_eq!(recovered.set_aside.len(), 1);
    let found = owed(&recovered);
    assert!(!found.is_empty() && found.is_subset(&ledger.pairs()), "the others are recovered");
}

#[test]
fn a_silently_emptied_sealed_generation_is_found() {
    let (running, store, ledger) = open_small();
    ledger.fill(&running.outbox, 3);
    running.outbox.close();
    let store = store.crash();
    store.remove(&databases::name_of(1)).unwrap();
    drop(store.open(&databases::name_of(1)).unwrap());
    let error = read(store.crash(), &small(), OnDamage::Refuse).err().expect("it is missed");
    assert!(error.to_string().contains("generation 1"), "{error}");
}

#[test]
fn only_the_damaged_generations_are_set_aside() {
    let (running, store, ledger) = open_small();
    let mut held = BTreeSet::new();
    while running.outbox.usage().generations < 14 {
        let sequence = ledger.publish(&running.outbox, vec![1; 900], &[1, 2]);
        held.extend([(sequence, 1), (sequence, 2)]);
    }
    let generations = Arc::clone(&running.outbox.generations);
    running.outbox.close();
    let damaged = [3, 8, 9];
    for number in damaged {
        damage(&store, &databases::name_of(number), keys::HEADS);
        let lost = |sequence| generations.generation_of(sequence) == Some(number);
        held.retain(|(sequence, _)| !lost(*sequence));
    }
    let error = read(store.clone(), &small(), OnDamage::Refuse).err().expect("it is refused");
    assert!(error.to_string().contains("generation 9"), "the newest is told first: {error}");
    let (opened, recovered) = read(store.clone(), &small(), OnDamage::SetAside).unwrap();
    let names: Vec<&str> = recovered.set_aside.iter().map(|(name, _)| name.as_str()).collect();
    let expected = damaged.map(|number| format!("damaged-{}", databases::name_of(number)));
    assert_eq!(names, expected.iter().rev().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(owed(&recovered), held);
    assert_eq!(opened.generations.totals().generations, 14 - damaged.len());
}
