//! The open book: its database and, where the store is a directory, its log. Reads and writes the
//! records; each call of `apply` is one line of the log and then one batch of the database.
//!
//! Layout: a record too large for one value is stored in parts: its key and the part (2 bytes, big-endian).
//! Key `s`, id (4 bytes, big-endian), part: the record of `stored`. Key `a`, the id of an account, a zero byte,
//! part: the account as JSON (bincode string) in an envelope of version 1. Key `n` holds the next id (bincode
//! u32) in an envelope of version 1. Key `g`, account, a zero byte and a gateway's key holds a note (bincode
//! string) in an envelope of version 1.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::change::BookChange;
use super::log::{LogContents, NoteKey, StaleSecrets, SubscriptionLog};
use super::stored::StoredRecord;
use super::stored_account::StoredAccount;
use crate::error::{Error, Result};
use crate::store::record::{decode, encode};
use crate::store::{BATCH_OPERATIONS_MAX, Batch, Database, Store, StoreFailure, VALUE_BYTES_MAX};
use crate::subscription::SubscriptionId;
#[cfg(feature = "postgres")]
use crate::{account::AccountInfo, store::KeyValue};

const VERSION: u8 = 1;
const SUBSCRIPTION: u8 = b's';
const NOTE: u8 = b'g';
pub(super) const ACCOUNT: u8 = b'a';
const NEXT_ID: &[u8] = b"n";

/// The name of the database.
pub(super) const NAME: &str = "book";

/// How many parts the changes of one batch may take.
const PARTS_MAX: usize = BATCH_OPERATIONS_MAX / 2 - 1;

#[derive(Debug)]
pub(super) struct BookDatabase {
    pub(super) database: Arc<dyn Database>,
    log: Option<SubscriptionLog>,
    pub(super) next_id: u32,
    /// How many parts the record of each key takes now, so that a shorter record leaves none behind.
    parts: BTreeMap<Vec<u8>, usize>,
}

/// The records of a prefix by their keys: how many parts each takes, and those parts joined.
type JoinedRecords = BTreeMap<Vec<u8>, (usize, Vec<u8>)>;

impl BookDatabase {
    /// Opens the database and checks every record.
    pub(super) fn open(store: &dyn Store) -> Result<BookDatabase> {
        let database = store.open(NAME).map_err(|failure| failed("opening the book", failure))?;
        let next_id = match database.get(NEXT_ID).map_err(reading)? {
            Some(record) => decode(VERSION, &record).map_err(|why| damaged("next id", why))?,
            None => 1,
        };
        let mut book = BookDatabase { database, log: None, next_id, parts: BTreeMap::new() };
        let (subscriptions, accounts) = (book.joined(&[SUBSCRIPTION])?, book.joined(&[ACCOUNT])?);
        subscriptions_of(&subscriptions)?;
        accounts_of(&accounts)?;
        let parts = subscriptions.into_iter().chain(accounts).map(|(key, (parts, _))| (key, parts));
        book.parts = parts.collect();
        Ok(book)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next_id == 1 && self.parts.is_empty()
    }

