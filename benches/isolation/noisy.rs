//! What a noisy account at each of its limits costs a quiet one. The quiet account publishes events at a steady rate
//! to a few endpoints that answer; the noisy one does one thing as fast as it can. Runs with and without it take
//! turns. `ratio` is with by without: of deliveries a second, and of the median and the 99th percentile of the time
//! from `publish` until the receipt.
//!
//! `cargo bench --bench isolation -- --only limit_ --runs 3`; `--rate 1000 --seconds 5` are the quiet account's load.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use wabahook::{Account, AccountLimits, Config, Engine, Error, Event, Subscription};

use super::receiver_process::{Receivers, now_ns};
use super::support::{self, Outcome, median};

const NOISY: (&str, &str) = ("noisy", "919999999999");
const QUIET: (&str, &str) = ("quiet", "918888888888");
const QUIET_ENDPOINTS: usize = 10;
const ARRIVE_MAX_MS: u64 = 60_000;
/// The noisy account pauses so long after a refusal, as a loop that retries does.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// What the noisy account does.
#[derive(Clone, Copy)]
enum Noise {
    /// Events of so many bytes to an endpoint that never answers.
    Owed(usize),
    /// Events to an endpoint that answers.
    Published,
    /// Events to an endpoint that refuses each with 404.
    Dead,
    /// Events with a dedup key each.
    Keyed,
    /// One event to each of so many endpoints that never answer, again and again.
    Hanging(usize),
    /// One event to each of so many endpoints that answer, again and again.
    FanOut(usize),
    /// Test deliveries.
    Tests,
}

struct NoisyScenario {
    what: &'static str,
    noise: Noise,
    limits: AccountLimits,
}

fn scenarios() -> Vec<NoisyScenario> {
    let limits = AccountLimits::default;
    let scenario = |what, noise, limits| NoisyScenario { what, noise, limits };
    vec![
        scenario("limit_owed_events", Noise::Owed(100), limits().owed_events_max(Some(20_000))),
        scenario(
            "limit_owed_bytes",
            Noise::Owed(256 << 10),
            limits().owed_bytes_max(Some(64 << 20)),
        ),
        scenario("limit_publish_rate", Noise::Published, limits().publish_rate(2_000, SECOND)),
        scenario("limit_dead_letters", Noise::Dead, limits().publish_rate(1_000, SECOND)),
        scenario(
            "limit_dedup_keys",
            Noise::Keyed,
            limits().dedup_keys_max(Some(10_000)).publish_rate(2_000, SECOND),
        ),
        scenario("limit_in_flight", Noise::Hanging(5_000), limits().in_flight_max(Some(1_000))),
        scenario(
            "limit_fan_out",
            Noise::FanOut(20_000),
            limits().owed_events_max(Some(FAN_OUT_EVENTS_MAX)),
        ),
        scenario("limit_tests", Noise::Tests, limits()),
    ]
}

const SECOND: Duration = Duration::from_secs(1);

/// How many large fan-outs the noisy account may have in progress: 400,000 deliveries.
const FAN_OUT_EVENTS_MAX: u64 = 20;

/// What the quiet account had.
struct Quiet {
    delivered_per_s: f64,
    accept_ms: f64,
    accept_p99_ms: f64,
    /// What the noisy account did, and what was refused.
    done: u64,
    refused: u64,
}

pub(super) fn measure(only: &str, runs: usize) -> Outcome {
    for scenario in scenarios().into_iter().filter(|scenario| scenario.what.contains(only)) {
        println!("\n{}: a quiet account alone and next to a noisy one", scenario.what);
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for run in 0..runs {
            // They go first alternately.
            for is_noisy in if run % 2 == 0 { [false, true] } else { [true, false] } {
                let quiet = run_once(&scenario, is_noisy)?;
                println!(
                    "  run {run}, noisy {is_noisy}: {:.0} deliveries/s, accepted in {:.2} ms (p99 {:.2}), noise {} ({} refused)",
                    quiet.delivered_per_s,
                    quiet.accept_ms,
                    quiet.accept_p99_ms,
                    quiet.done,
                    quiet.refused
                );
                if is_noisy { with.push(quiet) } else { without.push(quiet) }
            }
        }
        report(&scenario, &without, &with);
    }
    Ok(())
}

type Figure = fn(&Quiet) -> f64;

fn report(scenario: &NoisyScenario, without: &[Quiet], with: &[Quiet]) {
    let figures: [(&str, &str, Figure); 3] = [
        ("", "deliveries/s", |quiet| quiet.delivered_per_s),
        ("_accept", "ms", |quiet| quiet.accept_ms),
        ("_accept_p99", "ms", |quiet| quiet.accept_p99_ms),
    ];
    for (how, unit, figure) in figures {
        // Of the two in one run, which saw the machine in the same phase.
        let pairs = with.iter().zip(without);
        let ratio = median(pairs.map(|(with, without)| figure(with) / figure(without)).collect());
        let limit = (median(without.iter().map(figure).collect()), "without_the_neighbour");
        let with = median(with.iter().map(figure).collect());
        support::result("isolation", format!("{}{how}", scenario.what), with, unit, limit, ratio);
    }
}

