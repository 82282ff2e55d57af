//! What the store on PostgreSQL costs: accepted events by how many publishers wait, and deliveries by fan-out. The
//! limit of an accept is one INSERT of the same bytes for each group, over one connection to the same server; sled and
//! the limit take turns with it, so that a slow phase of the device affects all. Both servers, the engine, the
//! publishers and the receivers are on this machine.
//!
//! `cargo bench --features postgres --bench remote -- --runs 5 --ms 1500`; `--only accept_64` runs that alone. It starts
//! a primary and a synchronous standby from Debian's package in `/var/tmp`.

#[path = "../tests/replicated/servers.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs,
    reason = "of a test"
)]
mod servers;
mod support;

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use servers::Servers;
use support::receiver_process::{self, Receivers, now_ns};
use support::transports::acknowledging;
use support::{Outcome, median};
use tokio_postgres::NoTls;
use wabahook::store::{Postgres, PostgresOptions};
use wabahook::{Config, Engine, Event, Subscription};

const PAYLOAD_BYTES: usize = 1024;
const ACCEPTS: [usize; 4] = [1, 32, 64, 256];
const FAN_OUTS: [usize; 3] = [1, 10, 100];
/// How many callers publish and wait while deliveries are measured.
const CALLERS: usize = 32;
/// How many turns of each store a run has.
const SLICES: u32 = 5;
const STRETCH_MAX_MS: u64 = 120_000;

fn main() -> Outcome {
    if std::env::args().any(|given| given == "--receive") {
        return receiver_process::receive();
    }
    let runs: usize = support::option("runs", 5);
    let span = Duration::from_millis(support::option("ms", 1_500));
    let deliveries: usize = support::option("deliveries", 20_000);
    let only = support::text("only").unwrap_or_default();
    let wanted = |what: &str| only.is_empty() || only == what;
    let servers = Servers::start_in(Path::new("/var/tmp"))?;
    let mut raw = RawInserts::connect(&servers)?;
    for publishers in ACCEPTS.into_iter().filter(|n| wanted(&format!("accept_{n}"))) {
        let all = (0..runs).map(|_| accept(&servers, &mut raw, publishers, span));
        conclude_accept(publishers, &all.collect::<Outcome<Vec<_>>>()?);
    }
    let mut receivers = Receivers::start()?;
    for fan_out in FAN_OUTS.into_iter().filter(|n| wanted(&format!("fanout_{n}"))) {
        let all = (0..runs).map(|_| deliver(&servers, &mut receivers, fan_out, deliveries));
        conclude_deliver(fan_out, &all.collect::<Outcome<Vec<_>>>()?);
    }
    Ok(())
}

/// Takes the ownership of a store that nothing else uses.
fn acquired(servers: &Servers) -> Outcome<Arc<Postgres>> {
    let shard = next_shard();
    let store = Postgres::connect(PostgresOptions::new(&servers.connection())?.shard(shard))?;
    store.acquire(Duration::from_secs(10))?;
    Ok(Arc::new(store))
}

/// A number that no earlier run of this process had.
fn next_shard() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// What one run of one number of publishers showed.
struct AcceptRun {
    remote_per_s: f64,
    sled_per_s: f64,
    raw_per_s: f64,
    group_events: f64,
    wait_p50_ms: f64,
    wait_p99_ms: f64,
}

fn accept(
    servers: &Servers,
    raw: &mut RawInserts,
    publishers: usize,
    span: Duration,
) -> Outcome<AcceptRun> {
    let directory = support::directory("remote")?;
    let transport = || Arc::new(acknowledging());
    let remote =
        Engine::open(Config::new("unused").store(acquired(servers)?).transport(transport()))?;
    let sled = Engine::open(Config::new(&directory).transport(transport()))?;
    support::subscribe(&remote, 1)?;
    support::subscribe(&sled, 1)?;
    let slice = span / SLICES;
    publish(&remote, publishers, slice)?;
    publish(&sled, publishers, slice)?;
    let before = remote.stats();
    let (mut waits, mut sled_events, mut raw_events) = (Vec::new(), 0, 0.0);
    for _ in 0..SLICES {
        waits.extend(publish(&remote, publishers, slice)?);
        sled_events += publish(&sled, publishers, slice)?.len();
        let so_far = remote.stats();
        let groups = (so_far.groups - before.groups).max(1);
        raw_events +=
            raw.insert((so_far.accepted - before.accepted) as f64 / groups as f64, slice)?;
    }
    let after = remote.stats();
    remote.close(support::CLOSE_MAX)?;
    sled.close(support::CLOSE_MAX)?;
    std::fs::remove_dir_all(&directory)?;
    let seconds = slice.as_secs_f64() * f64::from(SLICES);
    waits.sort_by(f64::total_cmp);
    let quantile =
        |hundredths: usize| waits.get(waits.len() * hundredths / 100).copied().unwrap_or(f64::NAN);
    Ok(AcceptRun {
        remote_per_s: waits.len() as f64 / seconds,
        sled_per_s: sled_events as f64 / seconds,
        raw_per_s: raw_events / seconds,
        group_events: (after.accepted - before.accepted) as f64
            / (after.groups - before.groups) as f64,
        wait_p50_ms: quantile(50),
        wait_p99_ms: quantile(99),
    })
}

/// Every publisher publishes and waits in a loop. Returns the waits, in milliseconds.
fn publish(engine: &Engine, publishers: usize, span: Duration) -> Outcome<Vec<f64>> {
    let end = Instant::now() + span;
    let publisher = || -> Outcome<Vec<f64>> {
        let mut waits = Vec::new();
        while Instant::now() < end {
            let started = Instant::now();
            let payload = vec![b'7'; PAYLOAD_BYTES];
            let event = Event::new("MESSAGE_RECEIVED", payload).number("919999999999");
            engine.publish(event)?.wait()?;
            waits.push(started.elapsed().as_secs_f64() * 1e3);
        }
        Ok(waits)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..publishers).map(|_| scope.spawn(publisher)).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| "a publisher panicked")??);
        }
        Ok(all)
    })
}

