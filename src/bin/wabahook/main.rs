//! Decides which part of the reference host runs.
//!
//! Leaves to others: running it (`demo`). Invariant: a failure is one line on standard error and
//! exit code 2.

mod demo;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(version, about)]
enum Command {
    Demo(demo::DemoArgs),
    #[command(hide = true)]
    DemoEngine(demo::EngineArgs),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Demo(args) => demo::run(&args),
        Command::DemoEngine(args) => Ok(demo::run_engine(&args)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("wabahook: {error}");
        ExitCode::from(2)
    })
}
