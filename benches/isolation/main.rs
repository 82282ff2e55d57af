//! What hanging endpoints cost those that answer: the same deliveries to the same receivers, with and
//! without others that accept connections and never answer. Both cases take turns in one process. Both
//! deliver from a backlog that was on the device before, so that publishing to the hanging endpoints is
//! not counted.
//!
//! `cargo bench --bench isolation -- --runs 3 --timeout-ms 15000`; `--only isolation_900_of_1000` runs that
//! alone. `--share 10` has a tenth of the events and of the hanging endpoints. With
//! `--only beside_300 --files 256` the process may open 256 files.
//!
//! `isolation_*`: the engine has just been opened and knows nothing of the endpoints. `*_warm`: every hanging
//! endpoint has timed out at least once. `*_of_connecting`: cold deliveries beside what is left of the machine
//! while a plain sender connects once to each of the hanging endpoints, which any sender has to. `limit_*`: a
//! noisy account at each of its limits beside a quiet one.

mod noisy;
#[path = "../support/mod.rs"]
mod support;

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use support::receiver_process::{self, LATENCIES_MS, Receivers, now_ns};
use support::transports::Hanging;
use support::{Outcome, median};
use wabahook::policy::Policy;
use wabahook::{Account, Config, Engine, Event, Subscription};

const PROMPT: &str = "TO_THE_PROMPT";
const HANGING: &str = "TO_THE_HANGING";
/// The account of the endpoints that answer, and the one that hanging ones may belong to, each with its number.
const PROMPT_ACCOUNT: (&str, &str) = ("acme", "919999999999");
const OTHER_ACCOUNT: (&str, &str) = ("beta", "918888888888");
/// How many events each hanging endpoint is owed, more than are tried in a run.
const HANGING_EVENTS: usize = 20;
const PAYLOAD_BYTES: usize = 1024;
const SUBSCRIBED_TOGETHER: usize = 50;
/// Of the plain sender, so that it fits into the file limit.
const CONNECTED_TOGETHER: usize = 100;
/// All hanging endpoints time out within this time of each other.
const TIMEOUTS_SPREAD: Duration = Duration::from_secs(1);
/// The measurement fails after this time.
const STRETCH_MAX_MS: u64 = 300_000;

#[derive(Clone, Copy)]
struct Scenario {
    what: &'static str,
    prompt: usize,
    /// The index of their latency.
    latency: usize,
    /// Events to each of them.
    events: usize,
    hanging: usize,
    /// Whether the hanging ones belong to another account.
    is_other_account: bool,
}

const SCENARIO: Scenario = Scenario {
    what: "isolation_900_of_1000",
    prompt: 100,
    latency: 0,
    events: 400,
    hanging: 900,
    is_other_account: false,
};

/// The index of 280 ms.
const SLOW: usize = 5;

const SCENARIOS: [Scenario; 8] = [
    SCENARIO,
    Scenario { what: "isolation_1_of_10", prompt: 9, events: 4_000, hanging: 1, ..SCENARIO },
    Scenario { what: "isolation_9900_of_10000", hanging: 9_900, ..SCENARIO },
    Scenario {
        what: "isolation_50_beside_2000",
        prompt: 50,
        events: 100,
        hanging: 2_000,
        ..SCENARIO
    },
    Scenario {
        what: "isolation_50_beside_5000",
        prompt: 50,
        events: 100,
        hanging: 5_000,
        ..SCENARIO
    },
    Scenario {
        what: "isolation_280_ms_beside_5000",
        prompt: 1,
        latency: SLOW,
        events: 1_000,
        hanging: 5_000,
        ..SCENARIO
    },
    Scenario {
        what: "isolation_50_beside_300",
        prompt: 50,
        events: 1_000,
        hanging: 300,
        ..SCENARIO
    },
    Scenario {
        what: "isolation_1100_of_another_account",
        hanging: 1_100,
        is_other_account: true,
        ..SCENARIO
    },
];

/// Deliveries a second to the endpoints that answer.
struct Rates {
    cold: f64,
    warm: f64,
    /// How long a plain sender takes to connect to each hanging endpoint and to send it a payload.
    connecting: Duration,
    /// The memory and threads of the process after the cold deliveries, while the others hang.
    rss_mb: f64,
    threads: u64,
}

