//! What hanging endpoints cost those that answer: the same deliveries to the same receivers, with and
//! without others that accept connections and never answer. Both cases take turns in one process. Both
//! deliver from a backlog that was on the device before, so that publishing to the hanging endpoints is
//! not counted.
//!
//! `cargo bench --bench isolation -- --runs 3 --events 400`; `--only isolation_900_of_1000` runs that
//! alone.
//!
//! `isolation_*`: the engine has just been opened and knows nothing of the endpoints; timeouts of 15 s.
//! `*_warm`: every hanging endpoint has timed out at least once.

mod support;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use support::receiver_process::{self, Receivers, now_ns};
use support::transports::Hanging;
use support::{Outcome, median};
use wabahook::{Config, Engine, Event, Subscription};

const PROMPT: &str = "TO_THE_PROMPT";
const HANGING: &str = "TO_THE_HANGING";
/// How many events each hanging endpoint is owed, more than are tried in a run.
const HANGING_EVENTS: usize = 20;
const PAYLOAD_BYTES: usize = 1024;
/// The measurement fails after this time.
const STRETCH_MAX_MS: u64 = 300_000;

struct Scenario {
    what: &'static str,
    prompt: usize,
    hanging: usize,
}

/// Deliveries a second to the endpoints that answer.
struct Rates {
    cold: f64,
    warm: f64,
    /// The memory of the process after the cold deliveries, while the others hang.
    rss_mb: f64,
}

fn main() -> Outcome {
    let runs: usize = support::option("runs", 3);
    let events: usize = support::option("events", 400);
    let only = support::text("only").unwrap_or_default();
    if std::env::args().any(|given| given == "--receive") {
        return receiver_process::receive();
    }
    support::raise_file_limit()?;
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
    // Fewer lanes get more events, so that every scenario runs for seconds.
    let events = events * 100 / prompt;
    println!("\n{what}: {events} events to each of {prompt} endpoints that answer");
    let (mut cold, mut warm) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for run in 0..runs {
        // They go first alternately.
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
        // Of the two in one run, which saw the machine in the same phase.
        let ratio =
            median(with.iter().zip(&without).map(|(with, without)| with / without).collect());
        let limit = (median(without), "without_hanging");
        support::result(
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
    let mut receivers = Receivers::start()?;
    let path = support::directory("isolation")?;
    owe(&path, &receivers, prompt, hanging, events)?;
    let due = (prompt * events) as u64;

    let engine = Engine::open(config(&path)?)?;
    let cold = stretch(&mut receivers, due, || Ok(()))?;
    let rss_mb = support::status_mb("VmRSS:");
    wait_until_all_timed_out(&engine, hanging)?;
    let warm = stretch(&mut receivers, due, || publish(&engine, PROMPT, events))?;
    engine.close(support::CLOSE_MAX)?;
    std::fs::remove_dir_all(&path)?;
    Ok(Rates { cold, warm, rss_mb })
}

/// Deliveries a second to those that answer, from before `begin` until so many have arrived.
fn stretch(receivers: &mut Receivers, due: u64, begin: impl FnOnce() -> Outcome) -> Outcome<f64> {
    let started_ns = now_ns();
    begin()?;
    let ended_ns = receivers.until(due, STRETCH_MAX_MS)?;
    receivers.reset()?;
    Ok(due as f64 * 1e9 / (ended_ns - started_ns) as f64)
}

/// Leaves a backlog on the device without any attempt.
fn owe(
    path: &Path,
    receivers: &Receivers,
    prompt: usize,
    hanging: usize,
    events: usize,
) -> Outcome {
    let engine = Engine::open(config(path)?.transport(std::sync::Arc::new(Hanging::default())))?;
    let prompt = (0..prompt).map(|n| (receivers.prompt(n), PROMPT));
    let hanging = (0..hanging).map(|n| (receivers.hanging(n), HANGING));
    // Shuffled, so that neither kind is first.
    let mut all: Vec<_> = prompt.chain(hanging).collect();
    fastrand::Rng::with_seed(7).shuffle(&mut all);
    for (url, kind) in all {
        engine.subscribe(Subscription::to(&url)?.name(&url).events([kind]))?;
    }
    publish(&engine, HANGING, HANGING_EVENTS)?;
    publish(&engine, PROMPT, events)?;
    Ok(engine.close(support::CLOSE_MAX)?)
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
        if started.elapsed() > Duration::from_millis(STRETCH_MAX_MS) {
            return Err(format!("{timed_out} of {hanging} timed out").into());
        }
        thread::sleep(Duration::from_millis(100));
    }
}
