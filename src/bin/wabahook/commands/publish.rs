//! Decides how a file or stdin becomes events of a running host: one event around a payload, or lines
//! of events in requests of many lines.
//!
//! Leaves to others: whether an event is acceptable (the host). Invariant: lines are published in their
//! order, each request all or none, and after a failure the message says at which line to go on.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axum::http::Method;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::client::{Client, Reach};
use super::screen::{counted, say, say_json};
use crate::failure::Failure;

/// The command line of `publish`.
#[derive(Args)]
pub(crate) struct PublishArgs {
    /// The file to read; - is stdin. Without --type each line is an event:
    /// {"type","number" or "waba","payload","key"?,"dedup_key"?}
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Publish the whole file as the payload of one event of this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The WABA number of that event
    #[arg(long, requires = "kind", conflicts_with = "waba")]
    number: Option<String>,
    /// Or the WABA, for an event without a number
    #[arg(long, requires = "kind")]
    waba: Option<String>,
    /// The key by which ordered webhooks order it
    #[arg(long, requires = "kind")]
    key: Option<String>,
    /// The key by which it is published once, however often it is sent
    #[arg(long, requires = "kind")]
    dedup_key: Option<String>,
    /// How many lines go into one request; they are accepted together or not at all
    #[arg(long, value_name = "LINES", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Begin at this line, counted from 1: where an earlier run ended
    #[arg(long, value_name = "LINE", default_value_t = 1, conflicts_with = "kind")]
    from_line: u64,
    /// How long to try again while the host is busy, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    busy_wait_s: u64,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// The body of one event.
#[derive(Serialize)]
struct One<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waba: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dedup_key: Option<&'a str>,
    payload: &'a RawValue,
}

/// What was published so far.
#[derive(Default)]
struct Sums {
    published: u64,
    owed: u64,
    duplicates: u64,
    unrouted: u64,
}

/// Lines of one request.
#[derive(Default)]
struct Batch {
    text: Vec<u8>,
    lines: u32,
    /// Its lines together with the empty ones between them.
    standing: u64,
    /// The line of the file with which it begins, counted from 1.
    from: u64,
}

/// A request ends at so many bytes, or after its first line where that is longer.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
const LINES: &str = "application/x-ndjson";
/// How long to wait before a busy host is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// Publishes what the file holds.
pub(crate) fn run(args: &PublishArgs) -> Result<(), Failure> {
    let client = args.reach.client()?;
    let mut sums = Sums::default();
    let (mut source, length) = open(&args.file)?;
    match &args.kind {
        Some(kind) => {
            let mut payload = Vec::new();
            source.read_to_end(&mut payload).map_err(|error| unreadable(&args.file, &error))?;
            let text = one(args, kind, &payload)?;
            sums.add(&send(&client, text, args.busy_wait_s)?);
        }
        None => publish_lines(args, &client, source, length, &mut sums)?,
    }
    sums.tell(args.reach.json);
    Ok(())
}

fn open(path: &Path) -> Result<(Box<dyn BufRead>, Option<u64>), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(BufReader::new(io::stdin())), None));
    }
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let length = file.metadata().ok().map(|metadata| metadata.len());
    Ok((Box::new(BufReader::new(file)), length))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::Usage(format!("{}: cannot be read: {error}", path.display()))
}

/// The request of one event. The payload goes as it stands in the file.
fn one(args: &PublishArgs, kind: &str, payload: &[u8]) -> Result<Vec<u8>, Failure> {
    let payload: &RawValue = serde_json::from_slice(payload).map_err(|error| {
        Failure::Usage(format!("{}: the payload is not JSON: {error}", args.file.display()))
    })?;
    if args.number.is_none() && args.waba.is_none() {
        let message = "an event needs --number or --waba, to say whose it is";
        return Err(Failure::Usage(message.to_owned()));
    }
    let one = One {
        kind,
        number: args.number.as_deref(),
        waba: args.waba.as_deref(),
        key: args.key.as_deref(),
        dedup_key: args.dedup_key.as_deref(),
        payload,
    };
    // A line may not hold the line breaks of a payload, so it goes as what it is.
    serde_json::to_vec(&one).map_err(|error| Failure::Run(error.to_string()))
}

fn publish_lines(
    args: &PublishArgs,
    client: &Client,
    mut source: Box<dyn BufRead>,
    length: Option<u64>,
    sums: &mut Sums,
) -> Result<(), Failure> {
    let bar = bar(length, args.reach.json);
    let (mut line, mut batch, mut next) = (Vec::new(), Batch::default(), 1_u64);
    loop {
        line.clear();
        let read = source.read_until(b'\n', &mut line);
        let read = read.map_err(|error| unreadable(&args.file, &error))?;
        let skipped = next < args.from_line || line.trim_ascii().is_empty();
        let over = batch.text.len() + line.len() > BATCH_BYTES_MAX || batch.lines >= args.batch;
        if batch.lines > 0 && (read == 0 || (over && !skipped)) {
            let sent = send_lines(args, client, &mut batch, sums);
            if sent.is_err() {
                bar.finish_and_clear();
            }
            sent?;
            bar.set_message(format!("{} events", sums.published));
        }
        if read == 0 {
            break;
        }
        bar.inc(read as u64);
        if !skipped {
            batch.take(&line, next);
        }
        next += 1;
    }
    bar.finish_and_clear();
    Ok(())
}

