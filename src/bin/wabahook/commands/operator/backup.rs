//! `wabahook backup`: a consistent copy of the data directory of a running host.

use std::path::PathBuf;

use clap::Args;

use crate::command_error::{CommandError, CommandResult};
use crate::commands::client::HostOptions;
use crate::json::BackupJson;

/// The command line of `backup`.
#[derive(Args)]
pub(crate) struct BackupArgs {
    /// An empty or missing directory on the machine of the host, which writes it
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

/// Runs the command.
pub(crate) fn run(args: &BackupArgs) -> CommandResult {
    let directory = std::path::absolute(&args.directory)
        .map_err(|error| CommandError::Usage(format!("{}: {error}", args.directory.display())))?;
    let directory = directory.into_os_string().into_string();
    let directory =
        directory.map_err(|_| CommandError::Usage("the path is not UTF-8".to_owned()))?;
    let client = args.host.client()?;
    let response = client.post("/admin/backup", &BackupJson { directory })?;
    args.host
        .say_as(&client, &response, |BackupJson { directory }| format!("written to {directory}"))
}
