//! `wabahook bench`: how many events this machine accepts and delivers a second on loopback. Each figure is
//! printed with its limit, which the same run measures without an engine. `cargo bench` compares versions.

mod raw;
/// The same plain file that `cargo bench` measures.
#[path = "../../../../../benches/support/raw_file.rs"]
mod raw_file;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use wabahook::{Config, Engine, Event, Limits, Receipt, Subscription};

use super::scratch::ScratchDirectory;
use super::screen::{say, say_json};
use crate::command_error::{CommandError, CommandResult};

/// The command line of `bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// How many events to publish
    #[arg(long, value_name = "COUNT", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    events: u32,
    /// The bytes of each payload
    #[arg(long, value_name = "BYTES", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=1_048_576))]
    bytes: u32,
    /// The directory for the data, and so the disk that is measured [default: the system's temporary
    /// directory, which may be memory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print JSON, errors included
    #[arg(long)]
    pub(crate) json: bool,
}

/// One figure and its limit.
#[derive(Serialize)]
struct BenchFigure {
    what: &'static str,
    figure: f64,
    unit: &'static str,
    limit: f64,
    limit_is: &'static str,
    ratio: f64,
}

/// The times of one run.
struct BenchRun {
    accepting_s: f64,
    delivering_s: f64,
    groups: u64,
}

/// How many receipts are open at a time, as a busy host has.
const RECEIPTS_MAX: usize = 1_024;
/// How long to measure each raw figure.
const RAW_SPAN: Duration = Duration::from_secs(1);
/// How long to wait for the next delivery.
const PATIENCE: Duration = Duration::from_secs(30);
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// Measures and prints.
pub(crate) fn run(args: &BenchArgs) -> CommandResult {
    let scratch = ScratchDirectory::empty(args.data.as_deref())?;
    let receiver = raw::receiver().map_err(failed("a receiver on loopback"))?;
    let payload = payload(args.bytes as usize);
    let engine = open(&scratch)?;
    let measured = measure(args, &engine, &format!("http://{receiver}/hook"), &payload);
    let closed = engine.close(CLOSE_MAX);
    let BenchRun { accepting_s, delivering_s, groups } = measured?;
    closed?;

    let events = f64::from(args.events);
    let per_group = events / groups.max(1) as f64;
    let group_bytes =
        (args.events as usize * payload.len()) / usize::try_from(groups.max(1)).unwrap_or(1);
    let appends = raw::appends_per_s(&scratch.path(), group_bytes, RAW_SPAN)
        .map_err(failed("the raw file"))?;
    let connections = Limits::default().lane_in_flight_max;
    let requests = raw::requests_per_s(receiver, connections, &payload, RAW_SPAN)
        .map_err(failed("the raw requests"))?;
    let accepted = ("accepted", events / accepting_s, "events/s");
    let delivered = ("delivered", events / delivering_s, "deliveries/s");
    let figures = [
        (accepted, appends * per_group, "raw_append_and_sync"),
        (delivered, requests, "raw_keepalive"),
    ]
    .map(|((what, figure, unit), limit, limit_is)| BenchFigure {
        what,
        figure,
        unit,
        limit,
        limit_is,
        ratio: figure / limit,
    });
    tell(args, &figures, per_group);
    Ok(())
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> CommandError {
    move |error| CommandError::Run(format!("{what}: {error}"))
}

fn payload(bytes: usize) -> Vec<u8> {
    let mut payload = vec![b'x'; bytes];
    if let [first, .., last] = payload.as_mut_slice() {
        (*first, *last) = (b'"', b'"');
    }
    payload
}

fn open(scratch: &ScratchDirectory) -> wabahook::Result<Engine> {
    let loopback = ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8);
    Engine::open(Config::new(scratch.path()).allow_addresses([loopback.into()]).allow_http(true))
}

fn measure(
    args: &BenchArgs,
    engine: &Engine,
    url: &str,
    payload: &[u8],
) -> CommandResult<BenchRun> {
    engine.subscribe(Subscription::to(url)?.name("bench"))?;
    let before = engine.stats().groups;
    let started = Instant::now();
    publish(engine, args.events, payload)?;
    let accepting_s = started.elapsed().as_secs_f64();
    let groups = engine.stats().groups - before;
    wait(engine, args.events.into())?;
    Ok(BenchRun { accepting_s, delivering_s: started.elapsed().as_secs_f64(), groups })
}

/// Publishes with a bounded number of open receipts.
fn publish(engine: &Engine, events: u32, payload: &[u8]) -> wabahook::Result<()> {
    let mut open: VecDeque<Receipt> = VecDeque::with_capacity(RECEIPTS_MAX);
    for _ in 0..events {
        if open.len() == RECEIPTS_MAX
            && let Some(oldest) = open.pop_front()
        {
            oldest.wait()?;
        }
        let event = Event::new("MESSAGE_RECEIVED", payload).number("919999999999");
        open.push_back(engine.publish(event)?);
    }
    open.into_iter().try_for_each(|receipt| receipt.wait().map(drop))
}

fn wait(engine: &Engine, events: u64) -> CommandResult {
    let (mut last, mut grew_at) = (0, Instant::now());
    loop {
        let delivered = engine.stats().delivered;
        if delivered >= events {
            return Ok(());
        }
        if delivered > last {
            (last, grew_at) = (delivered, Instant::now());
        } else if grew_at.elapsed() > PATIENCE {
            let message = format!("only {delivered} of {events} were delivered");
            return Err(CommandError::Run(message));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn tell(args: &BenchArgs, figures: &[BenchFigure], per_group: f64) {
    if args.json {
        say_json(&figures);
        return;
    }
    say(&format!("{} events of {} bytes, {per_group:.0} a group", args.events, args.bytes));
    for BenchFigure { what, figure, unit, limit, limit_is, ratio } in figures {
        say(&format!(
            "{what:9} {figure:>9.0} {unit:12}  {limit_is} {limit:>9.0}  ratio {ratio:.2}"
        ));
    }
    for BenchFigure { what, figure, unit, limit, limit_is, ratio } in figures {
        say(&format!(
            "RESULT bench=selftest what={what} figure={figure:.3} unit={unit} limit={limit:.3} \
             limit_is={limit_is} ratio={ratio:.3}"
        ));
    }
}
