//! End to end: durable and signed events, delivered over real sockets to receivers in a process of
//! their own, from the call of `publish` to the last arrival. The limit is raw requests of one
//! event-driven thread to the same receivers, measured in turns in the same run, with those of blocking
//! threads printed as well. Every delivery is counted by the receivers.
//!
//! `cargo bench --bench fanout -- --runs 5 --deliveries 60000`; `--only fanout_10` runs that alone, `--io-threads 1`
//! with one I/O thread. `--many --deliveries 400000` measures 1, 1,000 and 10,000 subscriptions.
//! `-- --plot` also measures other numbers of subscriptions and of attempts in flight, and draws all into `docs/`.

mod support;

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use support::plot::{Line, Marked, Panel};
use support::raw_file::RawFile;
use support::raw_requests::{self, RawRate};
use support::receiver_process::{self, Receivers, now_ns};
use support::{Outcome, median};
use wabahook::{Config, Engine, Event, Receipt, Subscription};

const PAYLOAD_BYTES: usize = 1024;
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// How many events wait for the device at most, as in a busy host.
const WINDOW: usize = 1_024;
/// How many deliveries to each endpoint come before the measured ones, for connections and caps.
const WARM_UP: usize = 64;
/// The measurement fails after this time.
const STRETCH_MAX_MS: u64 = 120_000;
/// How long raw requests are sent before each run.
const RAW_SPAN: Duration = Duration::from_millis(500);
const FAN_OUTS: [usize; 3] = [1, 10, 100];
const MANY: [usize; 3] = [1, 1_000, 10_000];

fn main() -> Outcome {
    if support::has_option("receive") {
        return receiver_process::receive();
    }
    support::raise_file_limit()?;
    let runs: usize = support::option("runs", 5);
    let deliveries: usize = support::option("deliveries", 60_000);
    let only = support::text("only").unwrap_or_default();
    let mut receivers = Receivers::start()?;
    let fan_outs = if support::has_option("many") { MANY } else { FAN_OUTS };
    let wanted: Vec<usize> = fan_outs
        .into_iter()
        .filter(|fan_out| only.is_empty() || only == format!("fanout_{fan_out}"))
        .collect();
    let mut all: Vec<Vec<Run>> = wanted.iter().map(|_| Vec::new()).collect();
    for run in 0..runs {
        for (fan_out, runs) in wanted.iter().zip(&mut all) {
            let one = measure(&mut receivers, *fan_out, deliveries, None)?;
            println!("  run {run}, fan-out {fan_out}: {one}");
            runs.push(one);
        }
    }
    wanted.iter().zip(&all).for_each(|(fan_out, runs)| conclude(*fan_out, runs));
    let mut latencies_ms = Vec::new();
    if "latency_200".contains(&only) {
        latencies_ms = latency(&mut receivers, runs)?;
    }
    if "publish_call".contains(&only) {
        publish_call(&mut receivers, runs)?;
    }
    if support::has_option("plot") {
        plot(&mut receivers, deliveries, runs, latencies_ms)?;
    }
    Ok(())
}

/// One run of one fan-out, and its limit.
struct Run {
    per_s: f64,
    cpu_us: f64,
    written_bytes: f64,
    /// Raw requests of one event-driven thread.
    raw: RawRate,
    /// Raw requests of blocking threads.
    blocking: RawRate,
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Run { per_s, cpu_us, written_bytes, raw, blocking } = self;
        let ratio = per_s / raw.per_s;
        write!(
            f,
            "{per_s:.0}/s of {:.0} ({ratio:.2}), {cpu_us:.1} us CPU of {:.1}, {written_bytes:.0} B \
             written a delivery; blocking threads {:.0}/s",
            raw.per_s, raw.cpu_us, blocking.per_s
        )
    }
}

fn config(path: &Path) -> Outcome<Config> {
    Ok(Config::new(path).allow_http(true).allow_addresses(["127.0.0.0/8".parse()?]))
}

