//! Decides how what is kept of a delivery is found again: its letter, its history, its key.
//!
//! Leaves to others: where each record lies (`letters`, `history`, `row`). Invariant: whoever reads
//! while a generation is cleared sees the record or its copy, and never an error because of that.

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::attempt::{DeliveryId, Letter, Tried};
use crate::error::{Error, Result};
use crate::store::{Database, record};

use super::heads::Head;
use super::letters::Moment;
use super::{Outbox, group, heads, keys};

impl Outbox {
    /// The newest dead letters before one, or of all, at most so many: when each was given up, in
    /// milliseconds since the Unix epoch, and which it is. Reads nothing from the device.
    pub(crate) fn letters_before(&self, one: Option<Moment>, count_max: usize) -> Vec<Moment> {
        self.letters.lock().before(one, count_max)
    }

    /// The place of a letter among the others, also of one that was revived a while ago.
    pub(crate) fn letter_moment(&self, delivery: DeliveryId) -> Option<Moment> {
        self.letters.lock().moment_of(delivery)
    }

    /// One dead letter; none when there is none, or none any more.
    pub(crate) fn letter(&self, delivery: DeliveryId) -> Result<Option<Letter>> {
        let holder = || self.letters.lock().holder_of(delivery);
        let key = keys::of_delivery(keys::DEAD, delivery);
        let what = || format!("dead letter of event {}", delivery.sequence);
        while let Some(generation) = holder() {
            let found: Result<Option<(u64, Letter)>> = self.decoded(generation, &key, what);
            // It may have been copied forward between being looked up and being read.
            if matches!(found, Ok(Some(_))) || holder() == Some(generation) {
                return Ok(found?.map(|(_, letter)| letter));
            }
        }
        Ok(None)
    }

    /// The failed attempts of a delivery that are kept, oldest first. None of a delivery that never
    /// failed or needs no more attempts.
    pub(crate) fn history(&self, delivery: DeliveryId) -> Result<Vec<Tried>> {
        let mut attempts: Vec<(u64, Tried)> = twice(|| {
            let slots = self.histories.lock().slots_of(delivery);
            let what = || format!("failed attempt of event {}", delivery.sequence);
            let read = |(slot, generation)| {
                self.decoded(generation, &keys::of_attempt(delivery, slot), what)
            };
            // One that is on its way to the device is not there yet.
            slots.into_iter().filter_map(|slot| read(slot).transpose()).collect()
        })?;
        attempts.sort_unstable_by_key(|(number, _)| *number);
        Ok(attempts.into_iter().map(|(_, tried)| tried).collect())
    }

    /// The hashes of the keys of events that are owed; an event without a key, or that is gone, is
    /// left out.
    pub(crate) fn key_hashes(&self, sequences: &RoaringTreemap) -> Result<HashMap<u64, u64>> {
        let mut hashes = HashMap::new();
        let (mut page, mut within) = (HashMap::new(), None);
        for sequence in sequences {
            let generation = self.row.generation_of(sequence);
            if within != generation || !page.contains_key(&sequence) {
                page = self.keys_around(sequence)?;
                within = generation;
            }
            if let Some(hash) = page.get(&sequence).filter(|hash| **hash != 0) {
                hashes.insert(sequence, *hash);
            }
        }
        Ok(hashes)
    }

    fn keys_around(&self, sequence: u64) -> Result<HashMap<u64, u64>> {
        twice(|| {
            let Some(generation) = self.row.generation_of(sequence) else {
                return Ok(HashMap::new());
            };
            let database = self.row.database(generation)?;
            Ok(heads::key_hashes(&*database, sequence)?.into_iter().collect())
        })
    }

    /// Whose event it is: its account.
    pub(crate) fn account_of(&self, sequence: u64) -> Result<String> {
        twice(|| self.head(sequence)).map(|(_, head)| head.account.to_string())
    }

    /// The head of an event, and the database that holds it.
    pub(super) fn head(&self, sequence: u64) -> Result<(Arc<dyn Database>, Head)> {
        let gone = || Error::Damaged {
            record: format!("event {sequence}"),
            why: "its generation is gone".to_owned(),
        };
        let generation = self.row.generation_of(sequence).ok_or_else(gone)?;
        let database = self.row.database(generation)?;
        let head = heads::find(&*database, &self.catalogue, sequence)?;
        Ok((database, head))
    }

    /// The record under a key of a generation.
    fn decoded<T: serde::de::DeserializeOwned>(
        &self,
        generation: u64,
        key: &[u8],
        what: impl Fn() -> String,
    ) -> Result<Option<T>> {
        let database = self.row.database(generation)?;
        let failed = |failure| Error::store("reading what is kept of a delivery", failure);
        let Some(sealed) = database.get(key).map_err(failed)? else { return Ok(None) };
        let decoded = record::decode(group::VERSION, &sealed);
        decoded.map(Some).map_err(|why| Error::Damaged { record: what(), why })
    }
}

/// Reads again where reading failed: what is read may have been copied forward between being looked
/// up and being read.
pub(super) fn twice<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    read().or_else(|_| read())
}
