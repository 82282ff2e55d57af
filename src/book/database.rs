//! The open book: its database and, where the store is a directory, its log. Reads and writes the
//! records; each call of `apply` is one line of the log and then one batch of the database.
//!
//! Layout: key `s`, id (4 bytes, big-endian), part (2 bytes, big-endian). The parts joined are the
//! record of `stored`. Key `n` holds the next id (bincode u32) in an envelope of version 1. Key `g`,
//! account, a zero byte and a gateway's key holds a note (bincode string) in an envelope of version 1.
//! Key `a`, the id of an account, a zero byte and the part (2 bytes, big-endian): the parts joined are the
//! account as JSON (bincode string) in an envelope of version 1.

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
    /// How many parts each subscription takes now, so that a shorter record leaves none behind.
    parts: BTreeMap<SubscriptionId, usize>,
    /// The same for each account.
    account_parts: BTreeMap<String, usize>,
}

impl BookDatabase {
    /// Opens the database and checks every record.
    pub(super) fn open(store: &dyn Store) -> Result<BookDatabase> {
        let database = store.open(NAME).map_err(|failure| failed("opening the book", failure))?;
        let next_id = match database.get(NEXT_ID).map_err(reading)? {
            Some(record) => decode(VERSION, &record).map_err(|why| damaged("next id", why))?,
            None => 1,
        };
        let (parts, account_parts) = (BTreeMap::new(), BTreeMap::new());
        let mut book = BookDatabase { database, log: None, next_id, parts, account_parts };
        for (id, (parts, record)) in book.joined(None)? {
            StoredRecord::unseal(id, &record)?;
            book.parts.insert(id, parts);
        }
        for (id, (parts, record)) in book.joined_accounts(None)? {
            account_in(&record)?;
            book.account_parts.insert(id, parts);
        }
        Ok(book)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next_id == 1 && self.parts.is_empty() && self.account_parts.is_empty()
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
        let subscriptions = self.joined(None)?.into_iter();
        let subscriptions =
            subscriptions.map(|(id, (_, record))| Ok((id, StoredRecord::unseal(id, &record)?)));
        let subscriptions = subscriptions.collect::<Result<_>>()?;
        let (notes, accounts, next_id) = (self.notes()?, self.accounts()?, self.next_id);
        Ok(LogContents { next_id, subscriptions, accounts, notes, ..LogContents::default() })
    }

    fn accounts(&self) -> Result<BTreeMap<String, StoredAccount>> {
        let joined = self.joined_accounts(None)?.into_iter();
        joined.map(|(id, (_, record))| Ok((id, account_in(&record)?))).collect()
    }

