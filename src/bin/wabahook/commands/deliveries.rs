//! `wabahook deliveries` (list, cancel) and `wabahook purge`. Nothing ends that the command line does not name.

use clap::{Args, Subcommand};

use super::client::{ApiClient, HostOptions};
use super::screen::{ConfirmOptions, WatchOptions, counted, printable};
use super::webhooks::named::find;
use crate::command_error::{CommandError, CommandResult};
use crate::json::{
    CancelJson, DeliveryJson, EventTraceJson, JsonPage, PurgeJson, PurgedJson, Text, TimestampJson,
    Whole,
};

/// The command line of `deliveries`.
#[derive(Args)]
pub(crate) struct DeliveriesArgs {
    #[command(subcommand)]
    action: DeliveriesAction,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

#[derive(Subcommand)]
enum DeliveriesAction {
    /// List what is owed and what was given up
    List(ListDeliveriesArgs),
    /// Cancel owed deliveries
    Cancel(CancelArgs),
}

#[derive(Args)]
struct ListDeliveriesArgs {
    #[command(flatten)]
    filter: DeliveryFilterArgs,
    /// Those in these states: owed, retrying, blocked, dead
    #[arg(long, value_name = "STATES")]
    state: Option<String>,
    /// How many at most
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    watch: WatchOptions,
}

/// Which deliveries; all filters must match.
#[derive(Args)]
pub(super) struct DeliveryFilterArgs {
    /// Those of this webhook
    #[arg(long, value_name = "ID|NAME")]
    webhook: Option<String>,
    /// Those of events whose type contains this
    #[arg(long = "type", value_name = "TYPE")]
    pub(super) event_type: Option<String>,
    /// Those of events whose number contains this
    #[arg(long)]
    pub(super) number: Option<String>,
    /// Those whose last reason contains this, such as status:404 or timeout
    #[arg(long)]
    pub(super) reason: Option<String>,
}

impl DeliveryFilterArgs {
    pub(super) fn is_empty(&self) -> bool {
        let texts = [&self.webhook, &self.event_type, &self.number, &self.reason];
        texts.iter().all(|text| text.is_none())
    }

    pub(super) fn webhook_id(&self, client: &ApiClient) -> CommandResult<Option<u32>> {
        self.webhook.as_deref().map(|webhook| Ok(find(client, webhook)?.id)).transpose()
    }

    /// As parameters of a list.
    pub(super) fn query<'a>(
        &'a self,
        webhook_id: Option<&'a str>,
    ) -> [(&'static str, Option<&'a str>); 4] {
        [
            ("subscription", webhook_id),
            ("event_type", self.event_type.as_deref()),
            ("number", self.number.as_deref()),
            ("reason", self.reason.as_deref()),
        ]
    }
}

#[derive(Args)]
struct CancelArgs {
    #[command(flatten)]
    filter: DeliveryFilterArgs,
    /// Those in one of these states: owed, retrying, blocked
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<String>,
    /// Only count them
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    confirm: ConfirmOptions,
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
    confirm: ConfirmOptions,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

/// Runs `deliveries`.
pub(crate) fn run(args: &DeliveriesArgs) -> CommandResult {
    match &args.action {
        DeliveriesAction::List(list_args) => list(&args.host, list_args),
        DeliveriesAction::Cancel(cancel_args) => cancel(&args.host, cancel_args),
    }
}

fn list(host: &HostOptions, args: &ListDeliveriesArgs) -> CommandResult {
    let client = host.client()?;
    let filter = &args.filter;
    let webhook = filter.webhook_id(&client)?.map(|id| id.to_string());
    args.watch.run(|| {
        let state = [("state", args.state.as_deref())];
        let query = [&filter.query(webhook.as_deref())[..], &state].concat();
        let listed = client.list("/deliveries", &query, args.limit)?;
        host.say_page(&client, &listed, &TITLES, row, "no deliveries")
    })
}

const TITLES: [&str; 8] =
    ["ACCEPTED", "WEBHOOK", "STATE", "TYPE", "ATTEMPTS", "REASON", "NEXT ATTEMPT", "EVENT"];

fn row(one: &DeliveryJson) -> Vec<String> {
    let time = |at: &Option<TimestampJson>| at.map(|at| at.to_string()).unwrap_or_default();
    let name = one.subscription_name.as_deref().map(printable);
    vec![
        time(&one.accepted_at),
        name.unwrap_or_else(|| one.subscription.to_string()),
        one.state.clone(),
        one.event_type.as_deref().map(printable).unwrap_or_default(),
        one.attempts.to_string(),
        one.reason.as_deref().map(printable).unwrap_or_default(),
        time(&one.due_at),
        one.event_id.clone(),
    ]
}

fn cancel(host: &HostOptions, args: &CancelArgs) -> CommandResult {
    let filter = &args.filter;
    if filter.is_empty() && args.state.is_empty() {
        let message = "name --webhook, --state, --type, --number or --reason";
        return Err(CommandError::Usage(message.to_owned()));
    }
    let states = args.state.iter().map(|state| {
        let wrong = || CommandError::Usage(format!("{state:?} is not owed, retrying or blocked"));
        state.parse().map(Text).map_err(|_| wrong())
    });
    let states = states.collect::<Result<Vec<_>, _>>()?;
    let client = host.client()?;
    let mut body = CancelJson {
        subscription: filter.webhook_id(&client)?.map(Whole),
        state: Some(states).filter(|states| !states.is_empty()),
        event_type: filter.event_type.clone(),
        number: filter.number.clone(),
        reason: filter.reason.clone(),
        dry_run: true,
    };
    let (route, names) = ("/deliveries/cancel", ("delivery", "deliveries"));
    if !args.dry_run {
        args.confirm.ask(|| client.count_question(route, &body, "cancel", names))?;
    }
    body.dry_run = args.dry_run;
    let response = client.post(route, &body)?;
    host.say_count(&client, &response, "cancelled", names)
}

/// What a purge ended, in words.
pub(super) fn purged_text(ended: &PurgedJson) -> String {
    let purged = counted(ended.purged, "delivery or dead letter", "deliveries and dead letters");
    let erased = counted(ended.erased, "event", "events");
    format!("{purged}; erased from the history: {erased}")
}

/// More events than this are not counted before a purge.
const COUNTED_MAX: usize = 1_000;

/// Asks whether to purge, with the number of events.
fn question(args: &PurgeArgs, client: &ApiClient) -> CommandResult<String> {
    let query = [("number", args.number.as_deref()), ("contact", args.contact.as_deref())];
    let listed = client.list("/events", &query, COUNTED_MAX + 1)?;
    let JsonPage::<EventTraceJson> { items, .. } = client.typed(&listed)?;
    Ok(match items.len() {
        count if count > COUNTED_MAX => format!("purge more than {COUNTED_MAX} events?"),
        count => format!("purge {}?", counted(count as u64, "event", "events")),
    })
}

/// Runs `purge`.
pub(crate) fn purge(args: &PurgeArgs) -> CommandResult {
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
    args.confirm.ask(|| question(args, &client))?;
    let response = client.post("/purge", &body)?;
    args.host.say_as(&client, &response, |ended| format!("purged: {}", purged_text(ended)))
}
