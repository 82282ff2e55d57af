//! Compaction: begins generations, copies what is alive out of the oldest one, and removes it.
//!
//! All of this runs on the committer's thread. A generation is removed only after everything alive in it was
//! written to a newer one and synced (I3). Counters decide when compaction pays, never what is copied.

mod copies;

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::attempt::{DeliveryId, Record};
use crate::clock::Clock;
use crate::error::Result;
use crate::event::Catalogue;
use crate::store::Database;
use crate::subscription::SubscriptionId;

use self::copies::ForwardCopies;
use super::batch::CommandQueue;
use super::command::CommitterCommand;
use super::commit_event::{CommitEvent, CommitListener};
use super::dedup::database::DedupDatabase;
use super::generations::{Generation, Generations};
use super::group::CommitGroup;
use super::writer::{FailedWrite, GroupWriter};

/// A generation is compacted when at most this share of it is alive: a quarter, so that copies stay a third of
/// what is written for events.
const ALIVE_SHARE: u64 = 4;

/// A drained newest generation below this share of its bound is not worth beginning the next one.
const WORTH_SHARE: u64 = 6;

/// How long a sealed generation stays open without being read, at least; at most twice that. Opening it again
/// takes milliseconds, and while it is open sled keeps what was read from it in memory.
const UNREAD_MS_MAX: u64 = 5_000;

/// Asks the engine which of these sequences it still owes, by subscription.
pub(crate) type OwedQuery =
    Box<dyn Fn(&RoaringTreemap) -> HashMap<SubscriptionId, RoaringTreemap> + Send>;

pub(super) struct Compactor {
    catalogue: Catalogue,
    clock: Arc<dyn Clock>,
    bounds: CompactionBounds,
    owed_query: OwedQuery,
    /// To mark a point in the committer's queue.
    queue: CommandQueue,
    pub(super) dedup_database: DedupDatabase,
    /// The generation being cleared, whose mark is in the queue.
    clearing: Option<GenerationClearing>,
    /// A cleared generation that could not be removed yet because it was being read.
    removable: Option<u64>,
    /// A generation that cannot be copied. It stays until the next open.
    uncopyable: Option<u64>,
    /// When unread generations were last closed.
    closed_at_ms: u64,
    /// Whether clearing waits for the next write or for an idle second, because dedup keys could not be moved.
    is_paused: bool,
}

/// A generation that is about to be cleared.
struct GenerationClearing {
    generation: u64,
    /// What was owed of it when its mark was sent or was replayed since, without what ended durably.
    owed: HashMap<SubscriptionId, RoaringTreemap>,
}

impl GenerationClearing {
    /// A replayed delivery may have ended by the time the copies are made, before that end is on the device.
    fn note_revived(&mut self, revived: &[DeliveryId], generations: &Generations) {
        let held = |sequence| generations.generation_of(sequence) == Some(self.generation);
        for delivery in revived.iter().filter(|delivery| held(delivery.sequence)) {
            self.owed.entry(delivery.subscription).or_default().insert(delivery.sequence);
        }
    }

