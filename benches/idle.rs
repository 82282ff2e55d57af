//! Decides what an engine costs that has much to deliver and may deliver none of it: a million
//! deliveries behind open breakers.
//!
//! Leaves to others: what it costs to deliver (`isolation`, `churn`). Invariant: the engine is idle
//! while it is measured: breakers wait for longer than that, and the bench fails where an attempt was
//! made. What it is compared with is this process asleep before there was an engine.
//!
//! `cargo bench --bench idle -- --events 10000 --lanes 100 --seconds 20`

mod bed;

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bed::Outcome;
use wabahook::{Breaker, Config, Engine, Event, Policy, Reply, Request, Subscription, Transport};

const PAYLOAD_BYTES: usize = 200;
const BREAKER_MS: u64 = 3_600_000;
const QUIET_MAX: Duration = Duration::from_secs(120);

/// Refuses everything, in a way that time may mend.
struct Refusing;

impl Transport for Refusing {
    fn send(&self, _: &Request<'_>) -> Reply {
        Reply::status(503)
    }

    fn interrupt(&self) {}
}

fn main() -> Outcome {
    let events: usize = bed::option("events", 10_000);
    let lanes: usize = bed::option("lanes", 100);
    let span = Duration::from_secs(bed::option("seconds", 20));
    let path = bed::directory("idle")?;
    let (asleep, rss_before_mb) = (cpu_share(span), bed::status_mb("VmRSS:"));
    println!("asleep without an engine: {asleep:.5} of a CPU, {rss_before_mb:.1} MB");

    let engine = open(&path)?;
    let breaker = Breaker { initial_ms: BREAKER_MS, max_ms: BREAKER_MS, ..Breaker::default() };
    for n in 0..lanes {
        let url = format!("https://receiver-{n}.example/hook");
        let policy = Policy { breaker, ..Policy::default() };
        engine.subscribe(Subscription::to(url)?.name(format!("receiver-{n}")).policy(policy))?;
    }
    for batch in (0..events).collect::<Vec<_>>().chunks(1_000) {
        let event = |_: &usize| Event::new("MESSAGE_RECEIVED", vec![b'x'; PAYLOAD_BYTES]);
        engine.publish_many(batch.iter().map(event).collect())?.wait()?;
    }
    measure(&engine, "running", lanes, span, asleep, rss_before_mb)?;
    engine.close(bed::CLOSE_MAX)?;
    drop(engine);
    let engine = open(&path)?;
    measure(&engine, "reopened", lanes, span, asleep, rss_before_mb)?;
    engine.close(bed::CLOSE_MAX)?;
    Ok(std::fs::remove_dir_all(&path)?)
}

fn open(path: &Path) -> wabahook::Result<Engine> {
    Engine::open(Config::new(path).transport(Arc::new(Refusing)))
}

fn measure(
    engine: &Engine,
    what: &str,
    lanes: usize,
    span: Duration,
    asleep: f64,
    rss_before_mb: f64,
) -> Outcome {
    wait_until_quiet(engine, lanes)?;
    let before = engine.stats();
    let busy = cpu_share(span);
    let after = engine.stats();
    if after.attempts != before.attempts {
        return Err("an attempt was made while nothing should have happened".into());
    }
    let rss_mb = bed::status_mb("VmRSS:") - rss_before_mb;
    println!(
        "{what}: {} deliveries owed behind {lanes} breakers: {busy:.5} of a CPU, {rss_mb:.1} MB",
        after.owed
    );
    println!("  asleep without an engine: {asleep:.5} of a CPU");
    let what_cpu = format!("{what}_cpu");
    bed::result("idle", what_cpu, busy, "cpus", (1.0, "one_cpu"), busy);
    let bytes = rss_mb * 1e6 / after.owed as f64;
    let what_memory = format!("{what}_bytes_a_delivery");
    let payload = PAYLOAD_BYTES as f64;
    bed::result("idle", what_memory, bytes, "bytes", (payload, "payload_bytes"), bytes / payload);
    Ok(())
}

/// Until every breaker is open and nothing is under way, and what was accepted is tidied.
fn wait_until_quiet(engine: &Engine, lanes: usize) -> Outcome {
    let started = Instant::now();
    while started.elapsed() < QUIET_MAX {
        let stats = engine.stats();
        let open = stats.lanes.iter().filter(|lane| lane.rests_for_ms > 60_000).count();
        if open == lanes && stats.in_flight == 0 {
            thread::sleep(Duration::from_secs(12));
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Err("the breakers did not open".into())
}

/// The share of one CPU that this process takes over a span of doing nothing itself.
fn cpu_share(span: Duration) -> f64 {
    let before = bed::cpu_time();
    thread::sleep(span);
    (bed::cpu_time() - before).as_secs_f64() / span.as_secs_f64()
}
