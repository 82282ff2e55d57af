//! The rounds. Each begins with a primary and a synchronous standby, and ends with a verdict on all that was reported
//! since the last one.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::contract;
use crate::disk;
use crate::ledger::Ledger;
use crate::migration;
use crate::process::{HostOptions, HostProcess};
use crate::proxy::Proxy;
use crate::refused_thread;
use crate::servers::Servers;
use crate::tls;

pub type Verdict = Result<String, String>;
type Round = fn(&mut Servers) -> Verdict;

/// Within what another host goes on.
const TAKEOVER_MAX: Duration = Duration::from_secs(5);

/// How much is accepted before something is killed.
pub const SOME: usize = 300;

const ROUNDS: [(&str, u32, Round); 16] = [
    ("contract", 1, check_contract),
    ("unsafe_server", 1, refuse_an_unsafe_server),
    ("tls", 1, tls::check),
    ("migration", 1, migration::there_and_back),
    ("refused_thread", 1, |servers| refused_thread::refuse(servers)),
    ("disk_full", 1, |_| disk::fill_in_a_namespace()),
    ("owner_killed", 3, kill_the_owner),
    ("owner_stopped", 3, stop_the_owner),
    ("standby_killed", 1, kill_the_standby),
    ("late_commit", 1, let_a_commit_land_late),
    ("primary_killed", 2, kill_the_primary),
    ("both_killed", 2, kill_both),
    ("cluster", 1, run_a_cluster),
    ("cluster_tls", 1, run_a_cluster_over_tls),
    ("owner_away", 1, freeze_an_owner_without_a_server),
    // Last, because it leaves deliveries that only the host may make.
    ("two_hosts", 1, run_two_hosts),
];

pub fn play(mut servers: Servers, wanted: &[String]) {
    for (name, times, round) in ROUNDS {
        let is_wanted = |part: &String| name.contains(part.as_str());
        if !wanted.is_empty() && !wanted.iter().any(is_wanted) {
            continue;
        }
        for time in 1..=times {
            let began = Instant::now();
            let verdict = round(&mut servers);
            let took = began.elapsed().as_secs_f64();
            match verdict {
                Ok(told) => println!("replicated: {name} {time} of {times}: {told} ({took:.1} s)"),
                Err(why) => panic!("{name} {time}: {why}"),
            }
        }
    }
}

fn check_contract(servers: &mut Servers) -> Verdict {
    contract::check(servers);
    Ok("the contract is kept".to_owned())
}

/// A server that confirms without a standby is refused where a standby is required.
fn refuse_an_unsafe_server(servers: &mut Servers) -> Verdict {
    use wabahook::store::{Postgres, PostgresOptions, StoreFailure};

    let set = |value: &str| -> Result<(), String> {
        servers.query(&format!("ALTER SYSTEM SET synchronous_standby_names = '{value}'"))?;
        servers.query("SELECT pg_reload_conf()")?;
        let deadline = Instant::now() + TAKEOVER_MAX;
        while servers.query("SHOW synchronous_standby_names")? != value {
            assert!(Instant::now() < deadline, "the setting was not read");
        }
        Ok(())
    };
    let options = || PostgresOptions::new(&servers.connection()).unwrap().shard(8);
    let store = Postgres::connect(options()).map_err(|error| error.to_string())?;
    store.acquire(Duration::from_secs(10)).map_err(|error| error.to_string())?;
    let (sender, told) = std::sync::mpsc::channel();
    wabahook::store::Store::on_event(&store, Box::new(move |event| drop(sender.send(event))));
    set("")?;
    let refused = Postgres::connect(options());
    let later = told.recv_timeout(TAKEOVER_MAX).map_err(|error| format!("not told: {error}"))?;
    let single = Postgres::connect(options().replicas(0));
    set("standby")?;
    match (refused, single) {
        (Err(StoreFailure::Unsafe(why)), Ok(_)) => Ok(format!("{why}; told later: {later:?}")),
        (refused, single) => Err(format!("{refused:?}, {single:?}")),
    }
}

