//! What the store on PostgreSQL costs: accepted events by how many publishers wait, deliveries by fan-out, and a large
//! backlog that another host opens. The limit of an accept is one INSERT for each group, of rows that take as many bytes
//! of log as the group did, over one connection to the same server; sled and the limit take turns with it, so that a slow
//! phase of the device affects all. Both servers, the engine, the publishers and the receivers are on this machine.
//! `delayed_` is the same with a proxy before the server that delays what clients send, and what they get, by 1 ms each.
//!
//! `cargo bench --features postgres --bench remote -- --runs 5 --ms 1500`; `--only accept_64` runs that alone. A backlog
//! takes minutes and is only opened when asked for: `--only backlog --events 1000000`. It starts a primary and a
//! synchronous standby from Debian's package in `/var/tmp`.

mod accept;
mod backlog;
mod delay_proxy;
mod deliver;
mod raw_inserts;
#[path = "../../src/bin/wabahook/demo/servers.rs"]
#[allow(dead_code, reason = "a bench kills nothing")]
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use delay_proxy::DelayProxy;
use raw_inserts::RawInserts;
use servers::Servers;
use support::Outcome;
use support::backlog::Role;
use support::publishers::Publishers;
use support::receiver_process::{self, Receivers};
use wabahook::store::{Postgres, PostgresOptions};

const PAYLOAD_BYTES: usize = 1024;
const ACCEPTS: [usize; 4] = [1, 32, 64, 256];
const DELAYED_ACCEPTS: [usize; 2] = [64, 256];
const FAN_OUTS: [usize; 3] = [1, 10, 100];
/// How long the proxy holds what passes in each direction.
const DELAY: Duration = Duration::from_millis(1);

fn main() -> Outcome {
    if support::has_option("receive") {
        return receiver_process::receive();
    }
    if let Some(role) = Role::of_this_process() {
        return backlog::play(role);
    }
    let runs: usize = support::option("runs", 5);
    let span = Duration::from_millis(support::option("ms", 1_500));
    let deliveries: usize = support::option("deliveries", 20_000);
    let only = support::text("only").unwrap_or_default();
    let wanted = |what: &str| only.is_empty() || only == what;
    let servers = Servers::start_in(Path::new("/var/tmp"), Path::new("/var/tmp"))?;
    let connection = servers.connection();
    if only == "backlog" {
        return backlog::measure(&connection);
    }
    let accept = |what: &str, publishers: Publishers, connection: &str| -> Outcome {
        if !wanted(what) {
            return Ok(());
        }
        let mut raw = RawInserts::connect(connection)?;
        accept::measure(what, connection, &mut raw, (publishers, span), runs)
    };
    for waiting in ACCEPTS {
        accept(&format!("accept_{waiting}"), Publishers::on_threads(waiting), &connection)?;
    }
    let of_an_event_loop = Publishers { threads: 2, ..Publishers::on_threads(64) };
    accept("accept_64_on_2_threads", of_an_event_loop, &connection)?;
    let proxy = DelayProxy::start(servers.primary_port(), DELAY)?;
    for waiting in DELAYED_ACCEPTS {
        let what = format!("delayed_accept_{waiting}");
        accept(&what, Publishers::on_threads(waiting), &proxy.connection())?;
    }
    let mut receivers = Receivers::start()?;
    for fan_out in FAN_OUTS.into_iter().filter(|n| wanted(&format!("fanout_{n}"))) {
        deliver::measure(&connection, &mut receivers, (fan_out, deliveries), runs)?;
    }
    Ok(())
}

/// Takes the ownership of a store that nothing else uses.
fn acquired(connection: &str) -> Outcome<Arc<Postgres>> {
    owned(connection, next_shard())
}

fn owned(connection: &str, shard: u16) -> Outcome<Arc<Postgres>> {
    let store = Postgres::connect(PostgresOptions::new(connection)?.shard(shard))?;
    store.acquire(Duration::from_secs(10))?;
    Ok(Arc::new(store))
}

/// A number that no earlier run of this process had.
fn next_shard() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}
