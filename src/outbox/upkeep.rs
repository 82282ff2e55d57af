//! Decides when a generation is begun and when the oldest goes, step by step.
//!
//! Leaves to others: whether a generation may go and what of it is copied (`reclaim`), and writing
//! groups (`committer`), on whose thread all of this runs. Invariant (I3): a generation is removed
//! only after what was alive in it was written and synced elsewhere, and never because of a counter.

use std::collections::HashMap;
use std::ops::ControlFlow;

use roaring::RoaringTreemap;

use crate::attempt::{DeliveryId, Record};
use crate::error::{Error, Result};
use crate::store::{Batch, Database, Operation, Visit};
use crate::subscription::SubscriptionId;

use super::committer::{Command, Committed, Committer, write_all};
use super::group::{self, Group};
use super::reclaim::{self, Copies, Verdict};
use super::row::{Generation, Row};
use super::taken::Taken;
use super::{keys, recovery};

/// A drained generation smaller than this share of its bound is not worth another one.
const WORTH_SHARE: u64 = 6;

/// How long a sealed generation stays open at least that nobody reads from, and at most twice that:
/// opening it again takes milliseconds, and what was read from it is in memory while it is open.
const UNREAD_MS_MAX: u64 = 5_000;

/// How many pages of old dedup keys go in one batch: few enough that readers do not wait long behind it.
const EXPIRED_AT_ONCE: usize = 64;

/// A generation that is about to go.
pub(super) struct Clearing {
    pub(super) generation: u64,
    /// What was owed of it when its mark was sent or was revived since, without what ended durably.
    owed: HashMap<SubscriptionId, RoaringTreemap>,
}

impl Clearing {
    /// A delivery that is owed again may have ended by the time the copies are made, and that end is
    /// not on the device then.
    pub(super) fn note_revived(&mut self, revived: &[DeliveryId], row: &Row) {
        let held = |sequence| row.generation_of(sequence) == Some(self.generation);
        for delivery in revived.iter().filter(|delivery| held(delivery.sequence)) {
            self.owed.entry(delivery.subscription).or_default().insert(delivery.sequence);
        }
    }

    pub(super) fn note_ends(&mut self, records: &[Record]) {
        for record in records {
            let delivery = match record {
                Record::Settle(delivery) | Record::SettleMain(delivery) => *delivery,
                Record::Dead(letter) => letter.delivery,
                Record::Retry(..) | Record::Revive(_) | Record::Tried(..) | Record::Health(..) => {
                    continue;
                }
            };
            if let Some(owed) = self.owed.get_mut(&delivery.subscription) {
                owed.remove(delivery.sequence);
            }
        }
    }
}

impl Committer {
    /// Begins the next generation when this one is full, and clears the oldest when it may go.
    pub(super) fn keep_house(&mut self) -> Result<()> {
        if self.row.newest().is_some_and(|newest| newest.bytes >= self.generation_bytes) {
            self.begin_generation()?;
        }
        self.drop_expired_keys();
        self.close_unread();
        if let Some(generation) = self.removable.take() {
            self.remove(generation);
        }
        if self.clearing.is_some() || self.removable.is_some() || self.rests {
            return Ok(());
        }
        let Some(oldest) = self.row.oldest_sealed() else { return Ok(()) };
        if self.uncopyable == Some(oldest.number) {
            return Ok(());
        }
        let verdict = match self.verdict(&oldest) {
            // The oldest stands in the way of the newer ones, so they are judged together.
            Verdict::Keep => self.verdict(&self.row.sealed_together()),
            Verdict::Clear => Verdict::Clear,
        };
        if verdict == Verdict::Clear {
            self.begin_clearing(oldest.number);
        }
        Ok(())
    }

    /// A generation that cannot be begun now is begun later; the full one takes more meanwhile.
    fn begin_generation(&mut self) -> Result<()> {
        let sealed = self.cursor.generation;
        if self.row.active().is_none() {
            return Ok(());
        }
        if self.row.begin(&mut self.cursor, sealed + 1)? {
            self.row.close_sealed(sealed);
        }
        Ok(())
    }

    /// Asks what is owed of a generation, and marks the queue: the copies are made when what was
    /// sent before is committed, because a delivery that has just ended is not in the answer.
    fn begin_clearing(&mut self, generation: u64) {
        let owed = (self.owing)(&self.sequences_in(generation));
        self.clearing = Some(Clearing { generation, owed });
        self.marker.send(Command::Clear(generation));
    }

    /// Copies what is alive out of a generation and removes it. Whatever ended since the mark and is
    /// not committed is copied as owed: its end is written to the generation that holds the copy.
    pub(super) fn finish_clearing(&mut self, clearing: Clearing) -> Result<()> {
        let Clearing { generation, mut owed } = clearing;
        for (id, now) in (self.owing)(&self.sequences_in(generation)) {
            *owed.entry(id).or_default() |= now;
        }
        let removed = &self.cursor.removed;
        owed.retain(|id, _| !removed.contains(id));
        self.cursor.retrying.retain(|delivery, _| !removed.contains(&delivery.subscription));
        self.forget_removed_histories();
        if !self.keep_keys_of(generation) {
            return Ok(());
        }
        let mut copies = match self.copies_of(generation, &owed) {
            Ok(copies) => copies,
            Err(error) => {
                self.leave_uncopied(generation, &error);
                return Ok(());
            }
        };
        let operations = std::mem::take(&mut copies.operations);
        let head_keys = std::mem::take(&mut copies.head_keys);
        let mut group = Group { operations, head_keys, ..Group::default() };
        if let Err(error) = self.write(&mut group) {
            return self.stall(group, Taken::default(), &error);
        }
        copies.done(&self.row, &mut self.cursor);
        self.remove(generation);
        Ok(())
    }

