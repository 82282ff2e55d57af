//! `wabahook reload`: a running host reads its configuration again.

use clap::Args;
use serde_json::json;

use crate::command_error::CommandResult;
use crate::commands::client::HostOptions;
use crate::commands::screen::printable;
use crate::json::ReloadedJson;

/// The command line of `reload`.
#[derive(Args)]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

/// Runs the command.
pub(crate) fn run(args: &ReloadArgs) -> CommandResult {
    let client = args.host.client()?;
    let response = client.post("/admin/reload", &json!({}))?;
    args.host.say_as(&client, &response, |ReloadedJson { accounts, needs_restart, .. }| {
        let restart = match needs_restart.is_empty() {
            true => String::new(),
            false => format!("\na restart changes {}", needs_restart.join(", ")),
        };
        let warnings =
            accounts.warnings().map(|warning| format!("\nwarning: {}", printable(&warning)));
        let warnings: String = warnings.collect();
        format!("the configuration was read again: {accounts}{restart}{warnings}")
    })
}
