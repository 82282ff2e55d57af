//! Decides how subscriptions are kept on the device.
//!
//! Leaves to others: finding them (`routing`), serving them (`dispatch`), and the log from which
//! the database can be rebuilt (`journal`). Invariant: a
//! subscription is there as it was last put, whole, or not at all; and an id is never given twice,
//! also after its subscription was removed.
//!
//! Layout: key `s`, id (4 bytes, big-endian), part (2 bytes, big-endian). The parts joined are the
//! envelope of `store::record` around [`Stored`] in bincode 1.3.3, in the version that `stored` names.
//! Key `n` holds the next id (bincode u32) in an envelope of version 1. Key `g`, account, a zero byte and
//! a gateway's key holds a note (bincode string) in an envelope of version 1.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::journal::{self, Contents, Entry, Journal, NoteKey};
use super::stored::{Stored, restore, sealed, stored, unsealed};
use super::{Registered, SubscriptionId};
use crate::config::OnDamage;
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::store::record::{decode, encode};
use crate::store::{BATCH_OPERATIONS_MAX, Batch, Database, Failure, Store, VALUE_BYTES_MAX};

const VERSION: u8 = 1;
const SUBSCRIPTION: u8 = b's';
const NOTE: u8 = b'g';
const NEXT_ID: &[u8] = b"n";

/// The book's database.
const NAME: &str = "book";

/// How many parts a subscription may take, so that it is written in one batch.
const PARTS_MAX: usize = BATCH_OPERATIONS_MAX / 2 - 1;

/// The subscriptions on the device. After a failed write it is opened again by the next call, and
/// is then as it was before the write that failed, except that removals are finished.
#[derive(Debug)]
pub(crate) struct Book {
    store: Arc<dyn Store>,
    /// None where the store is not a directory.
    log: Option<PathBuf>,
    /// None after a failed write.
    kept: Option<Kept>,
    /// What must be undone of writes that failed: subscriptions as they were, or none, and notes.
    doubts: Vec<Entry>,
    next_id: u32,
}

/// A book that was opened.
pub(crate) struct Opened {
    pub(crate) book: Book,
    /// In the order of their ids.
    pub(crate) registered: Vec<Registered>,
    /// What was damaged and set aside: its new name, and what was wrong with it.
    pub(crate) set_aside: Vec<(String, String)>,
}

impl Book {
    /// Reads every subscription. Where the log beside the book knows more, because the engine
    /// stopped between the two or the database lost something without a word, the book follows it.
    pub(crate) fn open(
        store: Arc<dyn Store>,
        log: Option<&Path>,
        catalogue: &Catalogue,
        on_damage: OnDamage,
    ) -> Result<Opened> {
        let mut set_aside = Vec::new();
        let mut kept = match Kept::read(&*store) {
            Err(error) if error.is_damage() => {
                if on_damage == OnDamage::Refuse || log.is_none_or(|log| !log.exists()) {
                    return Err(advised(&error, log));
                }
                let name = store.set_aside(NAME).map_err(|f| failed("setting it aside", f))?;
                let told = "it was rebuilt from its log, and no subscription is lost by it";
                set_aside.push((name, format!("{}; {told}", what_is_wrong(&error))));
                Kept::read(&*store)?
            }
            read => read?,
        };
        if let Some(path) = log
            && kept.knows_nothing()
            && let Err(error @ Error::Damaged { .. }) = Contents::read(path)
        {
            if on_damage == OnDamage::Refuse {
                let advice = "the book beside it is empty, so the log may be all there is: put back \
                              a copy of it, or open with OnDamage::SetAside, which keeps a copy and \
                              takes the lines that can be read";
                return Err(error.advised(advice));
            }
            set_aside.push(journal::salvage(path)?);
        }
        kept.follow(log)?;
        let registered = kept.contents()?.subscriptions;
        let registered = registered.into_iter().map(|(id, stored)| restore(id, stored, catalogue));
        let registered = registered.collect::<Result<Vec<_>>>()?;
        let (next_id, log) = (kept.next_id, log.map(Path::to_owned));
        let book = Book { store, log, kept: Some(kept), doubts: Vec::new(), next_id };
        Ok(Opened { book, registered, set_aside })
    }

