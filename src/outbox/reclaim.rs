//! Decides when a generation goes, and what of it is copied forward first.
//!
//! Leaves to others: writing the copies and removing the generation (`committer`). Invariant (I3):
//! what a generation holds that is owed, dead or remembered is on the device in a newer one before
//! it goes; generations go oldest first, because what became of an event lies in its own or newer.
//! So a dead letter moves with its event, also out of a generation newer than the event's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use roaring::{RoaringBitmap, RoaringTreemap};

use crate::attempt::{DeliveryId, Letter};
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::store::{Database, Operation, record};
use crate::subscription::SubscriptionId;

use super::group::{self, Cursor};
use super::heads::{self, Head, Packer};
use super::page::{self, Stream};
use super::row::Generation;
use super::{dedup, keys, reading, row::Row};

/// What to do with the oldest sealed generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Too much of it is alive.
    Keep,
    /// Nothing in it is needed but what can be copied cheaply.
    Clear,
}

/// Copying pays when at most this share of a generation is alive: a quarter, so that what is
/// written for copies stays a third of what is written for events.
const ALIVE_SHARE: u64 = 4;

/// Judges a generation by its counts; `letters` are the dead letters whose records lie in it, and
/// `history_bytes` what the histories take that would be copied: they may outweigh the events.
pub(super) fn verdict(generation: &Generation, letters: u64, history_bytes: u64) -> Verdict {
    // A delivery keeps its whole event alive; that several may share one only helps.
    let alive = generation.owed.saturating_add(letters).min(generation.events);
    let mean_bytes = generation.bytes / generation.events.max(1);
    let alive_bytes = alive.saturating_mul(mean_bytes).saturating_add(history_bytes);
    if alive_bytes.saturating_mul(ALIVE_SHARE) <= generation.bytes {
        Verdict::Clear
    } else {
        Verdict::Keep
    }
}

/// Whom the engine still owes which of these sequences.
pub(crate) type Owing =
    Box<dyn Fn(&RoaringTreemap) -> HashMap<SubscriptionId, RoaringTreemap> + Send>;

/// What is copied out of one generation.
#[derive(Default)]
pub(super) struct Copies {
    pub(super) operations: Vec<Operation>,
    pub(super) head_keys: Vec<Vec<u8>>,
    /// Each event copied, and how many deliveries it owes.
    pub(super) moved: Vec<(u64, u64)>,
    /// Letters whose records are copied.
    letters: Vec<(u64, DeliveryId)>,
    /// Deliveries whose retry states are copied.
    retries: Vec<DeliveryId>,
    /// Failed attempts whose records are copied.
    attempts: Vec<(DeliveryId, u8)>,
    /// Lanes whose health is copied.
    health: Vec<SubscriptionId>,
}

/// Builds the copies of what is alive in `generation`, as one unit: the events that are `owed` and
/// those of dead letters.
pub(super) fn copies(
    database: &dyn Database,
    catalogue: &Catalogue,
    row: &Row,
    generation: u64,
    owed: &HashMap<SubscriptionId, RoaringTreemap>,
    cursor: &mut Cursor,
) -> Result<Copies> {
    let mut targets: HashMap<u64, RoaringBitmap> = HashMap::new();
    let mut counts: HashMap<u64, u64> = HashMap::new();
    for (id, sequences) in owed {
        for sequence in sequences {
            targets.entry(sequence).or_default().insert(id.0);
            *counts.entry(sequence).or_default() += 1;
        }
    }
    let mut copies = Copies::default();
    copies.copy_letters(database, row, generation, cursor)?;
    for (_, delivery) in &copies.letters {
        targets.entry(delivery.sequence).or_default().insert(delivery.subscription.0);
    }
    copies.copy_tombstones(database, cursor)?;
    copies.copy_retries(database, generation, cursor)?;
    copies.copy_attempts(database, generation, cursor)?;
    copies.copy_health(database, generation, cursor)?;
    copies.copy_events(database, catalogue, targets, &counts, cursor)?;
    Ok(copies)
}

