//! Reads what the outbox keeps: events, dead letters, failed attempts and keys.
//!
//! A caller that reads while a generation is cleared sees the record or its copy, and never an error because of
//! that.

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::attempt::{DeliveryId, FailedAttempt, StoredDeadLetter};
use crate::error::{Error, Result};
use crate::event::{EventId, StoredEvent};
use crate::store::Database;
use crate::subscription::SubscriptionId;

use super::accounts::events::AccountRefs;
use super::codec::heads::{EventHead, HeadOwner};
use super::codec::{self, heads, keys, payload};
use super::dead_letters::{LetterAccounts as _, LetterPosition};
use super::handle::Outbox;

impl Outbox {
    /// An owed event, from memory or from the device.
    pub(crate) fn event(&self, sequence: u64) -> Result<Arc<StoredEvent>> {
        if let Some(event) = self.cache.lock().event(sequence) {
            return Ok(event);
        }
        let (event, targets) = read_twice(|| self.read(sequence))?;
        let event = Arc::new(event);
        self.cache.lock().keep(Arc::clone(&event), targets);
        Ok(event)
    }

    /// The `wanted` events that are in memory, in their order. Deliveries of the `settled` ones no longer need
    /// them there.
    pub(crate) fn cached_events(
        &self,
        settled: &[u64],
        wanted: impl ExactSizeIterator<Item = u64>,
    ) -> Vec<Option<Arc<StoredEvent>>> {
        if settled.is_empty() && wanted.len() == 0 {
            return Vec::new();
        }
        let mut cache = self.cache.lock();
        settled.iter().for_each(|sequence| cache.settled(*sequence));
        wanted.map(|sequence| cache.event(sequence)).collect()
    }

    /// Deliveries of these events are settled and no longer need them in memory.
    pub(crate) fn release_cached(&self, settled: &[u64]) {
        if !settled.is_empty() {
            let mut cache = self.cache.lock();
            settled.iter().for_each(|sequence| cache.settled(*sequence));
        }
    }

    /// An event from the device, and how many deliveries may need it.
    pub(super) fn read(&self, sequence: u64) -> Result<(StoredEvent, u64)> {
        let (database, EventHead { event, targets, payload }) = self.head(sequence)?;
        let payload = payload::read(&*database, payload)?;
        Ok((StoredEvent { payload, ..event }, targets.len()))
    }

    pub(crate) fn id_of(&self, sequence: u64) -> EventId {
        self.generations.id_of(sequence)
    }

    /// The newest dead letters before a position, or the newest of all: of all accounts, or of some. Reads nothing from
    /// the device.
    pub(crate) fn letters_before(
        &self,
        position: Option<LetterPosition>,
        accounts: Option<&AccountRefs>,
        count_max: usize,
    ) -> Vec<LetterPosition> {
        self.letters.lock().before(position, accounts, count_max)
    }

    /// Those of some accounts that have events here.
    pub(crate) fn account_refs(&self, accounts: &[String]) -> AccountRefs {
        self.generations.accounts().find_all(accounts)
    }

    /// Whether an event may be of one of these accounts. Reads nothing from the device.
    pub(crate) fn may_be_of(&self, sequence: u64, accounts: &AccountRefs) -> bool {
        accounts.may_include(self.generations.account_of(sequence))
    }

    pub(crate) fn letter_count(&self) -> u64 {
        self.letters.lock().len()
    }

    pub(crate) fn letters_of(&self, account: &str) -> u64 {
        let known = self.generations.accounts().find(account);
        known.map_or(0, |account| self.letters.lock().count_of(account) as u64)
    }

    /// The position of a dead letter in the list of all accounts, or of some. Recently replayed letters have one too.
    pub(crate) fn letter_position(
        &self,
        delivery: DeliveryId,
        accounts: Option<&AccountRefs>,
    ) -> Option<LetterPosition> {
        self.letters.lock().position_of(delivery, accounts)
    }

    /// A dead letter; `None` if the delivery has none or none any more.
    pub(crate) fn letter(&self, delivery: DeliveryId) -> Result<Option<StoredDeadLetter>> {
        let holder = || self.letters.lock().holder_of(delivery);
        let key = keys::of_delivery(keys::DEAD, delivery);
        let what = || format!("dead letter of event {}", delivery.sequence);
        while let Some(generation) = holder() {
            let found: Result<Option<(u64, StoredDeadLetter)>> =
                self.record_at(generation, &key, what);
            // It may have been copied forward between being looked up and being read.
            if matches!(found, Ok(Some(_))) || holder() == Some(generation) {
                return Ok(found?.map(|(_, letter)| letter));
            }
        }
        Ok(None)
    }

