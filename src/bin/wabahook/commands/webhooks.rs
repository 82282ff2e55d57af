//! Decides what `wabahook webhooks` does: list, add, remove, pause, resume, test.
//!
//! Leaves to others: what a subscription may say (the host, whose refusals are passed on). Invariant
//! (I9): a secret is taken from the environment or a file, never from the command line.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{Client, Reach};
use super::screen::{say, say_json, shown, table};
use crate::failure::Failure;

/// The command line of `webhooks`.
#[derive(Args)]
pub(crate) struct WebhooksArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the account's webhooks with their health
    List(ListArgs),
    /// Register a webhook
    Add(AddArgs),
    /// Remove a webhook; what it is owed is cancelled
    Remove(RemoveArgs),
    /// Hold a webhook back: events go on being owed to it and none is sent
    Pause(OneArgs),
    /// Serve a webhook again that is paused or disabled
    Resume(OneArgs),
    /// Send a test event to a webhook
    Test(OneArgs),
}

#[derive(Args)]
struct ListArgs {
    #[command(flatten)]
    reach: Reach,
}

#[derive(Args)]
struct OneArgs {
    /// Its id or its name
    #[arg(value_name = "ID|NAME")]
    webhook: String,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Args)]
struct RemoveArgs {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    one: OneArgs,
}

#[derive(Args)]
struct AddArgs {
    /// Where it is called
    #[arg(value_name = "URL")]
    target: String,
    /// What it is called; unique in the account [default: the URL]
    #[arg(long)]
    name: Option<String>,
    /// The event types, separated by commas
    #[arg(long, value_name = "TYPES", default_value = "*", value_delimiter = ',')]
    events: Vec<String>,
    /// The WABA numbers, separated by commas
    #[arg(long, value_name = "NUMBERS", default_value = "*", value_delimiter = ',')]
    numbers: Vec<String>,
    /// The environment variable that holds the secret with which deliveries are signed
    #[arg(long, value_name = "NAME", conflicts_with = "secret_file")]
    secret_env: Option<String>,
    /// The file that holds the secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// A file with a JSON object of further terms, as in POST /subscriptions: retry, ordering,
    /// headers and so on
    #[arg(long, value_name = "FILE")]
    terms: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

const TITLES: [&str; 10] =
    ["ID", "NAME", "STATE", "OWED", "DELIVERED", "DEAD", "FAILING", "EVENTS", "NUMBERS", "URL"];

impl WebhooksArgs {
    /// Whether a program is to read what is said.
    pub(crate) fn json(&self) -> bool {
        match &self.action {
            Action::List(args) => args.reach.json,
            Action::Add(args) => args.reach.json,
            Action::Remove(args) => args.one.reach.json,
            Action::Pause(args) | Action::Resume(args) | Action::Test(args) => args.reach.json,
        }
    }
}

/// Does what is asked.
pub(crate) fn run(args: &WebhooksArgs) -> Result<(), Failure> {
    match &args.action {
        Action::List(args) => list(args),
        Action::Add(args) => add(args),
        Action::Remove(args) => remove(args),
        Action::Pause(args) => post(args, "pause", "is paused"),
        Action::Resume(args) => post(args, "resume", "is served"),
        Action::Test(args) => test(args),
    }
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let answer = args.reach.client()?.get("/subscriptions", &[])?;
    if args.reach.json {
        say_json(&answer);
        return Ok(());
    }
    let items = items(&answer);
    if items.is_empty() {
        say("no webhooks yet: add one with wabahook webhooks add URL");
        return Ok(());
    }
    let rows: Vec<_> = items.iter().map(row).collect();
    say(&table(&TITLES, &rows));
    Ok(())
}

fn row(item: &Value) -> Vec<String> {
    let at = |pointer: &str| item.pointer(pointer).map(shown).unwrap_or_default();
    let failing_ms = item.pointer("/health/failing_for_ms").and_then(Value::as_u64).unwrap_or(0);
    let failing = if failing_ms == 0 { "-".to_owned() } else { span(failing_ms / 1_000) };
    vec![
        at("/id"),
        at("/name"),
        at("/state"),
        at("/health/owed"),
        at("/health/delivered"),
        at("/health/dead"),
        failing,
        at("/events"),
        at("/numbers"),
        at("/url"),
    ]
}

/// Seconds in the two largest units that they fill.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn add(args: &AddArgs) -> Result<(), Failure> {
    let mut body = match &args.terms {
        Some(file) => terms(file)?,
        None => Map::new(),
    };
    body.insert("name".to_owned(), json!(args.name.as_ref().unwrap_or(&args.target)));
    body.insert("url".to_owned(), json!(args.target));
    body.insert("events".to_owned(), set_or_all(&args.events));
    body.insert("numbers".to_owned(), set_or_all(&args.numbers));
    if let Some(secret) = secret(args)? {
        body.insert("secret".to_owned(), Value::String(secret));
    }
    let answer = args.reach.client()?.post("/subscriptions", &Value::Object(body))?;
    if args.reach.json {
        say_json(&answer);
    } else {
        let at = |name: &str| answer.get(name).map(shown).unwrap_or_default();
        say(&format!("webhook {} ({}) is registered", at("id"), at("name")));
    }
    Ok(())
}

