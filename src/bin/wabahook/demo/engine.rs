//! The engine process of the demo: opens the directory, or waits for the ownership of the store on the servers,
//! registers the endpoints unless they are there, publishes samples at a rate, drains, closes, and reports all of it.
//! It uses the public API of the library only, and keeps nothing outside its directory.

use std::collections::HashMap;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use wabahook::clock::{Clock, SystemClock};
use wabahook::store::{Postgres, PostgresOptions, StoreFailure};
use wabahook::{
    Account, Config, Engine, Error, Limits, Notice, Notices, Stats, Subscription, SubscriptionId,
};

use super::endpoints::{ENDPOINTS, WABAS, policy};
use super::process::{DemoPlace, EngineOrders};
use super::report::{EngineReport, LaneReport};
use super::samples::prepare;

/// The command line of the engine process.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct EngineArgs {
    #[arg(value_parser = |text: &str| serde_json::from_str::<EngineOrders>(text))]
    orders: EngineOrders,
}

/// Runs the engine until its time is over. Ends silently when the demo is gone.
pub(crate) fn run(EngineArgs { orders }: &EngineArgs) -> ExitCode {
    match play(orders) {
        Ok(()) => ExitCode::SUCCESS,
        Err(EngineStop::DemoGone) => ExitCode::FAILURE,
        Err(EngineStop::Failed(why)) => {
            // The demo may be gone; there is nothing left to do.
            let _ = tell(&EngineReport::Failed { why });
            ExitCode::FAILURE
        }
    }
}

/// Why the engine process ends early.
enum EngineStop {
    /// The demo is gone.
    DemoGone,
    /// The engine refused something.
    Failed(String),
}

impl From<Error> for EngineStop {
    fn from(error: Error) -> EngineStop {
        EngineStop::Failed(error.to_string())
    }
}

fn tell(report: &EngineReport) -> Result<(), EngineStop> {
    report.write(&mut io::stdout().lock()).map_err(|_| EngineStop::DemoGone)
}

/// The engine at work.
struct EngineWork<'a> {
    orders: &'a EngineOrders,
    clock: SystemClock,
    engine: Engine,
    notices: Notices,
    endpoints: HashMap<SubscriptionId, usize>,
    turn: u64,
    published: u64,
    told_at_ms: u64,
}

/// How often to publish: often enough for an even stream, and seldom enough to fill groups.
const TICK_MS: u64 = 20;

/// How often to report the lanes.
const PROGRESS_MS: u64 = 100;

/// How many bodies one tick may publish when it has to catch up.
const BODIES_PER_TICK_MAX: u64 = 64;

fn play(orders: &EngineOrders) -> Result<(), EngineStop> {
    let clock = SystemClock::new();
    let config = config(orders)?;
    let began_ms = clock.monotonic_ms();
    let engine = Engine::open(config)?;
    let notices = engine.notices();
    let opened = EngineReport::Opened {
        recovered: engine.stats().recovered,
        subscriptions: engine.subscriptions().len() as u64,
        took_ms: clock.monotonic_ms() - began_ms,
    };
    tell(&opened)?;
    register(&engine, orders)?;
    let named = |name: &str| ENDPOINTS.iter().position(|endpoint| endpoint.name == name);
    let known = engine.subscriptions();
    let endpoints = known.iter().filter_map(|s| Some((s.id, named(&s.name)?))).collect();
    let (turn, published, told_at_ms) = (0, 0, 0);
    let mut work =
        EngineWork { orders, clock, engine, notices, endpoints, turn, published, told_at_ms };
    work.publish()?;
    tell(&EngineReport::Draining)?;
    work.drain()?;
    work.close()
}

fn config(orders: &EngineOrders) -> Result<Config, EngineStop> {
    let loopback = "127.0.0.0/8".parse().map_err(|_| EngineStop::Failed("no loopback".into()))?;
    let account = Account::new("demo");
    let account = WABAS.iter().fold(account, |a, (id, numbers)| a.waba(*id, numbers.iter()));
    // Every dead letter must be announced here, so the ring holds more than a show can bring.
    let limits = Limits::default().notices_max(1 << 20);
    let place = match &orders.place {
        DemoPlace::Servers(connection) => {
            Config::new("unused").store(Arc::new(owned(connection, orders)?))
        }
        DemoPlace::Directory(path) => Config::new(path),
    };
    Ok(place.account(account).limits(limits).allow_addresses([loopback]).allow_http(true))
}

/// Waits until the other process no longer owns the store.
fn owned(connection: &str, orders: &EngineOrders) -> Result<Postgres, EngineStop> {
    let failed = |failure: StoreFailure| EngineStop::Failed(format!("store: {failure}"));
    let options = PostgresOptions::new(connection).map_err(failed)?;
    let store = Postgres::connect(options.name(orders.seed.to_string())).map_err(failed)?;
    store.acquire(Duration::from_millis(orders.end_ms)).map_err(failed)?;
    Ok(store)
}

