//! A backlog that one host wrote and another one opens and delivers, compared with sled.

use std::ffi::OsStr;
use std::time::Instant;

use wabahook::Config;

use crate::support::backlog::{self, Role, reopened};
use crate::support::{self, Outcome};
use crate::{next_shard, owned};

/// What `--in` begins with where it is a connection string and not a directory.
const SERVER: &str = "host=";

/// Plays a role on the server or the directory of `--in`.
pub(crate) fn play(role: Role) -> Outcome {
    let place = support::text("in").ok_or("no place is given")?;
    let config = match place.starts_with(SERVER) {
        true => Config::new("unused").store(owned(&place, next_shard())?),
        false => Config::new(place),
    };
    role.play(config)
}

pub(crate) fn measure(connection: &str) -> Outcome {
    let directory = support::directory("remote-backlog")?;
    let sled_per_s = drained(directory.as_os_str())?;
    std::fs::remove_dir_all(&directory)?;
    let place = OsStr::new(connection);
    let started = Instant::now();
    let (child, said) = Role::Fill.start(place, 1)?;
    println!("backlog: {said}, written in {:.1} s", started.elapsed().as_secs_f64());
    backlog::kill(child)?;
    let killed = Instant::now();
    let [seconds, rss_mb, peak_mb] = reopened(place, 1)?;
    let since_s = killed.elapsed().as_secs_f64();
    println!("backlog: open {since_s:.1} s after the kill, RSS at most {peak_mb:.0} MB");
    let name = |what: &str| format!("backlog_{}_{what}", backlog::events());
    support::result("remote", name("reopen"), seconds, "s", (3.0, "aim"), 3.0 / seconds);
    support::result("remote", name("rss"), rss_mb, "MB", (350.0, "aim"), 350.0 / rss_mb);
    let per_s = drain(place)?;
    let limit = (sled_per_s, "sled");
    support::result("remote", name("drain"), per_s, "deliveries/s", limit, per_s / sled_per_s);
    Ok(())
}

/// Writes a backlog, kills the writer and delivers everything. Returns deliveries a second.
fn drained(place: &OsStr) -> Outcome<f64> {
    backlog::kill(Role::Fill.start(place, 1)?.0)?;
    drain(place)
}

fn drain(place: &OsStr) -> Outcome<f64> {
    let (child, said) = Role::Drain.start(place, 1)?;
    backlog::kill(child)?;
    println!("backlog: {said}");
    Ok(said.split_whitespace().next().unwrap_or_default().parse()?)
}
