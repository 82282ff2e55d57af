//! Decides how subscriptions are kept on the device.
//!
//! Leaves to others: finding them (`routing`) and serving them (`dispatch`). Invariant: a
//! subscription is there as it was last put, whole, or not at all; and an id is never given twice,
//! also after its subscription was removed.
//!
//! Layout: key `s`, id (4 bytes, big-endian), part (2 bytes, big-endian). The parts joined are the
//! envelope of `store::record`, version 1, around [`StoredV1`] in bincode 1.3.3. Key `n` holds the
//! next id (4 bytes, little-endian) in the same envelope.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Filter, Policy, Profile, Registered, Secret, State, SubscriptionId, Target};
use crate::error::{Error, Result};
use crate::event::{Catalogue, WabaNumber};
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
    next_id: u32,
    /// How many parts each takes now, so that a shorter version leaves none behind.
    parts: BTreeMap<SubscriptionId, usize>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredV1 {
    account: String,
    name: String,
    events: Option<Vec<String>>,
    numbers: Option<Vec<u64>>,
    url: String,
    headers: Vec<(String, String)>,
    policy: Policy,
    secret: Option<String>,
    profile: Profile,
    state: State,
    created_at_ms: u64,
}

impl Book {
    /// Reads every subscription, in the order of their ids.
    pub(crate) fn open(
        database: Arc<dyn Database>,
        catalogue: &Catalogue,
    ) -> Result<(Book, Vec<Registered>)> {
        let mut joined: BTreeMap<SubscriptionId, (usize, Vec<u8>)> = BTreeMap::new();
        let visited = database.scan(&[SUBSCRIPTION], b"", &mut |key, part| {
            if let Some(id) = id_of(key) {
                let (parts, bytes) = joined.entry(id).or_default();
                *parts += 1;
                bytes.extend_from_slice(part);
            }
            ControlFlow::Continue(())
        });
        visited.map_err(|failure| failed("reading the book", failure))?;
        let next_id = match database.get(NEXT_ID).map_err(|f| failed("reading the book", f))? {
            Some(sealed) => decode(VERSION, &sealed).map_err(|why| damaged("next id", why))?,
            None => 1,
        };
        let registered = joined.iter().map(|(id, (_, bytes))| restore(*id, bytes, catalogue));
        let registered = registered.collect::<Result<Vec<_>>>()?;
        let parts = joined.into_iter().map(|(id, (parts, _))| (id, parts)).collect();
        Ok((Book { database, next_id, parts }, registered))
    }

    /// An id that was never given. It counts as given once a subscription was put under it.
    pub(crate) fn fresh_id(&self) -> SubscriptionId {
        SubscriptionId(self.next_id)
    }

    /// Writes a subscription; durable when it returns.
    pub(crate) fn put(&mut self, registered: &Registered) -> Result<()> {
        let what = || format!("subscription {}", registered.id);
        let sealed = encode(VERSION, &stored(registered)).map_err(|why| damaged(what(), why))?;
        let parts: Vec<&[u8]> = sealed.chunks(VALUE_BYTES_MAX).collect();
        if parts.len() > PARTS_MAX {
            let limit = (PARTS_MAX * VALUE_BYTES_MAX) as u64;
            let given = sealed.len() as u64;
            return Err(Error::TooLarge { field: "subscription".to_owned(), given, limit });
        }
        let mut batch = Batch::default();
        for (place, part) in parts.iter().enumerate() {
            batch.put(key_of(registered.id, place), *part);
        }
        let before = self.parts.get(&registered.id).copied().unwrap_or(0);
        (parts.len()..before).for_each(|place| batch.remove(key_of(registered.id, place)));
        let next_id = self.next_id.max(registered.id.0.saturating_add(1));
        batch.put(NEXT_ID, encode(VERSION, &next_id).map_err(|why| damaged("next id", why))?);
        self.write(batch)?;
        self.next_id = next_id;
        self.parts.insert(registered.id, parts.len());
        Ok(())
    }

