//! `wabahook webhooks`: list, add, edit, remove, pause, resume, test. The host checks the settings. A secret comes
//! from the environment or a file, never from the command line, where `ps` shows it (I9).

mod match_event;
pub(super) mod named;
mod show;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use wabahook::PayloadFormat;

use self::match_event::MatchEventArgs;
use self::named::{find, title};
use self::show::ShowWebhookArgs;
use super::client::HostOptions;
use super::option_file::{file_text, settings};
use super::screen::{ConfirmOptions, WatchOptions, counted, printable, say, say_json, span};
use crate::command_error::{CommandError, CommandResult};
use crate::json::{
    Patch, SetOrAll, SubscriptionFilterJson, SubscriptionJson, SubscriptionListing,
    TestDeliveryJson, Word,
};

/// The command line of `webhooks`.
#[derive(Args)]
pub(crate) struct WebhooksArgs {
    #[command(subcommand)]
    action: WebhooksAction,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

#[derive(Subcommand)]
enum WebhooksAction {
    /// List the account's webhooks with their health
    List(ListWebhooksArgs),
    /// Register a webhook
    Add(AddWebhookArgs),
    /// Change the settings of a webhook
    Edit(EditWebhookArgs),
    /// Remove a webhook and cancel its deliveries
    Remove(RemoveWebhookArgs),
    /// Show the settings of a webhook, its newest attempts, and why they fail
    Show(ShowWebhookArgs),
    /// Stop deliveries to a webhook, or to many; events are still kept for it
    Pause(ChangeStateArgs),
    /// Resume deliveries to a webhook that is paused or disabled, or to many
    Resume(ChangeStateArgs),
    /// Send a test event to a webhook
    Test(WebhookArgs),
    /// Say whether an event would match a webhook, and which check decides; nothing is published
    Match(MatchEventArgs),
}

#[derive(Args)]
struct ListWebhooksArgs {
    /// Only those whose name, description or URL contains this
    #[arg(value_name = "TEXT")]
    search: Option<String>,
    /// Only those in this state: active, paused, disabled
    #[arg(long)]
    state: Option<String>,
    /// Only those with this health: healthy, retrying, failing, breaker_open
    #[arg(long)]
    health: Option<String>,
    /// Only those that want this event type
    #[arg(long, value_name = "TYPE")]
    event: Option<String>,
    /// Only those that want this number
    #[arg(long)]
    number: Option<String>,
    /// The order: id, name, owed, dead, failing
    #[arg(long)]
    sort: Option<String>,
    /// How many at most
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    limit: usize,
    #[command(flatten)]
    watch: WatchOptions,
}

#[derive(Args)]
struct WebhookArgs {
    /// Its id or its name
    #[arg(value_name = "ID|NAME")]
    webhook: String,
}

/// One webhook, or all that match.
#[derive(Args)]
struct ChangeStateArgs {
    /// Its id or its name
    #[arg(value_name = "ID|NAME", required_unless_present_any = ["matching", "health"])]
    webhook: Option<String>,
    /// All whose name, description or URL contains this
    #[arg(long, value_name = "TEXT", conflicts_with = "webhook")]
    matching: Option<String>,
    /// All with this health: healthy, retrying, failing, breaker_open
    #[arg(long, conflicts_with = "webhook")]
    health: Option<String>,
    /// Only count them
    #[arg(long, conflicts_with = "webhook")]
    dry_run: bool,
}

#[derive(Args)]
struct RemoveWebhookArgs {
    #[command(flatten)]
    confirm: ConfirmOptions,
    /// Its id or its name
    #[arg(value_name = "ID|NAME")]
    webhook: String,
}

#[derive(Args)]
struct AddWebhookArgs {
    /// The URL that receives the events
    #[arg(value_name = "URL")]
    target: String,
    /// Its name, unique in the account [default: the URL]
    #[arg(long)]
    name: Option<String>,
    /// The event types, separated by commas
    #[arg(long, value_name = "TYPES", default_value = "*", value_delimiter = ',')]
    events: Vec<String>,
    /// The WABA numbers, separated by commas
    #[arg(long, value_name = "NUMBERS", default_value = "*", value_delimiter = ',')]
    numbers: Vec<String>,
    /// The environment variable with the secret that signs deliveries
    #[arg(long, value_name = "NAME", conflicts_with = "secret_file")]
    secret_env: Option<String>,
    /// The file with the secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// A file with a JSON object of further settings, as in POST /subscriptions: retry, ordering,
    /// headers and so on
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

#[derive(Args)]
struct EditWebhookArgs {
    /// Its new name
    #[arg(long)]
    name: Option<String>,
    /// Its new URL
    #[arg(long = "target", value_name = "URL")]
    url_of_webhook: Option<String>,
    /// The event types from now on, separated by commas; * for all
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    events: Vec<String>,
    /// The WABA numbers from now on, separated by commas; * for all
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    numbers: Vec<String>,
    /// What a gateway's webhook receives from now on: the gateway's own body, or Meta's callback
    #[arg(long, value_name = "gateway|meta")]
    payload: Option<PayloadFormat>,
    /// A file with a JSON object of further settings, as in PATCH /subscriptions/{id}; null is the default
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Its id or its name
    #[arg(value_name = "ID|NAME")]
    webhook: String,
}

const TITLES: [&str; 10] =
    ["ID", "NAME", "STATE", "OWED", "DELIVERED", "DEAD", "FAILING", "EVENTS", "NUMBERS", "URL"];

/// Runs the command.
pub(crate) fn run(args: &WebhooksArgs) -> CommandResult {
    let host = &args.host;
    match &args.action {
        WebhooksAction::List(args) => list(host, args),
        WebhooksAction::Add(args) => add(host, args),
        WebhooksAction::Edit(args) => edit(host, args),
        WebhooksAction::Remove(args) => remove(host, args),
        WebhooksAction::Show(args) => show::run(host, args),
        WebhooksAction::Pause(args) => change_state(host, args, "pause", "paused"),
        WebhooksAction::Resume(args) => change_state(host, args, "resume", "resumed"),
        WebhooksAction::Test(args) => test(host, args),
        WebhooksAction::Match(args) => match_event::run(host, args),
    }
}

fn list(host: &HostOptions, args: &ListWebhooksArgs) -> CommandResult {
    let client = host.client()?;
    args.watch.run(|| {
        let query = [
            ("search", args.search.as_deref()),
            ("state", args.state.as_deref()),
            ("health", args.health.as_deref()),
            ("events", args.event.as_deref()),
            ("numbers", args.number.as_deref()),
            ("sort", args.sort.as_deref()),
        ];
        let none = match query.iter().any(|(_, value)| value.is_some()) {
            true => "no webhook matches",
            false => "no webhooks yet: add one with wabahook webhooks add URL",
        };
        let listed = client.list("/subscriptions", &query, args.limit)?;
        host.say_page(&client, &listed, &TITLES, row, none)
    })
}

fn row(item: &SubscriptionListing) -> Vec<String> {
    let (settings, health) = (&item.settings, &item.health);
    let failing = match health.failing_for_ms.0 {
        Duration::ZERO => "-".to_owned(),
        failing_for => span(failing_for.as_secs()),
    };
    let set = |set: &Patch<SetOrAll>| set.as_ref().map(|set| printable(&set.to_string()));
    vec![
        item.id.to_string(),
        printable(item.name()),
        item.account_state.as_ref().map_or(item.state.clone(), |state| format!("account {state}")),
        health.owed.to_string(),
        health.delivered.to_string(),
        health.dead.to_string(),
        failing,
        set(&settings.events).unwrap_or_default(),
        set(&settings.numbers).unwrap_or_default(),
        settings.url.as_ref().map(|url| printable(url)).unwrap_or_default(),
    ]
}

fn add(host: &HostOptions, args: &AddWebhookArgs) -> CommandResult {
    let mut body: SubscriptionJson = settings(args.settings.as_deref())?;
    let name = args.name.as_ref().unwrap_or(&args.target);
    body.name = Patch::Value(name.clone());
    body.url = Patch::Value(args.target.clone());
    body.events = Patch::Value(set_or_all(&args.events));
    body.numbers = Patch::Value(set_or_all(&args.numbers));
    if let Some(secret) = secret_of(args.secret_env.as_deref(), args.secret_file.as_deref())? {
        body.secret = Patch::Value(secret);
    }
    let client = host.client()?;
    let response = client.post("/subscriptions", &body)?;
    host.say_as(&client, &response, |registered: &SubscriptionListing| {
        let hints = registered.hints.iter().map(|hint| format!("\nhint: {}", printable(hint)));
        format!("{} is registered{}", title(registered), hints.collect::<String>())
    })
}

fn set_or_all(words: &[String]) -> SetOrAll {
    match words {
        [all] if all == "*" => SetOrAll::All,
        words => SetOrAll::Set(words.to_vec()),
    }
}

/// The secret that an environment variable or a file has.
pub(crate) fn secret_of(
    variable: Option<&str>,
    file: Option<&Path>,
) -> CommandResult<Option<String>> {
    if let Some(name) = variable {
        let secret = std::env::var(name).map_err(|_| {
            CommandError::Usage(format!("--secret-env: {name} is not set, or not UTF-8"))
        })?;
        return Ok(Some(secret));
    }
    let Some(file) = file else { return Ok(None) };
    let text = file_text("--secret-file", file)?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Changes the settings that are given.
fn edit(host: &HostOptions, args: &EditWebhookArgs) -> CommandResult {
    let mut body: SubscriptionJson = settings(args.settings.as_deref())?;
    if let Some(name) = &args.name {
        body.name = Patch::Value(name.clone());
    }
    if let Some(url) = &args.url_of_webhook {
        body.url = Patch::Value(url.clone());
    }
    if !args.events.is_empty() {
        body.events = Patch::Value(set_or_all(&args.events));
    }
    if !args.numbers.is_empty() {
        body.numbers = Patch::Value(set_or_all(&args.numbers));
    }
    if let Some(payload) = args.payload {
        body.payload = Patch::Value(Word(payload));
    }
    if json!(&body) == json!({}) {
        let message =
            "name what to change: --name, --target, --events, --numbers, --payload or --settings";
        return Err(CommandError::Usage(message.to_owned()));
    }
    let client = host.client()?;
    let found = find(&client, &args.webhook)?;
    let response = client.patch(&format!("/subscriptions/{}", found.id), &body)?;
    host.say_as(&client, &response, |changed| format!("{} is changed", title(changed)))
}

fn remove(host: &HostOptions, args: &RemoveWebhookArgs) -> CommandResult {
    let client = host.client()?;
    let found = find(&client, &args.webhook)?;
    let title = title(&found);
    let owed = |one: &str, many: &str| counted(found.health.owed, one, many);
    args.confirm.ask(|| {
        let owed = owed("owed delivery", "owed deliveries");
        Ok(format!("remove {title} and cancel its {owed}?"))
    })?;
    client.delete(&format!("/subscriptions/{}", found.id))?;
    host.say(&json!({ "removed": found.id }), || {
        Ok(format!("{title} is removed, {} cancelled", owed("delivery", "deliveries")))
    })
}

/// Pauses or resumes one webhook, or those that match.
fn change_state(
    host: &HostOptions,
    args: &ChangeStateArgs,
    action: &str,
    done: &str,
) -> CommandResult {
    let client = host.client()?;
    if let Some(webhook) = &args.webhook {
        let found = find(&client, webhook)?;
        let path = format!("/subscriptions/{}/{action}", found.id);
        let response = client.post(&path, &json!({}))?;
        return host.say(&response, || Ok(format!("{} is {done}", title(&found))));
    }
    let filter = SubscriptionFilterJson {
        search: args.matching.clone(),
        health: args.health.clone(),
        dry_run: args.dry_run,
        ..SubscriptionFilterJson::default()
    };
    let response = client.post(&format!("/subscriptions/{action}"), &filter)?;
    host.say_count(&client, &response, done, ("webhook", "webhooks"))
}

/// Sends a test event; fails where the receiver did not accept it.
fn test(host: &HostOptions, args: &WebhookArgs) -> CommandResult {
    let client = host.client()?;
    let found = find(&client, &args.webhook)?;
    let response: Value = client.post(&format!("/subscriptions/{}/test", found.id), &json!({}))?;
    let tested: TestDeliveryJson = client.typed(&response)?;
    let (title, took_ms) = (title(&found), tested.took_ms.to_string());
    let is_delivered = tested.outcome == "delivered";
    if host.json {
        say_json(&response);
    } else if is_delivered {
        say(&format!("{title} accepted a test event in {took_ms} ms"));
    }
    if is_delivered {
        return Ok(());
    }
    let reason = printable(tested.reason.as_deref().unwrap_or("-"));
    let response = match tested.excerpt.as_str() {
        "" => String::new(),
        excerpt => format!("; its response: {}", printable(excerpt)),
    };
    let message =
        format!("{title} did not accept a test event: {reason} after {took_ms} ms{response}");
    Err(CommandError::Run(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_alone_is_all_and_words_are_a_set() {
        assert_eq!(set_or_all(&["*".to_owned()]), SetOrAll::All);
        let set = SetOrAll::Set(vec!["ADD_TAG".to_owned()]);
        assert_eq!(set_or_all(&["ADD_TAG".to_owned()]), set);
    }
}
