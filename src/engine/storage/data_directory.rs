//! Claims the store of an engine and opens its book. A data directory is created, locked, its format checked and
//! restricted to its owner; nothing in it is changed before the lock is held and the format is known.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::book::{LoadedSubscriptions, SubscriptionStore};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::store::{Sled, Store, StoreFailure, private};

/// The history of events, in the data directory.
pub(in crate::engine) const HISTORY: &str = "history";

/// The log of the book, in the data directory.
pub(in crate::engine) const BOOK_LOG: &str = "book.log";

/// The version of everything in a data directory. Any other version is refused.
const FORMAT: u32 = 4;
const FORMAT_FILE: &str = "format";
const NEW_FORMAT_FILE: &str = "format.new";
const LOCK_FILE: &str = "lock";
/// The directory that `fsck` keeps in the root of a volume, which may be the data directory.
const LOST_AND_FOUND: &str = "lost+found";

/// How often a lock is tried that another engine holds.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The configured store, or sled in the data directory with the lock on it.
pub(in crate::engine) fn claimed_store(config: &Config) -> Result<(Option<File>, Arc<dyn Store>)> {
    if let Some(given) = &config.store {
        let failed = |failure| Error::store("reading the format of the store", failure);
        let (found, supported) = (given.format(FORMAT).map_err(failed)?, FORMAT);
        if found != supported {
            return Err(Error::UnsupportedFormat { path: None, found, supported });
        }
        return Ok((None, Arc::clone(given)));
    }
    let lock = claim(&config.path, config.lock_wait)?;
    Ok((Some(lock), Arc::new(Sled::new(&config.path).durability(config.durability))))
}

/// Opens the book, with its log if the store is a directory.
pub(in crate::engine) fn open_book(
    store: &Arc<dyn Store>,
    config: &Config,
    has_log: bool,
) -> Result<LoadedSubscriptions> {
    let log = has_log.then(|| config.path.join(BOOK_LOG));
    let opened = SubscriptionStore::open(
        Arc::clone(store),
        log.as_deref(),
        &config.catalogue,
        config.on_damage,
    );
    opened.map_err(|error| match error {
        Error::Store { source: StoreFailure::InUse, .. } => {
            Error::InUse { path: config.path.clone() }
        }
        Error::Store { doing, source: StoreFailure::Io(source) } => {
            Error::Directory { path: config.path.join("book"), doing, source }
        }
        other => other,
    })
}

/// Creates the directory if it is missing, locks it, checks its format and takes the rights of other
/// users away from everything in it. Waits up to `lock_wait` for another engine to release the lock, which the
/// system does a moment after the process was killed.
fn claim(path: &Path, lock_wait: Duration) -> Result<File> {
    make_directory(path).map_err(|e| Error::directory("creating the data directory", path, e))?;
    let lock_path = path.join(LOCK_FILE);
    let failed = |error| Error::directory("locking the data directory with", &lock_path, error);
    let options = private::options().create(true).truncate(false).write(true).open(&lock_path);
    let lock = options.map_err(failed)?;
    if !lock_within(&lock, lock_wait, thread::park_timeout).map_err(failed)? {
        return Err(Error::InUse { path: path.to_owned() });
    }
    check_format(path)?;
    restrict(path).map_err(|e| Error::directory("restricting the rights of", path, e))?;
    Ok(lock)
}

/// Creates the directory of a backup, which must be empty. It cannot be opened before [`finish_backup`], so that half
/// a copy is never taken for a whole one.
pub(in crate::engine) fn begin_backup(path: &Path) -> Result<()> {
    make_directory(path).map_err(|e| Error::directory("creating the backup", path, e))?;
    let failed = |error| Error::directory("reading", path, error);
    if let Some(entry) = fs::read_dir(path).map_err(failed)?.next() {
        let name = entry.map_err(failed)?.file_name();
        let given = format!("{}, which holds {}", path.display(), name.to_string_lossy());
        return Err(Error::invalid("backup", given, "an empty or missing directory"));
    }
    private::tighten(path).map_err(|e| Error::directory("restricting the rights of", path, e))
}

