//! `wabahook demo`: starts receivers and an engine process that publishes and delivers, kills that process
//! without warning, starts another one on the same directory, and shows what became of each delivery. With
//! `--replicated` the second process waits for the ownership of a store on two PostgreSQL servers while the first one
//! has it, and one of the servers is killed too. The result rests on what the receivers themselves saw. The processes
//! and their files are gone when the demo ends, however it ends.

mod endpoints;
mod engine;
mod ledger;
mod process;
mod receivers;
mod report;
mod samples;
mod screen;
#[cfg(unix)]
#[allow(dead_code, reason = "the tests use the rest")]
mod servers;
mod table;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use indicatif::HumanCount;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use wabahook::clock::{Clock, SystemClock};

pub(crate) use engine::{EngineArgs, run as run_engine};

use endpoints::ENDPOINTS;
use ledger::DeliveryLedger;
use process::{DemoPlace, EngineOrders, EngineProcess};
use receivers::{DemoReceivers, DemoStage};
use report::EngineReport;
use screen::DemoScreen;
#[cfg(unix)]
use servers::Servers;
use table::{endpoint_list, remarks, sentence, table};

/// Ten receivers, real WhatsApp events, one kill -9, and what became of each delivery.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DemoArgs {
    /// How long the demo takes, in seconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(4..=3_600))]
    seconds: u64,
    /// How many events to publish per second; each goes to two or three receivers.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(10..=20_000))]
    rate: u64,
    /// Keep everything on two PostgreSQL servers, which are started for it, and kill one of two hosts and one of the
    /// servers. Takes at least 16 seconds, and needs Debian's package `postgresql`.
    #[arg(long)]
    replicated: bool,
    /// Forget one delivery before the result is computed, to show that it is found.
    #[arg(long, hide = true)]
    lose_one: bool,
}

/// Runs the demo to its end. Exit code 0 when nothing was lost, 1 when something was, 130 when it was
/// interrupted. Call it outside of any async runtime: it starts its own.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the receivers' runtime: {error}"))?;
    if args.replicated {
        return run_replicated(args, &runtime);
    }
    let directory = tempfile::Builder::new().prefix("wabahook-demo-").tempdir();
    let directory = directory.map_err(|error| format!("cannot create a directory: {error}"))?;
    let place = DemoPlace::Directory(directory.path().to_owned());
    runtime.block_on(DemoRun::new(args).play(&place))
}

#[cfg(unix)]
fn run_replicated(args: &DemoArgs, runtime: &Runtime) -> Result<ExitCode, String> {
    let servers = Servers::start();
    let mut servers =
        servers.map_err(|why| format!("the demo needs two PostgreSQL servers: {why}"))?;
    runtime.block_on(DemoRun::new(args).play_replicated(&mut servers))
}

#[cfg(not(unix))]
fn run_replicated(_: &DemoArgs, _: &Runtime) -> Result<ExitCode, String> {
    Err("the demo starts PostgreSQL servers from Debian's package".to_owned())
}

/// The demo as it runs.
struct DemoRun<'a> {
    args: &'a DemoArgs,
    stage: DemoStage,
    screen: DemoScreen,
    interrupt: Pin<Box<dyn Future<Output = std::io::Result<()>>>>,
    failure: Option<String>,
    /// Whether a process that lives now has accepted an event.
    has_accepted: bool,
    /// Endpoints known to be disabled: several attempts in flight may each report it.
    disabled: BTreeSet<usize>,
}

/// Why watching an engine process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WatchEnd {
    /// The time to kill has come.
    Due,
    /// The engine process ended.
    Ended,
    /// The user pressed Ctrl-C.
    Interrupted,
}

/// When the process is killed and when publishing ends, in thousandths of the demo.
const KILL: u64 = 500;
const PUBLISH_END: u64 = 800;

/// When the host and the primary of the replicated demo are killed, and how long it takes at least: another host takes
/// over 3 s after a kill. The host is not killed just when an endpoint is disabled, which it could not report.
const HOST_KILL: u64 = 320;
const PRIMARY_KILL: u64 = 550;
const REPLICATED_MS_MIN: u64 = 16_000;

/// How often to update the screen.
const TICK: Duration = Duration::from_millis(50);

