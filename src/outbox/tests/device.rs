//! Checks what a device that refuses leaves, and that it is waited for.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::store::{Database, StoreFailure};
use crate::testing::{LayeredStore, StoreLayer};

#[test]
fn a_refusing_device_leaves_receipts_unknown() {
    let (running, store, faults) = open_faulty();
    let bystander = publish(&running.outbox, vec![7], &[1, 2]);
    running.outbox.record(Record::Settle(delivery(bystander, 2)));
    faults.fail_after(0);
    let error = submit(&running.outbox, vec![routed(vec![1], &[1])]).wait().unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    told(&running, |told| matches!(told, CommitEvent::Stalled(_)));
    let reason = running.outbox.admit(1, 1).unwrap_err();
    assert!(reason.contains("injected fault"), "{reason}");
    running.outbox.record(Record::Settle(delivery(bystander, 1)));
    faults.heal();
    told(&running, |told| matches!(told, CommitEvent::Resumed));
    let after = publish(&running.outbox, vec![8], &[1]);
    running.outbox.close();
    let (_, recovered) = open(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::from([(after, 1)]), "records outlast the refusal");
}

#[test]
fn a_group_whose_answer_was_lost_is_owed() {
    let (running, store, faults) = open_faulty();
    // Of the sequences reserved, of the payload, and of the head, which is the one.
    faults.fail_after_effect(2);
    let error = submit(&running.outbox, vec![routed(vec![1], &[1])]).wait().unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    faults.heal();
    told(&running, |told| matches!(told, CommitEvent::Resumed));
    let group = running.committed.try_iter().count();
    assert_eq!(group, 0, "everything was told before it resumed");
    running.outbox.close();
    let (_, recovered) = open(store.crash());
    assert_eq!(owed(&recovered).len(), 1);
}

#[test]
fn a_full_disk_is_waited_for_and_nothing_is_lost() {
    let full = FullDisk::default();
    let (running, _) = open(full.store());
    let outbox = &running.outbox;
    let bystander = publish(outbox, vec![7], &[1, 2]);
    *full.refuses.lock() = Some("outbox-");
    let error = submit(outbox, vec![routed(vec![1], &[1])]).wait().unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    outbox.record(Record::Settle(delivery(bystander, 1)));
    told(&running, |told| matches!(told, CommitEvent::Stalled(_)));
    // Long enough for the device to be tried again more than once.
    let again = running.committed.recv_timeout(Duration::from_millis(500));
    assert!(again.is_err(), "nothing is told while it refuses: {again:?}");
    *full.refuses.lock() = None;
    told(&running, |told| matches!(told, CommitEvent::Resumed));
    let after = publish(outbox, vec![8], &[1]);
    outbox.close();
    let (_, recovered) = open(full.inner.crash());
    assert_eq!(owed(&recovered), BTreeSet::from([(bystander, 2), (after, 1)]));
}

#[test]
fn a_generation_that_could_not_be_begun_is_not_the_newest() {
    let (full, ledger) =
        (FullDisk { takes_effect: true, ..FullDisk::default() }, OwedLedger::default());
    let (running, _) = open_owing(full.store(), &small(), ledger.owing());
    *full.refuses.lock() = Some("outbox-0000000000000002");
    for _ in 0..40 {
        ledger.publish(&running.outbox, vec![1; 900], &[1]);
    }
    assert_eq!(running.outbox.usage().generations, 1);
    let (opened, recovered) = read(full.inner.crash(), &small(), OnDamage::Refuse).unwrap();
    assert_eq!(owed(&recovered), ledger.pairs());
    let (outbox, _) = opened.prepare(&small(), Arc::default());
    for (sequence, _) in ledger.pairs() {
        assert_eq!(outbox.event(sequence).unwrap().payload, vec![1; 900]);
    }
    *full.refuses.lock() = None;
    publish(&running.outbox, vec![1; 900], &[9]);
    publish(&running.outbox, vec![1; 900], &[9]);
    assert_eq!(running.outbox.usage().generations, 2);
}

#[test]
fn a_refused_removal_is_written_later() {
    let (running, store, faults) = open_faulty();
    let outbox = &running.outbox;
    let sequence = publish(outbox, vec![1], &[1, 2]);
    faults.fail_after(0);
    let first = outbox.forget(SubscriptionId(1));
    told(&running, |told| matches!(told, CommitEvent::Stalled(_)));
    let second = outbox.forget(SubscriptionId(3));
    assert!(matches!(first.wait(), Err(Error::Unknown { .. })));
    assert!(matches!(second.wait(), Err(Error::Refused { .. })));
    faults.heal();
    told(&running, |told| matches!(told, CommitEvent::Resumed));
    outbox.close();
    let (_, recovered) = open(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::from([(sequence, 2)]));
}

