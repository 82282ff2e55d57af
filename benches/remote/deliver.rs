//! Deliveries by fan-out, compared with sled.

use std::thread;

use wabahook::{Config, Engine, Subscription};

use crate::support::receiver_process::{Receivers, now_ns};
use crate::support::{self, Outcome, median};
use crate::{PAYLOAD_BYTES, acquired};

/// How many callers publish and wait meanwhile.
const CALLERS: usize = 32;
const STRETCH_MAX_MS: u64 = 120_000;

/// Measures one fan-out in so many runs.
pub(crate) fn measure(
    connection: &str,
    receivers: &mut Receivers,
    (fan_out, deliveries): (usize, usize),
    runs: usize,
) -> Outcome {
    let all = (0..runs).map(|_| deliver(connection, receivers, fan_out, deliveries));
    conclude(fan_out, &all.collect::<Outcome<Vec<_>>>()?);
    Ok(())
}

/// Deliveries a second on PostgreSQL and on sled.
fn deliver(
    connection: &str,
    receivers: &mut Receivers,
    fan_out: usize,
    deliveries: usize,
) -> Outcome<(f64, f64)> {
    let directory = support::directory("remote")?;
    let local = |config: Config| -> Outcome<Config> {
        Ok(config.allow_http(true).allow_addresses(["127.0.0.0/8".parse()?]))
    };
    let sled = delivered(local(Config::new(&directory))?, receivers, fan_out, deliveries)?;
    let config = Config::new("unused").store(acquired(connection)?);
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

fn conclude(fan_out: usize, runs: &[(f64, f64)]) {
    let middle = |of: fn(&(f64, f64)) -> f64| median(runs.iter().map(of).collect());
    let limit = (middle(|(_, sled)| *sled), "sled");
    let ratio = middle(|(remote, sled)| remote / sled);
    let what = format!("fanout_{fan_out}");
    support::result("remote", what, middle(|(remote, _)| *remote), "deliveries/s", limit, ratio);
}
