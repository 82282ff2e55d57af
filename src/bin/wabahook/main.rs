//! The reference host and its command line. Every error is one line on stderr, which starts with
//! `wabahook:` or, with `--json`, is JSON; the exit code says what kind of error it is.
//!
//! `serve` runs a host: `config` says how, `port` bounds what strangers cost, `host` checks the key, `routes` answers,
//! and `json` has the shapes. `commands` are clients of a running host or work on its data; `demo` shows it all.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![deny(clippy::cast_possible_truncation, unreachable_pub)]

mod audit;
mod blocking;
mod caller;
mod cluster;
mod command_error;
mod commands;
mod config;
mod demo;
mod host;
mod http_error;
mod json;
mod log;
mod port;
mod query;
mod response;
mod routes;
mod serve;
mod timestamp;

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use command_error::{CommandError, CommandResult};
use commands::operator::{
    accounts, audit as audit_command, backup, reload as reload_command, unowned,
};
use commands::{
    bench, check, client, completions, dead, deliveries, find, health, inspect, migrate, publish,
    screen, secret, stats, tail, verify, webhooks,
};

/// Returns memory to the system that glibc's allocator would keep: many threads allocate and free pages
/// of the outbox.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Routes WhatsApp Business events to webhooks.
///
/// Exit codes: 0 done; 1 failed; 2 the command line, the configuration or the input is wrong; 3 no host
/// answers; 4 the API key is missing or refused; 5 not found; 6 busy, try again.
#[derive(Parser)]
#[command(name = "wabahook", version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: ProgramCommand,
}

#[derive(Subcommand)]
enum ProgramCommand {
    /// Serve the HTTP API until SIGTERM or SIGINT
    Serve(config::ServeArgs),
    /// Show the engine at work: ten receivers, real events, one kill -9, and what became of each delivery
    Demo(demo::DemoArgs),
    /// Publish events to a running host
    Publish(publish::PublishArgs),
    /// Find a message: what became of it, and every attempt
    Find(find::FindArgs),
    /// List, add, edit, remove, pause, resume or test the webhooks of a running host
    Webhooks(webhooks::WebhooksArgs),
    /// List, show, replay or discard the dead letters of a running host
    Dead(dead::DeadArgs),
    /// Give a webhook of a running host another secret
    Secret(secret::SecretArgs),
    /// Show the counters of a running host and the webhooks that need attention
    Stats(stats::StatsArgs),
    /// List or cancel the deliveries of a running host
    Deliveries(deliveries::DeliveriesArgs),
    /// End everything that a running host keeps of a contact or a number
    Purge(deliveries::PurgeArgs),
    /// List, create, edit, suspend, move or remove the accounts of a running host, and their keys, with the operator's key
    Accounts(accounts::AccountsArgs),
    /// Move everything from the data directory to the PostgreSQL server of the configuration, or back
    Migrate(migrate::MigrateArgs),
    /// Check a configuration file, and show what it would change
    Check(check::CheckArgs),
    /// Have a running host read its configuration again, with the operator's key
    Reload(reload_command::ReloadArgs),
    /// Follow the notices and counters of a running host
    Tail(tail::TailArgs),
    /// Ask a running host whether it accepts events; needs no key
    Health(health::HealthArgs),
    /// Write a copy of the data directory of a running host, which a new host can open
    Backup(backup::BackupArgs),
    /// List what was changed in a running host, by whom and from where
    Audit(audit_command::AuditArgs),
    /// List the numbers and WABAs of callbacks that no account of a running host owns
    Unowned(unowned::UnownedArgs),
    /// Check the signatures of a delivery
    Verify(verify::VerifyArgs),
    /// Show what is in a data directory that no engine has open
    Inspect(inspect::InspectArgs),
    /// Measure how many events this machine accepts and delivers per second
    Bench(bench::BenchArgs),
    /// Print the completion script of a shell
    Completions(completions::CompletionsArgs),
    /// The engine process of the demo
    #[command(hide = true)]
    DemoEngine(demo::EngineArgs),
}

fn main() -> ExitCode {
    refuse_huge_pages();
    quiet_caught_panics();
    let line = client::host_options_last(std::env::args_os());
    let (result, json) = match CommandLine::try_parse_from(line).map(|line| line.command) {
        Ok(command) => command.run(),
        Err(error) => (explained(&error).map(|()| ExitCode::SUCCESS), false),
    };
    result.unwrap_or_else(|error| {
        let line = if json { error.json() } else { format!("wabahook: {}", error.message()) };
        // If stderr is closed, only the exit code tells what happened.
        let _ = writeln!(std::io::stderr(), "{line}");
        ExitCode::from(error.exit_code())
    })
}

