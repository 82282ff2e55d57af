//! Decides how an engine comes up from whatever the last one left.
//!
//! Leaves to others: reading a generation (`outbox::recovery`) and the book (`subscription::book`).
//! Invariant (I3): a delivery that was owed is owed again, held where its subscription is not
//! known; nothing in the directory is changed before its lock is held and its format is known.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Condvar, Mutex, RwLock};
use roaring::RoaringBitmap;

use super::core::{Core, Drive, Phase};
use super::drain;
use super::recent::Recent;
use super::registry::{Registry, Served};
use crate::account::Accounts;
use crate::config::{Config, Limits};
use crate::delivery::{Crew, Guard, Http, Transport};
use crate::dispatch::{DispatchLimits, Dispatcher};
use crate::error::{Error, Result};
use crate::notice::{Board, Notice};
use crate::outbox::{self, Recovered, Setting, Unstarted};
use crate::stats::Counters;
use crate::store::{Failure, Sled, Store};
use crate::subscription::{self, Book, Ordering, Registered};

/// The version of everything in a data directory. 2 added what dispatch remembers: the terms of a
/// subscription, the history of a delivery, the health of a lane; 3 what a gateway's registration says of
/// a request, and its notes. What 1 and 2 wrote is read.
const FORMAT: u32 = 3;
const FORMAT_FILE: &str = "format";
const LOCK_FILE: &str = "lock";
const BOOK_LOG: &str = "book.log";

/// Opens everything and starts the threads.
pub(super) fn open(config: Config) -> Result<Arc<Core>> {
    let (core, unstarted) = prepare(config)?;
    let clock = Arc::clone(&core.clock);
    let (owing, sink) = (drain::owing(Arc::downgrade(&core)), drain::sink(Arc::downgrade(&core)));
    core.outbox.start(unstarted, Arc::clone(&clock), owing, sink)?;
    drain::start_timekeeper(&core)?;
    let jumped = Arc::downgrade(&core);
    clock.on_jump(Arc::new(move || {
        if let Some(core) = jumped.upgrade() {
            // Under the lock, so that the timekeeper is either waiting or yet to read the clock.
            let _drive = core.drive.lock();
            core.timer.notify_all();
        }
    }));
    Ok(core)
}

/// Opens everything, in the order in which each part needs the others, and starts no thread.
pub(super) fn prepare(config: Config) -> Result<(Arc<Core>, Unstarted)> {
    config.limits.check()?;
    let accounts = Accounts::new(config.accounts.clone())?;
    let (lock, store) = match &config.store {
        Some(store) => (None, Arc::clone(store)),
        None => {
            let lock = claim(&config.path)?;
            let sled = Sled::new(&config.path).durability(config.durability);
            (Some(lock), Arc::new(sled) as Arc<dyn Store>)
        }
    };
    let subscription::Opened { mut book, registered, set_aside } =
        open_book(&store, &config, lock.is_some())?;
    let (opened, recovered) = outbox::Opened::read(Setting {
        store,
        catalogue: &config.catalogue,
        limits: &config.limits,
        on_damage: config.on_damage,
        ordered: ordered(&registered),
        clock: &*config.clock,
    })?;

    let registered = without_removed(&mut book, registered, &recovered)?;
    let mut dispatcher = Dispatcher::new(dispatch_limits(&config.limits));
    let registry = serve(registered)?;
    let counters = Counters::default();
    let told = set_aside.into_iter().map(|(name, why)| Notice::SetAside { name, why });
    let mut standing: Vec<Notice> = told.collect();
    standing.extend(owe_again(&mut dispatcher, &registry, recovered, &config, &counters));

    let (outbox, unstarted) = opened.prepare(&config.limits);
    let guard = Arc::new(Guard::new(config.network.clone()));
    let transport = transport(&config)?;
    let core = Arc::new(Core {
        board: Board::new(config.limits.notices_max, standing),
        recent: Recent::new(&config.limits),
        limits: config.limits,
        catalogue: config.catalogue,
        accounts,
        clock: Arc::clone(&config.clock),
        network: config.network,
        guard,
        transport,
        counters,
        crew: Crew::default(),
        company: AtomicBool::default(),
        book: Mutex::new(Some(book)),
        registry: RwLock::new(registry),
        outbox,
        drive: Mutex::new(Drive::new(dispatcher)),
        work: Condvar::new(),
        timer: Condvar::new(),
        quiet: Condvar::new(),
        phase: Phase::default(),
        poison: Mutex::new(None),
        lock: Mutex::new(lock),
    });
    Ok((core, unstarted))
}

