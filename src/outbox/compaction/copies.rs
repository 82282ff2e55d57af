//! What is copied out of a generation before it is removed.
//!
//! Everything in it that is owed, dead or remembered is copied. Generations are removed oldest first, because what
//! became of a delivery is recorded in its event's generation or a newer one. So a dead letter moves with its
//! event, even out of a newer generation than the event's.

use std::collections::HashMap;

use roaring::{RoaringBitmap, RoaringTreemap};

use crate::attempt::DeliveryId;
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::outbox::codec::dedup_page::{self, BucketEntries};
use crate::outbox::codec::heads::{self, HeadPacker, PackedTargets};
use crate::outbox::codec::payload::{self, PayloadLocation, PayloadWriter};
use crate::outbox::codec::{self, keys, tombstones};
use crate::outbox::cursor::Cursor;
use crate::outbox::generations::Generations;
use crate::outbox::group_builder::keys_of;
use crate::outbox::writer::GroupWriter;
use crate::store::{Database, KeyValue, Operation, StoreFailure, record};
use crate::subscription::SubscriptionId;

/// The copies out of one generation.
#[derive(Default)]
pub(super) struct ForwardCopies {
    pub(super) operations: Vec<Operation>,
    pub(super) head_keys: Vec<Vec<u8>>,
    lost: LostRecords,
    /// Each copied event and how many deliveries it owes.
    events: Vec<(u64, u32)>,
    letters: Vec<(u64, DeliveryId)>,
    retries: Vec<DeliveryId>,
    attempts: Vec<(DeliveryId, u8)>,
    health: Vec<SubscriptionId>,
}

/// What cannot be read and is left out, so that damage is not copied and blocks nothing. An event without its payload
/// is still owed: reading it fails, as before.
#[derive(Debug, Default)]
struct LostRecords {
    payloads: u64,
    key_pages: u64,
    /// Retry states, failed attempts and healths of lanes.
    records: u64,
    letters: Vec<(u64, DeliveryId)>,
    attempts: Vec<(DeliveryId, u8)>,
}

/// Builds the copies of what is alive in `generation`, as one unit: the events that are `owed` and those of dead
/// letters. `None` while another thread opens a generation that is needed.
pub(super) fn copy(
    writer: &mut GroupWriter,
    catalogue: &Catalogue,
    database: &dyn Database,
    generation: u64,
    owed: &HashMap<SubscriptionId, RoaringTreemap>,
) -> Result<Option<ForwardCopies>> {
    let GroupWriter { generations, cursor } = writer;
    let mut targets: HashMap<u64, RoaringBitmap> = HashMap::new();
    let mut owed_counts: HashMap<u64, u32> = HashMap::new();
    for (id, sequences) in owed {
        for sequence in sequences {
            targets.entry(sequence).or_default().insert(id.0);
            *owed_counts.entry(sequence).or_default() += 1;
        }
    }
    let mut copies = ForwardCopies::default();
    if !copies.copy_letters(database, generations, generation, cursor)? {
        return Ok(None);
    }
    for (_, delivery) in &copies.letters {
        targets.entry(delivery.sequence).or_default().insert(delivery.subscription.0);
    }
    copies.copy_tombstones(generation, cursor);
    copies.copy_records(database, generation, cursor)?;
    let mut sequences: Vec<u64> = targets.keys().copied().collect();
    sequences.sort_unstable();
    // A page number that is never written stands for all payloads that are lost.
    let lost_page = cursor.next_page;
    let (mut payloads, mut packer) = (PayloadWriter::new(lost_page + 1), HeadPacker::default());
    for sequence in sequences {
        let head = heads::find(database, catalogue, generations.id_of(sequence))?;
        let location = match payload::read(database, head.payload) {
            Ok(payload) => payloads.append(&payload),
            Err(error) if error.is_damage() => {
                copies.lost.payloads += 1;
                PayloadLocation { page: lost_page, ..head.payload }
            }
            Err(error) => return Err(error),
        };
        let mut targets = PackedTargets::new(&targets.remove(&sequence).unwrap_or_default())?;
        packer.add(&head.event, &mut targets, location, &mut payloads)?;
        // Each event gets its own head page, so that it is found by its exact key.
        packer.end_page();
        copies.events.push((sequence, owed_counts.get(&sequence).copied().unwrap_or(0)));
    }
    copies.add_pages(payloads, packer, cursor)?;
    Ok(Some(copies))
}

