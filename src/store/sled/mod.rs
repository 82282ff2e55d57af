//! The store on sled 0.34.7: one sled database per sub-directory. Only the files of this directory
//! name sled. A database exists only once all of it is on the device, and what belongs to a database
//! is readable for its owner alone.

mod database;
mod errors;
mod flush_watchdog;
mod manifest;
mod snapshots;
mod thread_pool;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::database::SledDatabase;
use self::errors::guarded;
use self::flush_watchdog::FlushWatchdog;
use self::manifest::Manifest;
use super::{Database, Durability, Store, StoreFailure, private};

/// A store in a directory: one sled database per sub-directory.
#[derive(Debug)]
pub struct Sled {
    root: PathBuf,
    durability: Durability,
    watchdog: Arc<FlushWatchdog>,
}

/// Bounds sled's page cache per database, except for one as small as a generation: sled splits the
/// bound among 256 shards of the cache and keeps the last page used in each, and a generation has
/// about as many pages. Everything read from a generation stays in memory until it is closed, so the
/// number of open generations is what bounds memory.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// Only sled's background flusher frees the space of removed records. It wakes and syncs each database this often,
/// whether or not anything was written; what we write we sync ourselves.
const FLUSHER_PERIOD_MS: u64 = 4_000;

/// The name of a database that is being removed begins with this.
const REMOVED: &str = "removed-";

/// The name of a database that is being created ends with this.
const UNFINISHED: &str = "unfinished";

/// How often, and how long apart, a lock is tried that sled's threads may still hold.
const LOCK_TRIES: u32 = 250;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

impl Sled {
    /// The databases below `root`, which must exist.
    pub fn new(root: impl Into<PathBuf>) -> Sled {
        Sled { root: root.into(), durability: Durability::default(), watchdog: Arc::default() }
    }

    /// What a sync survives. Defaults to [`Durability::Power`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Sled {
        self.durability = durability;
        self
    }

    /// Creates an empty database. It gets its name once all of it is on the device: a half-created
    /// one could not be opened after a power cut and would look like a damaged one.
    fn create(&self, name: &str) -> Result<(), StoreFailure> {
        let path = self.root.join(format!("{name}.{UNFINISHED}"));
        remove_directory(&path)?;
        private::create_directories(&path).map_err(StoreFailure::io)?;
        // Without the flusher: a concurrent flush may miss a failed write, and no watchdog looks at
        // this database.
        let tree = open_unlocked(&config(&path).flush_every_ms(None))?;
        guarded("creating a database", || tree.flush())?;
        guarded("creating a database", move || {
            drop(tree);
            Ok(())
        })?;
        // sled's threads may hold the file and its lock a moment longer.
        let log = File::open(path.join("db")).map_err(StoreFailure::io)?;
        log.lock().map_err(StoreFailure::io)?;
        drop(log);
        // sled syncs neither its `conf` file nor the directories that name its files.
        for entry in fs::read_dir(&path).map_err(StoreFailure::io)? {
            let path = entry.map_err(StoreFailure::io)?.path();
            File::open(path).and_then(|file| file.sync_all()).map_err(StoreFailure::io)?;
        }
        sync_directory(&path)?;
        fs::rename(&path, self.root.join(name)).map_err(StoreFailure::io)?;
        sync_directory(&self.root)
    }
}

/// The names of the databases below `root`, in order, also while a store has them open.
pub(crate) fn database_names(root: &Path) -> io::Result<Vec<String>> {
    let mut names = manifest::names(root)?;
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let is_unfinished = path.extension().is_some_and(|end| end == UNFINISHED);
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if path.is_dir() && !is_unfinished && !is_removed(&path) && name != manifest::DIRECTORY {
            names.push(name.to_owned());
        }
    }
    names.retain(|name| !name.is_empty());
    names.sort();
    names.dedup();
    Ok(names)
}

/// Whether a database of this path is being removed.
fn is_removed(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(REMOVED))
}

