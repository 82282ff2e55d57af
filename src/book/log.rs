//! The readable log of all changes, in a file next to the book's database, from which the database
//! can be rebuilt. A change is in the log, on the device, before the database takes it, so the log
//! never knows less. Only its owner can read the file, because it holds secrets.
//!
//! Layout: one JSON value per line. The first line is `{"wabahook_book_log":4,"next_id":n}`, each
//! further line an array of changes that apply together: `{"put":{..}}` with a whole subscription,
//! `{"keep":{..}}` with a record of another build, `{"remove":id}`, `{"note":{..}}`, `{"account":{..}}` or
//! `{"forget_account":id}`. The log is
//! written anew with one line per record at each open, and while it is open when it is more than
//! twice as long as that, or when a secret in it is no longer in force.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::change::BookChange;
use super::stored::StoredRecord;
use super::stored_account::StoredAccount;
use crate::error::{Error, Result};
use crate::store::private;
use crate::subscription::SubscriptionId;

const VERSION: u32 = 4;

/// How many ids are skipped after lines of the log were lost: deliveries may be owed to the ids that
/// those lines assigned, so they must not be assigned again.
const IDS_SKIPPED: u32 = 1 << 20;

/// A log is compacted when it is so much longer than twice its contents, so that a short one is not
/// rewritten for every change.
const SURPLUS_BYTES_MAX: u64 = 64 * 1024;

/// A log with contents up to this size is rewritten at once for a secret, in a few milliseconds. A
/// longer one keeps the secret until its next compaction or open.
const SECRET_COMPACTION_BYTES_MAX: u64 = 256 * 1024;

/// Whether a change took a secret out of force that the log still has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum StaleSecrets {
    None,
    Some,
}

/// The log, open for appending.
#[derive(Debug)]
pub(super) struct SubscriptionLog {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Its length when it was last written anew.
    compact_bytes: u64,
    secrets: StaleSecrets,
}

/// What a log holds, read from beginning to end.
#[derive(Debug, Default)]
pub(super) struct LogContents {
    pub(super) next_id: u32,
    pub(super) subscriptions: BTreeMap<SubscriptionId, StoredRecord>,
    /// Subscriptions that the log removes.
    pub(super) removed: BTreeSet<SubscriptionId>,
    /// The accounts, by id.
    pub(super) accounts: BTreeMap<String, StoredAccount>,
    /// Accounts that the log forgets.
    pub(super) forgotten_accounts: BTreeSet<String>,
    /// The notes of gateways; an empty text is a removed note.
    pub(super) notes: BTreeMap<NoteKey, String>,
}

/// The account of a note, and its key.
pub(super) type NoteKey = (String, String);

/// The numbers of the lines that cannot be read, and why.
type UnreadableLines = Vec<(u64, String)>;

#[derive(Debug, Serialize, Deserialize)]
struct LogHeader {
    wabahook_book_log: u32,
    next_id: u32,
}

impl LogContents {
    /// Reads a log; `None` without one. A last line that was cut off counts as not written.
    pub(super) fn read(path: &Path) -> Result<Option<LogContents>> {
        let Some((contents, unreadable)) = LogContents::read_lines(path)? else { return Ok(None) };
        match unreadable.into_iter().next() {
            None => Ok(Some(contents)),
            Some((number, why)) => {
                let record = format!("line {number} of {}", path.display());
                Err(Error::Damaged { record, why })
            }
        }
    }

