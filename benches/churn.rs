//! Disk and memory over time, while events are delivered and one delivery in a hundred stays owed. Once
//! a second this process and its directory are sampled; the samples are printed and drawn.
//!
//! `cargo bench --bench churn -- --seconds 1800 --rate 1500 --subscriptions 2`
//!
//! With `--again-s 300` what failed is delivered after so many seconds; without it, its next attempt is
//! a day away. `--bounds-divisor 10` divides the default bounds of the outbox, and each event then has a dedup
//! key. The bench fails if `publish` is busy while less than half of a bound is owed. `--svg FILE` and `--csv FILE` set the output files, and `--plot CSV` draws an earlier run.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::Outcome;
use support::plot::{Line, Panel, svg};
use support::transports::Replying;
use wabahook::policy::{Policy, Retry};
use wabahook::{Config, Engine, Limits, Reply, Request, Subscription};

const PAYLOAD_BYTES: usize = 1024;
const BURSTS_PER_S: u64 = 100;
const DAY_MS: u64 = 24 * 3_600_000;

/// One second's reading.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    second: f64,
    disk_mb: f64,
    rss_mb: f64,
    owed: f64,
    owed_mb: f64,
    generations: f64,
    accepted_per_s: f64,
    delivered_per_s: f64,
}

/// One column of a sample.
type Reading = fn(&Sample) -> f64;

const COLUMNS: &str =
    "second,disk_mb,rss_mb,owed,owed_mb,generations,accepted_per_s,delivered_per_s";

impl Sample {
    fn line(&self) -> String {
        format!(
            "{:.1},{:.2},{:.2},{},{:.2},{},{:.0},{:.0}",
            self.second,
            self.disk_mb,
            self.rss_mb,
            self.owed,
            self.owed_mb,
            self.generations,
            self.accepted_per_s,
            self.delivered_per_s
        )
    }

    fn parse(line: &str) -> Option<Sample> {
        let values: Vec<f64> = line.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [second, disk_mb, rss_mb, owed, owed_mb, generations, accepted_per_s, delivered_per_s] =
            values.try_into().ok()?;
        Some(Sample {
            second,
            disk_mb,
            rss_mb,
            owed,
            owed_mb,
            generations,
            accepted_per_s,
            delivered_per_s,
        })
    }
}

fn main() -> Outcome {
    let drawing = support::text("svg").map_or_else(|| output("churn.svg"), PathBuf::from);
    if let Some(csv) = support::text("plot") {
        let samples: Vec<_> = fs::read_to_string(csv)?.lines().filter_map(Sample::parse).collect();
        return conclude(&samples, &drawing);
    }
    let directory = support::directory("churn")?;
    let again_s: u64 = support::option("again-s", 0);
    let refuses = move |request: &Request<'_>| Reply::status(status(request, again_s > 0));
    let limits = divided(support::option("bounds-divisor", 1));
    let config =
        Config::new(&directory).limits(limits.clone()).transport(Arc::new(Replying(refuses)));
    let engine = Engine::open(config)?;
    let delay_ms = if again_s > 0 { again_s * 1_000 } else { DAY_MS };
    for n in 0..support::option("subscriptions", 2) {
        let retry = Retry::List { delays: vec![Duration::from_millis(delay_ms)] };
        // Allows all failed deliveries in retry. With the default, new ones would wait for them.
        let (age_max, retrying_max) = (Duration::from_millis(30 * DAY_MS), 1_000_000);
        let policy = Policy::default().retry(retry).age_max(age_max).retrying_max(retrying_max);
        let to = Subscription::to(format!("https://receiver-{n}.example/hook"))?;
        engine.subscribe(to.name(format!("receiver-{n}")).policy(policy))?;
    }
    let csv = support::text("csv").map_or_else(|| output("churn.csv"), PathBuf::from);
    let samples = churn(&engine, &limits, &directory, &csv)?;
    engine.close(support::CLOSE_MAX)?;
    fs::remove_dir_all(&directory)?;
    conclude(&samples, &drawing)
}

/// Fails one event in a hundred and acknowledges the others; `relents` acknowledges what failed when
/// it is tried again.
fn status(request: &Request<'_>, relents: bool) -> u16 {
    let header = |wanted: &str| {
        let found = request.headers.iter().find(|(name, _)| name.as_str() == wanted);
        found.and_then(|(_, value)| value.to_str().ok()).unwrap_or_default()
    };
    // An event's id ends with its sequence in 16 hexadecimal digits.
    let id = header("webhook-id");
    let digits = id.get(id.len().saturating_sub(16)..).unwrap_or_default();
    let sequence = u64::from_str_radix(digits, 16).unwrap_or(1);
    let is_again = header("x-webhook-attempt") != "1";
    if sequence.is_multiple_of(100) && !(is_again && relents) { 503 } else { 200 }
}

/// The default limits with the bounds of the outbox divided.
fn divided(divisor: u64) -> Limits {
    let limits = Limits::default();
    let outbox_events_max = limits.outbox_events_max / divisor;
    let outbox_bytes_max = limits.outbox_bytes_max / divisor;
    let keys = limits.dedup_keys_max / usize::try_from(divisor).unwrap_or(usize::MAX);
    limits
        .outbox_events_max(outbox_events_max)
        .outbox_bytes_max(outbox_bytes_max)
        .dedup_keys_max(keys)
}

