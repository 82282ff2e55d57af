//! What an idle engine costs that owes a million deliveries behind open breakers. The breakers wait
//! longer than the measurement takes, and the bench fails if an attempt was made. It is compared with
//! this process asleep before the engine was opened.
//!
//! `cargo bench --bench idle -- --events 10000 --lanes 100 --seconds 20`

mod support;

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use support::Outcome;
use support::transports::Replying;
use wabahook::policy::{Breaker, Policy};
use wabahook::{Config, Engine, Event, Reply, Request, Subscription};

const PAYLOAD_BYTES: usize = 200;
const BREAKER_MS: u64 = 3_600_000;
const QUIET_MAX: Duration = Duration::from_secs(120);

fn main() -> Outcome {
    let events: usize = support::option("events", 10_000);
    let lanes: usize = support::option("lanes", 100);
    let span = Duration::from_secs(support::option("seconds", 20));
    let path = support::directory("idle")?;
    let (asleep, rss_before_mb) = (cpu_share(span), support::status_mb("VmRSS:"));
    println!("asleep without an engine: {asleep:.5} of a CPU, {rss_before_mb:.1} MB");

    let engine = open(&path)?;
    let breaker = Breaker::default()
        .initial(Duration::from_millis(BREAKER_MS))
        .max(Duration::from_millis(BREAKER_MS));
    for n in 0..lanes {
        let url = format!("https://receiver-{n}.example/hook");
        let policy = Policy::default().breaker(breaker);
        engine.subscribe(Subscription::to(url)?.name(format!("receiver-{n}")).policy(policy))?;
    }
    for batch in (0..events).collect::<Vec<_>>().chunks(1_000) {
        let event = |_: &usize| Event::new("MESSAGE_RECEIVED", vec![b'x'; PAYLOAD_BYTES]);
        engine.publish_many(batch.iter().map(event).collect())?.wait()?;
    }
    measure(&engine, "running", lanes, span, asleep, rss_before_mb)?;
    engine.close(support::CLOSE_MAX)?;
    drop(engine);
    let engine = open(&path)?;
    measure(&engine, "reopened", lanes, span, asleep, rss_before_mb)?;
    engine.close(support::CLOSE_MAX)?;
    Ok(std::fs::remove_dir_all(&path)?)
}

fn open(path: &Path) -> wabahook::Result<Engine> {
    Engine::open(
        Config::new(path).transport(Arc::new(Replying(|_: &Request<'_>| Reply::status(503)))),
    )
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
    let sleeps = support::sleeps();
    let busy = cpu_share(span);
    let wakes = (support::sleeps() - sleeps) as f64 / span.as_secs_f64();
    let after = engine.stats();
    if after.attempts != before.attempts {
        return Err("an attempt was made while nothing should have happened".into());
    }
    let rss_mb = support::status_mb("VmRSS:") - rss_before_mb;
    println!(
        "{what}: {} deliveries owed behind {lanes} breakers: {busy:.5} of a CPU, {rss_mb:.1} MB",
        after.owed
    );
    println!("  asleep without an engine: {asleep:.5} of a CPU; {wakes:.1} wake-ups a second");
    support::result("idle", format!("{what}_wakes"), wakes, "wakes/s", (2.0, "aim"), wakes / 2.0);
    let what_cpu = format!("{what}_cpu");
    support::result("idle", what_cpu, busy, "cpus", (1.0, "one_cpu"), busy);
    let bytes = rss_mb * 1e6 / after.owed as f64;
    let what_memory = format!("{what}_bytes_a_delivery");
    let payload = PAYLOAD_BYTES as f64;
    support::result(
        "idle",
        what_memory,
        bytes,
        "bytes",
        (payload, "payload_bytes"),
        bytes / payload,
    );
    Ok(())
}

/// Waits until every breaker is open, nothing is in flight and maintenance is done.
fn wait_until_quiet(engine: &Engine, lanes: usize) -> Outcome {
    let started = Instant::now();
    while started.elapsed() < QUIET_MAX {
        let stats = engine.stats();
        let open = stats.lanes.iter().filter(|lane| lane.rests_for.as_secs() > 60).count();
        if open == lanes && stats.in_flight == 0 {
            thread::sleep(Duration::from_secs(12));
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Err("the breakers did not open".into())
}

/// The share of one CPU that this process uses while this thread sleeps.
fn cpu_share(span: Duration) -> f64 {
    let before = support::cpu_time();
    thread::sleep(span);
    (support::cpu_time() - before).as_secs_f64() / span.as_secs_f64()
}
