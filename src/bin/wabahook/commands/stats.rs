//! `wabahook stats`: the counters of a running host, and the webhooks that need attention.

use clap::Args;
use serde_json::Value;

use super::client::{ApiClient, HostOptions};
use super::screen::{WatchOptions, printable, say, say_json, shown, table};
use crate::command_error::CommandResult;

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

/// The counters as they are shown: since the host started, and now.
const SINCE_START: [(&str, &str); 9] = [
    ("accepted", "events accepted"),
    ("duplicates", "duplicates"),
    ("unrouted", "no subscriber"),
    ("unowned", "unowned"),
    ("delivered", "delivered"),
    ("retried", "retried"),
    ("dead", "died"),
    ("cancelled", "cancelled"),
    ("replayed", "replayed"),
];
const NOW: [(&str, &str); 7] = [
    ("owed", "owed deliveries"),
    ("in_flight", "attempts in flight"),
    ("dead_letters", "dead letters"),
    ("subscription_count", "webhooks"),
    ("failing_subscriptions", "failing webhooks"),
    ("outbox_bytes", "outbox bytes"),
    ("history_bytes", "history bytes"),
];
/// The columns of webhooks and their members. Only the operator sees accounts.
const COLUMNS: [(&str, &str); 9] = [
    ("ID", "id"),
    ("NAME", "name"),
    ("ACCOUNT", "account_name"),
    ("ITS STATE", "account_state"),
    ("STATE", "state"),
    ("HEALTH", "status"),
    ("OWED", "owed"),
    ("RETRYING", "retrying"),
    ("DIED", "dead"),
];

/// Runs `stats`.
pub(crate) fn run(args: &StatsArgs) -> CommandResult {
    let client = args.host.client()?;
    args.watch.run(|| show(args, &client))
}

fn show(args: &StatsArgs, client: &ApiClient) -> CommandResult {
    let stats = client.get("/stats", &[("worst", &args.worst.to_string())])?;
    if args.host.json {
        say_json(&stats);
        return Ok(());
    }
    for (title, counters) in [("since the host started", &SINCE_START[..]), ("now", &NOW)] {
        say(title);
        // Some are the operator's only.
        for (name, value) in
            counters.iter().filter_map(|(key, name)| Some((name, stats.get(*key)?)))
        {
            say(&format!("  {name:20} {}", shown(value)));
        }
    }
    if stats.get("stalled").is_some_and(|stalled| stalled != 0) {
        say("the store refuses writes");
    }
    for reason in stats.get("reasons").and_then(Value::as_array).into_iter().flatten() {
        say(&format!("deliveries wait: {}", shown(reason)));
    }
    let worst = stats.get("subscriptions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let worst: Vec<&Value> = worst.iter().filter(|lane| needs_attention(lane)).collect();
    if worst.is_empty() {
        say("\nno webhook needs attention");
        return Ok(());
    }
    let is_known =
        |(_, member): &&(&str, &str)| worst.iter().any(|lane| lane.get(*member).is_some());
    let columns: Vec<_> = COLUMNS.iter().filter(is_known).collect();
    let titles: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    let row = |lane: &&Value| {
        let cell = |member: &str| lane.get(member).map(shown).unwrap_or_default();
        columns.iter().map(|(_, member)| printable(&cell(member))).collect()
    };
    let rows: Vec<Vec<String>> = worst.iter().map(row).collect();
    say(&format!("\nwebhooks that need attention\n{}", table(&titles, &rows)));
    Ok(())
}

/// Whether a webhook is not active, not healthy, or lost deliveries.
fn needs_attention(lane: &Value) -> bool {
    let is = |member: &str, text: &str| lane.get(member).is_some_and(|value| value == text);
    !is("state", "active")
        || lane.get("account_state").is_some()
        || !is("status", "healthy")
        || lane.get("dead").is_some_and(|dead| dead != 0)
}
