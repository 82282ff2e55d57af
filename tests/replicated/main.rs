//! I1, I2 and I3 on a replicated PostgreSQL: the owner, the primary or both are killed, the owner is stopped and goes
//! on later, a commit lands after its session was given up, the standby dies while commits wait, and the primary's disk
//! is full for a while. After each round everything that any host accepted has been delivered, and nothing that was
//! refused. Another host goes on within 5 s, or the same one at the new primary.
//!
//! It starts the servers itself, from Debian's package `postgresql`, with a synchronous standby and with everything on
//! that makes a commit durable. Where they are not installed it prints `skipped` and the reason; where
//! `WABAHOOK_POSTGRES_INSTALLED` is set it fails instead. An argument runs the rounds whose name contains it.
#[cfg(target_os = "linux")]
#[path = "../support/authority.rs"]
mod authority;
#[cfg(target_os = "linux")]
mod cluster;
#[cfg(target_os = "linux")]
mod cluster_tls;
#[cfg(target_os = "linux")]
mod contract;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod hosts;
#[cfg(target_os = "linux")]
mod ledger;
#[cfg(target_os = "linux")]
mod migration;
#[cfg(target_os = "linux")]
mod owner;
#[cfg(target_os = "linux")]
mod owner_away;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod proxy;
#[cfg(target_os = "linux")]
mod refused_thread;
#[cfg(target_os = "linux")]
mod rounds;
#[cfg(target_os = "linux")]
#[path = "../../src/bin/wabahook/demo/servers.rs"]
mod servers;
#[cfg(target_os = "linux")]
#[path = "../support/mod.rs"]
mod support;
#[cfg(target_os = "linux")]
mod tls;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("replicated skipped: the servers are started from Debian's package");
}

#[cfg(target_os = "linux")]
fn main() {
    use std::path::Path;
    use std::time::Instant;

    if let Ok(name) = std::env::var(owner::NAME) {
        return owner::run(&name);
    }
    if let Some(directory) = std::env::var_os(migration::DIRECTORY) {
        return migration::run(Path::new(&directory));
    }
    if let Some(disk) = std::env::var_os(disk::NAME) {
        return disk::run(Path::new(&disk));
    }
    if let Ok(connection) = std::env::var(refused_thread::NAME) {
        return refused_thread::run(&connection);
    }
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let began = Instant::now();
    let servers = match servers::Servers::start() {
        Ok(servers) => servers,
        Err(why) if std::env::var_os("WABAHOOK_POSTGRES_INSTALLED").is_none() => {
            println!("replicated skipped: {why}");
            return;
        }
        Err(why) => panic!("PostgreSQL is installed and its servers do not start: {why}"),
    };
    println!("replicated: two servers started in {:.1} s", began.elapsed().as_secs_f64());
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|one| !one.starts_with('-')).collect();
    rounds::play(servers, &wanted);
    println!("replicated: passed in {:.1} s", began.elapsed().as_secs_f64());
}
