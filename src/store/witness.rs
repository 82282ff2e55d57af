//! Decides how it is known which databases a directory must hold, and how much is in them, without
//! asking the databases.
//!
//! Leaves to others: what is counted (`outbox`). Invariant: a witness is made after its database and
//! goes before it, and what it says was true of the device when it was written, so that it never
//! asks for more than was there. A witness that is lost or damaged says nothing.
//!
//! Layout: a file for each database in the directory `witness`, under the database's name. It holds
//! the envelope of `store::record`, version 1, around a count (8 bytes, little-endian); before the
//! first count, zeros.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::record::{ENVELOPE_BYTES, seal, unseal};

/// The directory of the witnesses.
pub(super) const DIRECTORY: &str = "witness";

const VERSION: u8 = 1;
const BYTES: usize = ENVELOPE_BYTES + 8;

/// The witness of one database that is open.
#[derive(Debug)]
pub(super) struct Witness(File);

impl Witness {
    /// Opens the witness of a database that is there, making it where it is missing.
    pub(super) fn open(root: &Path, name: &str) -> io::Result<Witness> {
        let path = path_of(root, name);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.map(Witness),
        }
        fs::create_dir_all(root.join(DIRECTORY))?;
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        // At its full length, so that a count needs no space of a disk that has become full.
        file.write_all(&[0; BYTES])?;
        file.sync_all()?;
        File::open(root.join(DIRECTORY))?.sync_all()?;
        File::open(root)?.sync_all()?;
        Ok(Witness(file))
    }

    /// Notes a count in place. It may fail or be torn: then it says nothing, and a check is lost.
    pub(super) fn note(&self, count: u64) {
        use std::io::{Seek, SeekFrom};
        let sealed = seal(VERSION, &count.to_le_bytes());
        let mut file = &self.0;
        let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&sealed));
    }

    /// The count noted last.
    pub(super) fn noted(&self) -> Option<u64> {
        use std::io::{Seek, SeekFrom};
        let mut sealed = Vec::with_capacity(BYTES);
        let mut file = &self.0;
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut sealed)).ok()?;
        let (version, body) = unseal(&sealed).ok()?;
        let count: [u8; 8] = body.try_into().ok()?;
        (version == VERSION).then(|| u64::from_le_bytes(count))
    }
}

/// Whether a database must be there.
pub(super) fn speaks_of(root: &Path, name: &str) -> bool {
    path_of(root, name).exists()
}

/// The names of the databases that must be there.
pub(super) fn names(root: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(root.join(DIRECTORY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
    names.filter_map(Result::transpose).collect()
}

/// Ends a witness, before its database goes.
pub(super) fn end(root: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(path_of(root, name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => {
            removed?;
            File::open(root.join(DIRECTORY))?.sync_all()
        }
    }
}

fn path_of(root: &Path, name: &str) -> PathBuf {
    root.join(DIRECTORY).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_kept_for_each_database_and_damage_says_nothing() {
        let root = tempfile::tempdir().unwrap();
        let witness = Witness::open(root.path(), "one").unwrap();
        Witness::open(root.path(), "bystander").unwrap().note(3);
        assert_eq!(witness.noted(), None);
        witness.note(7);
        witness.note(300);
        assert_eq!(Witness::open(root.path(), "one").unwrap().noted(), Some(300));
        let path = path_of(root.path(), "one");
        let mut bytes = fs::read(&path).unwrap();
        assert_eq!(bytes[5..], [44, 1, 0, 0, 0, 0, 0, 0]);
        bytes[6] ^= 4;
        fs::write(&path, bytes).unwrap();
        assert_eq!(Witness::open(root.path(), "one").unwrap().noted(), None);
        assert!(speaks_of(root.path(), "one"));
        end(root.path(), "one").unwrap();
        assert!(!speaks_of(root.path(), "one"));
        assert_eq!(names(root.path()).unwrap(), ["bystander"]);
        assert_eq!(Witness::open(root.path(), "bystander").unwrap().noted(), Some(3));
    }
}