/// `in_flight_max` is `None` for the default.
fn open(
    path: &Path,
    receivers: &Receivers,
    fan_out: usize,
    in_flight_max: Option<usize>,
) -> Outcome<Engine> {
    let limits = support::limits().in_flight_max(in_flight_max);
    let engine = Engine::open(config(path)?.limits(limits))?;
    for n in 0..fan_out {
        let to = Subscription::to(receivers.prompt(n))?.name(format!("receiver-{n}"));
        engine.subscribe(to.secret(SECRET))?;
    }
    Ok(engine)
}

fn event(number: usize) -> Event {
    support::event(number as u64, PAYLOAD_BYTES)
}

fn measure(
    receivers: &mut Receivers,
    fan_out: usize,
    deliveries: usize,
    in_flight_max: Option<usize>,
) -> Outcome<Run> {
    let raw = raw_requests::event_driven(receivers, event(0).payload(), RAW_SPAN)?;
    let blocking = raw_requests::blocking(receivers, event(0).payload(), RAW_SPAN)?;
    let path = support::directory("fanout")?;
    let engine = open(&path, receivers, fan_out, in_flight_max)?;
    warm_up(&engine, receivers, fan_out)?;
    let events: Vec<Event> = (0..deliveries / fan_out).map(event).collect();
    let due = (events.len() * fan_out) as u64;
    let (cpu_before, written_before) = (support::cpu_time(), written_bytes()?);
    let started_ns = now_ns();
    publish(&engine, events)?;
    let ended_ns = receivers.until(due, STRETCH_MAX_MS)?;
    let cpu = support::cpu_time() - cpu_before;
    // Includes what is written after the deliveries.
    engine.close(support::CLOSE_MAX)?;
    let written = written_bytes()? - written_before;
    fs::remove_dir_all(&path)?;
    Ok(Run {
        per_s: due as f64 * 1e9 / (ended_ns - started_ns) as f64,
        cpu_us: cpu.as_secs_f64() * 1e6 / due as f64,
        written_bytes: written as f64 / due as f64,
        raw,
        blocking,
    })
}

/// Delivers the warm-up and forgets it.
fn warm_up(engine: &Engine, receivers: &mut Receivers, fan_out: usize) -> Outcome {
    // Also forgets what arrived before, which would be counted.
    receivers.reset()?;
    publish(engine, (0..WARM_UP).map(event))?;
    receivers.until((WARM_UP * fan_out) as u64, STRETCH_MAX_MS)?;
    receivers.reset()
}

/// Publishes events one by one, at most [`WINDOW`] at a time, and waits until all are durable.
fn publish(engine: &Engine, events: impl IntoIterator<Item = Event>) -> Outcome {
    let mut waiting: VecDeque<Receipt> = VecDeque::new();
    for event in events {
        if waiting.len() == WINDOW
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.wait()?;
        }
        waiting.push_back(engine.publish(event)?);
    }
    for receipt in waiting {
        receipt.wait()?;
    }
    Ok(())
}

/// Bytes that this process has written to the device.
fn written_bytes() -> Outcome<u64> {
    let io = fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.ok_or("no write_bytes")?.parse()?)
}

fn conclude(fan_out: usize, runs: &[Run]) {
    let middle = |of: fn(&Run) -> f64| median(runs.iter().map(of).collect());
    let what = format!("fanout_{fan_out}");
    let limit = (middle(|run| run.raw.per_s), "raw");
    let ratio = middle(|run| run.per_s / run.raw.per_s);
    support::result("fanout", &what, middle(|run| run.per_s), "deliveries/s", limit, ratio);
    let limit = (middle(|run| run.raw.cpu_us), "raw_sender");
    let ratio = middle(|run| run.cpu_us / run.raw.cpu_us);
    let cpu_us = middle(|run| run.cpu_us);
    support::result("fanout", format!("{what}_cpu"), cpu_us, "us/delivery", limit, ratio);
    let limit = (middle(|run| run.raw.per_s), "raw");
    let ratio = middle(|run| run.blocking.per_s / run.raw.per_s);
    let blocking = middle(|run| run.blocking.per_s);
    let name = format!("{what}_raw_blocking");
    support::result("fanout", name, blocking, "requests/s", limit, ratio);
    let payload = PAYLOAD_BYTES as f64 / fan_out as f64;
    let written = middle(|run| run.written_bytes);
    let (limit, ratio) = ((payload, "payload_once"), written / payload);
    support::result("fanout", format!("{what}_written"), written, "bytes/delivery", limit, ratio);
}

