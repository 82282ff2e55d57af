//! The system refuses the thread that a call from an async runtime needs: only that call fails, and the session and the
//! database go on. Threads are refused by the limit of a user that is not root, so the round runs in a process of its own.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use wabahook::store::{Batch, Postgres, PostgresOptions, Store};

use crate::rounds::Verdict;
use crate::servers::Servers;

/// Set in the process of the round, to the connection.
pub const NAME: &str = "WABAHOOK_REPLICATED_REFUSED_THREAD";

const SHARD: u16 = 7;

/// The user `nobody`.
const USER: u32 = 65_534;

pub fn refuse(servers: &Servers) -> Verdict {
    let before = epoch(servers)?;
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.env(NAME, servers.connection()).current_dir("/");
    if geteuid().is_root() {
        command.uid(USER).gid(USER);
    }
    let ran = command.output().map_err(|error| error.to_string())?;
    let (said, failed) =
        (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    if !ran.status.success() {
        return Err(format!("{said}{failed}"));
    }
    // One epoch for the ownership, and one for its only session.
    match epoch(servers)? - before {
        2 => Ok(said.trim().to_owned()),
        more => Err(format!("the session was replaced: the epoch rose by {more}")),
    }
}

/// The epoch of the shard, which other rounds may have used; 0 if none did.
fn epoch(servers: &Servers) -> Result<u64, String> {
    let all = format!("SELECT coalesce(max(epoch), 0) FROM wabahook.lease WHERE shard = {SHARD}");
    servers.query(&all)?.parse().map_err(|error| format!("no epoch: {error}"))
}

pub fn run(connection: &str) {
    let options = PostgresOptions::new(connection).unwrap().shard(SHARD);
    let store = Postgres::connect(options).unwrap();
    store.acquire(Duration::from_secs(10)).unwrap();
    let (database, bystander) = (store.open("one").unwrap(), store.open("bystander").unwrap());
    let put = |value: &str| {
        let mut batch = Batch::default();
        batch.put("key", value);
        vec![batch]
    };
    bystander.commit(put("untouched")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let commit = |value: &str| runtime.block_on(async { database.commit(put(value)) });
    commit("before").unwrap();
    let granted = getrlimit(Resource::Nproc);
    setrlimit(Resource::Nproc, Rlimit { current: Some(1), ..granted }).unwrap();
    let refused = commit("refused");
    setrlimit(Resource::Nproc, granted).unwrap();
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("refuses the thread"), "{refused}");
    assert_eq!(database.get(b"key").unwrap().as_deref(), Some(&b"before"[..]));
    commit("after").unwrap();
    assert_eq!(database.get(b"key").unwrap().as_deref(), Some(&b"after"[..]));
    assert_eq!(bystander.get(b"key").unwrap().as_deref(), Some(&b"untouched"[..]));
    println!("{refused}");
}
