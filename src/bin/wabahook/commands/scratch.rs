//! Copies a data directory that no engine has open into a temporary directory, where it may be written to.
//! Nothing in the original is written, or opened for writing.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::screen::bytes;
use crate::command_error::{CommandError, CommandResult};

/// A temporary directory, removed when this is dropped.
pub(crate) struct ScratchDirectory {
    directory: TempDir,
}

/// The files that mark and lock a data directory.
const FORMAT: &str = "format";
const LOCK: &str = "lock";
/// The directory of `fsck` in the root of a volume, which only the superuser can read.
const LOST_AND_FOUND: &str = "lost+found";

impl ScratchDirectory {
    /// Copies a data directory below `parent`, or below the system's temporary directory.
    pub(crate) fn copy_of(
        original: &Path,
        parent: Option<&Path>,
    ) -> CommandResult<ScratchDirectory> {
        check_ours(original)?;
        // Held until the copy is complete: an engine that starts meanwhile is refused.
        let lock = lock(original)?;
        let parent = parent.map_or_else(std::env::temp_dir, PathBuf::from);
        let made = ScratchDirectory::below(&parent);
        let copied = made.and_then(|made| copy(original, &made.path()).map(|()| made));
        drop(lock);
        copied.map_err(|error| copy_error(&parent, original, &error))
    }

    /// An empty directory.
    pub(crate) fn empty(parent: Option<&Path>) -> CommandResult<ScratchDirectory> {
        let parent = parent.map_or_else(std::env::temp_dir, PathBuf::from);
        ScratchDirectory::below(&parent).map_err(|error| {
            CommandError::Run(format!("{}: cannot create a directory: {error}", parent.display()))
        })
    }

    fn below(parent: &Path) -> io::Result<ScratchDirectory> {
        let directory = tempfile::Builder::new().prefix("wabahook-").tempdir_in(parent)?;
        Ok(ScratchDirectory { directory })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join(DATA)
    }
}

/// The name of the data directory inside.
const DATA: &str = "data";

fn check_ours(original: &Path) -> CommandResult {
    let shown = original.display();
    if !original.is_dir() {
        return Err(CommandError::NotFound(format!("{shown} is not a directory")));
    }
    if !original.join(FORMAT).is_file() {
        let message =
            format!("{shown} is not a data directory of wabahook: it has no file {FORMAT}");
        return Err(CommandError::Usage(message));
    }
    Ok(())
}

/// The lock of the directory, shared with other readers.
fn lock(original: &Path) -> CommandResult<Option<File>> {
    let path = original.join(LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CommandError::Run(format!("{}: {error}", path.display()))),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(CommandError::Busy(format!(
            "{} is open in a running engine: ask that host (wabahook webhooks list, wabahook dead \
             list), or stop it first",
            original.display()
        ))),
        Err(TryLockError::Error(error)) => {
            Err(CommandError::Run(format!("{} cannot be locked: {error}", path.display())))
        }
    }
}

fn copy_error(parent: &Path, original: &Path, error: &io::Error) -> CommandError {
    CommandError::Run(format!(
        "{} ({}) cannot be copied to {}: {error}; name a directory with enough space by --scratch",
        original.display(),
        bytes(size(original)),
        parent.display()
    ))
}

/// Copies directories and plain files, which is all that an engine writes. The copy has its own lock.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if entry.file_name() == LOST_AND_FOUND {
            continue;
        }
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