impl Store for Sled {
    fn open(&self, name: &str) -> Result<Arc<dyn Database>, StoreFailure> {
        let path = self.root.join(name);
        self.watchdog.start().map_err(StoreFailure::io)?;
        thread_pool::start(&self.root);
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(damaged(name, "is a file and not a directory")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreFailure::io(error));
            }
            Err(_) if manifest::lists(&self.root, name) => {
                return Err(damaged(name, "is missing: it was removed or renamed"));
            }
            Err(_) => self.create(name)?,
        }
        snapshots::set_damaged_aside(&path).map_err(StoreFailure::io)?;
        let config = config(&path).flush_every_ms(Some(FLUSHER_PERIOD_MS));
        let opened = open_unlocked(&config);
        let tree = Arc::new(opened.map_err(|failure| match failure {
            StoreFailure::Damaged(why) => damaged(name, &format!("cannot be opened: {why}")),
            other => other,
        })?);
        self.watchdog.watch(config, &tree);
        // Opening wrote a new snapshot, and sled does not sync the directory that names it: the old
        // snapshot with the new log would lose records silently.
        sync_directory(&path)?;
        private::tighten_all(&path).map_err(StoreFailure::io)?;
        let log = OpenOptions::new().write(true).open(path.join("db")).map_err(StoreFailure::io)?;
        let manifest = Manifest::open(&self.root, name).map_err(StoreFailure::io)?;
        let (durability, watchdog) = (self.durability, Arc::clone(&self.watchdog));
        let tree = Some(tree);
        Ok(Arc::new(SledDatabase { tree, log, manifest, durability, watchdog }))
    }

    fn list(&self) -> Result<Vec<String>, StoreFailure> {
        for entry in fs::read_dir(&self.root).map_err(StoreFailure::io)? {
            let path = entry.map_err(StoreFailure::io)?.path();
            if is_removed(&path) {
                remove_directory(&path)?;
            }
        }
        database_names(&self.root).map_err(StoreFailure::io)
    }

    fn remove(&self, name: &str) -> Result<(), StoreFailure> {
        manifest::remove(&self.root, name).map_err(StoreFailure::io)?;
        // Renamed first, because a crash may leave a partial directory, which would not open.
        let removed = self.root.join(format!("{REMOVED}{name}"));
        remove_directory(&removed)?;
        match fs::rename(self.root.join(name), &removed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(StoreFailure::io)?,
        }
        sync_directory(&self.root)?;
        remove_directory(&removed)
    }

    fn set_aside(&self, name: &str) -> Result<String, StoreFailure> {
        let new = super::damaged_name(name, |new| self.root.join(new).exists());
        manifest::remove(&self.root, name).map_err(StoreFailure::io)?;
        match fs::rename(self.root.join(name), self.root.join(&new)) {
            // The directory is missing, and only its name was left.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(name.to_owned()),
            renamed => renamed.map_err(StoreFailure::io)?,
        }
        sync_directory(&self.root)?;
        Ok(new)
    }
}

fn config(path: &Path) -> ::sled::Config {
    ::sled::Config::new().path(path).cache_capacity(CACHE_BYTES)
}

/// Opens a database. The threads of one that was just closed, or failed to open, release its lock a
/// little later.
fn open_unlocked(config: &::sled::Config) -> Result<::sled::Db, StoreFailure> {
    let open = || guarded("opening", || config.open());
    let mut opened = open();
    for _ in 0..LOCK_TRIES {
        if !matches!(opened, Err(StoreFailure::InUse)) {
            break;
        }
        std::thread::park_timeout(LOCK_PAUSE);
        opened = open();
    }
    opened
}

fn damaged(name: &str, why: &str) -> StoreFailure {
    StoreFailure::Damaged(format!("the directory {name} {why}"))
}

fn remove_directory(path: &Path) -> Result<(), StoreFailure> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreFailure::io(error)),
        _ => Ok(()),
    }
}

fn sync_directory(path: &Path) -> Result<(), StoreFailure> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(StoreFailure::io)
}
