//! What is copied out of a generation before it is removed.
//!
//! Everything in it that is owed, dead or remembered is copied. Generations are removed oldest first, because what
//! became of a delivery is recorded in its event's generation or a newer one. So a dead letter moves with its
//! event, even out of a newer generation than the event's.

use std::collections::HashMap;

use roaring::{RoaringBitmap, RoaringTreemap};

use crate::attempt::DeliveryId;
use crate::dead_letter::StoredDeadLetter;
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::outbox::codec::dedup_page::{self, BucketEntries};
use crate::outbox::codec::heads::{self, HeadPacker, PackedTargets};
use crate::outbox::codec::payload::{self, PayloadLocation, PayloadWriter};
use crate::outbox::codec::{decoded, keys, tombstones};
use crate::outbox::cursor::Cursor;
use crate::outbox::generations::Generations;
use crate::outbox::group_builder::keys_of;
use crate::outbox::writer::GroupWriter;
use crate::store::{Database, KeyValue, Operation, StoreFailure};
use crate::subscription::SubscriptionId;

/// The copies out of one generation.
#[derive(Default)]
pub(super) struct ForwardCopies {
    pub(super) operations: Vec<Operation>,
    pub(super) head_keys: Vec<Vec<u8>>,
    /// Events whose payload cannot be read. They are still owed: reading them fails, as before.
    pub(super) lost_payloads: u64,
    /// Each copied event and how many deliveries it owes.
    events: Vec<(u64, u32)>,
    letters: Vec<(u64, DeliveryId)>,
    retries: Vec<DeliveryId>,
    attempts: Vec<(DeliveryId, u8)>,
    health: Vec<SubscriptionId>,
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
    copies.copy_retries(database, generation, cursor)?;
    copies.copy_attempts(database, generation, cursor)?;
    copies.copy_health(database, generation, cursor)?;
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
                copies.lost_payloads += 1;
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
    /// Updates the indexes after the copies out of a generation were written and synced.
    pub(super) fn committed(&self, writer: &mut GroupWriter, generation: u64) {
        let GroupWriter { generations, cursor } = writer;
        let tombstones = cursor.tombstones.remove(&generation).unwrap_or_default();
        cursor.tombstones.entry(cursor.generation).or_default().extend(tombstones);
        for (sequence, owed) in &self.events {
            generations.moved(*sequence, *owed, cursor.generation);
        }
        for (at_wall_ms, delivery) in &self.letters {
            cursor.letters.lock().keep(*at_wall_ms, *delivery, cursor.generation);
        }
        for delivery in &self.retries {
            if let Some(holder) = cursor.retrying.get_mut(delivery) {
                *holder = cursor.generation;
            }
        }
        let mut attempts = cursor.attempts.lock();
        for (delivery, slot) in &self.attempts {
            attempts.moved(*delivery, *slot, cursor.generation);
        }
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
            let Some(sealed) = sealed.map_err(failed)? else { continue };
            // Decoded, so that damage is not copied.
            let what = || format!("dead letter of event {}", delivery.sequence);
            let _: (u64, StoredDeadLetter) = decoded(&sealed, what)?;
            self.operations.push(Operation::Put(key, sealed));
            self.letters.push((at_wall_ms, delivery));
        }
        Ok(true)
    }

    /// A removal that this engine was asked for may not be in the subscription store yet; an older one is.
    fn copy_tombstones(&mut self, generation: u64, cursor: &Cursor) {
        let removed = cursor.tombstones.get(&generation).map_or(&[][..], Vec::as_slice);
        let pages = tombstones::pages(removed, 0);
        self.operations.extend(pages.map(|(key, page)| Operation::Put(key, page)));
    }

    fn copy_retries(
        &mut self,
        database: &dyn Database,
        generation: u64,
        cursor: &Cursor,
    ) -> Result<()> {
        let inside = cursor.retrying.iter().filter(|(_, holder)| **holder == generation);
        for (delivery, _) in inside {
            if self.copy_record(database, keys::of_delivery(keys::RETRY, *delivery))? {
                self.retries.push(*delivery);
            }
        }
        Ok(())
    }

    /// Failed attempts whose newest record is in this generation.
    fn copy_attempts(
        &mut self,
        database: &dyn Database,
        generation: u64,
        cursor: &Cursor,
    ) -> Result<()> {
        let inside = cursor.attempts.lock().inside(generation);
        for (delivery, slot) in inside {
            if self.copy_record(database, keys::of_attempt(delivery, slot))? {
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
            if self.copy_record(database, keys::of_subscription(keys::HEALTH, *id))? {
                self.health.push(*id);
            }
        }
        Ok(())
    }

    /// Copies the record under a key. Returns whether there is one.
    fn copy_record(&mut self, database: &dyn Database, key: Vec<u8>) -> Result<bool> {
        let Some(sealed) = database.get(&key).map_err(failed)? else { return Ok(false) };
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

/// Pages of the dedup keys of a generation that are within their window, for the database of such keys.
pub(super) fn current_key_pages(
    database: &dyn Database,
    cursor: &mut Cursor,
) -> Result<Vec<KeyValue>> {
    let mut by_bucket = BucketEntries::new();
    dedup_page::read_all(database, &mut by_bucket, |_, _| true)?;
    let mut pages = Vec::new();
    for (bucket, mut entries) in by_bucket {
        let bucket = cursor.dedup.counted_bucket(bucket);
        entries.retain(|(key, sequence)| cursor.dedup.sequence_of(*key) == Some(*sequence));
        let new = dedup_page::pages(bucket, cursor.next_record, &entries);
        cursor.next_record += new.len() as u64;
        pages.extend(new);
    }
    Ok(pages)
}

fn failed(failure: StoreFailure) -> Error {
    Error::store("copying out of an old generation", failure)
}