/// Registers the endpoints that the directory does not know. The process after the kill finds all
/// of them, and one that was disabled stays so.
fn register(engine: &Engine, orders: &EngineOrders) -> Result<(), EngineStop> {
    let known = engine.subscriptions();
    for (endpoint, url) in ENDPOINTS.iter().zip(&orders.receivers) {
        if known.iter().any(|subscription| subscription.name == endpoint.name) {
            continue;
        }
        let mut subscription = Subscription::to(url)?
            .name(endpoint.name)
            .secret(endpoint.secret())
            .policy(policy(orders.show_ms));
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

impl EngineWork<'_> {
    fn publish(&mut self) -> Result<(), EngineStop> {
        let started_ms = self.clock.monotonic_ms();
        loop {
            let now_ms = self.clock.monotonic_ms();
            if now_ms >= self.orders.publish_ms {
                return Ok(());
            }
            let due = (now_ms + TICK_MS - started_ms) * self.orders.rate / 1_000;
            self.publish_until(due)?;
            self.listen_until(now_ms + TICK_MS)?;
        }
    }

    /// Publishes bodies until as many events are out as are due, and then waits for their receipts,
    /// so that one sync makes all of them durable.
    fn publish_until(&mut self, due: u64) -> Result<(), EngineStop> {
        let is_replicated = matches!(self.orders.place, DemoPlace::Servers(_));
        let mut receipts = Vec::new();
        for _ in 0..BODIES_PER_TICK_MAX {
            if self.published >= due {
                break;
            }
            let prepared = prepare(self.turn, self.orders.seed, self.engine.accounts())
                .map_err(EngineStop::Failed)?;
            let (events, described): (Vec<_>, Vec<_>) = prepared.into_iter().unzip();
            let published_ms = self.clock.wall_ms();
            let receipt = match self.engine.publish_many(events) {
                // The same body comes again with the next tick.
                Err(error) if error.is_busy() => break,
                other => other.map_err(Error::from)?,
            };
            self.turn += 1;
            self.published += described.len() as u64;
            receipts.push((published_ms, described, receipt));
        }
        for (published_ms, mut described, receipt) in receipts {
            let accepted = match receipt.wait() {
                // Nothing was promised: the primary was killed while it was written.
                Err(Error::Unknown { .. } | Error::Refused { .. }) if is_replicated => continue,
                waited => waited?,
            };
            for (event, accepted) in described.iter_mut().zip(accepted) {
                event.id = accepted.id.to_string();
                event.owed = accepted.owed;
            }
            tell(&EngineReport::Accepted { published_ms, events: described })?;
        }
        Ok(())
    }

    /// Reports notices until the given time, and the lanes when they are due.
    fn listen_until(&mut self, until_ms: u64) -> Result<(), EngineStop> {
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
            tell(&EngineReport::Progress { lanes })?;
        }
        Ok(())
    }

    /// Waits until every endpoint that can settle its debts has, or the time is over.
    fn drain(&mut self) -> Result<(), EngineStop> {
        while self.clock.monotonic_ms() < self.orders.end_ms {
            let lanes = self.lanes(&self.engine.stats());
            let settles = |lane: &LaneReport| {
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

    fn close(mut self) -> Result<(), EngineStop> {
        self.engine.close(Duration::from_millis(self.orders.show_ms / 10))?;
        while let Some(notice) = self.notices.try_next() {
            self.tell_notice(notice)?;
        }
        let lanes = self.lanes(&self.engine.stats());
        tell(&EngineReport::Closed { lanes })
    }

    fn lanes(&self, stats: &Stats) -> Vec<LaneReport> {
        let lanes = stats.lanes.iter().filter_map(|lane| {
            let endpoint = *self.endpoints.get(&lane.subscription)?;
            Some(LaneReport { endpoint, owed: lane.owed, retried: lane.retried })
        });
        lanes.collect()
    }

    fn tell_notice(&mut self, notice: Notice) -> Result<(), EngineStop> {
        let endpoint_of = |id: &SubscriptionId| self.endpoints.get(id).copied();
        let report = match &notice {
            Notice::DeadLettered { event, subscription, .. } => endpoint_of(subscription)
                .map(|endpoint| EngineReport::Died { event: event.to_string(), endpoint }),
            Notice::Disabled { subscription, reason } => endpoint_of(subscription)
                .map(|endpoint| EngineReport::Disabled { endpoint, reason: reason.to_string() }),
            _ => None,
        };
        let noted = || EngineReport::Noted { text: format!("{notice:?}") };
        tell(&report.unwrap_or_else(noted))
    }
}
