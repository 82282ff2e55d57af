//! `wabahook completions`: the completion script of a shell. Commands that the help hides are left out.

use clap::{Args, Command};
use clap_complete::Shell;

use super::screen::say;

/// The command line of `completions`.
#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script for the shell.
pub(crate) fn run(args: &CompletionsArgs, command: &Command) {
    // The generators would complete hidden commands, too.
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set()).cloned();
    let mut command =
        Command::new("wabahook").version(env!("CARGO_PKG_VERSION")).subcommands(shown);
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "wabahook", &mut script);
    say(String::from_utf8_lossy(&script).trim_end());
}
