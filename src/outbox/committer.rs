//! Decides when a group is written, and what happens when the device refuses.
//!
//! Leaves to others: what a group holds (`group`) and what follows from it (the sink). Invariant
//! (I1): a receipt is kept only after the group that holds its events was applied and synced, and
//! the committer never waits on a send, so no cycle of waiting can form.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use roaring::RoaringTreemap;

use crate::attempt::Record;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::receipt::Promised;
use crate::store::record::seal;
use crate::store::{Batch, Database, Operation, Visit};
use crate::subscription::SubscriptionId;

use super::group::{self, Cursor, Group, Owed, Submission, batches};
use super::reclaim::{self, Copies, Owing, Verdict};
use super::row::{Generation, Row};
use super::taken::Taken;
use super::{Admission, keys, recovery};

/// What the committer is asked to do.
pub(super) enum Command {
    Publish(Submission),
    Record(Record),
    /// Make the removal of a subscription durable.
    Forget(SubscriptionId, Promised<()>),
    /// What a removed subscription was owed ends with it.
    Cancel(RoaringTreemap),
    /// Everything sent before the copies out of this generation were made is committed now.
    Clear(u64),
    Stop,
}

/// What the committer tells the engine.
#[derive(Debug)]
pub(crate) enum Committed {
    /// A group is durable; receipts are kept right after this returns.
    Group(Totals, Vec<Owed>),
    /// The device refused; nothing is accepted until [`Committed::Resumed`].
    Stalled(String),
    /// The device takes writes again.
    Resumed,
    /// Dead letters were dropped because they were over their bounds.
    LettersDropped(u64),
    /// A part of the outbox cannot be tidied; nothing accepted is lost by it.
    Faulty(String),
    /// The committer stopped for good.
    Failed(String),
}

/// What a group added to the counters.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Events accepted, duplicates left out.
    pub(crate) accepted: u64,
    /// Of these, events that nobody asked for.
    pub(crate) unrouted: u64,
    /// Duplicates of earlier events.
    pub(crate) duplicates: u64,
    /// Whether anything was written and synced.
    pub(crate) synced: bool,
}

/// Receives what was committed, on the committer's thread. It must not block.
pub(crate) type Sink = Box<dyn FnMut(Committed) + Send>;

/// How often a device that refused is tried again, at first and at most.
const REOPEN_AFTER: Duration = Duration::from_millis(100);
const REOPEN_AFTER_MAX: Duration = Duration::from_secs(5);

/// How long nothing may happen before what is left over is tidied.
const TIDY_AFTER: Duration = Duration::from_secs(1);

/// A drained generation smaller than this share of its bound is not worth another one.
const WORTH_SHARE: u64 = 6;

/// The committer's belongings.
pub(super) struct Committer {
    pub(super) row: Arc<Row>,
    /// None after it failed, until it is opened again.
    pub(super) dedup_database: Option<Arc<dyn Database>>,
    pub(super) cursor: Cursor,
    pub(super) catalogue: Catalogue,
    pub(super) commands: Receiver<Command>,
    /// Its own end of the queue, to mark a place in it.
    pub(super) marker: Sender<Command>,
    pub(super) admission: Arc<Admission>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) group_events_max: usize,
    pub(super) generation_bytes: u64,
    pub(super) owing: Owing,
    pub(super) sink: Sink,
    /// The generation that is about to go and whose mark is in the queue.
    pub(super) clearing: Option<Clearing>,
    /// A cleared generation that somebody still read from.
    pub(super) removable: Option<u64>,
    /// A generation that could not be copied out of; it stays until the next open.
    pub(super) uncopyable: Option<u64>,
    /// What a refusing device left to be written first.
    pub(super) kept: Taken,
}

/// A generation that is about to go.
pub(super) struct Clearing {
    generation: u64,
    /// What was owed of it when its mark was sent, without what ended durably since.
    owed: HashMap<SubscriptionId, RoaringTreemap>,
}

impl Clearing {
    fn note_ends(&mut self, records: &[Record]) {
        for record in records {
            let delivery = match record {
                Record::Settle(delivery) => *delivery,
                Record::Dead(letter) => letter.delivery,
                Record::Retry(..) => continue,
            };
            if let Some(owed) = self.owed.get_mut(&delivery.subscription) {
                owed.remove(delivery.sequence);
            }
        }
    }
}