    /// The joined parts of each account, or of one, and their number.
    fn joined_accounts(&self, only: Option<&str>) -> Result<BTreeMap<String, (usize, Vec<u8>)>> {
        let mut joined = BTreeMap::new();
        let prefix = only.map_or_else(|| vec![ACCOUNT], account_prefix);
        let scanned = self.database.scan(&prefix, b"", &mut |key, part| {
            join_account(&mut joined, key, part);
            ControlFlow::Continue(())
        });
        scanned.map_err(reading)?;
        Ok(joined)
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
            BookChange::Remove(id) => !self.parts.contains_key(id),
            BookChange::ForgetAccount(id) => !self.account_parts.contains_key(id),
            _ => self.inverse(change)? == *change,
        })
    }

    /// What restores the present state after a change. A removal is final and is its own inverse:
    /// the caller has already cancelled what was owed.
    pub(super) fn inverse(&self, change: &BookChange) -> Result<BookChange> {
        Ok(match change {
            BookChange::Put { id, .. } | BookChange::Keep { id, .. } => {
                match self.joined(Some(*id))?.remove(id) {
                    Some((_, record)) => {
                        BookChange::of_record(*id, StoredRecord::unseal(*id, &record)?)
                    }
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
        Ok(match self.joined_accounts(Some(id))?.remove(id) {
            Some((_, record)) => BookChange::Account(Box::new(account_in(&record)?)),
            None => BookChange::ForgetAccount(id.to_owned()),
        })
    }

    /// The joined parts of each subscription, or of one, and their number.
    fn joined(
        &self,
        only: Option<SubscriptionId>,
    ) -> Result<BTreeMap<SubscriptionId, (usize, Vec<u8>)>> {
        let mut joined: BTreeMap<SubscriptionId, (usize, Vec<u8>)> = BTreeMap::new();
        let mut prefix = vec![SUBSCRIPTION];
        prefix.extend(only.iter().flat_map(|id| id.0.to_be_bytes()));
        let scanned = self.database.scan(&prefix, b"", &mut |key, part| {
            if let Some(id) = id_in(key) {
                let (parts, record) = joined.entry(id).or_default();
                *parts += 1;
                record.extend_from_slice(part);
            }
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
        let mut account_parts = Vec::new();
        for change in changes {
            match change {
                BookChange::Account(account) => {
                    account_parts.push(self.add_account(account, &mut batch)?);
                }
                BookChange::ForgetAccount(id) => {
                    let parts = 0..self.account_parts_of(id);
                    parts.for_each(|part| batch.remove(account_key(id, part)));
                    account_parts.push((id.clone(), 0));
                }
                other => parts.extend(self.add(other, &mut batch)?),
            }
        }
        let highest = changes.iter().filter_map(BookChange::id).max();
        let next_id = self.next_id.max(highest.map_or(0, |id| id.0.saturating_add(1)));
        if next_id > self.next_id {
            batch.put(NEXT_ID, encode(VERSION, &next_id).map_err(|why| damaged("next id", why))?);
        }
        let committed = self.database.commit(vec![batch]);
        committed.map_err(|failure| failed("writing the book", failure))?;
        self.next_id = next_id;
        for (id, count) in account_parts {
            match count {
                0 => self.account_parts.remove(&id),
                count => self.account_parts.insert(id, count),
            };
        }
        for (id, count) in parts {
            match count {
                0 => self.parts.remove(&id),
                count => self.parts.insert(id, count),
            };
        }
        Ok(())
    }

    /// Adds a change to a batch. Returns how many parts its subscription takes afterwards.
    fn add(
        &self,
        change: &BookChange,
        batch: &mut Batch,
    ) -> Result<Option<(SubscriptionId, usize)>> {
        match change {
            BookChange::Put { .. } | BookChange::Keep { .. } => {
                let Some((id, record)) = change.record()? else { return Ok(None) };
                let record = record.seal(id)?;
                let parts: Vec<&[u8]> = record.chunks(VALUE_BYTES_MAX).collect();
                for (place, part) in parts.iter().enumerate() {
                    batch.put(part_key(id, place), *part);
                }
                (parts.len()..self.parts_of(id)).for_each(|n| batch.remove(part_key(id, n)));
                Ok(Some((id, parts.len())))
            }
            BookChange::Remove(id) => {
                (0..self.parts_of(*id)).for_each(|n| batch.remove(part_key(*id, n)));
                Ok(Some((*id, 0)))
            }
            // Their parts are counted apart.
            BookChange::Account(_) | BookChange::ForgetAccount(_) => Ok(None),
            BookChange::Note { account, key, text } => {
                if text.is_empty() {
                    batch.remove(note_key(account, key));
                } else {
                    let record = encode(VERSION, text);
                    let record = record.map_err(|why| damaged("note of a gateway", why))?;
                    batch.put(note_key(account, key), record);
                }
                Ok(None)
            }
        }
    }

    /// Adds an account to a batch. Returns how many parts it takes afterwards.
    fn add_account(&self, account: &StoredAccount, batch: &mut Batch) -> Result<(String, usize)> {
        let (id, record) = (&account.id, account_record(account)?);
        let parts: Vec<&[u8]> = record.chunks(VALUE_BYTES_MAX).collect();
        for (place, part) in parts.iter().enumerate() {
            batch.put(account_key(id, place), *part);
        }
        let surplus = parts.len()..self.account_parts_of(id);
        surplus.for_each(|part| batch.remove(account_key(id, part)));
        Ok((id.clone(), parts.len()))
    }

    fn account_parts_of(&self, id: &str) -> usize {
        self.account_parts.get(id).copied().unwrap_or(0)
    }

    fn parts_of(&self, id: SubscriptionId) -> usize {
        self.parts.get(&id).copied().unwrap_or(0)
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
    if let BookChange::Account(account) = change {
        return Ok(account_record(account)?.len().div_ceil(VALUE_BYTES_MAX));
    }
    match change.record()? {
        Some((id, record)) => Ok(record.seal(id)?.len().div_ceil(VALUE_BYTES_MAX)),
        None => Ok(1),
    }
}

pub(super) fn part_key(id: SubscriptionId, part: usize) -> Vec<u8> {
    let part = u16::try_from(part).unwrap_or(u16::MAX);
    [&[SUBSCRIPTION][..], &id.0.to_be_bytes(), &part.to_be_bytes()].concat()
}

fn id_in(key: &[u8]) -> Option<SubscriptionId> {
    let id = key.get(1..)?.first_chunk::<4>()?;
    Some(SubscriptionId(u32::from_be_bytes(*id)))
}

fn account_prefix(id: &str) -> Vec<u8> {
    [&[ACCOUNT][..], id.as_bytes(), &[0]].concat()
}

fn account_key(id: &str, part: usize) -> Vec<u8> {
    let part = u16::try_from(part).unwrap_or(u16::MAX);
    [&account_prefix(id)[..], &part.to_be_bytes()].concat()
}

fn account_id_in(key: &[u8]) -> Option<String> {
    let (id, _zero_and_part) = key.get(1..)?.split_last_chunk::<3>()?;
    String::from_utf8(id.to_vec()).ok()
}

/// Adds the next part of an account.
fn join_account(joined: &mut BTreeMap<String, (usize, Vec<u8>)>, key: &[u8], part: &[u8]) {
    if let Some(id) = account_id_in(key) {
        let (parts, record) = joined.entry(id).or_default();
        *parts += 1;
        record.extend_from_slice(part);
    }
}

/// The accounts in records whose keys begin with [`ACCOUNT`], in the order of their keys.
#[cfg(feature = "postgres")]
pub(super) fn accounts_in(records: &[KeyValue]) -> Result<Vec<AccountInfo>> {
    let mut joined = BTreeMap::new();
    records.iter().for_each(|(key, part)| join_account(&mut joined, key, part));
    joined.values().map(|(_, record)| account_in(record)?.restore()).collect()
}

fn account_record(account: &StoredAccount) -> Result<Vec<u8>> {
    encode(VERSION, &account.text()?).map_err(|why| damaged("account", why))
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
