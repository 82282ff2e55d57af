//! `wabahook accounts`: the operator lists, creates, changes, suspends, resumes, moves, removes and forgets accounts,
//! and makes and removes their keys. A key is printed once, when it is made.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use wabahook::WabaNumber;
use wabahook::clock::{Clock, SystemClock};

use crate::command_error::{CommandError, CommandResult};
use crate::commands::client::{ApiClient, HostOptions};
use crate::commands::deliveries::purged_text;
use crate::commands::option_file::settings;
use crate::commands::screen::{counted, printable, table};
use crate::json::{
    AccountChangeJson, AccountListing, AccountWabaJson, JsonPage, MadeKeyJson, Patch, Text,
};
use crate::timestamp::from_rfc3339;

/// The command line of `accounts`.
#[derive(Args)]
pub(crate) struct AccountsArgs {
    #[command(subcommand)]
    action: AccountsAction,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

#[derive(Subcommand)]
enum AccountsAction {
    /// List all accounts, removed ones too
    List {
        /// Only those whose name contains this
        #[arg(long)]
        name: Option<String>,
    },
    /// Show an account with its WABAs and keys
    Show(AccountArgs),
    /// Create an account and print its first key
    Create {
        /// Its name
        name: String,
        /// A WABA with its numbers, such as 123065260884961=919999999999,918888888888; may be repeated
        #[arg(long, value_name = "ID=NUMBERS")]
        waba: Vec<String>,
    },
    /// Change the name, the WABAs and numbers, or the limits of an account
    Edit(EditArgs),
    /// Refuse an account's keys and hold its deliveries
    Suspend(AccountArgs),
    /// Let a suspended or removed account go on
    Resume(AccountArgs),
    /// Free an account's name, numbers and keys, and hold its deliveries
    Remove(AccountArgs),
    /// Move the webhooks and deliveries of a suspended or removed account to another one
    Move {
        /// The account, by its id or name
        account: String,
        /// The account that gets them, by its id or name
        to: String,
    },
    /// End everything that is kept of a removed account
    Forget(AccountArgs),
    /// Make an API key and print it
    AddKey {
        /// The account, by its id or name
        account: String,
        /// What the key is for
        name: String,
        /// From when on it is refused, such as 2027-01-31T12:00:00Z
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
    },
    /// Remove an API key
    RemoveKey {
        /// The account, by its id or name
        account: String,
        /// The id of the key
        key: String,
    },
}

#[derive(Args)]
struct EditArgs {
    /// The account, by its id or name
    account: String,
    /// Its new name
    #[arg(long)]
    name: Option<String>,
    /// Numbers to add, with their WABA, such as 123065260884961=919999999999,918888888888; may be repeated
    #[arg(long, value_name = "ID=NUMBERS")]
    waba: Vec<String>,
    /// A number that is no longer its own; may be repeated
    #[arg(long, value_name = "NUMBER")]
    remove_number: Vec<WabaNumber>,
    /// A WABA that is no longer its own, with its numbers; may be repeated
    #[arg(long, value_name = "ID")]
    remove_waba: Vec<String>,
    /// A file with a JSON object of further members, as in PATCH /admin/accounts/{id}: limits and so on. Its wabas
    /// replace all WABAs
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

#[derive(Args)]
struct AccountArgs {
    /// The account, by its id or name
    account: String,
}

const TITLES: [&str; 7] = ["ID", "NAME", "STATE", "WEBHOOKS", "OWED", "DEAD", "NUMBERS"];
const KEY_TITLES: [&str; 5] = ["KEY", "NAME", "CREATED", "LAST USED", "EXPIRES"];

/// Runs the command.
pub(crate) fn run(args: &AccountsArgs) -> CommandResult {
    let client = args.host.client()?;
    match &args.action {
        AccountsAction::List { name } => {
            let items = all(&client, name.as_deref())?;
            let response = json!({ "items": items });
            args.host.say(&response, || Ok(list_text(&items)))
        }
        AccountsAction::Show(one) => {
            let response = client.get(&path(&client, &one.account)?, &[])?;
            args.host.say_as(&client, &response, account_text)
        }
        AccountsAction::Create { name, waba } => {
            let wabas = waba.iter().map(|text| waba_json(text)).collect::<Result<Vec<_>, _>>()?;
            let body = json!({ "name": name, "wabas": wabas });
            let response = client.post("/admin/accounts", &body)?;
            args.host.say_as(&client, &response, |MadeKeyJson { id, name, api_key }| {
                let name = printable(name);
                format!("account {name} is {id}; its key, which is not shown again:\n{api_key}")
            })
        }
        AccountsAction::Edit(given) => {
            let before = find(&client, &given.account)?;
            let (path, owned) = (format!("/admin/accounts/{}", before.id), before.numbers());
            let response = client.patch(&path, &edit(before, given)?)?;
            args.host.say_as(&client, &response, |after| edited_text(&owned, after))
        }
        AccountsAction::Suspend(one) => state(args, &client, one, "suspended"),
        AccountsAction::Resume(one) => state(args, &client, one, "active"),
        AccountsAction::Remove(one) => {
            let response = client.delete(&path(&client, &one.account)?)?;
            args.host.say_as(&client, &response, state_text)
        }
        AccountsAction::Move { account, to } => {
            let to = find(&client, to)?.id;
            let path = format!("{}/move", path(&client, account)?);
            let response = client.post(&path, &json!({ "to": to }))?;
            args.host.say_as(&client, &response, state_text)
        }
        AccountsAction::Forget(one) => {
            let path = format!("{}/forget", path(&client, &one.account)?);
            let response = client.post(&path, &json!({}))?;
            args.host.say_as(&client, &response, |ended| {
                format!("forgotten; ended: {}", purged_text(ended))
            })
        }
        AccountsAction::AddKey { account, name, expires } => {
            check_time(expires.as_deref())?;
            let path = format!("{}/keys", path(&client, account)?);
            let response = client.post(&path, &json!({ "name": name, "expires_at": expires }))?;
            args.host.say_as(&client, &response, |MadeKeyJson { id, api_key, .. }| {
                format!("key {id}, which is not shown again:\n{api_key}")
            })
        }
        AccountsAction::RemoveKey { account, key } => {
            client.delete(&format!("{}/keys/{key}", path(&client, account)?))?;
            args.host.say(&json!({ "removed": key }), || {
                Ok(format!("key {} is removed", printable(key)))
            })
        }
    }
}

/// The change that is given. Numbers and WABAs that are not named stay as they are.
fn edit(before: AccountListing, given: &EditArgs) -> CommandResult<AccountChangeJson> {
    let mut body: AccountChangeJson = settings(given.settings.as_deref())?;
    if let Some(name) = &given.name {
        body.name = Patch::Value(name.clone());
    }
    let changes_wabas =
        !(given.waba.is_empty() && given.remove_waba.is_empty() && given.remove_number.is_empty());
    if changes_wabas {
        if !body.wabas.is_absent() {
            let why = "--settings: its wabas replace all; give no --waba, --remove-waba or \
                       --remove-number";
            return Err(CommandError::Usage(why.to_owned()));
        }
        body.wabas = Patch::Value(changed_wabas(before.wabas, given)?);
    }
    if json!(&body) == json!({}) {
        let why =
            "name what to change: --name, --waba, --remove-waba, --remove-number or --settings";
        return Err(CommandError::Usage(why.to_owned()));
    }
    Ok(body)
}

fn changed_wabas(
    mut wabas: Vec<AccountWabaJson>,
    given: &EditArgs,
) -> CommandResult<Vec<AccountWabaJson>> {
    for id in &given.remove_waba {
        let place = wabas.iter().position(|waba| waba.id == *id);
        let place = place.ok_or_else(|| {
            CommandError::NotFound(format!("the account has no WABA {}", printable(id)))
        })?;
        wabas.remove(place);
    }
    for number in &given.remove_number {
        let owner = wabas.iter_mut().find(|waba| waba.numbers.iter().any(|one| one.0 == *number));
        let owner = owner
            .ok_or_else(|| CommandError::NotFound(format!("the account has no number {number}")))?;
        owner.numbers.retain(|one| one.0 != *number);
        owner.phone_number_ids.retain(|_, one| one.0 != *number);
    }
    for text in &given.waba {
        let new: AccountWabaJson = serde_json::from_value(waba_json(text)?)
            .map_err(|error| CommandError::Usage(format!("--waba: {text:?}: {error}")))?;
        match wabas.iter_mut().find(|waba| waba.id == new.id) {
            Some(known) => {
                let has =
                    |number: &Text<WabaNumber>| known.numbers.iter().any(|one| one.0 == number.0);
                let added: Vec<_> = new.numbers.into_iter().filter(|one| !has(one)).collect();
                known.numbers.extend(added);
            }
            None => wabas.push(new),
        }
    }
    Ok(wabas)
}

fn check_time(expires: Option<&str>) -> CommandResult {
    let why = match expires.map(from_rfc3339) {
        None => return Ok(()),
        Some(None) => "expected a time such as 2027-01-31T12:00:00Z",
        Some(Some(at_ms)) if at_ms > SystemClock::new().wall_ms() => return Ok(()),
        Some(Some(_)) => "this time has passed",
    };
    Err(CommandError::Usage(format!("--expires: {why}")))
}

/// Changes the state of an account.
fn state(args: &AccountsArgs, client: &ApiClient, one: &AccountArgs, state: &str) -> CommandResult {
    let response = client.patch(&path(client, &one.account)?, &json!({ "state": state }))?;
    args.host.say_as(client, &response, state_text)
}

/// All accounts whose name contains a text.
fn all(client: &ApiClient, name: Option<&str>) -> CommandResult<Vec<AccountListing>> {
    let all = client.list("/admin/accounts", &[("name", name)], usize::MAX)?;
    Ok(client.typed::<JsonPage<AccountListing>>(&all)?.items)
}

/// The account that is given by its id or its name. A removed account is given by its id.
fn find(client: &ApiClient, account: &str) -> CommandResult<AccountListing> {
    let is_it =
        |one: &AccountListing| one.id == account || one.name == account && one.state != "removed";
    all(client, None)?.into_iter().find(is_it).ok_or_else(|| {
        CommandError::NotFound(format!("there is no account {}", printable(account)))
    })
}

fn path(client: &ApiClient, account: &str) -> CommandResult<String> {
    Ok(format!("/admin/accounts/{}", find(client, account)?.id))
}

/// `ID=NUMBER,NUMBER` as JSON.
fn waba_json(text: &str) -> CommandResult<Value> {
    let (id, numbers) = text.split_once('=').ok_or_else(|| {
        CommandError::Usage(format!("--waba: {text:?} given, expected ID=NUMBER,NUMBER"))
    })?;
    let numbers: Vec<_> = numbers.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
    Ok(json!({ "id": id, "numbers": numbers }))
}

fn list_text(items: &[AccountListing]) -> String {
    let rows: Vec<_> = items.iter().map(row).collect();
    match rows.is_empty() {
        true => "no accounts yet: create one with wabahook accounts create NAME".to_owned(),
        false => table(&TITLES, &rows),
    }
}

fn row(one: &AccountListing) -> Vec<String> {
    let numbers: usize = one.wabas.iter().map(|waba| waba.numbers.len()).sum();
    vec![
        one.id.clone(),
        printable(&one.name),
        one.state.clone(),
        one.usage.subscriptions.to_string(),
        one.usage.owed_events.to_string(),
        one.usage.dead_letters.to_string(),
        numbers.to_string(),
    ]
}

fn account_text(one: &AccountListing) -> String {
    let mut text = table(&TITLES, &[row(one)]);
    for waba in &one.wabas {
        let numbers: Vec<_> = waba.numbers.iter().map(|number| number.0.to_string()).collect();
        text.push_str(&format!("\nWABA {}: {}", printable(&waba.id), numbers.join(", ")));
    }
    let never = || "never".to_owned();
    let keys = one.keys.iter().map(|key| {
        vec![
            key.id.clone(),
            printable(&key.name),
            key.created_at.to_string(),
            key.last_used_at.map_or_else(never, |at| at.to_string()),
            key.expires_at.map_or_else(never, |at| at.to_string()),
        ]
    });
    let keys: Vec<Vec<String>> = keys.collect();
    if !keys.is_empty() {
        text.push_str(&format!("\n\n{}", table(&KEY_TITLES, &keys)));
    }
    text
}

/// The account after a change, and what it owned before and no longer owns.
fn edited_text(owned: &[String], after: &AccountListing) -> String {
    let kept = after.numbers();
    let lost: Vec<_> = owned.iter().filter(|one| !kept.contains(one)).cloned().collect();
    match lost.is_empty() {
        true => account_text(after),
        false => {
            let lost = printable(&lost.join(", "));
            format!("{}\nno longer its own: {lost}", account_text(after))
        }
    }
}

fn state_text(one: &AccountListing) -> String {
    let (name, state, owed) = (printable(&one.name), &one.state, one.usage.owed_events);
    let held = if one.state == "active" { "owed" } else { "held" };
    format!(
        "account {name} ({}) is {state}; {} {held}",
        one.id,
        counted(owed, "event is", "events are")
    )
}