impl<'a> DemoRun<'a> {
    fn new(args: &'a DemoArgs) -> DemoRun<'a> {
        let ledger = Arc::new(Mutex::new(DeliveryLedger::new(ENDPOINTS)));
        let clock = Arc::new(SystemClock::new());
        let min_ms = if args.replicated { REPLICATED_MS_MIN } else { 0 };
        DemoRun {
            args,
            stage: DemoStage { clock, show_ms: (args.seconds * 1_000).max(min_ms), ledger },
            screen: DemoScreen::new(),
            interrupt: Box::pin(tokio::signal::ctrl_c()),
            failure: None,
            has_accepted: false,
            disabled: BTreeSet::new(),
        }
    }

    async fn play(mut self, place: &DemoPlace) -> Result<ExitCode, String> {
        let receivers = self.begin("one kill -9 halfway").await?;
        let mut first = self.start(1, place, &receivers)?;
        if let Some(code) = self.watch_until(&mut first, self.time_ms(KILL)).await? {
            return Ok(code);
        }
        self.kill(&mut first).await?;
        let mut second = self.start(2, place, &receivers)?;
        self.watch_to_the_end(&mut second, "one kill -9").await
    }

    /// Once the first process owns the store, the second one is started and waits for it.
    #[cfg(unix)]
    async fn play_replicated(mut self, servers: &mut Servers) -> Result<ExitCode, String> {
        let killed = "one killed host and one killed primary";
        let receivers = self.begin(killed).await?;
        let place = DemoPlace::Servers(servers.connection());
        let mut first = self.start(1, &place, &receivers)?;
        if let Some(code) = self.watch_until(&mut first, 0).await? {
            return Ok(code);
        }
        let mut second = self.start(2, &place, &receivers)?;
        if let Some(code) = self.watch_until(&mut first, self.time_ms(HOST_KILL)).await? {
            return Ok(code);
        }
        self.kill(&mut first).await?;
        if let Some(code) = self.watch_until(&mut second, self.time_ms(PRIMARY_KILL)).await? {
            return Ok(code);
        }
        self.screen.tell(self.elapsed_ms(), "kill -9 of the primary; its standby is promoted");
        tokio::task::block_in_place(|| {
            servers.kill_primary();
            servers.promote()
        })?;
        self.screen.tell(self.elapsed_ms(), "the standby is the primary now");
        self.watch_to_the_end(&mut second, killed).await
    }

    async fn begin(&mut self, killed: &str) -> Result<DemoReceivers, String> {
        let receivers = receivers::start(ENDPOINTS, &self.stage)
            .await
            .map_err(|error| format!("cannot start the receivers: {error}"))?;
        self.screen.say(&format!(
            "wabahook demo: {} events/s from docs/samples to ten receivers on loopback, for {} s, \
             with {killed}.\n",
            self.args.rate,
            self.stage.show_ms / 1_000
        ));
        self.screen.say(&endpoint_list(ENDPOINTS));
        Ok(receivers)
    }

    /// Watches a process until it has accepted an event and a time has come. The exit code if the user ends the demo
    /// before.
    async fn watch_until(
        &mut self,
        process: &mut EngineProcess,
        due_ms: u64,
    ) -> Result<Option<ExitCode>, String> {
        match self.watch(process, Some(due_ms)).await {
            WatchEnd::Due => Ok(None),
            WatchEnd::Interrupted => Ok(Some(self.interrupted())),
            WatchEnd::Ended => Err(self.early_end()),
        }
    }

    async fn watch_to_the_end(
        &mut self,
        process: &mut EngineProcess,
        killed: &str,
    ) -> Result<ExitCode, String> {
        match self.watch(process, None).await {
            WatchEnd::Interrupted => Ok(self.interrupted()),
            WatchEnd::Due | WatchEnd::Ended if self.failure.is_some() => Err(self.early_end()),
            WatchEnd::Due | WatchEnd::Ended => Ok(self.finish(killed)),
        }
    }

    fn start(
        &mut self,
        seed: u64,
        place: &DemoPlace,
        receivers: &DemoReceivers,
    ) -> Result<EngineProcess, String> {
        let elapsed_ms = self.elapsed_ms();
        let left_ms = |thousandths: u64| self.time_ms(thousandths).saturating_sub(elapsed_ms);
        // On a very slow machine it still gets a share of the demo.
        let publish_ms = left_ms(PUBLISH_END).max(self.time_ms(100));
        let orders = EngineOrders {
            place: place.clone(),
            receivers: receivers.urls.clone(),
            rate: self.args.rate,
            show_ms: self.stage.show_ms,
            publish_ms,
            end_ms: left_ms(1_000).max(publish_ms + self.time_ms(200)),
            seed,
        };
        let process = EngineProcess::start(&orders)?;
        self.failure = Some("it ended without closing its engine".to_owned());
        let at = match (place, seed) {
            (DemoPlace::Directory(data), 1) => format!("on {}", data.display()),
            (DemoPlace::Directory(_), _) => "on the same directory".to_owned(),
            (DemoPlace::Servers(_), 1) => "on two PostgreSQL servers".to_owned(),
            (DemoPlace::Servers(_), _) => "waits for the ownership".to_owned(),
        };
        let pid = process.id();
        self.screen.tell(elapsed_ms, &format!("engine process {seed} (pid {pid}) {at}"));
        Ok(process)
    }

    async fn kill(&mut self, process: &mut EngineProcess) -> Result<(), String> {
        process.kill()?;
        // Taken after the process ended: a response just before may have no notice.
        let at_ms = self.stage.clock.wall_ms();
        while let Some(report) = process.reports.recv().await {
            self.record(report);
        }
        self.has_accepted = false;
        self.stage.ledger.lock().killed(at_ms);
        let waiting = HumanCount(self.stage.ledger.lock().totals().waiting);
        let text = format!("kill -9, without warning, with {waiting} deliveries outstanding");
        self.screen.tell(self.elapsed_ms(), &text);
        Ok(())
    }

    /// Records the reports of an engine process until it ends, or until `due_ms` where it is given and it has
    /// accepted an event.
    async fn watch(&mut self, process: &mut EngineProcess, due_ms: Option<u64>) -> WatchEnd {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                _ = &mut self.interrupt => return WatchEnd::Interrupted,
                _ = ticks.tick() => {
                    let totals = self.stage.ledger.lock().totals();
                    let elapsed_ms = self.elapsed_ms();
                    self.screen.draw(elapsed_ms, self.stage.show_ms, &totals);
                    if self.screen.is_closed() {
                        return WatchEnd::Interrupted;
                    }
                    if due_ms.is_some_and(|due| elapsed_ms >= due) && self.has_accepted {
                        return WatchEnd::Due;
                    }
                }
                report = process.reports.recv() => match report {
                    Some(report) => self.record(report),
                    None => return WatchEnd::Ended,
                },
            }
        }
    }

    fn record(&mut self, report: EngineReport) {
        let elapsed_ms = self.elapsed_ms();
        let name = |index: usize| ENDPOINTS.get(index).map_or("?", |endpoint| endpoint.name);
        // Locked for each report only: a stalled screen must not block the receivers.
        let ledger = || self.stage.ledger.lock();
        match report {
            EngineReport::Opened { recovered, subscriptions, took_ms } => {
                ledger().listening(self.stage.clock.wall_ms());
                if subscriptions > 0 {
                    let owed = HumanCount(recovered);
                    let text = format!(
                        "recovered in {took_ms} ms: {subscriptions} subscriptions, {owed} \
                         deliveries found owed on disk"
                    );
                    self.screen.tell(elapsed_ms, &text);
                }
            }
            EngineReport::Accepted { published_ms, events } => {
                self.has_accepted = true;
                for event in events {
                    if let Ok(id) = event.id.parse() {
                        ledger().accepted(id, published_ms, &event);
                    }
                }
            }
            EngineReport::Died { event, endpoint } => {
                if let Ok(id) = event.parse() {
                    ledger().died(endpoint, id);
                }
            }
            EngineReport::Disabled { endpoint, .. } if !self.disabled.insert(endpoint) => {}
            EngineReport::Disabled { endpoint, reason } => {
                ledger().disabled(endpoint);
                let name = name(endpoint);
                let text = format!(
                    "{name} is gone ({reason}): disabled, gets no new events; its deliveries are held"
                );
                self.screen.tell(elapsed_ms, &text);
            }
            EngineReport::Noted { text } => self.screen.tell(elapsed_ms, &text),
            EngineReport::Progress { lanes } => ledger().lanes(&lanes),
            EngineReport::Draining => {
                self.screen.tell(elapsed_ms, "publishing ends; owed deliveries drain")
            }
            EngineReport::Closed { lanes } => {
                ledger().lanes(&lanes);
                self.failure = None;
            }
            EngineReport::Failed { why } => self.failure = Some(why),
        }
    }

    /// Shows the result. The exit code says whether every promise was kept.
    fn finish(&mut self, killed: &str) -> ExitCode {
        self.screen.tell(self.elapsed_ms(), "the engine is closed\n");
        let mut ledger = self.stage.ledger.lock();
        if self.args.lose_one {
            ledger.forget_one();
        }
        let result = ledger.result();
        self.screen.say(&table(ENDPOINTS, &result));
        self.screen.say(&remarks(ENDPOINTS, &result));
        self.screen.say(&sentence(&result, killed));
        if result.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn interrupted(&mut self) -> ExitCode {
        self.screen.say("interrupted");
        ExitCode::from(130)
    }

    fn early_end(&mut self) -> String {
        format!("the engine process: {}", self.failure.take().unwrap_or_default())
    }

    fn elapsed_ms(&self) -> u64 {
        self.stage.clock.monotonic_ms()
    }

    fn time_ms(&self, thousandths: u64) -> u64 {
        self.stage.show_ms * thousandths / 1_000
    }
}
