//! A host process. It waits for the ownership, opens the engine, publishes from several threads and delivers, and
//! reports each step with one write on its standard output, which survives a kill. A line on its standard input ends
//! it in order.

use std::env;
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use wabahook::store::{Postgres, PostgresOptions, StoreFailure};
use wabahook::testing::{ScriptedReply, ScriptedTransport};
use wabahook::{Config, Engine, Error, Event, Limits, Notice, Subscription};

use crate::support::DEADLINE;

pub const NAME: &str = "WABAHOOK_REPLICATED_OWNER";
pub const CONNECTION: &str = "WABAHOOK_REPLICATED_CONNECTION";
/// Set where the process only delivers.
pub const DRAINS: &str = "WABAHOOK_REPLICATED_DRAINS";
/// Set where sessions keep their epoch.
pub const SAME_EPOCH: &str = "WABAHOOK_REPLICATED_SAME_EPOCH";
pub const SHARD: &str = "WABAHOOK_REPLICATED_SHARD";
pub const REPLICAS: &str = "WABAHOOK_REPLICATED_REPLICAS";

const PUBLISHERS: u32 = 8;

pub fn run(name: &str) {
    let store = acquired(name);
    say("led");
    let engine = Engine::open(config(store)).unwrap_or_else(|error| give_up("open", &error));
    let hook = Subscription::to("https://sound/hook").unwrap().name("sound");
    engine.subscribe(hook).unwrap_or_else(|error| give_up("subscribe", &error));
    say("opened");
    if env::var_os(DRAINS).is_some() {
        return drain(&engine);
    }
    let stops = Arc::new(AtomicBool::new(false));
    let (told, notices) = (Arc::clone(&stops), engine.notices());
    thread::spawn(move || {
        for notice in notices {
            say(&format!("notice {}", notice.kind()));
            if notice == Notice::NotOwner {
                told.store(true, Ordering::Release);
            }
        }
    });
    let asked = Arc::clone(&stops);
    thread::spawn(move || {
        let _ = io::stdin().lock().lines().next();
        asked.store(true, Ordering::Release);
    });
    thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let (engine, stops) = (&engine, &stops);
            scope.spawn(move || publish(engine, &format!("{name}.{publisher}"), stops));
        }
    });
    let _ = engine.close(DEADLINE);
    say("closed");
}

fn acquired(name: &str) -> Postgres {
    let connection = env::var(CONNECTION).unwrap();
    let options = PostgresOptions::new(&connection).unwrap().name(name);
    let replicas = env::var(REPLICAS).map_or(1, |text| text.parse().unwrap());
    let shard = env::var(SHARD).map_or(0, |text| text.parse().unwrap());
    let options = options.replicas(replicas).shard(shard);
    let options = match env::var_os(SAME_EPOCH) {
        Some(_) => options.without_session_epochs(),
        None => options,
    };
    let deadline = Instant::now() + DEADLINE;
    loop {
        let taken = Postgres::connect(options.clone())
            .and_then(|store| store.acquire(Duration::from_secs(30)).map(|()| store));
        match taken {
            Ok(store) => return store,
            // The server may be failing over just now.
            Err(StoreFailure::Io(_) | StoreFailure::InUse) if Instant::now() < deadline => {
                thread::park_timeout(Duration::from_millis(100));
            }
            Err(failure) => give_up("acquire", &failure),
        }
    }
}

/// Small generations, so that several begin and are cleared, and a small cache, so that payloads are read back.
fn config(store: Postgres) -> Config {
    let transport = ScriptedTransport::new(|arrival| {
        say(&format!("delivered {}", String::from_utf8_lossy(&arrival.body)));
        ScriptedReply::Status(200)
    });
    let limits = Limits::default().generation_bytes(400_000).cache_bytes_max(64 * 1024);
    let config = Config::new("unused").store(Arc::new(store)).limits(limits);
    config.transport(Arc::new(transport.unrecorded()))
}

fn publish(engine: &Engine, publisher: &str, stops: &AtomicBool) {
    let mut is_busy = false;
    for number in 0_u64.. {
        if stops.load(Ordering::Acquire) {
            return;
        }
        let tag = format!("{publisher}.{number}");
        let receipt = match engine.publish(Event::new("MESSAGE_RECEIVED", tag.clone())) {
            Ok(receipt) => receipt,
            // The notice of a lost ownership ends it, so that the notice is reported before the end.
            Err(error) if error.is_busy() || matches!(error.error, Error::NotOwner) => {
                if !std::mem::replace(&mut is_busy, true) {
                    say("busy");
                }
                thread::park_timeout(Duration::from_millis(2));
                continue;
            }
            Err(_) => return,
        };
        match receipt.wait() {
            Err(Error::NotOwner) => {}
            Ok(_) => {
                is_busy = false;
                say(&format!("accepted {tag}"));
            }
            Err(Error::Unknown { .. }) => say(&format!("unknown {tag}")),
            Err(Error::Refused { .. }) => say(&format!("refused {tag}")),
            Err(_) => return,
        }
    }
}

/// Delivers everything that is owed.
fn drain(engine: &Engine) {
    if !crate::support::wait_until(|| engine.stats().owed == 0) {
        give_up("drain", &format!("{:?}", engine.stats()));
    }
    engine.close(DEADLINE).unwrap_or_else(|error| give_up("close", &error));
    say("drained");
}

fn give_up(doing: &str, error: &dyn std::fmt::Display) -> ! {
    say(&format!("failed {doing}: {error}"));
    std::process::exit(1);
}

/// One write for each line, so that a kill never leaves a part of one.
fn say(line: &str) {
    let _ = io::stdout().lock().write_all(format!("{line}\n").as_bytes());
}
