//! `wabahook health`: whether a running host accepts events, for health checks of containers. It needs no key.

use std::time::Duration;

use axum::http::StatusCode;
use clap::Args;
use serde_json::Value;
use ureq::Agent;

use super::screen::{say, say_json};
use crate::command_error::{CommandError, CommandResult};

/// The command line of `health`.
#[derive(Args)]
pub(crate) struct HealthArgs {
    /// The running host
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7001", env = "WABAHOOK_URL")]
    url: String,
    /// Print JSON, errors included
    #[arg(long)]
    pub(crate) json: bool,
}

/// How long the host may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the command. Exit code 6 while the host accepts no events.
pub(crate) fn run(args: &HealthArgs) -> CommandResult {
    let agent = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(TIMEOUT))
        .build()
        .new_agent();
    let url = args.url.trim_end_matches('/');
    let unreachable = |error: ureq::Error| CommandError::Unreachable(format!("{url}: {error}"));
    let mut response = agent.get(format!("{url}/healthz")).call().map_err(unreachable)?;
    let text = response.body_mut().read_to_string().map_err(unreachable)?;
    let health: Value = serde_json::from_str(&text).unwrap_or_default();
    let status = health.get("status").and_then(Value::as_str).unwrap_or("unknown");
    let reasons = health.get("reasons").and_then(Value::as_array).into_iter().flatten();
    let reasons: Vec<&str> = reasons.filter_map(Value::as_str).collect();
    let line = [&[status], reasons.as_slice()].concat().join(": ");
    if response.status() != StatusCode::OK {
        return Err(CommandError::Busy(line));
    }
    if args.json {
        say_json(&health);
    } else {
        say(&line);
    }
    Ok(())
}