impl Copies {
    /// Notes that the copies are on the device.
    pub(super) fn done(&self, row: &Row, cursor: &mut Cursor) {
        for (sequence, owed) in &self.moved {
            row.moved(*sequence, *owed, cursor.generation);
        }
        for (at_wall_ms, delivery) in &self.letters {
            cursor.letters.lock().keep(*at_wall_ms, *delivery, cursor.generation);
        }
        for delivery in &self.retries {
            if let Some(holder) = cursor.retrying.get_mut(delivery) {
                *holder = cursor.generation;
            }
        }
        let mut histories = cursor.histories.lock();
        for (delivery, slot) in &self.attempts {
            histories.moved(*delivery, *slot, cursor.generation);
        }
        drop(histories);
        cursor.health.extend(self.health.iter().map(|id| (*id, cursor.generation)));
    }

    fn copy_letters(
        &mut self,
        database: &dyn Database,
        row: &Row,
        generation: u64,
        cursor: &Cursor,
    ) -> Result<()> {
        let inside = row.sequences_in(generation, cursor.next_sequence);
        for (at_wall_ms, delivery, holder) in cursor.letters.lock().of_events(&inside) {
            let key = keys::of_delivery(keys::DEAD, delivery);
            let sealed = match holder == generation {
                true => database.get(&key),
                false => row.database(holder)?.get(&key),
            };
            let Some(sealed) = sealed.map_err(failed)? else { continue };
            // Read, so that damage is not carried on.
            let _: (u64, Letter) =
                record::decode(group::VERSION, &sealed).map_err(|why| Error::Damaged {
                    record: format!("dead letter of event {}", delivery.sequence),
                    why,
                })?;
            self.operations.push(Operation::Put(key, sealed));
            self.letters.push((at_wall_ms, delivery));
        }
        Ok(())
    }

    /// A removal that this engine was asked for may not be in the book yet; one from before it was
    /// opened is.
    fn copy_tombstones(&mut self, database: &dyn Database, cursor: &Cursor) -> Result<()> {
        for id in &cursor.removed {
            let key = keys::of_subscription(keys::TOMBSTONE, *id);
            if let Some(sealed) = database.get(&key).map_err(failed)? {
                self.operations.push(Operation::Put(key, sealed));
            }
        }
        Ok(())
    }

    fn copy_retries(
        &mut self,
        database: &dyn Database,
        generation: u64,
        cursor: &Cursor,
    ) -> Result<()> {
        let inside = cursor.retrying.iter().filter(|(_, holder)| **holder == generation);
        for (delivery, _) in inside {
            let key = keys::of_delivery(keys::RETRY, *delivery);
            if let Some(sealed) = database.get(&key).map_err(failed)? {
                self.operations.push(Operation::Put(key, sealed));
                self.retries.push(*delivery);
            }
        }
        Ok(())
    }

    /// The histories of deliveries that are owed and of dead letters, but for slots that were written
    /// again since.
    fn copy_attempts(
        &mut self,
        database: &dyn Database,
        generation: u64,
        cursor: &Cursor,
    ) -> Result<()> {
        let inside = cursor.histories.lock().inside(generation);
        for (delivery, slot) in inside {
            let key = keys::of_attempt(delivery, slot);
            if let Some(sealed) = database.get(&key).map_err(failed)? {
                self.operations.push(Operation::Put(key, sealed));
                self.attempts.push((delivery, slot));
            }
        }
        Ok(())
    }

    fn copy_health(
        &mut self,
        database: &dyn Database,
        generation: u64,
        cursor: &Cursor,
    ) -> Result<()> {
        for (id, _) in cursor.health.iter().filter(|(_, holder)| **holder == generation) {
            let key = keys::of_subscription(keys::HEALTH, *id);
            if let Some(sealed) = database.get(&key).map_err(failed)? {
                self.operations.push(Operation::Put(key, sealed));
                self.health.push(*id);
            }
        }
        Ok(())
    }