    /// Removes a subscription; durable when it returns.
    pub(crate) fn remove(&mut self, id: SubscriptionId) -> Result<()> {
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

fn stored(registered: &Registered) -> StoredV1 {
    let Filter { events, numbers } = &registered.filter;
    let secret = registered.secret.as_ref();
    StoredV1 {
        account: registered.account.clone(),
        name: registered.name.clone(),
        events: events.as_ref().map(|set| set.iter().map(ToString::to_string).collect()),
        numbers: numbers.as_ref().map(|set| set.iter().map(|number| number.digits()).collect()),
        url: registered.target.url().to_string(),
        headers: registered.target.headers().to_vec(),
        policy: registered.policy.clone(),
        secret: secret.map(|secret| String::from_utf8_lossy(secret.reveal()).into_owned()),
        profile: registered.profile,
        state: registered.state,
        created_at_ms: registered.created_at_ms,
    }
}

fn restore(id: SubscriptionId, sealed: &[u8], catalogue: &Catalogue) -> Result<Registered> {
    let what = || format!("subscription {id}");
    let stored: StoredV1 = decode(VERSION, sealed).map_err(|why| damaged(what(), why))?;
    let invalid = |error: Error| damaged(what(), error.to_string());
    let events = stored.events.map(|names| {
        names.iter().map(|name| catalogue.canonical(name)).collect::<Result<_>>().map_err(invalid)
    });
    let numbers = stored.numbers.map(|digits| {
        let number = |digits| WabaNumber::from_digits(digits);
        let all = digits.into_iter().map(number).collect::<Option<_>>();
        all.ok_or_else(|| damaged(what(), "it names no number".to_owned()))
    });
    let mut target = Target::new(&stored.url).map_err(invalid)?;
    stored.headers.into_iter().for_each(|(name, value)| target.add_header(name, value));
    Ok(Registered {
        id,
        account: stored.account,
        name: stored.name,
        filter: Filter { events: events.transpose()?, numbers: numbers.transpose()? },
        target,
        policy: stored.policy,
        secret: stored.secret.map(Secret::new),
        profile: stored.profile,
        state: stored.state,
        created_at_ms: stored.created_at_ms,
    })
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
    use crate::store::{Memory, Store};
    use crate::subscription::{Accept, Retry};

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
        Book::open(store.crash().open("book").unwrap(), &Catalogue::default()).unwrap()
    }

    #[test]
    fn subscriptions_survive_a_crash_as_they_were_last_put() {
        let store = Memory::default();
        let (mut book, none) =
            Book::open(store.open("book").unwrap(), &Catalogue::default()).unwrap();
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
        let (mut book, _) = Book::open(store.open("book").unwrap(), &Catalogue::default()).unwrap();
        assert_eq!(book.fresh_id(), SubscriptionId(1));
        book.put(&registered(1, 0)).unwrap();
        book.remove(SubscriptionId(1)).unwrap();
        assert_eq!(book.fresh_id(), SubscriptionId(2));
        assert_eq!(reopened(&store).0.fresh_id(), SubscriptionId(2));
    }

    #[test]
    fn a_subscription_too_large_for_one_batch_is_refused_and_the_book_unchanged() {
        let store = Memory::default();
        let (mut book, _) = Book::open(store.open("book").unwrap(), &Catalogue::default()).unwrap();
        book.put(&registered(1, 4)).unwrap();
        assert!(book.put(&registered(1, 200_000)).is_err());
        assert_eq!(shown(&reopened(&store).1), shown(&[registered(1, 4)]));
    }

    #[test]
    fn a_damaged_subscription_is_named() {
        let store = Memory::default();
        let database = store.open("book").unwrap();
        let (mut book, _) = Book::open(Arc::clone(&database), &Catalogue::default()).unwrap();
        book.put(&registered(5, 0)).unwrap();
        let key = key_of(SubscriptionId(5), 0);
        let mut part = database.get(&key).unwrap().unwrap();
        part[12] ^= 1;
        let mut batch = Batch::default();
        batch.put(key, part);
        database.apply(batch).unwrap();
        let error = Book::open(database, &Catalogue::default()).unwrap_err().to_string();
        assert!(error.contains("subscription 5"), "{error}");
    }
}
