//! What a durable accept costs, without a network, compared with the same bytes appended to a plain
//! file and synced. Both take turns on the same file system and in groups of the same size, so that a
//! slow phase of the device affects both.
//!
//! `cargo bench --bench outbox -- --runs 5 --ms 1000`; `--only accept_64` runs that alone.
//!
//! `accept_*`: every delivery is acknowledged at once and settled, in the same groups.
//! `accept_64_fanout_*`: nothing is delivered, so that this is only the cost of accepting.
//! `settled_64_fanout_*`: as `accept_*`, with more subscriptions.
//! `accept_*_beside_busy_cores`: a busy process runs on every core, for the limit as well.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use support::publishers::{PAYLOAD_BYTES, Publishers};
use support::raw_file::RawFile;
use support::transports::{Acknowledging, Hanging};
use support::{Outcome, Process, median};
use wabahook::{Config, Engine, Limits};

/// How many turns of the engine and of its limit a run has. A device has fast and slow phases of
/// seconds, which must affect both.
const SLICES: u32 = 10;

/// What is measured.
struct Scenario {
    what: String,
    publishers: Publishers,
    fan_out: usize,
    held_back: bool,
    beside_busy_cores: bool,
}

/// The result of one run of the engine and of its limit.
struct Run {
    events_per_s: f64,
    delivered_per_s: f64,
    /// CPU microseconds an event, publishers included.
    cpu_us: f64,
    wait_p50_us: f64,
    /// Events per group, including groups that only settle.
    group_events: f64,
    raw_per_s: f64,
    sync_p50_us: f64,
}

fn main() -> Outcome {
    if std::env::args().any(|given| given == SPIN) {
        loop {
            std::hint::spin_loop();
        }
    }
    let rounds: usize = support::option("runs", 5);
    let only = support::text("only").unwrap_or_default();
    let scenarios: Vec<_> =
        scenarios().into_iter().filter(|one| only.is_empty() || one.what == only).collect();
    let mut runs: BTreeMap<&str, Vec<Run>> = BTreeMap::new();
    for round in 0..rounds {
        for scenario in &scenarios {
            let run = run(scenario)?;
            println!(
                "run {}/{rounds} {}: {:.0} events/s, {:.0} settled/s, {:.1} us CPU an event, \
                 {:.0} us to wait (p50), {:.1} events a group; raw {:.0} events/s, a sync {:.0} us",
                round + 1,
                scenario.what,
                run.events_per_s,
                run.delivered_per_s,
                run.cpu_us,
                run.wait_p50_us,
                run.group_events,
                run.raw_per_s,
                run.sync_p50_us
            );
            runs.entry(&scenario.what).or_default().push(run);
        }
    }
    scenarios.iter().for_each(|scenario| conclude(scenario, &runs));
    Ok(())
}

fn scenarios() -> Vec<Scenario> {
    let accept = |publishers, what: &str| Scenario {
        what: what.to_owned(),
        publishers,
        fan_out: 1,
        held_back: false,
        beside_busy_cores: false,
    };
    let each = Publishers::on_threads(64);
    let mut all = vec![
        accept(Publishers::on_threads(1), "accept_1"),
        accept(Publishers::on_threads(32), "accept_32"),
        accept(each, "accept_64"),
        accept(Publishers { threads: 2, ..each }, "accept_64_on_2_threads"),
        accept(Publishers { together: 256, ..Publishers::on_threads(1) }, "accept_many_256"),
    ];
    for fan_out in [1, 10, 100, 1_000] {
        let what = format!("accept_64_fanout_{fan_out}");
        all.push(Scenario { fan_out, held_back: true, ..accept(each, &what) });
    }
    for publishers in [1, 64] {
        let what = format!("accept_{publishers}_beside_busy_cores");
        let publishers = Publishers::on_threads(publishers);
        all.push(Scenario { beside_busy_cores: true, ..accept(publishers, &what) });
    }
    for fan_out in [10, 100] {
        let what = format!("settled_64_fanout_{fan_out}");
        all.push(Scenario { fan_out, ..accept(each, &what) });
    }
    all
}