/// Kills the owner. A host that waits goes on.
fn kill_the_owner(servers: &mut Servers) -> Verdict {
    let (mut ledger, options) = (Ledger::default(), options(servers));
    let mut first = HostProcess::start("first", &options);
    first.wait_for_many("accepted", SOME, &mut ledger)?;
    let second = HostProcess::start("second", &options);
    first.wait_for_many("accepted", SOME, &mut ledger)?;
    let killed = Instant::now();
    first.kill(&mut ledger);
    let goes_on = second.accepts_after(killed, &mut ledger)?;
    second.wait_for_many("accepted", SOME, &mut ledger)?;
    second.stop(&mut ledger)?;
    judged(&ledger_after_drain(ledger, &options)?, goes_on)
}

/// Stops the owner, which goes on after another host has taken over.
fn stop_the_owner(servers: &mut Servers) -> Verdict {
    let (mut ledger, options) = (Ledger::default(), options(servers));
    let mut first = HostProcess::start("first", &options);
    first.wait_for_many("accepted", SOME, &mut ledger)?;
    let second = HostProcess::start("second", &options);
    first.wait_for_many("accepted", SOME, &mut ledger)?;
    let stopped = Instant::now();
    first.signal(Signal::STOP);
    let goes_on = second.accepts_after(stopped, &mut ledger)?;
    second.wait_for_many("accepted", SOME, &mut ledger)?;
    first.signal(Signal::CONT);
    first.wait_for("notice not_owner", &mut ledger)?;
    first.wait_for("closed", &mut ledger)?;
    first.kill(&mut ledger);
    second.wait_for_many("accepted", SOME, &mut ledger)?;
    second.stop(&mut ledger)?;
    judged(&ledger_after_drain(ledger, &options)?, goes_on)
}

/// The reference host, where it was built.
fn run_a_cluster(servers: &mut Servers) -> Verdict {
    with_host_program(|program| crate::cluster::serve_together(program, servers))
}

fn run_a_cluster_over_tls(servers: &mut Servers) -> Verdict {
    with_host_program(|program| crate::cluster_tls::serve_together(program, servers))
}

fn freeze_an_owner_without_a_server(servers: &mut Servers) -> Verdict {
    with_host_program(|program| crate::owner_away::refuse_in_time(program, servers))
}

fn run_two_hosts(servers: &mut Servers) -> Verdict {
    with_host_program(|program| crate::hosts::take_turns(program, servers))
}

fn with_host_program(run: impl FnOnce(&str) -> Verdict) -> Verdict {
    match option_env!("CARGO_BIN_EXE_wabahook") {
        Some(program) => run(program),
        None => Ok("skipped: the host was not built".to_owned()),
    }
}

/// Commits wait for a standby that is gone, and are confirmed when it is back.
fn kill_the_standby(servers: &mut Servers) -> Verdict {
    let (mut ledger, options) = (Ledger::default(), options(servers));
    let owner = HostProcess::start("owner", &options);
    owner.wait_for_many("accepted", SOME, &mut ledger)?;
    servers.kill_standby();
    owner.wait_for("notice stalled", &mut ledger)?;
    servers.restart_standby()?;
    let back = Instant::now();
    owner.wait_for("notice resumed", &mut ledger)?;
    let goes_on = owner.accepts_after(back, &mut ledger)?;
    owner.wait_for_many("accepted", SOME, &mut ledger)?;
    owner.stop(&mut ledger)?;
    let told = ledger_after_drain(ledger, &options)?.judge()?;
    Ok(format!("{told}; accepted again {:.1} s after the standby was back", goes_on.as_secs_f64()))
}

/// A commit is held until the owner has given it up and gone on with a new session. The control shows that the epoch
/// of the session is what keeps it out.
fn let_a_commit_land_late(servers: &mut Servers) -> Verdict {
    let told = late_commit(servers, false)?;
    match late_commit(servers, true) {
        Ok(told) => Err(format!("without new epochs nothing was wrong: {told}")),
        Err(why) => Ok(format!("{told}; without new epochs: {why}")),
    }
}

