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
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::backlog::{self, Role, reopened};
use support::{Outcome, median};
use wabahook::Config;

fn main() -> Outcome {
    match (Role::of_this_process(), support::text("in")) {
        (Some(role), Some(path)) => role.play(Config::new(path)),
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
    let once = reopen_backlog(1)?;
    let limit = (once.read_s, "read_of_all_files_cold");
    let events = backlog::events();
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
    let ten = reopen_backlog(10)?;
    let (what, more_mb) = (format!("reopen_{name}_rss_ten_more"), ten.rss_mb - once.rss_mb);
    support::result("recovery", what, more_mb, "MB", aim(50.0), 50.0 / more_mb);
    let (what, limit) = (format!("reopen_{name}_ten"), (ten.read_s, "read_of_all_files_cold"));
    support::result("recovery", what, ten.cold_s, "s", limit, ten.read_s / ten.cold_s);
    let what = format!("reopen_{name}_ten_warm");
    support::result("recovery", what, ten.warm_s, "s", aim(0.5), 0.5 / ten.warm_s);
    Ok(())
}

/// Writes a backlog for so many subscriptions, kills the writer, reopens it and delivers everything.
fn reopen_backlog(subscriptions: usize) -> Outcome<Reopened> {
    let path = support::directory(&format!("recovery-{subscriptions}"))?;
    let started = Instant::now();
    let (child, said) = Role::Fill.start(path.as_os_str(), subscriptions)?;
    backlog::kill(child)?;
    let (wrote_s, disk) =
        (started.elapsed().as_secs_f64(), support::mb(support::disk_bytes(&path)));
    println!("{subscriptions} subscription(s): {said}, written in {wrote_s:.1} s, {disk:.0} MB");
    let (mut cold, mut warm, mut rss, mut peak, mut read) =
        (vec![], vec![], vec![], vec![], vec![]);
    for run in 1..=support::option("runs", 5) {
        let left_mb = make_cold(&path)?;
        let [cold_s, cold_rss, cold_peak] = reopened(path.as_os_str(), subscriptions)?;
        let [warm_s, warm_rss, warm_peak] = reopened(path.as_os_str(), subscriptions)?;
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
    let (child, said) = Role::Drain.start(path.as_os_str(), subscriptions)?;
    println!("drained: {said}");
    for after_s in [1, 9, 50] {
        sleep(Duration::from_secs(after_s));
        println!("  {:.1} MB on disk {after_s} s later", support::mb(support::disk_bytes(&path)));
    }
    let left_mb = support::mb(support::disk_bytes(&path));
    let what = format!("drained_{subscriptions}_disk");
    support::result("recovery", what, left_mb, "MB", (64.0, "aim"), 64.0 / left_mb);
    backlog::kill(child)?;
    fs::remove_dir_all(&path)?;
    Ok(Reopened {
        cold_s: median(cold),
        warm_s: median(warm),
        rss_mb: median(rss),
        peak_mb: median(peak),
        read_s: median(read),
    })
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
