//! Decides how subscriptions are kept on the device.
//!
//! Leaves to others: finding them (`routing`), serving them (`dispatch`), and the log from which
//! the database can be rebuilt (`journal`). Invariant: a
//! subscription is there as it was last put, whole, or not at all; and an id is never given twice,
//! also after its subscription was removed.
//!
//! Layout: key `s`, id (4 bytes, big-endian), part (2 bytes, big-endian). The parts joined are the
//! envelope of `store::record` around [`Stored`] in bincode 1.3.3, in the version that `stored` names.
//! Key `n` holds the next id (bincode u32) in an envelope of version 1.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::journal::{Contents, Entry, Journal};
use super::stored::{Stored, restore, sealed, stored, unsealed};
use super::{Registered, SubscriptionId};
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::store::record::{decode, encode};
use crate::store::{BATCH_OPERATIONS_MAX, Batch, Database, Failure, VALUE_BYTES_MAX};

const VERSION: u8 = 1;
const SUBSCRIPTION: u8 = b's';
const NEXT_ID: &[u8] = b"n";

/// How many parts a subscription may take, so that it is written in one batch.
const PARTS_MAX: usize = BATCH_OPERATIONS_MAX / 2 - 1;

/// The subscriptions on the device.
#[derive(Debug)]
pub(crate) struct Book {
    database: Arc<dyn Database>,
    /// None where the store is not a directory.
    journal: Option<Journal>,
    next_id: u32,
    /// How many parts each takes now, so that a shorter version leaves none behind.
    parts: BTreeMap<SubscriptionId, usize>,
}

impl Book {
    /// Reads every subscription, in the order of their ids. Where the log beside the book knows
    /// more, because the engine stopped between the two or the database lost something without a
    /// word, the book follows the log.
    pub(crate) fn open(
        database: Arc<dyn Database>,
        log: Option<&Path>,
        catalogue: &Catalogue,
    ) -> Result<(Book, Vec<Registered>)> {
        let mut book = Book::read(database)?;
        if let Some(path) = log {
            match Contents::read(path) {
                Ok(Some(known)) => book.follow(known)?,
                Ok(None) => {}
                // A book that knows nothing may be one that was lost.
                Err(error) if book.knows_nothing() => return Err(error),
                // The log is written anew: the book is whole.
                Err(_) => {}
            }
            book.journal = Some(Journal::begin(path, &book.contents()?)?);
        }
        let registered = book.contents()?.subscriptions;
        let restored = registered.into_iter().map(|(id, stored)| restore(id, stored, catalogue));
        let restored = restored.collect::<Result<Vec<_>>>()?;
        Ok((book, restored))
    }

    fn read(database: Arc<dyn Database>) -> Result<Book> {
        let next_id = match database.get(NEXT_ID).map_err(|f| failed("reading the book", f))? {
            Some(sealed) => decode(VERSION, &sealed).map_err(|why| damaged("next id", why))?,
            None => 1,
        };
        let mut book = Book { database, journal: None, next_id, parts: BTreeMap::new() };
        let joined = book.joined()?;
        book.parts = joined.into_iter().map(|(id, (parts, _))| (id, parts)).collect();
        Ok(book)
    }

    fn knows_nothing(&self) -> bool {
        self.next_id == 1 && self.parts.is_empty()
    }

    /// Brings the book to what the log says. What the log does not speak of stays: only a log that
    /// lost something knows less than the book.
    fn follow(&mut self, known: Contents) -> Result<()> {
        let here = self.contents()?.subscriptions;
        for id in here.keys().filter(|id| known.removed.contains(id)) {
            self.remove(*id)?;
        }
        for (id, stored) in known.subscriptions {
            if here.get(&id) != Some(&stored) {
                self.store(id, &stored)?;
            }
        }
        self.next_id = self.next_id.max(known.next_id);
        Ok(())
    }

    fn contents(&self) -> Result<Contents> {
        let subscriptions = self.joined()?.into_iter().map(|(id, (_, sealed))| {
            let stored = unsealed(&sealed);
            Ok((id, stored.map_err(|why| damaged(format!("subscription {id}"), why))?))
        });
        let subscriptions = subscriptions.collect::<Result<_>>()?;
        Ok(Contents { next_id: self.next_id, subscriptions, ..Contents::default() })
    }

