//! `wabahook deliveries cancel` and `wabahook purge`. Nothing ends that the command line does not name.

use clap::{Args, Subcommand};

use super::client::HostOptions;
use super::screen::{counted, say, say_json};
use super::webhooks::find;
use crate::command_error::CommandError;
use crate::json::{CancelJson, CancelledJson, PurgeJson, PurgedJson, Text, Whole};

/// The command line of `deliveries`.
#[derive(Args)]
pub(crate) struct DeliveriesArgs {
    #[command(subcommand)]
    action: DeliveriesAction,
}

#[derive(Subcommand)]
enum DeliveriesAction {
    /// Cancel owed deliveries
    Cancel(CancelArgs),
}

#[derive(Args)]
struct CancelArgs {
    /// Those of this webhook
    #[arg(long, value_name = "ID|NAME")]
    webhook: Option<String>,
    /// Those in one of these states: owed, retrying, blocked
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<String>,
    #[command(flatten)]
    host: HostOptions,
}

/// The command line of `purge`.
#[derive(Args)]
pub(crate) struct PurgeArgs {
    /// The events of this WABA number
    #[arg(long)]
    number: Option<String>,
    /// The events of this contact, or with this key
    #[arg(long)]
    contact: Option<String>,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

impl DeliveriesArgs {
    /// Whether to print JSON.
    pub(crate) fn json(&self) -> bool {
        let DeliveriesAction::Cancel(args) = &self.action;
        args.host.json
    }
}

/// Runs `deliveries`.
pub(crate) fn run(args: &DeliveriesArgs) -> Result<(), CommandError> {
    let DeliveriesAction::Cancel(args) = &args.action;
    if args.webhook.is_none() && args.state.is_empty() {
        return Err(CommandError::Usage("name --webhook, --state or both".to_owned()));
    }
    let states = args.state.iter().map(|state| {
        let wrong = || CommandError::Usage(format!("{state:?} is not owed, retrying or blocked"));
        state.parse().map(Text).map_err(|_| wrong())
    });
    let states = states.collect::<Result<Vec<_>, _>>()?;
    let client = args.host.client()?;
    let webhook = args.webhook.as_deref().map(|webhook| find(&client, webhook)).transpose()?;
    let body = CancelJson {
        subscription: webhook.map(|item| Whole(item.id)),
        state: Some(states).filter(|states| !states.is_empty()),
        ..CancelJson::default()
    };
    let response = client.post("/deliveries/cancel", &body)?;
    if args.host.json {
        say_json(&response);
    } else {
        let CancelledJson { cancelled, .. } = client.typed(&response)?;
        say(&format!("cancelled: {}", counted(cancelled, "delivery", "deliveries")));
    }
    Ok(())
}

/// Runs `purge`.
pub(crate) fn purge(args: &PurgeArgs) -> Result<(), CommandError> {
    if args.number.is_none() && args.contact.is_none() {
        return Err(CommandError::Usage("name --number, --contact or both".to_owned()));
    }
    let number = args.number.as_ref().map(|number| {
        let wrong = || CommandError::Usage(format!("--number: {number:?} is not a number"));
        number.parse().map(Text).map_err(|_| wrong())
    });
    let client = args.host.client()?;
    let body =
        PurgeJson { number: number.transpose()?, contact: args.contact.clone(), account: None };
    let response = client.post("/purge", &body)?;
    if args.host.json {
        say_json(&response);
    } else {
        let PurgedJson { purged } = client.typed(&response)?;
        say(&format!("purged: {}", counted(purged, "delivery", "deliveries")));
    }
    Ok(())
}