impl ForwardCopies {
    /// With pages of dedup keys that could not be read.
    pub(super) fn with_lost_key_pages(mut self, count: u64) -> ForwardCopies {
        self.lost.key_pages += count;
        self
    }

    /// What was lost, in words.
    pub(super) fn lost(&self) -> Option<String> {
        let LostRecords { payloads, key_pages, records, letters, .. } = &self.lost;
        let counts = [
            (*payloads, "payloads"),
            (letters.len() as u64, "dead letters"),
            (*records, "records of deliveries and lanes"),
            (*key_pages, "pages of dedup keys"),
        ];
        let lost = counts.iter().filter(|(count, _)| *count > 0);
        let lost: Vec<_> = lost.map(|(count, what)| format!("{what}: {count}")).collect();
        (!lost.is_empty()).then(|| lost.join(", "))
    }

    /// Updates the indexes after the copies out of a generation were written and synced.
    pub(super) fn committed(&self, writer: &mut GroupWriter, generation: u64) {
        let GroupWriter { generations, cursor } = writer;
        let tombstones = cursor.tombstones.remove(&generation).unwrap_or_default();
        cursor.tombstones.entry(cursor.generation).or_default().extend(tombstones);
        generations.update(|index| {
            for (sequence, owed) in &self.events {
                index.moved(*sequence, *owed, cursor.generation);
            }
        });
        let mut letters = cursor.letters.lock();
        for (at_wall_ms, delivery) in &self.letters {
            letters.keep(*at_wall_ms, *delivery, cursor.generation);
        }
        for lost in &self.lost.letters {
            letters.drop_letter(*lost);
        }
        drop(letters);
        for delivery in &self.retries {
            if let Some(holder) = cursor.retrying.get_mut(delivery) {
                *holder = cursor.generation;
            }
        }
        let mut attempts = cursor.attempts.lock();
        for (delivery, slot) in &self.attempts {
            attempts.moved(*delivery, *slot, cursor.generation);
        }
        self.lost.attempts.iter().for_each(|(delivery, slot)| attempts.lose(*delivery, *slot));
        drop(attempts);
        cursor.health.extend(self.health.iter().map(|id| (*id, cursor.generation)));
    }

    /// Copies the dead letters of the generation's events, wherever they are. Returns false while another thread
    /// opens the generation of one.
    fn copy_letters(
        &mut self,
        database: &dyn Database,
        generations: &Generations,
        generation: u64,
        cursor: &Cursor,
    ) -> Result<bool> {
        let inside = generations.sequences_in(generation, cursor.next_sequence);
        for (at_wall_ms, delivery, holder) in cursor.letters.lock().of_events(&inside) {
            let key = keys::of_delivery(keys::DEAD, delivery);
            let sealed = match holder == generation {
                true => database.get(&key),
                false => match generations.try_database(holder)? {
                    Some(database) => database.get(&key),
                    None => return Ok(false),
                },
            };
            match sealed.map_err(failed)?.filter(|sealed| is_sound(sealed)) {
                Some(sealed) => {
                    self.operations.push(Operation::Put(key, sealed));
                    self.letters.push((at_wall_ms, delivery));
                }
                None => self.lost.letters.push((at_wall_ms, delivery)),
            }
        }
        Ok(true)
    }

