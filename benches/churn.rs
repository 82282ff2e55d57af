//! Decides whether disk and memory stay flat while events come and go and one delivery in a hundred
//! is left behind.
//!
//! Leaves to others: how fast it could go (`outbox`). Invariant: what is drawn is what was sampled,
//! once a second, from this process and its directory.
//!
//! `cargo bench --bench churn -- --seconds 1800 --rate 1500 --subscriptions 2`
//!
//! `--again-s 300` lets what was left behind be delivered after so many seconds; without it, it
//! fails for ever and its next attempt is a day away. `--svg FILE` and `--csv FILE` say where to draw
//! and write; `--plot CSV` draws an earlier run.

mod bed;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bed::Outcome;
use bed::plot::{Line, Panel, svg};
use bed::scripted::LeavesOneInAHundred;
use wabahook::{Engine, Error, Policy, Retry, Subscription};

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
    let drawing = bed::text("svg").map_or_else(|| output("churn.svg"), PathBuf::from);
    if let Some(csv) = bed::text("plot") {
        let samples: Vec<_> = fs::read_to_string(csv)?.lines().filter_map(Sample::parse).collect();
        return conclude(&samples, &drawing);
    }
    let directory = bed::directory("churn")?;
    let again_s: u64 = bed::option("again-s", 0);
    let relents = AtomicBool::new(again_s > 0);
    let engine = bed::open(&directory, LeavesOneInAHundred { relents })?;
    let delay_ms = if again_s > 0 { again_s * 1_000 } else { DAY_MS };
    for n in 0..bed::option("subscriptions", 2) {
        let retry = Retry::List { delays_ms: vec![delay_ms] };
        // As many in retry as are left behind: with the default, what is new would wait for them.
        let (age_max_ms, retrying_max) = (30 * DAY_MS, 1_000_000);
        let policy = Policy { retry, age_max_ms, retrying_max, ..Policy::default() };
        let to = Subscription::to(format!("https://receiver-{n}.example/hook"))?;
        engine.subscribe(to.name(format!("receiver-{n}")).policy(policy))?;
    }
    let csv = bed::text("csv").map_or_else(|| output("churn.csv"), PathBuf::from);
    let samples = churn(&engine, &directory, &csv)?;
    engine.close(bed::CLOSE_MAX)?;
    fs::remove_dir_all(&directory)?;
    conclude(&samples, &drawing)
}

fn output(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Publishes at a steady rate, in bursts, and samples once a second.
fn churn(engine: &Engine, directory: &Path, csv: &Path) -> Outcome<Vec<Sample>> {
    let (rate, seconds): (u64, u64) = (bed::option("rate", 1_500), bed::option("seconds", 1_800));
    let subscriptions: u64 = bed::option("subscriptions", 2);
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
            match engine.publish(bed::event(published, PAYLOAD_BYTES)) {
                // Nobody waits: the samples count what was accepted.
                Ok(receipt) => drop(receipt),
                Err(Error::Busy { .. }) => break,
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
            disk_mb: bed::mb(bed::disk_bytes(directory)),
            rss_mb: bed::status_mb("VmRSS:"),
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

/// Prints quarter against quarter, and draws.
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
        let medians: Vec<f64> =
            quarters.iter().map(|part| bed::median(part.iter().map(reading).collect())).collect();
        let most = samples.iter().map(reading).fold(0.0, f64::max);
        println!("{name}: median of each quarter {medians:.1?} {unit}, at most {most:.1}");
        if let [_, second, .., last] = medians.as_slice() {
            let limit = (*second, "second_quarter");
            bed::result("churn", format!("churn_{name}"), *last, unit, limit, last / second);
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
