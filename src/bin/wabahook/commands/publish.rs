//! `wabahook publish`: a file or stdin becomes events of a running host, as one payload or as lines of events
//! in requests of many lines. Lines are published in their order, each request whole or not at all, and after
//! a failure the message names the line to go on from.

use std::collections::BTreeSet;
use std::io::{self, BufRead, IsTerminal};
use std::time::{Duration, Instant};

use axum::http::Method;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::client::{ApiClient, HostOptions};
use super::event_args::EventArgs;
use super::screen::{counted, printable, say, say_json};
use crate::command_error::{CommandError, CommandResult};
use crate::json::AcceptedJson;

/// The command line of `publish`.
#[derive(Args)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    event: EventArgs,
    /// How many lines go into one request, which is accepted whole or not at all
    #[arg(long, value_name = "LINES", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// The first line to publish, counted from 1: where an earlier run ended
    #[arg(long, value_name = "LINE", default_value_t = 1, conflicts_with = "kind")]
    from_line: u64,
    /// How long to retry while the host is busy, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    busy_wait_s: u64,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

/// What was published so far.
#[derive(Default)]
struct PublishTotals {
    published: u64,
    owed: u64,
    duplicates: u64,
    unrouted: u64,
    /// What the host said of event types, each remark once.
    hints: BTreeSet<String>,
}

/// The lines of one request.
#[derive(Default)]
struct LineBatch {
    text: Vec<u8>,
    lines: u32,
    /// How many lines of the file it spans, empty ones included.
    spanned: u64,
    /// The number of its first line in the file, from 1.
    from: u64,
}

/// A request has at most so many bytes, or a single longer line.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
const LINES: &str = "application/x-ndjson";
/// How long to wait before the next try.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// Publishes the events of the file.
pub(crate) fn run(args: &PublishArgs) -> CommandResult {
    let client = args.host.client()?;
    let mut totals = PublishTotals::default();
    let (source, length) = args.event.open()?;
    match &args.event.kind {
        Some(_) => {
            let text = args.event.body(source)?;
            totals.add(&client.typed(&send(&client, text, args.busy_wait_s)?)?);
        }
        None => publish_lines(args, &client, source, length, &mut totals)?,
    }
    totals.print(args.host.json);
    Ok(())
}

fn publish_lines(
    args: &PublishArgs,
    client: &ApiClient,
    mut source: Box<dyn BufRead>,
    length: Option<u64>,
    totals: &mut PublishTotals,
) -> CommandResult {
    let bar = bar(length, args.host.json);
    let (mut line, mut batch, mut next) = (Vec::new(), LineBatch::default(), 1_u64);
    loop {
        line.clear();
        let read = source.read_until(b'\n', &mut line);
        let read = read.map_err(|error| args.event.unreadable(&error))?;
        let skipped = next < args.from_line || line.trim_ascii().is_empty();
        let over = batch.text.len() + line.len() > BATCH_BYTES_MAX || batch.lines >= args.batch;
        if batch.lines > 0 && (read == 0 || (over && !skipped)) {
            let sent = send_lines(args, client, &mut batch, totals);
            if sent.is_err() {
                bar.finish_and_clear();
            }
            sent?;
            bar.set_message(counted(totals.published, "event", "events"));
        }
        if read == 0 {
            break;
        }
        bar.inc(read as u64);
        if !skipped {
            batch.push(&line, next);
        }
        next += 1;
    }
    bar.finish_and_clear();
    Ok(())
}

impl LineBatch {
    /// Keeps the empty lines between its lines, so that the host counts lines as the file does.
    fn push(&mut self, line: &[u8], number: u64) {
        if self.lines == 0 {
            self.from = number;
        }
        for _ in self.spanned..number - self.from {
            self.text.push(b'\n');
        }
        self.text.extend_from_slice(line.trim_ascii());
        self.text.push(b'\n');
        self.spanned = number - self.from + 1;
        self.lines += 1;
    }
}