    /// A removal that this engine was asked for may not be in the subscription store yet; an older one is.
    fn copy_tombstones(&mut self, generation: u64, cursor: &mut Cursor) {
        let stored = std::mem::take(&mut *cursor.stored_removals.lock());
        if !stored.is_empty() {
            cursor.tombstones.values_mut().for_each(|ids| ids.retain(|id| !stored.contains(id)));
        }
        let removed = cursor.tombstones.get(&generation).map_or(&[][..], Vec::as_slice);
        let pages = tombstones::pages(removed, 0);
        self.operations.extend(pages.map(|(key, page)| Operation::Put(key, page)));
    }

    /// Copies the newest retry states, failed attempts and healths of lanes that are in this generation.
    fn copy_records(
        &mut self,
        database: &dyn Database,
        generation: u64,
        cursor: &Cursor,
    ) -> Result<()> {
        for (delivery, _) in cursor.retrying.iter().filter(|(_, holder)| **holder == generation) {
            if self.copy_record(database, keys::of_delivery(keys::RETRY, *delivery))? {
                self.retries.push(*delivery);
            }
        }
        let attempts = cursor.attempts.lock().inside(generation);
        for (delivery, slot) in attempts {
            match self.copy_record(database, keys::of_attempt(delivery, slot))? {
                true => self.attempts.push((delivery, slot)),
                false => self.lost.attempts.push((delivery, slot)),
            }
        }
        for (id, _) in cursor.health.iter().filter(|(_, holder)| **holder == generation) {
            if self.copy_record(database, keys::of_subscription(keys::HEALTH, *id))? {
                self.health.push(*id);
            }
        }
        Ok(())
    }

    /// Copies the record under a key. Returns false if it is missing or damaged.
    fn copy_record(&mut self, database: &dyn Database, key: Vec<u8>) -> Result<bool> {
        let Some(sealed) = database.get(&key).map_err(failed)? else { return Ok(false) };
        if !is_sound(&sealed) {
            self.lost.records += 1;
            return Ok(false);
        }
        self.operations.push(Operation::Put(key, sealed));
        Ok(true)
    }

    /// Adds the pages of the copied events, after all other records.
    fn add_pages(
        &mut self,
        payloads: PayloadWriter,
        packer: HeadPacker,
        cursor: &mut Cursor,
    ) -> Result<()> {
        let (pages, next_page) = payloads.into_pages();
        cursor.next_page = next_page;
        let head_pages = packer.into_pages(cursor.next_record)?;
        cursor.next_record += 1;
        self.head_keys = keys_of(&head_pages);
        let puts = pages.into_iter().chain(head_pages);
        self.operations.extend(puts.map(|(key, value)| Operation::Put(key, value)));
        Ok(())
    }
}

/// Whether the checksum of a record is right.
fn is_sound(sealed: &[u8]) -> bool {
    record::unseal(sealed).is_ok()
}

/// Pages of the dedup keys of a generation that are within their window, for the database of such keys, and how
/// many pages could not be read.
pub(super) fn current_key_pages(
    database: &dyn Database,
    cursor: &mut Cursor,
) -> Result<(Vec<KeyValue>, u64)> {
    let (mut by_bucket, mut lost) = (BucketEntries::new(), 0);
    codec::scan(database, keys::DEDUP, |key, page| {
        match (keys::bucket_of(key), dedup_page::read(page)) {
            (Some((bucket, _)), Ok(entries)) => {
                by_bucket.entry(bucket).or_default().extend(entries);
            }
            _ => lost += 1,
        }
        Ok(())
    })?;
    let mut pages = Vec::new();
    for (bucket, mut entries) in by_bucket {
        let bucket = cursor.dedup.counted_bucket(bucket);
        entries.retain(|(key, sequence)| cursor.dedup.sequence_of(*key) == Some(*sequence));
        let new = dedup_page::pages(bucket, cursor.next_record, &entries);
        cursor.next_record += new.len() as u64;
        pages.extend(new);
    }
    Ok((pages, lost))
}

fn failed(failure: StoreFailure) -> Error {
    Error::store("copying out of an old generation", failure)
}