fn transport(config: &Config) -> Result<Arc<dyn Transport>> {
    if let Some(given) = &config.transport {
        return Ok(Arc::clone(given));
    }
    let idle_max = config.limits.lane_in_flight_max;
    let http = Http::new(config.network.clone(), idle_max, Arc::clone(&config.clock))?;
    Ok(Arc::new(http))
}

/// Those whose deliveries need the key of their event.
fn ordered(registered: &[Registered]) -> RoaringBitmap {
    let per_key = registered.iter().filter(|one| one.policy.ordering == Ordering::PerKey);
    per_key.map(|one| one.id.0).collect()
}

/// A subscription whose removal was begun is on the device as removed: the removal is finished, and
/// whoever waited for it waits no longer.
fn without_removed(
    book: &mut Book,
    registered: Vec<Registered>,
    recovered: &Recovered,
) -> Result<Vec<Registered>> {
    let (removed, mut kept): (Vec<_>, Vec<_>) =
        registered.into_iter().partition(|one| recovered.removed.contains(&one.id));
    let waits_in_vain =
        |one: &Registered| one.policy.after.is_some_and(|main| recovered.removed.contains(&main));
    for one in kept.iter_mut().filter(|one| waits_in_vain(one)) {
        one.wait_no_longer();
        book.put(one)?;
    }
    removed.iter().try_for_each(|one| book.remove(one.id))?;
    Ok(kept)
}

fn serve(registered: Vec<Registered>) -> Result<Registry> {
    let mut registry = Registry::default();
    for one in registered {
        registry.put(Served::new(one)?);
    }
    Ok(registry)
}

/// Owes what was owed, and returns what the host must be told: parts that were set aside, and
/// subscriptions that nobody knows.
fn owe_again(
    dispatcher: &mut Dispatcher,
    registry: &Registry,
    recovered: Recovered,
    config: &Config,
    counters: &Counters,
) -> Vec<Notice> {
    let (now_ms, wall_ms) = (config.clock.monotonic_ms(), config.clock.wall_ms());
    let Recovered {
        mut owed,
        retries,
        keys,
        health,
        cancelled,
        letters_dropped,
        set_aside,
        keys_dropped,
        ..
    } = recovered;
    counters.cancelled.add(cancelled);
    counters.letters_dropped.add(letters_dropped);
    counters.recovered.add(owed.values().map(roaring::RoaringTreemap::len).sum());
    let told = set_aside.into_iter().map(|(name, why)| Notice::SetAside { name, why });
    let mut standing: Vec<Notice> = told.collect();
    if let Some(dropped) = keys_dropped {
        counters.keys_dropped.add(dropped.keys);
        standing.push(Notice::KeysDropped(dropped.keys));
    }
    // A removed subscription whose tombstone went with the last that it was owed holds nothing.
    owed.retain(|_, sequences| !sequences.is_empty());
    for (id, sequences) in &owed {
        if registry.served(*id).is_none() {
            standing.push(Notice::Held { subscription: *id, deliveries: sequences.len() });
        }
    }
    for (delivery, state) in retries {
        if let Some(sequences) = owed.get_mut(&delivery.subscription) {
            sequences.remove(delivery.sequence);
        }
        let key_hash = keys.get(&delivery.sequence).copied().unwrap_or(0);
        dispatcher.recovered_retry(delivery, key_hash, &state, now_ms, wall_ms);
    }
    // In the order of their ids, which is the order of their turns, so that a simulation repeats.
    let mut owed: Vec<_> = owed.into_iter().collect();
    owed.sort_unstable_by_key(|(id, _)| *id);
    for (id, sequences) in owed {
        dispatcher.recovered(id, sequences, &keys);
    }
    // Their terms come last: an order takes in all that is owed at once, the earliest first, whether
    // it failed before or was never tried.
    for one in registry.all() {
        dispatcher.set_lane(one.id, one.policy.clone(), one.state, &keys);
    }
    let mut health: Vec<_> = health.into_iter().collect();
    health.sort_unstable_by_key(|(id, _)| *id);
    for (id, health) in health {
        dispatcher.recovered_health(id, &health, now_ms, wall_ms);
    }
    dispatcher.close_gates();
    standing
}

