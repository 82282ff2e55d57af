//! `wabahook dead`: list the dead letters, show one, replay or discard some. Nothing ends that the command line
//! does not name, by id or by a filter.

use clap::{Args, Subcommand};

use super::client::{ApiClient, HostOptions};
use super::deliveries::DeliveryFilterArgs;
use super::screen::{ConfirmOptions, WatchOptions, printable, table};
use super::times::time;
use crate::command_error::{CommandError, CommandResult};
use crate::json::{
    DeadLetterDetailJson, DeadLetterJson, FailedAttemptJson, ReplayJson, Text, TimestampJson, Whole,
};
use crate::timestamp::rfc3339;

/// The command line of `dead`.
#[derive(Args)]
pub(crate) struct DeadArgs {
    #[command(subcommand)]
    action: DeadAction,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

#[derive(Subcommand)]
enum DeadAction {
    /// List the dead letters, newest first
    List(ListDeadArgs),
    /// Show one with its attempts
    Show(ShowDeadArgs),
    /// Deliver dead letters again, with the same webhook-id
    Replay(ReplayArgs),
    /// Discard dead letters for good
    Discard(DiscardArgs),
}

#[derive(Args)]
struct ListDeadArgs {
    #[command(flatten)]
    filter: LetterFilter,
    #[command(flatten)]
    watch: WatchOptions,
    /// How many at most
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
}

/// Which dead letters; all filters must match.
#[derive(Args)]
struct LetterFilter {
    #[command(flatten)]
    delivery: DeliveryFilterArgs,
    /// Those that died since this time: 2026-01-31T12:00:00Z, 2026-01-31, or how long ago: 24h
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<u64>,
    /// Those that died before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<u64>,
}

#[derive(Args)]
struct ShowDeadArgs {
    /// The id of the dead letter
    id: String,
}

#[derive(Args)]
struct ReplayArgs {
    /// The ids of dead letters
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    filter: LetterFilter,
    /// Only count them
    #[arg(long)]
    dry_run: bool,
    /// All of the account
    #[arg(
        long,
        conflicts_with_all = ["ids", "webhook", "reason", "event_type", "number", "since", "until"]
    )]
    all: bool,
}

#[derive(Args)]
struct DiscardArgs {
    #[command(flatten)]
    selection: ReplayArgs,
    #[command(flatten)]
    confirm: ConfirmOptions,
}

const TITLES: [&str; 6] = ["AT", "WEBHOOK", "TYPE", "REASON", "ATTEMPTS", "ID"];
const HISTORY_TITLES: [&str; 5] = ["ATTEMPT", "AT", "TOOK MS", "REASON", "RESPONSE"];

/// Runs the command.
pub(crate) fn run(args: &DeadArgs) -> CommandResult {
    let host = &args.host;
    match &args.action {
        DeadAction::List(args) => list(host, args),
        DeadAction::Show(args) => show(host, args),
        DeadAction::Replay(args) => {
            let client = host.client()?;
            end(host, &client, &selected(args, &client)?, "replay", "replayed")
        }
        DeadAction::Discard(args) => discard(host, args),
    }
}

fn list(host: &HostOptions, args: &ListDeadArgs) -> CommandResult {
    let client = host.client()?;
    let filter = &args.filter;
    let webhook = filter.delivery.webhook_id(&client)?.map(|id| id.to_string());
    let [since, until] = [filter.since, filter.until].map(|time| time.map(rfc3339));
    args.watch.run(|| {
        let times = [("since", since.as_deref()), ("until", until.as_deref())];
        let query = [&filter.delivery.query(webhook.as_deref())[..], &times].concat();
        let listed = client.list("/dead-letters", &query, args.limit)?;
        host.say_page(&client, &listed, &TITLES, row, "no dead letters")
    })
}