fn main() -> Outcome {
    let runs: usize = support::option("runs", 3);
    let share: usize = support::option("share", 1);
    let only = support::text("only").unwrap_or_default();
    if support::has_option("receive") {
        return receiver_process::receive();
    }
    // The receivers raise it for themselves.
    match support::text("files") {
        Some(files) => support::set_file_limit(files.parse()?)?,
        None => support::raise_file_limit()?,
    }
    for mut scenario in SCENARIOS.into_iter().filter(|scenario| scenario.what.contains(&only)) {
        scenario.events = (scenario.events / share).max(1);
        scenario.hanging = (scenario.hanging / share).max(1);
        measure(&scenario, runs)?;
    }
    noisy::measure(&only, runs)
}

fn measure(scenario: &Scenario, runs: usize) -> Outcome {
    let Scenario { what, prompt, latency, events, hanging, .. } = *scenario;
    let after_ms = LATENCIES_MS.get(latency).copied().unwrap_or_default();
    println!(
        "\n{what}: {events} events to each of {prompt} endpoints that answer after {after_ms} ms"
    );
    let (mut cold, mut warm) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    let mut connecting = Vec::new();
    for run in 0..runs {
        // They go first alternately.
        let order = if run % 2 == 0 { [0, hanging] } else { [hanging, 0] };
        for hanging in order {
            let rates = deliver(&Scenario { hanging, ..*scenario })?;
            println!(
                "  run {run}, {hanging} hanging: cold {:.0}/s, warm {:.0}/s, RSS {:.0} MB, {} threads",
                rates.cold, rates.warm, rates.rss_mb, rates.threads
            );
            let (cold, warm) = match hanging {
                0 => (&mut cold.0, &mut warm.0),
                _ => {
                    connecting.push(rates.connecting.as_secs_f64());
                    (&mut cold.1, &mut warm.1)
                }
            };
            cold.push(rates.cold);
            warm.push(rates.warm);
        }
    }
    let due = (prompt * events) as f64;
    let left: Vec<_> = (cold.0.iter().zip(&connecting))
        .map(|(without, connecting)| due / (due / without + connecting))
        .collect();
    let ratio = median(cold.1.iter().zip(&left).map(|(with, left)| with / left).collect());
    let of_connecting = (format!("{what}_of_connecting"), median(cold.1.clone()), median(left));
    for (how, (without, with)) in [("", cold), ("_warm", warm)] {
        // Of the two in one run, which saw the machine in the same phase.
        let ratio =
            median(with.iter().zip(&without).map(|(with, without)| with / without).collect());
        let limit = (median(without), "without_hanging");
        support::result(
            "isolation",
            format!("{what}{how}"),
            median(with),
            "deliveries/s",
            limit,
            ratio,
        );
    }
    let (what, with, left) = of_connecting;
    support::result("isolation", what, with, "deliveries/s", (left, "connecting"), ratio);
    Ok(())
}

fn deliver(scenario: &Scenario) -> Outcome<Rates> {
    let mut receivers = Receivers::start()?;
    let path = support::directory("isolation")?;
    owe(&path, &receivers, scenario)?;
    let due = (scenario.prompt * scenario.events) as u64;
    let connecting = connect(&receivers, scenario.hanging)?;
    receivers.reset()?;

    let engine = Engine::open(config(&path, scenario)?)?;
    let cold = stretch(&mut receivers, due, || Ok(()))?;
    let rss_mb = support::status_mb("VmRSS:");
    let threads = support::status("Threads:").unwrap_or_default();
    // Without hanging endpoints as long as with them: an engine that was idle has given memory back, and its caches are cold.
    thread::sleep(timeout() + TIMEOUTS_SPREAD);
    wait_until_all_timed_out(&engine, scenario.hanging)?;
    let warm =
        stretch(&mut receivers, due, || publish(&engine, PROMPT_ACCOUNT, PROMPT, scenario.events))?;
    engine.close(support::CLOSE_MAX)?;
    std::fs::remove_dir_all(&path)?;
    Ok(Rates { cold, warm, connecting, rss_mb, threads })
}

