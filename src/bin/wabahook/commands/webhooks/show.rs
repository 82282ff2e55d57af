//! `wabahook webhooks show`: why a webhook gets no deliveries, its settings and its newest attempts.

use clap::Args;

use super::named::{find, title};
use crate::command_error::CommandResult;
use crate::commands::client::HostOptions;
use crate::commands::screen::{
    WatchOptions, counted, printable, say, say_json, shown, span, table,
};
use crate::json::{RecentAttemptJson, SubscriptionListing};

/// The command line of `webhooks show`.
#[derive(Args)]
pub(crate) struct ShowWebhookArgs {
    /// Its id or its name
    #[arg(value_name = "ID|NAME")]
    webhook: String,
    /// How many of its newest attempts to show
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    attempts: usize,
    #[command(flatten)]
    watch: WatchOptions,
}

const TITLES: [&str; 7] = ["AT", "TYPE", "ATTEMPT", "TOOK MS", "OUTCOME", "RESPONSE", "EVENT"];
/// Members of a listing that are shown elsewhere.
const SHOWN: [&str; 9] = [
    "id",
    "name",
    "state",
    "reason",
    "account_state",
    "account_state_since",
    "health",
    "attempts",
    "hints",
];

/// Shows the webhook.
pub(in crate::commands) fn run(host: &HostOptions, args: &ShowWebhookArgs) -> CommandResult {
    let client = host.client()?;
    let path = format!("/subscriptions/{}", find(&client, &args.webhook)?.id);
    args.watch.run(|| {
        let response = client.get(&path, &[("attempts", &args.attempts.to_string())])?;
        if host.json {
            say_json(&response);
            return Ok(());
        }
        let item: SubscriptionListing = client.typed(&response)?;
        say(&format!("{}: {}", title(&item), state(&item)));
        for (name, value) in response.as_object().into_iter().flatten() {
            let is_unset = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
            if !SHOWN.contains(&name.as_str()) && !is_unset {
                say(&format!("  {name:22} {}", shown(value)));
            }
        }
        let rows: Vec<_> = item.attempts.iter().map(row).collect();
        match rows.is_empty() {
            true => say("\nno attempt since the host started"),
            false => say(&format!("\n{}", table(&TITLES, &rows))),
        };
        Ok(())
    })
}

/// The state, the health and the figures, and why the last attempt failed.
fn state(item: &SubscriptionListing) -> String {
    let health = &item.health;
    let state = match &item.reason {
        Some(reason) => format!("{} ({})", item.state, printable(reason)),
        None => format!("{}, {}", item.state, health.status),
    };
    let figures = format!(
        "{state}; {} owed, {} delivered, {} died",
        health.owed, health.delivered, health.dead
    );
    let account = item.account_state.iter().map(|state| {
        let name = printable(item.account_name.as_deref().unwrap_or(&item.account));
        let since = item.account_state_since.map(|at| format!(" since {at}")).unwrap_or_default();
        format!("\n  its account {name} is {state}{since}: nothing is delivered until it is active")
    });
    let figures = figures + &account.collect::<String>();
    let seconds = health.failing_for_ms.0.as_secs();
    let failed = item.attempts.iter().find(|attempt| attempt.outcome != "delivered");
    let Some(failed) = failed.filter(|_| health.status != "healthy") else { return figures };
    let reason = printable(failed.reason.as_deref().unwrap_or(&failed.outcome));
    let rest = health.rests_for_ms.0.as_secs();
    let next = match health.status.as_str() {
        "breaker_open" => format!("; the circuit breaker is open for {}", span(rest)),
        _ => String::new(),
    };
    let failures = counted(health.failures_in_row, "failure", "failures");
    format!(
        "{figures}\n  last failed with {reason}; {failures} in a row in {}{next}",
        span(seconds)
    )
}

fn row(attempt: &RecentAttemptJson) -> Vec<String> {
    vec![
        attempt.at.to_string(),
        attempt.event_type.as_deref().map(printable).unwrap_or_default(),
        attempt.attempt.to_string(),
        attempt.took_ms.to_string(),
        printable(attempt.reason.as_deref().unwrap_or(&attempt.outcome)),
        printable(&attempt.excerpt),
        attempt.event_id.clone(),
    ]
}
