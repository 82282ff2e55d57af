//! The list of databases that a directory must hold, and how many records each must have, kept
//! outside the databases so that lost ones are noticed. An entry is created after its database and
//! removed before it, and its count was true of the device when it was written, so a manifest never
//! asks for more than was there. A lost or damaged entry says nothing.
//!
//! Layout: one file per database in the directory `manifest`, under the database's name. It holds
//! the envelope of `store::record`, version 1, around a count (8 bytes, little-endian); before the
//! first count, zeros.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::store::private;
use crate::store::record::{ENVELOPE_BYTES, seal, unseal};

/// The directory of the entries.
pub(super) const DIRECTORY: &str = "manifest";

const VERSION: u8 = 1;
const BYTES: usize = ENVELOPE_BYTES + 8;

/// The entry of one open database.
#[derive(Debug)]
pub(super) struct Manifest(File);

impl Manifest {
    /// Opens the entry of an existing database, and creates it where it is missing.
    pub(super) fn open(root: &Path, name: &str) -> io::Result<Manifest> {
        let path = entry(root, name);
        let directory = root.join(DIRECTORY);
        match private::options().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.map(Manifest),
        }
        private::create_directories(&directory)?;
        let mut file =
            private::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        // At its full length, so that a count needs no space on a disk that became full.
        file.write_all(&[0; BYTES])?;
        file.sync_all()?;
        File::open(&directory)?.sync_all()?;
        File::open(root)?.sync_all()?;
        Ok(Manifest(file))
    }

    /// Writes a count in place. A failed or torn write leaves an entry without a count.
    pub(super) fn set_count(&self, count: u64) {
        let sealed = seal(VERSION, &count.to_le_bytes());
        let mut file = &self.0;
        let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&sealed));
    }

    /// The count written last.
    pub(super) fn count(&self) -> Option<u64> {
        let mut sealed = Vec::with_capacity(BYTES);
        let mut file = &self.0;
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut sealed)).ok()?;
        let (version, body) = unseal(&sealed).ok()?;
        let count: [u8; 8] = body.try_into().ok()?;
        (version == VERSION).then(|| u64::from_le_bytes(count))
    }
}

/// Whether a database must exist.
pub(super) fn lists(root: &Path, name: &str) -> bool {
    entry(root, name).exists()
}

/// The names of the databases that must exist.
pub(super) fn names(root: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(root.join(DIRECTORY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
    names.filter_map(Result::transpose).collect()
}

/// Removes an entry, before its database is removed.
pub(super) fn remove(root: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(entry(root, name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => {
            removed?;
            File::open(root.join(DIRECTORY))?.sync_all()
        }
    }
}

fn entry(root: &Path, name: &str) -> PathBuf {
    root.join(DIRECTORY).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_has_a_count_and_a_damaged_entry_has_none() {
        let root = tempfile::tempdir().unwrap();
        let manifest = Manifest::open(root.path(), "one").unwrap();
        Manifest::open(root.path(), "bystander").unwrap().set_count(3);
        assert_eq!(manifest.count(), None);
        manifest.set_count(7);
        manifest.set_count(300);
        assert_eq!(Manifest::open(root.path(), "one").unwrap().count(), Some(300));
        let path = entry(root.path(), "one");
        let mut bytes = fs::read(&path).unwrap();
        assert_eq!(bytes[5..], [44, 1, 0, 0, 0, 0, 0, 0]);
        bytes[6] ^= 4;
        fs::write(&path, bytes).unwrap();
        assert_eq!(Manifest::open(root.path(), "one").unwrap().count(), None);
        assert!(lists(root.path(), "one"));
        remove(root.path(), "one").unwrap();
        assert!(!lists(root.path(), "one"));
        assert_eq!(names(root.path()).unwrap(), ["bystander"]);
        assert_eq!(Manifest::open(root.path(), "bystander").unwrap().count(), Some(3));
    }
}