    /// The open book, opened again where a write failed before.
    fn kept(&mut self) -> Result<&mut Kept> {
        let kept = match self.kept.take() {
            Some(kept) => kept,
            None => self.reopened()?,
        };
        Ok(self.kept.insert(kept))
    }

    fn reopened(&mut self) -> Result<Kept> {
        let mut kept = Kept::read(&*self.store)?;
        kept.next_id = kept.next_id.max(self.next_id);
        kept.follow(self.log.as_deref())?;
        // The log has what was refused: the caller was told that it failed, and nobody serves it.
        // Undone from the last to the first, so that each is what it was before all of them.
        let mut undone = Vec::new();
        for wanted in self.doubts.iter().rev() {
            if !kept.says(wanted)? {
                undone.push(wanted.clone());
            }
        }
        kept.apply(&undone)?;
        self.doubts.clear();
        self.next_id = kept.next_id;
        Ok(kept)
    }

    /// An id that was never given. It counts as given once a subscription was put under it.
    pub(crate) fn fresh_id(&self) -> SubscriptionId {
        SubscriptionId(self.next_id)
    }

    /// Writes a subscription; durable when it returns.
    pub(crate) fn put(&mut self, registered: &Registered) -> Result<()> {
        self.apply(vec![Change::Put(registered)])
    }

    /// Removes a subscription; durable when it returns. After an error it is removed before anything
    /// else is written.
    pub(crate) fn remove(&mut self, id: SubscriptionId) -> Result<()> {
        self.apply(vec![Change::Remove(id)])
    }

    /// Makes all of these changes or, where it fails, none but the removals, which are made before
    /// anything else is written. Durable when it returns.
    pub(crate) fn apply(&mut self, changes: Vec<Change<'_>>) -> Result<()> {
        let entries: Vec<Entry> = changes.into_iter().map(Entry::from).collect();
        check_size(&entries)?;
        let highest = entries.iter().filter_map(Entry::id).max();
        let kept = match self.kept() {
            Ok(kept) => kept,
            Err(error) => {
                let removals = entries.into_iter().filter(|one| matches!(one, Entry::Remove(_)));
                self.doubts.extend(removals);
                return Err(error);
            }
        };
        let before =
            entries.iter().map(|entry| kept.opposite(entry)).collect::<Result<Vec<_>>>()?;
        let written = kept.apply(&entries);
        self.next_id = self.next_id.max(highest.map_or(0, |id| id.0.saturating_add(1)));
        if written.is_err() {
            // It would refuse every other write.
            self.kept = None;
            self.doubts.extend(before);
        }
        written
    }

    /// What gateways keep for an account, by key.
    pub(crate) fn notes_of(&mut self, account: &str) -> Result<BTreeMap<String, String>> {
        let notes = self.kept()?.notes()?.into_iter();
        Ok(notes.filter(|((of, _), _)| of == account).map(|((_, key), text)| (key, text)).collect())
    }
}

/// One change of the book.
pub(crate) enum Change<'a> {
    /// The subscription is this from now on.
    Put(&'a Registered),
    /// The subscription is no more.
    Remove(SubscriptionId),
    /// What a gateway keeps for an account under a key; an empty text for no longer.
    Note { account: &'a str, key: &'a str, text: &'a str },
}

impl From<Change<'_>> for Entry {
    fn from(change: Change<'_>) -> Entry {
        match change {
            Change::Put(registered) => {
                Entry::Put { id: registered.id, subscription: Box::new(stored(registered)) }
            }
            Change::Remove(id) => Entry::Remove(id),
            Change::Note { account, key, text } => {
                let (account, key, text) = (account.to_owned(), key.to_owned(), text.to_owned());
                Entry::Note { account, key, text }
            }
        }
    }
}

/// A book that is open.
#[derive(Debug)]
struct Kept {
    database: Arc<dyn Database>,
    journal: Option<Journal>,
    next_id: u32,
    /// How many parts each takes now, so that a shorter version leaves none behind.
    parts: BTreeMap<SubscriptionId, usize>,
}