    /// The parts of each subscription, counted and joined.
    fn joined(&self) -> Result<BTreeMap<SubscriptionId, (usize, Vec<u8>)>> {
        let mut joined: BTreeMap<SubscriptionId, (usize, Vec<u8>)> = BTreeMap::new();
        let visited = self.database.scan(&[SUBSCRIPTION], b"", &mut |key, part| {
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

    /// An id that was never given. It counts as given once a subscription was put under it.
    pub(crate) fn fresh_id(&self) -> SubscriptionId {
        SubscriptionId(self.next_id)
    }

    /// Writes a subscription; durable when it returns.
    pub(crate) fn put(&mut self, registered: &Registered) -> Result<()> {
        let stored = stored(registered);
        parts_of(registered.id, &stored)?;
        if let Some(journal) = &mut self.journal {
            let subscription = Box::new(stored.clone());
            journal.append(&Entry::Put { id: registered.id, subscription })?;
        }
        self.store(registered.id, &stored)
    }

    fn store(&mut self, id: SubscriptionId, stored: &Stored) -> Result<()> {
        let sealed = parts_of(id, stored)?;
        let parts: Vec<&[u8]> = sealed.chunks(VALUE_BYTES_MAX).collect();
        let mut batch = Batch::default();
        for (place, part) in parts.iter().enumerate() {
            batch.put(key_of(id, place), *part);
        }
        let before = self.parts.get(&id).copied().unwrap_or(0);
        (parts.len()..before).for_each(|place| batch.remove(key_of(id, place)));
        let next_id = self.next_id.max(id.0.saturating_add(1));
        batch.put(NEXT_ID, encode(VERSION, &next_id).map_err(|why| damaged("next id", why))?);
        self.write(batch)?;
        self.next_id = next_id;
        self.parts.insert(id, parts.len());
        Ok(())
    }

    /// Removes a subscription; durable when it returns.
    pub(crate) fn remove(&mut self, id: SubscriptionId) -> Result<()> {
        if let Some(journal) = &mut self.journal {
            journal.append(&Entry::Remove(id))?;
        }
        let mut batch = Batch::default();
        let parts = self.parts.get(&id).copied().unwrap_or(0);
        (0..parts).for_each(|place| batch.remove(key_of(id, place)));
        self.write(batch)?;
        self.parts.remove(&id);
        Ok(())
    }

    fn write(&self, batch: Batch) -> Result<()> {
        self.database.apply(batch).map_err(|failure| failed("writing the book", failure))?;
        self.database.sync().map_err(|failure| failed("syncing the book", failure))
    }
}

/// The sealed record of a subscription, refused where it takes more parts than one batch holds.
fn parts_of(id: SubscriptionId, stored: &Stored) -> Result<Vec<u8>> {
    let sealed = sealed(stored).map_err(|why| damaged(format!("subscription {id}"), why))?;
    let (given, limit) = (sealed.len(), PARTS_MAX * VALUE_BYTES_MAX);
    if given > limit {
        let (given, limit) = (given as u64, limit as u64);
        return Err(Error::TooLarge { field: "subscription".to_owned(), given, limit });
    }
    Ok(sealed)
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
    use crate::store::{Memory, Store};
    use crate::subscription::{Accept, Filter, Policy, Profile, Retry, Secret, State, Target};

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
            profile: Profile::Wabahook,
            state: State::Paused,
            created_at_ms: 77,
        }
    }

    fn shown(all: &[Registered]) -> Vec<String> {
        all.iter().map(|one| format!("{one:?} {:?}", one.target.headers())).collect()
    }

    fn reopened(store: &Memory) -> (Book, Vec<Registered>) {
        Book::open(store.crash().open("book").unwrap(), None, &Catalogue::default()).unwrap()
    }

    #[test]
    fn subscriptions_survive_a_crash_as_they_were_last_put() {
        let store = Memory::default();
        let (mut book, none) =
            Book::open(store.open("book").unwrap(), None, &Catalogue::default()).unwrap();
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
    fn an_id_is_never_given_twice() {
        let store = Memory::default();
        let (mut book, _) =
            Book::open(store.open("book").unwrap(), None, &Catalogue::default()).unwrap();
        assert_eq!(book.fresh_id(), SubscriptionId(1));
        book.put(&registered(1, 0)).unwrap();
        book.remove(SubscriptionId(1)).unwrap();
        assert_eq!(book.fresh_id(), SubscriptionId(2));
        assert_eq!(reopened(&store).0.fresh_id(), SubscriptionId(2));
    }

    #[test]
    fn a_subscription_too_large_for_one_batch_is_refused_and_the_book_unchanged() {
        let store = Memory::default();
        let (mut book, _) =
            Book::open(store.open("book").unwrap(), None, &Catalogue::default()).unwrap();
        book.put(&registered(1, 4)).unwrap();
        assert!(book.put(&registered(1, 200_000)).is_err());
        assert_eq!(shown(&reopened(&store).1), shown(&[registered(1, 4)]));
    }

    #[test]
    fn a_damaged_subscription_is_named() {
        let store = Memory::default();
        let database = store.open("book").unwrap();
        let (mut book, _) = Book::open(Arc::clone(&database), None, &Catalogue::default()).unwrap();
        book.put(&registered(5, 0)).unwrap();
        let key = key_of(SubscriptionId(5), 0);
        let mut part = database.get(&key).unwrap().unwrap();
        part[12] ^= 1;
        let mut batch = Batch::default();
        batch.put(key, part);
        database.apply(batch).unwrap();
        let error = Book::open(database, None, &Catalogue::default()).unwrap_err().to_string();
        assert!(error.contains("subscription 5"), "{error}");
    }

    fn opened(store: &Memory, log: &Path) -> (Book, Vec<Registered>) {
        let database = store.open("book").unwrap();
        Book::open(database, Some(log), &Catalogue::default()).unwrap()
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
        book.database.apply(batch).unwrap();
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
        assert!(written.starts_with(r#"{"wabahook_book_log":2,"next_id":2}"#), "{written}");
        assert_eq!(opened(&Memory::default(), &log).1.len(), 1, "it reads what it wrote");
        std::fs::write(&log, written.replacen("log\":2", "log\":3", 1)).unwrap();
        let database = Memory::default().open("book").unwrap();
        let error = Book::open(database, Some(&log), &Catalogue::default()).unwrap_err();
        assert!(error.to_string().contains("version 3"), "{error}");
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