    fn note_ends(&mut self, records: &[Record]) {
        for delivery in records.iter().filter_map(Record::ended) {
            if let Some(owed) = self.owed.get_mut(&delivery.subscription) {
                owed.remove(delivery.sequence);
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct CompactionBounds {
    /// The size at which the next generation begins.
    pub(super) generation_bytes: u64,
    /// When the outbox has as many events or bytes, the newest generation is sealed early so that it can be cleared.
    pub(super) events_max: u64,
    pub(super) bytes_max: u64,
}

impl Compactor {
    pub(super) fn new(
        catalogue: Catalogue,
        clock: Arc<dyn Clock>,
        bounds: CompactionBounds,
        owed_query: OwedQuery,
        queue: CommandQueue,
        dedup_database: DedupDatabase,
    ) -> Compactor {
        Compactor {
            closed_at_ms: clock.monotonic_ms(),
            catalogue,
            clock,
            bounds,
            owed_query,
            queue,
            dedup_database,
            clearing: None,
            removable: None,
            uncopyable: None,
            is_paused: false,
        }
    }

    /// Begins the next generation if the newest is full, and starts to clear the oldest if that pays.
    pub(super) fn maintain(&mut self, writer: &mut GroupWriter) -> Result<()> {
        if self.should_begin(writer) {
            writer.begin_generation()?;
        }
        self.dedup_database.maintain(&writer.generations, &mut writer.cursor);
        self.close_unread(writer);
        if writer.generations.is_removal_held() {
            return Ok(());
        }
        if let Some(generation) = self.removable.take() {
            self.remove(writer, generation);
        }
        if self.clearing.is_some() || self.removable.is_some() || self.is_paused {
            return Ok(());
        }
        if let Some(oldest) = writer.generations.oldest_sealed()
            && self.uncopyable != Some(oldest.number)
            // The oldest blocks the newer ones, so they are also judged together.
            && (should_clear(writer, &oldest)
                || should_clear(writer, &writer.generations.sealed_total()))
        {
            self.start(writer, oldest.number);
        }
        Ok(())
    }

    /// Whether the newest generation is full, or is mostly dead while the outbox is full.
    fn should_begin(&self, writer: &GroupWriter) -> bool {
        let Some(newest) = writer.generations.newest() else { return false };
        let (bounds, held) = (self.bounds, writer.generations.totals());
        let is_full = held.events >= bounds.events_max || held.bytes >= bounds.bytes_max;
        newest.bytes >= bounds.generation_bytes
            || (is_full && self.is_worth_sealing(&newest) && should_clear(writer, &newest))
    }

    fn is_worth_sealing(&self, newest: &Generation) -> bool {
        newest.bytes >= self.bounds.generation_bytes / WORTH_SHARE
    }

    /// Asks what is owed of a generation and marks the queue. The copies are made when everything sent before the
    /// mark is committed, because a delivery that just ended is not in the answer.
    fn start(&mut self, writer: &GroupWriter, generation: u64) {
        let owed = (self.owed_query)(&sequences_in(writer, generation));
        self.clearing = Some(GenerationClearing { generation, owed });
        self.queue.send(CommitterCommand::Clear(generation));
    }

    /// Takes note of a durable group: ends and replays change what has to be copied.
    pub(super) fn note_group(
        &mut self,
        writer: &GroupWriter,
        records: &[Record],
        revived: &[DeliveryId],
        synced: bool,
    ) {
        if let Some(clearing) = &mut self.clearing {
            clearing.note_ends(records);
            clearing.note_revived(revived, &writer.generations);
        }
        self.is_paused &= !synced;
    }

    /// Clears the generation whose mark was committed, if it is among `marks`: copies what is alive in it and
    /// removes it. What ended since the mark and is not committed is copied as owed; its end is written to the
    /// generation that holds the copy.
    pub(super) fn finish(
        &mut self,
        writer: &mut GroupWriter,
        marks: &[u64],
        listener: &mut CommitListener,
    ) -> std::result::Result<(), Box<FailedWrite>> {
        let marked = self.clearing.take_if(|clearing| marks.contains(&clearing.generation));
        let Some(GenerationClearing { generation, mut owed }) = marked else { return Ok(()) };
        if writer.generations.is_removal_held() {
            return Ok(());
        }
        for (id, now) in (self.owed_query)(&sequences_in(writer, generation)) {
            *owed.entry(id).or_default() |= now;
        }
        let cursor = &mut writer.cursor;
        owed.retain(|id, _| !cursor.removed.contains(id));
        cursor.retrying.retain(|delivery, _| !cursor.removed.contains(&delivery.subscription));
        forget_removed_attempts(writer);
        let copies = self.move_keys(writer, generation).and_then(|moved| {
            let Some((database, lost_key_pages)) = moved else { return Ok(None) };
            let copies = copies::copy(writer, &self.catalogue, &*database, generation, &owed)?;
            Ok(copies.map(|copies| copies.with_lost_key_pages(lost_key_pages)))
        });
        let mut copies = match copies {
            Ok(Some(copies)) => copies,
            Ok(None) => {
                // Without the pause its own mark would make it try again at once and for ever.
                self.is_paused = true;
                return Ok(());
            }
            Err(error) => {
                // It stays as it is until the next open.
                self.uncopyable = Some(generation);
                listener(CommitEvent::Faulty(error.to_string()));
                return Ok(());
            }
        };
        let ForwardCopies { operations, head_keys, .. } = &mut copies;
        let (operations, head_keys) = (std::mem::take(operations), std::mem::take(head_keys));
        let mut group = CommitGroup { operations, head_keys, ..CommitGroup::default() };
        if let Err(error) = writer.write(&mut group) {
            return Err(Box::new(FailedWrite { group, error }));
        }
        copies.committed(writer, generation);
        if let Some(lost) = copies.lost() {
            let why =
                format!("generation {generation} had damaged records, which are lost: {lost}");
            listener(CommitEvent::Faulty(why));
        }
        self.remove(writer, generation);
        Ok(())
    }

    /// Moves the dedup keys of a generation that are within their window to the database of such keys. Returns the
    /// database of the generation and how many pages of keys are lost; `None` if it is busy, or the other database
    /// accepts no writes now.
    fn move_keys(
        &mut self,
        writer: &mut GroupWriter,
        generation: u64,
    ) -> Result<Option<(Arc<dyn Database>, u64)>> {
        let Some(database) = writer.generations.try_database(generation)? else { return Ok(None) };
        let (pages, lost) = copies::current_key_pages(&*database, &mut writer.cursor)?;
        let moved = self.dedup_database.put(&writer.generations, pages);
        Ok(moved.then_some((database, lost)))
    }

    /// Removes a generation, now or, if that fails, later. Nothing in it counts any more.
    fn remove(&mut self, writer: &GroupWriter, generation: u64) {
        let removed = writer.generations.remove(generation).unwrap_or(false);
        self.removable = (!removed).then_some(generation);
    }

    /// Whether there will be something to clean up even if no command comes.
    pub(super) fn has_leftovers(&self, writer: &GroupWriter) -> bool {
        self.removable.is_some()
            || self.is_paused
            || writer.generations.has_open_sealed()
            || self.dedup_database.has_work(&writer.cursor.dedup)
            || self.is_newest_drained(writer)
    }

    /// Releases what a drained outbox still holds. Called when the queue was empty for a while.
    pub(super) fn clean_up(&mut self, writer: &mut GroupWriter) -> Result<()> {
        if self.is_newest_drained(writer) {
            writer.begin_generation()?;
        }
        self.is_paused = false;
        self.maintain(writer)
    }

    /// Gives back the memory of generations that are not read any more.
    fn close_unread(&mut self, writer: &GroupWriter) {
        let now_ms = self.clock.monotonic_ms();
        if now_ms.saturating_sub(self.closed_at_ms) >= UNREAD_MS_MAX {
            self.closed_at_ms = now_ms;
            writer.generations.close_unread();
        }
    }

    fn is_newest_drained(&self, writer: &GroupWriter) -> bool {
        writer.generations.newest().is_some_and(|newest| {
            newest.owed == 0 && self.is_worth_sealing(&newest) && should_clear(writer, &newest)
        })
    }
}

fn sequences_in(writer: &GroupWriter, generation: u64) -> RoaringTreemap {
    writer.generations.sequences_in(generation, writer.cursor.next_sequence)
}

/// The deliveries of a removed subscription ended with it; its dead letters are still shown.
fn forget_removed_attempts(writer: &GroupWriter) {
    let (removed, letters) = (&writer.cursor.removed, writer.cursor.letters.lock());
    let keeps = |delivery: DeliveryId| {
        !removed.contains(&delivery.subscription) || letters.holder_of(delivery).is_some()
    };
    writer.cursor.attempts.lock().retain(keeps);
}

/// Whether clearing a generation pays, with the dead letters and failed attempts in it. Number 0 stands for all
/// sealed generations together.
fn should_clear(writer: &GroupWriter, generation: &Generation) -> bool {
    let (letters, attempts) = (writer.cursor.letters.lock(), writer.cursor.attempts.lock());
    let (letters, attempt_bytes) = match generation.number {
        0 => (letters.len(), attempts.bytes()),
        number => (letters.count_in(number), attempts.bytes_in(number)),
    };
    is_worth_clearing(generation, letters, attempt_bytes)
}

/// Whether clearing a generation pays. `letters` is the number of dead letters in it, and `attempt_bytes` the size
/// of the failed attempts that would be copied: they may be larger than the events.
fn is_worth_clearing(generation: &Generation, letters: u64, attempt_bytes: u64) -> bool {
    // A delivery keeps its whole event alive; it only helps when several share one.
    let alive = generation.owed.saturating_add(letters).min(generation.events);
    let mean_bytes = generation.bytes / generation.events.max(1);
    let alive_bytes = alive.saturating_mul(mean_bytes).saturating_add(attempt_bytes);
    alive_bytes.saturating_mul(ALIVE_SHARE) <= generation.bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(owed: u64, letters: u64, expected: bool) {
        let (bytes, events) = (100_000, 100);
        let generation = Generation { number: 1, bytes, events, owed, ..Generation::default() };
        let found = is_worth_clearing(&generation, letters, 0);
        assert_eq!(found, expected, "{owed} owed, {letters} letters");
    }

    #[test]
    fn a_generation_is_cleared_when_at_most_a_quarter_is_alive() {
        check(0, 0, true);
        check(25, 0, true);
        check(20, 5, true);
        check(26, 0, false);
        check(20, 6, false);
        check(u64::MAX, u64::MAX, false);
        assert!(is_worth_clearing(&Generation::default(), 0, 0), "an empty generation");
    }

    #[test]
    fn a_generation_of_failed_attempts_is_not_copied_repeatedly() {
        let generation = Generation { number: 1, bytes: 100_000, ..Generation::default() };
        assert!(is_worth_clearing(&generation, 0, 25_000));
        assert!(!is_worth_clearing(&generation, 0, 25_001));
        assert!(!is_worth_clearing(&generation, 0, u64::MAX));
    }
}
