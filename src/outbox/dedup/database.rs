//! The database of dedup keys whose generation was cleared.
//!
//! It has a bound because the table of keys has one: the pages of buckets past their window are removed, and when
//! most stored keys no longer count, a pass packs those that do into new pages, a few pages at a time. A crash
//! within a pass leaves keys twice and never loses one.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::store::{Batch, Database, KeyValue, Operation, StoreFailure, Visit};

use super::DedupTable;
use crate::outbox::codec::dedup_page::{self, BucketEntries};
use crate::outbox::codec::keys;
use crate::outbox::cursor::Cursor;
use crate::outbox::generations::Generations;
use crate::outbox::group::batches;
use crate::outbox::writer::commit_all;

pub(in crate::outbox) const DEDUP_DATABASE: &str = "dedup";

/// The most pages of expired keys in one batch: few enough that readers do not wait long behind it.
const EXPIRED_BATCH: usize = 64;

/// The most pages that a pass reads at once, so that a group waits for one sync of its pages at most.
const PACKED_AT_ONCE: usize = 32;

/// A pass is not worth its writes for fewer keys that no longer count, which take 100 KB.
const UNCOUNTED_MIN: usize = 4_096;

pub(in crate::outbox) struct DedupDatabase {
    /// None after a failure, until it is opened again.
    database: Option<Arc<dyn Database>>,
    /// The number of keys in its pages, without those that the pass has yet to read.
    stored: usize,
    /// The number of stored keys at which the next pass begins.
    pass_at: usize,
    pass: Option<PackingPass>,
}

struct PackingPass {
    /// The key in the store at which it goes on.
    from: Vec<u8>,
    /// The number of the first page written since it began.
    end: u64,
}

/// Some pages that a pass has read.
#[derive(Default)]
struct ReadPages {
    removals: Vec<Operation>,
    entries: BucketEntries,
    /// Where the next ones are, if there are more.
    next: Option<Vec<u8>>,
}

impl DedupDatabase {
    /// The database with so many keys in its pages, of which `counted` count.
    pub(in crate::outbox) fn new(
        database: Arc<dyn Database>,
        stored: usize,
        counted: usize,
    ) -> DedupDatabase {
        let pass_at = pass_after(counted);
        DedupDatabase { database: Some(database), stored, pass_at, pass: None }
    }

    /// The open database. It is opened again after a failure.
    pub(in crate::outbox) fn handle(
        &mut self,
        generations: &Generations,
    ) -> Option<Arc<dyn Database>> {
        if self.database.is_none() {
            self.database = generations.open_other(DEDUP_DATABASE).ok();
        }
        self.database.clone()
    }

    /// Adds pages. Returns false if the database accepts no writes now.
    pub(in crate::outbox) fn put(
        &mut self,
        generations: &Generations,
        pages: Vec<KeyValue>,
    ) -> bool {
        if pages.is_empty() {
            return true;
        }
        // Counted in any case: a failed write may have stored some.
        self.stored += count_keys(&pages);
        let puts = pages.into_iter().map(|(key, page)| Operation::Put(key, page));
        let batches = batches(puts.collect(), &[]);
        self.with(generations, |database| commit_all(database, batches)).is_some()
    }

    pub(in crate::outbox) fn has_work(&self, dedup: &DedupTable) -> bool {
        dedup.expired_bucket().is_some() || self.pass.is_some() || self.stored >= self.pass_at
    }

    /// Removes some pages that are past their window, or else packs some.
    pub(in crate::outbox) fn maintain(&mut self, generations: &Generations, cursor: &mut Cursor) {
        match cursor.dedup.expired_bucket() {
            Some(bucket) => self.remove_expired(generations, &mut cursor.dedup, bucket),
            None if self.has_work(&cursor.dedup) => self.pack(generations, cursor),
            None => {}
        }
    }

    /// Works on the database. What failed is tried again with the next group.
    fn with<T>(
        &mut self,
        generations: &Generations,
        work: impl FnOnce(&dyn Database) -> Result<T>,
    ) -> Option<T> {
        let database = self.handle(generations)?;
        let worked = work(&*database).ok();
        if worked.is_none() {
            self.database = None;
        }
        worked
    }

