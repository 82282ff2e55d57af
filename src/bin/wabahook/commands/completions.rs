//! Decides how a shell learns the command line.
//!
//! Leaves to others: the words themselves (`main`, which is asked for them). Invariant: what is
//! hidden in the help is not completed either.

use clap::{Args, Command};
use clap_complete::Shell;

use super::screen::say;

/// The command line of `completions`.
#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script that the shell is to read.
pub(crate) fn run(args: &CompletionsArgs, mut command: Command) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "wabahook", &mut script);
    say(String::from_utf8_lossy(&script).trim_end());
}
