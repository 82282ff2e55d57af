//! Decides how the book can be rebuilt: a readable log of every change, beside the database.
//!
//! Leaves to others: serving from it. Invariant: a change is in the log, on the device, before the
//! book takes it, so the log never knows less than the book; and only its owner may read the file,
//! because it holds secrets.
//!
//! Layout: one JSON object a line. The first is `{"wabahook_book_log":2,"next_id":n}`; then
//! `{"put":{..}}` with a whole subscription or `{"remove":id}`. It is written anew at every open, so
//! the first line's version is that of every line; a log of version 1 is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::SubscriptionId;
use super::stored::{Stored, StoredV1};
use crate::error::{Error, Result};

const VERSION: u32 = 2;

/// The log, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

/// What a log says when it is read from its beginning to its end.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// The version of its lines; 0 before the first one was read.
    pub(super) version: u32,
    pub(super) next_id: u32,
    pub(super) subscriptions: BTreeMap<SubscriptionId, Stored>,
    /// Subscriptions of which it says that they are no more.
    pub(super) removed: BTreeSet<SubscriptionId>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    wabahook_book_log: u32,
    next_id: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry<S = Stored> {
    /// The subscription as it is from now on.
    Put { id: SubscriptionId, subscription: Box<S> },
    /// The subscription is no more.
    Remove(SubscriptionId),
}

impl Entry {
    /// A line of a log of this version.
    fn read(version: u32, line: &[u8]) -> std::result::Result<Entry, String> {
        if version != 1 {
            return serde_json::from_slice(line).map_err(shown);
        }
        Ok(match serde_json::from_slice::<Entry<StoredV1>>(line).map_err(shown)? {
            Entry::Put { id, subscription } => {
                Entry::Put { id, subscription: Box::new(Stored::from(*subscription)) }
            }
            Entry::Remove(id) => Entry::Remove(id),
        })
    }
}

impl Contents {
    /// Reads a log; `None` where there is none. A last line that was cut off counts as not written.
    pub(super) fn read(path: &Path) -> Result<Option<Contents>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("reading", path, error)),
        };
        let mut reader = BufReader::new(file);
        let mut contents = Contents::default();
        let damaged = |number: u64, why: String| {
            let record = format!("line {number} of {}", path.display());
            Error::Damaged { record, why }
        };
        for number in 1.. {
            let mut line = Vec::new();
            let read = reader.read_until(b'\n', &mut line);
            read.map_err(|error| failed("reading", path, error))?;
            // The newline comes last, so a line without one was cut off, and nobody was answered.
            if line.pop() != Some(b'\n') {
                if number == 1 {
                    return Err(damaged(1, "it is not whole".to_owned()));
                }
                break;
            }
            let taken = if number == 1 { contents.begin(&line) } else { contents.take(&line) };
            taken.map_err(|why| damaged(number, why))?;
        }
        Ok(Some(contents))
    }

    fn begin(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        let header: Header = serde_json::from_slice(line).map_err(shown)?;
        self.version = header.wabahook_book_log;
        if !(1..=VERSION).contains(&self.version) {
            return Err(format!(
                "it has version {}, this build reads up to {VERSION}",
                self.version
            ));
        }
        self.next_id = header.next_id;
        Ok(())
    }

    fn take(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        match Entry::read(self.version, line)? {
            Entry::Put { id, subscription } => {
                self.next_id = self.next_id.max(id.0.saturating_add(1));
                self.subscriptions.insert(id, *subscription);
            }
            Entry::Remove(id) => {
                self.subscriptions.remove(&id);
                self.removed.insert(id);
            }
        }
        Ok(())
    }
}

impl Journal {
    /// Writes the log anew with these contents, whole or not at all, and opens it for appending.
    pub(super) fn begin(path: &Path, contents: &Contents) -> Result<Journal> {
        let new = path.with_extension("new");
        let write = || -> io::Result<File> {
            let _ = fs::remove_file(&new);
            let mut file = private().create_new(true).open(&new)?;
            let header = Header { wabahook_book_log: VERSION, next_id: contents.next_id };
            let mut text = line(&header)?;
            for (id, subscription) in &contents.subscriptions {
                let subscription = Box::new(subscription.clone());
                text.extend(line(&Entry::Put { id: *id, subscription })?);
            }
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            if let Some(directory) = path.parent() {
                File::open(directory)?.sync_all()?;
            }
            Ok(file)
        };
        let file = write().map_err(|error| failed("writing", path, error))?;
        Ok(Journal { path: path.to_owned(), file })
    }

    /// Appends a change; on the device when it returns.
    pub(super) fn append(&mut self, entry: &Entry) -> Result<()> {
        let length = self.file.metadata().map(|metadata| metadata.len());
        let appended = line(entry).and_then(|line| {
            self.file.write_all(&line)?;
            self.file.sync_data()
        });
        appended.map_err(|error| {
            // A part of a line would join the next one; without it the log is as it was.
            if let Ok(length) = length {
                let _ = self.file.set_len(length);
            }
            failed("appending to", &self.path, error)
        })
    }
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Readable by its owner alone, where the system knows owners.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// What is wrong with a line, without the line: it may hold a secret.
#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn shown(error: serde_json::Error) -> String {
    format!("it is not readable from column {} on", error.column())
}

fn failed(doing: &'static str, path: &Path, error: io::Error) -> Error {
    Error::directory(doing, path, error)
}