    /// Removes pages of a bucket. It need not be durable: a page that comes back is still past its window.
    fn remove_expired(&mut self, generations: &Generations, dedup: &mut DedupTable, bucket: u64) {
        let removed = self.with(generations, |database| {
            let (batch, keys) = pages_of_bucket(database, bucket)?;
            let is_last = batch.len() < EXPIRED_BATCH;
            database.write(vec![batch]).map_err(failed)?;
            Ok((keys, is_last))
        });
        let Some((keys, is_last)) = removed else { return };
        if self.pass.is_none() {
            self.stored = self.stored.saturating_sub(keys);
        }
        if is_last {
            dedup.pages_removed(bucket);
        }
    }

    /// Packs the next pages of the pass, or begins one.
    fn pack(&mut self, generations: &Generations, cursor: &mut Cursor) {
        let PackingPass { from, end } = match self.pass.take() {
            Some(pass) => pass,
            None => {
                self.stored = 0;
                PackingPass { from: Vec::new(), end: cursor.next_record }
            }
        };
        let mut kept = 0;
        let packed = self.with(generations, |database| {
            let read = read_pages(database, &from, end)?;
            let operations;
            (operations, kept) = pack_pages(cursor, read.entries, read.removals);
            commit_all(database, batches(operations, &[])).map(|()| read.next)
        });
        // Counted in any case: a failed write may have stored some.
        self.stored += kept;
        self.pass = packed.unwrap_or(Some(from)).map(|from| PackingPass { from, end });
        if self.pass.is_none() {
            self.pass_at = pass_after(self.stored);
        }
    }
}

/// The number of stored keys at which a pass is worth its writes, if so many count.
fn pass_after(counted: usize) -> usize {
    counted.saturating_mul(2).saturating_add(UNCOUNTED_MIN)
}

fn count_keys(pages: &[KeyValue]) -> usize {
    pages.iter().map(|(_, page)| dedup_page::count(page)).sum()
}

/// A batch that removes pages of a bucket, all of them unless the batch is full, and how many keys they have.
fn pages_of_bucket(database: &dyn Database, bucket: u64) -> Result<(Batch, usize)> {
    let (mut batch, mut keys) = (Batch::default(), 0);
    let visit: &mut Visit<'_> = &mut |key, page| {
        batch.remove(key);
        keys += dedup_page::count(page);
        match batch.len() < EXPIRED_BATCH {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    let prefix = keys::numbered(keys::DEDUP, bucket);
    database.scan(&prefix, b"", visit).map_err(failed)?;
    Ok((batch, keys))
}

/// Reads the next pages with numbers below `end`. A damaged page stays for the next open to report.
fn read_pages(database: &dyn Database, from: &[u8], end: u64) -> Result<ReadPages> {
    let mut read = ReadPages::default();
    let visit: &mut Visit<'_> = &mut |key, page| {
        if read.removals.len() == PACKED_AT_ONCE {
            read.next = Some(key.to_vec());
            return ControlFlow::Break(());
        }
        if let Some((bucket, number)) = keys::bucket_of(key)
            && number < end
            && let Ok(entries) = dedup_page::read(page)
        {
            read.removals.push(Operation::Remove(key.to_vec()));
            read.entries.entry(bucket).or_default().extend(entries);
        }
        ControlFlow::Continue(())
    };
    database.scan(keys::DEDUP, from, visit).map_err(failed)?;
    Ok(read)
}

/// What replaces pages by fewer ones, new pages first, and how many of their keys count. Nothing if it would save
/// nothing.
fn pack_pages(
    cursor: &mut Cursor,
    entries: BucketEntries,
    removals: Vec<Operation>,
) -> (Vec<Operation>, usize) {
    let (mut operations, mut read, mut kept) = (Vec::new(), 0, 0);
    for (bucket, mut entries) in entries {
        read += entries.len();
        entries.retain(|(key, sequence)| cursor.dedup.sequence_of(*key) == Some(*sequence));
        kept += entries.len();
        let pages = dedup_page::pages(bucket, cursor.next_record, &entries);
        cursor.next_record += pages.len() as u64;
        operations.extend(pages.into_iter().map(|(key, page)| Operation::Put(key, page)));
    }
    if kept == read && operations.len() >= removals.len() {
        return (Vec::new(), kept);
    }
    operations.extend(removals);
    (operations, kept)
}

