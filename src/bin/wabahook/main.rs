//! The reference host: decides the command line and the exit code.
//!
//! Leaves to others: the configuration (`config`), the server (`serve`), the commands (`commands`).
//! Invariant: every failure is one line on stderr, which starts with `wabahook:` or, where JSON is asked
//! for, is JSON; the exit code says what may help (`failure`).

mod account;
mod asked;
mod attempts;
mod commands;
mod config;
mod console;
mod dead_letters;
mod deliveries;
mod demo;
mod description;
mod events;
mod failure;
mod gateways;
mod host;
mod log;
mod meta;
mod metrics;
mod moment;
mod notices;
mod refusal;
mod serve;
mod stats;
mod subscription_body;
mod subscription_item;
mod subscriptions;
mod target_body;
mod terms_body;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use commands::{bench, completions, dead, inspect, publish, screen, tail, verify, webhooks};
use failure::Failure;

/// Gives memory back to the system that glibc's would keep: an outbox takes and frees pages by the
/// thousand, from many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Routes WhatsApp Business events to webhooks.
///
/// Exit codes: 0 done; 1 failed; 2 the command line, the configuration or the input is wrong; 3 no host
/// answers; 4 the API key is missing or refused; 5 there is nothing by that name; 6 busy, try again.
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
    /// Publish events to a running host
    Publish(publish::PublishArgs),
    /// List, add, remove, pause, resume or test the webhooks of a running host
    Webhooks(webhooks::WebhooksArgs),
    /// List, show or replay the dead letters of a running host
    Dead(dead::DeadArgs),
    /// Follow what happens in a running host
    Tail(tail::TailArgs),
    /// Check the signatures of a delivery that a receiver kept
    Verify(verify::VerifyArgs),
    /// Look into a data directory that no engine has open, without changing it
    Inspect(inspect::InspectArgs),
    /// Measure how many events a second this machine accepts and delivers
    Bench(bench::BenchArgs),
    /// Print the completions of a shell
    Completions(completions::CompletionsArgs),
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
    /// How much is told on stderr
    #[arg(long, value_name = "LEVEL", default_value = "warn", env = "WABAHOOK_LOG")]
    pub(crate) log: log::Level,
}

fn main() -> ExitCode {
    refuse_huge_pages();
    let (ended, json) = match CommandLine::try_parse().map(|line| line.command) {
        Ok(command) => (command.run(), command.json()),
        Err(error) => (explained(&error).map(|()| ExitCode::SUCCESS), false),
    };
    ended.unwrap_or_else(|failure| {
        let told = if json { failure.json() } else { format!("wabahook: {}", failure.message()) };
        // Nobody may read it, and then the exit code is all there is to say.
        let _ = writeln!(std::io::stderr(), "{told}");
        ExitCode::from(failure.exit_code())
    })
}

/// Of the huge pages that Linux would give without being asked, each of a thousand threads that wait for
/// receivers would hold one of 2 MB for what it has allocated. The allocator asks for none.
fn refuse_huge_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

impl Command {
    fn run(&self) -> Result<ExitCode, Failure> {
        match self {
            Command::Serve(args) => serve::run(args)?,
            Command::Demo(args) => return demo::run(args).map_err(Failure::Run),
            Command::Publish(args) => publish::run(args)?,
            Command::Webhooks(args) => webhooks::run(args)?,
            Command::Dead(args) => dead::run(args)?,
            Command::Tail(args) => tail::run(args)?,
            Command::Verify(args) => verify::run(args)?,
            Command::Inspect(args) => inspect::run(args)?,
            Command::Bench(args) => bench::run(args)?,
            Command::Completions(args) => completions::run(args, &CommandLine::command()),
            Command::DemoEngine(args) => return Ok(demo::run_engine(args)),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Whether a program is to read what is said.
    fn json(&self) -> bool {
        match self {
            Command::Publish(args) => args.reach.json,
            Command::Webhooks(args) => args.json(),
            Command::Dead(args) => args.json(),
            Command::Tail(args) => args.reach.json,
            Command::Verify(args) => args.json,
            Command::Inspect(args) => args.json,
            Command::Bench(args) => args.json,
            _ => false,
        }
    }
}

/// Help and version are answers; anything else is told in one line.
fn explained(error: &clap::Error) -> Result<(), Failure> {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        screen::say(error.to_string().trim_end());
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
    fn no_two_arguments_of_a_command_have_one_name() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn help_is_an_answer() {
        let error = CommandLine::try_parse_from(["wabahook", "--help"]).err().unwrap();
        assert!(explained(&error).is_ok());
    }
}
