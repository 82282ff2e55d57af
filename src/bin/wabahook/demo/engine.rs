//! Decides what the engine process does: it opens the directory, registers the cast where it is not
//! registered yet, publishes samples at a rate, drains, closes, and reports all of it.
//!
//! Leaves to others: when it dies (`stage` kills it) and whether it did well (`ledger`). Invariant:
//! it uses the library's public API alone, and keeps nothing that its directory does not hold.

use std::collections::HashMap;
use std::io::{self, Stdout, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use wabahook::clock::{Clock, System};
use wabahook::{
    Account, Config, Engine, Error, EventId, Limits, Notice, Notices, Stats, Subscription,
    SubscriptionId,
};

use super::endpoints::{ENDPOINTS, WABAS, policy};
use super::report::{AcceptedEvent, Lane, Report};
use super::samples::{Prepared, prepare};

/// What the demo tells its engine process.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct EngineArgs {
    /// The data directory.
    #[arg(long)]
    pub(super) data: PathBuf,
    /// Where each endpoint is reached, in the order of the cast.
    #[arg(long, value_delimiter = ',')]
    pub(super) receivers: Vec<String>,
    /// Events a second.
    #[arg(long)]
    pub(super) rate: u64,
    /// The length of the whole show, in milliseconds.
    #[arg(long)]
    pub(super) show_ms: u64,
    /// How long to publish, in milliseconds from the start of the process.
    #[arg(long)]
    pub(super) publish_ms: u64,
    /// How long the process may take in all, in milliseconds.
    #[arg(long)]
    pub(super) end_ms: u64,
    /// Tells the dedup keys of this process from those of the one before.
    #[arg(long)]
    pub(super) seed: u64,
}

/// Runs the engine until its time is over. Ends quietly when nobody reads its reports any more.
pub(crate) fn run(args: &EngineArgs) -> ExitCode {
    let mut reports = Reports { to: io::stdout() };
    match play(args, &mut reports) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::NobodyListens) => ExitCode::FAILURE,
        Err(Stop::Failed(why)) => {
            // Whether somebody reads this is all the same now.
            let _ = reports.tell(&Report::Failed { why });
            ExitCode::FAILURE
        }
    }
}

/// Why the engine process ends early.
enum Stop {
    /// The demo is gone.
    NobodyListens,
    /// The engine refused something.
    Failed(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error.to_string())
    }
}

struct Reports {
    to: Stdout,
}

impl Reports {
    fn tell(&mut self, report: &Report) -> Result<(), Stop> {
        let mut to = self.to.lock();
        report.write(&mut to).and_then(|()| to.flush()).map_err(|_| Stop::NobodyListens)
    }
}

/// The engine at work.
struct Work<'a> {
    args: &'a EngineArgs,
    clock: System,
    engine: Engine,
    notices: Notices,
    places: HashMap<SubscriptionId, usize>,
    reports: &'a mut Reports,
    turn: u64,
    published: u64,
    told_at_ms: u64,
}

/// How often events are published: often enough for an even stream, seldom enough for groups.
const TICK_MS: u64 = 20;

/// How often the lanes are reported.
const PROGRESS_MS: u64 = 100;

/// How many bodies one tick may publish when it has to catch up.
const BODIES_PER_TICK_MAX: u64 = 64;

fn play(args: &EngineArgs, reports: &mut Reports) -> Result<(), Stop> {
    let clock = System::new();
    let engine = Engine::open(config(args)?)?;
    let notices = engine.notices();
    let opened = Report::Opened {
        recovered: engine.stats().recovered,
        subscriptions: engine.subscriptions().len() as u64,
        took_ms: clock.monotonic_ms(),
    };
    reports.tell(&opened)?;
    register(&engine, args)?;
    let named = |name: &str| ENDPOINTS.iter().position(|endpoint| endpoint.name == name);
    let known = engine.subscriptions();
    let places = known.iter().filter_map(|s| Some((s.id, named(&s.name)?))).collect();
    let mut work = Work {
        args,
        clock,
        engine,
        notices,
        places,
        reports,
        turn: 0,
        published: 0,
        told_at_ms: 0,
    };
    work.publish()?;
    work.reports.tell(&Report::Draining)?;
    work.drain()?;
    work.close()
}

fn config(args: &EngineArgs) -> Result<Config, Stop> {
    let loopback = "127.0.0.0/8".parse().map_err(|_| Stop::Failed("no loopback".into()))?;
    let account = Account::new("demo");
    let account = WABAS.iter().fold(account, |a, (id, numbers)| a.waba(*id, numbers.iter()));
    // Every dead letter must be announced here, so the ring holds more than a show can bring.
    let limits = Limits { notices_max: 1 << 20, ..Limits::default() };
    Ok(Config::new(&args.data)
        .account(account)
        .limits(limits)
        .allow_addresses([loopback])
        .allow_http(true))
}

/// Registers the endpoints that the directory does not know. The process after the kill finds all
/// of them, and one that was disabled stays so.
fn register(engine: &Engine, args: &EngineArgs) -> Result<(), Stop> {
    let known = engine.subscriptions();
    for (endpoint, url) in ENDPOINTS.iter().zip(&args.receivers) {
        if known.iter().any(|subscription| subscription.name == endpoint.name) {
            continue;
        }
        let mut subscription = Subscription::to(url)?
            .name(endpoint.name)
            .secret(endpoint.secret())
            .policy(policy(args.show_ms));
        if !endpoint.types.is_empty() {
            subscription = subscription.events(endpoint.types.iter().copied());
        }
        if !endpoint.numbers.is_empty() {
            subscription = subscription.numbers(endpoint.numbers);
        }
        engine.subscribe(subscription)?;
    }
    Ok(())
}

