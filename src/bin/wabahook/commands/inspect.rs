//! Decides what `wabahook inspect` tells of a data directory that no engine has open.
//!
//! Leaves to others: reading it (the engine, on a copy: sled cannot open a database without writing
//! to it). Invariants: the directory is left as it is, byte for byte; no attempt is made; no payload and no
//! secret is shown (I9).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use wabahook::stepping::Stepped;
use wabahook::{Config, DeadLetterFilter, DeadLetterId, Engine, Error, Notice, OnDamage, Stats};

use super::scratch::{Scratch, size};
use super::screen::{bytes, counted, printable, say, table};
use crate::failure::Failure;

/// The command line of `inspect`.
#[derive(Args)]
pub(crate) struct InspectArgs {
    /// The data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Where the copy goes that is looked into [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Print JSON, errors included
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is told.
#[derive(Serialize)]
struct Report {
    directory: String,
    bytes_on_disk: u64,
    databases: Vec<Part>,
    events: u64,
    event_bytes: u64,
    generations: u64,
    owed: u64,
    retrying: u64,
    held: u64,
    dead_letters: u64,
    dead_letters_by_reason: BTreeMap<String, u64>,
    subscriptions: Vec<Lane>,
    /// What could not be read.
    damaged: Vec<String>,
}

/// A directory inside the data directory.
#[derive(Serialize)]
struct Part {
    name: String,
    bytes_on_disk: u64,
}

#[derive(Serialize)]
struct Lane {
    id: u32,
    account: String,
    name: String,
    state: &'static str,
    owed: u64,
    retrying: u64,
    failing_for_ms: u64,
    dead_letters: u64,
}

/// How many dead letters are read at a time.
const PAGE: usize = 1_000;

/// Copies the directory, reads the copy, tells what is in it.
pub(crate) fn run(args: &InspectArgs) -> Result<(), Failure> {
    let scratch = Scratch::copy_of(&args.directory, args.scratch.as_deref())?;
    let report = read(&args.directory, &scratch).map_err(|error| told(&error, &args.directory))?;
    if args.json {
        let text = serde_json::to_string(&report).map_err(|e| Failure::Run(e.to_string()))?;
        say(&text);
    } else {
        say(&report.text());
    }
    match report.damaged.len() {
        0 => Ok(()),
        parts => Err(Failure::Run(format!(
            "{parts} parts of {} cannot be read; docs/durability.md says what to do",
            report.directory
        ))),
    }
}

/// An error of the copy is one of the original.
fn told(error: &Error, original: &Path) -> Failure {
    match error {
        Error::NewerFormat { .. } => Failure::Usage(format!(
            "{}: it was written by a newer wabahook: inspect it with that one ({error})",
            original.display()
        )),
        _ => Failure::Run(format!("{} cannot be read: {error}", original.display())),
    }
}

fn read(original: &Path, scratch: &Scratch) -> wabahook::Result<Report> {
    // On a copy it costs nothing to set aside what is damaged, and the rest can be told.
    let config = Config::new(scratch.path()).on_damage(OnDamage::SetAside);
    // Without threads: no attempt is made and nothing is tidied.
    let (engine, _stepped) = Stepped::open(config)?;
    let stats = engine.stats();
    let notices = engine.notices();
    let told = std::iter::from_fn(|| notices.try_next());
    let damaged = told.filter_map(|notice| match notice {
        Notice::SetAside { name, why } => Some(format!("{name}: {why}")),
        _ => None,
    });
    let (by_reason, by_subscription) = letters(&engine)?;
    Ok(Report {
        directory: original.display().to_string(),
        bytes_on_disk: size(original),
        databases: databases(original),
        events: stats.outbox_events,
        event_bytes: stats.outbox_bytes,
        generations: stats.generations,
        owed: stats.owed,
        retrying: stats.lanes.iter().map(|lane| lane.retrying).sum(),
        held: stats.held,
        dead_letters: by_reason.values().sum(),
        dead_letters_by_reason: by_reason,
        subscriptions: lanes(&engine, &stats, &by_subscription),
        damaged: damaged.collect(),
    })
}

type Counts<T> = BTreeMap<T, u64>;

/// How many dead letters there are, by reason and by subscription.
fn letters(engine: &Engine) -> wabahook::Result<(Counts<String>, Counts<u32>)> {
    let (mut by_reason, mut by_subscription) = (Counts::new(), Counts::new());
    let mut after: Option<DeadLetterId> = None;
    loop {
        let page = engine.dead_letters(&DeadLetterFilter::default(), after, PAGE)?;
        for letter in &page {
            *by_reason.entry(letter.reason.to_string()).or_default() += 1;
            *by_subscription.entry(letter.subscription.0).or_default() += 1;
        }
        match page.last().filter(|_| page.len() == PAGE) {
            Some(last) => after = Some(last.id()),
            None => return Ok((by_reason, by_subscription)),
        }
    }
}

fn lanes(engine: &Engine, stats: &Stats, letters: &Counts<u32>) -> Vec<Lane> {
    let lane = |id| stats.lanes.iter().find(|lane| lane.subscription == id);
    let all = engine.subscriptions();
    let all = all.iter().map(|one| Lane {
        id: one.id.0,
        account: one.account.clone(),
        name: one.name.clone(),
        state: one.state.as_str(),
        owed: lane(one.id).map_or(0, |lane| lane.owed),
        retrying: lane(one.id).map_or(0, |lane| lane.retrying),
        failing_for_ms: lane(one.id).map_or(0, |lane| lane.failing_for_ms),
        dead_letters: letters.get(&one.id.0).copied().unwrap_or(0),
    });
    all.collect()
}

fn databases(original: &Path) -> Vec<Part> {
    let entries = fs::read_dir(original).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.path().is_dir());
    let mut parts: Vec<Part> = directories
        .map(|entry| Part {
            name: entry.file_name().to_string_lossy().into_owned(),
            bytes_on_disk: size(&entry.path()),
        })
        .collect();
    parts.sort_by(|one, other| one.name.cmp(&other.name));
    parts
}

