//! `wabahook audit`: what was changed in a running host, by whom and from where.

use clap::Args;
use serde_json::Value;

use crate::command_error::CommandResult;
use crate::commands::client::HostOptions;
use crate::commands::screen::{printable, say, shown};
use crate::json::{AuditChangeJson, AuditEntryJson};

/// The command line of `audit`.
#[derive(Args)]
pub(crate) struct AuditArgs {
    /// How many at most, the newest
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    /// Only older ones: the id of an entry, or the cursor of a page (--json)
    #[arg(long, value_name = "ID")]
    before: Option<String>,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

const TITLES: [&str; 7] = ["ID", "AT", "KEY", "ACCOUNT", "ADDRESS", "REQUEST", "CHANGED"];

/// Of a longer list only the number of items is shown.
const ITEMS_MAX: usize = 8;

/// Runs the command.
pub(crate) fn run(args: &AuditArgs) -> CommandResult {
    let client = args.host.client()?;
    let limit = args.limit.to_string();
    let mut query = vec![("limit", limit.as_str())];
    query.extend(args.before.as_deref().map(|id| ("cursor", id)));
    let response = client.get("/admin/audit", &query)?;
    args.host.say_page(&client, &response, &TITLES, row, "no changes")?;
    if !args.host.json {
        for note in notes(&response) {
            say(&note);
        }
    }
    Ok(())
}

/// What the table does not have: the hosts that did not answer, and where the list goes on.
fn notes(response: &Value) -> Vec<String> {
    let missing = response.get("missing_hosts").and_then(Value::as_array);
    let missing = missing.into_iter().flatten().filter_map(Value::as_str);
    let missing = missing.map(|host| format!("missing: {}", printable(host)));
    let cursor = response.get("cursor").and_then(Value::as_str);
    let older = cursor.map(|cursor| format!("older: --before '{}'", printable(cursor)));
    missing.chain(older).collect()
}

fn row(entry: &AuditEntryJson) -> Vec<String> {
    let changed: Vec<String> = entry.changes.iter().map(changed).collect();
    vec![
        entry.host.iter().map(|host| format!("{} ", printable(host))).collect::<String>()
            + &entry.id.to_string(),
        entry.at.to_string(),
        printable(&entry.key),
        entry
            .account_name
            .as_ref()
            .or(entry.account.as_ref())
            .map_or("-".to_owned(), |name| printable(name)),
        printable(&entry.address),
        printable(&format!("{} {}", entry.method, entry.path)),
        printable(&changed.join("; ")),
    ]
}

/// `subscription 7: state active -> paused, url`. What a request ended or repeated has no id.
fn changed(change: &AuditChangeJson) -> String {
    let AuditChangeJson { what, id, before, after } = change;
    let members = |state: &Value| state.as_object().cloned().unwrap_or_default();
    let (old, new) = (members(before), members(after));
    match (before.is_object(), after.is_object(), id.is_empty()) {
        (_, true, true) => {
            let counts = new.iter().map(|(name, value)| format!("{value} {name}"));
            format!("{what}: {}", counts.collect::<Vec<_>>().join(", "))
        }
        (false, true, _) => format!("{what} {id} created"),
        (true, false, _) => format!("{what} {id} removed"),
        _ => {
            let names = new.iter().map(|(name, now)| member(name, old.get(name), now));
            let told = format!("{what} {id}: {}", names.collect::<Vec<_>>().join(", "));
            told.trim_end_matches(": ").to_owned()
        }
    }
}

/// A member that changed, with its values where they are short. Of a list, what was added and removed.
fn member(name: &str, before: Option<&Value>, after: &Value) -> String {
    let before = before.unwrap_or(&Value::Null);
    if let (Value::Array(old), Value::Array(new)) = (before, after) {
        let signed = |sign: char, items: &[Value]| {
            let all = items.iter().map(|item| format!(" {sign}{}", shown(item)));
            match items.len() {
                0..=ITEMS_MAX => all.collect::<String>(),
                count => format!(" {sign}({count} items)"),
            }
        };
        return format!("{name}{}{}", signed('-', old), signed('+', new));
    }
    let is_short = |value: &Value| !value.is_object() && value.to_string().len() <= 64;
    match is_short(before) && is_short(after) {
        true => format!("{name} {} -> {}", shown(before), shown(after)),
        false => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_hosts_and_older_entries_are_told() {
        let page = json!({"items": [], "cursor": "a=7&b=", "missing_hosts": ["b"]});
        assert_eq!(notes(&page), ["missing: b", "older: --before 'a=7&b='"]);
        assert!(notes(&json!({"items": [], "cursor": null})).is_empty());
    }
}