fn run_once(scenario: &NoisyScenario, is_noisy: bool) -> Outcome<Quiet> {
    let (mut quiet_side, noisy_side) = (Receivers::start()?, Receivers::start()?);
    let path = support::directory("isolation")?;
    let account = |(name, number): (&str, &str)| Account::new(name).waba(name, [number]);
    let config = Config::new(&path).allow_http(true).allow_addresses(["127.0.0.0/8".parse()?]);
    let noisy = account(NOISY).limits(scenario.limits.clone());
    let engine = Engine::open(config.account(noisy).account(account(QUIET)))?;
    subscribe(&engine, QUIET.0, (0..QUIET_ENDPOINTS).map(|n| quiet_side.prompt(n)))?;
    subscribe(&engine, NOISY.0, endpoints(scenario.noise, &noisy_side))?;
    let (stop, done, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (accepts, delivered_per_s) = thread::scope(|scope| {
        if is_noisy {
            scope.spawn(|| make_noise(&engine, scenario.noise, &stop, &done, &refused));
            // The noise reaches its limit before the quiet account is measured.
            thread::sleep(2 * SECOND);
        }
        let measured = quiet_load(&engine, &mut quiet_side);
        stop.store(true, Ordering::Relaxed);
        measured
    })?;
    engine.close(support::CLOSE_MAX)?;
    std::fs::remove_dir_all(&path)?;
    let p99 = accepts.get(accepts.len() * 99 / 100).copied().unwrap_or(f64::NAN);
    Ok(Quiet {
        delivered_per_s,
        accept_ms: median(accepts),
        accept_p99_ms: p99,
        done: done.into_inner(),
        refused: refused.into_inner(),
    })
}

fn endpoints(noise: Noise, receivers: &Receivers) -> Vec<String> {
    match noise {
        Noise::Owed(_) | Noise::Tests => vec![receivers.hanging(0)],
        Noise::Published | Noise::Keyed => vec![receivers.prompt(0)],
        Noise::Dead => vec![receivers.refusing(0)],
        Noise::Hanging(count) => (0..count).map(|n| receivers.hanging(n)).collect(),
        Noise::FanOut(count) => (0..count).map(|n| receivers.prompt(n)).collect(),
    }
}

fn subscribe(engine: &Engine, account: &str, urls: impl IntoIterator<Item = String>) -> Outcome {
    let subscription =
        |url: String| -> Outcome<_> { Ok(Subscription::to(&url)?.account(account).name(&url)) };
    let all: Vec<_> = urls.into_iter().map(subscription).collect::<Outcome<_>>()?;
    for together in all.chunks(super::SUBSCRIBED_TOGETHER) {
        engine.subscribe_many(together.to_vec())?;
    }
    Ok(())
}

/// Does one thing until it is stopped.
fn make_noise(
    engine: &Engine,
    noise: Noise,
    stop: &AtomicBool,
    done: &AtomicU64,
    refused: &AtomicU64,
) {
    let noisy = engine.accounts().named(NOISY.0);
    let ids = noisy.map(|noisy| engine.subscriptions_of(noisy.id())).unwrap_or_default();
    let bytes = if let Noise::Owed(bytes) = noise { bytes } else { 100 };
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let event = || {
            let event = Event::new("MESSAGE_RECEIVED", vec![b'x'; bytes]);
            event.account(NOISY.0).number(NOISY.1)
        };
        let result = match noise {
            Noise::Tests => ids.first().map_or(Ok(()), |one| engine.test(one.id).map(drop)),
            Noise::Keyed => {
                engine.publish(event().dedup_key(number.to_string())).map(drop).map_err(Error::from)
            }
            // A fan-out waits for its receipt, so that it does not only measure memory.
            Noise::FanOut(_) | Noise::Hanging(_) => engine
                .publish(event())
                .map_err(Error::from)
                .and_then(|receipt| receipt.wait().map(drop)),
            _ => engine.publish(event()).map(drop).map_err(Error::from),
        };
        match result {
            Ok(()) => done.fetch_add(1, Ordering::Relaxed),
            Err(_) => {
                thread::sleep(REFUSED_PAUSE);
                refused.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

/// Publishes at a steady rate. Returns how long each event took to be accepted in ascending order, in ms, and the
/// deliveries a second from the first publish until all have arrived.
fn quiet_load(engine: &Engine, receivers: &mut Receivers) -> Outcome<(Vec<f64>, f64)> {
    let (rate, seconds) = (support::option("rate", 1_000_u64), support::option("seconds", 5_u64));
    let events = rate * seconds;
    let (started, started_ns) = (Instant::now(), now_ns());
    let (sender, receipts) = std::sync::mpsc::channel();
    let waiting = thread::spawn(move || {
        let waits = receipts.into_iter().map(|(at, receipt): (Instant, wabahook::Receipt)| {
            receipt.wait().map(|_| at.elapsed().as_secs_f64() * 1e3)
        });
        waits.collect::<wabahook::Result<Vec<f64>>>()
    });
    for number in 0..events {
        let due = Duration::from_secs_f64(number as f64 / rate as f64);
        thread::sleep(due.saturating_sub(started.elapsed()));
        let event = support::event(number, 1_024).account(QUIET.0);
        let at = Instant::now();
        sender.send((at, engine.publish(event.number(QUIET.1))?))?;
    }
    drop(sender);
    let mut accepts = waiting.join().map_err(|_| "the waiting thread panicked")??;
    accepts.sort_by(f64::total_cmp);
    let deliveries = events * QUIET_ENDPOINTS as u64;
    let ended_ns = receivers.until(deliveries, ARRIVE_MAX_MS)?;
    Ok((accepts, deliveries as f64 * 1e9 / (ended_ns - started_ns) as f64))
}
