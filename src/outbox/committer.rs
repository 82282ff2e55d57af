//! Decides when a group is written, and what happens when the device refuses.
//!
//! Leaves to others: what a group holds (`group`) and what follows from it (the sink). Invariant
//! (I1): a receipt is kept only after the group that holds its events was applied and synced, and
//! the committer never waits on a send, so no cycle of waiting can form.

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
    /// Of the keys whose generation is gone; none while the device refuses.
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
    /// The generation whose copies are made and whose mark is in the queue.
    pub(super) clearing: Option<u64>,
    /// A cleared generation that somebody still read from.
    pub(super) removable: Option<u64>,
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
            let mut taken = Taken::default();
            taken.fill(&self.commands, self.group_events_max, patience);
            if taken.is_empty() && !taken.stop {
                let tidied = self.tidy();
                self.stall_on_failure(tidied)?;
                continue;
            }
            let stop = taken.stop;
            if !taken.is_empty() {
                self.commit(taken)?;
            }
            if stop {
                return Ok(());
            }
            let kept = self.keep_house();
            self.stall_on_failure(kept)?;
        }
    }

    fn commit(&mut self, mut taken: Taken) -> Result<()> {
        let wall_ms = self.clock.wall_ms();
        let reserved = self.cursor.meta.reserved;
        self.cursor.removed.extend(taken.forgotten.iter().map(|(id, _)| *id));
        let submissions = std::mem::take(&mut taken.submissions);
        let mut group = group::build(&mut self.cursor, submissions, &taken.records, wall_ms)?;
        self.forget(&mut taken, wall_ms, &mut group);
        let written = self.write(&mut group);
        self.admission.release(taken.events, taken.bytes);
        if let Err(error) = written {
            self.cursor.meta.reserved = reserved;
            return self.stall(group, taken, &error);
        }
        let ended = group.ended.drain(..).chain(taken.cancelled.iter().flatten());
        self.row.ended(ended);
        self.tell(group);
        for generation in std::mem::take(&mut taken.cleared) {
            self.remove(generation);
        }
        let dropped = self.cursor.letters.trim(wall_ms);
        if dropped > 0 {
            (self.sink)(Committed::LettersDropped(dropped));
        }
        Ok(())
    }

    fn forget(&mut self, taken: &mut Taken, wall_ms: u64, group: &mut Group) {
        for (id, promised) in taken.forgotten.drain(..) {
            let key = keys::of_subscription(keys::TOMBSTONE, id);
            let sealed = seal(group::VERSION, &wall_ms.to_le_bytes());
            group.operations.insert(0, Operation::Put(key, sealed));
            group.forgotten.push(promised);
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
        group.forgotten.iter().for_each(|promised| promised.keep(Ok(())));
    }
}

/// What becomes of generations.
impl Committer {
    /// Begins the next generation when this one is full, and clears the oldest when it may go.
    fn keep_house(&mut self) -> Result<()> {
        if self.row.newest().is_some_and(|newest| newest.bytes >= self.generation_bytes) {
            self.begin_generation();
        }
        self.drop_expired_keys()?;
        if let Some(generation) = self.removable.take() {
            self.remove(generation);
        }
        if self.clearing.is_some() || self.removable.is_some() {
            return Ok(());
        }
        let Some(oldest) = self.row.oldest_sealed() else { return Ok(()) };
        let verdict = match self.verdict(&oldest) {
            // The oldest stands in the way of the newer ones, so they are judged together.
            Verdict::Keep => self.verdict(&self.row.sealed_together()),
            Verdict::Clear => Verdict::Clear,
        };
        match verdict {
            Verdict::Keep => Ok(()),
            Verdict::Clear => self.clear(oldest.number),
        }
    }

    /// A generation that cannot be begun now is begun later; the full one takes more meanwhile.
    fn begin_generation(&mut self) {
        let sealed = self.cursor.generation;
        let Some(database) = self.row.active() else { return };
        if self.row.begin(&mut self.cursor, sealed + 1).is_ok() {
            self.row.keep_open(sealed, database);
        }
    }

