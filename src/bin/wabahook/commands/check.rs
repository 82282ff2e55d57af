//! `wabahook check`: what is wrong with a configuration file, and what it would change among the accounts of its
//! data directory. Changes nothing, and works while a host has the directory open. It does not ask the server of
//! `[store]`.

use clap::Args;
use serde_json::json;
use wabahook::Engine;

use super::screen::{printable, say, say_json};
use crate::command_error::{CommandError, CommandResult};
use crate::config::{self, ConfigArgs};
use crate::json::AccountChangesJson;

/// The command line of `check`.
#[derive(Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    files: ConfigArgs,
    /// Print JSON, errors included
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &CheckArgs) -> CommandResult {
    let settings = config::load(&args.files, None, &config::process_environment)?;
    let file = config::shown(&args.files.config);
    let wrong = |problem: &dyn std::fmt::Display| CommandError::Usage(format!("{file}: {problem}"));
    if let Some(tls) = &settings.tls {
        tls.read().map_err(|problem| wrong(&problem))?;
    }
    let changes = Engine::check_config(&settings.engine).map_err(|error| wrong(&error))?;
    let is_compared = settings.store.is_none();
    let changes = is_compared.then(|| AccountChangesJson::from(changes));
    if args.json {
        say_json(&json!({ "accounts": changes }));
        return Ok(());
    }
    say(&format!("{file} is valid"));
    let Some(changes) = changes else {
        say("its accounts are not compared with those on the server");
        return Ok(());
    };
    let groups = [
        ("would be created", &changes.created),
        ("would be changed", &changes.changed),
        ("would be removed, and its deliveries held", &changes.removed),
    ];
    for (what, names) in groups {
        for name in names {
            say(&format!("account {} {what}", printable(name)));
        }
    }
    for warning in changes.warnings() {
        say(&format!("warning: {}", printable(&warning)));
    }
    Ok(())
}
