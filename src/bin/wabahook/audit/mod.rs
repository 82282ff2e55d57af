//! The audit log: a line of JSON for each change that a request made, in `audit.log` of the data directory. A line
//! is on the device before the request is answered. A full file is renamed to `audit.log.1` and so on. Of the oldest
//! file the last entries of each account are kept, so that no account's changes push out another's; the rest is
//! removed, so the log is bounded.

mod kept;
mod middleware;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::json::{AuditChangeJson, AuditEntryJson};

pub(crate) use middleware::record_changes;

const NAME: &str = "audit.log";
/// When a file is full, and how many there are besides the file of kept entries. Some 20,000 changes fit into a file.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
const FILES_MAX: usize = 8;

/// The log of changes.
pub(crate) struct AuditLog {
    directory: PathBuf,
    file_bytes_max: u64,
    open: Mutex<OpenLog>,
}

struct OpenLog {
    file: File,
    bytes: u64,
    next_id: u64,
}

impl AuditLog {
    /// Opens the log in a directory.
    ///
    /// # Errors
    /// The system refuses a file.
    pub(crate) fn open(directory: &Path) -> io::Result<AuditLog> {
        AuditLog::with_file_size(directory, FILE_BYTES_MAX)
    }

    fn with_file_size(directory: &Path, file_bytes_max: u64) -> io::Result<AuditLog> {
        let mut file = open_file(directory)?;
        let newest = fs::read_to_string(path(directory, 0))?;
        // A line that was being written when the process ended is finished.
        if !newest.is_empty() && !newest.ends_with('\n') {
            file.write_all(b"\n")?;
        }
        let last = (0..=FILES_MAX).find_map(|number| {
            let text = fs::read_to_string(path(directory, number)).ok()?;
            text.lines().rev().find_map(id_of)
        });
        let bytes = file.metadata()?.len();
        let open = Mutex::new(OpenLog { file, bytes, next_id: last.unwrap_or(0) + 1 });
        Ok(AuditLog { directory: directory.to_owned(), file_bytes_max, open })
    }

    /// Writes an entry and waits for the device. The entry gets its id here.
    ///
    /// # Errors
    /// The system refuses to write.
    fn append(&self, mut entry: AuditEntryJson) -> io::Result<()> {
        let mut open = self.open.lock();
        entry.id = open.next_id;
        let mut line = serde_json::to_vec(&entry).map_err(io::Error::other)?;
        line.push(b'\n');
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if open.bytes > 0 && open.bytes.saturating_add(length) > self.file_bytes_max {
            self.rotate()?;
            open.file = open_file(&self.directory)?;
            open.bytes = 0;
        }
        open.file.write_all(&line)?;
        open.file.sync_data()?;
        open.bytes += length;
        open.next_id += 1;
        Ok(())
    }

    /// [`append`](AuditLog::append) for a change that was made already. A failure is logged.
    pub(crate) fn append_or_log(&self, entry: AuditEntryJson) {
        if let Err(error) = self.append(entry) {
            tracing::error!(%error, "a change cannot be written to the audit log");
        }
    }

