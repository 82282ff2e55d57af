//! Moves what an engine stores from a directory to a real server and back. Each way is interrupted by a kill and resumed.
//! What arrives is equal byte for byte, the source is refused, and everything that was accepted is delivered in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wabahook::store::{Postgres, PostgresOptions, Sled, Store, StoreFailure};
use wabahook::testing::{ScriptedReply, ScriptedTransport};
use wabahook::{Config, Engine, Event, Limits, Subscription};

use crate::rounds::Verdict;
use crate::servers::Servers;
use crate::support::{DEADLINE, wait_until};

/// Set in the process that moves: the directory, the connection, and whether it goes to the server.
pub const DIRECTORY: &str = "WABAHOOK_REPLICATED_MIGRATES";
const CONNECTION: &str = "WABAHOOK_REPLICATED_CONNECTION";
const TO_SERVER: &str = "WABAHOOK_REPLICATED_TO_SERVER";

const SHARD: u16 = 6;
const EVENTS: u32 = 8_000;

pub fn there_and_back(servers: &mut Servers) -> Verdict {
    let (first, second) = (directory()?, directory()?);
    fill(first.path())?;
    let place = Place { connection: servers.connection() };
    let mut there = place.start(first.path(), true);
    let copied =
        format!("SELECT count(*) > 3 FROM pg_tables WHERE schemaname = 'wabahook_{SHARD}'");
    interrupt(&mut there, || servers.query(&copied).as_deref() == Ok("t"))?;
    place.expect_refused()?;
    finish(place.start(first.path(), true))?;
    let before = contents(&Sled::new(first.path()))?;
    let on_server = contents(&place.store()?)?;
    expect_moved(Config::new(first.path()))?;
    let mut back = place.start(second.path(), false);
    interrupt(&mut back, || databases_in(second.path()) > 3)?;
    finish(place.start(second.path(), false))?;
    place.expect_refused()?;
    let after = contents(&Sled::new(second.path()))?;
    if before != on_server || before != after {
        return Err(format!("what was moved differs: {before:?}\n{on_server:?}\n{after:?}"));
    }
    let delivered = drain(second.path())?;
    match delivered == EVENTS {
        true => Ok(format!(
            "{} databases equal on both ways, {delivered} events delivered",
            before.len()
        )),
        false => Err(format!("{delivered} of {EVENTS} events were delivered")),
    }
}

/// The process that moves.
pub fn run(directory: &Path) {
    let (here, place) = (config(directory), Place { connection: env::var(CONNECTION).unwrap() });
    let there = Config::new("unused").store(Arc::new(place.store().unwrap()));
    match env::var_os(TO_SERVER) {
        Some(_) => Engine::migrate(&here, &there).unwrap(),
        None => Engine::migrate(&there, &here).unwrap(),
    };
}

/// Where the server is.
struct Place {
    connection: String,
}

impl Place {
    fn start(&self, directory: &Path, to_server: bool) -> Child {
        let mut command = Command::new(env::current_exe().unwrap());
        command.env(DIRECTORY, directory).env(CONNECTION, &self.connection);
        if to_server {
            command.env(TO_SERVER, "1");
        }
        command.spawn().unwrap()
    }

    /// The store on the server, after the lease of a process that was killed.
    fn store(&self) -> Result<Postgres, String> {
        let options = PostgresOptions::new(&self.connection).unwrap().shard(SHARD);
        let options = options.lease_ttl(Duration::from_millis(500));
        let store = Postgres::connect(options).map_err(|failure| failure.to_string())?;
        store.acquire(DEADLINE).map_err(|failure| failure.to_string())?;
        Ok(store)
    }

    /// Neither an incomplete copy nor a source that was moved is opened.
    fn expect_refused(&self) -> Result<(), String> {
        expect_moved(Config::new("unused").store(Arc::new(self.store()?)))
    }
}

fn expect_moved(config: Config) -> Result<(), String> {
    match Engine::open(config) {
        Ok(_) => Err("an engine opened what is not complete or was moved".to_owned()),
        Err(_) => Ok(()),
    }
}