fn dispatch_limits(limits: &Limits) -> DispatchLimits {
    DispatchLimits {
        lane_in_flight_max: limits.lane_in_flight_max,
        stuck_after_ms: limits.stuck_after_ms,
        workers_max: limits.workers_max,
        stuck_max: limits.stuck_max,
    }
}

/// Opens the book, beside its log where the store is a directory.
fn open_book(
    store: &Arc<dyn Store>,
    config: &Config,
    has_log: bool,
) -> Result<subscription::Opened> {
    let log = has_log.then(|| config.path.join(BOOK_LOG));
    let opened = Book::open(Arc::clone(store), log.as_deref(), &config.catalogue, config.on_damage);
    opened.map_err(|error| match error {
        Error::Store { source: Failure::InUse, .. } => Error::InUse { path: config.path.clone() },
        Error::Store { doing, source: Failure::Io(source) } => {
            Error::Directory { path: config.path.join("book"), doing, source }
        }
        other => other,
    })
}

/// Makes the directory where it is missing, locks it, and checks its format.
fn claim(path: &Path) -> Result<File> {
    make_directory(path).map_err(|e| Error::directory("creating the data directory", path, e))?;
    let lock_path = path.join(LOCK_FILE);
    let failed = |error| Error::directory("locking the data directory with", &lock_path, error);
    let options = File::options().create(true).truncate(false).write(true).open(&lock_path);
    let lock = options.map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Error::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    check_format(path)?;
    Ok(lock)
}

/// Makes a directory and those above it that are missing. Their names are on the device when this
/// returns: what is synced in a directory without a name would go with it. A start that was killed
/// may have made them and not come to that, so it is done as long as the format is not there.
fn make_directory(path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|one| !one.exists()).count();
    fs::create_dir_all(path)?;
    if path.join(FORMAT_FILE).exists() {
        return Ok(());
    }
    for (place, above) in path.ancestors().skip(1).enumerate() {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        let synced = File::open(above).and_then(|directory| directory.sync_all());
        // Those that were there are perhaps not ours to open.
        if place < missing {
            synced?;
        }
    }
    Ok(())
}

fn check_format(path: &Path) -> Result<()> {
    let file = path.join(FORMAT_FILE);
    match fs::read_to_string(&file) {
        Ok(text) => {
            let unreadable = || Error::Damaged {
                record: format!("file {}", file.display()),
                why: "it is not the format line of a wabahook data directory".to_owned(),
            };
            let version = text.strip_prefix("wabahook ").and_then(|v| v.trim_end().parse().ok());
            let found: u32 = version.ok_or_else(unreadable)?;
            if found > FORMAT {
                let path = path.to_owned();
                return Err(Error::NewerFormat { path, found, supported: FORMAT });
            }
            if found < FORMAT {
                // Before anything of the newer format is written: an older build must not misread it.
                write_format(path, &file).map_err(|e| Error::directory("writing", &file, e))?;
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => begin(path, &file),
        Err(error) => Err(Error::directory("reading", &file, error)),
    }
}

/// Marks an empty directory as ours. One that holds other things is not taken over.
fn begin(path: &Path, file: &Path) -> Result<()> {
    let failed = |error| Error::directory("writing", file, error);
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name != LOCK_FILE && name != "format.new" {
            let given = format!("{}, which holds {}", path.display(), name.to_string_lossy());
            let expected = "an empty directory, or one that wabahook made";
            return Err(Error::invalid("data directory", given, expected));
        }
    }
    write_format(path, file).map_err(failed)
}

/// Whole or not at all.
fn write_format(path: &Path, file: &Path) -> io::Result<()> {
    let new = path.join("format.new");
    let mut format = File::create(&new)?;
    format.write_all(format!("wabahook {FORMAT}\n").as_bytes())?;
    format.sync_all()?;
    fs::rename(&new, file)?;
    File::open(path)?.sync_all()
}
