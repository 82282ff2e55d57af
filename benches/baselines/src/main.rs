//! Compares alternatives with the engine: the same events to the same receivers, in turns, in one run.
//! The receivers and the engine's own run are those of `cargo bench --bench fanout`, and with
//! `--only networks` those of `cargo bench --bench networks` at 100 ms. A baseline that
//! reaches less of the raw requests than it did elsewhere is badly built or has a slow machine, and then
//! no factor is printed.
//!
//! `cargo run --release --manifest-path benches/baselines/Cargo.toml -- --runs 5 --deliveries 30000`
//!
//! All make 1,024-byte events durable before they count as accepted, sign them (HMAC-SHA256, once; the
//! engine signs twice), and keep connections open. `outbox`: a hand-written table of deliveries in SQLite
//! (WAL, synchronous=FULL), 32 callers with a transaction each. `outbox_together`: the same with 64
//! events per transaction, for an author who batches callers. `effectum`: as it ships, with a rollback
//! journal, synchronous=NORMAL and several events per transaction. `webhooksmith`: its SQLite engine with
//! synchronous=FULL, and as it ships.

mod outbox;
mod queue;
mod receiver;
mod signing;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use receiver::{Fanout, Kind, Networks};

/// The same as in the engine's own run.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a baseline can fail with.
type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// The work of each.
struct Work {
    directory: PathBuf,
    /// The URLs of the endpoints, one for each subscription.
    urls: Vec<String>,
    events: usize,
}

const FAN_OUTS: [usize; 3] = [1, 10, 100];
const PEERS: [&str; 5] =
    ["outbox", "outbox_together", "effectum", "webhooksmith", "webhooksmith_shipped"];
/// The baselines of `vs_best`. An outbox that batches its callers is more than is usually written, so it
/// is printed separately.
const PICKED: [&str; 3] = ["outbox", "effectum", "webhooksmith"];

/// What was reached earlier on two cores, at fan-out 1, 10 and 100, where raw requests reached 125,000 a
/// second.
const RAW_THEN: f64 = 125_000.0;
const THEN: [(&str, [f64; 3]); 2] =
    [("outbox", [4_011.0, 9_177.0, 3_201.0]), ("effectum", [5_795.0, 6_578.0, 6_551.0])];

fn main() -> Outcome {
    let runs: usize = option("runs", 5);
    let deliveries: usize = option("deliveries", 30_000);
    let only: String = option("only", String::new());
    let fanout = Fanout::build()?;
    if only == "networks" {
        return networks(&fanout, runs);
    }
    let webhooksmith = receiver::build_webhooksmith()?;
    let mut reached: BTreeMap<(String, usize), Vec<f64>> = BTreeMap::new();
    for run in 0..runs {
        for fan_out in FAN_OUTS {
            let (own, raw) = fanout.own(fan_out, deliveries)?;
            println!("run {run}, fan-out {fan_out}: raw {raw:.0}/s, wabahook {own:.0}/s");
            reached.entry(("raw".to_owned(), fan_out)).or_default().push(raw);
            reached.entry(("wabahook".to_owned(), fan_out)).or_default().push(own);
            for peer in PEERS.iter().filter(|peer| peer.contains(&only)) {
                // It delivers sequentially, which would take minutes.
                let deliveries =
                    if peer.starts_with("webhooksmith") { deliveries / 10 } else { deliveries };
                let receivers = (Kind::AtOnce, fan_out);
                let per_s = measure(peer, receivers, deliveries, &fanout, &webhooksmith)?;
                println!("run {run}, fan-out {fan_out}: {peer} {per_s:.0}/s");
                reached.entry(((*peer).to_owned(), fan_out)).or_default().push(per_s);
            }
        }
    }
    let medians: BTreeMap<_, _> =
        reached.into_iter().map(|(key, values)| (key, median(values))).collect();
    FAN_OUTS.into_iter().enumerate().for_each(|(nth, fan_out)| conclude(nth, fan_out, &medians));
    Ok(())
}

/// Deliveries to receivers that answer after 100 ms: the engine, and the outbox with its 32 threads.
fn networks(fanout: &Fanout, runs: usize) -> Outcome {
    let engine = Networks::build()?;
    for subscriptions in [100, 1_000] {
        let (mut own, mut outbox) = (Vec::new(), Vec::new());
        for run in 0..runs {
            own.push(engine.own(subscriptions)?);
            let receivers = (Kind::After100Ms, subscriptions);
            outbox.push(measure("outbox_together", receivers, 2_000, fanout, Path::new(""))?);
            println!("run {run}, {subscriptions} at 100 ms: {own:.0?}/s, outbox {outbox:.0?}/s");
        }
        let (own, outbox) = (median(own), median(outbox));
        println!(
            "RESULT bench=baselines what=vs_best_at_100ms_{subscriptions} figure={own:.3} unit=deliveries/s \
             limit={outbox:.3} limit_is=outbox ratio={:.3}",
            own / outbox
        );
    }
    Ok(())
}