fn failed(failure: StoreFailure) -> Error {
    Error::store("removing dedup keys", failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::accounts::events::EventAccounts;
    use crate::outbox::cursor::tests::cursor;
    use crate::store::{FaultInjectingStore, FaultPlan, Memory, Store};

    const BUCKET: u64 = 1_000;

    /// A database of 10,000 keys in ten buckets, of which the table has each third.
    fn third_counts(store: Arc<dyn Store>) -> (Generations, Cursor, DedupDatabase) {
        let accounts =
            Arc::new(EventAccounts::new(crate::outbox::accounts::shares::tests::shares_of(&[])));
        let generations = Generations::new(Arc::clone(&store), 1_000, accounts);
        let mut cursor = Cursor { dedup: DedupTable::new(1_000_000, 10_000), ..cursor() };
        let mut database = DedupDatabase::new(store.open(DEDUP_DATABASE).unwrap(), 0, 0);
        for first in (0..10_000_u64).step_by(250) {
            let bucket = BUCKET * (1 + first / 1_000);
            let entries: Vec<_> = (first..first + 250).map(|n| (n.into(), n)).collect();
            for (key, sequence) in entries.iter().filter(|(_, sequence)| sequence % 3 == 0) {
                cursor.dedup.remember(bucket, *key, *sequence, usize::MAX);
            }
            let pages = dedup_page::pages(bucket, cursor.next_record, &entries);
            cursor.next_record += 1;
            assert!(database.put(&generations, pages));
        }
        (generations, cursor, database)
    }

    /// The sequences in a database, in order, and the number of its pages.
    fn stored(store: &Memory) -> (Vec<u64>, usize) {
        let (mut all, mut pages) = (BucketEntries::new(), 0);
        dedup_page::read_all(&*store.open(DEDUP_DATABASE).unwrap(), &mut all, |_, _| {
            pages += 1;
            true
        })
        .unwrap();
        let mut sequences: Vec<u64> = all.into_values().flatten().map(|entry| entry.1).collect();
        sequences.sort_unstable();
        (sequences, pages)
    }

    #[test]
    fn a_pass_keeps_what_counts_and_a_crash_loses_none_of_it() {
        let store = Memory::default();
        let faults = Arc::new(FaultPlan::default());
        let faulty = FaultInjectingStore::new(Arc::new(store.clone()), Arc::clone(&faults));
        let (generations, mut cursor, mut database) = third_counts(Arc::new(faulty));
        let counted: Vec<u64> = (0..10_000).filter(|n| n % 3 == 0).collect();
        faults.skip_syncs();
        assert!(database.has_work(&cursor.dedup));
        let mut steps = 0;
        while database.has_work(&cursor.dedup) {
            database.maintain(&generations, &mut cursor);
            steps += 1;
            assert!(steps < 10, "it ends");
        }
        assert_eq!(steps, 2, "40 pages, 32 at a time");
        for kept in 0..=store.unsynced_batches() {
            let (mut left, _) = stored(&store.crash_keeping(kept));
            left.dedup();
            left.retain(|sequence| sequence % 3 == 0);
            assert_eq!(left, counted, "{kept} batches were kept");
        }
        let everything = store.crash_keeping(store.unsynced_batches());
        assert_eq!(stored(&everything), (counted, 20), "packed by bucket, in two steps");
        assert_eq!(database.stored, 3_334);
    }

    #[test]
    fn a_pass_goes_on_after_the_device_refused() {
        let store = Memory::default();
        let faults = Arc::new(FaultPlan::default());
        let faulty = FaultInjectingStore::new(Arc::new(store.clone()), Arc::clone(&faults));
        let (generations, mut cursor, mut database) = third_counts(Arc::new(faulty));
        for refused_after in 0..40 {
            faults.fail_after(refused_after);
            database.maintain(&generations, &mut cursor);
            faults.heal();
        }
        while database.has_work(&cursor.dedup) {
            database.maintain(&generations, &mut cursor);
        }
        let (mut left, _) = stored(&store.crash());
        assert!(left.len() <= database.stored, "{} keys", left.len());
        left.dedup();
        assert_eq!(left, (0..10_000).filter(|n| n % 3 == 0).collect::<Vec<_>>());
    }
}