/// The time from the call to the arrival, at 200 events a second. Returns all times, in milliseconds.
fn latency(receivers: &mut Receivers, runs: usize) -> Outcome<Vec<f64>> {
    const EVENTS: usize = 600;
    let (mut p50s, mut p99s, mut syncs, mut all) = (vec![], vec![], vec![], vec![]);
    for _ in 0..runs {
        let path = support::directory("latency")?;
        let engine = open(&path, receivers, 1, None)?;
        warm_up(&engine, receivers, 1)?;
        let mut raw = RawFile::new(&path)?;
        let (mut called_ns, mut synced_ms) = (Vec::new(), Vec::new());
        let started = Instant::now();
        for number in 0..EVENTS {
            thread::sleep(
                Duration::from_millis(5 * number as u64).saturating_sub(started.elapsed()),
            );
            let event = event(number);
            called_ns.push(now_ns());
            let receipt = engine.publish(event)?;
            receipt.wait()?;
            if number % 8 == 0 {
                // It takes less than half of the time to the next event.
                synced_ms.push(raw.append(2 * PAYLOAD_BYTES)?.as_secs_f64() * 1e3);
            }
        }
        receivers.until(EVENTS as u64, STRETCH_MAX_MS)?;
        let mut took_ms = Vec::new();
        for (number, at_ns) in receivers.times(0)? {
            let called_ns = called_ns.get(usize::try_from(number)?).ok_or("no such event")?;
            took_ms.push(at_ns.saturating_sub(*called_ns) as f64 / 1e6);
        }
        engine.close(support::CLOSE_MAX)?;
        fs::remove_dir_all(&path)?;
        took_ms.sort_by(f64::total_cmp);
        p50s.push(quantile(&took_ms, 500));
        p99s.push(quantile(&took_ms, 990));
        syncs.push(median(synced_ms));
        all.extend(took_ms);
    }
    let sync = (median(syncs), "raw_sync");
    let (p50, p99) = (median(p50s), median(p99s));
    println!("latency_200: p50 {p50:.3} ms, p99 {p99:.3} ms; a sync takes {:.3} ms", sync.0);
    support::result("fanout", "latency_200", p50, "ms", sync, p50 / sync.0);
    support::result("fanout", "latency_200_p99", p99, "ms", sync, p99 / sync.0);
    all.sort_by(f64::total_cmp);
    Ok(all)
}

