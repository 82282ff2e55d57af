//! I1, I2, I3 over a device that fails: one story, told once for every write and sync in it, with
//! that one failing, failing although it took effect, or being the last before a power cut.
//!
//! A model that knows nothing of the outbox judges each telling: what a receipt promised arrives,
//! what was refused never does, what is unknown is there whole or not at all, and no id is given
//! twice.

mod camera;
mod model;
mod telling;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;

use crate::world::DEADLINE;
use camera::Image;
use model::{Fate, judge, look};
use telling::Telling;

/// How a telling goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Nothing fails.
    None,
    /// This operation fails and every one after it, until the device is healed.
    At(u64),
    /// The same, but this operation takes effect: only its answer is lost.
    AnswerLost(u64),
    /// As `At`, and so many operations after healing the device fails once more.
    Twice(u64, u64),
}

/// What a family of tellings came to.
#[derive(Debug, Default)]
struct Totals {
    tellings: u64,
    images: u64,
    accepted: u64,
    refused: u64,
    unknown: u64,
    broken: Vec<String>,
}

/// Tells the story with this fault; judges it while it lives, as it ends, and every image of it.
fn check(fault: Fault, wanted: Range<u64>, totals: &Mutex<Totals>) {
    let mut telling = Telling::begin(fault, wanted);
    let told = telling.tell();
    let _ = telling.engine.close(DEADLINE);
    let model = telling.model.lock().clone();
    let arrivals = telling.receivers.arrivals.lock().clone();
    let mut verdicts = vec![("told", told.clone())];
    if told.is_ok() {
        verdicts.push(("alive", judge(&model, &model, &arrivals)));
    }
    let store = telling.memory.clone();
    let (before, after) = (model.clone(), model.clone());
    verdicts.push(("at the end", look(&Image { store, before, after, arrivals })));
    let images = std::mem::take(&mut *telling.film.images.lock());
    verdicts.extend(images.iter().map(|image| ("after a power cut", look(image))));
    let mut totals = totals.lock();
    totals.tellings += 1;
    totals.images += images.len() as u64;
    for call in &model.calls {
        match &call.fate {
            Fate::Accepted(ids) => totals.accepted += ids.len() as u64,
            Fate::Refused => totals.refused += 1,
            Fate::Unknown | Fate::Pending => totals.unknown += 1,
        }
    }
    let broken = verdicts.into_iter().filter_map(|(when, verdict)| Some((when, verdict.err()?)));
    totals.broken.extend(broken.map(|(when, why)| format!("{fault:?}, {when}: {why}")));
}

/// How many operations the story takes when nothing fails.
fn operations() -> u64 {
    let mut telling = Telling::begin(Fault::None, 0..0);
    let before = telling.faults.seen();
    telling.tell().unwrap();
    telling.faults.seen() - before
}

/// Checks every fault, many at a time because a stall mostly waits.
fn check_each(faults: Vec<(Fault, Range<u64>)>) -> Totals {
    let (next, totals) = (AtomicU64::new(0), Mutex::default());
    thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                while let Some((fault, wanted)) =
                    faults.get(next.fetch_add(1, Ordering::AcqRel) as usize)
                {
                    check(*fault, wanted.clone(), &totals);
                }
            });
        }
    });
    let totals = totals.into_inner();
    println!("{totals:#?}");
    assert!(totals.broken.is_empty(), "{}", totals.broken.join("\n"));
    totals
}

/// After which operations the power is cut, too, where operation `k` fails: after it and the next five,
/// which are those of the recovery. For each third `k`, because its neighbours have most of them in common.
fn cuts_beside(k: u64) -> Range<u64> {
    if k.is_multiple_of(3) { k..k + 6 } else { 0..0 }
}

#[test]
fn a_power_cut_after_any_write_or_sync_loses_nothing_promised() {
    let count = operations();
    let totals = check_each(vec![(Fault::None, 0..count + 20)]);
    assert!(totals.images >= count, "{} images of {count} operations", totals.images);
}

#[test]
fn an_error_at_any_write_or_sync_loses_nothing_promised() {
    let count = operations();
    let totals = check_each((0..count).map(|k| (Fault::At(k), cuts_beside(k))).collect());
    assert!(totals.refused > 0 && totals.unknown > 0 && totals.images > 0, "{totals:?}");
}

#[test]
fn an_answer_lost_at_any_write_or_sync_loses_nothing_promised() {
    let count = operations();
    let totals = check_each((0..count).map(|k| (Fault::AnswerLost(k), cuts_beside(k))).collect());
    assert!(totals.refused > 0 && totals.unknown > 0 && totals.images > 0, "{totals:?}");
}

#[test]
fn a_device_that_fails_again_while_the_engine_recovers_is_recovered_from_too() {
    let count = operations();
    let twice = (0..count).map(|k| (Fault::Twice(k, 1 + k % 3), 0..0));
    let totals = check_each(twice.collect());
    assert!(totals.refused > 0 && totals.unknown > 0, "{totals:?}");
}
