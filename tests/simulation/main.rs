//! A simulation of the engine: one seed makes subscriptions, events, endpoints and crashes, and a model
//! that shares no code with the engine checks its promises (I1 to I5, I8) after every step.
//!
//! `WABAHOOK_SIMULATION_SEEDS=20000` runs more seeds than usual, `WABAHOOK_SIMULATION_FIRST` sets the
//! first one, and `WABAHOOK_SIMULATION_SEED=17` replays one and prints its trace.
mod admission;
mod attempt_start;
mod delivery_state;
mod dependency;
mod disk;
mod endpoint;
mod host_calls;
mod lane;
mod model;
mod plan;
mod purge;
mod random;
mod retention;
mod steps;
mod uncertainty;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::retention::Abandoned;
use crate::world::{Trace, World};

/// How many seeds run by default.
const SEEDS: u64 = 1_000;

/// How many lines of a failing seed's trace are printed. A replay prints all.
const TAIL: usize = 25;

/// After how many seeds a run tells how far it is.
const PROGRESS: u64 = 50_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text}, not a number")))
}

fn run(seed: u64, trace: &Trace) {
    let mut world = World::new(seed, Trace::clone(trace));
    let steps = world.random.within(40, 150);
    (0..steps).for_each(|_| world.step());
    world.drain();
    world.reopen_at_the_end();
    // What is remembered of drained events counts for those that follow.
    let steps = world.random.within(0, 60);
    (0..steps).for_each(|_| world.step());
    world.drain();
    world.reopen_at_the_end();
}

/// Why a seed failed, and the end of its trace.
struct Failed {
    seed: u64,
    why: String,
    tail: String,
}

/// Seeds that ended early, because a crash left something that cannot be told apart.
static ABANDONED: AtomicU64 = AtomicU64::new(0);

fn failure(seed: u64) -> Option<Failed> {
    let trace = Trace::default();
    let panic = catch_unwind(AssertUnwindSafe(|| run(seed, &trace))).err()?;
    if panic.is::<Abandoned>() {
        ABANDONED.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    let trace = trace.lock();
    let tail = trace[trace.len().saturating_sub(TAIL)..].join("\n");
    Some(Failed { seed, why: text.unwrap_or_default(), tail })
}

#[test]
fn every_seed_keeps_the_promises() {
    if let Some(seed) = number("WABAHOOK_SIMULATION_SEED") {
        let trace = Trace::default();
        let verdict = catch_unwind(AssertUnwindSafe(|| run(seed, &trace)));
        println!("{}", trace.lock().join("\n"));
        assert!(verdict.is_ok(), "seed {seed} fails");
        return;
    }
    // A failure is reported once and with its trace, not by each thread.
    std::panic::set_hook(Box::new(|_| {}));
    let first = number("WABAHOOK_SIMULATION_FIRST").unwrap_or(0);
    let next = AtomicU64::new(first);
    let end = first + number("WABAHOOK_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let failures = thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let search = || {
            let drawn = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
            let drawn = drawn.take_while(|seed| *seed < end).inspect(|seed| {
                if (seed - first + 1).is_multiple_of(PROGRESS) {
                    println!("{} seeds have begun", seed - first + 1);
                }
            });
            let failed = drawn.filter_map(failure);
            failed.inspect(|one| println!("seed {}: {}", one.seed, one.why)).collect::<Vec<_>>()
        };
        let searches: Vec<_> = (0..threads).map(|_| scope.spawn(search)).collect();
        searches.into_iter().flat_map(|search| search.join().unwrap()).collect::<Vec<_>>()
    });
    drop(std::panic::take_hook());
    if let Some(Failed { seed, tail, .. }) = failures.iter().min_by_key(|failed| failed.seed) {
        println!("the end of seed {seed}:\n{tail}");
        println!(
            "replay: WABAHOOK_SIMULATION_SEED={seed} cargo test --features testing --test simulation every_seed -- --nocapture"
        );
    }
    assert!(failures.is_empty(), "{} of {} seeds fail", failures.len(), end - first);
    let abandoned = ABANDONED.load(Ordering::Relaxed);
    assert!(abandoned * 20 <= end - first, "{abandoned} seeds ended early");
    println!("{} seeds kept the promises, {abandoned} of them ended early", end - first);
}

#[test]
fn a_seed_repeats_exactly() {
    for seed in [3, 77, 1_999] {
        let traces = [0, 1].map(|_| {
            let trace = Trace::default();
            run(seed, &trace);
            std::mem::take(&mut *trace.lock())
        });
        assert!(traces[0].len() > 50 && traces[0] == traces[1], "seed {seed} went two ways");
    }
}