    /// Each event gets a head page of its own, so that it is found by its exact key.
    fn copy_events(
        &mut self,
        database: &dyn Database,
        catalogue: &Catalogue,
        mut targets: HashMap<u64, RoaringBitmap>,
        counts: &HashMap<u64, u64>,
        cursor: &mut Cursor,
    ) -> Result<()> {
        let mut sequences: Vec<u64> = targets.keys().copied().collect();
        sequences.sort_unstable();
        let mut stream = Stream::new(cursor.next_page);
        let mut packer = Packer::default();
        for sequence in sequences {
            let head = heads::find(database, catalogue, sequence)?;
            let payload = page::read(database, head.payload)?;
            let targets = Arc::new(targets.remove(&sequence).unwrap_or_default());
            let head = Head { targets, payload: stream.append(&payload), ..head };
            packer.add(&head, &mut stream)?;
            packer.end_page();
            self.moved.push((sequence, counts.get(&sequence).copied().unwrap_or(0)));
        }
        let (pages, next_page) = stream.into_pages();
        cursor.next_page = next_page;
        let head_pages = packer.into_pages(cursor.next_record)?;
        cursor.next_record += 1;
        self.head_keys = head_pages.iter().map(|(key, _)| key.clone()).collect();
        let puts = pages.into_iter().chain(head_pages);
        self.operations.extend(puts.map(|(key, value)| Operation::Put(key, value)));
        Ok(())
    }
}

/// The pages of dedup keys that are still within their window, out of a generation that is about to
/// go, ready for the database of such keys.
pub(super) fn surviving_keys(
    database: &dyn Database,
    cursor: &mut Cursor,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut by_bucket = BTreeMap::new();
    reading::dedup_pages(database, &mut by_bucket)?;
    let mut pages = Vec::new();
    for (bucket, mut entries) in by_bucket {
        entries.retain(|(key, sequence)| cursor.dedup.sequence_of(*key) == Some(*sequence));
        let new = dedup::pages(bucket, cursor.next_record, &entries);
        cursor.next_record += new.len() as u64;
        pages.extend(new);
    }
    debug_assert!(pages.iter().all(|(key, _)| key.starts_with(keys::DEDUP)));
    Ok(pages)
}

fn failed(failure: crate::store::Failure) -> Error {
    Error::store("copying out of an old generation", failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(owed: u64, letters: u64, expected: Verdict) {
        let generation = Generation {
            number: 1,
            first_sequence: 1,
            bytes: 100_000,
            events: 100,
            owed,
            pages: 9,
        };
        let found = verdict(&generation, letters, 0);
        assert_eq!(found, expected, "{owed} owed, {letters} letters");
    }

    #[test]
    fn a_generation_goes_when_at_most_a_quarter_of_it_is_alive() {
        check(0, 0, Verdict::Clear);
        check(25, 0, Verdict::Clear);
        check(20, 5, Verdict::Clear);
        check(26, 0, Verdict::Keep);
        check(20, 6, Verdict::Keep);
        check(u64::MAX, u64::MAX, Verdict::Keep);
    }

    #[test]
    fn an_empty_generation_goes() {
        let generation =
            Generation { number: 1, first_sequence: 1, bytes: 0, events: 0, owed: 0, pages: 0 };
        assert_eq!(verdict(&generation, 0, 0), Verdict::Clear);
    }

    #[test]
    fn a_generation_full_of_histories_that_count_stays_and_is_not_copied_on_for_ever() {
        let bytes = 100_000;
        let generation =
            Generation { number: 1, first_sequence: 1, bytes, events: 0, owed: 0, pages: 0 };
        assert_eq!(verdict(&generation, 0, 25_000), Verdict::Clear);
        assert_eq!(verdict(&generation, 0, 25_001), Verdict::Keep);
        assert_eq!(verdict(&generation, 0, u64::MAX), Verdict::Keep);
    }
}