impl Committer {
    /// Starts the thread. It ends on [`Command::Stop`], after everything sent before it.
    pub(super) fn start(mut self) -> std::io::Result<JoinHandle<()>> {
        Builder::new().name("wabahook-committer".to_owned()).spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| self.run()));
            let why = match ended {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the committer panicked".to_owned(),
            };
            (self.sink)(Committed::Failed(why));
        })
    }

    fn run(&mut self) -> Result<()> {
        loop {
            let patience = self.has_leftovers().then_some(TIDY_AFTER);
            let mut taken = std::mem::take(&mut self.kept);
            if taken.is_empty() {
                taken.fill(&self.commands, self.group_events_max, patience);
            }
            if taken.is_empty() && !taken.stop {
                self.tidy()?;
                continue;
            }
            let stop = taken.stop;
            if !taken.is_empty() {
                self.commit(taken)?;
            }
            if stop {
                return Ok(());
            }
            self.keep_house()?;
        }
    }

    fn commit(&mut self, mut taken: Taken) -> Result<()> {
        let wall_ms = self.clock.wall_ms();
        let reserved = self.cursor.meta.reserved;
        self.cursor.removed.extend(taken.forgotten.iter().map(|(id, _)| *id));
        let submissions = std::mem::take(&mut taken.submissions);
        let mut group = group::build(&mut self.cursor, submissions, &taken.records, wall_ms)?;
        forget(&taken, wall_ms, &mut group);
        let written = self.write(&mut group);
        self.admission.release(taken.events, taken.bytes);
        if let Err(error) = written {
            self.cursor.meta.reserved = reserved;
            return self.stall(group, taken, &error);
        }
        let ended = group.ended.drain(..).chain(taken.cancelled.iter().flatten());
        self.row.ended(ended);
        if let Some(clearing) = &mut self.clearing {
            clearing.note_ends(&taken.records);
        }
        self.tell(group);
        taken.forgotten.iter().for_each(|(_, promised)| promised.keep(Ok(())));
        let dropped = self.cursor.letters.trim(wall_ms);
        if dropped > 0 {
            (self.sink)(Committed::LettersDropped(dropped));
        }
        match self.clearing.take_if(|clearing| taken.cleared.contains(&clearing.generation)) {
            Some(clearing) => self.finish_clearing(clearing),
            None => Ok(()),
        }
    }

    /// Applies and syncs a group, and counts it in its generation.
    fn write(&self, group: &mut Group) -> Result<()> {
        let (bytes, pages) = (group.bytes(), group.pages());
        self.apply(std::mem::take(&mut group.operations))?;
        group.synced = bytes > 0;
        let owed: usize = group.owed.iter().map(|owed| owed.targets.len()).sum();
        let events = group.owed.len() as u64;
        self.row.change(self.cursor.generation, |generation| {
            generation.bytes += bytes;
            generation.pages += pages;
            generation.events += events;
            generation.owed += owed as u64;
        });
        Ok(())
    }

    fn apply(&self, operations: Vec<Operation>) -> Result<()> {
        if operations.is_empty() {
            return Ok(());
        }
        let closed = || Error::store("writing a group", crate::store::Failure::Closed);
        let database = self.row.active().ok_or_else(closed)?;
        write_all(&*database, operations)
    }

    fn tell(&mut self, group: Group) {
        let answered: usize = group.answers.iter().map(|(_, accepted)| accepted.len()).sum();
        let totals = Totals {
            accepted: answered as u64 - group.duplicates,
            unrouted: group.unrouted,
            duplicates: group.duplicates,
            synced: group.synced,
        };
        (self.sink)(Committed::Group(totals, group.owed));
        group.answers.into_iter().for_each(|(answer, accepted)| answer.keep(Ok(accepted)));
    }
}