fn late_commit(servers: &mut Servers, keeps_epoch: bool) -> Verdict {
    // A store of its own, so that the generation that the commit is for is still there.
    let shard = if keeps_epoch { 2 } else { 1 };
    let direct = HostOptions { shard, ..options(servers) };
    let mut ledger = Ledger::default();
    let proxy = Proxy::to(servers.primary_port());
    let connection =
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres sslmode=disable", proxy.port);
    let through = HostOptions { connection, keeps_epoch, shard, ..HostOptions::default() };
    let owner = HostProcess::start("owner", &through);
    owner.wait_for_many("accepted", SOME, &mut ledger)?;
    proxy.hold();
    owner.wait_for("notice stalled", &mut ledger)?;
    owner.wait_for("notice resumed", &mut ledger)?;
    owner.wait_for_many("accepted", SOME, &mut ledger)?;
    proxy.release();
    // The server has done what was held when the old connections are gone.
    let gone = "SELECT count(*) <= 4 FROM pg_stat_activity WHERE application_name = 'wabahook'";
    servers.wait_for(gone, "t")?;
    owner.wait_for_many("accepted", SOME, &mut ledger)?;
    owner.stop(&mut ledger)?;
    ledger_after_drain(ledger, &direct)?.judge()
}

/// Kills the primary and makes the standby the new one. The same host goes on there.
fn kill_the_primary(servers: &mut Servers) -> Verdict {
    let (mut ledger, options) = (Ledger::default(), options(servers));
    let owner = HostProcess::start("owner", &options);
    owner.wait_for_many("accepted", SOME, &mut ledger)?;
    servers.kill_primary();
    servers.promote()?;
    let promoted = Instant::now();
    let goes_on = owner.accepts_after(promoted, &mut ledger)?;
    owner.wait_for_many("accepted", SOME, &mut ledger)?;
    owner.stop(&mut ledger)?;
    let verdict = judged(&ledger_after_drain(ledger, &alone(servers))?, goes_on);
    servers.add_standby()?;
    verdict
}

/// Kills the owner and the primary. A host that waits goes on at the new primary.
fn kill_both(servers: &mut Servers) -> Verdict {
    let (mut ledger, options) = (Ledger::default(), options(servers));
    let mut first = HostProcess::start("first", &options);
    first.wait_for_many("accepted", SOME, &mut ledger)?;
    let connection = servers.connection();
    let waiting = HostOptions { connection, is_unreplicated: true, ..HostOptions::default() };
    let second = HostProcess::start("second", &waiting);
    first.wait_for_many("accepted", SOME, &mut ledger)?;
    first.kill(&mut ledger);
    servers.kill_primary();
    servers.promote()?;
    // How long that took is PostgreSQL's own affair.
    let promoted = Instant::now();
    let goes_on = second.accepts_after(promoted, &mut ledger)?;
    second.wait_for_many("accepted", SOME, &mut ledger)?;
    second.stop(&mut ledger)?;
    let verdict = judged(&ledger_after_drain(ledger, &alone(servers))?, goes_on);
    servers.add_standby()?;
    verdict
}

fn options(servers: &Servers) -> HostOptions {
    HostOptions { connection: servers.connection(), ..HostOptions::default() }
}

/// For a primary that has no standby.
fn alone(servers: &Servers) -> HostOptions {
    HostOptions { is_unreplicated: true, ..options(servers) }
}

/// What is known after one more host has delivered everything that is owed.
pub fn ledger_after_drain(mut ledger: Ledger, options: &HostOptions) -> Result<Ledger, String> {
    let drains = HostOptions { drains: true, keeps_epoch: false, ..options.clone() };
    let drain = HostProcess::start("drain", &drains);
    drain.wait_for("drained", &mut ledger)?;
    Ok(ledger)
}

fn judged(ledger: &Ledger, goes_on: Duration) -> Verdict {
    let told = ledger.judge()?;
    if goes_on > TAKEOVER_MAX {
        return Err(format!("it took {:.1} s to go on; {told}", goes_on.as_secs_f64()));
    }
    Ok(format!("{told}; went on after {:.1} s", goes_on.as_secs_f64()))
}
