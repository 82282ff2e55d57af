//! Permissions of files and directories. What is stored is for its owner alone, because it holds payloads and
//! secrets. On other systems than Unix the system's defaults apply.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::path::Path;

#[cfg(unix)]
const DIRECTORY_MODE: u32 = 0o700;
#[cfg(unix)]
const FILE_MODE: u32 = 0o600;
/// All permissions of the group and of other users.
#[cfg(unix)]
const OTHERS: u32 = 0o077;

/// Options that create a file for its owner alone.
pub(crate) fn options() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "only Unix has a mode to set"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, FILE_MODE);
    options
}

/// Creates a directory for its owner alone, with the missing ones above it.
pub(crate) fn create_directories(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, DIRECTORY_MODE);
    builder.recursive(true).create(path)
}

/// Takes the rights of all others away from a file or directory. Where the process may not change
/// them, as on a volume that another user owns, it warns and goes on.
pub(crate) fn tighten(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let found = fs::symlink_metadata(path)?;
        let mode = found.permissions().mode();
        if found.is_symlink() || mode & OTHERS == 0 {
            return Ok(());
        }
        match fs::set_permissions(path, fs::Permissions::from_mode(mode & !OTHERS)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let path = path.display();
                tracing::warn!(%path, "other users can read this path, and its mode cannot be changed");
            }
            set => set?,
        }
    }
    Ok(())
}

/// The same for a directory and everything in it. Entries that vanish meanwhile are skipped.
pub(crate) fn tighten_all(directory: &Path) -> io::Result<()> {
    tighten(directory)?;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        match if is_directory { tighten_all(&path) } else { tighten(&path) } {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            tightened => tightened?,
        }
    }
    Ok(())
}
