//! How long an engine takes to open with a large backlog, how much memory that takes, how fast the
//! backlog is delivered, and how much disk is left. Deliveries are only counted here. The process that
//! wrote the backlog was killed with SIGKILL, and so is each one that opens it. Each opening is a process
//! of its own.
//!
//! `cargo bench --bench recovery -- --events 1000000 --runs 5`
//!
//! Cold means that the files are synced and the kernel has dropped their pages (`dd iflag=nocache
//! count=0`, that is `POSIX_FADV_DONTNEED`). `fincore` shows what stayed.

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::transports::{Hanging, acknowledging};
use support::{Outcome, median};
use wabahook::{Config, Engine, Limits};

const PAYLOAD_BYTES: usize = 1024;
const TOGETHER: u64 = 256;
/// How many calls of [`TOGETHER`] events are pending while the backlog is written.
const WAITING: usize = 16;

fn main() -> Outcome {
    let path = support::text("in").map(PathBuf::from);
    match (support::text("role").as_deref(), path) {
        (Some("fill"), Some(path)) => fill(&path),
        (Some("reopen"), Some(path)) => reopen(&path),
        (Some("drain"), Some(path)) => drain(&path),
        _ => measure(),
    }
}

/// The results of reopening one backlog.
struct Reopened {
    cold_s: f64,
    warm_s: f64,
    rss_mb: f64,
    peak_mb: f64,
    read_s: f64,
}

fn measure() -> Outcome {
    let once = backlog(1)?;
    let limit = (once.read_s, "read_of_all_files_cold");
    let events: u64 = support::option("events", 100_000);
    let name = if events == 1_000_000 { "1m".to_owned() } else { events.to_string() };
    support::result(
        "recovery",
        format!("reopen_{name}"),
        once.cold_s,
        "s",
        limit,
        once.read_s / once.cold_s,
    );
    let aim = |aim: f64| (aim, "aim");
    let (what, warm_s) = (format!("reopen_{name}_warm"), once.warm_s);
    support::result("recovery", what, warm_s, "s", aim(0.5), 0.5 / warm_s);
    let what = format!("reopen_{name}_rss");
    support::result("recovery", what, once.rss_mb, "MB", aim(300.0), 300.0 / once.rss_mb);
    let what = format!("reopen_{name}_rss_peak");
    support::result("recovery", what, once.peak_mb, "MB", aim(300.0), 300.0 / once.peak_mb);
    let ten = backlog(10)?;
    let (what, more_mb) = (format!("reopen_{name}_rss_ten_more"), ten.rss_mb - once.rss_mb);
    support::result("recovery", what, more_mb, "MB", aim(50.0), 50.0 / more_mb);
    let (what, limit) = (format!("reopen_{name}_ten"), (ten.read_s, "read_of_all_files_cold"));
    support::result("recovery", what, ten.cold_s, "s", limit, ten.read_s / ten.cold_s);
    let what = format!("reopen_{name}_ten_warm");
    support::result("recovery", what, ten.warm_s, "s", aim(0.5), 0.5 / ten.warm_s);
    Ok(())
}

/// Writes a backlog for so many subscriptions, kills the writer, reopens it and delivers everything.
fn backlog(subscriptions: usize) -> Outcome<Reopened> {
    let path = support::directory(&format!("recovery-{subscriptions}"))?;
    let started = Instant::now();
    let (child, said) = until_line("fill", &path, subscriptions)?;
    kill(child)?;
    let (wrote_s, disk) =
        (started.elapsed().as_secs_f64(), support::mb(support::disk_bytes(&path)));
    println!("{subscriptions} subscription(s): {said}, written in {wrote_s:.1} s, {disk:.0} MB");
    let (mut cold, mut warm, mut rss, mut peak, mut read) =
        (vec![], vec![], vec![], vec![], vec![]);
    for run in 1..=support::option("runs", 5) {
        let left_mb = make_cold(&path)?;
        let [cold_s, cold_rss, cold_peak] = reopened(&path, subscriptions)?;
        let [warm_s, warm_rss, warm_peak] = reopened(&path, subscriptions)?;
        make_cold(&path)?;
        let read_s = read_all(&path)?;
        println!(
            "run {run}: cold {cold_s:.2} s ({left_mb:.1} MB had stayed cached), warm {warm_s:.2} s, \
             RSS {cold_rss:.0} and {warm_rss:.0} MB, at most {:.0} MB; reading every file cold \
             takes {read_s:.2} s",
            cold_peak.max(warm_peak)
        );
        cold.push(cold_s);
        warm.push(warm_s);
        rss.push(cold_rss.max(warm_rss));
        peak.push(cold_peak.max(warm_peak));
        read.push(read_s);
    }
    let (mut child, said) = until_line("drain", &path, subscriptions)?;
    println!("drained: {said}");
    for after_s in [1, 9, 50] {
        sleep(Duration::from_secs(after_s));
        println!("  {:.1} MB on disk {after_s} s later", support::mb(support::disk_bytes(&path)));
    }
    let left_mb = support::mb(support::disk_bytes(&path));
    let what = format!("drained_{subscriptions}_disk");
    support::result("recovery", what, left_mb, "MB", (64.0, "aim"), 64.0 / left_mb);
    child.kill()?;
    child.wait()?;
    fs::remove_dir_all(&path)?;
    Ok(Reopened {
        cold_s: median(cold),
        warm_s: median(warm),
        rss_mb: median(rss),
        peak_mb: median(peak),
        read_s: median(read),
    })
}