/// One run in a directory of its own, then its limit.
fn run(scenario: &Scenario) -> Outcome<Run> {
    let directory = support::directory("outbox")?;
    let data = directory.join("data");
    let engine = open(scenario, &data)?;
    support::subscribe(&engine, scenario.fan_out)?;
    let span = Duration::from_millis(support::option("ms", 1_000)) / SLICES;
    // The first groups also start threads and the first generation, which is not measured.
    scenario.publishers.publish(&engine, span)?;
    let before = engine.stats();
    let (mut elapsed, mut cpu, mut waits) = (Duration::ZERO, Duration::ZERO, Vec::new());
    let _busy = if scenario.beside_busy_cores { busy_cores()? } else { Vec::new() };
    let mut raw = RawFile::new(&directory)?;
    let mut limit = Limit::default();
    for _ in 0..SLICES {
        let (cpu_before, started) = (support::cpu_time(), Instant::now());
        waits.extend(scenario.publishers.publish(&engine, span)?);
        elapsed += started.elapsed();
        cpu += support::cpu_time() - cpu_before;
        let so_far = engine.stats();
        let accepted = (so_far.accepted - before.accepted) as f64;
        limit.measure(&mut raw, accepted / (so_far.groups - before.groups) as f64, span)?;
    }
    let (elapsed, after) = (elapsed.as_secs_f64(), engine.stats());
    // Closing would wait for hanging attempts until the deadline.
    engine.close(if scenario.held_back { Duration::ZERO } else { support::CLOSE_MAX })?;
    let accepted = (after.accepted - before.accepted) as f64;
    fs::remove_dir_all(&directory)?;
    Ok(Run {
        events_per_s: accepted / elapsed,
        delivered_per_s: (after.delivered - before.delivered) as f64 / elapsed,
        cpu_us: cpu.as_secs_f64() * 1e6 / accepted,
        wait_p50_us: median(waits.iter().map(|wait| wait.as_secs_f64() * 1e6).collect()),
        group_events: accepted / (after.groups - before.groups) as f64,
        raw_per_s: limit.events as f64 / limit.elapsed.as_secs_f64(),
        sync_p50_us: median(limit.syncs_us),
    })
}

fn open(scenario: &Scenario, data: &Path) -> Outcome<Engine> {
    let config = Config::new(data);
    let config = if scenario.held_back {
        // One worker that hangs, so that nothing is delivered or retried.
        let limits = Limits::default().in_flight_max(Some(1));
        config.limits(limits).transport(Arc::new(Hanging::default()))
    } else {
        config.transport(Arc::new(Acknowledging))
    };
    Ok(Engine::open(config)?)
}

/// With this argument the process only keeps a core busy.
const SPIN: &str = "--spin";

/// A busy process for every core.
fn busy_cores() -> Outcome<Vec<Process>> {
    let cores = thread::available_parallelism()?.get();
    let own = std::env::current_exe()?;
    let spin = || Ok(Process(Command::new(&own).arg(SPIN).spawn()?));
    (0..cores).map(|_| spin()).collect()
}

/// The result of a plain file.
#[derive(Default)]
struct Limit {
    events: u64,
    elapsed: Duration,
    syncs_us: Vec<f64>,
}

impl Limit {
    /// Appends and syncs groups of so many events.
    fn measure(&mut self, raw: &mut RawFile, group_events: f64, span: Duration) -> Outcome {
        let (mut due, mut done) = (0.0, 0_u32);
        let started = Instant::now();
        while started.elapsed() < span {
            due += group_events;
            // A mean of 3.4 events is groups of 3 and of 4.
            let begun = done;
            while done == begun || f64::from(done) + 0.5 < due {
                done += 1;
            }
            let events = usize::try_from(done - begun)?;
            self.syncs_us.push(raw.append(events * PAYLOAD_BYTES)?.as_secs_f64() * 1e6);
        }
        self.elapsed += started.elapsed();
        self.events += u64::from(done);
        Ok(())
    }
}

fn conclude(scenario: &Scenario, runs: &BTreeMap<&str, Vec<Run>>) {
    let what = scenario.what.as_str();
    let Some(own) = runs.get(what) else { return };
    let middle = |of: fn(&Run) -> f64| median(own.iter().map(of).collect());
    let ratio = middle(|run| run.events_per_s / run.raw_per_s);
    let least = own.iter().map(|run| run.events_per_s / run.raw_per_s).fold(f64::MAX, f64::min);
    println!(
        "{what}: {:.0} events/s, {:.0} settled/s, {:.1} us CPU an event, {:.0} us to wait (p50), \
         {:.1} events a group, a sync {:.0} us; {ratio:.2} of raw (least {least:.2})",
        middle(|run| run.events_per_s),
        middle(|run| run.delivered_per_s),
        middle(|run| run.cpu_us),
        middle(|run| run.wait_p50_us),
        middle(|run| run.group_events),
        middle(|run| run.sync_p50_us),
    );
    if ratio > 1.0 {
        println!(
            "{what}: it beat its limit, so the limit was kept from the CPU by other work or met a \
             slow phase alone: this ratio says nothing"
        );
    }
    let limit = (middle(|run| run.raw_per_s), "raw_append_fdatasync");
    support::result("outbox", what, middle(|run| run.events_per_s), "events/s", limit, ratio);
    // The cost of an event relative to one that is owed once, of the same round.
    if let (true, Some(once)) = (scenario.fan_out > 1, runs.get("accept_64_fanout_1")) {
        let against = |of: fn(&Run) -> f64| {
            let pairs = own.iter().zip(once);
            median(pairs.map(|(many, one)| of(many) / of(one)).collect())
        };
        let time = against(|run| 1.0 / run.events_per_s);
        let limit = (median(once.iter().map(|run| run.cpu_us).collect()), "cpu_at_fanout_1");
        let (cpu_us, ratio) = (middle(|run| run.cpu_us), against(|run| run.cpu_us));
        println!("{what}: {time:.2} times the time and {ratio:.2} times the CPU of fan-out 1");
        support::result("outbox", format!("{what}_cpu"), cpu_us, "us/event", limit, ratio);
    }
}
