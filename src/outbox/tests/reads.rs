//! Tests that reading sealed generations slows neither the committer nor other readers.

use super::stores::GatedOpens;
use super::*;
use crate::testing::LayeredStore;

/// An outbox with `count` generations whose events are all owed, and the first event of each.
fn with_generations(
    store: impl Store,
    ledger: &OwedLedger,
    count: usize,
) -> (RunningOutbox, Vec<u64>) {
    let limits = Limits { cache_bytes_max: 0, ..small() };
    let (running, _) = open_owing(store, &limits, ledger.owing());
    let mut firsts = Vec::new();
    while firsts.len() < count {
        let sequence = ledger.publish(&running.outbox, vec![1; 900], &[1]);
        // A generation begins after the receipt of the event before it was resolved.
        if running.outbox.generations.generation_of(sequence) > Some(firsts.len() as u64) {
            firsts.push(sequence);
        }
    }
    (running, firsts)
}

#[test]
fn a_reader_that_opens_a_generation_delays_no_commit() {
    let (gated, ledger) = (GatedOpens::default(), OwedLedger::default());
    let (running, firsts) = with_generations(LayeredStore(gated.clone()), &ledger, 4);
    let running = Arc::new(running);
    gated.close_gate(&databases::name_of(1));
    let reader = {
        let (running, first) = (Arc::clone(&running), firsts[0]);
        std::thread::spawn(move || running.outbox.event(first).unwrap().payload.clone())
    };
    gated.wait_for_arrival();
    // Enough to begin generations, so that everything the committer does is tried.
    for _ in 0..60 {
        let receipt = submit(&running.outbox, vec![routed(vec![2; 900], &[1])]);
        let accepted = receipt.wait_timeout(Duration::from_secs(10));
        assert!(accepted.is_some(), "the committer waits for a reader");
    }
    assert_eq!(running.outbox.event(firsts[1]).unwrap().payload, [1; 900], "another generation");
    assert!(!reader.is_finished());
    gated.open_gate();
    assert_eq!(reader.join().unwrap(), [1; 900]);
}

#[test]
fn reads_do_not_reopen_generations_for_each_lane() {
    let (gated, ledger) = (GatedOpens::default(), OwedLedger::default());
    let (running, firsts) = with_generations(LayeredStore(gated.clone()), &ledger, 6);
    let read_all = || {
        for first in &firsts[..4] {
            assert_eq!(running.outbox.event(*first).unwrap().payload, [1; 900]);
        }
    };
    read_all();
    let opened = gated.opened();
    (0..50).for_each(|_| read_all());
    assert_eq!(gated.opened(), opened, "they stay open");
}
