//! Decides what `wabahook dead` does: list the dead letters, show one, try some again.
//!
//! Leaves to others: which letters there are (the host). Invariant: nothing is replayed that was not
//! named, by id or by what the letters have in common.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{Client, Reach};
use super::screen::{counted, say, say_json, shown, table};
use super::webhooks::{find, id_of};
use crate::failure::Failure;

/// The command line of `dead`.
#[derive(Args)]
pub(crate) struct DeadArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the dead letters, the newest first
    List(ListArgs),
    /// Show one with its attempts
    Show(ShowArgs),
    /// Owe dead letters again, with the same webhook-id
    Replay(ReplayArgs),
}

#[derive(Args)]
struct ListArgs {
    /// Only those of this webhook
    #[arg(long, value_name = "ID|NAME")]
    webhook: Option<String>,
    /// Only those given up for this reason, such as status:404 or timeout
    #[arg(long)]
    reason: Option<String>,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Args)]
struct ShowArgs {
    /// The id of the dead letter
    id: String,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Args)]
struct ReplayArgs {
    /// The ids of dead letters
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Those of this webhook
    #[arg(long, value_name = "ID|NAME")]
    webhook: Option<String>,
    /// Those given up for this reason
    #[arg(long)]
    reason: Option<String>,
    /// Those given up since this moment, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// All of the account's
    #[arg(long, conflicts_with_all = ["ids", "webhook", "reason", "since"])]
    all: bool,
    #[command(flatten)]
    reach: Reach,
}

/// The most that the host gives at once.
const PAGE: usize = 1_000;
const TITLES: [&str; 5] = ["AT", "WEBHOOK", "REASON", "ATTEMPTS", "ID"];
const HISTORY: [&str; 5] = ["ATTEMPT", "AT", "TOOK MS", "REASON", "ANSWER"];

impl DeadArgs {
    /// Whether a program is to read what is said.
    pub(crate) fn json(&self) -> bool {
        match &self.action {
            Action::List(args) => args.reach.json,
            Action::Show(args) => args.reach.json,
            Action::Replay(args) => args.reach.json,
        }
    }
}

/// Does what is asked.
pub(crate) fn run(args: &DeadArgs) -> Result<(), Failure> {
    match &args.action {
        Action::List(args) => list(args),
        Action::Show(args) => show(args),
        Action::Replay(args) => replay(args),
    }
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let client = args.reach.client()?;
    let webhook = id(&client, args.webhook.as_deref())?;
    let mut listed: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    while listed.len() < args.limit {
        let limit = (args.limit - listed.len()).min(PAGE).to_string();
        let mut query = vec![("limit", limit.as_str()), ("cursor", cursor.as_str())];
        query.extend(webhook.as_deref().map(|id| ("subscription", id)));
        query.extend(args.reason.as_deref().map(|reason| ("reason", reason)));
        let page = client.get("/dead-letters", &query)?;
        listed.extend(page.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
        match page.get("cursor").and_then(Value::as_str) {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    if args.reach.json {
        say_json(&json!({ "items": listed }));
        return Ok(());
    }
    if listed.is_empty() {
        say("no dead letters");
        return Ok(());
    }
    let row = |item: &Value| {
        let at = |name: &str| item.get(name).map(shown).unwrap_or_default();
        vec![at("at"), at("subscription"), at("reason"), at("attempts"), at("id")]
    };
    let rows: Vec<_> = listed.iter().map(row).collect();
    say(&table(&TITLES, &rows));
    Ok(())
}

fn show(args: &ShowArgs) -> Result<(), Failure> {
    let known = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if args.id.is_empty() || !args.id.chars().all(known) {
        let message =
            format!("{:?} is no id of a dead letter; wabahook dead list shows them", args.id);
        return Err(Failure::Usage(message));
    }
    let letter = args.reach.client()?.get(&format!("/dead-letters/{}", args.id), &[])?;
    if args.reach.json {
        say_json(&letter);
        return Ok(());
    }
    for name in ["id", "event_id", "subscription", "reason", "attempts", "at"] {
        say(&format!("{name:13} {}", letter.get(name).map(shown).unwrap_or_default()));
    }
    let history = letter.get("history").and_then(Value::as_array).cloned().unwrap_or_default();
    let row = |tried: &Value| {
        let at = |name: &str| tried.get(name).map(shown).unwrap_or_default();
        vec![at("number"), at("at"), at("took_ms"), at("reason"), at("excerpt")]
    };
    let rows: Vec<_> = history.iter().map(row).collect();
    say(&format!("\n{}", table(&HISTORY, &rows)));
    Ok(())
}

fn replay(args: &ReplayArgs) -> Result<(), Failure> {
    let named = !args.ids.is_empty() || args.all;
    let filtered = args.webhook.is_some() || args.reason.is_some() || args.since.is_some();
    if !named && !filtered {
        let message = "name ids, --webhook, --reason or --since; or --all for every dead letter";
        return Err(Failure::Usage(message.to_owned()));
    }
    let client = args.reach.client()?;
    let mut body = Map::new();
    if !args.ids.is_empty() {
        body.insert("ids".to_owned(), json!(args.ids));
    }
    if let Some(id) = id(&client, args.webhook.as_deref())? {
        body.insert("subscription".to_owned(), json!(id.parse::<u32>().unwrap_or(0)));
    }
    if let Some(reason) = &args.reason {
        body.insert("reason".to_owned(), json!(reason));
    }
    // All is what was given up since there is time.
    let since = args.since.clone().or_else(|| args.all.then(|| "1970-01-01T00:00:00Z".to_owned()));
    if let Some(since) = since {
        body.insert("since".to_owned(), json!(since));
    }
    let answer = client.post("/dead-letters/replay", &Value::Object(body))?;
    let replayed = answer.get("replayed").and_then(Value::as_u64).unwrap_or(0);
    if args.reach.json {
        say_json(&answer);
    } else {
        let replayed = counted(replayed, "dead letter", "dead letters");
        say(&format!("owed again: {replayed}"));
    }
    Ok(())
}

fn id(client: &Client, webhook: Option<&str>) -> Result<Option<String>, Failure> {
    webhook.map(|webhook| find(client, webhook).map(|item| id_of(&item))).transpose()
}