/// What becomes of generations.
impl Committer {
    /// Begins the next generation when this one is full, and clears the oldest when it may go.
    fn keep_house(&mut self) -> Result<()> {
        if self.row.newest().is_some_and(|newest| newest.bytes >= self.generation_bytes) {
            self.begin_generation()?;
        }
        self.drop_expired_keys();
        if let Some(generation) = self.removable.take() {
            self.remove(generation);
        }
        if self.clearing.is_some() || self.removable.is_some() {
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
        let Some(database) = self.row.active() else { return Ok(()) };
        if self.row.begin(&mut self.cursor, sealed + 1)? {
            self.row.keep_open(sealed, database);
        }
        Ok(())
    }

    /// Asks what is owed of a generation, and marks the queue: the copies are made when what was
    /// sent before is committed, because a delivery that has just ended is not in the answer.
    fn begin_clearing(&mut self, generation: u64) {
        let owed = (self.owing)(&self.row.sequences_in(generation));
        self.clearing = Some(Clearing { generation, owed });
        let _ = self.marker.send(Command::Clear(generation));
    }

    /// Copies what is alive out of a generation and removes it. Whatever ended since the mark and is
    /// not committed is copied as owed: its end is written to the generation that holds the copy.
    fn finish_clearing(&mut self, clearing: Clearing) -> Result<()> {
        let Clearing { generation, mut owed } = clearing;
        for (id, now) in (self.owing)(&self.row.sequences_in(generation)) {
            *owed.entry(id).or_default() |= now;
        }
        let removed = &self.cursor.removed;
        owed.retain(|id, _| !removed.contains(id));
        self.cursor.retrying.retain(|delivery, _| !removed.contains(&delivery.subscription));
        if !self.keep_keys_of(generation) {
            return Ok(());
        }
        let copies = match self.copies_of(generation, &owed) {
            Ok(copies) => copies,
            Err(error) => {
                self.uncopyable = Some(generation);
                (self.sink)(Committed::Faulty(error.to_string()));
                return Ok(());
            }
        };
        let (operations, head_keys) = (copies.operations.clone(), copies.head_keys.clone());
        let mut group = Group { operations, head_keys, ..Group::default() };
        if let Err(error) = self.write(&mut group) {
            return self.stall(group, Taken::default(), &error);
        }
        copies.done(&self.row, &mut self.cursor);
        self.remove(generation);
        Ok(())
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
        let keys = database.and_then(|d| recovery::surviving_keys(&*d, &mut self.cursor));
        let keys = match keys {
            Ok(keys) => keys,
            Err(error) => {
                self.uncopyable = Some(generation);
                (self.sink)(Committed::Faulty(error.to_string()));
                return false;
            }
        };
        let operations = keys.into_iter().map(|(key, value)| Operation::Put(key, value));
        let operations: Vec<_> = operations.collect();
        operations.is_empty()
            || self.with_dedup_database(|database| write_all(database, operations))
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
    fn has_leftovers(&self) -> bool {
        self.removable.is_some()
            || self.cursor.dedup.expired_bucket().is_some()
            || self.row.newest().is_some_and(|newest| self.is_drained(&newest))
    }

    fn is_drained(&self, newest: &Generation) -> bool {
        newest.owed == 0
            && newest.bytes >= self.generation_bytes / WORTH_SHARE
            && self.verdict(newest) == Verdict::Clear
    }

    fn verdict(&self, generation: &Generation) -> Verdict {
        let letters = &self.cursor.letters;
        let all_together = generation.number == 0;
        let count = if all_together { letters.len() } else { letters.count_in(generation.number) };
        reclaim::verdict(generation, count)
    }

    /// Nothing happens: gives back what a drained outbox still holds.
    fn tidy(&mut self) -> Result<()> {
        if self.row.newest().is_some_and(|newest| self.is_drained(&newest)) {
            self.begin_generation()?;
        }
        self.keep_house()
    }

    /// Removes pages of dedup keys that are past their window. It need not be synced: a page that
    /// comes back is past its window still.
    fn drop_expired_keys(&mut self) {
        let Some(bucket) = self.cursor.dedup.expired_bucket() else { return };
        let mut emptied = false;
        let worked = self.with_dedup_database(|database| {
            let batch = expired_pages(database, bucket)?;
            emptied = batch.len() < group::BATCH_OPERATIONS;
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
        match batch.len() < group::BATCH_OPERATIONS {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    let failed = |failure| Error::store("dropping old dedup keys", failure);
    let prefix = keys::numbered(keys::DEDUP, bucket);
    database.scan(&prefix, b"", visit).map_err(failed)?;
    Ok(batch)
}

/// What happens when the device refuses.
impl Committer {
    /// Answers a group that failed, opens the generation again until the device takes it, and goes
    /// on with the records and removals, which may be written twice.
    fn stall(&mut self, group: Group, taken: Taken, error: &Error) -> Result<()> {
        let why = error.to_string();
        let unknown = Error::Unknown { why: why.clone() };
        group.answers.iter().for_each(|(answer, _)| answer.keep(Err(unknown.clone())));
        self.admission.stall(Some(why.clone()));
        (self.sink)(Committed::Stalled(why));
        let mut waiting = Taken { records: taken.records, ..Taken::default() };
        waiting.cancelled = taken.cancelled;
        waiting.cleared = taken.cleared;
        waiting.forgotten = taken.forgotten;
        if !self.wait_for_the_device(&mut waiting, &group)? {
            // The records are lost with the process and repeat their attempts (I3).
            let _ = self.marker.send(Command::Stop);
            return Ok(());
        }
        self.admission.stall(None);
        (self.sink)(Committed::Resumed);
        // Written by the loop and not here, so that a device that comes and goes nests nothing.
        self.kept = waiting;
        Ok(())
    }

    /// Waits until the device has taken a write; false when the engine stops first.
    fn wait_for_the_device(&mut self, waiting: &mut Taken, group: &Group) -> Result<bool> {
        let mut pause = REOPEN_AFTER;
        loop {
            self.row.deactivate();
            waiting.take_while_stalled(&self.commands, &self.admission, pause);
            if waiting.stop {
                return Ok(false);
            }
            let reopened = self.row.reopen(self.cursor.generation);
            match reopened.and_then(|()| self.settle_doubt(group)) {
                Ok(()) => return Ok(true),
                Err(Error::Damaged { record, why }) => return Err(Error::Damaged { record, why }),
                Err(_) => pause = (pause * 2).min(REOPEN_AFTER_MAX),
            }
        }
    }

    /// Finds out whether the events of a failed group are there. If so they are owed, as their
    /// publishers were told they may be; if not, nothing of them is left. Changes nothing but the
    /// device until the device has taken a write, so that it can be called again.
    fn settle_doubt(&mut self, group: &Group) -> Result<()> {
        let failed = |failure| Error::store("looking for a failed group", failure);
        let closed = || Error::store("looking for a failed group", crate::store::Failure::Closed);
        let database = self.row.active().ok_or_else(closed)?;
        let last = group.head_keys.last().filter(|_| !group.owed.is_empty());
        let is_there = match last {
            Some(key) => database.get(key).map_err(failed)?.is_some(),
            None => false,
        };
        // Written in any case: a device that takes reads alone has not recovered. The sync is for
        // what is there too, which may be there in the machine's memory alone.
        let mut operations = vec![self.cursor.meta.write()?];
        if !is_there {
            // Copies count as not there: what they were made from is where it was.
            let keys = group.head_keys.iter().chain(&group.dedup_page_keys);
            operations.extend(keys.cloned().map(Operation::Remove));
        }
        write_all(&*database, operations)?;
        let pages = super::reading::count_pages(&*database)?;
        if !is_there {
            group.dedup_keys.iter().for_each(|key| self.cursor.dedup.forget(*key));
        }
        let owed = if is_there { group.owed.clone() } else { Vec::new() };
        let deliveries: usize = owed.iter().map(|owed| owed.targets.len()).sum();
        self.row.change(self.cursor.generation, |generation| {
            generation.pages = pages;
            generation.events += owed.len() as u64;
            generation.owed += deliveries as u64;
        });
        let accepted = owed.len() as u64;
        (self.sink)(Committed::Group(Totals { accepted, ..Totals::default() }, owed));
        Ok(())
    }
}

/// Adds the tombstones of removed subscriptions, before the heads.
fn forget(taken: &Taken, wall_ms: u64, group: &mut Group) {
    for (id, _) in &taken.forgotten {
        let key = keys::of_subscription(keys::TOMBSTONE, *id);
        let sealed = seal(group::VERSION, &wall_ms.to_le_bytes());
        group.operations.insert(0, Operation::Put(key, sealed));
    }
}

fn write_all(database: &dyn Database, operations: Vec<Operation>) -> Result<()> {
    if operations.is_empty() {
        return Ok(());
    }
    for batch in batches(operations) {
        database.apply(batch).map_err(|failure| Error::store("writing a group", failure))?;
    }
    database.sync().map_err(|failure| Error::store("syncing a group", failure))
}
