//! I1, I2 and I3 on a device that fails. One scenario runs once for every write and sync in it: that
//! operation fails, or takes effect and reports a failure, or is the last one before a power cut.
//!
//! A model that knows nothing of the outbox checks each run: what a receipt promised arrives, what was
//! refused never does, an unknown call took effect completely or not at all, and no id is used twice.

mod model;
mod scenario;
mod snapshots;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;

use crate::world::DEADLINE;
use model::{CallResult, judge, look};
use scenario::Run;
use snapshots::Snapshot;

/// How a run goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Nothing fails.
    None,
    /// This operation and every later one fails, until the device is healed.
    At(u64),
    /// The same, but this operation takes effect and only its result is lost.
    AnswerLost(u64),
    /// The same, but the commit with this operation becomes visible when its database is opened again.
    LandsLate(u64),
    /// As `At`, and the device fails again so many operations after it was healed.
    Twice(u64, u64),
}

/// The sums over many runs.
#[derive(Debug, Default)]
struct Sums {
    runs: u64,
    snapshots: u64,
    accepted: u64,
    refused: u64,
    unknown: u64,
    broken: Vec<String>,
}

/// Runs the scenario with this fault. Checks the running engine, what it leaves, and every snapshot.
fn check(fault: Fault, wanted: Range<u64>, sums: &Mutex<Sums>) {
    let mut run = Run::begin(fault, wanted);
    let told = run.play();
    let _ = run.engine.close(DEADLINE);
    let model = run.model.lock().clone();
    let arrivals = run.receivers.arrivals.lock().clone();
    let mut verdicts = vec![("told", told.clone())];
    if told.is_ok() {
        verdicts.push(("alive", judge(&model, &model, &arrivals)));
    }
    let store = run.memory.clone();
    let (before, after) = (model.clone(), model.clone());
    verdicts.push(("at the end", look(&Snapshot { store, before, after, arrivals })));
    let snapshots = std::mem::take(&mut *run.snapshots.snapshots.lock());
    verdicts.extend(snapshots.iter().map(|snapshot| ("after a power cut", look(snapshot))));
    let mut sums = sums.lock();
    sums.runs += 1;
    sums.snapshots += snapshots.len() as u64;
    for call in &model.calls {
        match &call.result {
            CallResult::Accepted(ids) => sums.accepted += ids.len() as u64,
            CallResult::Refused => sums.refused += 1,
            CallResult::Unknown | CallResult::Pending => sums.unknown += 1,
        }
    }
    let broken = verdicts.into_iter().filter_map(|(when, verdict)| Some((when, verdict.err()?)));
    sums.broken.extend(broken.map(|(when, why)| format!("{fault:?}, {when}: {why}")));
}

/// How many operations the scenario takes when nothing fails.
fn operations() -> u64 {
    let mut run = Run::begin(Fault::None, 0..0);
    let before = run.faults.operations();
    run.play().unwrap();
    run.faults.operations() - before
}

/// Checks every fault, many at a time because a stalled run mostly waits.
fn check_each(faults: Vec<(Fault, Range<u64>)>) -> Sums {
    let (next, sums) = (AtomicU64::new(0), Mutex::default());
    thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                while let Some((fault, wanted)) =
                    faults.get(next.fetch_add(1, Ordering::AcqRel) as usize)
                {
                    check(*fault, wanted.clone(), &sums);
                }
            });
        }
    });
    let sums = sums.into_inner();
    println!("{sums:#?}");
    assert!(sums.broken.is_empty(), "{}", sums.broken.join("\n"));
    sums
}

/// After which operations the power is also cut where operation `k` fails: after it and the next five,
/// which belong to the recovery. Only for each third `k`, because its neighbours share most of them.
fn cuts_beside(k: u64) -> Range<u64> {
    if k.is_multiple_of(3) { k..k + 6 } else { 0..0 }
}

#[test]
fn a_power_cut_after_any_write_or_sync_loses_nothing_promised() {
    let count = operations();
    let sums = check_each(vec![(Fault::None, 0..count + 20)]);
    assert!(sums.snapshots >= count, "{} snapshots of {count} operations", sums.snapshots);
}

#[test]
fn an_error_at_any_write_or_sync_loses_nothing_promised() {
    let count = operations();
    let sums = check_each((0..count).map(|k| (Fault::At(k), cuts_beside(k))).collect());
    assert!(sums.refused > 0 && sums.unknown > 0 && sums.snapshots > 0, "{sums:?}");
}

#[test]
fn a_lost_result_of_any_write_or_sync_loses_nothing_promised() {
    let count = operations();
    let sums = check_each((0..count).map(|k| (Fault::AnswerLost(k), cuts_beside(k))).collect());
    assert!(sums.refused > 0 && sums.unknown > 0 && sums.snapshots > 0, "{sums:?}");
}

/// As of a remote store that lost an answer while the commit was under way.
#[test]
fn a_commit_that_lands_late_loses_nothing_promised() {
    let count = operations();
    let sums = check_each((0..count).map(|k| (Fault::LandsLate(k), 0..0)).collect());
    assert!(sums.refused > 0 && sums.unknown > 0, "{sums:?}");
}

#[test]
fn a_second_failure_during_recovery_loses_nothing() {
    let count = operations();
    let twice = (0..count).map(|k| (Fault::Twice(k, 1 + k % 3), 0..0));
    let sums = check_each(twice.collect());
    assert!(sums.refused > 0 && sums.unknown > 0, "{sums:?}");
}
