//! Decides how the store's contract is kept on sled 0.34.7: the only file that names sled.
//!
//! Leaves to others: what is stored. Invariant: `sync` is sled's flush followed by `sync_data` on
//! its log, because on Linux the flush alone does not reach the device; and a panic inside sled
//! comes out as a [`Failure`].

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Batch, Database, Durability, Failure, Operation, Pair, Store, Visit};

/// A store in a directory: one sled database per sub-directory.
#[derive(Debug)]
pub struct Sled {
    root: PathBuf,
    durability: Durability,
}

/// Bounds sled's page cache per database. It is no bound on memory by itself, and a tiny one costs
/// more memory than it saves.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// Only sled's background flusher gives back the space of removed records.
const FLUSHER_PERIOD_MS: u64 = 200;

/// A database that is being removed has a name that begins so.
const REMOVED: &str = "removed-";

impl Sled {
    /// The databases below `root`, which must exist.
    pub fn new(root: impl Into<PathBuf>) -> Sled {
        Sled { root: root.into(), durability: Durability::default() }
    }

    /// What a sync survives. Defaults to [`Durability::Power`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Sled {
        self.durability = durability;
        self
    }
}

impl Store for Sled {
    fn open(&self, name: &str) -> Result<Arc<dyn Database>, Failure> {
        let path = self.root.join(name);
        if !path.exists() {
            self.create(name)?;
        }
        remove_unfinished_snapshots(&path)?;
        let tree = guarded("opening", || config(&path).open())?;
        // Opening replaced the snapshot, and sled does not sync the directory that names it: with the
        // old one and the new log it would lose records without a word.
        sync_directory(&path)?;
        let log = OpenOptions::new().write(true).open(path.join("db")).map_err(Failure::io)?;
        Ok(Arc::new(Opened { tree, log, durability: self.durability }))
    }

    fn list(&self) -> Result<Vec<String>, Failure> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(Failure::io)? {
            let entry = entry.map_err(Failure::io)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let unfinished = entry.path().extension().is_some_and(|end| end == UNFINISHED);
            if name.starts_with(REMOVED) {
                remove_directory(&entry.path())?;
            } else if entry.path().is_dir() && !unfinished {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        // Renamed first, because a crash may leave a directory in part, which would not open.
        let going = self.root.join(format!("{REMOVED}{name}"));
        remove_directory(&going)?;
        match fs::rename(self.root.join(name), &going) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(Failure::io)?,
        }
        sync_directory(&self.root)?;
        remove_directory(&going)
    }

    fn set_aside(&self, name: &str) -> Result<String, Failure> {
        let new = super::damaged_name(name, |new| self.root.join(new).exists());
        fs::rename(self.root.join(name), self.root.join(&new)).map_err(Failure::io)?;
        sync_directory(&self.root)?;
        Ok(new)
    }
}

/// How the name of a database ends that is being made.
const UNFINISHED: &str = "unfinished";

impl Sled {
    /// Makes an empty database. It gets its name when all of it is on the device: one whose making
    /// the power cut short could not be opened, and nothing would tell it from a damaged one.
    fn create(&self, name: &str) -> Result<(), Failure> {
        let path = self.root.join(format!("{name}.{UNFINISHED}"));
        remove_directory(&path)?;
        fs::create_dir(&path).map_err(Failure::io)?;
        let tree = guarded("making a database", || config(&path).open())?;
        guarded("making a database", || tree.flush())?;
        guarded("making a database", move || {
            drop(tree);
            Ok(())
        })?;
        // sled syncs neither its `conf` file nor the directories that name its files.
        for entry in fs::read_dir(&path).map_err(Failure::io)? {
            let path = entry.map_err(Failure::io)?.path();
            File::open(path).and_then(|file| file.sync_all()).map_err(Failure::io)?;
        }
        sync_directory(&path)?;
        fs::rename(&path, self.root.join(name)).map_err(Failure::io)?;
        sync_directory(&self.root)
    }
}

fn config(path: &Path) -> ::sled::Config {
    ::sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(FLUSHER_PERIOD_MS))
}

/// One open sled database, with a handle of its log for `sync_data`.
struct Opened {
    tree: ::sled::Db,
    log: File,
    durability: Durability,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").finish_non_exhaustive()
    }
}

impl Database for Opened {
    fn apply(&self, batch: Batch) -> Result<(), Failure> {
        batch.check()?;
        let mut operations = ::sled::Batch::default();
        for operation in batch.into_operations() {
            match operation {
                Operation::Put(key, value) => operations.insert(key, value),
                Operation::Remove(key) => operations.remove(key),
            }
        }
        guarded("writing", || self.tree.apply_batch(operations))
    }

    fn sync(&self) -> Result<(), Failure> {
        guarded("flushing", || self.tree.flush())?;
        match self.durability {
            Durability::Power => self.log.sync_data().map_err(Failure::io),
            Durability::Process => Ok(()),
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let value = guarded("reading", || self.tree.get(key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), Failure> {
        guarded("scanning", || {
            for pair in self.tree.range(prefix.max(from)..) {
                let (key, value) = pair?;
                if !key.starts_with(prefix) {
                    break;
                }
                if let ControlFlow::Break(()) = visit(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn last(&self, prefix: &[u8], to: &[u8]) -> Result<Option<Pair>, Failure> {
        let below = guarded("reading", || self.tree.range(..=to).next_back().transpose())?;
        Ok(below
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.to_vec(), value.to_vec())))
    }
}

/// Turns sled's errors and panics into failures. sled's panics unwind and leave nothing of ours
/// half-changed; the caller drops the database after any failed write.
fn guarded<T>(doing: &str, work: impl FnOnce() -> Result<T, ::sled::Error>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failure(error)),
        Err(_) => Err(Failure::Damaged(format!("sled panicked while {doing}"))),
    }
}

fn failure(error: ::sled::Error) -> Failure {
    match error {
        ::sled::Error::Io(error) if is_lock_conflict(&error) => Failure::InUse,
        ::sled::Error::Io(error) => Failure::io(error),
        other => Failure::Damaged(other.to_string()),
    }
}

/// sled reports a taken lock as an error of kind `Other` that only its text tells apart.
fn is_lock_conflict(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.to_string().contains("could not acquire lock")
}

/// An open that failed on a full disk leaves such a file, and with it every later open fails; it
/// holds nothing that the log does not.
fn remove_unfinished_snapshots(path: &Path) -> Result<(), Failure> {
    for entry in fs::read_dir(path).map_err(Failure::io)? {
        let entry = entry.map_err(Failure::io)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path()).map_err(Failure::io)?;
        }
    }
    Ok(())
}

fn remove_directory(path: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::io(error)),
        _ => Ok(()),
    }
}

fn sync_directory(path: &Path) -> Result<(), Failure> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(Failure::io)
}