impl Kept {
    fn read(store: &dyn Store) -> Result<Kept> {
        let database = store.open(NAME).map_err(|failure| failed("opening the book", failure))?;
        let next_id = match database.get(NEXT_ID).map_err(|f| failed("reading the book", f))? {
            Some(sealed) => decode(VERSION, &sealed).map_err(|why| damaged("next id", why))?,
            None => 1,
        };
        let mut kept = Kept { database, journal: None, next_id, parts: BTreeMap::new() };
        for (id, (parts, sealed)) in kept.joined(None)? {
            read(id, &sealed)?;
            kept.parts.insert(id, parts);
        }
        Ok(kept)
    }

    fn knows_nothing(&self) -> bool {
        self.next_id == 1 && self.parts.is_empty()
    }

    /// Brings the book to what the log says, and begins the log anew. What the log does not speak of
    /// stays: only a log that lost something knows less than the book.
    fn follow(&mut self, log: Option<&Path>) -> Result<()> {
        let Some(path) = log else { return Ok(()) };
        match Contents::read(path) {
            Ok(known) => self.take(known.unwrap_or_default())?,
            // The log is written anew: the book is whole.
            Err(Error::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        self.journal = Some(Journal::begin(path, &self.contents()?)?);
        Ok(())
    }

    fn take(&mut self, known: Contents) -> Result<()> {
        let here = self.contents()?;
        for id in here.subscriptions.keys().filter(|id| known.removed.contains(id)) {
            self.apply(&[Entry::Remove(*id)])?;
        }
        for (id, stored) in known.subscriptions {
            if here.subscriptions.get(&id) != Some(&stored) {
                self.apply(&[Entry::Put { id, subscription: Box::new(stored) }])?;
            }
        }
        for ((account, key), text) in known.notes {
            let entry = Entry::Note { account, key, text };
            if !self.says(&entry)? {
                self.apply(&[entry])?;
            }
        }
        self.next_id = self.next_id.max(known.next_id);
        Ok(())
    }

    fn contents(&self) -> Result<Contents> {
        let subscriptions = self.joined(None)?.into_iter();
        let subscriptions = subscriptions.map(|(id, (_, sealed))| Ok((id, read(id, &sealed)?)));
        let subscriptions = subscriptions.collect::<Result<_>>()?;
        let notes = self.notes()?;
        Ok(Contents { next_id: self.next_id, subscriptions, notes, ..Contents::default() })
    }

    fn notes(&self) -> Result<BTreeMap<NoteKey, String>> {
        let mut sealed = Vec::new();
        let visited = self.database.scan(&[NOTE], b"", &mut |key, note| {
            sealed.push((key.to_vec(), note.to_vec()));
            ControlFlow::Continue(())
        });
        visited.map_err(|failure| failed("reading the book", failure))?;
        let read = |(key, note): (Vec<u8>, Vec<u8>)| {
            let text = decode(VERSION, &note).map_err(|why| damaged("note of a gateway", why))?;
            let names = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
            let (account, key) = names.split_once('\0').unwrap_or((&names, ""));
            Ok(((account.to_owned(), key.to_owned()), text))
        };
        sealed.into_iter().map(read).collect()
    }

    /// Whether the book is as after this change.
    fn says(&self, entry: &Entry) -> Result<bool> {
        Ok(match entry {
            Entry::Put { id, subscription } => self.stored(*id)?.as_ref() == Some(subscription),
            Entry::Remove(id) => !self.parts.contains_key(id),
            Entry::Note { .. } => match self.opposite(entry)? {
                Entry::Note { text: here, .. } => {
                    matches!(entry, Entry::Note { text, .. } if *text == here)
                }
                _ => false,
            },
            Entry::Together(entries) => entries
                .iter()
                .map(|entry| self.says(entry))
                .collect::<Result<Vec<_>>>()?
                .iter()
                .all(|said| *said),
        })
    }

    /// What undoes a change. A removal is not undone: whoever asked for it has let it go already.
    fn opposite(&self, entry: &Entry) -> Result<Entry> {
        Ok(match entry {
            Entry::Put { id, .. } => match self.stored(*id)? {
                Some(before) => Entry::Put { id: *id, subscription: Box::new(before) },
                None => Entry::Remove(*id),
            },
            Entry::Note { account, key, .. } => {
                let names = (account.clone(), key.clone());
                let text = self.notes()?.remove(&names).unwrap_or_default();
                Entry::Note { account: names.0, key: names.1, text }
            }
            removal => removal.clone(),
        })
    }

    fn stored(&self, id: SubscriptionId) -> Result<Option<Stored>> {
        let found = self.joined(Some(id))?.remove(&id);
        found.map(|(_, sealed)| read(id, &sealed)).transpose()
    }

    /// The parts of each subscription, or of one, counted and joined.
    fn joined(
        &self,
        only: Option<SubscriptionId>,
    ) -> Result<BTreeMap<SubscriptionId, (usize, Vec<u8>)>> {
        let mut joined: BTreeMap<SubscriptionId, (usize, Vec<u8>)> = BTreeMap::new();
        let mut prefix = vec![SUBSCRIPTION];
        prefix.extend(only.iter().flat_map(|id| id.0.to_be_bytes()));
        let visited = self.database.scan(&prefix, b"", &mut |key, part| {
            if let Some(id) = id_of(key) {
                let (parts, bytes) = joined.entry(id).or_default();
                *parts += 1;
                bytes.extend_from_slice(part);
            }
            ControlFlow::Continue(())
        });
        visited.map_err(|failure| failed("reading the book", failure))?;
        Ok(joined)
    }

    /// Into the log, where there is one, and then into the database, in one batch.
    fn apply(&mut self, entries: &[Entry]) -> Result<()> {
        let together = || Entry::Together(entries.to_vec());
        match (&mut self.journal, entries) {
            (_, []) => return Ok(()),
            (Some(journal), [only]) => journal.append(only)?,
            (Some(journal), _) => journal.append(&together())?,
            (None, _) => {}
        }
        let (mut batch, mut parts) = (Batch::default(), Vec::new());
        let mut next_id = self.next_id;
        for entry in entries {
            parts.extend(self.add(entry, &mut batch)?);
            next_id = next_id.max(entry.id().map_or(0, |id| id.0.saturating_add(1)));
        }
        if next_id > self.next_id {
            batch.put(NEXT_ID, encode(VERSION, &next_id).map_err(|why| damaged("next id", why))?);
        }
        self.write(batch)?;
        self.next_id = next_id;
        for (id, count) in parts {
            match count {
                0 => self.parts.remove(&id),
                count => self.parts.insert(id, count),
            };
        }
        Ok(())
    }

    /// Adds a change to a batch. Returns how many parts the subscription takes after it.
    fn add(&self, entry: &Entry, batch: &mut Batch) -> Result<Option<(SubscriptionId, usize)>> {
        match entry {
            Entry::Put { id, subscription } => {
                let sealed = sealed_record(*id, subscription)?;
                let parts: Vec<&[u8]> = sealed.chunks(VALUE_BYTES_MAX).collect();
                for (place, part) in parts.iter().enumerate() {
                    batch.put(key_of(*id, place), *part);
                }
                let before = self.parts.get(id).copied().unwrap_or(0);
                (parts.len()..before).for_each(|place| batch.remove(key_of(*id, place)));
                Ok(Some((*id, parts.len())))
            }
            Entry::Remove(id) => {
                let parts = self.parts.get(id).copied().unwrap_or(0);
                (0..parts).for_each(|place| batch.remove(key_of(*id, place)));
                Ok(Some((*id, 0)))
            }
            Entry::Note { account, key, text } => {
                let name = [&[NOTE][..], account.as_bytes(), &[0], key.as_bytes()].concat();
                if text.is_empty() {
                    batch.remove(name);
                } else {
                    let sealed = encode(VERSION, text);
                    batch.put(name, sealed.map_err(|why| damaged("note of a gateway", why))?);
                }
                Ok(None)
            }
            Entry::Together(_) => Ok(None),
        }
    }

    fn write(&self, batch: Batch) -> Result<()> {
        self.database.apply(batch).map_err(|failure| failed("writing the book", failure))?;
        self.database.sync().map_err(|failure| failed("syncing the book", failure))
    }
}

/// What somebody can do about a damaged book, beside what is wrong with it.
fn advised(error: &Error, log: Option<&Path>) -> Error {
    let advice = match log.map(Contents::read) {
        Some(Ok(Some(_))) => {
            "the log beside it holds the subscriptions and is whole: open with OnDamage::SetAside, \
             which renames the book and rebuilds it"
                .to_owned()
        }
        Some(Err(damage)) => format!(
            "the log beside it cannot be read whole ({damage}): put back a copy of it, or open with \
             OnDamage::SetAside, which keeps both and takes the lines that can be read"
        ),
        Some(Ok(None)) | None => {
            "there is no log beside it to rebuild it from: put back a copy of book or book.log"
                .to_owned()
        }
    };
    let found = what_is_wrong(error);
    let why = format!("{found}; {advice}; the outbox is not touched and what it owes is kept");
    Error::Damaged { record: "book of subscriptions".to_owned(), why }
}

fn what_is_wrong(error: &Error) -> String {
    match error {
        Error::Damaged { record, why } => format!("{record}: {why}"),
        Error::Store { source: Failure::Damaged(why), .. } => why.clone(),
        other => other.to_string(),
    }
}

fn read(id: SubscriptionId, sealed: &[u8]) -> Result<Stored> {
    unsealed(sealed).map_err(|why| damaged(format!("subscription {id}"), why))
}

/// Refuses what takes more operations than one batch holds.
fn check_size(entries: &[Entry]) -> Result<()> {
    let mut operations = 0;
    for entry in entries {
        let parts = match entry {
            Entry::Put { id, subscription } => {
                sealed_record(*id, subscription)?.len().div_ceil(VALUE_BYTES_MAX)
            }
            _ => 1,
        };
        operations += parts;
    }
    if operations <= PARTS_MAX {
        return Ok(());
    }
    let (given, limit) = (operations * VALUE_BYTES_MAX, PARTS_MAX * VALUE_BYTES_MAX);
    let (given, limit) = (given as u64, limit as u64);
    Err(Error::TooLarge { field: "subscription".to_owned(), given, limit })
}

fn sealed_record(id: SubscriptionId, stored: &Stored) -> Result<Vec<u8>> {
    sealed(stored).map_err(|why| damaged(format!("subscription {id}"), why))
}

fn key_of(id: SubscriptionId, part: usize) -> Vec<u8> {
    let part = u16::try_from(part).unwrap_or(u16::MAX);
    [&[SUBSCRIPTION][..], &id.0.to_be_bytes(), &part.to_be_bytes()].concat()
}

fn id_of(key: &[u8]) -> Option<SubscriptionId> {
    let id = key.get(1..)?.first_chunk::<4>()?;
    Some(SubscriptionId(u32::from_be_bytes(*id)))
}

fn failed(doing: &'static str, failure: Failure) -> Error {
    Error::store(doing, failure)
}

fn damaged(record: impl Into<String>, why: String) -> Error {
    Error::Damaged { record: record.into(), why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::WabaNumber;
    use crate::store::{Faults, Faulty, Memory};
    use crate::subscription::{
        Accept, Filter, Level, Policy, Profile, Retry, Secret, State, Target,
    };

    fn registered(id: u32, numbers: u64) -> Registered {
        let catalogue = Catalogue::default();
        let mut target = Target::new("https://crm.example:8443/hook?a=b").unwrap();
        target.add_header("X-Tenant".into(), "acme".into());
        Registered {
            id: SubscriptionId(id),
            account: "acme".into(),
            name: format!("crm {id}"),
            filter: Filter {
                events: Some(
                    ["ADD_TAG".into(), "x.y".into()]
                        .iter()
                        .map(|name: &String| catalogue.canonical(name).unwrap())
                        .collect(),
                ),
                numbers: (numbers > 0).then(|| {
                    (0..numbers)
                        .map(|n| WabaNumber::from_digits(919_000_000_000 + n).unwrap())
                        .collect()
                }),
            },
            target,
            policy: Policy {
                retry: Retry::List { delays_ms: vec![0, 5] },
                accept: Accept::Only200,
                ..Policy::default()
            },
            secret: Some(Secret::new("hush")),
            retiring: Vec::new(),
            profile: Profile::Wabahook,
            level: Level::Beside,
            state: State::Paused,
            created_at_ms: 77,
        }
    }

    fn shown(all: &[Registered]) -> Vec<String> {
        all.iter().map(|one| format!("{one:?} {:?}", one.target.headers())).collect()
    }

    fn reopened(store: &Memory) -> (Book, Vec<Registered>) {
        opened_in(&store.crash(), None).unwrap()
    }

    fn opened_in(store: &Memory, log: Option<&Path>) -> Result<(Book, Vec<Registered>)> {
        let (store, catalogue) = (Arc::new(store.clone()), Catalogue::default());
        let opened = Book::open(store, log, &catalogue, OnDamage::Refuse)?;
        Ok((opened.book, opened.registered))
    }

    #[test]
    fn subscriptions_survive_a_crash_as_they_were_last_put() {
        let store = Memory::default();
        let (mut book, none) = opened_in(&store, None).unwrap();
        assert!(none.is_empty());
        let bystander = registered(1, 0);
        book.put(&bystander).unwrap();
        book.put(&registered(2, 5_000)).unwrap();
        let (_, all) = reopened(&store);
        assert_eq!(shown(&all), shown(&[bystander.clone(), registered(2, 5_000)]));
        assert_eq!(all[1].secret, Some(Secret::new("hush")));
        book.put(&registered(2, 3)).unwrap();
        assert_eq!(shown(&reopened(&store).1), shown(&[bystander.clone(), registered(2, 3)]));
        book.remove(SubscriptionId(2)).unwrap();
        assert_eq!(shown(&reopened(&store).1), shown(&[bystander]));
    }

    #[test]
    fn changes_made_together_count_all_or_none_also_when_the_book_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("book.log");
        let (mut book, _) = opened_in(&Memory::default(), Some(&log)).unwrap();
        let note = |text| Change::Note { account: "acme", key: "multi", text };
        (1..=3).for_each(|id| book.put(&registered(id, 2)).unwrap());
        let (two, four) = (registered(2, 1), registered(4, 0));
        let changes = vec![Change::Put(&two), Change::Put(&four), note("on")];
        book.apply(
            [changes, vec![Change::Remove(SubscriptionId(1))]].into_iter().flatten().collect(),
        )
        .unwrap();
        drop(book);
        let written = std::fs::read(&log).unwrap();
        let (mut book, all) = opened_in(&Memory::default(), Some(&log)).unwrap();
        assert_eq!(shown(&all), shown(&[two, registered(3, 2), four]));
        let on = [("multi".to_owned(), "on".to_owned())].into();
        assert_eq!(book.notes_of("acme").unwrap(), on);
        assert!(book.notes_of("other").unwrap().is_empty());
        book.apply(vec![note("")]).unwrap();
        assert!(book.notes_of("acme").unwrap().is_empty());
        drop(book);
        // The last line cut off: none of them.
        std::fs::write(&log, &written[..written.len() - 1]).unwrap();
        let (mut book, all) = opened_in(&Memory::default(), Some(&log)).unwrap();
        let before = [registered(1, 2), registered(2, 2), registered(3, 2)];
        assert_eq!(shown(&all), shown(&before));
        assert!(book.notes_of("acme").unwrap().is_empty());
    }

    #[test]
    fn an_id_is_never_given_twice() {
        let store = Memory::default();
        let (mut book, _) = opened_in(&store, None).unwrap();
        assert_eq!(book.fresh_id(), SubscriptionId(1));
        book.put(&registered(1, 0)).unwrap();
        book.remove(SubscriptionId(1)).unwrap();
        assert_eq!(book.fresh_id(), SubscriptionId(2));
        assert_eq!(reopened(&store).0.fresh_id(), SubscriptionId(2));
    }

    #[test]
    fn a_subscription_too_large_for_one_batch_is_refused_and_the_book_unchanged() {
        let store = Memory::default();
        let (mut book, _) = opened_in(&store, None).unwrap();
        book.put(&registered(1, 4)).unwrap();
        assert!(book.put(&registered(1, 200_000)).is_err());
        assert_eq!(shown(&reopened(&store).1), shown(&[registered(1, 4)]));
    }

    #[test]
    fn a_damaged_subscription_is_named() {
        let store = Memory::default();
        let (mut book, _) = opened_in(&store, None).unwrap();
        book.put(&registered(5, 0)).unwrap();
        let database = Arc::clone(&book.kept().unwrap().database);
        drop(book);
        let key = key_of(SubscriptionId(5), 0);
        let mut part = database.get(&key).unwrap().unwrap();
        part[12] ^= 1;
        let mut batch = Batch::default();
        batch.put(key, part);
        database.apply(batch).unwrap();
        drop(database);
        let error = opened_in(&store, None).unwrap_err().to_string();
        assert!(error.contains("subscription 5"), "{error}");
    }

    fn opened(store: &Memory, log: &Path) -> (Book, Vec<Registered>) {
        opened_in(store, Some(log)).unwrap()
    }

    #[test]
    fn a_book_that_is_lost_is_rebuilt_from_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("book.log");
        let (mut book, _) = opened(&Memory::default(), &log);
        (1..=3).for_each(|id| book.put(&registered(id, 2)).unwrap());
        book.put(&registered(2, 900)).unwrap();
        book.remove(SubscriptionId(3)).unwrap();
        drop(book);
        let (book, all) = opened(&Memory::default(), &log);
        assert_eq!(shown(&all), shown(&[registered(1, 2), registered(2, 900)]));
        assert_eq!(all[0].secret, Some(Secret::new("hush")));
        assert_eq!(
            book.fresh_id(),
            SubscriptionId(4),
            "the id of one that was removed stays given"
        );
    }

    #[test]
    fn a_record_that_the_database_lost_without_a_word_comes_back_and_another_is_untouched() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("book.log");
        let store = Memory::default();
        let (mut book, _) = opened(&store, &log);
        (1..=2).for_each(|id| book.put(&registered(id, 2)).unwrap());
        let mut batch = Batch::default();
        batch.remove(key_of(SubscriptionId(1), 0));
        book.kept().unwrap().database.apply(batch).unwrap();
        drop(book);
        let (_, all) = opened(&store, &log);
        assert_eq!(shown(&all), shown(&[registered(1, 2), registered(2, 2)]));
    }

