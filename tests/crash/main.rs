//! I1, I2, I3 and I5 across `kill -9`: a process that publishes, delivers and replays is killed at moments
//! picked by a seed, and its directory is opened again, the same one in all rounds.
//!
//! Nothing accepted is missing, no `publish_many` is there in part, no payload is torn, no delivery is
//! repeated outside of the window (`ledger` explains it), no open fails, no dedup key exists without
//! its event, a dead letter stays one or arrives again, each key keeps its order, and the bystander is
//! owed exactly what it was.
//!
//! `cargo test --features testing --test crash` runs 20 rounds with a random seed, which it prints. A longer run:
//!
//! ```sh
//! WABAHOOK_CRASH_ROUNDS=200 WABAHOOK_CRASH_SEED=7 cargo test --features testing --test crash
//! ```
mod child;
mod ledger;
mod place;
mod script;
#[cfg(all(feature = "postgres", target_os = "linux"))]
#[path = "../../src/bin/wabahook/demo/servers.rs"]
#[allow(dead_code, reason = "another test uses the rest")]
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::env;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use wabahook::clock::ManualClock;
use wabahook::{DeadLetterFilter, Engine, Stats};

use ledger::{Delivery, Ledger, Run};
use place::Place;
use support::processes::lines_of;
use support::{DEADLINE, wait_until};
use wabahook::testing::{Arrival, ScriptedReply, ScriptedTransport};

const ROUNDS: u32 = 20;

const CHILD: &str = "WABAHOOK_CRASH_CHILD";

fn main() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Ok(directory) = env::var(CHILD) {
        let (round, seed) = (number("WABAHOOK_CRASH_ROUND"), number("WABAHOOK_CRASH_SEED"));
        let place = Place::of_child(&directory);
        return child::run(&place, round.unwrap() as u32, seed.unwrap());
    }
    if env::args().any(|argument| argument == "--list") {
        return;
    }
    let rounds = number("WABAHOOK_CRASH_ROUNDS").map_or(ROUNDS, |rounds| rounds as u32);
    let seed = number("WABAHOOK_CRASH_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("crash: {rounds} rounds with WABAHOOK_CRASH_SEED={seed}");
    play_all(None, rounds, seed);
    #[cfg(all(feature = "postgres", target_os = "linux"))]
    match servers::Servers::start() {
        Ok(servers) => {
            println!("crash: {rounds} rounds on a replicated PostgreSQL");
            play_all(Some(servers.connection()), rounds, seed);
        }
        Err(why) if env::var_os("WABAHOOK_POSTGRES_INSTALLED").is_none() => {
            println!("crash: skipped on PostgreSQL: {why}");
        }
        Err(why) => panic!("PostgreSQL is installed and its servers do not start: {why}"),
    }
}

/// All rounds in one place.
fn play_all(connection: Option<String>, rounds: u32, seed: u64) {
    let began = Instant::now();
    let directory = tempfile::tempdir().unwrap();
    let place = Place { directory: directory.path().to_owned(), connection };
    let mut ledger = Ledger::default();
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..rounds {
        let verdict = play(&place, round, seed, &mut rng, &mut ledger);
        if let Err(why) = verdict {
            let kept = directory.keep();
            panic!("seed {seed}, round {round}: {why}; the directory is kept: {}", kept.display());
        }
    }
    look(&place, &mut ledger, true).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    let (begun, gone) = generations(&place);
    println!("crash: {:?}, {begun} generations begun, {gone} given back", ledger.totals);
    println!("crash: passed in {:.1} s", began.elapsed().as_secs_f64());
    let totals = ledger.totals;
    assert!(totals.settled > totals.window && totals.dead > 0, "too little was put to the test");
    assert!(totals.replays > u64::from(rounds), "too little was replayed");
    assert!(rounds < ROUNDS || gone > 2, "no generation was ever given back");
}

/// Kills one process, and mostly checks what it left. At the end everything is delivered.
fn play(
    place: &Place,
    round: u32,
    seed: u64,
    rng: &mut fastrand::Rng,
    ledger: &mut Ledger,
) -> Result<(), String> {
    // Sometimes while it opens, otherwise at any line of its work.
    let lines = if rng.u8(..6) == 0 { rng.usize(..8) } else { rng.usize(8..1_500) };
    kill_after(lines, place, round, seed, ledger)?;
    if rng.u8(..4) > 0 {
        look(place, ledger, false)?;
    }
    Ok(())
}

