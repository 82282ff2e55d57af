//! What a match and a change of the index cost with a million subscriptions. Every look-up is for a
//! random number, so that neither the caches of the processor nor the match cache help, and the length
//! of every answer is checked. The limit, measured in turns, is dependent random reads in as much memory
//! as the index takes.
//!
//! `cargo bench --bench matching -- --runs 5 --subscriptions 1000000`
//!
//! Each number has ten subscriptions. `match_1m`: each has the number and one type, the same for all
//! ten, and types are spread over the numbers. `match_1m_mixed`: four have the number and all types, six
//! a type and the number. `match_1m_all_named`: each has the number and all 32 types one by one.
//!
//! `condition`: 10,000 subscriptions of one number, each with a condition of its own over the payload, of which
//! half hold. The figure is the time of a match for each condition; the limit is parsing the payload alone.

#![expect(clippy::indexing_slicing, reason = "places are drawn from the range of what they index")]

mod support;

use std::collections::BTreeSet;
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Outcome, median};
use wabahook::testing::Matching;
use wabahook::{Catalogue, Condition, EventType, Filter, SubscriptionId, WabaNumber};

const ACCOUNT: &str = "default";
const PER_NUMBER: usize = 10;
const KINDS: usize = 32;
const SPAN: Duration = Duration::from_millis(300);
/// Reads or look-ups between two readings of the clock.
const BATCH: usize = 4_096;

/// How the ten subscriptions of a number filter types.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    OneType,
    Mixed,
    AllNamed,
}

fn main() -> Outcome {
    let runs: usize = support::option("runs", 5);
    let subscriptions: usize = support::option("subscriptions", 1_000_000);
    let only = support::text("only").unwrap_or_default();
    let shapes = [
        (Shape::OneType, "match_1m", Some("change_1m")),
        (Shape::Mixed, "match_1m_mixed", None),
        (Shape::AllNamed, "match_1m_all_named", None),
    ];
    for (shape, what, change) in shapes {
        if only == what {
            measure(shape, what, change, subscriptions, runs)?;
        } else if only.is_empty() {
            measure_apart(what)?;
        }
    }
    match only.as_str() {
        CONDITION => measure_conditions(runs),
        "" => measure_apart(CONDITION),
        _ => Ok(()),
    }
}

const CONDITION: &str = "condition";
const CONDITIONS: usize = 10_000;
const MESSAGE: &[u8] = include_bytes!("../docs/samples/cloud_message_text.json");

/// Every second condition holds for the message.
fn condition(nth: usize) -> Outcome<Condition> {
    let message = "/entry/0/changes/0/value/messages/0";
    let prefix = if nth.is_multiple_of(2) { "Body" } else { "Order" };
    let text = format!(
        r#"{{"and":[{{"pointer":"{message}/type","in":["text","button","type {nth}"]}},
            {{"pointer":"{message}/text/body","prefix":"{prefix}"}}]}}"#
    );
    Ok(text.parse()?)
}

fn measure_conditions(runs: usize) -> Outcome {
    let (kind, number) =
        (Catalogue::default().canonical("MESSAGE_RECEIVED")?, "919999999999".parse()?);
    let mut index = Matching::default();
    for nth in 0..CONDITIONS {
        let filter = Filter::default().events(Some([kind.clone()].into()));
        let filter = filter.numbers(Some([number].into())).condition(Some(condition(nth)?));
        index.insert(SubscriptionId(u32::try_from(nth + 1)?), ACCOUNT, &filter);
    }
    let (mut matched_us, mut parsed_us) = (vec![], vec![]);
    for _ in 0..runs {
        matched_us.push(span_us(|| {
            black_box(index.targets_of_payload(ACCOUNT, &kind, number, MESSAGE)).len()
                == CONDITIONS / 2
        })?);
        parsed_us.push(span_us(|| {
            black_box(serde_json::from_slice::<serde_json::Value>(black_box(MESSAGE))).is_ok()
        })?);
    }
    let each = matched_us.iter().map(|us| us / CONDITIONS as f64).collect();
    let (figure, limit) = (median(each), median(parsed_us));
    println!(
        "\n{CONDITION}: {figure:.3} us each of {CONDITIONS}; parsing the payload alone {limit:.3} us"
    );
    support::result("matching", CONDITION, figure, "us", (limit, "serde_json"), figure / limit);
    Ok(())
}

