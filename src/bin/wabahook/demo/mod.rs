//! Decides the order of the demo: receivers up, an engine process that publishes and delivers, a
//! kill without warning, another process on the same directory, and the account at the end.
//!
//! Leaves to others: the cast (`endpoints`, `receivers`), the engine (`engine`, run in a process of
//! its own) and the sums (`ledger`). Invariant: the verdict rests on what the receivers themselves
//! saw, and the process and the directory are gone when the demo ends, however it ends.

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
use wabahook::clock::{Clock, System};

pub(crate) use engine::{EngineArgs, run as run_engine};

use endpoints::ENDPOINTS;
use ledger::Ledger;
use process::{EngineProcess, Orders};
use receivers::{Receivers, Stage};
use report::Report;
use screen::Screen;
use table::{cast_list, remarks, sentence, table};

/// Ten receivers, real WhatsApp events, one kill -9, and the account of every delivery.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DemoArgs {
    /// How long the show takes, in seconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(4..=3_600))]
    seconds: u64,
    /// How many events are published a second; each is owed to two or three receivers.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(10..=20_000))]
    rate: u64,
    /// Forgets one delivery before the account is drawn up, to show that the account finds it.
    #[arg(long, hide = true)]
    lose_one: bool,
}

/// Plays the demo to its end. Exit code 0 when nothing was lost, 1 when something was, 130 when it
/// was interrupted. To be called outside of any async runtime: it brings its own.
///
/// # Errors
/// What could not be started, in one line.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the receivers' runtime: {error}"))?;
    let directory = Directory::new()?;
    runtime.block_on(Show::new(args).play(&directory.path))
}

/// A temporary directory that goes when the demo ends.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn new() -> Result<Directory, String> {
        let name = format!("wabahook-demo-{}-{}", std::process::id(), System::new().wall_ms());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)
            .map_err(|error| format!("cannot create {}: {error}", path.display()))?;
        Ok(Directory { path })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing but disk space hangs on it, and the system clears its temporary files itself.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The demo as it runs.
struct Show<'a> {
    args: &'a DemoArgs,
    stage: Stage,
    screen: Screen,
    interrupt: Pin<Box<dyn Future<Output = std::io::Result<()>>>>,
    failure: Option<String>,
    /// Endpoints known to be disabled: several attempts under way may each be told that they are gone.
    disabled: BTreeSet<usize>,
}

/// Why watching an engine process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    /// It is time.
    Due,
    /// The engine process ended.
    Ended,
    /// The person has seen enough.
    Interrupted,
}

/// The moments of the show, in thousandths: when the process is killed, when publishing ends.
const KILL: u64 = 500;
const PUBLISH_END: u64 = 800;

/// How often the moment and the screen are looked after.
const TICK: Duration = Duration::from_millis(50);

impl<'a> Show<'a> {
    fn new(args: &'a DemoArgs) -> Show<'a> {
        let ledger = Arc::new(Mutex::new(Ledger::new(ENDPOINTS)));
        let clock = Arc::new(System::new());
        Show {
            args,
            stage: Stage { clock, show_ms: args.seconds * 1_000, ledger },
            screen: Screen::new(),
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
             with one kill -9 half-way.\n",
            self.args.rate, self.args.seconds
        ));
        self.screen.say(&cast_list(ENDPOINTS));
        let mut first = self.start(1, data, &receivers)?;
        let kill_ms = self.moment_ms(KILL);
        match self.watch(&mut first, Some(kill_ms)).await {
            Watched::Due => {}
            Watched::Interrupted => return Ok(self.interrupted()),
            Watched::Ended => return Err(self.early_end(1)),
        }
        self.kill(&mut first).await?;
        let mut second = self.start(2, data, &receivers)?;
        match self.watch(&mut second, None).await {
            Watched::Interrupted => Ok(self.interrupted()),
            Watched::Due | Watched::Ended if self.failure.is_some() => Err(self.early_end(2)),
            Watched::Due | Watched::Ended => Ok(self.account()),
        }
    }

