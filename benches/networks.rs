//! What latency costs: deliveries a second to 100 and 1,000 subscriptions whose receivers answer after
//! 0 to 1,000 ms, while another subscription with a prompt receiver gets an event every 20 ms. Latency
//! allows `attempts in flight / latency`, and the machine what it reaches at 0 ms; the result is compared
//! with the smaller one, and with raw requests of one event-driven thread at the same latency (`*_of_raw`). As many attempts may be in flight as the lanes' caps allow together, and as the
//! engine allows in all. The receivers are in a process of their own and the prompt one in another, so that it
//! does not wait for theirs, and everything is counted there. Every subscription has a backlog while it is
//! measured.
//!
//! `cargo bench --bench networks -- --ms 5000 --warm-up-ms 3000`; `--only 100_ms` runs that alone, after 0 ms.
//! The warm-up is longer by ten times the latency, in which the caps grow.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::raw_requests;
use support::receiver_process::{self, LATENCIES_MS, Receivers, now_ns};
use support::{Outcome, option};
use wabahook::{Config, Engine, Event, Limits, Subscription};

const SUBSCRIPTIONS: [usize; 2] = [100, 1_000];
const PAYLOAD_BYTES: usize = 1024;
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// The event types of the many subscriptions, and of the prompt one.
const MANY: &str = "MESSAGE_RECEIVED";
const PROMPT: &str = "MESSAGE_STATUS";
const PROMPT_NAME: &str = "prompt";
/// Prompt events have the numbers from here on.
const PROMPT_FROM: u64 = 1 << 40;
const PROMPT_EVERY: Duration = Duration::from_millis(20);
/// How many events each subscription is owed at least while it is measured.
const BACKLOG: u64 = 64;
/// How long prompt events may take to arrive after the last one was published.
const ARRIVE_MAX: Duration = Duration::from_secs(30);

fn main() -> Outcome {
    if support::has_option("receive") {
        return receiver_process::receive();
    }
    support::raise_file_limit()?;
    let only = support::text("only").unwrap_or_default();
    let mut receivers = [Receivers::start()?, Receivers::start()?];
    for subscriptions in SUBSCRIPTIONS {
        let named = |latency_ms| format!("networks_{subscriptions}_at_{latency_ms}_ms");
        if !LATENCIES_MS.into_iter().any(|latency_ms| named(latency_ms).contains(&only)) {
            continue;
        }
        let mut without_latency = f64::INFINITY;
        for (latency, latency_ms) in LATENCIES_MS.into_iter().enumerate() {
            let what = named(latency_ms);
            // What the machine reaches at 0 ms is the limit of all others.
            if latency > 0 && !what.contains(&only) {
                continue;
            }
            let measured = measure(&mut receivers, subscriptions, latency)?;
            if latency == 0 {
                without_latency = measured.per_s;
            }
            conclude(&what, &measured, latency_ms, without_latency);
        }
    }
    Ok(())
}

/// What one network reached.
struct Measured {
    /// How many attempts to the many may be in flight.
    in_flight_max: f64,
    /// Deliveries a second to the many.
    per_s: f64,
    /// Raw requests a second of one thread to the same receivers, with as many in flight.
    raw_per_s: f64,
    /// From the call of `publish` to the arrival at the prompt receiver, sorted; infinite for an event
    /// that did not arrive.
    prompt_ms: Vec<f64>,
}

fn conclude(what: &str, measured: &Measured, latency_ms: u64, at_0_ms: f64) {
    let network = measured.in_flight_max * 1e3 / latency_ms as f64;
    let limit = network.min(at_0_ms);
    let limit_is = if network < at_0_ms { "in_flight_by_latency" } else { "rate_at_0_ms" };
    let per_s = measured.per_s;
    support::result("networks", what, per_s, "deliveries/s", (limit, limit_is), per_s / limit);
    if latency_ms > 0 {
        let (name, raw) = (format!("{what}_of_raw"), (measured.raw_per_s, "raw"));
        support::result("networks", name, per_s, "deliveries/s", raw, per_s / raw.0);
    }
    let count = measured.prompt_ms.len();
    let p99 = measured.prompt_ms.get(count * 99 / 100).copied().unwrap_or(f64::NAN);
    let name = format!("{what}_prompt_p99");
    support::result("networks", name, p99, "ms", (20.0, "aim"), p99 / 20.0);
}

fn measure(
    [receivers, prompt]: &mut [Receivers; 2],
    subscriptions: usize,
    latency: usize,
) -> Outcome<Measured> {
    let latency_ms = LATENCIES_MS.get(latency).copied().unwrap_or_default();
    let (span, warm_up) = (millis("ms", 5_000), millis("warm-up-ms", 3_000));
    let warm_up = warm_up + 10 * Duration::from_millis(latency_ms);
    let path = support::directory("networks")?;
    let engine = open(&path, [receivers, prompt], subscriptions, latency)?;
    let ends = Arc::new(AtomicBool::new(false));
    let mut measured = thread::scope(|scope| {
        let _ends = EndOnDrop(Arc::clone(&ends));
        let backlog = scope.spawn(|| keep_backlog(&engine, subscriptions as u64, &ends));
        // In-flight caps grow, connections are made.
        thread::sleep(warm_up);
        receivers.reset()?;
        prompt.reset()?;
        let (started, cpu) = (Instant::now(), support::cpu_time());
        let published = publish_prompt(&engine, started, span)?;
        let arrived = receivers.count()?;
        let per_s = arrived as f64 / started.elapsed().as_secs_f64();
        let cpu_us = (support::cpu_time() - cpu).as_secs_f64() * 1e6 / arrived as f64;
        let stats = engine.stats();
        println!(
            "  {} in flight, {} owed, {cpu_us:.1} us of CPU each",
            stats.in_flight, stats.owed
        );
        print_prompt_attempts(&engine);
        let lanes_max = Limits::default().lane_in_flight_max as u64 * subscriptions as u64;
        let in_flight_max = lanes_max.min(stats.in_flight_max) as f64;
        let prompt_ms = prompt_latencies(prompt, &published)?;
        ends.store(true, Ordering::Relaxed);
        backlog.join().map_err(|_| "the publisher panicked")??;
        Outcome::Ok(Measured { in_flight_max, per_s, raw_per_s: f64::NAN, prompt_ms })
    })?;
    // What is still owed is not waited for.
    engine.close(Duration::ZERO)?;
    drop(engine);
    fs::remove_dir_all(&path)?;
    let authority = |n| receivers.delayed_authority(latency, n % subscriptions);
    let all: Vec<_> = (0..measured.in_flight_max as usize).map(authority).collect();
    let event = support::event(0, PAYLOAD_BYTES);
    let raw = raw_requests::event_driven_to(receivers, all.into_iter(), event.payload(), span)?;
    measured.raw_per_s = raw.per_s;
    Ok(measured)
}

