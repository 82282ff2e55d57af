//! What the benches share: options, data directories, readings of the process, receivers, raw limits,
//! and the RESULT lines. Data is below the build directory or at `--data`, never on a memory file
//! system.

#![allow(dead_code, reason = "every bench uses its own part")]

pub(crate) mod backlog;
pub(crate) mod plot;
pub(crate) mod publishers;
pub(crate) mod raw_file;
pub(crate) mod raw_requests;
pub(crate) mod receiver_process;
#[cfg(feature = "tls")]
pub(crate) mod tls_receiver;
pub(crate) mod transports;

use std::error::Error;
use std::fmt::Display;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wabahook::{Config, Engine, Event, Limits, Subscription};

/// The allocator of the reference host. glibc's keeps freed memory, and makes a thread that publishes
/// wait for one that frees.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a bench can fail with.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// How long an engine may take to close.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(10);

/// A child process, which is killed on drop.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The value of the option `--name`, or `default`.
pub(crate) fn option<T: std::str::FromStr>(name: &str, default: T) -> T {
    text(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The default limits, with `--io-threads N`.
pub(crate) fn limits() -> Limits {
    let limits = Limits::default();
    let threads = option("io-threads", limits.io_threads);
    limits.io_threads(threads)
}

/// The value of the option `--name` as it was given.
pub(crate) fn text(name: &str) -> Option<String> {
    let mut given = std::env::args().skip_while(|given| *given != format!("--{name}"));
    given.nth(1)
}

/// Whether the option `--name` was given.
pub(crate) fn has_option(name: &str) -> bool {
    std::env::args().any(|given| given == format!("--{name}"))
}

/// A fresh directory for data, on the disk that holds the build output.
pub(crate) fn directory(name: &str) -> io::Result<PathBuf> {
    let base =
        text("data").map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).into(), PathBuf::from);
    let path: PathBuf = base.join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// An engine in `path` with this transport.
pub(crate) fn open(path: &Path, transport: impl wabahook::Transport) -> wabahook::Result<Engine> {
    Engine::open(Config::new(path).transport(std::sync::Arc::new(transport)))
}

/// Registers so many subscriptions to all events.
pub(crate) fn subscribe(engine: &Engine, subscriptions: usize) -> wabahook::Result<()> {
    for n in 0..subscriptions {
        let url = format!("https://receiver-{n}.example/hook");
        engine.subscribe(Subscription::to(url)?.name(format!("receiver-{n}")))?;
    }
    Ok(())
}

/// An event of `bytes` bytes that contains its number and cannot be compressed.
pub(crate) fn event(number: u64, bytes: usize) -> Event {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut payload = format!("{{\"event\":{number},\"text\":\"").into_bytes();
    while payload.len() + 2 < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let [byte, ..] = state.to_le_bytes();
        payload.push(b'0' + byte % 75);
    }
    payload.extend_from_slice(b"\"}");
    Event::new("MESSAGE_RECEIVED", payload).number("919999999999")
}

/// Bytes that the files below `path` take on the device.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        // A generation may be deleted meanwhile.
        Err(_) => 0,
    });
    sizes.sum()
}

/// Files that ten thousand endpoints need open, with the outbox.
const FILES: u64 = 32_768;

/// The soft limit of open files is 1,024 on most machines, which a thousand connections exceed. A host
/// with as many endpoints must raise it, too.
pub(crate) fn raise_file_limit() -> Outcome {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(FILES, |maximum| maximum.min(FILES));
    if current.is_some_and(|current| current < wanted) {
        set_file_limit(wanted)?;
        eprintln!("raised the soft limit of open files to {wanted}");
    }
    Ok(())
}

/// Sets the soft limit of open files.
pub(crate) fn set_file_limit(files: u64) -> Outcome {
    let limit = Rlimit { current: Some(files), ..getrlimit(Resource::Nofile) };
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// The number in a line of `/proc/self/status`; sizes are in kB.
pub(crate) fn status(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The same in megabytes (10^6 bytes).
pub(crate) fn status_mb(name: &str) -> f64 {
    status(name).map_or(f64::NAN, |kib| kib as f64) * 1024.0 / 1e6
}

/// How often the threads of this process have gone to sleep.
pub(crate) fn sleeps() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let sleeps = statuses.filter_map(|status| {
        let name = "voluntary_ctxt_switches:";
        status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse::<u64>().ok()
    });
    sleeps.sum()
}

/// CPU time that all threads of this process have used.
pub(crate) fn cpu_time() -> Duration {
    cpu_time_of("self")
}

/// The same of a process, given by its id.
pub(crate) fn cpu_time_of(process: &str) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    // The unit is always a hundredth of a second.
    Duration::from_millis(ticks * 10)
}

/// The median.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    let lower = values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN);
    f64::midpoint(lower, upper)
}

/// Megabytes, of 10^6 bytes.
pub(crate) fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Prints a RESULT line.
pub(crate) fn result(
    bench: &str,
    what: impl Display,
    figure: f64,
    unit: &str,
    limit: (f64, &str),
    ratio: f64,
) {
    let (limit, limit_is) = limit;
    println!(
        "RESULT bench={bench} what={what} figure={figure:.3} unit={unit} limit={limit:.3} \
         limit_is={limit_is} ratio={ratio:.3}"
    );
}