    #[test]
    fn a_log_that_was_cut_off_counts_without_its_last_line_and_a_damaged_one_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("book.log");
        let (mut book, _) = opened(&Memory::default(), &log);
        (1..=2).for_each(|id| book.put(&registered(id, 0)).unwrap());
        drop(book);
        let text = std::fs::read(&log).unwrap();
        std::fs::write(&log, &text[..text.len() - 9]).unwrap();
        let store = Memory::default();
        assert_eq!(shown(&opened(&store, &log).1), shown(&[registered(1, 0)]));
        let mut damaged = std::fs::read(&log).unwrap();
        damaged[3] = b'#';
        std::fs::write(&log, damaged).unwrap();
        assert_eq!(shown(&opened(&store, &log).1), shown(&[registered(1, 0)]), "the book is whole");
        assert_eq!(Contents::read(&log).unwrap().unwrap().subscriptions.len(), 1);
    }

    #[test]
    fn after_a_refused_write_the_book_goes_on_by_itself_and_is_what_was_confirmed() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("book.log");
        for fails_after in 0..2 {
            let (memory, faults) = (Memory::default(), Arc::new(Faults::default()));
            let faulty = Arc::new(Faulty::new(Arc::new(memory.clone()), Arc::clone(&faults)));
            let _ = std::fs::remove_file(&log);
            let catalogue = Catalogue::default();
            let open = || Book::open(faulty.clone(), Some(&log), &catalogue, OnDamage::Refuse);
            let mut book = open().unwrap().book;
            (1..=3).for_each(|id| book.put(&registered(id, 2)).unwrap());
            faults.fail_after_effect(fails_after);
            assert!(book.put(&registered(2, 900)).is_err());
            assert!(book.put(&registered(4, 1)).is_err(), "the device refuses still");
            assert!(book.remove(SubscriptionId(3)).is_err());
            faults.heal();
            let given = book.fresh_id();
            book.put(&registered(given.0, 5)).unwrap();
            let wanted = [registered(1, 2), registered(2, 2), registered(given.0, 5)];
            drop(book);
            assert_eq!(shown(&open().unwrap().registered), shown(&wanted), "{fails_after}");
            assert_eq!(open().unwrap().book.fresh_id(), SubscriptionId(given.0 + 1));
        }
    }

    #[test]
    fn a_damaged_log_beside_an_empty_book_is_advised_kept_once_and_taken_line_by_line() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("book.log");
        let (mut book, _) = opened_in(&Memory::default(), Some(&log)).unwrap();
        (1..=3).for_each(|id| book.put(&registered(id, 0)).unwrap());
        drop(book);
        let text = std::fs::read_to_string(&log).unwrap();
        let damaged = text.replacen("{\"put\":{\"id\":2", "{\"put\":{#id\":2", 1);
        std::fs::write(&log, &damaged).unwrap();
        let refused = opened_in(&Memory::default(), Some(&log)).unwrap_err().to_string();
        assert!(refused.contains("line 3") && refused.contains("SetAside"), "{refused}");
        let store = Arc::new(Memory::default());
        let open = || {
            let catalogue = Catalogue::default();
            Book::open(store.clone(), Some(&log), &catalogue, OnDamage::SetAside).unwrap()
        };
        let opened = open();
        assert_eq!(shown(&opened.registered), shown(&[registered(1, 0), registered(3, 0)]));
        assert!(opened.book.fresh_id().0 > 1_000_000, "lost ids are not given again");
        let [(name, why)] = opened.set_aside.try_into().unwrap();
        assert!(name == "damaged-book.log" && why.contains("3 ("), "{name}: {why}");
        assert!(!why.contains("hush"), "{why}");
        drop(opened.book);
        assert!(open().set_aside.is_empty(), "it is whole now");
        // A crash after the copy and before the new log.
        std::fs::write(&log, &damaged).unwrap();
        let catalogue = Catalogue::default();
        let empty = Arc::new(Memory::default());
        Book::open(empty, Some(&log), &catalogue, OnDamage::SetAside).unwrap();
        let names = std::fs::read_dir(directory.path()).unwrap();
        let copies = names.filter(|one| {
            one.as_ref().unwrap().file_name().to_string_lossy().starts_with("damaged-")
        });
        assert_eq!(copies.count(), 1);
        assert_eq!(std::fs::read_to_string(directory.path().join(name)).unwrap(), damaged);
    }

    #[test]
    fn a_log_of_version_1_is_followed_and_one_of_a_newer_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("book.log");
        // Written by the last build that wrote version 1.
        let v1 = concat!(
            r#"{"wabahook_book_log":1,"next_id":1}"#,
            "\n",
            r#"{"put":{"id":1,"subscription":{"account":"acme","name":"crm","events":["MESSAGE_RECEIVED"],"#,
            r#""numbers":[919000000001],"url":"http://127.0.0.1:9/hook?a=b","headers":[["x-tenant","acme"]],"#,
            r#""policy":{"retry":{"List":{"delays_ms":[0,5000]}},"attempts_max":7,"age_max_ms":60000,"#,
            r#""timeout_ms":2000,"retry_on_timeout":false,"accept":"Only200"},"secret":"hush","#,
            r#""profile":"Wabahook","state":"Active","created_at_ms":1795273574910}}}"#,
            "\n{\"remove\":4}\n",
        );
        std::fs::write(&log, v1).unwrap();
        let (book, all) = opened(&Memory::default(), &log);
        let [crm] = all.try_into().unwrap();
        assert_eq!(
            (crm.id, crm.name.as_str(), crm.policy.attempts_max),
            (SubscriptionId(1), "crm", Some(7))
        );
        assert_eq!(crm.policy.breaker, Policy::default().breaker);
        assert_eq!((crm.secret, book.fresh_id()), (Some(Secret::new("hush")), SubscriptionId(2)));
        drop(book);
        let written = std::fs::read_to_string(&log).unwrap();
        assert!(written.starts_with(r#"{"wabahook_book_log":3,"next_id":2}"#), "{written}");
        assert_eq!(opened(&Memory::default(), &log).1.len(), 1, "it reads what it wrote");
        std::fs::write(&log, written.replacen("log\":3", "log\":4", 1)).unwrap();
        let error = opened_in(&Memory::default(), Some(&log)).unwrap_err();
        assert!(error.to_string().contains("version 4"), "{error}");
    }

    #[test]
    #[cfg(unix)]
    fn only_its_owner_may_read_the_log() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("book.log");
        opened(&Memory::default(), &log);
        assert_eq!(std::fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