    /// Reads every readable line, and reports which lines are not readable and why.
    fn read_lines(path: &Path) -> Result<Option<(LogContents, UnreadableLines)>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("reading", path, error)),
        };
        let mut reader = BufReader::new(file);
        let (mut contents, mut unreadable) = (LogContents::default(), UnreadableLines::new());
        for number in 1.. {
            let mut line = Vec::new();
            let read = reader.read_until(b'\n', &mut line);
            read.map_err(|error| failed("reading", path, error))?;
            // The newline is written last: a line without one was cut off before it was confirmed.
            if line.pop() != Some(b'\n') {
                if number == 1 {
                    unreadable.push((1, "it is incomplete".to_owned()));
                }
                break;
            }
            let read =
                if number == 1 { contents.read_header(&line) } else { contents.read_line(&line) };
            unreadable.extend(read.err().map(|why| (number, why)));
        }
        Ok(Some((contents, unreadable)))
    }

    fn read_header(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        let header: LogHeader = serde_json::from_slice(line).map_err(without_text)?;
        let version = header.wabahook_book_log;
        if version != VERSION {
            return Err(format!("it has version {version}, this build reads {VERSION}"));
        }
        self.next_id = header.next_id;
        Ok(())
    }

    fn read_line(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        let changes: Vec<BookChange> = serde_json::from_slice(line).map_err(without_text)?;
        let changes =
            changes.into_iter().map(|change| -> Result<_> { Ok((change.record()?, change)) });
        let changes: Vec<_> = changes.collect::<Result<_>>().map_err(|error| error.to_string())?;
        for (record, change) in changes {
            match record {
                Some((id, record)) => self.put(id, record),
                None => self.apply(change),
            }
        }
        Ok(())
    }

    fn put(&mut self, id: SubscriptionId, record: StoredRecord) {
        self.next_id = self.next_id.max(id.0.saturating_add(1));
        self.subscriptions.insert(id, record);
    }

    fn apply(&mut self, change: BookChange) {
        match change {
            BookChange::Put { .. } | BookChange::Keep { .. } => {}
            BookChange::Remove(id) => {
                self.subscriptions.remove(&id);
                self.removed.insert(id);
            }
            BookChange::Note { account, key, text } => {
                self.notes.insert((account, key), text);
            }
            BookChange::Account(account) => {
                self.accounts.insert(account.id.clone(), *account);
            }
            BookChange::ForgetAccount(id) => {
                self.accounts.remove(&id);
                self.forgotten_accounts.insert(id);
            }
        }
    }
}

/// Rewrites a damaged log with its readable lines and keeps one copy of the damaged file, however
/// often this is interrupted. Returns the copy's name and what is lost.
pub(super) fn salvage(path: &Path) -> Result<(String, String)> {
    let (mut contents, unreadable) = LogContents::read_lines(path)?.unwrap_or_default();
    contents.next_id = contents.next_id.max(1).saturating_add(IDS_SKIPPED);
    let name = keep_copy(path).map_err(|error| failed("keeping a copy of", path, error))?;
    SubscriptionLog::begin(path, &contents)?;
    let lines: Vec<_> =
        unreadable.iter().map(|(number, why)| format!("{number} ({why})")).collect();
    let lost = format!(
        "the subscriptions existed only in the log, and these lines of it cannot be read: {}; \
         subscriptions registered in those lines are lost and must be registered again, \
         subscriptions removed in them are back; {} subscriptions were read",
        lines.join(", "),
        contents.subscriptions.len()
    );
    Ok((name, lost))
}

fn keep_copy(path: &Path) -> io::Result<String> {
    let (bytes, name) = (fs::read(path)?, path.file_name().unwrap_or_default().to_string_lossy());
    let mut new = format!("damaged-{name}");
    for number in 2_u32.. {
        match fs::read(path.with_file_name(&new)) {
            Ok(existing) if existing != bytes => new = format!("damaged-{name}-{number}"),
            _ => break,
        }
    }
    let copy = path.with_file_name(&new);
    fs::copy(path, &copy)?;
    private::tighten(&copy)?;
    File::open(&copy)?.sync_all()?;
    Ok(new)
}

impl SubscriptionLog {
    /// Replaces the log with these contents, atomically, and opens it for appending.
    pub(super) fn begin(path: &Path, contents: &LogContents) -> Result<SubscriptionLog> {
        let (log, new) = SubscriptionLog::write_new(path, contents)?;
        log.replace(&new)?;
        Ok(log)
    }

