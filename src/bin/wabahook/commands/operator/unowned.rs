//! `wabahook unowned`: the numbers and WABAs that callbacks named and no account of a running host owns.

use clap::Args;

use crate::command_error::CommandResult;
use crate::commands::client::HostOptions;
use crate::commands::screen::printable;
use crate::json::UnownedJson;

/// The command line of `unowned`.
#[derive(Args)]
pub(crate) struct UnownedArgs {
    /// How many at most
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

const TITLES: [&str; 5] = ["LAST", "FIRST", "NUMBER", "WABA", "EVENTS"];

/// Runs the command.
pub(crate) fn run(args: &UnownedArgs) -> CommandResult {
    let client = args.host.client()?;
    let response = client.get("/admin/unowned", &[("limit", &args.limit.to_string())])?;
    args.host.say_page(
        &client,
        &response,
        &TITLES,
        row,
        "no unowned numbers or WABAs since the host started",
    )
}

fn row(source: &UnownedJson) -> Vec<String> {
    let shown = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), printable);
    vec![
        source.last_at.to_string(),
        source.first_at.to_string(),
        shown(&source.number),
        shown(&source.waba),
        source.events.to_string(),
    ]
}
