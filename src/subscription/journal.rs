//! Decides how the book can be rebuilt: a readable log of every change, beside the database.
//!
//! Leaves to others: serving from it. Invariant: a change is in the log, on the device, before the
//! book takes it, so the log never knows less than the book; and only its owner may read the file,
//! because it holds secrets.
//!
//! Layout: one JSON object a line. The first is `{"wabahook_book_log":3,"next_id":n}`; then
//! `{"put":{..}}` with a whole subscription, `{"remove":id}`, `{"note":{..}}`, or `{"together":[..]}` with
//! several of them that count all or none. It is written anew at every open, so the first line's
//! version is that of every line; logs of versions 1 and 2 are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::SubscriptionId;
use super::stored::{Stored, StoredV1, StoredV2};
use crate::error::{Error, Result};

const VERSION: u32 = 3;

/// How many ids are skipped when lines of the log were lost: those that they gave must not be given
/// again, because deliveries may be owed to them.
const IDS_SKIPPED: u32 = 1 << 20;

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
    /// What gateways keep beside the subscriptions; an empty text where it says that one is no more.
    pub(super) notes: BTreeMap<NoteKey, String>,
}

/// Whose note, and which.
pub(super) type NoteKey = (String, String);

/// The lines that cannot be read, by number, and why.
type Unreadable = Vec<(u64, String)>;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    wabahook_book_log: u32,
    next_id: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry<S = Stored> {
    /// The subscription as it is from now on.
    Put { id: SubscriptionId, subscription: Box<S> },
    /// The subscription is no more.
    Remove(SubscriptionId),
    /// What a gateway keeps for an account under a key; an empty text for no longer.
    Note { account: String, key: String, text: String },
    /// All of these or none.
    Together(Vec<Entry<S>>),
}

impl Entry {
    /// The subscription that it puts or removes.
    pub(super) fn id(&self) -> Option<SubscriptionId> {
        match self {
            Entry::Put { id, .. } | Entry::Remove(id) => Some(*id),
            Entry::Note { .. } | Entry::Together(_) => None,
        }
    }

    /// A line of a log of this version.
    fn read(version: u32, line: &[u8]) -> std::result::Result<Entry, String> {
        let newest = || serde_json::from_slice(line).map_err(shown);
        let second = || read_as::<StoredV2>(line, Stored::from);
        let oldest = || read_as::<StoredV1>(line, |stored| StoredV2::from(stored).into());
        match version {
            // The first line cannot be read, so a line may be of any version.
            0 => newest().or_else(|_| second()).or_else(|_| oldest()),
            1 => oldest(),
            2 => second(),
            _ => newest(),
        }
    }
}

/// A line of an older log, brought to the newest layout.
fn read_as<S: DeserializeOwned>(
    line: &[u8],
    newest: impl Fn(S) -> Stored,
) -> std::result::Result<Entry, String> {
    match serde_json::from_slice::<Entry<S>>(line).map_err(shown)? {
        Entry::Put { id, subscription } => {
            Ok(Entry::Put { id, subscription: Box::new(newest(*subscription)) })
        }
        Entry::Remove(id) => Ok(Entry::Remove(id)),
        Entry::Note { .. } | Entry::Together(_) => Err("no older log has such a line".to_owned()),
    }
}

impl Contents {
    /// Reads a log; `None` where there is none. A last line that was cut off counts as not written.
    pub(super) fn read(path: &Path) -> Result<Option<Contents>> {
        let Some((contents, unreadable)) = Contents::read_lines(path)? else { return Ok(None) };
        match unreadable.into_iter().next() {
            None => Ok(Some(contents)),
            Some((number, why)) => {
                let record = format!("line {number} of {}", path.display());
                Err(Error::Damaged { record, why })
            }
        }
    }

    /// Reads every line that can be read; also says which could not, and why.
    fn read_lines(path: &Path) -> Result<Option<(Contents, Unreadable)>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("reading", path, error)),
        };
        let mut reader = BufReader::new(file);
        let (mut contents, mut unreadable) = (Contents::default(), Unreadable::new());
        for number in 1.. {
            let mut line = Vec::new();
            let read = reader.read_until(b'\n', &mut line);
            read.map_err(|error| failed("reading", path, error))?;
            // The newline comes last, so a line without one was cut off, and nobody was answered.
            if line.pop() != Some(b'\n') {
                if number == 1 {
                    unreadable.push((1, "it is not whole".to_owned()));
                }
                break;
            }
            let taken = if number == 1 { contents.begin(&line) } else { contents.take(&line) };
            unreadable.extend(taken.err().map(|why| (number, why)));
        }
        Ok(Some((contents, unreadable)))
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
        self.apply(Entry::read(self.version, line)?);
        Ok(())
    }

    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Put { id, subscription } => {
                self.next_id = self.next_id.max(id.0.saturating_add(1));
                self.subscriptions.insert(id, *subscription);
            }
            Entry::Remove(id) => {
                self.subscriptions.remove(&id);
                self.removed.insert(id);
            }
            Entry::Note { account, key, text } => {
                self.notes.insert((account, key), text);
            }
            Entry::Together(entries) => entries.into_iter().for_each(|entry| self.apply(entry)),
        }
    }
}

/// Writes a damaged log anew with the lines that can be read, and keeps a copy of it as it was, one
/// however often this is cut short. Says the copy's name and what is lost.
pub(super) fn salvage(path: &Path) -> Result<(String, String)> {
    let (mut contents, unreadable) = Contents::read_lines(path)?.unwrap_or_default();
    contents.next_id = contents.next_id.max(1).saturating_add(IDS_SKIPPED);
    let name = keep_copy(path).map_err(|error| failed("keeping a copy of", path, error))?;
    Journal::begin(path, &contents)?;
    let lines: Vec<_> =
        unreadable.iter().map(|(number, why)| format!("{number} ({why})")).collect();
    let told = format!(
        "of the log of subscriptions, which was all there was, these lines cannot be read: {}; what \
         was registered in them is lost and must be registered again, what was removed in them is \
         back; {} subscriptions were read",
        lines.join(", "),
        contents.subscriptions.len()
    );
    Ok((name, told))
}

fn keep_copy(path: &Path) -> io::Result<String> {
    let (bytes, name) = (fs::read(path)?, path.file_name().unwrap_or_default().to_string_lossy());
    let mut new = format!("damaged-{name}");
    for number in 2_u32.. {
        match fs::read(path.with_file_name(&new)) {
            Ok(there) if there != bytes => new = format!("damaged-{name}-{number}"),
            _ => break,
        }
    }
    let copy = path.with_file_name(&new);
    // With its rights, because it holds secrets.
    fs::copy(path, &copy)?;
    File::open(&copy)?.sync_all()?;
    Ok(new)
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
            for ((account, key), note) in &contents.notes {
                let (account, key, note) = (account.clone(), key.clone(), note.clone());
                text.extend(line(&Entry::<Stored>::Note { account, key, text: note })?);
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