    /// Writes the contents to a new file in the directory of the log.
    fn write_new(path: &Path, contents: &LogContents) -> Result<(SubscriptionLog, PathBuf)> {
        let new = path.with_extension("new");
        let write = || -> io::Result<(File, u64)> {
            let _ = fs::remove_file(&new);
            let mut file = private::options().append(true).create_new(true).open(&new)?;
            let text = text_of(contents)?;
            file.write_all(&text)?;
            file.sync_all()?;
            Ok((file, text.len() as u64))
        };
        let (file, bytes) = write().map_err(|error| failed("writing", path, error))?;
        let (path, secrets) = (path.to_owned(), StaleSecrets::None);
        Ok((SubscriptionLog { path, file, bytes, compact_bytes: bytes, secrets }, new))
    }

    /// Puts the new file in the place of the log.
    fn replace(&self, new: &Path) -> Result<()> {
        let replaced = fs::rename(new, &self.path).and_then(|()| match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        });
        replaced.map_err(|error| failed("writing", &self.path, error))
    }

    /// Records which secrets the last change left in the log.
    pub(super) fn note(&mut self, secrets: StaleSecrets) {
        if secrets == StaleSecrets::Some {
            self.secrets = secrets;
        }
    }

    pub(super) fn is_due_for_compaction(&self) -> bool {
        let is_short = self.compact_bytes <= SECRET_COMPACTION_BYTES_MAX;
        let is_long = self.bytes > self.compact_bytes.saturating_mul(2) + SURPLUS_BYTES_MAX;
        is_long || (is_short && self.secrets == StaleSecrets::Some)
    }

    /// Writes the log anew. Where the new file cannot be written, as on a full disk, the log stays as
    /// it is. After an error it is unknown which of the two files the directory names.
    pub(super) fn compact(&mut self, contents: &LogContents) -> Result<()> {
        match SubscriptionLog::write_new(&self.path, contents) {
            Ok((log, new)) => {
                log.replace(&new)?;
                *self = log;
            }
            Err(error) => {
                tracing::warn!(%error, "the log of subscriptions could not be compacted");
                // Tried again when it is twice as long.
                self.compact_bytes = self.compact_bytes.max(self.bytes);
            }
        }
        Ok(())
    }

    /// Appends changes that apply together; they are on the device when it returns.
    pub(super) fn append(&mut self, changes: &[BookChange]) -> Result<()> {
        let length = self.file.metadata().map(|metadata| metadata.len());
        let appended = line(&changes).and_then(|line| {
            self.file.write_all(&line)?;
            self.file.sync_data()?;
            self.bytes += line.len() as u64;
            Ok(())
        });
        appended.map_err(|error| {
            // A partial line would merge with the next one, so it is cut off again.
            if let Ok(length) = length {
                let _ = self.file.set_len(length);
            }
            failed("appending to", &self.path, error)
        })
    }
}

fn text_of(contents: &LogContents) -> io::Result<Vec<u8>> {
    let mut text = line(&LogHeader { wabahook_book_log: VERSION, next_id: contents.next_id })?;
    for (id, record) in &contents.subscriptions {
        text.extend(line(&[BookChange::of_record(*id, record.clone())])?);
    }
    for account in contents.accounts.values() {
        text.extend(line(&[BookChange::Account(Box::new(account.clone()))])?);
    }
    for ((account, key), note) in &contents.notes {
        text.extend(line(&[BookChange::note(account, key, note)])?);
    }
    Ok(text)
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// What is wrong with a line, without its text, which may hold a secret.
#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
fn without_text(error: serde_json::Error) -> String {
    format!("it is not readable from column {} on", error.column())
}

fn failed(doing: &'static str, path: &Path, error: io::Error) -> Error {
    Error::directory(doing, path, error)
}