fn row(letter: &DeadLetterJson) -> Vec<String> {
    let DeadLetterJson { id, subscription, reason, attempts, at, event_type, .. } = letter;
    let name = letter.subscription_name.as_deref().map(printable);
    vec![
        at.to_string(),
        name.unwrap_or_else(|| subscription.to_string()),
        event_type.as_deref().map(printable).unwrap_or_default(),
        printable(reason),
        attempts.to_string(),
        printable(id),
    ]
}

fn show(host: &HostOptions, args: &ShowDeadArgs) -> CommandResult {
    let known = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if args.id.is_empty() || !args.id.chars().all(known) {
        let message =
            format!("{:?} is not the id of a dead letter; wabahook dead list shows them", args.id);
        return Err(CommandError::Usage(message));
    }
    let client = host.client()?;
    let response = client.get(&format!("/dead-letters/{}", args.id), &[])?;
    host.say_as(&client, &response, letter_text)
}

fn letter_text(DeadLetterDetailJson { letter, history, .. }: &DeadLetterDetailJson) -> String {
    let members = [
        ("id", &letter.id),
        ("event_id", &letter.event_id),
        ("subscription", &letter.subscription.to_string()),
        ("reason", &letter.reason),
        ("attempts", &letter.attempts.to_string()),
        ("at", &letter.at.to_string()),
    ];
    let lines = members.map(|(name, value)| format!("{name:13} {}\n", printable(value)));
    let rows: Vec<_> = history.iter().map(attempt_row).collect();
    format!("{}\n{}", lines.concat(), table(&HISTORY_TITLES, &rows))
}

fn attempt_row(attempt: &FailedAttemptJson) -> Vec<String> {
    vec![
        attempt.number.to_string(),
        attempt.at.to_string(),
        attempt.took_ms.to_string(),
        printable(&attempt.reason),
        printable(&attempt.excerpt),
    ]
}

/// What the command line names.
fn selected(args: &ReplayArgs, client: &ApiClient) -> CommandResult<ReplayJson> {
    let LetterFilter { delivery, since, until } = &args.filter;
    let has_time = since.is_some() || until.is_some();
    if args.ids.is_empty() && !args.all && delivery.is_empty() && !has_time {
        let message = "name ids, --webhook, --reason, --type, --number, --since or --until; or --all for \
                       every dead letter";
        return Err(CommandError::Usage(message.to_owned()));
    }
    let ids = args.ids.iter().map(|id| {
        let wrong = || CommandError::Usage(format!("{id:?} is not the id of a dead letter"));
        id.parse().map(Text).map_err(|_| wrong())
    });
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    // Every dead letter is younger than the Unix epoch.
    let since = since.or(args.all.then_some(0));
    Ok(ReplayJson {
        ids: Some(ids).filter(|ids| !ids.is_empty()),
        subscription: delivery.webhook_id(client)?.map(Whole),
        reason: delivery.reason.clone(),
        event_type: delivery.event_type.clone(),
        number: delivery.number.clone(),
        since: since.map(TimestampJson),
        until: until.map(TimestampJson),
        dry_run: args.dry_run,
    })
}

/// Discards them, after a question unless every one is named by its id.
fn discard(host: &HostOptions, args: &DiscardArgs) -> CommandResult {
    let client = host.client()?;
    let mut selected = selected(&args.selection, &client)?;
    if selected.ids.is_none() && !selected.dry_run {
        selected.dry_run = true;
        let (route, names) = ("/dead-letters/discard", ("dead letter", "dead letters"));
        args.confirm.ask(|| client.count_question(route, &selected, "discard", names))?;
        selected.dry_run = false;
    }
    end(host, &client, &selected, "discard", "discarded")
}

/// Replays or discards them.
fn end(
    host: &HostOptions,
    client: &ApiClient,
    selected: &ReplayJson,
    action: &str,
    done: &str,
) -> CommandResult {
    let response = client.post(&format!("/dead-letters/{action}"), selected)?;
    host.say_count(client, &response, done, ("dead letter", "dead letters"))
}
