//! `wabahook inspect`: what is in a data directory that no engine has open. sled cannot open a database
//! without writing to it, so a copy is read. The directory stays as it is, byte for byte, no attempt is made,
//! and no payload or secret is shown (I9).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use wabahook::testing::Stepped;
use wabahook::{Config, DeadLetterFilter, DeadLetterId, Engine, Error, Notice, OnDamage, Stats};

use super::scratch::{ScratchDirectory, size};
use super::screen::{bytes, counted, printable, say, say_json, table};
use crate::command_error::{CommandError, CommandResult};
use crate::json::Millis;

/// The command line of `inspect`.
#[derive(Args)]
pub(crate) struct InspectArgs {
    /// The data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Where the copy goes that is read [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Print JSON, errors included
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct InspectionReport {
    directory: String,
    bytes_on_disk: u64,
    databases: Vec<InspectedDatabase>,
    events: u64,
    event_bytes: u64,
    generations: u64,
    owed: u64,
    retrying: u64,
    held: u64,
    dead_letters: u64,
    dead_letters_by_reason: BTreeMap<String, u64>,
    subscriptions: Vec<InspectedSubscription>,
    /// What could not be read.
    damaged: Vec<String>,
}

/// A directory inside the data directory.
#[derive(Serialize)]
struct InspectedDatabase {
    name: String,
    bytes_on_disk: u64,
}

#[derive(Serialize)]
struct InspectedSubscription {
    id: u32,
    account: String,
    name: String,
    state: &'static str,
    owed: u64,
    retrying: u64,
    failing_for_ms: Millis,
    dead_letters: u64,
}

/// How many dead letters to read at a time.
const PAGE: usize = 1_000;

/// Copies the directory, reads the copy and prints what is in it.
pub(crate) fn run(args: &InspectArgs) -> CommandResult {
    let scratch = ScratchDirectory::copy_of(&args.directory, args.scratch.as_deref())?;
    let report =
        read(&args.directory, &scratch).map_err(|error| original_error(&error, &args.directory))?;
    if args.json {
        say_json(&report);
    } else {
        say(&report.text());
    }
    match report.damaged.len() {
        0 => Ok(()),
        parts => Err(CommandError::Run(format!(
            "{} of {} cannot be read; docs/operating.md says what to do",
            counted(parts as u64, "part", "parts"),
            report.directory
        ))),
    }
}

/// An error of the copy, as one of the original.
fn original_error(error: &Error, original: &Path) -> CommandError {
    match error {
        Error::UnsupportedFormat { .. } => CommandError::Usage(format!(
            "{}: inspect it with the wabahook that wrote it ({error})",
            original.display()
        )),
        _ => CommandError::Run(format!("{} cannot be read: {error}", original.display())),
    }
}

fn read(original: &Path, scratch: &ScratchDirectory) -> wabahook::Result<InspectionReport> {
    // It is only a copy, so a damaged part is set aside and the rest is read.
    let config = Config::new(scratch.path()).on_damage(OnDamage::SetAside);
    // Without threads: no attempt is made.
    let (engine, _stepped) = Stepped::open(config)?;
    let stats = engine.stats();
    let notices = engine.notices();
    let all = std::iter::from_fn(|| notices.try_next());
    let damaged = all.filter_map(|notice| match notice {
        Notice::SetAside { name, why } => Some(format!("{name}: {why}")),
        _ => None,
    });
    let (by_reason, by_subscription) = letters(&engine)?;
    Ok(InspectionReport {
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
        for letter in &page.items {
            *by_reason.entry(letter.reason.to_string()).or_default() += 1;
            *by_subscription.entry(letter.subscription.0).or_default() += 1;
        }
        after = page.next;
        if after.is_none() {
            return Ok((by_reason, by_subscription));
        }
    }
}

fn lanes(engine: &Engine, stats: &Stats, letters: &Counts<u32>) -> Vec<InspectedSubscription> {
    let lane = |id| stats.lanes.iter().find(|lane| lane.subscription == id);
    let all = engine.subscriptions();
    let all = all.iter().map(|one| InspectedSubscription {
        id: one.id.0,
        account: one.account.clone(),
        name: one.name.clone(),
        state: one.state.as_str(),
        owed: lane(one.id).map_or(0, |lane| lane.owed),
        retrying: lane(one.id).map_or(0, |lane| lane.retrying),
        failing_for_ms: lane(one.id).map_or_else(Millis::default, |lane| Millis(lane.failing_for)),
        dead_letters: letters.get(&one.id.0).copied().unwrap_or(0),
    });
    all.collect()
}

fn databases(original: &Path) -> Vec<InspectedDatabase> {
    let entries = fs::read_dir(original).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.path().is_dir());
    let mut parts: Vec<InspectedDatabase> = directories
        .map(|entry| InspectedDatabase {
            name: entry.file_name().to_string_lossy().into_owned(),
            bytes_on_disk: size(&entry.path()),
        })
        .collect();
    parts.sort_by(|one, other| one.name.cmp(&other.name));
    parts
}

impl InspectionReport {
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
                "owed: {}, {} of them in retry, {} held for an unknown subscription",
                counted(self.owed, "delivery", "deliveries"),
                self.retrying,
                self.held
            ),
            format!("dead letters: {}", self.dead_letters),
        ];
        let reasons = self.dead_letters_by_reason.iter();
        lines.extend(reasons.map(|(reason, count)| format!("  {count} {}", printable(reason))));
        let row = |part: &InspectedDatabase| vec![printable(&part.name), bytes(part.bytes_on_disk)];
        let rows: Vec<_> = self.databases.iter().map(row).collect();
        lines.push(format!("\n{}", table(&["DATABASE", "ON DISK"], &rows)));
        let rows: Vec<_> = self.subscriptions.iter().map(InspectedSubscription::row).collect();
        let titles = ["ID", "ACCOUNT", "NAME", "STATE", "OWED", "RETRYING", "DEAD"];
        lines.push(format!("\n{}", table(&titles, &rows)));
        lines.extend(self.damaged.iter().map(|what| format!("damaged: {}", printable(what))));
        lines.join("\n")
    }
}

impl InspectedSubscription {
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
