//! A backlog that one process writes, and that others open and deliver after it was killed. Each role is this program
//! again with `--role`, prints one line and waits to be killed.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use wabahook::{Config, Engine, Limits};

use super::transports::{Acknowledging, Hanging};
use super::{Outcome, cpu_time, event, mb, option, status_mb, subscribe, text};

const PAYLOAD_BYTES: usize = 1024;
const TOGETHER: u64 = 256;
/// How many calls of [`TOGETHER`] events are pending while the backlog is written.
const WAITING: usize = 16;

/// How many events the backlog has.
pub(crate) fn events() -> u64 {
    option("events", 100_000)
}

/// What one process does with the backlog.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    Fill,
    Reopen,
    Drain,
}

impl Role {
    /// The role of this process; none in the one that measures.
    pub(crate) fn of_this_process() -> Option<Role> {
        let role = text("role")?;
        [Role::Fill, Role::Reopen, Role::Drain].into_iter().find(|one| one.name() == role)
    }

    fn name(self) -> &'static str {
        match self {
            Role::Fill => "fill",
            Role::Reopen => "reopen",
            Role::Drain => "drain",
        }
    }

    /// Plays the role with an engine of this configuration, and waits to be killed.
    pub(crate) fn play(self, config: Config) -> Outcome {
        match self {
            Role::Fill => fill(config),
            Role::Reopen => reopen(config),
            Role::Drain => drain(config),
        }
    }

    /// Starts this program in the role, and waits for its line.
    pub(crate) fn start(self, place: &OsStr, subscriptions: usize) -> Outcome<(Child, String)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--role", self.name(), "--in"])
            .arg(place)
            .args(["--events", &events().to_string()])
            .args(["--subscriptions", &subscriptions.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().ok_or("no output")?;
        BufReader::new(out).read_line(&mut line)?;
        if line.is_empty() {
            return Err(format!("{} ended: {}", self.name(), child.wait()?).into());
        }
        Ok((child, line.trim_end().to_owned()))
    }
}

/// Kills the process with SIGKILL.
pub(crate) fn kill(mut child: Child) -> Outcome {
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Seconds to open, resident megabytes after it, and at most.
pub(crate) fn reopened(place: &OsStr, subscriptions: usize) -> Outcome<[f64; 3]> {
    let (child, said) = Role::Reopen.start(place, subscriptions)?;
    kill(child)?;
    let mut words = said.split_whitespace();
    let mut word = || words.next().ok_or("a word is missing");
    let (owed, seconds, rss, peak) = (word()?, word()?, word()?, word()?);
    let expected = events() * subscriptions as u64;
    if owed.parse::<u64>()? != expected {
        return Err(format!("{owed} deliveries are owed after reopening, not {expected}").into());
    }
    Ok([seconds.parse()?, rss.parse()?, peak.parse()?])
}

/// An engine that delivers nothing, because its only worker hangs.
fn held_back(config: Config) -> Outcome<Engine> {
    let limits = Limits::default().in_flight_max(Some(1));
    Ok(Engine::open(config.limits(limits).transport(Arc::new(Hanging::default())))?)
}

fn wait_to_be_killed() -> Outcome {
    loop {
        sleep(Duration::from_secs(3_600));
    }
}

fn fill(config: Config) -> Outcome {
    let engine = held_back(config)?;
    subscribe(&engine, option("subscriptions", 1))?;
    let (events, mut waiting, mut published) = (events(), VecDeque::new(), 0);
    while published < events {
        let end = events.min(published + TOGETHER);
        let together = (published..end).map(|number| event(number, PAYLOAD_BYTES)).collect();
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

fn reopen(config: Config) -> Outcome {
    let started = Instant::now();
    let engine = held_back(config)?;
    let seconds = started.elapsed().as_secs_f64();
    let (rss, peak) = (status_mb("VmRSS:"), status_mb("VmHWM:"));
    println!("{} {seconds:.4} {rss:.1} {peak:.1}", engine.stats().owed);
    wait_to_be_killed()
}

fn drain(config: Config) -> Outcome {
    let engine = Engine::open(config.transport(Arc::new(Acknowledging)))?;
    let (started, first) = (Instant::now(), engine.stats());
    let mut peak_mb = 0.0_f64;
    while engine.stats().owed > 0 {
        sleep(Duration::from_millis(20));
        peak_mb = peak_mb.max(status_mb("VmRSS:"));
    }
    let (seconds, last) = (started.elapsed().as_secs_f64(), engine.stats());
    let cpu_us = cpu_time().as_secs_f64() * 1e6 / last.delivered as f64;
    println!(
        "{:.0} deliveries a second: {} in {seconds:.1} s, {cpu_us:.1} us CPU each, {} dead, {} retried, RSS at \
         most {peak_mb:.0} MB",
        first.owed as f64 / seconds,
        last.delivered,
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
            mb(stats.outbox_bytes),
            stats.generations
        );
    }
    wait_to_be_killed()
}