/// Connects to each hanging endpoint and sends it a payload, as plainly as that can be done.
fn connect(receivers: &Receivers, hanging: usize) -> Outcome<Duration> {
    let all: Vec<_> = (0..hanging).map(|n| receivers.hanging_authority(n)).collect();
    let mut took = Duration::ZERO;
    for together in all.chunks(CONNECTED_TOGETHER) {
        let started = Instant::now();
        let open = together.iter().map(|authority| {
            let mut stream = TcpStream::connect(authority)?;
            stream.write_all(&[b'x'; PAYLOAD_BYTES]).map(|()| stream)
        });
        let open: Vec<_> = open.collect::<std::io::Result<_>>()?;
        took += started.elapsed();
        drop(open);
    }
    Ok(took)
}

/// Deliveries a second to those that answer, from before `begin` until so many have arrived.
fn stretch(receivers: &mut Receivers, due: u64, begin: impl FnOnce() -> Outcome) -> Outcome<f64> {
    let started_ns = now_ns();
    begin()?;
    let ended_ns = receivers.until(due, STRETCH_MAX_MS)?;
    receivers.reset()?;
    Ok(due as f64 * 1e9 / (ended_ns - started_ns) as f64)
}

/// Leaves a backlog on the device without any attempt.
fn owe(path: &Path, receivers: &Receivers, scenario: &Scenario) -> Outcome {
    let Scenario { prompt, latency, events, hanging, is_other_account, .. } = *scenario;
    let transport = std::sync::Arc::new(Hanging::default());
    let engine = Engine::open(config(path, scenario)?.transport(transport))?;
    let other = if is_other_account { OTHER_ACCOUNT } else { PROMPT_ACCOUNT };
    let url_of = |n| if latency == 0 { receivers.prompt(n) } else { receivers.delayed(latency, n) };
    let prompt = (0..prompt).map(|n| (url_of(n), PROMPT_ACCOUNT, PROMPT));
    let hanging = (0..hanging).map(|n| (receivers.hanging(n), other, HANGING));
    // Shuffled, so that neither kind is first.
    let mut all: Vec<_> = prompt.chain(hanging).collect();
    fastrand::Rng::with_seed(7).shuffle(&mut all);
    let mut policy = Policy::default();
    policy.timeout = timeout();
    let subscription = |(url, account, kind): (String, (&str, &str), &'static str)| -> Outcome<_> {
        let subscription = Subscription::to(&url)?.account(account.0).name(&url).events([kind]);
        Ok(subscription.policy(policy.clone()))
    };
    let all: Vec<_> = all.into_iter().map(subscription).collect::<Outcome<_>>()?;
    for together in all.chunks(SUBSCRIBED_TOGETHER) {
        engine.subscribe_many(together.to_vec())?;
    }
    publish(&engine, other, HANGING, HANGING_EVENTS)?;
    publish(&engine, PROMPT_ACCOUNT, PROMPT, events)?;
    Ok(engine.close(support::CLOSE_MAX)?)
}

fn publish(engine: &Engine, (account, number): (&str, &str), kind: &str, events: usize) -> Outcome {
    let payload = vec![b'x'; PAYLOAD_BYTES];
    let event = || Event::new(kind, payload.clone()).account(account).number(number);
    engine.publish_many((0..events).map(|_| event()).collect())?.wait()?;
    Ok(())
}

/// Without the other account where it has no endpoints: several accounts share what endpoints never tried may use.
fn config(path: &Path, scenario: &Scenario) -> Outcome<Config> {
    let account = |(name, number): (&str, &str)| Account::new(name).waba(name, [number]);
    let config = Config::new(path)
        .limits(support::limits())
        .allow_http(true)
        .allow_addresses(["127.0.0.0/8".parse()?]);
    let config = config.account(account(PROMPT_ACCOUNT));
    Ok(if scenario.is_other_account { config.account(account(OTHER_ACCOUNT)) } else { config })
}

fn timeout() -> Duration {
    Duration::from_millis(support::option("timeout-ms", 15_000))
}

fn wait_until_all_timed_out(engine: &Engine, hanging: usize) -> Outcome {
    let started = Instant::now();
    loop {
        let lanes = engine.stats().lanes;
        let timed_out = lanes.iter().filter(|lane| lane.retried > 0).count();
        if timed_out >= hanging {
            return Ok(());
        }
        if started.elapsed() > Duration::from_millis(STRETCH_MAX_MS) {
            return Err(format!("{timed_out} of {hanging} timed out").into());
        }
        thread::sleep(Duration::from_millis(100));
    }
}