/// With transparent huge pages, each of a thousand threads that wait for receivers would hold a page of
/// 2 MB. The allocator uses none.
fn refuse_huge_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// The engine catches sled's panics at damaged files and returns an error that says what to do. The text of such a
/// panic would only hide it. Panics of sled's own threads, which nobody catches, are printed.
fn quiet_caught_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_sled = |file: &str| file.contains("/sled-") || file.contains("\\sled-");
        let thread = std::thread::current();
        let is_own = |name: &str| name == "main" || name.starts_with("wabahook");
        let is_own_thread = thread.name().is_some_and(is_own);
        match is_own_thread && panic.location().is_some_and(|place| is_sled(place.file())) {
            true => tracing::debug!("{panic}"),
            false => print(panic),
        }
    }));
}

impl ProgramCommand {
    /// Runs the command. Returns also whether to print an error as JSON.
    fn run(&self) -> (CommandResult<ExitCode>, bool) {
        let (done, json) = match self {
            ProgramCommand::Demo(args) => {
                return (demo::run(args).map_err(CommandError::Run), false);
            }
            ProgramCommand::DemoEngine(args) => return (Ok(demo::run_engine(args)), false),
            ProgramCommand::Completions(args) => {
                completions::run(args, &CommandLine::command());
                (Ok(()), false)
            }
            ProgramCommand::Serve(args) => (serve::run(args), false),
            ProgramCommand::Publish(args) => (publish::run(args), args.host.json),
            ProgramCommand::Find(args) => (find::run(args), args.host.json),
            ProgramCommand::Secret(args) => (secret::run(args), args.host.json),
            ProgramCommand::Stats(args) => (stats::run(args), args.host.json),
            ProgramCommand::Webhooks(args) => (webhooks::run(args), args.host.json),
            ProgramCommand::Dead(args) => (dead::run(args), args.host.json),
            ProgramCommand::Deliveries(args) => (deliveries::run(args), args.host.json),
            ProgramCommand::Purge(args) => (deliveries::purge(args), args.host.json),
            ProgramCommand::Accounts(args) => (accounts::run(args), args.host.json),
            ProgramCommand::Check(args) => (check::run(args), args.json),
            ProgramCommand::Reload(args) => (reload_command::run(args), args.host.json),
            ProgramCommand::Tail(args) => (tail::run(args), args.host.json),
            ProgramCommand::Health(args) => (health::run(args), args.json),
            ProgramCommand::Backup(args) => (backup::run(args), args.host.json),
            ProgramCommand::Audit(args) => (audit_command::run(args), args.host.json),
            ProgramCommand::Unowned(args) => (unowned::run(args), args.host.json),
            ProgramCommand::Verify(args) => (verify::run(args), args.json),
            ProgramCommand::Inspect(args) => (inspect::run(args), args.json),
            ProgramCommand::Migrate(args) => (migrate::run(args), args.json),
            ProgramCommand::Bench(args) => (bench::run(args), args.json),
        };
        (done.map(|()| ExitCode::SUCCESS), json)
    }
}

/// Prints help and version; any other problem becomes one line.
fn explained(error: &clap::Error) -> CommandResult {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        screen::say(error.to_string().trim_end());
        return Ok(());
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Err(CommandError::Usage("no command given; see wabahook --help".to_owned()));
    }
    let text = error.to_string();
    let first_part = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first_part.split_whitespace().collect();
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    Err(CommandError::Usage(format!("{line}; see wabahook --help")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(line: &[&str], says: &str) {
        let error = CommandLine::try_parse_from(line).err().unwrap();
        let Err(CommandError::Usage(message)) = explained(&error) else {
            panic!("another failure")
        };
        assert!(message.contains(says) && !message.contains('\n'), "{message}");
    }

    #[test]
    fn a_wrong_command_line_is_one_line() {
        check_refused(&["wabahook"], "no command");
        check_refused(&["wabahook", "serve"], "--config <FILE>");
        check_refused(&["wabahook", "serve", "--confg", "x"], "--confg");
        check_refused(&["wabahook", "serv"], "serv");
    }

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn help_is_no_error() {
        let error = CommandLine::try_parse_from(["wabahook", "--help"]).err().unwrap();
        assert!(explained(&error).is_ok());
    }
}
