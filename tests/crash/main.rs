//! Promises I1, I2 and I3 over `kill -9`: a process that publishes, delivers and replays is killed at
//! moments picked by a seed, and its directory, the same one over all rounds, is opened again.
//!
//! Nothing accepted is missing, no call of `publish_many` is there in part, no payload is torn, no
//! end comes back beyond the window (`ledger` says what that is), no open fails, no dedup key is
//! there without its event, a dead letter stays one or comes again, and a bystander is owed exactly
//! what it was owed.
//!
//! `cargo test --test crash` makes 20 rounds with a seed of its own, which it prints. The long form:
//!
//! ```sh
//! WABAHOOK_CRASH_ROUNDS=200 WABAHOOK_CRASH_SEED=7 cargo test --test crash
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub,
    reason = "in a test a panic is the verdict, and nobody reads its documentation"
)]

mod child;
mod ledger;
mod script;

use std::collections::BTreeSet;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};
use wabahook::clock::Manual;
use wabahook::{Config, DeadLetterFilter, Engine, Reply, Request, Stats, Transport};

use ledger::{Delivery, Ledger, Run};

const ROUNDS: u32 = 20;

/// No wait lasts longer; nothing passes or fails by how fast it is.
const DEADLINE: Duration = Duration::from_secs(60);

const CHILD: &str = "WABAHOOK_CRASH_CHILD";

fn main() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Ok(directory) = env::var(CHILD) {
        let (round, seed) = (number("WABAHOOK_CRASH_ROUND"), number("WABAHOOK_CRASH_SEED"));
        return child::run(Path::new(&directory), round.unwrap() as u32, seed.unwrap());
    }
    if env::args().any(|argument| argument == "--list") {
        return;
    }
    let rounds = number("WABAHOOK_CRASH_ROUNDS").map_or(ROUNDS, |rounds| rounds as u32);
    let seed = number("WABAHOOK_CRASH_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("crash: {rounds} rounds with WABAHOOK_CRASH_SEED={seed}");
    let began = Instant::now();
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..rounds {
        let verdict = play(directory.path(), round, seed, &mut rng, &mut ledger);
        if let Err(why) = verdict {
            let kept = directory.keep();
            panic!("seed {seed}, round {round}: {why}; the directory is kept: {}", kept.display());
        }
    }
    look(directory.path(), &mut ledger, true).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    let (begun, gone) = generations(directory.path());
    println!("crash: {:?}, {begun} generations begun, {gone} given back", ledger.totals);
    println!("crash: passed in {:.1} s", began.elapsed().as_secs_f64());
    let totals = ledger.totals;
    assert!(totals.settled > totals.window && totals.dead > 0, "too little was put to the test");
    assert!(totals.replays > u64::from(rounds), "too little was replayed");
    assert!(rounds < ROUNDS || gone > 2, "no generation was ever given back");
}

/// One process killed, and mostly a look at what it left; at the end everything is delivered.
fn play(
    directory: &Path,
    round: u32,
    seed: u64,
    rng: &mut fastrand::Rng,
    ledger: &mut Ledger,
) -> Result<(), String> {
    // Now and then while it opens, else at any line of its work.
    let lines = if rng.u8(..6) == 0 { rng.usize(..8) } else { rng.usize(8..1_500) };
    kill_after(lines, directory, round, seed, ledger)?;
    if rng.u8(..4) > 0 {
        look(directory, ledger, false)?;
    }
    Ok(())
}

