//! Moves what is stored from one store to another, such as from a directory to a server. Both are owned while it runs,
//! so no engine is open on either. A target that is not complete, and a source that was moved, are marked with a
//! database of that name, and no engine opens them.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::data_directory::{self, BOOK_LOG};
use crate::book;
use crate::config::Config;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::outbox;
use crate::store::{Database, Store, StoreFailure, copy_database, database_names};

/// Marks a target whose copy is not complete.
const INCOMPLETE: &str = "incomplete";

/// Marks a source that was moved elsewhere.
const MOVED: &str = "moved";

/// What was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// Databases: the subscriptions, the dedup keys, and each generation of the outbox.
    pub databases: u64,
    /// Records in them.
    pub records: u64,
    /// The size of keys and values.
    pub bytes: u64,
}

impl Engine {
    /// Moves everything that an engine stores: the subscriptions, the accounts, what is owed, dead letters and dedup
    /// keys. Each configuration names its place as for [`open`](Engine::open): a directory or a store. The history
    /// of events stays where it is. What was copied is compared with its source; afterwards the source is refused by
    /// [`open`](Engine::open). Blocks until everything is moved. Where it was cut short, call it again.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the target holds anything else, or the source was moved before;
    /// [`Error::InUse`] while an engine has one of them open; otherwise as [`open`](Engine::open).
    ///
    /// ```
    /// # use wabahook::{Config, Engine};
    /// # let (directory, elsewhere) = (tempfile::tempdir()?, tempfile::tempdir()?);
    /// # Engine::open(Config::new(directory.path()))?.close(std::time::Duration::from_secs(10))?;
    /// Engine::migrate(&Config::new(directory.path()), &Config::new(elsewhere.path().join("new")))?;
    /// assert!(Engine::open(Config::new(directory.path())).is_err());
    /// # Engine::open(Config::new(elsewhere.path().join("new")))?.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn migrate(from: &Config, to: &Config) -> Result<Migration> {
        let (from_lock, source) = data_directory::claimed_store(from)?;
        let (to_lock, target) = data_directory::claimed_store(to)?;
        // It would be taken for the newer state of the subscriptions that are copied there.
        let has_log = to_lock.is_some() && to.path.join(BOOK_LOG).exists();
        let moved = match has_log {
            true => Err(not_empty(BOOK_LOG)),
            false => migrate(from, &source, &*target, from_lock.is_some()),
        };
        source.release();
        target.release();
        drop((from_lock, to_lock));
        moved
    }
}

fn migrate(
    config: &Config,
    source: &Arc<dyn Store>,
    target: &dyn Store,
    has_log: bool,
) -> Result<Migration> {
    let (theirs, ours) = (names(&**source)?, names(target)?);
    let is_resumed = ours.iter().any(|name| name == INCOMPLETE);
    if theirs.iter().any(|name| name == INCOMPLETE || name == MOVED && !is_resumed) {
        return Err(refused("the source", &theirs));
    }
    if !is_resumed && !ours.is_empty() {
        return Err(not_empty(&ours.join(", ")));
    }
    if !theirs.iter().any(|name| name == MOVED) {
        // Brings the database to what the log of the subscriptions says.
        drop(data_directory::open_book(source, config, has_log)?);
    }
    mark(target, INCOMPLETE)?;
    let wanted: Vec<String> = names(&**source)?.into_iter().filter(|name| name != MOVED).collect();
    for name in ours.iter().filter(|name| *name != INCOMPLETE && !wanted.contains(name)) {
        target.remove(name).map_err(writing)?;
    }
    let mut migration = Migration::default();
    for name in &wanted {
        let digest = copy(&**source, target, name)?;
        migration.databases += 1;
        migration.records += digest.records;
        migration.bytes += digest.bytes;
    }
    mark(&**source, MOVED)?;
    target.remove(INCOMPLETE).map_err(writing)?;
    Ok(migration)
}

/// Refuses a store that was moved, or that a copy is not complete in.
pub(in crate::engine) fn check_complete(store: &dyn Store) -> Result<()> {
    check_marks("store", &names(store)?)
}

/// As [`check_complete`], for a directory that an engine may have open.
pub(in crate::engine) fn check_directory(path: &Path) -> Result<()> {
    match database_names(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        names => {
            let failed = |error| Error::directory("reading", path, error);
            check_marks("data directory", &names.map_err(failed)?)
        }
    }
}

fn check_marks(field: &str, names: &[String]) -> Result<()> {
    match names.iter().any(|name| is_mark(name)) {
        true => Err(refused(field, names)),
        false => Ok(()),
    }
}

fn is_mark(name: &str) -> bool {
    name == INCOMPLETE || name == MOVED
}

fn refused(field: &str, names: &[String]) -> Error {
    let (given, expected) = match names.iter().any(|name| name == MOVED) {
        true => ("moved elsewhere", "the store that it was moved to"),
        false => ("an incomplete copy", "a complete one: run the migration again, to its end"),
    };
    Error::invalid(field, given, expected)
}

fn not_empty(held: &str) -> Error {
    let expected =
        "an empty store: move the old directory away, or drop the old schemas on the server";
    Error::invalid("target", held, expected)
}

/// Copies a database anew, unless it has been copied, and compares both.
fn copy(source: &dyn Store, target: &dyn Store, name: &str) -> Result<ContentDigest> {
    let from = source.open(name).map_err(reading)?;
    let expected = ContentDigest::of(&*from)?;
    let to = target.open(name).map_err(writing)?;
    if ContentDigest::of(&*to)? == expected {
        return Ok(expected);
    }
    drop(to);
    target.remove(name).map_err(writing)?;
    let to = target.open(name).map_err(writing)?;
    copy_database(&*from, &*to).map_err(writing)?;
    match ContentDigest::of(&*to)? == expected {
        true => Ok(expected),
        false => {
            let why = "the copy differs from it".to_owned();
            Err(Error::Damaged { record: format!("database {name}"), why })
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct ContentDigest {
    records: u64,
    bytes: u64,
    checksum: u32,
}

impl ContentDigest {
    fn of(database: &dyn Database) -> Result<ContentDigest> {
        let (mut records, mut bytes, mut hasher) = (0, 0, crc32fast::Hasher::new());
        let scanned = database.scan(b"", b"", &mut |key, value| {
            records += 1;
            bytes += (key.len() + value.len()) as u64;
            for part in [key, value] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
            ControlFlow::Continue(())
        });
        scanned.map_err(reading)?;
        Ok(ContentDigest { records, bytes, checksum: hasher.finalize() })
    }
}

fn mark(store: &dyn Store, name: &str) -> Result<()> {
    store.open(name).and_then(|marker| marker.commit(Vec::new())).map_err(writing)
}

/// The databases of an engine, and the marks.
fn names(store: &dyn Store) -> Result<Vec<String>> {
    let mut names = store.list().map_err(reading)?;
    names.retain(|name| is_mark(name) || book::has_database(name) || outbox::has_database(name));
    Ok(names)
}

fn reading(failure: StoreFailure) -> Error {
    Error::store("reading what is to be moved", failure)
}

fn writing(failure: StoreFailure) -> Error {
    Error::store("writing what is moved", failure)
}
