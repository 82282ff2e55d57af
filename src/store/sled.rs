//! Decides how the store's contract is kept on sled 0.34.7: with `waking` the only file that names
//! sled.
//!
//! Leaves to others: what is stored, and which databases must be there (`witness`). Invariant:
//! `sync` is sled's flush followed by `sync_data` on its log, because on Linux the flush alone does
//! not reach the device; and a panic inside sled comes out as a [`Failure`].

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::waking::Waking;
use super::witness::{self, Witness};
use super::{Batch, Database, Durability, Failure, Operation, Pair, Store, Visit};

/// A store in a directory: one sled database per sub-directory.
#[derive(Debug)]
pub struct Sled {
    root: PathBuf,
    durability: Durability,
    waking: Arc<Waking>,
}

/// Bounds sled's page cache per database, but not one as small as a generation: sled shares the
/// bound among 256 parts of the cache and leaves each the page it used last, and a generation has
/// about as many pages. All that is read of it stays in memory until it is closed, so what bounds
/// memory is how many generations are open.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// Only sled's background flusher gives back the space of removed records.
const FLUSHER_PERIOD_MS: u64 = 200;

/// A database that is being removed has a name that begins so.
const REMOVED: &str = "removed-";

impl Sled {
    /// The databases below `root`, which must exist.
    pub fn new(root: impl Into<PathBuf>) -> Sled {
        Sled { root: root.into(), durability: Durability::default(), waking: Arc::default() }
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
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(damaged(name, "is a file and not a directory")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::io(error));
            }
            Err(_) if witness::speaks_of(&self.root, name) => {
                return Err(damaged(name, "is missing: somebody removed or renamed it"));
            }
            Err(_) => self.create(name)?,
        }
        remove_unfinished_snapshots(&path)?;
        let config = config(&path).flush_every_ms(Some(FLUSHER_PERIOD_MS));
        let opened = open_unlocked(&config);
        let tree = Arc::new(opened.map_err(|failure| match failure {
            Failure::Damaged(why) => damaged(name, &format!("cannot be opened: {why}")),
            other => other,
        })?);
        self.waking.watch(config, &tree).map_err(Failure::io)?;
        // Opening replaced the snapshot, and sled does not sync the directory that names it: with the
        // old one and the new log it would lose records without a word.
        sync_directory(&path)?;
        let log = OpenOptions::new().write(true).open(path.join("db")).map_err(Failure::io)?;
        let witness = Witness::open(&self.root, name).map_err(Failure::io)?;
        let (durability, waking) = (self.durability, Arc::clone(&self.waking));
        Ok(Arc::new(Opened { tree: Some(tree), log, witness, durability, _waking: waking }))
    }

    fn list(&self) -> Result<Vec<String>, Failure> {
        let mut names = witness::names(&self.root).map_err(Failure::io)?;
        for entry in fs::read_dir(&self.root).map_err(Failure::io)? {
            let entry = entry.map_err(Failure::io)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let unfinished = entry.path().extension().is_some_and(|end| end == UNFINISHED);
            if name.starts_with(REMOVED) {
                remove_directory(&entry.path())?;
            } else if entry.path().is_dir() && !unfinished && name != witness::DIRECTORY {
                names.push(name);
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        witness::end(&self.root, name).map_err(Failure::io)?;
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
        witness::end(&self.root, name).map_err(Failure::io)?;
        match fs::rename(self.root.join(name), self.root.join(&new)) {
            // It is missing: nothing but its name is left.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(name.to_owned()),
            renamed => renamed.map_err(Failure::io)?,
        }
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
        // With no flusher: beside it, a flush may miss that it failed, and nobody watches this one.
        let tree = open_unlocked(&config(&path).flush_every_ms(None))?;
        guarded("making a database", || tree.flush())?;
        guarded("making a database", move || {
            drop(tree);
            Ok(())
        })?;
        // sled's own threads may hold the file, and with it its lock, a moment longer.
        let log = File::open(path.join("db")).map_err(Failure::io)?;
        log.lock().map_err(Failure::io)?;
        drop(log);
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
    ::sled::Config::new().path(path).cache_capacity(CACHE_BYTES)
}

/// One open sled database, with a handle of its log for `sync_data`.
struct Opened {
    /// None only while it is dropped.
    tree: Option<Arc<::sled::Db>>,
    log: File,
    witness: Witness,
    durability: Durability,
    /// Kept while the database is open.
    _waking: Arc<Waking>,
}

impl Opened {
    fn tree(&self) -> Result<&::sled::Db, Failure> {
        self.tree.as_deref().ok_or(Failure::Closed)
    }
}

impl Drop for Opened {
    /// sled panics where a device refuses the last sync, and there is nobody to tell: what was
    /// synced is on the device.
    fn drop(&mut self) {
        // Before it is dropped, because nobody is woken who waits inside the drop.
        let _ = self.tree().and_then(|tree| guarded("closing", || tree.flush()));
        let tree = self.tree.take();
        let _ = catch_unwind(AssertUnwindSafe(move || drop(tree)));
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").finish_non_exhaustive()
    }
}

impl Database for Opened {
    fn apply(&self, batch: Batch) -> Result<(), Failure> {
        batch.check()?;
        let tree = self.tree()?;
        // A batch of sled's is framed by a record that it writes by itself and at once, with a wake of
        // all its threads and a wait for the device; and it locks out all readers of all databases.
        let operations = match <[Operation; 1]>::try_from(batch.into_operations()) {
            Ok([Operation::Put(key, value)]) => {
                return guarded("writing", || tree.insert(key, value).map(drop));
            }
            Ok([Operation::Remove(key)]) => {
                return guarded("writing", || tree.remove(key).map(drop));
            }
            Err(operations) => operations,
        };
        let mut batch = ::sled::Batch::default();
        for operation in operations {
            match operation {
                Operation::Put(key, value) => batch.insert(key, value),
                Operation::Remove(key) => batch.remove(key),
            }
        }
        guarded("writing", || tree.apply_batch(batch))
    }

    fn sync(&self) -> Result<(), Failure> {
        let tree = self.tree()?;
        guarded("flushing", || tree.flush())?;
        match self.durability {
            Durability::Power => self.log.sync_data().map_err(Failure::io),
            Durability::Process => Ok(()),
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let tree = self.tree()?;
        let value = guarded("reading", || tree.get(key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), Failure> {
        let tree = self.tree()?;
        guarded("scanning", || {
            for pair in tree.range(prefix.max(from)..) {
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
        let tree = self.tree()?;
        let below = guarded("reading", || tree.range(..=to).next_back().transpose())?;
        Ok(below
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    fn vouch(&self, records: u64) {
        self.witness.note(records);
    }

    fn vouched(&self) -> Option<u64> {
        self.witness.noted()
    }
}

/// How often, and how long apart, a lock is asked for that sled's threads may still hold.
const LOCK_TRIES: u32 = 250;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Opens a database. The threads of one that was just closed, or that could not be opened, let go
/// of its lock a little later.
fn open_unlocked(config: &::sled::Config) -> Result<::sled::Db, Failure> {
    let open = || guarded("opening", || config.open());
    let mut opened = open();
    for _ in 0..LOCK_TRIES {
        if !matches!(opened, Err(Failure::InUse)) {
            break;
        }
        std::thread::park_timeout(LOCK_PAUSE);
        opened = open();
    }
    opened
}

fn damaged(name: &str, why: &str) -> Failure {
    Failure::Damaged(format!("the directory {name} {why}"))
}

/// Turns sled's errors and panics into failures. sled's panics unwind and leave nothing of ours
/// half-changed; the caller drops the database after any failed write.
pub(super) fn guarded<T>(
    doing: &str,
    work: impl FnOnce() -> Result<T, ::sled::Error>,
) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failure(error)),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no word");
            Err(Failure::Damaged(format!("sled panicked while {doing} ({said})")))
        }
    }
}

fn failure(error: ::sled::Error) -> Failure {
    match error {
        ::sled::Error::Io(error) if is_lock_conflict(&error) => Failure::InUse,
        // A file is shorter than it was, or of another kind.
        ::sled::Error::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::IsADirectory
                    | io::ErrorKind::NotADirectory
            ) =>
        {
            Failure::Damaged(error.to_string())
        }
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