/// Microseconds of a call that must return true.
fn span_us(mut call: impl FnMut() -> bool) -> Outcome<f64> {
    let (started, mut calls) = (Instant::now(), 0_u32);
    while started.elapsed() < SPAN {
        if !call() {
            return Err("a call gave another result".into());
        }
        calls += 1;
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / f64::from(calls))
}

/// In a process of its own, because memory freed by one shape would hide what the next one takes.
fn measure_apart(what: &str) -> Outcome {
    let given = std::env::args().skip(1);
    let own = Command::new(std::env::current_exe()?).args(given).args(["--only", what]).status()?;
    if own.success() { Ok(()) } else { Err(format!("{what}: {own}").into()) }
}

fn measure(
    shape: Shape,
    what: &str,
    change: Option<&str>,
    subscriptions: usize,
    runs: usize,
) -> Outcome {
    let world = World::new(subscriptions / PER_NUMBER)?;
    let before_kib = resident_kib()?;
    let started = Instant::now();
    let mut index = world.index(shape);
    let built_s = started.elapsed().as_secs_f64();
    let took_kib = resident_kib()?.saturating_sub(before_kib);
    println!("\n{what}: {subscriptions} subscriptions listed in {built_s:.2} s and {took_kib} KiB");
    let memory = Memory::new(took_kib)?;
    let (mut looked_ns, mut read_ns, mut changed_us, mut worst_us) =
        (vec![], vec![], vec![], vec![]);
    for run in 0..runs {
        let mut chance = fastrand::Rng::with_seed(run as u64);
        looked_ns.push(world.look_up(&index, &mut chance)?);
        read_ns.push(memory.read());
        if change.is_some() {
            let mut changes = world.change(&mut index, subscriptions, &mut chance);
            worst_us.push(changes.iter().copied().fold(0.0, f64::max));
            changes.sort_by(f64::total_cmp);
            changed_us.push(median(changes));
        }
    }
    let ratios = looked_ns.iter().zip(&read_ns).map(|(looked, read)| looked / read).collect();
    let (figure, limit, ratio) = (median(looked_ns), median(read_ns), median(ratios));
    println!("{what}: {figure:.0} ns a look-up of {PER_NUMBER}; a random read {limit:.0} ns");
    support::result("matching", what, figure, "ns", (limit, "random_read"), ratio);
    if let Some(change) = change {
        let (figure, worst_us) = (median(changed_us), median(worst_us));
        println!("{change}: {figure:.2} us (p50) a change and back; the worst {worst_us:.0} us");
        let read_us = limit / 1e3;
        support::result(
            "matching",
            change,
            figure,
            "us",
            (read_us, "random_read"),
            figure / read_us,
        );
    }
    Ok(())
}

/// The resident memory of the process.
fn resident_kib() -> Outcome<usize> {
    Ok(usize::try_from(support::status("VmRSS:").ok_or("no VmRSS")?)?)
}

/// The numbers and types.
struct World {
    kinds: Vec<EventType>,
    numbers: Vec<WabaNumber>,
}

impl World {
    fn new(numbers: usize) -> Outcome<World> {
        let catalogue = Catalogue::default();
        let kinds = (0..KINDS).map(|n| catalogue.canonical(&format!("TYPE_OF_THE_BENCH_{n}")));
        // Spread like real numbers, not consecutive.
        let mut chance = fastrand::Rng::with_seed(9);
        let mut drawn = BTreeSet::new();
        while drawn.len() < numbers {
            drawn.insert(format!("91{}", chance.u64(1_000_000_000..10_000_000_000)).parse()?);
        }
        let mut numbers: Vec<_> = drawn.into_iter().collect();
        chance.shuffle(&mut numbers);
        Ok(World { kinds: kinds.collect::<Result<_, _>>()?, numbers })
    }