    /// Copies what is alive out of a generation, and marks the queue: what was sent before must be
    /// committed before the generation goes, because a delivery that has just ended is not copied.
    fn clear(&mut self, generation: u64) -> Result<()> {
        let copies = match self.copy_out_of(generation) {
            Ok(copies) => copies,
            // Damage in an old generation keeps it where it is; deliveries out of it report it.
            Err(Error::Damaged { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let head_keys = copies.head_keys.clone();
        let operations = copies.operations.clone();
        let mut group = Group { operations, head_keys, ..Group::default() };
        if let Err(error) = self.write(&mut group) {
            return self.stall(group, Taken::default(), &error);
        }
        copies.done(&self.row, &mut self.cursor);
        self.clearing = Some(generation);
        let _ = self.marker.send(Command::Clear(generation));
        Ok(())
    }

    fn copy_out_of(&mut self, generation: u64) -> Result<Copies> {
        let database = self.row.database(generation)?;
        let keys = recovery::surviving_keys(&*database, &mut self.cursor)?;
        let operations = keys.into_iter().map(|(key, value)| Operation::Put(key, value));
        write_all(&*self.dedup_database()?, operations.collect())?;
        let (row, owing) = (&*self.row, &self.owing);
        reclaim::copies(&*database, &self.catalogue, row, generation, owing, &mut self.cursor)
    }

    /// One that somebody still reads from, or that the device does not let go, is tried again.
    fn remove(&mut self, generation: u64) {
        self.clearing = None;
        let is_gone = self.row.remove(generation).unwrap_or(false);
        self.removable = (!is_gone).then_some(generation);
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
        self.drop_expired_keys()?;
        if self.row.newest().is_some_and(|newest| self.is_drained(&newest)) {
            self.begin_generation();
        }
        self.keep_house()
    }

    /// Removes pages of dedup keys that are past their window. It need not be synced: a page that
    /// comes back is past its window still.
    fn drop_expired_keys(&mut self) -> Result<()> {
        let Some(bucket) = self.cursor.dedup.expired_bucket() else { return Ok(()) };
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
        self.dedup_database()?.scan(&prefix, b"", visit).map_err(failed)?;
        let is_last = batch.len() < group::BATCH_OPERATIONS;
        self.dedup_database()?.apply(batch).map_err(failed)?;
        if is_last {
            self.cursor.dedup.removed(bucket);
        }
        Ok(())
    }
}

/// What happens when the device refuses.
impl Committer {
    /// Answers a group that failed, opens the generation again until the device takes it, and goes
    /// on with the records, which may be written twice.
    fn stall(&mut self, mut group: Group, taken: Taken, error: &Error) -> Result<()> {
        let why = error.to_string();
        let unknown = Error::Unknown { why: why.clone() };
        group.answers.iter().for_each(|(answer, _)| answer.keep(Err(unknown.clone())));
        group.forgotten.iter().for_each(|promised| promised.keep(Err(unknown.clone())));
        self.admission.stall(Some(why.clone()));
        (self.sink)(Committed::Stalled(why));
        let mut waiting = Taken { records: taken.records, ..Taken::default() };
        waiting.cancelled = taken.cancelled;
        waiting.cleared = taken.cleared;
        // Who closes the engine waits for this thread, however long the device refuses.
        waiting.stop = taken.stop;
        loop {
            self.wait_for_the_device(&mut waiting)?;
            if waiting.stop {
                // The records are lost with the process and repeat their attempts (I3).
                let _ = self.marker.send(Command::Stop);
                return Ok(());
            }
            match self.settle_doubt(&mut group) {
                Ok(()) => break,
                Err(error @ Error::Damaged { .. }) => return Err(error),
                // It opened, and refused again: a full disk does.
                Err(_) => {}
            }
        }
        self.admission.stall(None);
        (self.sink)(Committed::Resumed);
        if waiting.is_empty() { Ok(()) } else { self.commit(waiting) }
    }

    /// Housekeeping that failed is done again once the device takes writes; nobody waits for it.
    fn stall_on_failure(&mut self, kept: Result<()>) -> Result<()> {
        match kept {
            Ok(()) => Ok(()),
            Err(error @ Error::Damaged { .. }) => Err(error),
            Err(error) => self.stall(Group::default(), Taken::default(), &error),
        }
    }

    fn wait_for_the_device(&mut self, waiting: &mut Taken) -> Result<()> {
        self.row.deactivate();
        self.dedup_database = None;
        let mut pause = REOPEN_AFTER;
        loop {
            waiting.take_while_stalled(&self.commands, &self.admission, pause);
            if waiting.stop {
                return Ok(());
            }
            match self.reopen() {
                Ok(()) => return Ok(()),
                Err(Error::Damaged { record, why }) => return Err(Error::Damaged { record, why }),
                Err(_) => pause = (pause * 2).min(REOPEN_AFTER_MAX),
            }
        }
    }

    fn reopen(&mut self) -> Result<()> {
        if self.row.active().is_none() {
            self.row.reopen(self.cursor.generation)?;
        }
        self.dedup_database = Some(self.row.open(recovery::DEDUP_DATABASE)?);
        Ok(())
    }

    /// The database of dedup keys whose generation is gone; none while the device refuses.
    fn dedup_database(&self) -> Result<Arc<dyn Database>> {
        let closed = || Error::store("keeping dedup keys", crate::store::Failure::Closed);
        self.dedup_database.clone().ok_or_else(closed)
    }

    /// Finds out whether the events of a failed group are there. If so they are owed, as their
    /// publishers were told they may be; if not, nothing of them is left.
    fn settle_doubt(&mut self, group: &mut Group) -> Result<()> {
        let failed = |failure| Error::store("looking for a failed group", failure);
        let closed = || Error::store("looking for a failed group", crate::store::Failure::Closed);
        let database = self.row.active().ok_or_else(closed)?;
        let last = group.head_keys.last().filter(|_| !group.owed.is_empty());
        let is_there = match last {
            Some(key) => database.get(key).map_err(failed)?.is_some(),
            None => false,
        };
        if !is_there {
            // Copies count as not there: what they were made from is where it was.
            group.dedup_keys.iter().for_each(|key| self.cursor.dedup.forget(*key));
            let removals = group.head_keys.iter().cloned().map(Operation::Remove);
            write_all(&*database, removals.collect())?;
        }
        // What is there may be there in the machine's memory alone.
        database.sync().map_err(failed)?;
        let owed = if is_there { std::mem::take(&mut group.owed) } else { Vec::new() };
        let deliveries: usize = owed.iter().map(|owed| owed.targets.len()).sum();
        let pages = super::reading::count_pages(&*database)?;
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

fn write_all(database: &dyn Database, operations: Vec<Operation>) -> Result<()> {
    if operations.is_empty() {
        return Ok(());
    }
    for batch in batches(operations) {
        database.apply(batch).map_err(|failure| Error::store("writing a group", failure))?;
    }
    database.sync().map_err(|failure| Error::store("syncing a group", failure))
}