    /// The deliveries of a removed subscription ended with it; its dead letters are there to see.
    fn forget_removed_histories(&self) {
        let (removed, letters) = (&self.cursor.removed, self.cursor.letters.lock());
        let keeps = |delivery: DeliveryId| {
            !removed.contains(&delivery.subscription) || letters.holder_of(delivery).is_some()
        };
        self.cursor.histories.lock().retain(keeps);
    }

    fn sequences_in(&self, generation: u64) -> RoaringTreemap {
        self.row.sequences_in(generation, self.cursor.next_sequence)
    }

    fn copies_of(
        &mut self,
        generation: u64,
        owed: &HashMap<SubscriptionId, RoaringTreemap>,
    ) -> Result<Copies> {
        let database = self.row.database(generation)?;
        let row = &*self.row;
        reclaim::copies(&*database, &self.catalogue, row, generation, owed, &mut self.cursor)
    }

    /// Moves the dedup keys of a generation that are within their window to the database of such
    /// keys; false when that takes no writes now or the keys cannot be read.
    fn keep_keys_of(&mut self, generation: u64) -> bool {
        let database = self.row.database(generation);
        let keys = database.and_then(|d| reclaim::surviving_keys(&*d, &mut self.cursor));
        let keys = match keys {
            Ok(keys) => keys,
            Err(error) => {
                self.leave_uncopied(generation, &error);
                return false;
            }
        };
        let operations = keys.into_iter().map(|(key, value)| Operation::Put(key, value));
        let operations: Vec<_> = operations.collect();
        let moved = operations.is_empty()
            || self.with_dedup_database(|d| write_all(d, group::batches(operations, &[])));
        // Its own mark must not make it try again at once and for ever.
        self.rests = !moved;
        moved
    }

    /// A generation that cannot be read stays as it is until the next open.
    fn leave_uncopied(&mut self, generation: u64, error: &Error) {
        self.uncopyable = Some(generation);
        (self.sink)(Committed::Faulty(error.to_string()));
    }

    /// Works on the database of dedup keys, opened again where it failed before. Says whether it
    /// worked; what did not is tried again with the next group.
    fn with_dedup_database(&mut self, work: impl FnOnce(&dyn Database) -> Result<()>) -> bool {
        let open = || self.row.open_beside(recovery::DEDUP_DATABASE).ok();
        let Some(database) = self.dedup_database.take().or_else(open) else { return false };
        let worked = work(&*database).is_ok();
        self.dedup_database = worked.then_some(database);
        worked
    }

    /// A generation that cannot be removed now is removed later; nothing of it counts any more.
    fn remove(&mut self, generation: u64) {
        let removed = self.row.remove(generation).unwrap_or(false);
        self.removable = (!removed).then_some(generation);
    }

    /// Whether time alone will let something be tidied.
    pub(super) fn has_leftovers(&self) -> bool {
        self.removable.is_some()
            || self.rests
            || self.row.has_open_sealed()
            || self.cursor.dedup.expired_bucket().is_some()
            || self.row.newest().is_some_and(|newest| self.is_drained(&newest))
    }

    /// Gives back the memory of generations that are no longer read from.
    fn close_unread(&mut self) {
        let now_ms = self.clock.monotonic_ms();
        if now_ms.saturating_sub(self.closed_at_ms) >= UNREAD_MS_MAX {
            self.closed_at_ms = now_ms;
            self.row.close_unread();
        }
    }

    fn is_drained(&self, newest: &Generation) -> bool {
        newest.owed == 0
            && newest.bytes >= self.generation_bytes / WORTH_SHARE
            && self.verdict(newest) == Verdict::Clear
    }

    fn verdict(&self, generation: &Generation) -> Verdict {
        let letters = self.cursor.letters.lock();
        let all_together = generation.number == 0;
        let count = if all_together { letters.len() } else { letters.count_in(generation.number) };
        let histories = self.cursor.histories.lock();
        let bytes =
            if all_together { histories.bytes() } else { histories.bytes_in(generation.number) };
        reclaim::verdict(generation, count, bytes)
    }

    /// Nothing happens: gives back what a drained outbox still holds.
    pub(super) fn tidy(&mut self) -> Result<()> {
        if self.row.newest().is_some_and(|newest| self.is_drained(&newest)) {
            self.begin_generation()?;
        }
        // What could not be moved when it was tried last is tried again, however little happens.
        self.rests = false;
        self.keep_house()
    }

    /// Removes pages of dedup keys that are past their window. It need not be synced: a page that
    /// comes back is past its window still.
    fn drop_expired_keys(&mut self) {
        let Some(bucket) = self.cursor.dedup.expired_bucket() else { return };
        let mut emptied = false;
        let worked = self.with_dedup_database(|database| {
            let batch = expired_pages(database, bucket)?;
            emptied = batch.len() < EXPIRED_AT_ONCE;
            let failed = |failure| Error::store("dropping old dedup keys", failure);
            database.apply(batch).map_err(failed)
        });
        if worked && emptied {
            self.cursor.dedup.removed(bucket);
        }
    }
}

/// A batch that removes pages of a bucket: all of them when it is not full.
fn expired_pages(database: &dyn Database, bucket: u64) -> Result<Batch> {
    let mut batch = Batch::default();
    let visit: &mut Visit<'_> = &mut |key, _| {
        batch.remove(key);
        match batch.len() < EXPIRED_AT_ONCE {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    let failed = |failure| Error::store("dropping old dedup keys", failure);
    let prefix = keys::numbered(keys::DEDUP, bucket);
    database.scan(&prefix, b"", visit).map_err(failed)?;
    Ok(batch)
}