fn directory() -> Result<tempfile::TempDir, String> {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())
}

/// Small generations, so that there are many databases to move.
fn config(directory: &Path) -> Config {
    Config::new(directory).limits(Limits::default().generation_bytes(400_000))
}

/// Accepts events that stay owed.
fn fill(directory: &Path) -> Result<(), String> {
    let engine = Engine::open(config(directory)).map_err(|error| error.to_string())?;
    let hook = Subscription::to("https://crm.example/hook").unwrap().name("crm");
    let hook = engine.subscribe(hook).map_err(|error| error.to_string())?;
    engine.pause(hook).map_err(|error| error.to_string())?;
    let payload = |number: u32| format!("{number} {}", "7".repeat(900));
    let receipts = (0..EVENTS).map(|number| {
        let event = Event::new("MESSAGE_RECEIVED", payload(number)).dedup_key(number.to_string());
        engine.publish(event).map_err(|error| error.error.to_string())
    });
    let receipts = receipts.collect::<Result<Vec<_>, _>>()?;
    receipts
        .into_iter()
        .try_for_each(|receipt| receipt.wait().map(drop))
        .map_err(|e| e.to_string())?;
    engine.close(DEADLINE).map_err(|error| error.to_string())
}

/// Kills a move once it has come so far.
fn interrupt(moving: &mut Child, is_so_far: impl FnMut() -> bool) -> Result<(), String> {
    let came = wait_until(is_so_far);
    let ended = moving.try_wait().map_err(|error| error.to_string())?;
    let _ = moving.kill();
    let _ = moving.wait();
    match (came, ended) {
        (true, None) => Ok(()),
        (_, ended) => Err(format!("the move was not interrupted: {ended:?}")),
    }
}

fn finish(mut moving: Child) -> Result<(), String> {
    let ended = moving.wait().map_err(|error| error.to_string())?;
    ended.success().then_some(()).ok_or_else(|| format!("the move ended with {ended}"))
}

fn databases_in(directory: &Path) -> usize {
    let found = std::fs::read_dir(directory).into_iter().flatten().flatten();
    found.filter(|entry| entry.file_name().to_string_lossy().starts_with("outbox-")).count()
}

/// The number of records and a checksum of each database, but for the mark of a source that was moved.
fn contents(store: &dyn Store) -> Result<BTreeMap<String, (u64, u32)>, String> {
    let content = |name: &String| -> Result<(u64, u32), StoreFailure> {
        let (mut records, mut hasher) = (0, crc32fast::Hasher::new());
        store.open(name)?.scan(b"", b"", &mut |key, value| {
            records += 1;
            for part in [key, value] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
            ControlFlow::Continue(())
        })?;
        Ok((records, hasher.finalize()))
    };
    let names = store.list().map_err(|failure| failure.to_string())?;
    let names = names.into_iter().filter(|name| name != "moved");
    let contents = names.map(|name| content(&name).map(|content| (name, content)));
    contents.collect::<Result<_, _>>().map_err(|failure| failure.to_string())
}

/// Delivers what is owed. Returns how many different events arrived.
fn drain(directory: &Path) -> Result<u32, String> {
    let arrived = Arc::<Mutex<BTreeSet<Vec<u8>>>>::default();
    let seen = Arc::clone(&arrived);
    let accepting = ScriptedTransport::new(move |arrival| {
        let number = arrival.body.split(|byte| *byte == b' ').next().unwrap_or_default();
        seen.lock().insert(number.to_vec());
        ScriptedReply::Status(200)
    });
    let config = config(directory).transport(Arc::new(accepting.unrecorded()));
    let engine = Engine::open(config).map_err(|error| error.to_string())?;
    for hook in engine.subscriptions() {
        engine.resume(hook.id).map_err(|error| error.to_string())?;
    }
    let is_drained = wait_until(|| engine.stats().owed == 0);
    engine.close(DEADLINE).map_err(|error| error.to_string())?;
    let count = arrived.lock().len();
    is_drained.then_some(count as u32).ok_or_else(|| format!("{count} arrived in time"))
}