/// The quantile in thousandths.
fn quantile(sorted: &[f64], thousandths: usize) -> f64 {
    let place = sorted.len() * thousandths / 1_000;
    sorted.get(place.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// The time inside `publish` at 20,000 events a second, while they are delivered. The limit is an empty
/// interval measured at the same moments, which shows what the machine takes from the thread.
fn publish_call(receivers: &mut Receivers, runs: usize) -> Outcome {
    const RATE: u64 = 20_000;
    const EVENTS: usize = 40_000;
    let (mut p999s, mut p50s, mut nothing) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let path = support::directory("publish_call")?;
        let engine = open(&path, receivers, 1, None)?;
        warm_up(&engine, receivers, 1)?;
        let events: Vec<Event> = (0..EVENTS).map(event).collect();
        let mut receipts = Vec::with_capacity(EVENTS);
        let (mut took_us, mut empty_us) = (Vec::with_capacity(EVENTS), Vec::with_capacity(EVENTS));
        let started_ns = now_ns();
        for (number, event) in events.into_iter().enumerate() {
            let due_ns = started_ns + number as u64 * 1_000_000_000 / RATE;
            if due_ns > now_ns() {
                // Sleeps about a millisecond, like an event loop that waits for its socket.
                thread::sleep(Duration::from_nanos(due_ns.saturating_sub(now_ns()) + 900_000));
            }
            let called_ns = now_ns();
            let called_again_ns = now_ns();
            receipts.push(engine.publish(event)?);
            let returned_ns = now_ns();
            empty_us.push((called_again_ns - called_ns) as f64 / 1e3);
            took_us.push((returned_ns - called_again_ns) as f64 / 1e3);
        }
        let offered = EVENTS as f64 * 1e9 / (now_ns() - started_ns) as f64;
        for receipt in receipts {
            receipt.wait()?;
        }
        receivers.until(EVENTS as u64, STRETCH_MAX_MS)?;
        engine.close(support::CLOSE_MAX)?;
        fs::remove_dir_all(&path)?;
        took_us.sort_by(f64::total_cmp);
        empty_us.sort_by(f64::total_cmp);
        let (p50, p999) = (quantile(&took_us, 500), quantile(&took_us, 999));
        println!("  publish_call at {offered:.0}/s: p50 {p50:.1} us, p99.9 {p999:.1} us");
        p50s.push(p50);
        p999s.push(p999);
        nothing.push(quantile(&empty_us, 999));
    }
    let (figure, limit) = (median(p999s), median(nothing));
    println!("publish_call: p50 {:.1} us, p99.9 {figure:.1} us", median(p50s));
    let limit_is = (limit, "clock_around_nothing");
    support::result("fanout", "publish_call", figure, "us", limit_is, figure / limit.max(1e-3));
    Ok(())
}

/// Deliveries and raw requests a second, each the median of so many runs.
fn medians(runs: usize, mut measure: impl FnMut() -> Outcome<Run>) -> Outcome<(f64, f64)> {
    let all = (0..runs).map(|_| measure()).collect::<Outcome<Vec<Run>>>()?;
    let middle = |of: fn(&Run) -> f64| median(all.iter().map(of).collect());
    Ok((middle(|run| run.per_s), middle(|run| run.raw.per_s)))
}

/// Draws throughput by fan-out and by attempts in flight, and the distribution of latency. Every point is a median.
fn plot(
    receivers: &mut Receivers,
    deliveries: usize,
    runs: usize,
    latencies_ms: Vec<f64>,
) -> Outcome {
    let (mut by_fan_out, mut raw_beside) = (Vec::new(), Vec::new());
    for fan_out in [1, 2, 5, 10, 20, 50, 100] {
        let (own, raw) = medians(runs, || measure(receivers, fan_out, deliveries, None))?;
        raw_beside.push((fan_out.to_string(), raw));
        by_fan_out.push((fan_out.to_string(), own));
    }
    let (mut by_in_flight, mut raw_by_threads) = (Vec::new(), Vec::new());
    for in_flight in [1, 2, 4, 8, 16, 32, 64] {
        let event = event(0);
        let mut raw = Vec::new();
        let (own, _) = medians(runs, || {
            raw.push(
                raw_requests::blocking_threads(receivers, in_flight, event.payload(), RAW_SPAN)?
                    .per_s,
            );
            measure(receivers, 10, deliveries, Some(in_flight))
        })?;
        raw_by_threads.push((in_flight.to_string(), median(raw)));
        by_in_flight.push((in_flight.to_string(), own));
    }
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let wabahook = "wabahook";
    let throughput = support::plot::marked(
        "Deliveries of 1 KiB a second, durable and signed, the receiver on the same machine",
        &[
            Marked {
                title: "deliveries/s by subscriptions an event reaches",
                lines: vec![(wabahook, by_fan_out), ("raw, one event-driven thread", raw_beside)],
            },
            Marked {
                title: "deliveries/s by attempts in flight (in_flight_max), 10 subscriptions an event",
                lines: vec![
                    (wabahook, by_in_flight),
                    ("raw, as many blocking threads", raw_by_threads),
                ],
            },
        ],
    );
    fs::write(docs.join("fanout.svg"), throughput)?;
    let count = latencies_ms.len() as f64;
    let shares = latencies_ms.iter().enumerate();
    let points = shares.map(|(place, ms)| (*ms * 1e3, (place as f64 + 1.0) * 100.0 / count));
    // The last hundredth would make the rest unreadable. Its figures are printed.
    let points: Vec<_> = points.filter(|(_, share)| *share <= 99.0).collect();
    let panel = Panel {
        title: "% of events that had arrived, up to 99 %",
        lines: vec![Line { label: "200 events/s", points }],
    };
    let title = "From the call of publish to the arrival at the receiver";
    let latency = support::plot::svg(title, "microseconds", &[panel]);
    fs::write(docs.join("latency.svg"), latency)?;
    println!("drew docs/fanout.svg and docs/latency.svg");
    Ok(())
}