    /// Brings the database to what the log says, and begins the log anew. What the log does not
    /// mention stays: only a log that lost lines knows less than the database.
    pub(super) fn follow(&mut self, log: Option<&Path>) -> Result<()> {
        let Some(path) = log else { return Ok(()) };
        match LogContents::read(path) {
            Ok(contents) => self.adopt(contents.unwrap_or_default())?,
            // The database is whole, so the log is only rewritten.
            Err(Error::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        self.log = Some(SubscriptionLog::begin(path, &self.contents()?)?);
        Ok(())
    }

    /// Rewrites the log if it is long enough, or if a secret in it is no longer in force.
    pub(super) fn compact_log(&mut self, secrets: StaleSecrets) -> Result<()> {
        let Some(mut log) = self.log.take() else { return Ok(()) };
        log.note(secrets);
        if log.is_due_for_compaction() {
            log.compact(&self.contents()?)?;
        }
        self.log = Some(log);
        Ok(())
    }

    fn adopt(&mut self, log: LogContents) -> Result<()> {
        let here = self.contents()?;
        let mut changes = Vec::new();
        for id in here.subscriptions.keys().filter(|id| log.removed.contains(id)) {
            changes.push(BookChange::Remove(*id));
        }
        for (id, record) in log.subscriptions {
            if here.subscriptions.get(&id) != Some(&record) {
                changes.push(BookChange::of_record(id, record));
            }
        }
        for ((account, key), text) in log.notes {
            let name = (account, key);
            if here.notes.get(&name).map_or("", String::as_str) != text {
                changes.push(BookChange::note(&name.0, &name.1, &text));
            }
        }
        let gone = here.accounts.keys().filter(|id| log.forgotten_accounts.contains(*id));
        changes.extend(gone.map(|id| BookChange::ForgetAccount(id.clone())));
        for (id, account) in log.accounts {
            if here.accounts.get(&id) != Some(&account) {
                changes.push(BookChange::Account(Box::new(account)));
            }
        }
        for batch in in_batches(changes)? {
            self.apply(&batch)?;
        }
        self.next_id = self.next_id.max(log.next_id);
        Ok(())
    }

    pub(super) fn contents(&self) -> Result<LogContents> {
        let subscriptions = subscriptions_of(&self.joined(&[SUBSCRIPTION])?)?;
        let accounts = accounts_of(&self.joined(&[ACCOUNT])?)?;
        let accounts = accounts.into_iter().map(|account| (account.id.clone(), account)).collect();
        let (notes, next_id) = (self.notes()?, self.next_id);
        Ok(LogContents { next_id, subscriptions, accounts, notes, ..LogContents::default() })
    }

    /// Every note that gateways keep.
    pub(super) fn notes(&self) -> Result<BTreeMap<NoteKey, String>> {
        let mut records = Vec::new();
        let scanned = self.database.scan(&[NOTE], b"", &mut |key, record| {
            records.push((key.to_vec(), record.to_vec()));
            ControlFlow::Continue(())
        });
        scanned.map_err(reading)?;
        let read = |(key, record): (Vec<u8>, Vec<u8>)| {
            let names = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
            let (account, key) = names.split_once('\0').unwrap_or((&names, ""));
            Ok(((account.to_owned(), key.to_owned()), note_in(&record)?))
        };
        records.into_iter().map(read).collect()
    }

    fn note(&self, account: &str, key: &str) -> Result<String> {
        let record = self.database.get(&note_key(account, key)).map_err(reading)?;
        record.map_or_else(|| Ok(String::new()), |record| note_in(&record))
    }

    /// Whether the change would change nothing.
    pub(super) fn has(&self, change: &BookChange) -> Result<bool> {
        Ok(match change {
            BookChange::Remove(id) => self.parts_of(&subscription_key(*id)) == 0,
            BookChange::ForgetAccount(id) => self.parts_of(&account_key(id)) == 0,
            _ => self.inverse(change)? == *change,
        })
    }

    /// What restores the present state after a change. A removal is final and is its own inverse:
    /// the caller has already cancelled what was owed.
    pub(super) fn inverse(&self, change: &BookChange) -> Result<BookChange> {
        Ok(match change {
            BookChange::Put { id, .. } | BookChange::Keep { id, .. } => {
                match self.record(&subscription_key(*id))? {
                    Some(record) => BookChange::of_record(*id, StoredRecord::unseal(*id, &record)?),
                    None => BookChange::Remove(*id),
                }
            }
            BookChange::Note { account, key, .. } => {
                BookChange::note(account, key, &self.note(account, key)?)
            }
            BookChange::Remove(id) => BookChange::Remove(*id),
            BookChange::Account(account) => self.account_change(&account.id)?,
            BookChange::ForgetAccount(id) => self.account_change(id)?,
        })
    }

    /// The change that restores an account as it is stored now.
    fn account_change(&self, id: &str) -> Result<BookChange> {
        Ok(match self.record(&account_key(id))? {
            Some(record) => BookChange::Account(Box::new(account_in(&record)?)),
            None => BookChange::ForgetAccount(id.to_owned()),
        })
    }

    fn record(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.joined(key)?.remove(key).map(|(_, record)| record))
    }

    fn joined(&self, prefix: &[u8]) -> Result<JoinedRecords> {
        let mut joined = JoinedRecords::new();
        let scanned = self.database.scan(prefix, b"", &mut |key, part| {
            join(&mut joined, key, part);
            ControlFlow::Continue(())
        });
        scanned.map_err(reading)?;
        Ok(joined)
    }

    /// Applies all changes or none; durable when it returns.
    pub(super) fn apply(&mut self, changes: &[BookChange]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        if let Some(log) = &mut self.log {
            log.append(changes)?;
        }
        let (mut batch, mut parts) = (Batch::default(), Vec::new());
        for change in changes {
            parts.extend(self.add(change, &mut batch)?);
        }
        let highest = changes.iter().filter_map(BookChange::id).max();
        let next_id = self.next_id.max(highest.map_or(0, |id| id.0.saturating_add(1)));
        if next_id > self.next_id {
            batch.put(NEXT_ID, encode(VERSION, &next_id).map_err(|why| damaged("next id", why))?);
        }
        let committed = self.database.commit(vec![batch]);
        committed.map_err(|failure| failed("writing the book", failure))?;
        self.next_id = next_id;
        for (key, count) in parts {
            match count {
                0 => self.parts.remove(&key),
                count => self.parts.insert(key, count),
            };
        }
        Ok(())
    }

    /// Adds a change to a batch. Returns the key of its record and how many parts that takes afterwards.
    fn add(&self, change: &BookChange, batch: &mut Batch) -> Result<Option<(Vec<u8>, usize)>> {
        let (key, record) = match change {
            BookChange::Note { account, key, text } if text.is_empty() => {
                batch.remove(note_key(account, key));
                return Ok(None);
            }
            BookChange::Note { account, key, text } => {
                let record = encode(VERSION, text);
                let record = record.map_err(|why| damaged("note of a gateway", why))?;
                batch.put(note_key(account, key), record);
                return Ok(None);
            }
            BookChange::Remove(id) => (subscription_key(*id), Vec::new()),
            BookChange::ForgetAccount(id) => (account_key(id), Vec::new()),
            BookChange::Account(account) => (account_key(&account.id), record_of(change)?),
            BookChange::Put { id, .. } | BookChange::Keep { id, .. } => {
                (subscription_key(*id), record_of(change)?)
            }
        };
        let parts: Vec<&[u8]> = record.chunks(VALUE_BYTES_MAX).collect();
        for (place, part) in parts.iter().enumerate() {
            batch.put(part_key(&key, place), *part);
        }
        (parts.len()..self.parts_of(&key)).for_each(|place| batch.remove(part_key(&key, place)));
        let count = parts.len();
        Ok(Some((key, count)))
    }

    fn parts_of(&self, key: &[u8]) -> usize {
        self.parts.get(key).copied().unwrap_or(0)
    }
}

/// Refuses changes that take more operations than one batch holds.
pub(super) fn check_size(changes: &[BookChange]) -> Result<()> {
    let operations = changes.iter().map(operations_of).sum::<Result<usize>>()?;
    if operations <= PARTS_MAX {
        return Ok(());
    }
    let (given, limit) = (operations * VALUE_BYTES_MAX, PARTS_MAX * VALUE_BYTES_MAX);
    let (given, limit) = (given as u64, limit as u64);
    Err(Error::TooLarge { field: "subscription".to_owned(), given, limit })
}

/// Groups changes into as few batches as they fit in, in their order, so that a rebuild needs few
/// syncs.
pub(super) fn in_batches(changes: Vec<BookChange>) -> Result<Vec<Vec<BookChange>>> {
    let (mut batches, mut filled) = (Vec::<Vec<BookChange>>::new(), PARTS_MAX);
    for change in changes {
        let operations = operations_of(&change)?;
        match batches.last_mut() {
            Some(batch) if filled + operations <= PARTS_MAX => batch.push(change),
            _ => {
                batches.push(vec![change]);
                filled = 0;
            }
        }
        filled += operations;
    }
    Ok(batches)
}

fn operations_of(change: &BookChange) -> Result<usize> {
    Ok(record_of(change)?.len().div_ceil(VALUE_BYTES_MAX).max(1))
}

/// The record that a change puts; empty if it puts none.
fn record_of(change: &BookChange) -> Result<Vec<u8>> {
    if let BookChange::Account(account) = change {
        return encode(VERSION, &account.text()?).map_err(|why| damaged("account", why));
    }
    change.record()?.map_or_else(|| Ok(Vec::new()), |(id, record)| record.seal(id))
}

pub(super) fn subscription_key(id: SubscriptionId) -> Vec<u8> {
    [&[SUBSCRIPTION][..], &id.0.to_be_bytes()].concat()
}

fn id_in(key: &[u8]) -> Option<SubscriptionId> {
    let id = key.get(1..)?.first_chunk::<4>()?;
    Some(SubscriptionId(u32::from_be_bytes(*id)))
}

fn account_key(id: &str) -> Vec<u8> {
    [&[ACCOUNT][..], id.as_bytes(), &[0]].concat()
}

pub(super) fn part_key(key: &[u8], part: usize) -> Vec<u8> {
    let part = u16::try_from(part).unwrap_or(u16::MAX);
    [key, &part.to_be_bytes()].concat()
}

/// Adds the next part of a record.
fn join(joined: &mut JoinedRecords, key: &[u8], part: &[u8]) {
    if let Some((key, _part)) = key.split_last_chunk::<2>() {
        let (parts, record) = joined.entry(key.to_vec()).or_default();
        *parts += 1;
        record.extend_from_slice(part);
    }
}

fn subscriptions_of(joined: &JoinedRecords) -> Result<BTreeMap<SubscriptionId, StoredRecord>> {
    let records = joined.iter().filter_map(|(key, (_, record))| Some((id_in(key)?, record)));
    records.map(|(id, record)| Ok((id, StoredRecord::unseal(id, record)?))).collect()
}

fn accounts_of(joined: &JoinedRecords) -> Result<Vec<StoredAccount>> {
    joined.values().map(|(_, record)| account_in(record)).collect()
}

/// The accounts in records whose keys begin with [`ACCOUNT`], in the order of their keys.
#[cfg(feature = "postgres")]
pub(super) fn accounts_in(records: &[KeyValue]) -> Result<Vec<AccountInfo>> {
    let mut joined = JoinedRecords::new();
    records.iter().for_each(|(key, part)| join(&mut joined, key, part));
    accounts_of(&joined)?.iter().map(StoredAccount::restore).collect()
}

fn account_in(record: &[u8]) -> Result<StoredAccount> {
    let text: String = decode(VERSION, record).map_err(|why| damaged("account", why))?;
    StoredAccount::read(&text)
}

fn note_key(account: &str, key: &str) -> Vec<u8> {
    [&[NOTE][..], account.as_bytes(), &[0], key.as_bytes()].concat()
}

fn note_in(record: &[u8]) -> Result<String> {
    decode(VERSION, record).map_err(|why| damaged("note of a gateway", why))
}

pub(super) fn failed(doing: &'static str, failure: StoreFailure) -> Error {
    Error::store(doing, failure)
}

fn reading(failure: StoreFailure) -> Error {
    failed("reading the book", failure)
}

fn damaged(record: &str, why: String) -> Error {
    Error::Damaged { record: record.to_owned(), why }
}