fn send_lines(
    args: &PublishArgs,
    client: &ApiClient,
    batch: &mut LineBatch,
    totals: &mut PublishTotals,
) -> CommandResult {
    let LineBatch { text, from, .. } = std::mem::take(batch);
    let answer = send_as(client, LINES, text, args.busy_wait_s).map_err(|failure| {
        let before = counted(totals.published, "event was", "events were");
        let unknown = match failure {
            CommandError::Unreachable(_) => {
                "; lines of the last request without a dedup_key may then be published twice"
            }
            _ => "",
        };
        let said = format!("{before} published; go on with --from-line {from}{unknown}: ");
        failure.map(|message| match counted_from(&message, from) {
            (Some(line), message) => {
                format!("{said}{}: line {line}: {message}", args.event.file.display())
            }
            (None, message) => format!("{said}{message}"),
        })
    })?;
    let accepted: Vec<AcceptedJson> = client.typed(&answer)?;
    accepted.iter().for_each(|one| totals.add(one));
    Ok(())
}

/// The line of the file for the line of a request that a message names, and the rest of the message.
fn counted_from(message: &str, from: u64) -> (Option<u64>, &str) {
    let parts = message.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
    let Some((line, said)) = parts else { return (None, message) };
    match line.parse::<u64>() {
        Ok(line) => (Some(from + line.saturating_sub(1)), said),
        Err(_) => (None, message),
    }
}

fn send(client: &ApiClient, text: Vec<u8>, busy_wait_s: u64) -> CommandResult<Value> {
    send_as(client, "application/json", text, busy_wait_s)
}

/// Sends one request, and again while the host is busy: a busy host accepted none of it.
fn send_as(
    client: &ApiClient,
    content_type: &str,
    text: Vec<u8>,
    busy_wait_s: u64,
) -> CommandResult<Value> {
    let started = Instant::now();
    loop {
        match client.send(Method::POST, "/events", content_type, text.clone()) {
            Err(CommandError::Busy(_)) if started.elapsed() < Duration::from_secs(busy_wait_s) => {
                std::thread::sleep(BUSY_PAUSE);
            }
            sent => return sent,
        }
    }
}

/// A progress bar, on a terminal only.
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

impl PublishTotals {
    fn add(&mut self, accepted: &AcceptedJson) {
        let AcceptedJson { owed, duplicate, ref hints, .. } = *accepted;
        self.hints.extend(hints.iter().cloned());
        self.published += 1;
        self.owed += if duplicate { 0 } else { owed.into() };
        self.duplicates += u64::from(duplicate);
        self.unrouted += u64::from(owed == 0 && !duplicate);
    }

    fn print(&self, json: bool) {
        let PublishTotals { published, owed, duplicates, unrouted, hints } = self;
        if json {
            let mut totals = json!({
                "published": published, "owed": owed, "duplicates": duplicates, "unrouted": unrouted,
            });
            if let (false, Some(members)) = (hints.is_empty(), totals.as_object_mut()) {
                members.insert("hints".to_owned(), json!(hints));
            }
            say_json(&totals);
            return;
        }
        let published = counted(*published, "event", "events");
        let owed = counted(*owed, "delivery", "deliveries");
        let mut line = format!("{published} published, {owed} owed");
        if *duplicates > 0 {
            line.push_str(&format!(", {duplicates} of them duplicates"));
        }
        if *unrouted > 0 {
            line.push_str(&format!(
                ", {unrouted} without a subscription: see wabahook webhooks list"
            ));
        }
        say(&line);
        for hint in hints {
            say(&format!("hint: {}", printable(hint)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_the_empty_lines_of_the_file() {
        let mut batch = LineBatch::default();
        batch.push(b"{\"a\":1}\r\n", 3);
        batch.push(b"  {\"b\":2}", 6);
        assert_eq!(batch.text, b"{\"a\":1}\n\n\n{\"b\":2}\n");
        assert_eq!((batch.from, batch.lines), (3, 2));
    }

    #[test]
    fn a_line_of_a_request_becomes_a_line_of_the_file() {
        assert_eq!(counted_from("line 4: number: bad", 3), (Some(6), "number: bad"));
        assert_eq!(counted_from("line four: bad", 3), (None, "line four: bad"));
        assert_eq!(counted_from("the queue is full", 3), (None, "the queue is full"));
    }
}
