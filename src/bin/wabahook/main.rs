//! The reference host: decides the command line and the exit code.
//!
//! Leaves to others: the configuration (`config`), the server (`serve`). Invariant: every failure
//! is one line on stderr that starts with `wabahook:`, and the exit code says whose it is: 2 for
//! the command line or the configuration, 1 for everything else.

mod asked;
mod config;
mod dead_letters;
mod deliveries;
mod demo;
mod description;
mod events;
mod gateways;
mod host;
mod meta;
mod moment;
mod refusal;
mod serve;
mod stats;
mod subscription_body;
mod subscription_item;
mod subscriptions;
mod target_body;
mod terms_body;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

/// Routes WhatsApp Business events to webhooks.
#[derive(Parser)]
#[command(name = "wabahook", version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the HTTP API until SIGTERM or SIGINT
    Serve(ServeArgs),
    /// Show the main job: ten receivers, real events, one kill -9, and the account of every delivery
    Demo(demo::DemoArgs),
    /// The demo's engine process, which the demo starts and kills
    #[command(hide = true)]
    DemoEngine(demo::EngineArgs),
}

/// The command line of `serve`; what is given here wins over the configuration file.
#[derive(Args)]
pub(crate) struct ServeArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The data directory [default: `data` of the configuration, or wabahook-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The address and port to listen on [default: `listen` of the configuration, or
    /// 127.0.0.1:7001]; port 0 takes a free one and prints it
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
}

/// Why the program ends without having done its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line or the configuration is wrong.
    Usage(String),
    /// Something else went wrong.
    Run(String),
}

fn main() -> ExitCode {
    let ended = match CommandLine::try_parse().map(|line| line.command) {
        Ok(Command::Serve(args)) => serve::run(&args).map(|()| ExitCode::SUCCESS),
        Ok(Command::Demo(args)) => demo::run(&args).map_err(Failure::Run),
        Ok(Command::DemoEngine(args)) => Ok(demo::run_engine(&args)),
        Err(error) => explained(&error).map(|()| ExitCode::SUCCESS),
    };
    let (code, message) = match ended {
        Ok(code) => return code,
        Err(Failure::Usage(message)) => (2, message),
        Err(Failure::Run(message)) => (1, message),
    };
    eprintln!("wabahook: {message}");
    ExitCode::from(code)
}

/// Help and version are answers; anything else is told in one line.
fn explained(error: &clap::Error) -> Result<(), Failure> {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        print!("{error}");
        return Ok(());
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Err(Failure::Usage("no command was given; see wabahook --help".to_owned()));
    }
    let text = error.to_string();
    let first_part = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first_part.split_whitespace().collect();
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    Err(Failure::Usage(format!("{line}; see wabahook --help")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(line: &[&str], says: &str) {
        let error = CommandLine::try_parse_from(line).err().unwrap();
        let Err(Failure::Usage(message)) = explained(&error) else { panic!("another failure") };
        assert!(message.contains(says) && !message.contains('\n'), "{message}");
    }

    #[test]
    fn a_wrong_command_line_is_told_in_one_line() {
        check_refused(&["wabahook"], "no command");
        check_refused(&["wabahook", "serve"], "--config <FILE>");
        check_refused(&["wabahook", "serve", "--confg", "x"], "--confg");
        check_refused(&["wabahook", "serv"], "serv");
    }

    #[test]
    fn help_is_an_answer() {
        let error = CommandLine::try_parse_from(["wabahook", "--help"]).err().unwrap();
        assert!(explained(&error).is_ok());
    }
}
