//! Decides how a data directory is copied to where it may be written to: whole, while no engine has it
//! open, into a directory that goes away again.
//!
//! Leaves to others: what is done with the copy. Invariant: nothing is written into the original, and
//! nothing in it is opened for writing.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::screen::bytes;
use crate::failure::Failure;

/// A copy of a data directory, for as long as this is kept.
pub(crate) struct Scratch {
    directory: TempDir,
}

/// The files by which a data directory is known and locked.
const FORMAT: &str = "format";
const LOCK: &str = "lock";

impl Scratch {
    /// Copies a data directory below `parent`, or below the system's directory for temporary files.
    pub(crate) fn copy_of(original: &Path, parent: Option<&Path>) -> Result<Scratch, Failure> {
        check_ours(original)?;
        // Held until all is copied: an engine that starts meanwhile is refused and changes nothing.
        let lock = lock(original)?;
        let parent = parent.map_or_else(std::env::temp_dir, PathBuf::from);
        let made = tempfile::Builder::new().prefix("wabahook-").tempdir_in(&parent);
        let directory = made.map_err(|error| no_room(&parent, original, &error))?;
        let copied = copy(original, &directory.path().join(DATA));
        copied.map_err(|error| no_room(&parent, original, &error))?;
        drop(lock);
        Ok(Scratch { directory })
    }

    /// A fresh directory that holds nothing.
    pub(crate) fn empty(parent: Option<&Path>) -> Result<Scratch, Failure> {
        let parent = parent.map_or_else(std::env::temp_dir, PathBuf::from);
        let made = tempfile::Builder::new().prefix("wabahook-").tempdir_in(&parent);
        let failed =
            |error| Failure::Run(format!("{}: no directory in it: {error}", parent.display()));
        Ok(Scratch { directory: made.map_err(failed)? })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join(DATA)
    }
}

/// The name of the copy.
const DATA: &str = "data";

fn check_ours(original: &Path) -> Result<(), Failure> {
    let shown = original.display();
    if !original.is_dir() {
        return Err(Failure::NotFound(format!("{shown} is no directory")));
    }
    if !original.join(FORMAT).is_file() {
        let message =
            format!("{shown} is no data directory of wabahook: it holds no file {FORMAT}");
        return Err(Failure::Usage(message));
    }
    Ok(())
}

/// The lock of the directory, shared with others who only read.
fn lock(original: &Path) -> Result<Option<File>, Failure> {
    let path = original.join(LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::Run(format!("{}: {error}", path.display()))),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Failure::Busy(format!(
            "{} is open in a running engine: ask that host (wabahook webhooks list, wabahook dead \
             list), or stop it first",
            original.display()
        ))),
        Err(TryLockError::Error(error)) => {
            Err(Failure::Run(format!("{} cannot be locked: {error}", path.display())))
        }
    }
}

fn no_room(parent: &Path, original: &Path, error: &io::Error) -> Failure {
    Failure::Run(format!(
        "{} ({}) cannot be copied to {}: {error}; name a directory with room by --scratch",
        original.display(),
        bytes(size(original)),
        parent.display()
    ))
}

/// Copies what an engine makes: directories and plain files. The copy has a lock of its own.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_file() && entry.file_name() != LOCK {
            let mut source = File::open(entry.path())?;
            io::copy(&mut source, &mut File::create_new(&target)?)?;
        }
    }
    Ok(())
}

/// Bytes of the files below a directory.
pub(crate) fn size(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
