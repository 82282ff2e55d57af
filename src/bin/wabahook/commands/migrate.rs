//! `wabahook migrate`: moves everything from the data directory to the server of `[store]`, or back.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;
use wabahook::Engine;
use wabahook::store::{Postgres, StoreFailure};

use super::screen::{say, say_json};
use crate::command_error::{CommandError, CommandResult};
use crate::config::{self, ConfigArgs};

/// How long the last owner's lease is waited for.
const OWNER_WAIT: Duration = Duration::from_secs(10);

/// The command line of `migrate`.
#[derive(Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    files: ConfigArgs,
    /// Where everything goes; the other one is refused afterwards
    #[arg(long, value_name = "PLACE")]
    to: MigrationTarget,
    /// Print JSON, errors included
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MigrationTarget {
    /// The server of `[store]`
    Postgres,
    /// The data directory
    Directory,
}

/// Runs the command.
pub(crate) fn run(args: &MigrateArgs) -> CommandResult {
    let settings = config::load(&args.files, None, &config::process_environment)?;
    let file = config::shown(&args.files.config);
    let missing = || {
        CommandError::Usage(format!(
            "{file}: store: missing, expected kind = \"postgres\" and a url"
        ))
    };
    let options = settings.store.clone().ok_or_else(missing)?;
    let failed = |failure: StoreFailure| CommandError::Run(format!("store: {failure}"));
    let store = Postgres::connect(options).map_err(failed)?;
    store.acquire(OWNER_WAIT).map_err(|failure| match failure {
        StoreFailure::InUse => {
            CommandError::Busy("store: a host owns it; stop that first".to_owned())
        }
        other => failed(other),
    })?;
    let (directory, server) = (settings.engine.clone(), settings.engine.store(Arc::new(store)));
    let moved = match args.to {
        MigrationTarget::Postgres => Engine::migrate(&directory, &server)?,
        MigrationTarget::Directory => Engine::migrate(&server, &directory)?,
    };
    if args.json {
        say_json(&json!({
            "databases": moved.databases, "records": moved.records, "bytes": moved.bytes
        }));
        return Ok(());
    }
    say(&format!(
        "moved {} databases with {} records, {} bytes",
        moved.databases, moved.records, moved.bytes
    ));
    Ok(())
}