#[test]
fn receipts_of_a_remote_store_wait_for_the_outcome() {
    type Plan = fn(&FaultPlan, u64);
    let plans: [(Plan, bool); 3] = [
        (FaultPlan::fail_after, false),
        (FaultPlan::fail_after_effect, true),
        (FaultPlan::fail_after_late, true),
    ];
    for (plan, exists) in plans {
        let store = Memory::default();
        let (faulty, faults) = faulty(&store);
        faults.remote();
        let (running, _) = open(faulty);
        let bystander = publish(&running.outbox, vec![7], &[2]);
        // After the payload, at the head.
        plan(&faults, 1);
        let receipt = submit(&running.outbox, vec![routed(vec![1], &[1])]);
        told(&running, |told| matches!(told, CommitEvent::Stalled(_)));
        assert!(!receipt.is_done(), "its outcome is not known yet");
        faults.heal();
        match receipt.wait() {
            Ok(accepted) => assert!(exists && !accepted[0].duplicate),
            Err(Error::Refused { .. }) => assert!(!exists),
            Err(error) => panic!("{error}"),
        }
        told(&running, |told| matches!(told, CommitEvent::Resumed));
        running.outbox.close();
        let (_, recovered) = open(store.crash());
        let owed = owed(&recovered);
        assert!(owed.contains(&(bystander, 2)));
        assert_eq!(owed.len(), 1 + usize::from(exists));
    }
}

#[test]
fn receipts_of_a_remote_store_wait_10_s_at_most() {
    let (faulty, faults) = faulty(&Memory::default());
    faults.remote();
    let clock = Arc::new(ManualClock::new(WALL_MS, 3));
    let running = open_at(faulty, &Limits::default(), &clock);
    faults.fail_after(0);
    let receipt = submit(&running.outbox, vec![routed(vec![1], &[1])]);
    told(&running, |told| matches!(told, CommitEvent::Stalled(_)));
    assert!(!receipt.is_done());
    clock.advance(Duration::from_secs(10));
    assert!(matches!(receipt.wait(), Err(Error::Unknown { .. })));
    faults.heal();
    told(&running, |told| matches!(told, CommitEvent::Resumed));
}

/// A store that opens nothing once it is silent: the first try takes 8 s, the next one never ends.
#[derive(Clone)]
struct SilentServer {
    inner: Arc<FaultInjectingStore>,
    clock: Arc<ManualClock>,
    tries: crossbeam_channel::Receiver<()>,
    is_silent: Arc<AtomicBool>,
}

impl StoreLayer for SilentServer {
    fn inner(&self) -> &dyn Store {
        &*self.inner
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Database>, StoreFailure> {
        if !self.is_silent.load(Ordering::Acquire) {
            return self.inner.open(name);
        }
        let _ = self.tries.recv();
        self.clock.advance(Duration::from_secs(8));
        Err(StoreFailure::Closed)
    }
}

// Each try to open the server takes seconds, and nobody is answered during one.
#[test]
fn receipts_are_answered_before_a_try_that_lasts_too_long() {
    let (faulty, faults) = faulty(&Memory::default());
    faults.remote();
    let clock = Arc::new(ManualClock::new(WALL_MS, 3));
    let (try_once, tries) = crossbeam_channel::unbounded();
    let is_silent = Arc::<AtomicBool>::default();
    let server = SilentServer {
        inner: Arc::new(faulty),
        clock: Arc::clone(&clock),
        tries,
        is_silent: Arc::clone(&is_silent),
    };
    let running = open_at(LayeredStore(server), &Limits::default(), &clock);
    faults.fail_after(0);
    is_silent.store(true, Ordering::Release);
    let receipt = submit(&running.outbox, vec![routed(vec![1], &[1])]);
    told(&running, |told| matches!(told, CommitEvent::Stalled(_)));
    assert!(!receipt.is_done());
    try_once.send(()).unwrap();
    let answered = receipt.wait_timeout(Duration::from_secs(20));
    drop(try_once);
    assert!(matches!(answered, Some(Err(Error::Unknown { .. }))), "{answered:?}");
}

#[test]
fn a_fenced_group_is_refused_and_ends_the_committer() {
    let (running, store, faults) = open_faulty();
    let bystander = publish(&running.outbox, vec![7], &[2]);
    faults.fence();
    let error = submit(&running.outbox, vec![routed(vec![1], &[1])]).wait().unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let ended = told(&running, |told| matches!(told, CommitEvent::Failed(_)));
    assert!(matches!(ended, CommitEvent::Failed(Error::NotOwner)), "{ended:?}");
    let (_, recovered) = open(store.crash());
    assert_eq!(owed(&recovered), BTreeSet::from([(bystander, 2)]));
}