fn kill_after(
    lines: usize,
    directory: &Path,
    round: u32,
    seed: u64,
    ledger: &mut Ledger,
) -> Result<(), String> {
    let mut child = Command::new(env::current_exe().unwrap())
        .env(CHILD, directory)
        .env("WABAHOOK_CRASH_ROUND", round.to_string())
        .env("WABAHOOK_CRASH_SEED", seed.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    ledger.published_again().iter().for_each(|tag| writeln!(input, "{tag}").unwrap());
    drop(input);
    let said = said_by(&mut child);
    let mut run = Run::default();
    let mut heard = Ok(());
    let mut count = 0;
    let mut is_killed = false;
    loop {
        if count >= lines && !is_killed {
            child.kill().unwrap();
            is_killed = true;
        }
        match said.recv_timeout(DEADLINE) {
            Ok(line) if heard.is_ok() => heard = ledger.hear(&mut run, &line),
            Ok(_) => {}
            Err(error) if is_killed && error == std::sync::mpsc::RecvTimeoutError::Disconnected => {
                break;
            }
            Err(error) => {
                heard = heard.and(Err(format!("after {count} of {lines} lines: {error}")));
                let _ = child.kill();
                break;
            }
        }
        count += 1;
    }
    child.wait().unwrap();
    ledger.killed(run);
    heard
}

/// The lines that a process says, whole ones only.
fn said_by(child: &mut Child) -> Receiver<String> {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut line = String::new();
        while output.read_line(&mut line).is_ok_and(|read| read > 0) && line.ends_with('\n') {
            line.pop();
            if sender.send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Opens the directory, lets everything arrive, judges it and closes. A look that `drains` comes
/// two hours later, when the bystander is tried again, and takes what it was owed too.
fn look(directory: &Path, ledger: &mut Ledger, drains: bool) -> Result<(), String> {
    let receivers = Arc::new(Receivers { drains, ..Receivers::default() });
    let config = Config::new(directory).limits(script::limits()).transport(receivers.clone());
    let config = if drains { config.clock(two_hours_ahead()) } else { config };
    let engine = Engine::open(config).map_err(|error| format!("opening: {error}"))?;
    let notices = engine.notices();
    let bystander =
        engine.subscriptions().iter().find(|one| one.name == script::BYSTANDER).map(|one| one.id);
    let owed_to_bystander = |stats: &Stats| {
        let lanes = stats.lanes.iter().filter(|lane| Some(lane.subscription) == bystander);
        lanes.map(|lane| lane.owed).sum::<u64>()
    };
    let settled = receivers.wait_until(|| {
        let stats = engine.stats();
        stats.owed == if drains { 0 } else { owed_to_bystander(&stats) }
    });
    let owed = owed_to_bystander(&engine.stats());
    let settled = settled.map_err(|why| {
        let told: Vec<_> = std::iter::from_fn(|| notices.try_next()).collect();
        format!("{why}: {:?}, told {told:?}", engine.stats())
    });
    let letters = engine
        .dead_letters(&DeadLetterFilter::default(), None, usize::MAX)
        .map_err(|error| error.to_string())?;
    engine.close(DEADLINE).map_err(|error| error.to_string())?;
    let subscriptions = engine.subscriptions();
    let name = |id| subscriptions.iter().find(|one| one.id == id).map(|one| one.name.clone());
    let letters: BTreeSet<Delivery> = letters
        .iter()
        .map(|letter| (name(letter.subscription).unwrap_or_default(), letter.event.to_string()))
        .collect();
    let subscribed: BTreeSet<String> = subscriptions.iter().map(|one| one.name.clone()).collect();
    let mut run = Run::default();
    for (host, id, status, tag) in std::mem::take(&mut *receivers.arrived.lock()) {
        let tag = tag.ok_or_else(|| format!("{id} came torn to {host}"))?;
        ledger.answer(&mut run, "", (host, id), status, &tag)?;
    }
    ledger.closed(run);
    settled?;
    ledger.judge(&subscribed, &letters, owed, drains)
}

fn two_hours_ahead() -> Arc<Manual> {
    let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    Arc::new(Manual::new(wall_ms + 2 * 3_600_000, 1))
}

/// How many generations the outbox began, and how many of them it has given back.
fn generations(directory: &Path) -> (u64, u64) {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let numbers: Vec<u64> = names
        .filter_map(|name| {
            let digits = name.to_str()?.strip_prefix("outbox-")?.to_owned();
            u64::from_str_radix(&digits, 16).ok()
        })
        .collect();
    let begun = numbers.iter().copied().max().unwrap_or(0);
    (begun, begun - numbers.len() as u64)
}

/// Whose attempt it was, its id, the answer, and the tag of a payload that came whole.
type Arrival = (String, String, u16, Option<String>);

/// Takes everything and notes it; the bystander takes nothing before the last look.
#[derive(Default)]
struct Receivers {
    drains: bool,
    arrived: Mutex<Vec<Arrival>>,
    changed: Condvar,
}

impl Receivers {
    /// Waits until it is so. Ends are noted a moment after they arrive, so arrivals alone cannot
    /// wake it.
    fn wait_until(&self, is_so: impl Fn() -> bool) -> Result<(), String> {
        let deadline = Instant::now() + DEADLINE;
        while !is_so() {
            if Instant::now() > deadline {
                return Err("what is owed did not arrive in time".to_owned());
            }
            let mut arrived = self.arrived.lock();
            self.changed.wait_for(&mut arrived, Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Transport for Receivers {
    fn send(&self, request: &Request<'_>) -> Reply {
        let host = request.url.host().unwrap_or_default().to_owned();
        let takes = self.drains || host != script::BYSTANDER;
        let status = if takes { 200 } else { 503 };
        let (id, tag) = (child::header(request, "webhook-id"), script::tag_of(&request.body));
        self.arrived.lock().push((host, id, status, tag));
        self.changed.notify_all();
        Reply::status(status)
    }

    fn interrupt(&self) {}
}
