//! `wabahook webhooks match`: whether a webhook would be owed an event, and which check decides. Nothing is
//! published.

use axum::http::Method;
use clap::Args;

use super::named::{find, title};
use crate::command_error::{CommandError, CommandResult};
use crate::commands::client::HostOptions;
use crate::commands::event_args::EventArgs;
use crate::commands::screen::{printable, say, say_json};
use crate::json::MatchReportJson;

/// The command line of `webhooks match`.
#[derive(Args)]
pub(crate) struct MatchEventArgs {
    /// The webhook's id or its name
    #[arg(value_name = "ID|NAME")]
    webhook: String,
    #[command(flatten)]
    event: EventArgs,
}

/// Says whether the event matches; fails where it does not.
pub(in crate::commands) fn run(host: &HostOptions, args: &MatchEventArgs) -> CommandResult {
    let event = args.event.body(args.event.open()?.0)?;
    let client = host.client()?;
    let found = find(&client, &args.webhook)?;
    let path = format!("/subscriptions/{}/match", found.id);
    let response = client.send(Method::POST, &path, "application/json", event)?;
    let report: MatchReportJson = client.typed(&response)?;
    let said = format!("{}: {}", title(&found), printable(&report.message));
    if host.json {
        say_json(&response);
    } else {
        if report.matches {
            say(&said);
        }
        for hint in &report.hints {
            say(&format!("hint: {}", printable(hint)));
        }
    }
    if report.matches { Ok(()) } else { Err(CommandError::Run(said)) }
}