/// One INSERT for each group, over one connection.
struct RawInserts {
    runtime: tokio::runtime::Runtime,
    client: tokio_postgres::Client,
    statement: tokio_postgres::Statement,
}

impl RawInserts {
    fn connect(servers: &Servers) -> Outcome<RawInserts> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let connection = format!("{} target_session_attrs=read-write", servers.connection());
        let (client, driver) = runtime.block_on(tokio_postgres::connect(&connection, NoTls))?;
        runtime.spawn(driver);
        let prepare = async {
            client.batch_execute("CREATE TABLE raw_events (value bytea NOT NULL)").await?;
            let plain = "ALTER TABLE raw_events ALTER COLUMN value SET STORAGE PLAIN";
            client.batch_execute(plain).await?;
            client.prepare("INSERT INTO raw_events SELECT unnest($1::bytea[])").await
        };
        let statement = runtime.block_on(prepare)?;
        Ok(RawInserts { runtime, client, statement })
    }

    /// Inserts groups of so many events. Returns how many events were inserted.
    #[allow(clippy::cast_possible_truncation, reason = "a few thousand rows at most")]
    fn insert(&mut self, group_events: f64, span: Duration) -> Outcome<f64> {
        let events = group_events.max(1.0);
        // Rows of a page, as the engine writes them.
        let rows = (events * PAYLOAD_BYTES as f64 / 7_000.0).ceil().max(1.0);
        let bytes = (events * PAYLOAD_BYTES as f64 / rows) as usize;
        let values: Vec<Vec<u8>> = (0..rows as usize).map(|_| vec![b'7'; bytes]).collect();
        let (mut done, started) = (0.0, Instant::now());
        while started.elapsed() < span {
            self.runtime.block_on(self.client.execute(&self.statement, &[&values]))?;
            done += events;
        }
        Ok(done)
    }
}

fn conclude_accept(publishers: usize, runs: &[AcceptRun]) {
    let middle = |of: fn(&AcceptRun) -> f64| median(runs.iter().map(of).collect());
    let what = format!("accept_{publishers}");
    println!(
        "{what}: {:.1} events a group, a receipt takes {:.2} ms (p50) and {:.2} ms (p99)",
        middle(|run| run.group_events),
        middle(|run| run.wait_p50_ms),
        middle(|run| run.wait_p99_ms)
    );
    let figure = middle(|run| run.remote_per_s);
    let ratio = middle(|run| run.remote_per_s / run.raw_per_s);
    let limit = (middle(|run| run.raw_per_s), "one_insert_a_group");
    support::result("remote", &what, figure, "events/s", limit, ratio);
    let ratio = middle(|run| run.remote_per_s / run.sled_per_s);
    let limit = (middle(|run| run.sled_per_s), "sled");
    support::result("remote", format!("{what}_of_sled"), figure, "events/s", limit, ratio);
}

/// Deliveries a second on PostgreSQL and on sled.
fn deliver(
    servers: &Servers,
    receivers: &mut Receivers,
    fan_out: usize,
    deliveries: usize,
) -> Outcome<(f64, f64)> {
    let directory = support::directory("remote")?;
    let local = |config: Config| -> Outcome<Config> {
        Ok(config.allow_http(true).allow_addresses(["127.0.0.0/8".parse()?]))
    };
    let sled = delivered(local(Config::new(&directory))?, receivers, fan_out, deliveries)?;
    let config = Config::new("unused").store(acquired(servers)?);
    let remote = delivered(local(config)?, receivers, fan_out, deliveries)?;
    std::fs::remove_dir_all(&directory)?;
    Ok((remote, sled))
}

fn delivered(
    config: Config,
    receivers: &mut Receivers,
    fan_out: usize,
    deliveries: usize,
) -> Outcome<f64> {
    let engine = Engine::open(config)?;
    for n in 0..fan_out {
        engine.subscribe(Subscription::to(receivers.prompt(n))?.name(format!("receiver-{n}")))?;
    }
    receivers.reset()?;
    call(&engine, CALLERS)?;
    receivers.until((CALLERS * fan_out) as u64, STRETCH_MAX_MS)?;
    receivers.reset()?;
    let (events, started_ns) = (deliveries / fan_out, now_ns());
    call(&engine, events)?;
    let ended_ns = receivers.until((events * fan_out) as u64, STRETCH_MAX_MS)?;
    engine.close(support::CLOSE_MAX)?;
    Ok((events * fan_out) as f64 * 1e9 / (ended_ns - started_ns) as f64)
}

/// Callers publish events, each of them one at a time.
fn call(engine: &Engine, events: usize) -> Outcome {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let caller = || -> Outcome {
        loop {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if number >= events {
                return Ok(());
            }
            engine.publish(support::event(number as u64, PAYLOAD_BYTES))?.wait()?;
        }
    };
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(caller)).collect();
        callers.into_iter().try_for_each(|one| one.join().map_err(|_| "a caller panicked")?)
    })
}

fn conclude_deliver(fan_out: usize, runs: &[(f64, f64)]) {
    let middle = |of: fn(&(f64, f64)) -> f64| median(runs.iter().map(of).collect());
    let limit = (middle(|(_, sled)| *sled), "sled");
    let ratio = middle(|(remote, sled)| remote / sled);
    let what = format!("fanout_{fan_out}");
    support::result("remote", what, middle(|(remote, _)| *remote), "deliveries/s", limit, ratio);
}
