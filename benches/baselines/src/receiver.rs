//! Builds, starts and reads the other programs of a comparison: the receivers, the engine's own run,
//! and webhooksmith. The receivers report when the last delivery arrived.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::time::{ClockId, clock_gettime};

use crate::{Outcome, Work};

/// Nanoseconds of the monotonic clock, which all processes share.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// A run fails after this time.
const RUN_MAX_MS: u64 = 120_000;

/// Builds one of the engine's own benches.
fn build_bench(name: &str) -> Outcome<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    built(&["bench", "--no-run", "--bench", name], &manifest, "\"kind\":[\"bench\"]")
}

/// The figure of a RESULT line.
fn figure(text: &str, what: &str) -> Outcome<f64> {
    let line = text.lines().find(|line| line.contains(&format!("what={what} ")));
    let line = line.ok_or_else(|| format!("the engine's run failed: {text}"))?;
    let value = line.split_whitespace().find_map(|field| field.strip_prefix("figure="));
    Ok(value.ok_or("half a line")?.parse()?)
}

/// The program of `cargo bench --bench networks`.
pub(crate) struct Networks(PathBuf);

impl Networks {
    pub(crate) fn build() -> Outcome<Networks> {
        build_bench("networks").map(Networks)
    }

    /// Deliveries a second of the engine to so many subscriptions at 100 ms.
    pub(crate) fn own(&self, subscriptions: usize) -> Outcome<f64> {
        let what = format!("networks_{subscriptions}_at_100_ms");
        let output = Command::new(&self.0).args(["--bench", "--only", &what]).output()?;
        figure(&String::from_utf8(output.stdout)?, &what)
    }
}

/// The program of `cargo bench --bench fanout`.
pub(crate) struct Fanout(PathBuf);

impl Fanout {
    pub(crate) fn build() -> Outcome<Fanout> {
        build_bench("fanout").map(Fanout)
    }

    /// Deliveries a second of the engine, and raw requests a second of blocking threads.
    pub(crate) fn own(&self, fan_out: usize, deliveries: usize) -> Outcome<(f64, f64)> {
        let mut run = Command::new(&self.0);
        run.args(["--bench", "--runs", "1", "--deliveries", &deliveries.to_string()]);
        let output = run.args(["--only", &format!("fanout_{fan_out}")]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let own = figure(&text, &format!("fanout_{fan_out}"))?;
        Ok((own, figure(&text, &format!("fanout_{fan_out}_raw_blocking"))?))
    }

    pub(crate) fn receiver(&self) -> Outcome<Receiver> {
        let mut process = Command::new(&self.0)
            .arg("--receive")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let asks = process.stdin.take().ok_or("the receiver cannot be asked")?;
        let stdout = process.stdout.take().ok_or("the receiver cannot be heard")?;
        let mut receiver = Receiver { process, asks, answers: BufReader::new(stdout), port: 0 };
        receiver.port = receiver.heard()?.strip_prefix("port ").ok_or("no port")?.parse()?;
        Ok(receiver)
    }
}

/// When a receiver answers, as `benches/support/receiver_process.rs` says.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    AtOnce,
    After100Ms,
}

/// The receivers of the deliveries.
pub(crate) struct Receiver {
    process: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    port: u16,
}

impl Receiver {
    /// The n-th of the receivers that answer at once, or of those that answer after 100 ms.
    pub(crate) fn url(&self, kind: Kind, n: usize) -> String {
        let kind = match kind {
            Kind::AtOnce => 1,
            Kind::After100Ms => 19,
        };
        format!("http://127.{kind}.{}.{}:{}/hook", n / 200, n % 200 + 1, self.port)
    }

    /// Counts so many deliveries from now on; [`reached`](Self::reached) returns when they had arrived.
    pub(crate) fn expect(&mut self, count: usize) -> Outcome {
        self.ask("reset")?;
        self.heard()?;
        self.ask(&format!("until {count} {RUN_MAX_MS}"))
    }

    /// When the last expected delivery arrived, by [`now_ns`].
    pub(crate) fn reached(&mut self) -> Outcome<u64> {
        let line = self.heard()?;
        let reached = line.strip_prefix("reached ");
        Ok(reached.ok_or_else(|| format!("{line} in time"))?.parse()?)
    }

    fn ask(&mut self, line: &str) -> Outcome {
        Ok(self.asks.write_all(format!("{line}\n").as_bytes())?)
    }

    fn heard(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program in `webhooksmith/`.
pub(crate) fn build_webhooksmith() -> Outcome<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("webhooksmith/Cargo.toml");
    built(&["build", "--release"], &manifest, "\"kind\":[\"bin\"]")
}

/// Returns when it began to publish. It ends when everything has arrived.
pub(crate) fn run_webhooksmith(
    program: &Path,
    work: &Work,
    shipped: bool,
    receiver: &mut Receiver,
) -> Outcome<(u64, Ended)> {
    let mut run = Command::new(program);
    run.arg(work.directory.join("webhooks.db")).arg(work.events.to_string());
    run.arg(if shipped { "shipped" } else { "full" }).args(&work.urls);
    receiver.expect(work.events * work.urls.len())?;
    let mut process = run.stdout(Stdio::piped()).spawn()?;
    let stdout = process.stdout.take().ok_or("webhooksmith cannot be heard")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let began = line.trim_end().strip_prefix("began ").and_then(|ns| ns.parse().ok());
    Ok((began.ok_or("webhooksmith did not begin")?, Ended(process)))
}

/// Ends a process that would go on for ever.
pub(crate) struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many syncs of 1 KiB the device makes in a second, which every baseline waits for.
pub(crate) fn syncs_per_s(directory: &Path) -> Outcome<f64> {
    let mut file = std::fs::File::create(directory.join("probe"))?;
    let (started_ns, mut syncs) = (now_ns(), 0);
    while now_ns() - started_ns < PROBE_NS {
        file.write_all(&[7; 1024])?;
        file.sync_data()?;
        syncs += 1;
    }
    Ok(f64::from(syncs) * 1e9 / (now_ns() - started_ns) as f64)
}

const PROBE_NS: u64 = 300_000_000;

/// Builds a program with cargo and returns its path.
fn built(what: &[&str], manifest: &Path, kind: &str) -> Outcome<PathBuf> {
    let output = Command::new("cargo")
        .args(what)
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--message-format=json")
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let programs = text.lines().filter(|line| line.contains(kind));
    let mut paths = programs.filter_map(|line| {
        let (_, path) = line.split_once("\"executable\":\"")?;
        path.split_once('"').map(|(path, _)| PathBuf::from(path))
    });
    Ok(paths.next_back().ok_or("cargo built no program")?)
}