/// Starts this program in a role and waits for its first line.
fn until_line(role: &str, path: &Path, subscriptions: usize) -> Outcome<(Child, String)> {
    let events: u64 = support::option("events", 100_000);
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--role", role, "--in"])
        .arg(path)
        .args(["--events", &events.to_string(), "--subscriptions", &subscriptions.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let out = child.stdout.take().ok_or("no output")?;
    BufReader::new(out).read_line(&mut line)?;
    if line.is_empty() {
        return Err(format!("{role} ended: {}", child.wait()?).into());
    }
    Ok((child, line.trim_end().to_owned()))
}

/// Kills the process with SIGKILL.
fn kill(mut child: Child) -> Outcome {
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Seconds to open, resident megabytes after it, and at most.
fn reopened(path: &Path, subscriptions: usize) -> Outcome<[f64; 3]> {
    let (child, said) = until_line("reopen", path, subscriptions)?;
    kill(child)?;
    let mut words = said.split_whitespace();
    let mut word = || words.next().ok_or("a word is missing");
    let (owed, seconds, rss, peak) = (word()?, word()?, word()?, word()?);
    let expected = support::option::<usize>("events", 100_000) * subscriptions;
    if owed.parse::<usize>()? != expected {
        return Err(format!("{owed} deliveries are owed after reopening, not {expected}").into());
    }
    Ok([seconds.parse()?, rss.parse()?, peak.parse()?])
}

/// The files below a directory.
fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?.path();
        if entry.is_dir() { all.extend(files(&entry)?) } else { all.push(entry) }
    }
    Ok(all)
}

/// Returns the megabytes that stayed in memory; NaN if unknown.
fn make_cold(path: &Path) -> Outcome<f64> {
    let all = files(path)?;
    for file in &all {
        File::open(file)?.sync_all()?;
        let from = format!("if={}", file.display());
        let dropped = Command::new("dd")
            .args([&from, "iflag=nocache", "count=0", "status=none"])
            .stdout(Stdio::null())
            .status()?;
        if !dropped.success() {
            return Err("dd could not drop the cached pages".into());
        }
    }
    let told = Command::new("fincore").args(["-b", "-n", "-r", "-o", "RES"]).args(&all).output();
    let Ok(told) = told else { return Ok(f64::NAN) };
    let bytes = String::from_utf8_lossy(&told.stdout);
    Ok(support::mb(bytes.split_whitespace().filter_map(|n| n.parse::<u64>().ok()).sum()))
}

fn read_all(path: &Path) -> Outcome<f64> {
    let mut chunk = vec![0; 1 << 20];
    let started = Instant::now();
    for file in files(path)? {
        let mut file = File::open(file)?;
        while file.read(&mut chunk)? > 0 {}
    }
    Ok(started.elapsed().as_secs_f64())
}

/// An engine that delivers nothing, because its only worker hangs.
fn held_back(path: &Path) -> Outcome<Engine> {
    let limits = Limits::default().in_flight_max(Some(1));
    let config = Config::new(path).limits(limits).transport(Arc::new(Hanging::default()));
    Ok(Engine::open(config)?)
}

fn wait_to_be_killed() -> Outcome {
    loop {
        sleep(Duration::from_secs(3_600));
    }
}

fn fill(path: &Path) -> Outcome {
    let engine = held_back(path)?;
    support::subscribe(&engine, support::option("subscriptions", 1))?;
    let events: u64 = support::option("events", 100_000);
    let mut waiting = std::collections::VecDeque::new();
    let mut published = 0;
    while published < events {
        let end = events.min(published + TOGETHER);
        let together =
            (published..end).map(|number| support::event(number, PAYLOAD_BYTES)).collect();
        waiting.push_back(engine.publish_many(together)?);
        published = end;
        if waiting.len() >= WAITING
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.wait()?;
        }
    }
    for receipt in waiting {
        receipt.wait()?;
    }
    let stats = engine.stats();
    println!("{} deliveries owed in {} generations", stats.owed, stats.generations);
    wait_to_be_killed()
}

fn reopen(path: &Path) -> Outcome {
    let started = Instant::now();
    let engine = held_back(path)?;
    let seconds = started.elapsed().as_secs_f64();
    let (rss, peak) = (support::status_mb("VmRSS:"), support::status_mb("VmHWM:"));
    println!("{} {seconds:.4} {rss:.1} {peak:.1}", engine.stats().owed);
    wait_to_be_killed()
}

fn drain(path: &Path) -> Outcome {
    let engine = support::open(path, acknowledging())?;
    let (started, first) = (Instant::now(), engine.stats());
    let mut peak_mb = 0.0_f64;
    while engine.stats().owed > 0 {
        sleep(Duration::from_millis(20));
        peak_mb = peak_mb.max(support::status_mb("VmRSS:"));
    }
    let (seconds, last) = (started.elapsed().as_secs_f64(), engine.stats());
    let cpu_us = support::cpu_time().as_secs_f64() * 1e6 / last.delivered as f64;
    println!(
        "{} deliveries in {seconds:.1} s, {:.0} a second, {cpu_us:.1} us CPU each, {} dead, {} \
         retried, RSS at most {peak_mb:.0} MB",
        last.delivered,
        first.owed as f64 / seconds,
        last.dead,
        last.retried
    );
    for _ in 0..6 {
        sleep(Duration::from_secs(10));
        let stats = engine.stats();
        // Not to standard output, which is not read after the first line.
        eprintln!(
            "  still {} events, {:.1} MB and {} generations in the outbox",
            stats.outbox_events,
            support::mb(stats.outbox_bytes),
            stats.generations
        );
    }
    wait_to_be_killed()
}