    /// The types of a number, by its index.
    fn kind(&self, number: usize) -> &EventType {
        &self.kinds[number % KINDS]
    }

    fn filter(&self, shape: Shape, number: usize, nth: usize) -> Filter {
        let events = match shape {
            Shape::Mixed if nth < 4 => None,
            Shape::OneType | Shape::Mixed => Some([self.kind(number).clone()].into()),
            Shape::AllNamed => Some(self.kinds.iter().cloned().collect()),
        };
        Filter::default().events(events).numbers(Some([self.numbers[number]].into()))
    }

    /// In the order in which accounts might register: all numbers, then all numbers again.
    fn index(&self, shape: Shape) -> Matching {
        let mut index = Matching::default();
        let mut id = 0;
        for nth in 0..PER_NUMBER {
            for number in 0..self.numbers.len() {
                id += 1;
                index.insert(SubscriptionId(id), ACCOUNT, &self.filter(shape, number, nth));
            }
        }
        index
    }

    /// Nanoseconds a look-up.
    fn look_up(&self, index: &Matching, chance: &mut fastrand::Rng) -> Outcome<f64> {
        let (mut done, mut matches) = (0, 0);
        let mut elapsed = Duration::ZERO;
        while elapsed < SPAN {
            // An event has its number and type, so drawing them is not part of a look-up.
            let drawn: Vec<_> = (0..BATCH)
                .map(|_| chance.usize(..self.numbers.len()))
                .map(|number| (self.numbers[number], self.kind(number)))
                .collect();
            let started = Instant::now();
            for (number, kind) in drawn {
                matches += black_box(index.targets(ACCOUNT, kind, number)).len();
            }
            elapsed += started.elapsed();
            done += BATCH;
        }
        if matches != done * PER_NUMBER {
            return Err(format!("{matches} matches of {done} look-ups").into());
        }
        Ok(elapsed.as_secs_f64() * 1e9 / done as f64)
    }

    /// Microseconds of each change: a subscription to one number and one type is added or removed, with
    /// look-ups in between.
    fn change(
        &self,
        index: &mut Matching,
        subscriptions: usize,
        chance: &mut fastrand::Rng,
    ) -> Vec<f64> {
        let id = SubscriptionId(u32::try_from(subscriptions + 1).unwrap_or(u32::MAX));
        let mut took_us = Vec::new();
        for _ in 0..2_000 {
            let filter = self.filter(Shape::OneType, chance.usize(..self.numbers.len()), 0);
            for comes in [true, false] {
                let number = chance.usize(..self.numbers.len());
                black_box(index.targets(ACCOUNT, self.kind(number), self.numbers[number]));
                let started = Instant::now();
                match comes {
                    true => index.insert(id, ACCOUNT, &filter),
                    false => index.remove(id, ACCOUNT, &filter),
                }
                took_us.push(started.elapsed().as_secs_f64() * 1e6);
            }
        }
        took_us
    }
}

/// A ring through memory: each element holds the index of the next, in random order.
struct Memory {
    next: Vec<u32>,
}

const LINE_BYTES: usize = 64;
const PLACES_A_LINE: usize = LINE_BYTES / size_of::<u32>();

impl Memory {
    fn new(kib: usize) -> Outcome<Memory> {
        let lines = (kib * 1024 / LINE_BYTES).max(2);
        let mut order: Vec<u32> = (0..u32::try_from(lines)?).collect();
        fastrand::Rng::with_seed(5).shuffle(&mut order);
        let mut next = vec![0; lines * PLACES_A_LINE];
        for (at, line) in order.iter().enumerate() {
            next[*line as usize * PLACES_A_LINE] = order[(at + 1) % lines];
        }
        Ok(Memory { next })
    }

    /// Nanoseconds a read.
    fn read(&self) -> f64 {
        let (mut line, mut done) = (0_u32, 0);
        let started = Instant::now();
        while started.elapsed() < SPAN {
            for _ in 0..BATCH {
                line = self.next[line as usize * PLACES_A_LINE];
            }
            done += BATCH;
        }
        black_box(line);
        started.elapsed().as_secs_f64() * 1e9 / done as f64
    }
}