fn kill_after(
    lines: usize,
    place: &Place,
    round: u32,
    seed: u64,
    ledger: &mut Ledger,
) -> Result<(), String> {
    let mut command = Command::new(env::current_exe().unwrap());
    if let Some(connection) = &place.connection {
        command.env(place::CONNECTION, connection);
    }
    let mut child = command
        .env(CHILD, &place.directory)
        .env("WABAHOOK_CRASH_ROUND", round.to_string())
        .env("WABAHOOK_CRASH_SEED", seed.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    ledger.published_again().iter().for_each(|tag| writeln!(input, "{tag}").unwrap());
    drop(input);
    let said = lines_of(child.stdout.take().unwrap(), |line| line);
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

/// Opens the directory, lets everything arrive, checks it and closes. With `drains` it is two hours
/// later, when the bystander is due again, and the bystander accepts everything, too.
fn look(place: &Place, ledger: &mut Ledger, drains: bool) -> Result<(), String> {
    // The bystander accepts nothing before the last check.
    let status = move |host: &str| if drains || host != script::BYSTANDER { 200 } else { 503 };
    let receivers =
        ScriptedTransport::new(move |arrival| ScriptedReply::Status(status(&arrival.host)));
    let receivers = Arc::new(receivers);
    let config = place.config()?.limits(script::limits()).transport(receivers.clone());
    let config = if drains { config.clock(two_hours_ahead()) } else { config };
    let engine = Engine::open(config).map_err(|error| format!("opening: {error}"))?;
    let notices = engine.notices();
    let bystander =
        engine.subscriptions().iter().find(|one| one.name == script::BYSTANDER).map(|one| one.id);
    let owed_to_bystander = |stats: &Stats| {
        let lanes = stats.lanes.iter().filter(|lane| Some(lane.subscription) == bystander);
        lanes.map(|lane| lane.owed).sum::<u64>()
    };
    let is_settled = wait_until(|| {
        let stats = engine.stats();
        stats.owed == if drains { 0 } else { owed_to_bystander(&stats) }
    });
    let owed = owed_to_bystander(&engine.stats());
    let told: Vec<_> = std::iter::from_fn(|| notices.try_next()).collect();
    let late = format!("what is owed did not arrive: {:?}, told {told:?}", engine.stats());
    let letters = engine
        .dead_letters(&DeadLetterFilter::default(), None, usize::MAX)
        .map_err(|error| error.to_string())?
        .items;
    engine.close(DEADLINE).map_err(|error| error.to_string())?;
    let subscriptions = engine.subscriptions();
    let name = |id| subscriptions.iter().find(|one| one.id == id).map(|one| one.name.clone());
    let letters: BTreeSet<Delivery> = letters
        .iter()
        .map(|letter| (name(letter.subscription).unwrap_or_default(), letter.event.to_string()))
        .collect();
    let subscribed: BTreeSet<String> = subscriptions.iter().map(|one| one.name.clone()).collect();
    let mut run = Run::default();
    for Arrival { host, id, body, .. } in receivers.take() {
        let tag = script::tag_of(&body).ok_or_else(|| format!("{id} arrived torn at {host}"))?;
        let status = status(&host);
        ledger.answer(&mut run, "", (host, id), status, &tag)?;
    }
    ledger.closed(run);
    if !is_settled {
        return Err(late);
    }
    ledger.judge(&subscribed, &letters, owed, drains)
}

fn two_hours_ahead() -> Arc<ManualClock> {
    let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    Arc::new(ManualClock::new(wall_ms + 2 * 3_600_000, 1))
}

/// How many generations the outbox began, and how many of them it has deleted.
fn generations(place: &Place) -> (u64, u64) {
    let names = place.names().into_iter();
    let numbers: Vec<u64> = names
        .filter_map(|name| {
            let digits = name.strip_prefix("outbox-")?;
            u64::from_str_radix(digits, 16).ok()
        })
        .collect();
    let begun = numbers.iter().copied().max().unwrap_or(0);
    (begun, begun - numbers.len() as u64)
}
