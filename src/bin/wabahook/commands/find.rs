//! `wabahook find`: looks up what became of a message.

use clap::Args;

use super::client::{ApiClient, HostOptions};
use super::screen::{WatchOptions, counted, printable, say, say_json, table};
use super::times::time;
use crate::command_error::{CommandError, CommandResult};
use crate::json::{EventTraceJson, JsonPage};
use crate::timestamp::rfc3339;

/// The command line of `find`.
#[derive(Args)]
pub(crate) struct FindArgs {
    /// A message id, or the id of an event, which is then shown with its attempts
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Only events of this contact, or with this key
    #[arg(long)]
    contact: Option<String>,
    /// Only events of this WABA number
    #[arg(long)]
    number: Option<String>,
    /// Only events published with this dedup key
    #[arg(long, value_name = "KEY")]
    dedup_key: Option<String>,
    /// Only events whose type contains this
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only events accepted since this time: 2026-01-31T12:00:00Z, 2026-01-31, or how long ago: 24h
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<u64>,
    /// How many at most
    #[arg(long, value_name = "COUNT", default_value_t = 25)]
    limit: usize,
    /// Show the payload of an event, too
    #[arg(long)]
    payload: bool,
    #[command(flatten)]
    watch: WatchOptions,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

const TITLES: [&str; 6] = ["ACCEPTED", "DELIVERIES", "TYPE", "NUMBER", "WEBHOOKS", "EVENT"];
const ATTEMPT_TITLES: [&str; 5] = ["ATTEMPT", "AT", "TOOK MS", "OUTCOME", "RESPONSE"];

/// Runs `find`.
pub(crate) fn run(args: &FindArgs) -> CommandResult {
    let client = args.host.client()?;
    args.watch.run(|| match args.id.as_deref() {
        Some(id) if is_event_id(id) => show(args, &client, id),
        _ => list(args, &client),
    })
}

fn is_event_id(id: &str) -> bool {
    let digits = id.strip_prefix("evt_");
    digits.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

fn list(args: &FindArgs, client: &ApiClient) -> CommandResult {
    let since = args.since.map(rfc3339);
    let query = [
        ("message_id", args.id.as_deref()),
        ("contact", args.contact.as_deref()),
        ("number", args.number.as_deref()),
        ("dedup_key", args.dedup_key.as_deref()),
        ("type", args.event_type.as_deref()),
        ("since", since.as_deref()),
    ];
    let found = client.list("/events", &query, args.limit)?;
    let page: JsonPage<EventTraceJson> = client.typed(&found)?;
    match page.items.as_slice() {
        [] => {
            let hint = if args.contact.is_some() { CONTACT_HINT } else { "" };
            Err(CommandError::NotFound(format!("{NONE}{hint}")))
        }
        [one] if !args.host.json => show(args, client, &one.id),
        items => args.host.say(&found, || {
            let rows: Vec<_> = items.iter().map(row).collect();
            Ok(format!("{}\n\nattempts of one: wabahook find EVENT", table(&TITLES, &rows)))
        }),
    }
}

const NONE: &str = "no event matches: it was never published here, or is no longer kept";
const CONTACT_HINT: &str =
    "; callbacks of Meta name a contact by its user_id or its number: try both";

/// How many deliveries have each state, such as `5 of 9 delivered, 4 dead`.
fn states(trace: &EventTraceJson) -> String {
    let mut counts: Vec<(&str, usize)> = vec![("delivered", 0)];
    for delivery in &trace.deliveries {
        match counts.iter_mut().find(|(state, _)| *state == delivery.state) {
            Some((_, count)) => *count += 1,
            None => counts.push((&delivery.state, 1)),
        }
    }
    if trace.deliveries.is_empty() {
        return trace.state.clone();
    }
    let (delivered, of) = (counts.remove(0).1, trace.deliveries.len());
    let others = counts.iter().map(|(state, count)| format!(", {count} {state}"));
    format!("{delivered} of {of} delivered{}", others.collect::<String>())
}

fn row(trace: &EventTraceJson) -> Vec<String> {
    let name = |one: &crate::json::DeliveryTraceJson| {
        let id = || one.subscription.to_string();
        one.subscription_name.as_deref().map_or_else(id, printable)
    };
    let names: Vec<_> = trace.deliveries.iter().map(name).collect();
    vec![
        trace.accepted_at.to_string(),
        states(trace),
        printable(&trace.event_type),
        trace.number.clone().unwrap_or_default(),
        names.join(","),
        trace.id.clone(),
    ]
}

/// One event with its deliveries and their attempts.
fn show(args: &FindArgs, client: &ApiClient, id: &str) -> CommandResult {
    let response = client.get(&format!("/events/{id}"), &[])?;
    if args.host.json {
        say_json(&response);
        return Ok(());
    }
    let trace: EventTraceJson = client.typed(&response)?;
    let number = trace.number.as_deref().unwrap_or("none");
    say(&format!("{} {}: {}", trace.id, printable(&trace.event_type), trace.state));
    let account = trace.account_name.iter().map(|name| format!("account {}, ", printable(name)));
    let account: String = account.collect();
    say(&format!("{account}number {number}, accepted {}, {}", trace.accepted_at, bytes_of(&trace)));
    if trace.duplicates > 0 {
        say(&format!("published again: {}", counted(trace.duplicates, "time", "times")));
    }
    for delivery in &trace.deliveries {
        let name = delivery.subscription_name.as_deref().unwrap_or("(removed)");
        let reason = delivery.reason.iter().map(|reason| format!(", {}", printable(reason)));
        let due = delivery.due_at.iter().map(|due| format!(", next attempt {due}"));
        let more: String = reason.chain(due).collect();
        say(&format!(
            "\nwebhook {} {}: {}{more}",
            delivery.subscription,
            printable(name),
            delivery.state
        ));
        let attempt = |one: &crate::json::TracedAttemptJson| {
            vec![
                one.number.to_string(),
                one.at.to_string(),
                one.took_ms.to_string(),
                printable(one.reason.as_deref().unwrap_or(&one.outcome)),
                printable(&one.excerpt),
            ]
        };
        if !delivery.history.is_empty() {
            let rows: Vec<_> = delivery.history.iter().map(attempt).collect();
            say(&table(&ATTEMPT_TITLES, &rows));
        }
    }
    if args.payload {
        let payload = trace.payload.as_deref().unwrap_or("(not text)");
        say(&format!("\n{}", payload.lines().map(printable).collect::<Vec<_>>().join("\n")));
    }
    Ok(())
}

fn bytes_of(trace: &EventTraceJson) -> String {
    counted(trace.payload_bytes, "byte", "bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_id_is_told_from_a_message_id() {
        assert!(is_event_id("evt_1c9d0d2f6b7a4e580000000000000007"));
        assert!(!is_event_id("wamid.HBgMOTE5") && !is_event_id("evt_xyz"));
    }
}