    /// Up to `count_max` entries below this id that fit, the newest first.
    ///
    /// # Errors
    /// The system refuses to read.
    pub(crate) fn newest(
        &self,
        below: Option<u64>,
        count_max: usize,
        fits: impl Fn(&AuditEntryJson) -> bool,
    ) -> io::Result<Vec<AuditEntryJson>> {
        // No file is renamed meanwhile.
        let _open = self.open.lock();
        let mut found = Vec::new();
        // After a crash while files were renamed, an entry may be in two files.
        let mut below = below.unwrap_or(u64::MAX);
        for number in 0..=FILES_MAX {
            for line in text_of(&self.directory, number)?.lines().rev() {
                let Some(id) = id_of(line).filter(|id| *id < below) else { continue };
                below = id;
                found.extend(serde_json::from_str(line).ok().filter(&fits));
                if found.len() >= count_max {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// Copies all files into another directory.
    ///
    /// # Errors
    /// The system refuses to read or to write.
    pub(crate) fn copy_to(&self, directory: &Path) -> io::Result<()> {
        // No entry is written and no file is renamed meanwhile.
        let _open = self.open.lock();
        for number in 0..=FILES_MAX {
            let copy = path(directory, number);
            match fs::copy(path(&self.directory, number), &copy) {
                Ok(_) => File::open(copy)?.sync_all()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Renames each file to the next number. Of the last one only a part is kept.
    fn rotate(&self) -> io::Result<()> {
        // A device without space must not end the log. The renames give the space of the oldest file back.
        if let Err(error) = kept::keep(&self.directory, self.file_bytes_max) {
            tracing::error!(%error, "the oldest entries of the audit log are lost");
        }
        for number in (0..FILES_MAX - 1).rev() {
            match fs::rename(path(&self.directory, number), path(&self.directory, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(&self.directory)?.sync_all()
    }
}

fn path(directory: &Path, number: usize) -> PathBuf {
    match number {
        0 => directory.join(NAME),
        _ => directory.join(format!("{NAME}.{number}")),
    }
}

/// Empty where the file does not exist: a crash while files are renamed leaves a gap.
fn text_of(directory: &Path, number: usize) -> io::Result<String> {
    match fs::read(path(directory, number)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => Ok(String::from_utf8_lossy(&read?).into_owned()),
    }
}

/// How to create a file that only its owner can read.
fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn open_file(directory: &Path) -> io::Result<File> {
    let file = private_file().append(true).open(path(directory, 0))?;
    #[cfg(unix)]
    File::open(directory)?.sync_all()?;
    Ok(file)
}

/// What differs between two states, one change for each id at most.
pub(crate) fn changes_between<K: Ord, T>(
    before: &BTreeMap<K, Arc<T>>,
    after: &BTreeMap<K, Arc<T>>,
    change: impl Fn(&K, Option<&Arc<T>>, Option<&Arc<T>>) -> Option<AuditChangeJson>,
) -> Vec<AuditChangeJson> {
    let ids: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
    let change = |id| {
        let (before, after) = (before.get(id), after.get(id));
        let is_same = before.zip(after).is_some_and(|(before, after)| Arc::ptr_eq(before, after));
        if is_same { None } else { change(id, before, after) }
    };
    ids.into_iter().filter_map(change).collect()
}

/// The id that a line begins with.
fn id_of(line: &str) -> Option<u64> {
    line.strip_prefix("{\"id\":")?.split(',').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::TimestampJson;

    pub(super) fn entry(path: &str) -> AuditEntryJson {
        AuditEntryJson {
            id: 0,
            at: TimestampJson(0),
            key: "api_key".to_owned(),
            account: Some("acme".to_owned()),
            account_name: None,
            host: None,
            address: "192.0.2.1".to_owned(),
            method: "POST".to_owned(),
            path: path.to_owned(),
            changes: Vec::new(),
        }
    }

    fn ids(log: &AuditLog, below: Option<u64>, count_max: usize) -> Vec<u64> {
        let found = log.newest(below, count_max, |_| true).unwrap();
        found.iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn entries_are_read_newest_first_and_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let log = AuditLog::open(directory.path()).unwrap();
        assert_eq!(ids(&log, None, 10), [0_u64; 0]);
        for n in 0..3 {
            log.append(entry(&format!("/{n}"))).unwrap();
        }
        assert_eq!((ids(&log, None, 2), ids(&log, Some(2), 2)), (vec![3, 2], vec![1]));
        drop(log);
        // Half a line, as of a process that was killed.
        let mut file = open_file(directory.path()).unwrap();
        file.write_all(b"{\"id\":4,\"at\":").unwrap();
        let log = AuditLog::open(directory.path()).unwrap();
        log.append(entry("/after")).unwrap();
        let found = log.newest(None, 10, |entry| entry.path != "/1").unwrap();
        let paths: Vec<_> = found.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["/after", "/2", "/0"]);
        assert!(found[0].id > 3);
    }

    #[test]
    fn the_log_is_bounded_and_its_ids_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let log = AuditLog::with_file_size(directory.path(), 1_000).unwrap();
        for _ in 0..200 {
            log.append(entry("/subscriptions")).unwrap();
        }
        let files = fs::read_dir(directory.path()).unwrap().map(|one| one.unwrap());
        let sizes: Vec<u64> = files.map(|one| one.metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), FILES_MAX + 1);
        assert!(sizes.iter().all(|bytes| *bytes <= 1_000), "{sizes:?}");
        let kept = ids(&log, None, 1_000);
        let expected: Vec<u64> = (0..kept.len() as u64).map(|n| 200 - n).collect();
        assert_eq!(kept, expected);
        drop(log);
        let log = AuditLog::with_file_size(directory.path(), 1_000).unwrap();
        log.append(entry("/subscriptions")).unwrap();
        assert_eq!(ids(&log, None, 1), [201]);
    }

    /// As after a crash while files were renamed.
    #[test]
    fn a_missing_file_hides_no_older_entries() {
        let directory = tempfile::tempdir().unwrap();
        let log = AuditLog::with_file_size(directory.path(), 1_000).unwrap();
        for _ in 0..20 {
            log.append(entry("/subscriptions")).unwrap();
        }
        fs::remove_file(path(directory.path(), 1)).unwrap();
        assert_eq!(ids(&log, None, 100).last(), Some(&1));
        let copy = tempfile::tempdir().unwrap();
        log.copy_to(copy.path()).unwrap();
        let copied = AuditLog::open(copy.path()).unwrap();
        assert_eq!(ids(&copied, None, 100), ids(&log, None, 100));
    }

    #[test]
    fn the_log_goes_on_where_nothing_can_be_kept() {
        let directory = tempfile::tempdir().unwrap();
        let log = AuditLog::with_file_size(directory.path(), 1_000).unwrap();
        fs::create_dir(directory.path().join("audit.part")).unwrap();
        for _ in 0..200 {
            log.append(entry("/subscriptions")).unwrap();
        }
        assert_eq!(ids(&log, None, 1), [200]);
        assert!(!path(directory.path(), FILES_MAX).exists());
    }

    /// One account changes something again and again. What another one did once is still listed.
    #[test]
    fn a_noisy_account_pushes_no_other_out() {
        let directory = tempfile::tempdir().unwrap();
        let log = AuditLog::with_file_size(directory.path(), 1_000).unwrap();
        let of = |account: &str, path: &str| AuditEntryJson {
            account: Some(account.to_owned()),
            ..entry(path)
        };
        log.append(of("quiet", "/quiet")).unwrap();
        for _ in 0..300 {
            log.append(of("noisy", "/noisy")).unwrap();
        }
        let quiet = |log: &AuditLog| {
            log.newest(None, 10, |entry| entry.account.as_deref() == Some("quiet")).unwrap()
        };
        assert_eq!(quiet(&log).len(), 1);
        drop(log);
        let log = AuditLog::with_file_size(directory.path(), 1_000).unwrap();
        for _ in 0..300 {
            log.append(of("noisy", "/noisy")).unwrap();
        }
        assert_eq!(quiet(&log)[0].path, "/quiet");
        let all = ids(&log, None, 1_000);
        assert!(all.is_sorted_by(|one, other| one > other), "each once: {all:?}");
        assert_eq!(all[0], 601);
        let files = fs::read_dir(directory.path()).unwrap().map(|one| one.unwrap());
        let bytes: u64 = files.map(|one| one.metadata().unwrap().len()).sum();
        assert!(bytes <= 1_000 * (FILES_MAX as u64 + 1), "{bytes}");
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_can_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        drop(AuditLog::open(directory.path()).unwrap());
        let metadata = fs::metadata(directory.path().join(NAME)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    }
}
