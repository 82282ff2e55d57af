//! `wabahook reload`: a running host reads its configuration again.

use clap::Args;
use serde_json::json;

use super::client::HostOptions;
use super::screen::{say, say_json};
use crate::command_error::CommandResult;
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
    if args.host.json {
        say_json(&response);
        return Ok(());
    }
    let reloaded: ReloadedJson = client.typed(&response)?;
    say(&format!("the configuration was read again: {}", reloaded.accounts));
    if !reloaded.needs_restart.is_empty() {
        say(&format!("a restart changes {}", reloaded.needs_restart.join(", ")));
    }
    Ok(())
}