fn set_or_all(words: &[String]) -> Value {
    match words {
        [all] if all == "*" => json!("*"),
        words => json!(words),
    }
}

fn terms(file: &PathBuf) -> Result<Map<String, Value>, Failure> {
    let wrong = |why: String| Failure::Usage(format!("--terms: {}: {why}", file.display()));
    let text = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let terms: Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    match terms {
        Value::Object(terms) => Ok(terms),
        _ => Err(wrong("expected a JSON object such as {\"ordering\": \"per_key\"}".to_owned())),
    }
}

fn secret(args: &AddArgs) -> Result<Option<String>, Failure> {
    if let Some(name) = &args.secret_env {
        let secret = std::env::var(name)
            .map_err(|_| Failure::Usage(format!("--secret-env: {name} is not set, or no text")))?;
        return Ok(Some(secret));
    }
    let Some(file) = &args.secret_file else { return Ok(None) };
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::Usage(format!("--secret-file: {}: {error}", file.display())))?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

fn remove(args: &RemoveArgs) -> Result<(), Failure> {
    let OneArgs { webhook, reach } = &args.one;
    let client = reach.client()?;
    let found = find(&client, webhook)?;
    let named = named(&found);
    let owed = found.pointer("/health/owed").and_then(Value::as_u64).unwrap_or(0);
    if !args.yes {
        confirm(&format!("remove {named} and cancel the {owed} deliveries it is owed?"))?;
    }
    client.delete(&format!("/subscriptions/{}", id_of(&found)))?;
    if reach.json {
        say_json(&json!({ "removed": found.get("id") }));
    } else {
        say(&format!("{named} is removed, {owed} deliveries cancelled"));
    }
    Ok(())
}

/// Asks a person; where there is none nothing is done.
fn confirm(question: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        let message = format!("{question} Say so with --yes: nobody can be asked here");
        return Err(Failure::Usage(message));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    let read = io::stderr().flush().and_then(|()| io::stdin().lock().read_line(&mut answer));
    match read {
        Ok(_) if ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) => Ok(()),
        _ => Err(Failure::Run("nothing was removed".to_owned())),
    }
}

fn post(args: &OneArgs, action: &str, done: &str) -> Result<(), Failure> {
    let client = args.reach.client()?;
    let found = find(&client, &args.webhook)?;
    let answer = client.post(&format!("/subscriptions/{}/{action}", id_of(&found)), &json!({}))?;
    if args.reach.json {
        say_json(&answer);
        return Ok(());
    }
    say(&format!("{} {done}", named(&found)));
    Ok(())
}

/// Sends a test event; fails where its receiver did not take it.
fn test(args: &OneArgs) -> Result<(), Failure> {
    let client = args.reach.client()?;
    let found = find(&client, &args.webhook)?;
    let answer = client.post(&format!("/subscriptions/{}/test", id_of(&found)), &json!({}))?;
    let at = |name: &str| answer.get(name).map(shown).unwrap_or_default();
    let taken = at("outcome") == "delivered";
    if args.reach.json {
        say_json(&answer);
    } else if taken {
        say(&format!("{} took a test event in {} ms", named(&found), at("took_ms")));
    }
    match taken {
        true => Ok(()),
        false => Err(Failure::Run(format!(
            "{} did not take a test event: {} after {} ms",
            named(&found),
            at("reason"),
            at("took_ms")
        ))),
    }
}

fn items(answer: &Value) -> Vec<Value> {
    answer.get("items").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// The webhook with this id, or this name.
pub(crate) fn find(client: &Client, webhook: &str) -> Result<Value, Failure> {
    let items = items(&client.get("/subscriptions", &[])?);
    let by_id = items.iter().find(|item| id_of(item) == webhook);
    let by_name = || items.iter().find(|item| item.get("name") == Some(&json!(webhook)));
    by_id.or_else(by_name).cloned().ok_or_else(|| {
        let names = items.iter().filter_map(|item| item.get("name")).take(10).map(shown);
        let names: Vec<_> = names.collect();
        let known = if names.is_empty() { "there are none".to_owned() } else { names.join(", ") };
        Failure::NotFound(format!("no webhook has the id or name {webhook:?}; known: {known}"))
    })
}

/// Its id as text.
pub(crate) fn id_of(item: &Value) -> String {
    item.get("id").map(shown).unwrap_or_default()
}

fn named(item: &Value) -> String {
    format!("webhook {} ({})", id_of(item), item.get("name").map(shown).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_the_units_they_fill() {
        for (seconds, told) in [(5, "5s"), (65, "1m5s"), (3_660, "1h1m"), (90_000, "1d1h")] {
            assert_eq!(span(seconds), told);
        }
    }

    #[test]
    fn a_star_alone_is_all_and_words_are_a_set() {
        assert_eq!(set_or_all(&["*".to_owned()]), json!("*"));
        assert_eq!(set_or_all(&["ADD_TAG".to_owned()]), json!(["ADD_TAG"]));
    }
}
