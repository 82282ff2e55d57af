//! `wabahook audit`: what was changed in a running host, by whom and from where.

use clap::Args;

use super::client::HostOptions;
use super::screen::printable;
use crate::command_error::CommandError;
use crate::json::{AuditChangeJson, AuditEntryJson};

/// The command line of `audit`.
#[derive(Args)]
pub(crate) struct AuditArgs {
    /// How many at most, the newest
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    /// Only older ones: the id of an entry
    #[arg(long, value_name = "ID")]
    before: Option<u64>,
    /// Only those about this account
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

const TITLES: [&str; 7] = ["ID", "AT", "KEY", "ACCOUNT", "ADDRESS", "REQUEST", "CHANGED"];

/// Runs the command.
pub(crate) fn run(args: &AuditArgs) -> Result<(), CommandError> {
    let client = args.host.client()?;
    let (limit, before) = (args.limit.to_string(), args.before.map(|id| id.to_string()));
    let mut query = vec![("limit", limit.as_str())];
    query.extend(before.as_deref().map(|id| ("cursor", id)));
    query.extend(args.account.as_deref().map(|account| ("account", account)));
    let response = client.get("/admin/audit", &query)?;
    args.host.say_page(&client, &response, &TITLES, row, "no changes")
}

fn row(entry: &AuditEntryJson) -> Vec<String> {
    let changed: Vec<String> = entry.changes.iter().map(changed).collect();
    vec![
        entry.id.to_string(),
        entry.at.to_string(),
        printable(&entry.key),
        entry.account.as_deref().map_or("-".to_owned(), printable),
        printable(&entry.address),
        printable(&format!("{} {}", entry.method, entry.path)),
        printable(&changed.join("; ")),
    ]
}

/// `subscription 7: state, url`.
fn changed(change: &AuditChangeJson) -> String {
    let AuditChangeJson { what, id, before, after } = change;
    match (before.as_object(), after.as_object()) {
        (None, Some(_)) => format!("{what} {id} created"),
        (Some(_), None) => format!("{what} {id} removed"),
        (_, after) => {
            let names = after.into_iter().flat_map(|members| members.keys().map(String::as_str));
            let names: Vec<&str> = names.collect();
            format!("{what} {id}: {}", names.join(", ")).trim_end_matches(": ").to_owned()
        }
    }
}