/// Fails if less than half of each bound was owed when `publish` was busy.
fn check_busy(engine: &Engine, limits: &Limits) -> Outcome {
    let owed = engine.stats().owed;
    let queued = engine.stats().queued_events;
    let bytes = owed * PAYLOAD_BYTES as u64;
    let is_half_full = owed * 2 >= limits.outbox_events_max
        || bytes * 2 >= limits.outbox_bytes_max
        || queued * 2 >= limits.queue_events_max as u64;
    if is_half_full {
        return Ok(());
    }
    Err(format!("busy with {owed} deliveries owed and {queued} events queued").into())
}

fn output(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Publishes at a steady rate, in bursts, and samples once a second.
fn churn(engine: &Engine, limits: &Limits, directory: &Path, csv: &Path) -> Outcome<Vec<Sample>> {
    let (rate, seconds): (u64, u64) =
        (support::option("rate", 1_500), support::option("seconds", 1_800));
    let subscriptions: u64 = support::option("subscriptions", 2);
    let has_keys = support::text("bounds-divisor").is_some();
    let mut log = File::create(csv)?;
    writeln!(log, "{COLUMNS}")?;
    let started = Instant::now();
    let mut samples: Vec<Sample> = Vec::new();
    let (mut published, mut before) = (0_u64, engine.stats());
    let mut burst = 0;
    while started.elapsed().as_secs() < seconds {
        burst += 1;
        let due = Duration::from_secs_f64(burst as f64 / BURSTS_PER_S as f64);
        sleep(due.saturating_sub(started.elapsed()));
        while published < burst * rate / BURSTS_PER_S {
            published += 1;
            let mut event = support::event(published, PAYLOAD_BYTES);
            if has_keys {
                event = event.dedup_key(format!("soak-{published}"));
            }
            match engine.publish(event) {
                // Not waited for, because the samples count what was accepted.
                Ok(receipt) => drop(receipt),
                Err(error) if error.is_busy() => {
                    check_busy(engine, limits)?;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let second = started.elapsed().as_secs_f64();
        let span = second - samples.last().map_or(0.0, |sample| sample.second);
        if span < 1.0 {
            continue;
        }
        let now = engine.stats();
        let owed_events = now.owed as f64 / subscriptions as f64;
        let sample = Sample {
            second,
            disk_mb: support::mb(support::disk_bytes(directory)),
            rss_mb: support::status_mb("VmRSS:"),
            owed: now.owed as f64,
            owed_mb: owed_events * PAYLOAD_BYTES as f64 / 1e6,
            generations: now.generations as f64,
            accepted_per_s: (now.accepted - before.accepted) as f64 / span,
            delivered_per_s: (now.delivered - before.delivered) as f64 / span,
        };
        writeln!(log, "{}", sample.line())?;
        before = now;
        samples.push(sample);
    }
    Ok(samples)
}

/// Prints each quarter next to the others, and draws.
fn conclude(samples: &[Sample], drawing: &Path) -> Outcome {
    let minutes = samples.last().map_or(0.0, |sample| sample.second) / 60.0;
    println!("{} samples over {minutes:.1} minutes", samples.len());
    let quarters: Vec<_> = samples.chunks(samples.len().div_ceil(4).max(1)).collect();
    let readings: [(&str, &str, Reading); 6] = [
        ("disk", "MB", |sample| sample.disk_mb),
        ("rss", "MB", |sample| sample.rss_mb),
        ("owed", "deliveries", |sample| sample.owed),
        ("generations", "generations", |sample| sample.generations),
        ("accepted", "events/s", |sample| sample.accepted_per_s),
        ("delivered", "deliveries/s", |sample| sample.delivered_per_s),
    ];
    for (name, unit, reading) in readings {
        let medians: Vec<f64> = quarters
            .iter()
            .map(|part| support::median(part.iter().map(reading).collect()))
            .collect();
        let most = samples.iter().map(reading).fold(0.0, f64::max);
        println!("{name}: median of each quarter {medians:.1?} {unit}, at most {most:.1}");
        if let [_, second, .., last] = medians.as_slice() {
            let limit = (*second, "second_quarter");
            support::result("churn", format!("churn_{name}"), *last, unit, limit, last / second);
        }
    }
    fs::write(drawing, picture(samples))?;
    println!("drawn into {}", drawing.display());
    Ok(())
}

fn picture(samples: &[Sample]) -> String {
    let line = |label, reading: fn(&Sample) -> f64| Line {
        label,
        points: samples.iter().map(|sample| (sample.second / 60.0, reading(sample))).collect(),
    };
    let panels = [
        Panel {
            title: "MB on disk",
            lines: vec![
                line("on disk", |sample| sample.disk_mb),
                line("payloads still owed", |sample| sample.owed_mb),
            ],
        },
        Panel { title: "MB resident", lines: vec![line("VmRSS", |sample| sample.rss_mb)] },
        Panel { title: "deliveries owed", lines: vec![line("owed", |sample| sample.owed)] },
        Panel { title: "generations", lines: vec![line("generations", |s| s.generations)] },
        Panel {
            title: "per second",
            lines: vec![
                line("events accepted", |sample| sample.accepted_per_s),
                line("deliveries settled", |sample| sample.delivered_per_s),
            ],
        },
    ];
    svg("Churn: 1 % of deliveries left behind", "minutes", &panels)
}