    fn start(
        &mut self,
        seed: u64,
        data: &Path,
        receivers: &Receivers,
    ) -> Result<EngineProcess, String> {
        let elapsed_ms = self.elapsed_ms();
        let left_ms = |moment: u64| self.moment_ms(moment).saturating_sub(elapsed_ms);
        // On a machine so slow that its time is over, it still has a share of the show.
        let publish_ms = left_ms(PUBLISH_END).max(self.moment_ms(100));
        let orders = Orders {
            data,
            urls: &receivers.urls,
            rate: self.args.rate,
            show_ms: self.stage.show_ms,
            publish_ms,
            end_ms: left_ms(1_000).max(publish_ms + self.moment_ms(200)),
            seed,
        };
        let process = EngineProcess::start(&orders)?;
        self.failure = Some(format!("engine process {seed} ended without closing its engine"));
        let (pid, data) = (process.id(), data.display());
        let place = if seed == 1 { format!("on {data}") } else { "on the same directory".into() };
        self.screen.tell(elapsed_ms, &format!("engine process {seed} (pid {pid}) {place}"));
        Ok(process)
    }

    async fn kill(&mut self, process: &mut EngineProcess) -> Result<(), String> {
        process.kill()?;
        // Only now: an answer given until the process is gone may lack its notice.
        let at_ms = self.stage.clock.wall_ms();
        while let Some(report) = process.reports.recv().await {
            self.hear(report);
        }
        self.stage.ledger.lock().killed(at_ms);
        let waiting = table::grouped(self.stage.ledger.lock().sums().waiting);
        let text = format!("kill -9, without warning, with {waiting} deliveries outstanding");
        self.screen.tell(self.elapsed_ms(), &text);
        Ok(())
    }

    /// Hears the engine process until it ends or, where there is one, until the moment `due_ms` has
    /// come and something was accepted.
    async fn watch(&mut self, process: &mut EngineProcess, due_ms: Option<u64>) -> Watched {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                _ = &mut self.interrupt => return Watched::Interrupted,
                _ = ticks.tick() => {
                    let sums = self.stage.ledger.lock().sums();
                    let elapsed_ms = self.elapsed_ms();
                    self.screen.draw(elapsed_ms, self.stage.show_ms, &sums);
                    if self.screen.is_closed() {
                        return Watched::Interrupted;
                    }
                    if due_ms.is_some_and(|due| elapsed_ms >= due) && sums.accepted > 0 {
                        return Watched::Due;
                    }
                }
                report = process.reports.recv() => match report {
                    Some(report) => self.hear(report),
                    None => return Watched::Ended,
                },
            }
        }
    }

    fn hear(&mut self, report: Report) {
        let elapsed_ms = self.elapsed_ms();
        let name = |place: usize| ENDPOINTS.get(place).map_or("?", |endpoint| endpoint.name);
        // Locked for each report alone: a screen that stalls must not hold up the receivers.
        let ledger = || self.stage.ledger.lock();
        match report {
            Report::Opened { recovered, subscriptions, took_ms } => {
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
            Report::Accepted { published_ms, events } => {
                for event in events {
                    if let Ok(id) = event.id.parse() {
                        ledger().accepted(id, published_ms, &event);
                    }
                }
            }
            Report::Died { event, endpoint, reason } => {
                if let Ok(id) = event.parse() {
                    ledger().died(endpoint, id, reason);
                }
            }
            Report::Disabled { endpoint, .. } if !self.disabled.insert(endpoint) => {}
            Report::Disabled { endpoint, reason } => {
                ledger().disabled(endpoint);
                let name = name(endpoint);
                let text = format!(
                    "{name} is gone ({reason}): disabled, owed nothing more; what it is owed is held"
                );
                self.screen.tell(elapsed_ms, &text);
            }
            Report::Noted { text } => self.screen.tell(elapsed_ms, &text),
            Report::Progress { lanes } => ledger().lanes(&lanes),
            Report::Draining => {
                self.screen.tell(elapsed_ms, "publishing ends; what is owed drains")
            }
            Report::Closed { lanes } => {
                ledger().lanes(&lanes);
                self.failure = None;
            }
            Report::Failed { why } => self.failure = Some(why),
        }
    }

    /// Shows the account, and says by the exit code whether every promise was kept.
    fn account(&mut self) -> ExitCode {
        self.screen.tell(self.elapsed_ms(), "the engine is closed\n");
        let mut ledger = self.stage.ledger.lock();
        if self.args.lose_one {
            ledger.forget_one();
        }
        let verdict = ledger.verdict();
        self.screen.say(&table(ENDPOINTS, &verdict));
        self.screen.say(&remarks(ENDPOINTS, &verdict));
        self.screen.say(&sentence(&verdict));
        if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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

    fn moment_ms(&self, moment: u64) -> u64 {
        self.stage.show_ms * moment / 1_000
    }
}