impl Report {
    fn text(&self) -> String {
        let mut lines = vec![
            format!("{}: {} on disk", self.directory, bytes(self.bytes_on_disk)),
            format!(
                "outbox: {}, {} in {}",
                counted(self.events, "event", "events"),
                bytes(self.event_bytes),
                counted(self.generations, "generation", "generations")
            ),
            format!(
                "owed: {}, {} of them failed and wait, {} held for nobody known",
                counted(self.owed, "delivery", "deliveries"),
                self.retrying,
                self.held
            ),
            format!("dead letters: {}", self.dead_letters),
        ];
        let reasons = self.dead_letters_by_reason.iter();
        lines.extend(reasons.map(|(reason, count)| format!("  {count} {}", printable(reason))));
        let row = |part: &Part| vec![printable(&part.name), bytes(part.bytes_on_disk)];
        let rows: Vec<_> = self.databases.iter().map(row).collect();
        lines.push(format!("\n{}", table(&["DATABASE", "ON DISK"], &rows)));
        let rows: Vec<_> = self.subscriptions.iter().map(Lane::row).collect();
        let titles = ["ID", "ACCOUNT", "NAME", "STATE", "OWED", "RETRYING", "DEAD"];
        lines.push(format!("\n{}", table(&titles, &rows)));
        lines.extend(self.damaged.iter().map(|what| format!("damaged: {}", printable(what))));
        lines.join("\n")
    }
}

impl Lane {
    fn row(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            printable(&self.account),
            printable(&self.name),
            self.state.to_owned(),
            self.owed.to_string(),
            self.retrying.to_string(),
            self.dead_letters.to_string(),
        ]
    }
}