/// The value of the option `--name`, or `default`.
fn option<T: std::str::FromStr>(name: &str, default: T) -> T {
    let mut given = std::env::args().skip_while(|given| *given != format!("--{name}"));
    given.nth(1).and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    let lower = values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN);
    f64::midpoint(lower, upper)
}

/// Deliveries a second of one baseline.
fn measure(
    peer: &str,
    (kind, fan_out): (Kind, usize),
    deliveries: usize,
    fanout: &Fanout,
    webhooksmith: &Path,
) -> Outcome<f64> {
    let mut receiver = fanout.receiver()?;
    let directory = std::env::temp_dir().join(format!("baseline-{}", std::process::id()));
    let directory = PathBuf::from(option("data", directory.to_string_lossy().into_owned()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory)?;
    println!("  the device takes {:.0} syncs/s", receiver::syncs_per_s(&directory)?);
    let urls = (0..fan_out).map(|n| receiver.url(kind, n)).collect();
    let work = Work { directory, urls, events: (deliveries / fan_out).max(1) };
    let due = work.events * fan_out;
    // It runs until it is dropped, after everything has arrived.
    let (started_ns, running_on): (u64, Box<dyn std::any::Any>) = match peer {
        "outbox" => running(outbox::run(&work, outbox::Publishing::EachAlone, &mut receiver)?),
        "outbox_together" => {
            running(outbox::run(&work, outbox::Publishing::Together, &mut receiver)?)
        }
        "effectum" => running(queue::run(&work, &mut receiver)?),
        _ => {
            let shipped = peer == "webhooksmith_shipped";
            running(receiver::run_webhooksmith(webhooksmith, &work, shipped, &mut receiver)?)
        }
    };
    let ended_ns = receiver.reached()?;
    drop(running_on);
    std::fs::remove_dir_all(&work.directory)?;
    Ok(due as f64 * 1e9 / (ended_ns - started_ns) as f64)
}

fn running<T: 'static>((started_ns, running): (u64, T)) -> (u64, Box<dyn std::any::Any>) {
    (started_ns, Box::new(running))
}

/// The bytes of an event, with its number.
fn payload(number: usize) -> Vec<u8> {
    let mut payload = format!("{{\"event\":{number},\"text\":\"").into_bytes();
    let mut state = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while payload.len() + 2 < 1_024 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        payload.push(b'a' + (state % 26) as u8);
    }
    payload.extend_from_slice(b"\"}");
    payload
}

fn conclude(nth: usize, fan_out: usize, medians: &BTreeMap<(String, usize), f64>) {
    let of = |name: &str| medians.get(&(name.to_owned(), fan_out)).copied();
    let (Some(raw), Some(own)) = (of("raw"), of("wabahook")) else { return };
    for peer in PEERS {
        let Some(per_s) = of(peer) else { continue };
        let share = per_s / raw;
        println!(
            "RESULT bench=baselines what={peer}_{fan_out} figure={per_s:.3} unit=deliveries/s \
             limit={raw:.3} limit_is=raw_keepalive ratio={share:.3}"
        );
    }
    let picked = PICKED.iter().filter_map(|peer| Some((*peer, of(peer)?)));
    let best = picked.max_by(|a, b| a.1.total_cmp(&b.1));
    let best_share = best.map_or(0.0, |(_, per_s)| per_s / raw);
    for (peer, then) in THEN {
        let Some(share) = of(peer).map(|per_s| per_s / raw) else { continue };
        let least = then[nth] / RAW_THEN;
        if share < least {
            println!("{peer} reached {share:.4} of raw and must reach {least:.4}");
            // If it were not the best even then, it changes nothing.
            if least >= best_share {
                println!("no vs_best_{fan_out}");
                return;
            }
        }
    }
    let together = of("outbox_together").map(|per_s| ("outbox_together", per_s));
    for (what, against) in [("vs_best", best), ("vs_together", together)] {
        let Some((peer, per_s)) = against else { continue };
        println!(
            "RESULT bench=baselines what={what}_{fan_out} figure={:.3} unit=times limit={per_s:.3} \
             limit_is={peer} ratio={:.3}",
            own / per_s,
            own / per_s
        );
    }
}
