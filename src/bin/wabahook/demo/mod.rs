//! `wabahook demo`: starts receivers and an engine process that publishes and delivers, kills that process
//! without warning, starts another one on the same directory, and shows what became of each delivery. The
//! result rests on what the receivers themselves saw. The process and the directory are gone when the demo
//! ends, however it ends.

mod endpoints;
mod engine;
mod ledger;
mod process;
mod receivers;
mod report;
mod samples;
mod screen;
mod table;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wabahook::clock::{Clock, SystemClock};

pub(crate) use engine::{EngineArgs, run as run_engine};

use endpoints::ENDPOINTS;
use ledger::DeliveryLedger;
use process::{EngineOrders, EngineProcess};
use receivers::{DemoReceivers, DemoStage};
use report::EngineReport;
use screen::DemoScreen;
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
    let directory = DemoDirectory::new()?;
    runtime.block_on(DemoRun::new(args).play(&directory.path))
}

/// A temporary directory, removed when the demo ends.
struct DemoDirectory {
    path: PathBuf,
}

impl DemoDirectory {
    fn new() -> Result<DemoDirectory, String> {
        let name = format!("wabahook-demo-{}-{}", std::process::id(), SystemClock::new().wall_ms());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)
            .map_err(|error| format!("cannot create {}: {error}", path.display()))?;
        Ok(DemoDirectory { path })
    }
}

impl Drop for DemoDirectory {
    fn drop(&mut self) {
        // If this fails, the system clears its temporary files later.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The demo as it runs.
struct DemoRun<'a> {
    args: &'a DemoArgs,
    stage: DemoStage,
    screen: DemoScreen,
    interrupt: Pin<Box<dyn Future<Output = std::io::Result<()>>>>,
    failure: Option<String>,
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

/// How often to update the screen.
const TICK: Duration = Duration::from_millis(50);

impl<'a> DemoRun<'a> {
    fn new(args: &'a DemoArgs) -> DemoRun<'a> {
        let ledger = Arc::new(Mutex::new(DeliveryLedger::new(ENDPOINTS)));
        let clock = Arc::new(SystemClock::new());
        DemoRun {
            args,
            stage: DemoStage { clock, show_ms: args.seconds * 1_000, ledger },
            screen: DemoScreen::new(),
            interrupt: Box::pin(tokio::signal::ctrl_c()),
            failure: None,
            disabled: BTreeSet::new(),
        }
    }

    async fn play(mut self, data: &Path) -> Result<ExitCode, String> {
        let receivers = receivers::start(ENDPOINTS, &self.stage)
            .await
            .map_err(|error| format!("cannot start the receivers: {error}"))?;
        self.screen.say(&format!(
            "wabahook demo: {} events/s from docs/samples to ten receivers on loopback, for {} s, \
             with one kill -9 halfway.\n",
            self.args.rate, self.args.seconds
        ));
        self.screen.say(&endpoint_list(ENDPOINTS));
        let mut first = self.start(1, data, &receivers)?;
        let kill_ms = self.time_ms(KILL);
        match self.watch(&mut first, Some(kill_ms)).await {
            WatchEnd::Due => {}
            WatchEnd::Interrupted => return Ok(self.interrupted()),
            WatchEnd::Ended => return Err(self.early_end(1)),
        }
        self.kill(&mut first).await?;
        let mut second = self.start(2, data, &receivers)?;
        match self.watch(&mut second, None).await {
            WatchEnd::Interrupted => Ok(self.interrupted()),
            WatchEnd::Due | WatchEnd::Ended if self.failure.is_some() => Err(self.early_end(2)),
            WatchEnd::Due | WatchEnd::Ended => Ok(self.finish()),
        }
    }

    fn start(
        &mut self,
        seed: u64,
        data: &Path,
        receivers: &DemoReceivers,
    ) -> Result<EngineProcess, String> {
        let elapsed_ms = self.elapsed_ms();
        let left_ms = |thousandths: u64| self.time_ms(thousandths).saturating_sub(elapsed_ms);
        // On a very slow machine it still gets a share of the demo.
        let publish_ms = left_ms(PUBLISH_END).max(self.time_ms(100));
        let orders = EngineOrders {
            data,
            urls: &receivers.urls,
            rate: self.args.rate,
            show_ms: self.stage.show_ms,
            publish_ms,
            end_ms: left_ms(1_000).max(publish_ms + self.time_ms(200)),
            seed,
        };
        let process = EngineProcess::start(&orders)?;
        self.failure = Some(format!("engine process {seed} ended without closing its engine"));
        let (pid, data) = (process.id(), data.display());
        let directory =
            if seed == 1 { format!("on {data}") } else { "on the same directory".into() };
        self.screen.tell(elapsed_ms, &format!("engine process {seed} (pid {pid}) {directory}"));
        Ok(process)
    }

    async fn kill(&mut self, process: &mut EngineProcess) -> Result<(), String> {
        process.kill()?;
        // Only now: a response sent before the process ended may lack its notice.
        let at_ms = self.stage.clock.wall_ms();
        while let Some(report) = process.reports.recv().await {
            self.record(report);
        }
        self.stage.ledger.lock().killed(at_ms);
        let waiting = table::grouped(self.stage.ledger.lock().totals().waiting);
        let text = format!("kill -9, without warning, with {waiting} deliveries outstanding");
        self.screen.tell(self.elapsed_ms(), &text);
        Ok(())
    }

    /// Records the reports of the engine process until it ends, or until `due_ms` where it is given and an
    /// event was accepted.
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
                    if due_ms.is_some_and(|due| elapsed_ms >= due) && totals.accepted > 0 {
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
                    let owed = table::grouped(recovered);
                    let text = format!(
                        "recovered in {took_ms} ms: {subscriptions} subscriptions, {owed} \
                         deliveries found owed on disk"
                    );
                    self.screen.tell(elapsed_ms, &text);
                }
            }
            EngineReport::Accepted { published_ms, events } => {
                for event in events {
                    if let Ok(id) = event.id.parse() {
                        ledger().accepted(id, published_ms, &event);
                    }
                }
            }
            EngineReport::Died { event, endpoint, reason } => {
                if let Ok(id) = event.parse() {
                    ledger().died(endpoint, id, reason);
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
    fn finish(&mut self) -> ExitCode {
        self.screen.tell(self.elapsed_ms(), "the engine is closed\n");
        let mut ledger = self.stage.ledger.lock();
        if self.args.lose_one {
            ledger.forget_one();
        }
        let result = ledger.result();
        self.screen.say(&table(ENDPOINTS, &result));
        self.screen.say(&remarks(ENDPOINTS, &result));
        self.screen.say(&sentence(&result));
        if result.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn interrupted(&mut self) -> ExitCode {
        self.screen.say("interrupted");
        ExitCode::from(130)
    }

    fn early_end(&mut self, seed: u64) -> String {
        let why = self.failure.take().unwrap_or_default();
        format!("engine process {seed}: {why}")
    }

    fn elapsed_ms(&self) -> u64 {
        self.stage.clock.monotonic_ms()
    }

    fn time_ms(&self, thousandths: u64) -> u64 {
        self.stage.show_ms * thousandths / 1_000
    }
}