    /// The failed attempts that are kept of a delivery, oldest first. Empty if it never failed or is settled.
    pub(crate) fn history(&self, delivery: DeliveryId) -> Result<Vec<FailedAttempt>> {
        let mut attempts: Vec<(u64, FailedAttempt)> = read_twice(|| {
            let slots = self.attempts.lock().slots_of(delivery);
            let what = || format!("failed attempt of event {}", delivery.sequence);
            let read = |(slot, generation)| {
                self.record_at(generation, &keys::of_attempt(delivery, slot), what)
            };
            // A record that is on its way to the device is not there yet.
            slots.into_iter().filter_map(|slot| read(slot).transpose()).collect()
        })?;
        attempts.sort_unstable_by_key(|(number, _)| *number);
        Ok(attempts.into_iter().map(|(_, tried)| tried).collect())
    }

    pub(crate) fn key_hashes(&self, sequences: &RoaringTreemap) -> Result<HashMap<u64, u64>> {
        let (mut hashes, mut pages) = (HashMap::new(), OwnerPages::default());
        for sequence in sequences {
            let hash = pages.owner(self, sequence)?.map_or(0, |owner| owner.key_hash);
            if hash != 0 {
                hashes.insert(sequence, hash);
            }
        }
        Ok(hashes)
    }

    /// The events of these whose owner matches. Each page of heads is read once.
    pub(crate) fn events_of(
        &self,
        sequences: &RoaringTreemap,
        is_meant: impl Fn(&HeadOwner) -> bool,
    ) -> Result<RoaringTreemap> {
        let (mut meant, mut pages) = (RoaringTreemap::new(), OwnerPages::default());
        for sequence in sequences {
            if pages.owner(self, sequence)?.is_some_and(&is_meant) {
                meant.insert(sequence);
            }
        }
        Ok(meant)
    }

    fn owners_around(&self, sequence: u64) -> Result<HashMap<u64, HeadOwner>> {
        read_twice(|| {
            let Some(generation) = self.generations.generation_of(sequence) else {
                return Ok(HashMap::new());
            };
            let database = self.generations.database(generation)?;
            Ok(heads::owners(&*database, sequence)?.into_iter().collect())
        })
    }

    /// The subscriptions that an event was owed to when it was accepted.
    pub(crate) fn targets_of(&self, sequence: u64) -> Result<Vec<SubscriptionId>> {
        let (_, head) = read_twice(|| self.head(sequence))?;
        Ok(head.targets.iter().map(SubscriptionId).collect())
    }

    pub(crate) fn account_of(&self, sequence: u64) -> Result<String> {
        read_twice(|| self.head(sequence)).map(|(_, head)| head.event.account.to_string())
    }

    /// The head of an event, and the database that holds it.
    fn head(&self, sequence: u64) -> Result<(Arc<dyn Database>, EventHead)> {
        let gone = || codec::damaged(format!("event {sequence}"), "its generation is gone");
        let generation = self.generations.generation_of(sequence).ok_or_else(gone)?;
        let database = self.generations.database(generation)?;
        let head = heads::find(&*database, &self.catalogue, self.id_of(sequence))?;
        Ok((database, head))
    }

    fn record_at<T: serde::de::DeserializeOwned>(
        &self,
        generation: u64,
        key: &[u8],
        what: impl Fn() -> String,
    ) -> Result<Option<T>> {
        let database = self.generations.database(generation)?;
        let failed = |failure| Error::store("reading the records of a delivery", failure);
        let Some(sealed) = database.get(key).map_err(failed)? else { return Ok(None) };
        codec::decoded(&sealed, what).map(Some)
    }
}

/// Looks up the owners of events, with the page of heads that was read last: the next event is often in it.
#[derive(Default)]
pub(crate) struct OwnerPages {
    page: HashMap<u64, HeadOwner>,
    generation: Option<u64>,
}

impl OwnerPages {
    /// The owner of an event; `None` if it is no longer kept.
    pub(crate) fn owner(&mut self, outbox: &Outbox, sequence: u64) -> Result<Option<&HeadOwner>> {
        let generation = outbox.generations.generation_of(sequence);
        if self.generation != generation || !self.page.contains_key(&sequence) {
            self.page = outbox.owners_around(sequence)?;
            self.generation = generation;
        }
        Ok(self.page.get(&sequence))
    }
}

/// Reads again if reading failed: the record may have been copied forward between being looked up and being read.
fn read_twice<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    read().or_else(|_| read())
}