fn millis(name: &str, default: u64) -> Duration {
    Duration::from_millis(option(name, default))
}

/// Ends the publisher also where the measurement fails.
struct EndOnDrop(Arc<AtomicBool>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn open(
    path: &Path,
    [receivers, prompt]: [&Receivers; 2],
    subscriptions: usize,
    latency: usize,
) -> Outcome<Engine> {
    let config = Config::new(path)
        .limits(support::limits())
        .allow_http(true)
        .allow_addresses(["127.0.0.0/8".parse()?]);
    let engine = Engine::open(config)?;
    let subscribe = |url: String, name: String, event_type: &str| -> Outcome {
        let subscription = Subscription::to(url)?.name(name).events([event_type]).secret(SECRET);
        engine.subscribe(subscription)?;
        Ok(())
    };
    for n in 0..subscriptions {
        subscribe(receivers.delayed(latency, n), format!("receiver-{n}"), MANY)?;
    }
    subscribe(prompt.prompt(0), PROMPT_NAME.to_owned(), PROMPT)?;
    Ok(engine)
}

/// Publishes whenever less than the backlog is owed, until it is to end.
fn keep_backlog(engine: &Engine, subscriptions: u64, ends: &AtomicBool) -> Outcome {
    let mut number = 0;
    while !ends.load(Ordering::Relaxed) {
        let owed = engine.stats().owed / subscriptions;
        let missing = (2 * BACKLOG).saturating_sub(owed);
        if missing < BACKLOG {
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        let events = (number..number + missing).map(|number| support::event(number, PAYLOAD_BYTES));
        number += missing;
        engine.publish_many(events.collect())?.wait()?;
    }
    Ok(())
}

/// Publishes a prompt event in regular intervals for `span`. Returns when each was published.
fn publish_prompt(
    engine: &Engine,
    started: Instant,
    span: Duration,
) -> Outcome<BTreeMap<u64, u64>> {
    let (mut published, mut waits_ms) = (BTreeMap::new(), Vec::new());
    while started.elapsed() < span {
        let number = PROMPT_FROM + published.len() as u64;
        let event = Event::new(PROMPT, format!("{{\"event\":{number}}}")).number("919999999999");
        let published_ns = now_ns();
        published.insert(number, published_ns);
        let receipt = engine.publish(event)?;
        if support::has_option("wait") {
            receipt.wait()?;
            waits_ms.push((now_ns() - published_ns) as f64 / 1e6);
        }
        let next = PROMPT_EVERY * u32::try_from(published.len())?;
        thread::sleep(next.saturating_sub(started.elapsed()));
    }
    if !waits_ms.is_empty() {
        print_p99("its commits", waits_ms);
    }
    Ok(published)
}

/// How long the attempts to the prompt receiver took, which its latency can be compared with.
fn print_prompt_attempts(engine: &Engine) {
    let subscriptions = engine.subscriptions();
    let Some(prompt) = subscriptions.iter().find(|one| one.name == PROMPT_NAME) else { return };
    let attempts = engine.recent_attempts(prompt.id, 100);
    print_p99("its attempts", attempts.iter().map(|one| one.took.as_secs_f64() * 1e3).collect());
}

fn print_p99(what: &str, mut times_ms: Vec<f64>) {
    times_ms.sort_by(f64::total_cmp);
    let p99 = times_ms.get(times_ms.len() * 99 / 100).copied().unwrap_or(f64::NAN);
    println!("  {what}: median {:.1} ms, p99 {p99:.1} ms", support::median(times_ms));
}

fn prompt_latencies(
    receivers: &mut Receivers,
    published: &BTreeMap<u64, u64>,
) -> Outcome<Vec<f64>> {
    let ended = Instant::now();
    let mut arrived = Vec::new();
    while arrived.len() < published.len() && ended.elapsed() < ARRIVE_MAX {
        thread::sleep(PROMPT_EVERY);
        arrived = receivers.times(PROMPT_FROM)?;
    }
    let arrived: BTreeMap<u64, u64> = arrived.into_iter().collect();
    let latency = |(number, called_ns): (&u64, &u64)| match arrived.get(number) {
        Some(at_ns) => at_ns.saturating_sub(*called_ns) as f64 / 1e6,
        None => f64::INFINITY,
    };
    let mut latencies: Vec<f64> = published.iter().map(latency).collect();
    latencies.sort_by(f64::total_cmp);
    Ok(latencies)
}