impl Batch {
    /// Empty lines between its lines are kept as empty ones, so that the host counts as the file does.
    fn take(&mut self, line: &[u8], number: u64) {
        if self.lines == 0 {
            self.from = number;
        }
        for _ in self.standing..number - self.from {
            self.text.push(b'\n');
        }
        self.text.extend_from_slice(line.trim_ascii());
        self.text.push(b'\n');
        self.standing = number - self.from + 1;
        self.lines += 1;
    }
}

fn send_lines(
    args: &PublishArgs,
    client: &Client,
    batch: &mut Batch,
    sums: &mut Sums,
) -> Result<(), Failure> {
    let Batch { text, from, .. } = std::mem::take(batch);
    let answer = send_as(client, LINES, text, args.busy_wait_s).map_err(|failure| {
        let before = sums.published;
        let unknown = match failure {
            Failure::Unreachable(_) => {
                "; lines without a dedup_key that were under way may then be published twice"
            }
            _ => "",
        };
        let said =
            format!("{before} events were published; go on with --from-line {from}{unknown}: ");
        let told = failure.message().to_owned();
        let (line, message) = counted_from(&told, from);
        match (failure, line) {
            (Failure::Run(_), Some(line)) => {
                Failure::Run(format!("{said}{}: line {line}: {message}", args.file.display()))
            }
            (failure, _) => failure.after(&said),
        }
    })?;
    answer.as_array().into_iter().flatten().for_each(|item| sums.add(item));
    Ok(())
}

/// The host counts the lines of a request; this is the line of the file, and what is said of it.
fn counted_from(message: &str, from: u64) -> (Option<u64>, &str) {
    let parts = message.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
    let Some((line, said)) = parts else { return (None, message) };
    match line.parse::<u64>() {
        Ok(line) => (Some(from + line.saturating_sub(1)), said),
        Err(_) => (None, message),
    }
}

fn send(client: &Client, text: Vec<u8>, busy_wait_s: u64) -> Result<Value, Failure> {
    send_as(client, "application/json", text, busy_wait_s)
}

/// Sends one request, again while the host is busy: nothing of it was accepted then.
fn send_as(
    client: &Client,
    content_type: &str,
    text: Vec<u8>,
    busy_wait_s: u64,
) -> Result<Value, Failure> {
    let started = Instant::now();
    loop {
        match client.send(Method::POST, "/events", content_type, text.clone()) {
            Err(Failure::Busy(_)) if started.elapsed() < Duration::from_secs(busy_wait_s) => {
                std::thread::sleep(BUSY_PAUSE);
            }
            sent => return sent,
        }
    }
}

/// On a terminal, and not where a program listens.
fn bar(length: Option<u64>, json: bool) -> ProgressBar {
    if json || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => {
            (ProgressBar::new(length), "{bar:30} {bytes}/{total_bytes} {msg} {eta} left")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg} {elapsed}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl Sums {
    fn add(&mut self, item: &Value) {
        let owed = item.get("owed").and_then(Value::as_u64).unwrap_or(0);
        let duplicate = item.get("duplicate").and_then(Value::as_bool).unwrap_or(false);
        self.published += 1;
        self.owed += if duplicate { 0 } else { owed };
        self.duplicates += u64::from(duplicate);
        self.unrouted += u64::from(owed == 0 && !duplicate);
    }

    fn tell(&self, json: bool) {
        let Sums { published, owed, duplicates, unrouted } = self;
        if json {
            say_json(&json!({
                "published": published, "owed": owed, "duplicates": duplicates, "unrouted": unrouted,
            }));
            return;
        }
        let published = counted(*published, "event", "events");
        let owed = counted(*owed, "delivery", "deliveries");
        let mut line = format!("{published} published, {owed} owed");
        if *duplicates > 0 {
            line.push_str(&format!(", {duplicates} of them duplicates"));
        }
        if *unrouted > 0 {
            line.push_str(&format!(", {unrouted} nobody asked for: see wabahook webhooks list"));
        }
        say(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_request_stand_where_they_stand_in_the_file() {
        let mut batch = Batch::default();
        batch.take(b"{\"a\":1}\r\n", 3);
        batch.take(b"  {\"b\":2}", 6);
        assert_eq!(batch.text, b"{\"a\":1}\n\n\n{\"b\":2}\n");
        assert_eq!((batch.from, batch.lines), (3, 2));
    }

    #[test]
    fn a_line_of_a_request_is_told_as_a_line_of_the_file() {
        assert_eq!(counted_from("line 4: number: bad", 3), (Some(6), "number: bad"));
        assert_eq!(counted_from("line four: bad", 3), (None, "line four: bad"));
        assert_eq!(counted_from("the queue is full", 3), (None, "the queue is full"));
    }
}
