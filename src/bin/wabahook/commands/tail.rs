//! `wabahook tail`: the notices of a running host as they happen, and how much its counters grew. It changes
//! nothing, and ends when the host does.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, Value, json};

use super::client::{ApiClient, HostOptions};
use super::screen::{printable, say, say_json, shown};
use crate::command_error::{CommandError, CommandResult};

/// The command line of `tail`.
#[derive(Args)]
pub(crate) struct TailArgs {
    /// How often to show the counters, in seconds; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    interval_s: u64,
    /// End after so many notices
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

/// The counters that only grow, in the order they are shown.
const GROWING: [&str; 7] =
    ["accepted", "delivered", "retried", "dead", "unrouted", "cancelled", "replayed"];
/// How long to wait for a notice at a time, where no counters are shown.
const IDLE: Duration = Duration::from_secs(3_600);
/// How many notices may wait to be shown.
const WAITING_MAX: usize = 1_024;

/// Shows notices and counters until the host stops.
pub(crate) fn run(args: &TailArgs) -> CommandResult {
    let client = args.host.client()?;
    let notices = listen(client.stream("/notices")?);
    let interval = Duration::from_secs(args.interval_s);
    let mut before = client.get("/stats", &[])?;
    if !show(args, &counters(&before, None)) {
        return Ok(());
    }
    let (mut left, mut shown_at) = (args.count, Instant::now());
    while left != Some(0) {
        let wait =
            if interval.is_zero() { IDLE } else { interval.saturating_sub(shown_at.elapsed()) };
        let mut still_read = match notices.recv_timeout(wait) {
            Ok(notice) => {
                left = left.map(|left| left - 1);
                show(args, &notice)
            }
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => {
                let message = "the host stopped or closed the stream";
                return Err(CommandError::Unreachable(message.to_owned()));
            }
        };
        // Also while notices come faster than they are shown.
        if !interval.is_zero() && shown_at.elapsed() >= interval {
            shown_at = Instant::now();
            still_read &= show_gains(args, &client, &mut before)?;
        }
        if !still_read {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads lines on a thread, because the counters are requested meanwhile.
fn listen(stream: impl Read + Send + 'static) -> Receiver<Value> {
    let (sender, notices) = sync_channel(WAITING_MAX);
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // Empty lines keep the connection open.
            let Ok(notice) = serde_json::from_str(&line) else { continue };
            if sender.send(notice).is_err() {
                return;
            }
        }
    });
    notices
}

/// Shows the counters if one of them changed. False when stdout is closed.
fn show_gains(args: &TailArgs, client: &ApiClient, before: &mut Value) -> CommandResult<bool> {
    let now = client.get("/stats", &[])?;
    let gains = counters(&now, Some(before));
    let gained = GROWING.iter().any(|name| gains.get(*name).is_some());
    let changed = gained || now.get("owed") != before.get("owed");
    *before = now;
    Ok(!changed || show(args, &gains))
}

/// The owed deliveries now, and how much the counters grew since `before`.
fn counters(now: &Value, before: Option<&Value>) -> Value {
    let count = |stats: &Value, name: &str| stats.get(name).and_then(Value::as_u64).unwrap_or(0);
    let mut gains = Map::new();
    gains.insert("kind".to_owned(), json!("counters"));
    for name in GROWING {
        // A restarted host begins at 0.
        let gain = count(now, name).saturating_sub(before.map_or(0, |before| count(before, name)));
        if gain > 0 && before.is_some() {
            gains.insert(name.to_owned(), json!(gain));
        }
    }
    for name in ["owed", "in_flight"] {
        gains.insert(name.to_owned(), json!(count(now, name)));
    }
    Value::Object(gains)
}

fn show(args: &TailArgs, notice: &Value) -> bool {
    if args.host.json { say_json(notice) } else { say(&sentence(notice)) }
}

/// A notice in one line.
fn sentence(notice: &Value) -> String {
    let at = |name: &str| notice.get(name).map(shown);
    let kind = at("kind").unwrap_or_default();
    if kind == "counters" {
        let gains = GROWING.iter().filter_map(|name| Some(format!("+{} {name}", at(name)?)));
        let now =
            ["owed", "in_flight"].iter().filter_map(|name| Some(format!("{} {name}", at(name)?)));
        return printable(&gains.chain(now).collect::<Vec<_>>().join(", "));
    }
    let mut words = vec![at("at").unwrap_or_default(), kind];
    words.extend(at("subscription").map(|id| format!("webhook {id}")));
    words.extend(at("event_id"));
    words.extend(at("reason").map(|reason| format!("({reason})")));
    words.extend(at("count"));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_show_growth_and_owed_deliveries() {
        let (before, now) = (json!({"accepted": 3, "owed": 1}), json!({"accepted": 5, "owed": 0}));
        assert_eq!(sentence(&counters(&now, Some(&before))), "+2 accepted, 0 owed, 0 in_flight");
        assert_eq!(sentence(&counters(&now, None)), "0 owed, 0 in_flight");
    }

    #[test]
    fn a_notice_is_one_line() {
        let dead = json!({
            "at": "t", "kind": "dead_lettered", "subscription": 3, "event_id": "evt_1", "reason": "status:404",
        });
        assert_eq!(sentence(&dead), "t dead_lettered webhook 3 evt_1 (status:404)");
    }
}
