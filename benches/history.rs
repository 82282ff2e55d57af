//! What the history of events costs: events are accepted and delivered with it and without it in turns, in one process
//! and on the same file system. Then messages are looked up in it.
//!
//! `cargo bench --bench history -- --runs 5 --events 20000`

mod support;

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::transports::Acknowledging;
use support::{Outcome, median};
use wabahook::{Config, Engine, Event, EventQuery, Limits, Receipt};

/// As many receipts are waited for at a time.
const WAITING: usize = 256;
/// The reference host's default.
const HISTORY_BYTES: u64 = 1 << 30;
/// How many messages are looked up.
const LOOKUPS: u64 = 1_000;

/// The figures of one run.
struct Run {
    accepted_per_s: f64,
    delivered_per_s: f64,
    cpu_us: f64,
    /// The median and the 99th percentile of a look-up, in milliseconds, and how many were found.
    lookups: Option<(f64, f64, u64)>,
}

/// A figure of a run.
type Figure = fn(&Run) -> f64;

fn main() -> Outcome {
    let (runs, events) = (support::option("runs", 5_u64), support::option("events", 20_000_u64));
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for run in 0..runs {
        // Each is first in every other run.
        let first_has_history = run % 2 == 0;
        for has_history in [first_has_history, !first_has_history] {
            let measured = measure(events, has_history)?;
            let Run { accepted_per_s, delivered_per_s, cpu_us, .. } = &measured;
            println!(
                "run {run}, history {has_history}: accepted {accepted_per_s:.0}/s, delivered {delivered_per_s:.0}/s, {cpu_us:.1} us CPU an event"
            );
            if has_history { with.push(measured) } else { without.push(measured) }
        }
    }
    let figures: [(&str, &str, Figure); 3] = [
        ("accepted", "events/s", |run| run.accepted_per_s),
        ("delivered", "deliveries/s", |run| run.delivered_per_s),
        ("cpu", "us/event", |run| run.cpu_us),
    ];
    for (what, unit, figure) in figures {
        let of = |runs: &[Run]| median(runs.iter().map(figure).collect());
        let ratios =
            with.iter().zip(&without).map(|(with, without)| figure(with) / figure(without));
        let limit = (of(&without), "without_history");
        support::result("history", what, of(&with), unit, limit, median(ratios.collect()));
    }
    for (p50, p99, found) in with.iter().filter_map(|run| run.lookups) {
        println!(
            "{LOOKUPS} message ids, {found} of them found: median {p50:.2} ms, p99 {p99:.2} ms"
        );
    }
    let p99 = median(with.iter().filter_map(|run| Some(run.lookups?.1)).collect());
    support::result("history", "find_p99", p99, "ms", (100.0, "aim"), p99 / 100.0);
    Ok(())
}

fn measure(events: u64, has_history: bool) -> Outcome<Run> {
    let directory = support::directory("history")?;
    let run = measure_in(&directory, events, has_history);
    fs::remove_dir_all(&directory)?;
    run
}

fn measure_in(directory: &Path, events: u64, has_history: bool) -> Outcome<Run> {
    let limits = Limits::default().history_bytes_max(if has_history { HISTORY_BYTES } else { 0 });
    let config = Config::new(directory).limits(limits).transport(Arc::new(Acknowledging));
    let engine = Engine::open(config)?;
    support::subscribe(&engine, 1)?;
    // The first groups also start threads and the first generation, which is not measured.
    publish(&engine, 0, events / 10)?;
    wait_until_delivered(&engine, events / 10)?;
    let (cpu_before, started) = (support::cpu_time(), Instant::now());
    publish(&engine, events / 10, events)?;
    let accepted = started.elapsed();
    wait_until_delivered(&engine, events / 10 + events)?;
    let delivered = started.elapsed();
    // What the history has queued is written before its processor time is read.
    let lookups = has_history.then(|| look_up(&engine, events)).transpose()?;
    let look_up_cpu = lookups.map_or(Duration::ZERO, |(_, _, _, cpu)| cpu);
    let cpu = support::cpu_time() - cpu_before - look_up_cpu;
    println!(
        "  history: {} bytes, {} dropped",
        engine.stats().history_bytes,
        engine.stats().history_dropped
    );
    engine.close(support::CLOSE_MAX)?;
    let per_s = |time: Duration| events as f64 / time.as_secs_f64();
    Ok(Run {
        accepted_per_s: per_s(accepted),
        delivered_per_s: per_s(delivered),
        cpu_us: cpu.as_secs_f64() * 1e6 / events as f64,
        lookups: lookups.map(|(p50, p99, found, _)| (p50, p99, found)),
    })
}

/// Publishes messages with these numbers.
fn publish(engine: &Engine, from: u64, count: u64) -> Outcome {
    let mut waiting: VecDeque<Receipt> = VecDeque::new();
    for number in from..from + count {
        if waiting.len() == WAITING
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.wait()?;
        }
        let text = "7".repeat(300);
        let payload =
            format!(r#"{{"id":"{}","from":"9198123","text":"{text}"}}"#, message_id(number));
        let event = Event::new("MESSAGE_RECEIVED", payload).number("919999999999");
        waiting.push_back(engine.publish(event)?);
    }
    for receipt in waiting {
        receipt.wait()?;
    }
    Ok(())
}

fn message_id(number: u64) -> String {
    format!("wamid.HBgM{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn wait_until_delivered(engine: &Engine, count: u64) -> Outcome {
    let started = Instant::now();
    while engine.stats().delivered < count {
        if started.elapsed() > Duration::from_secs(60) {
            return Err("the events are not delivered".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Looks messages up, of which every fourth was not published: the median and the 99th percentile in milliseconds, how
/// many were found, and the processor time.
fn look_up(engine: &Engine, events: u64) -> Outcome<(f64, f64, u64, Duration)> {
    let (mut times, mut found, cpu_before) = (Vec::new(), 0, support::cpu_time());
    for n in 0..LOOKUPS {
        let is_known = n % 4 != 0;
        let number =
            n.wrapping_mul(0x5851_f42d_4c95_7f2d) % events + if is_known { 0 } else { 1 << 40 };
        let started = Instant::now();
        let page =
            engine.find_events(&EventQuery::default().message_id(message_id(number)), None, 2)?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        found += page.items.len() as u64;
    }
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(f64::NAN);
    Ok((at(50), at(99), found, support::cpu_time() - cpu_before))
}
