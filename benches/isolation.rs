//! Decides what endpoints that hang cost those that answer, over real sockets: the same deliveries to
//! the same receivers, with and without others that accept and never answer.
//!
//! Leaves to others: the cost of accepting (`outbox`). Invariant: what is measured takes turns with
//! what it is compared with, in one process; both deliver from a backlog that lay on the device when
//! the clock was started, so that publishing to the hanging ones is not counted.
//!
//! `cargo bench --bench isolation -- --runs 3 --events 400`; `--only isolation_900_of_1000` runs that
//! alone.
//!
//! `isolation_*`: the engine has just been opened and has tried nothing, with timeouts of 15 s.
//! `*_warm`: every endpoint that hangs has timed out at least once.

mod bed;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bed::receivers::Receivers;
use bed::scripted::Silent;
use bed::{Outcome, median};
use wabahook::{Config, Engine, Event, Subscription};

const PROMPT: &str = "TO_THE_PROMPT";
const HANGING: &str = "TO_THE_HANGING";
/// What each endpoint that hangs is owed: more than it will ever be asked for in a run.
const HANGING_EVENTS: usize = 20;
const PAYLOAD_BYTES: usize = 1024;
/// No measured stretch takes longer on a machine that is worth measuring on.
const STRETCH_MAX: Duration = Duration::from_secs(300);

struct Scenario {
    what: &'static str,
    prompt: usize,
    hanging: usize,
}

/// Deliveries a second to the endpoints that answer.
struct Rates {
    cold: f64,
    warm: f64,
    /// What the process had in memory when the cold ones had come and the others hung.
    rss_mb: f64,
}

fn main() -> Outcome {
    let runs: usize = bed::option("runs", 3);
    let events: usize = bed::option("events", 400);
    let only = bed::text("only").unwrap_or_default();
    bed::raise_file_limit()?;
    let scenarios = [
        Scenario { what: "isolation_900_of_1000", prompt: 100, hanging: 900 },
        Scenario { what: "isolation_1_of_10", prompt: 9, hanging: 1 },
    ];
    for scenario in scenarios.iter().filter(|scenario| scenario.what.contains(&only)) {
        measure(scenario, runs, events)?;
    }
    Ok(())
}

fn measure(scenario: &Scenario, runs: usize, events: usize) -> Outcome {
    let Scenario { what, prompt, hanging } = *scenario;
    // The smaller number of lanes gets more events, so that both run for seconds.
    let events = events * 100 / prompt;
    println!("\n{what}: {events} events to each of {prompt} endpoints that answer");
    let (mut cold, mut warm) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for run in 0..runs {
        // Each goes first in every other run.
        let order = if run % 2 == 0 { [0, hanging] } else { [hanging, 0] };
        for hanging in order {
            let rates = deliver(prompt, hanging, events)?;
            println!(
                "  run {run}, {hanging} hanging: cold {:.0}/s, warm {:.0}/s, RSS {:.0} MB",
                rates.cold, rates.warm, rates.rss_mb
            );
            let (cold, warm) = match hanging {
                0 => (&mut cold.0, &mut warm.0),
                _ => (&mut cold.1, &mut warm.1),
            };
            cold.push(rates.cold);
            warm.push(rates.warm);
        }
    }
    for (how, (without, with)) in [("", cold), ("_warm", warm)] {
        // Of the two of one run, which had the machine in one and the same phase.
        let ratio =
            median(with.iter().zip(&without).map(|(with, without)| with / without).collect());
        let limit = (median(without), "without_hanging");
        bed::result(
            "isolation",
            format!("{what}{how}"),
            median(with),
            "deliveries/s",
            limit,
            ratio,
        );
    }
    Ok(())
}

fn deliver(prompt: usize, hanging: usize, events: usize) -> Outcome<Rates> {
    let receivers = Receivers::start()?;
    let path = bed::directory("isolation")?;
    owe(&path, &receivers, prompt, hanging, events)?;
    let due = (prompt * events) as u64;

    let engine = Engine::open(config(&path)?)?;
    let cold = stretch(&receivers, due, || Ok(()))?;
    let rss_mb = bed::status_mb("VmRSS:");
    wait_until_all_timed_out(&engine, hanging)?;
    let warm = stretch(&receivers, 2 * due, || publish(&engine, PROMPT, events))?;
    engine.close(bed::CLOSE_MAX)?;
    std::fs::remove_dir_all(&path)?;
    Ok(Rates { cold, warm, rss_mb })
}

/// Deliveries a second, from before `begin` until so many have come since the start.
fn stretch(receivers: &Receivers, until: u64, begin: impl FnOnce() -> Outcome) -> Outcome<f64> {
    let started = Instant::now();
    let before = receivers.answered();
    begin()?;
    if !receivers.wait_for(until, STRETCH_MAX) {
        return Err(format!("{} of {until} came in time", receivers.answered()).into());
    }
    Ok((until - before) as f64 / started.elapsed().as_secs_f64())
}

/// Leaves a backlog on the device, of which nothing was tried.
fn owe(
    path: &Path,
    receivers: &Receivers,
    prompt: usize,
    hanging: usize,
    events: usize,
) -> Outcome {
    let engine = Engine::open(config(path)?.transport(std::sync::Arc::new(Silent::default())))?;
    let prompt = (0..prompt).map(|n| (receivers.prompt(n), PROMPT));
    let hanging = (0..hanging).map(|n| (receivers.hanging(n), HANGING));
    // Mixed, so that neither kind has its turn first.
    let mut all: Vec<_> = prompt.chain(hanging).collect();
    fastrand::Rng::with_seed(7).shuffle(&mut all);
    for (url, kind) in all {
        engine.subscribe(Subscription::to(&url)?.name(&url).events([kind]))?;
    }
    publish(&engine, HANGING, HANGING_EVENTS)?;
    publish(&engine, PROMPT, events)?;
    Ok(engine.close(bed::CLOSE_MAX)?)
}

fn publish(engine: &Engine, kind: &str, events: usize) -> Outcome {
    let payload = vec![b'x'; PAYLOAD_BYTES];
    let event = || Event::new(kind, payload.clone());
    engine.publish_many((0..events).map(|_| event()).collect())?.wait()?;
    Ok(())
}

fn config(path: &Path) -> Outcome<Config> {
    Ok(Config::new(path).allow_http(true).allow_addresses(["127.0.0.0/8".parse()?]))
}

fn wait_until_all_timed_out(engine: &Engine, hanging: usize) -> Outcome {
    let started = Instant::now();
    loop {
        let lanes = engine.stats().lanes;
        let timed_out = lanes.iter().filter(|lane| lane.retried > 0).count();
        if timed_out >= hanging {
            return Ok(());
        }
        if started.elapsed() > STRETCH_MAX {
            return Err(format!("{timed_out} of {hanging} timed out").into());
        }
        thread::sleep(Duration::from_millis(100));
    }
}
