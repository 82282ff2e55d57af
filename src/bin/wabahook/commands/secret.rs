//! `wabahook secret rotate`: gives a webhook another secret. A secret that the host makes is printed once; one of
//! the host's user comes from the environment or a file, never from the command line (I9).

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::client::HostOptions;
use super::webhooks::named::{find, title};
use super::webhooks::secret_of;
use crate::command_error::CommandResult;
use crate::json::{NewSecretJson, RotationJson, Whole};

/// The command line of `secret`.
#[derive(Args)]
pub(crate) struct SecretArgs {
    #[command(subcommand)]
    action: SecretAction,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

#[derive(Subcommand)]
enum SecretAction {
    /// Sign with a new secret; the old one stays valid for a while
    Rotate(RotateArgs),
}

#[derive(Args)]
struct RotateArgs {
    /// The webhook's id or its name
    #[arg(value_name = "ID|NAME")]
    webhook: String,
    /// How long the old secret stays valid, in seconds; 0 revokes it at once
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
    overlap_s: u64,
    /// The environment variable with the new secret [default: the host makes one]
    #[arg(long, value_name = "NAME", conflicts_with = "secret_file")]
    secret_env: Option<String>,
    /// The file with the new secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// Runs `secret`.
pub(crate) fn run(args: &SecretArgs) -> CommandResult {
    let SecretArgs { action: SecretAction::Rotate(args), host } = args;
    let secret = secret_of(args.secret_env.as_deref(), args.secret_file.as_deref())?;
    let is_given = secret.is_some();
    let client = host.client()?;
    let found = find(&client, &args.webhook)?;
    let overlap_ms = Whole(args.overlap_s.saturating_mul(1_000));
    let body = RotationJson { secret, overlap_ms };
    let response = client.post(&format!("/subscriptions/{}/secret", found.id), &body)?;
    host.say_as(&client, &response, |NewSecretJson { secret, .. }| {
        let secret = if is_given { "the given secret" } else { secret };
        format!("{} signs with {secret}", title(&found))
    })
}
