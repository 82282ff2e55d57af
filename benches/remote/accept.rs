//! Accepted events by how many publishers wait, in turns with sled and with one INSERT a group of the same bytes.

use std::sync::Arc;
use std::time::Duration;

use wabahook::{Config, Engine};

use crate::acquired;
use crate::raw_inserts::{GroupRows, RawInserts};
use crate::support::publishers::Publishers;
use crate::support::transports::Acknowledging;
use crate::support::{self, Outcome, median};

/// How many turns of each store a run has.
const SLICES: u32 = 5;

/// Measures one number of publishers in so many runs.
pub(crate) fn measure(
    what: &str,
    connection: &str,
    raw: &mut RawInserts,
    (publishers, span): (Publishers, Duration),
    runs: usize,
) -> Outcome {
    let all = (0..runs).map(|_| accept(connection, raw, publishers, span));
    conclude(what, &all.collect::<Outcome<Vec<_>>>()?);
    Ok(())
}

/// What one run of one number of publishers showed.
struct AcceptRun {
    remote_per_s: f64,
    sled_per_s: f64,
    raw_per_s: f64,
    pipelined_per_s: f64,
    /// Of a group of the engine, and of the INSERT that stands for it.
    log_bytes: f64,
    raw_log_bytes: f64,
    group_events: f64,
    wait_p50_ms: f64,
    wait_p99_ms: f64,
}

fn accept(
    connection: &str,
    raw: &mut RawInserts,
    publishers: Publishers,
    span: Duration,
) -> Outcome<AcceptRun> {
    let directory = support::directory("remote")?;
    let transport = || Arc::new(Acknowledging);
    let remote =
        Engine::open(Config::new("unused").store(acquired(connection)?).transport(transport()))?;
    let sled = Engine::open(Config::new(&directory).transport(transport()))?;
    support::subscribe(&remote, 1)?;
    support::subscribe(&sled, 1)?;
    let slice = span / SLICES;
    publishers.publish(&remote, slice)?;
    publishers.publish(&sled, slice)?;
    let before = remote.stats();
    let (mut waits, mut sled_events, mut raw_groups, mut pipelined) = (Vec::new(), 0, 0.0, 0.0);
    let (mut log_bytes, mut raw_log_bytes, mut groups) = (0.0, 0.0, 1.0);
    for _ in 0..SLICES {
        let log = raw.log_bytes()?;
        waits.extend(publishers.publish(&remote, slice)?);
        log_bytes += raw.log_bytes()? - log;
        sled_events += publishers.publish(&sled, slice)?.len();
        groups = (remote.stats().groups - before.groups).max(1) as f64;
        let rows = GroupRows::of_log(log_bytes / groups);
        let log = raw.log_bytes()?;
        raw_groups += raw.insert(rows, slice)?;
        raw_log_bytes += raw.log_bytes()? - log;
        pipelined += raw.insert_pipelined(rows, slice)?;
    }
    let after = remote.stats();
    remote.close(support::CLOSE_MAX)?;
    sled.close(support::CLOSE_MAX)?;
    std::fs::remove_dir_all(&directory)?;
    let seconds = slice.as_secs_f64() * f64::from(SLICES);
    waits.sort_unstable();
    let quantile = |hundredths: usize| {
        waits.get(waits.len() * hundredths / 100).map_or(f64::NAN, |wait| wait.as_secs_f64() * 1e3)
    };
    let group_events = (after.accepted - before.accepted) as f64 / groups;
    Ok(AcceptRun {
        remote_per_s: waits.len() as f64 / seconds,
        sled_per_s: sled_events as f64 / seconds,
        raw_per_s: raw_groups * group_events / seconds,
        pipelined_per_s: pipelined * group_events / seconds,
        log_bytes: log_bytes / groups,
        raw_log_bytes: raw_log_bytes / raw_groups,
        group_events,
        wait_p50_ms: quantile(50),
        wait_p99_ms: quantile(99),
    })
}

fn conclude(what: &str, runs: &[AcceptRun]) {
    let middle = |of: fn(&AcceptRun) -> f64| median(runs.iter().map(of).collect());
    println!(
        "{what}: {:.1} events a group, a receipt takes {:.2} ms (p50) and {:.2} ms (p99); the same INSERTs in halves, two \
         under way: {:.0} events/s; a group takes {:.0} bytes of log, an INSERT {:.0}",
        middle(|run| run.group_events),
        middle(|run| run.wait_p50_ms),
        middle(|run| run.wait_p99_ms),
        middle(|run| run.pipelined_per_s),
        middle(|run| run.log_bytes),
        middle(|run| run.raw_log_bytes)
    );
    let figure = middle(|run| run.remote_per_s);
    let ratio = middle(|run| run.remote_per_s / run.raw_per_s);
    let limit = (middle(|run| run.raw_per_s), "one_insert_a_group");
    support::result("remote", what, figure, "events/s", limit, ratio);
    let ratio = middle(|run| run.remote_per_s / run.sled_per_s);
    let limit = (middle(|run| run.sled_per_s), "sled");
    support::result("remote", format!("{what}_of_sled"), figure, "events/s", limit, ratio);
}
