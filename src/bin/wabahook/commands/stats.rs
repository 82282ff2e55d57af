//! `wabahook stats`: the counters of a running host, and the webhooks that need attention.

use clap::Args;
use serde_json::Value;

use super::client::{ApiClient, HostOptions};
use super::screen::{WatchOptions, printable, say, say_json, shown, table};
use crate::command_error::CommandError;

/// The command line of `stats`.
#[derive(Args)]
pub(crate) struct StatsArgs {
    /// How many webhooks to show: those failing for the longest time first
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    worst: usize,
    #[command(flatten)]
    watch: WatchOptions,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

/// The counters, in the order they are shown.
const COUNTERS: [&str; 14] = [
    "accepted",
    "duplicates",
    "unrouted",
    "delivered",
    "retried",
    "dead",
    "cancelled",
    "replayed",
    "owed",
    "in_flight",
    "subscription_count",
    "failing_subscriptions",
    "outbox_bytes",
    "history_bytes",
];
const TITLES: [&str; 7] = ["ID", "NAME", "STATE", "HEALTH", "OWED", "RETRYING", "DEAD"];
const MEMBERS: [&str; 7] = ["id", "name", "state", "status", "owed", "retrying", "dead"];

/// Runs `stats`.
pub(crate) fn run(args: &StatsArgs) -> Result<(), CommandError> {
    let client = args.host.client()?;
    args.watch.run(|| show(args, &client))
}

fn show(args: &StatsArgs, client: &ApiClient) -> Result<(), CommandError> {
    let stats = client.get("/stats", &[("worst", &args.worst.to_string())])?;
    if args.host.json {
        say_json(&stats);
        return Ok(());
    }
    // Some are the operator's only.
    for (name, value) in COUNTERS.iter().filter_map(|name| Some((name, stats.get(*name)?))) {
        say(&format!("{:22} {}", name.replace('_', " "), shown(value)));
    }
    for reason in stats.get("reasons").and_then(Value::as_array).into_iter().flatten() {
        say(&format!("deliveries wait: {}", shown(reason)));
    }
    let worst = stats.get("subscriptions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let row = |lane: &Value| {
        let cell = |name: &&str| lane.get(*name).map(shown).unwrap_or_default();
        MEMBERS.iter().map(cell).map(|cell| printable(&cell)).collect()
    };
    let rows: Vec<Vec<String>> = worst.iter().map(row).collect();
    if !rows.is_empty() {
        say(&format!("\n{}", table(&TITLES, &rows)));
    }
    Ok(())
}