pub(in crate::engine) fn finish_backup(path: &Path) -> Result<()> {
    let file = path.join(FORMAT_FILE);
    write_format(path, &file).map_err(|error| Error::directory("writing", &file, error))
}

/// Locks a file, with pauses of [`LOCK_PAUSE`] while it is locked elsewhere. Returns whether it is locked.
fn lock_within(lock: &File, wait: Duration, pause: impl Fn(Duration)) -> io::Result<bool> {
    let mut waited = Duration::ZERO;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if waited >= wait => return Ok(false),
            Err(TryLockError::WouldBlock) => pause(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        waited += LOCK_PAUSE;
    }
}

/// Takes the rights of other users away: the files hold payloads and secrets.
fn restrict(path: &Path) -> io::Result<()> {
    private::tighten(path)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == LOST_AND_FOUND {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => private::tighten_all(&entry.path())?,
            false => private::tighten(&entry.path())?,
        }
    }
    Ok(())
}

/// Creates a directory and its missing parents, and makes their names durable: synced files in a directory
/// whose own name is not durable would be lost with it. Repeated until the format file exists, because a
/// start that was killed may have created the directories and not synced them.
fn make_directory(path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|one| !one.exists()).count();
    private::create_directories(path)?;
    if path.join(FORMAT_FILE).exists() {
        return Ok(());
    }
    for (place, above) in path.ancestors().skip(1).enumerate() {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        let synced = File::open(above).and_then(|directory| directory.sync_all());
        // Directories that existed before may not be readable for us.
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
            if found != FORMAT {
                let path = Some(path.to_owned());
                return Err(Error::UnsupportedFormat { path, found, supported: FORMAT });
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => begin(path, &file),
        Err(error) => Err(Error::directory("reading", &file, error)),
    }
}

/// Marks an empty directory as ours. A directory with other files in it is refused.
fn begin(path: &Path, file: &Path) -> Result<()> {
    let failed = |error| Error::directory("writing", file, error);
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let is_ours = name == LOCK_FILE || name == NEW_FORMAT_FILE;
        if !is_ours && name != LOST_AND_FOUND {
            let given = format!("{}, which holds {}", path.display(), name.to_string_lossy());
            let expected = "an empty directory, or one that wabahook made";
            return Err(Error::invalid("data directory", given, expected));
        }
    }
    write_format(path, file).map_err(failed)
}

/// Writes the format file by a rename, so that it is there completely or not at all.
fn write_format(path: &Path, file: &Path) -> io::Result<()> {
    let new = path.join(NEW_FORMAT_FILE);
    let mut format = private::options().write(true).create(true).truncate(true).open(&new)?;
    format.write_all(format!("wabahook {FORMAT}\n").as_bytes())?;
    format.sync_all()?;
    fs::rename(&new, file)?;
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// As of a process that was killed and whose files the system has not closed yet.
    #[test]
    fn a_lock_that_is_released_meanwhile_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let open = |name: &str| File::create(directory.path().join(name)).unwrap();
        let held = open("lock");
        held.lock().unwrap();
        let (held, pauses) = (RefCell::new(Some(held)), Cell::new(0));
        let pause = |_| {
            pauses.set(pauses.get() + 1);
            if pauses.get() == 3 {
                drop(held.take());
            }
        };
        let lock = open("lock");
        assert!(!lock_within(&lock, LOCK_PAUSE * 2, pause).unwrap(), "the bound is reached first");
        assert_eq!(pauses.get(), 2);
        assert!(lock_within(&lock, LOCK_PAUSE * 5, pause).unwrap());
        assert_eq!(pauses.get(), 3);
        let bystander = open("lock of another directory");
        assert!(lock_within(&bystander, Duration::ZERO, pause).unwrap());
        assert!(!lock_within(&open("lock"), Duration::ZERO, pause).unwrap());
        assert_eq!(pauses.get(), 3, "without a wait there is no pause");
    }
}