impl Work<'_> {
    fn publish(&mut self) -> Result<(), Stop> {
        let started_ms = self.clock.monotonic_ms();
        loop {
            let now_ms = self.clock.monotonic_ms();
            if now_ms >= self.args.publish_ms {
                return Ok(());
            }
            let due = (now_ms + TICK_MS - started_ms) * self.args.rate / 1_000;
            self.publish_until(due)?;
            self.listen_until(now_ms + TICK_MS)?;
        }
    }

    /// Publishes bodies until as many events are out as are due, and then waits for their receipts,
    /// so that one sync makes all of them durable.
    fn publish_until(&mut self, due: u64) -> Result<(), Stop> {
        let mut receipts = Vec::new();
        for _ in 0..BODIES_PER_TICK_MAX {
            if self.published >= due {
                break;
            }
            let prepared =
                prepare(self.turn, self.args.seed, self.engine.accounts()).map_err(Stop::Failed)?;
            let (events, described) = split(prepared);
            let published_ms = self.clock.wall_ms();
            let receipt = match self.engine.publish_many(events) {
                // The same body comes again with the next tick.
                Err(Error::Busy { .. }) => break,
                other => other?,
            };
            self.turn += 1;
            self.published += described.len() as u64;
            receipts.push((published_ms, described, receipt));
        }
        for (published_ms, mut described, receipt) in receipts {
            for (event, accepted) in described.iter_mut().zip(receipt.wait()?) {
                event.id = accepted.id.to_string();
                event.owed = accepted.owed;
            }
            self.reports.tell(&Report::Accepted { published_ms, events: described })?;
        }
        Ok(())
    }

    /// Reports notices as they come until the given moment, and the lanes when it is time for them.
    fn listen_until(&mut self, until_ms: u64) -> Result<(), Stop> {
        loop {
            let left_ms = until_ms.saturating_sub(self.clock.monotonic_ms());
            match self.notices.next_timeout(Duration::from_millis(left_ms)) {
                Some(notice) => self.tell_notice(notice)?,
                None if left_ms == 0 => break,
                None => {}
            }
        }
        let now_ms = self.clock.monotonic_ms();
        if now_ms >= self.told_at_ms + PROGRESS_MS {
            self.told_at_ms = now_ms;
            let lanes = self.lanes(&self.engine.stats());
            self.reports.tell(&Report::Progress { lanes })?;
        }
        Ok(())
    }

    /// Waits until every endpoint that can settle its debts has, or the time is over.
    fn drain(&mut self) -> Result<(), Stop> {
        while self.clock.monotonic_ms() < self.args.end_ms {
            let lanes = self.lanes(&self.engine.stats());
            let settles = |lane: &Lane| {
                let endpoint = ENDPOINTS.get(lane.endpoint);
                endpoint.is_some_and(|endpoint| endpoint.behaviour.why_it_waits().is_none())
            };
            if lanes.iter().filter(|lane| settles(lane)).all(|lane| lane.owed == 0) {
                break;
            }
            self.listen_until(self.clock.monotonic_ms() + TICK_MS)?;
        }
        Ok(())
    }

    fn close(mut self) -> Result<(), Stop> {
        self.engine.close(Duration::from_millis(self.args.show_ms / 10))?;
        while let Some(notice) = self.notices.try_next() {
            self.tell_notice(notice)?;
        }
        let lanes = self.lanes(&self.engine.stats());
        self.reports.tell(&Report::Closed { lanes })
    }

    fn lanes(&self, stats: &Stats) -> Vec<Lane> {
        let lanes = stats.lanes.iter().filter_map(|lane| {
            let endpoint = *self.places.get(&lane.subscription)?;
            Some(Lane { endpoint, owed: lane.owed, retried: lane.retried })
        });
        lanes.collect()
    }

    fn tell_notice(&mut self, notice: Notice) -> Result<(), Stop> {
        let place = |id: &SubscriptionId| self.places.get(id).copied();
        let report = match &notice {
            Notice::Died { event, subscription, reason } => {
                place(subscription).map(|endpoint| died(*event, endpoint, reason.to_string()))
            }
            Notice::Disabled { subscription, reason } => place(subscription)
                .map(|endpoint| Report::Disabled { endpoint, reason: reason.to_string() }),
            _ => None,
        };
        let noted = || Report::Noted { text: format!("{notice:?}") };
        self.reports.tell(&report.unwrap_or_else(noted))
    }
}

fn died(event: EventId, endpoint: usize, reason: String) -> Report {
    Report::Died { event: event.to_string(), endpoint, reason }
}

fn split(prepared: Vec<Prepared>) -> (Vec<wabahook::Event>, Vec<AcceptedEvent>) {
    let pairs = prepared.into_iter().map(|one| {
        let described = AcceptedEvent {
            id: String::new(),
            event_type: one.event_type,
            place: one.place,
            owed: 0,
            checksum: one.checksum,
        };
        (one.event, described)
    });
    pairs.unzip()
}
