//! Decides when a group is written, and what happens when the device refuses.
//!
//! Leaves to others: what a group holds (`group`) and what follows from it (the sink). Invariant
//! (I1): a receipt is kept only after the group that holds its events was applied and synced, and
//! the committer never waits on a send, so no cycle of waiting can form.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use roaring::RoaringTreemap;

use crate::attempt::{DeliveryId, Record};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::receipt::{Bells, Promised};
use crate::store::record::seal;
use crate::store::{Batch, Database, Operation};
use crate::subscription::SubscriptionId;
use crate::threads::{self, Scheduling, Waits};

use super::company::Company;
use super::dedup::Dropped;
use super::group::{self, Cursor, Group, Owed, Submission, answer_all, batches};
use super::queue::{Queue, Waiting};
use super::reclaim::Owing;
use super::row::Row;
use super::taken::Taken;
use super::upkeep::Clearing;
use super::{Admission, keys};

/// What the committer is asked to do.
pub(super) enum Command {
    Publish(Submission),
    Record(Record),
    /// As `Record`, and somebody waits until it is durable.
    RecordAndTell(Record, Promised<()>),
    /// Changes that take effect as a whole or not at all.
    RecordTogether(Vec<Record>),
    /// Make the removal of a subscription durable.
    Forget(SubscriptionId, Promised<()>),
    /// Owe dead letters again, those of one vector together; tells how many were letters.
    Revive(Vec<Vec<DeliveryId>>, Promised<u64>),
    /// What a removed subscription was owed ends with it.
    Cancel(RoaringTreemap),
    /// Everything sent before the copies out of this generation were made is committed now.
    Clear(u64),
    Stop,
}

impl Command {
    /// Whether somebody waits until it is done.
    pub(super) fn is_awaited(&self) -> bool {
        match self {
            Command::Record(_) | Command::RecordTogether(_) => false,
            Command::Cancel(_) | Command::Clear(_) => false,
            Command::Publish(_) | Command::RecordAndTell(..) | Command::Forget(..) => true,
            Command::Revive(..) | Command::Stop => true,
        }
    }
}

/// What the committer tells the engine.
#[derive(Debug)]
pub(crate) enum Committed {
    /// A group is durable; receipts are kept right after this returns.
    Group(Totals, Vec<Owed>),
    /// Dead letters are owed again, durably.
    Revived(Vec<DeliveryId>),
    /// Deliveries for whose end others wait are settled, durably.
    Settled(Vec<DeliveryId>),
    /// The device refused; nothing is accepted until [`Committed::Resumed`].
    Stalled(String),
    /// The device takes writes again.
    Resumed,
    /// Dead letters were dropped because they were over their bounds.
    LettersDropped(u64),
    /// Dedup keys left before their window ended, because there were too many.
    KeysDropped(Dropped),
    /// Whether what comes has company from now on.
    Company(bool),
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
    /// How long that took, in milliseconds.
    pub(crate) took_ms: u64,
}

/// Receives what was committed, on the committer's thread. It must not block.
pub(crate) type Sink = Box<dyn FnMut(Committed) + Send>;

/// How often a device that refused is tried again, at first and at most.
const REOPEN_AFTER: Duration = Duration::from_millis(100);
const REOPEN_AFTER_MAX: Duration = Duration::from_secs(5);

/// How long nothing may happen before what is left over is tidied.
const TIDY_AFTER: Duration = Duration::from_secs(1);

/// How many bytes of a group are written between two syncs at most. sled makes about twice as many of
/// them, in segments of 512 KiB, and the header of each says that what lies before it is there: where
/// several are on their way at once and reach the device out of order, a cut leaves what cannot be
/// told from damage.
const UNSYNCED_BYTES_MAX: usize = 256 * 1024;

/// The committer's belongings.
pub(super) struct Committer {
    pub(super) row: Arc<Row>,
    /// None after it failed, until it is opened again.
    pub(super) dedup_database: Option<Arc<dyn Database>>,
    pub(super) cursor: Cursor,
    pub(super) catalogue: Catalogue,
    pub(super) waiting: Waiting,
    /// Everybody else's end of the queue, to mark a place in it.
    pub(super) marker: Queue,
    pub(super) admission: Arc<Admission>,
    pub(super) bells: Arc<Bells>,
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
    /// When the generations were closed last that nobody read from.
    pub(super) closed_at_ms: u64,
    /// Whether clearing waits for the next group that writes or for a while, because dedup keys could
    /// not be moved.
    pub(super) rests: bool,
    /// What a refusing device left to be written first.
    pub(super) kept: Taken,
}

impl Committer {
    /// Starts the thread. It ends on [`Command::Stop`], after everything sent before it.
    pub(super) fn start(mut self) -> std::io::Result<JoinHandle<()>> {
        threads::start("wabahook-committer", None, move || {
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
        let (mut scheduling, mut waits) = (Scheduling::of_this_thread(), Waits::of_this_thread());
        let mut company = Company::default();
        loop {
            let patience = self.has_leftovers().then_some(TIDY_AFTER);
            let mut taken = std::mem::take(&mut self.kept);
            if taken.is_empty() {
                taken.fill(&self.waiting, self.group_events_max, patience);
            }
            let waited_us = waits.read_us();
            let now_ms = self.clock.monotonic_ms();
            if !taken.is_empty() && company.note(taken.together(), waited_us, now_ms) {
                scheduling.step_back(company.is_kept());
                (self.sink)(Committed::Company(company.is_kept()));
            }
            if self.step(taken)?.is_break() {
                return Ok(());
            }
        }
    }

    /// One turn of the loop without its wait: commits what is queued, or tidies where nothing is.
    /// Returns whether there was anything to do.
    pub(super) fn step_now(&mut self) -> Result<bool> {
        let mut taken = std::mem::take(&mut self.kept);
        if taken.is_empty() {
            taken.take_waiting(&self.waiting.commands, self.group_events_max);
        }
        if taken.is_empty() && !self.has_leftovers() {
            return Ok(false);
        }
        self.step(taken).map(|_| true)
    }

    fn step(&mut self, taken: Taken) -> Result<ControlFlow<()>> {
        let stop = taken.stop;
        if taken.is_empty() && !stop {
            self.tidy()?;
            return Ok(ControlFlow::Continue(()));
        }
        self.bells.change();
        if !taken.is_empty() {
            self.commit(taken)?;
        }
        if stop {
            return Ok(ControlFlow::Break(()));
        }
        self.keep_house()?;
        Ok(ControlFlow::Continue(()))
    }

    fn commit(&mut self, mut taken: Taken) -> Result<()> {
        let wall_ms = self.clock.wall_ms();
        let reserved = self.cursor.meta.reserved;
        self.cursor.removed.extend(taken.forgotten.iter().map(|(id, _)| *id));
        for (id, _) in &taken.forgotten {
            self.cursor.health.remove(id);
        }
        let submissions = std::mem::take(&mut taken.submissions);
        let mut group = group::build(&mut self.cursor, submissions, &taken.records, wall_ms)?;
        forget(&taken, wall_ms, &mut group);
        let started_ms = self.clock.monotonic_ms();
        let written = self.write(&mut group);
        let took_ms = self.clock.monotonic_ms().saturating_sub(started_ms);
        self.admission.release(taken.events, taken.bytes);
        if let Err(error) = written {
            self.cursor.meta.reserved = reserved;
            return self.stall(group, taken, &error);
        }
        let ended = group.ended.drain(..).chain(taken.cancelled.iter().flatten());
        self.row.ended(ended);
        let revived: Vec<_> = group.revived.drain(..).map(|(delivery, _, _)| delivery).collect();
        if let Some(clearing) = &mut self.clearing {
            clearing.note_ends(&taken.records);
            clearing.note_revived(&revived, &self.row);
        }
        self.row.revived(revived.iter().map(|delivery| delivery.sequence));
        self.rests &= !group.synced;
        let settled_mains = std::mem::take(&mut group.settled_mains);
        self.tell(group, took_ms);
        self.tell_records(&taken, revived, settled_mains);
        self.drop_letters(wall_ms);
        if let Some(dropped) = self.cursor.dedup.take_dropped(wall_ms) {
            (self.sink)(Committed::KeysDropped(dropped));
        }
        match self.clearing.take_if(|clearing| taken.cleared.contains(&clearing.generation)) {
            Some(clearing) => self.finish_clearing(clearing),
            None => Ok(()),
        }
    }

    /// Applies and syncs a group, and counts it in its generation.
    pub(super) fn write(&self, group: &mut Group) -> Result<()> {
        let (bytes, pages) = (group.bytes(), group.pages());
        self.apply(batches(std::mem::take(&mut group.operations), &group.together))?;
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

    fn apply(&self, batches: Vec<(usize, Batch)>) -> Result<()> {
        if batches.is_empty() {
            return Ok(());
        }
        let closed = || Error::store("writing a group", crate::store::Failure::Closed);
        let database = self.row.active().ok_or_else(closed)?;
        write_all(&*database, batches)
    }

    fn tell(&mut self, mut group: Group, took_ms: u64) {
        let answered: usize = group.answers.iter().map(|(_, accepted)| accepted.len()).sum();
        let totals = Totals {
            accepted: answered as u64 - group.duplicates,
            unrouted: group.unrouted,
            duplicates: group.duplicates,
            synced: group.synced,
            took_ms,
        };
        (self.sink)(Committed::Group(totals, group.owed));
        let answers = group.answers.iter_mut();
        answer_all(answers.map(|(answer, accepted)| (&*answer, Ok(std::mem::take(accepted)))));
    }

    /// Tells what the records of a group changed, and keeps what was promised to those who wait.
    fn tell_records(&mut self, taken: &Taken, revived: Vec<DeliveryId>, mains: Vec<DeliveryId>) {
        let owed: HashSet<DeliveryId> = revived.iter().copied().collect();
        if !revived.is_empty() {
            (self.sink)(Committed::Revived(revived));
        }
        if !mains.is_empty() {
            (self.sink)(Committed::Settled(mains));
        }
        taken.forgotten.iter().for_each(|(_, promised)| promised.keep(Ok(())));
        taken.awaited.iter().for_each(|promised| promised.keep(Ok(())));
        for (promised, asked) in &taken.revivals {
            let count = asked.iter().filter(|delivery| owed.contains(delivery)).count();
            promised.keep(Ok(count as u64));
        }
    }

    /// Drops the dead letters that are over their bounds, with their histories.
    fn drop_letters(&mut self, wall_ms: u64) {
        let dropped = self.cursor.letters.lock().trim(wall_ms);
        if dropped.is_empty() {
            return;
        }
        let mut histories = self.cursor.histories.lock();
        dropped.iter().for_each(|delivery| histories.forget(*delivery));
        drop(histories);
        (self.sink)(Committed::LettersDropped(dropped.len() as u64));
    }
}

/// What happens when the device refuses.
impl Committer {
    /// Answers a group that failed, opens the generation again until the device takes it, and goes
    /// on with the records and removals, which may be written twice.
    pub(super) fn stall(&mut self, group: Group, taken: Taken, error: &Error) -> Result<()> {
        let why = error.to_string();
        let unknown = Error::Unknown { why: why.clone() };
        answer_all(group.answers.iter().map(|(answer, _)| (answer, Err(unknown.clone()))));
        taken.answer_records(&unknown);
        self.admission.stall(Some(why.clone()));
        (self.sink)(Committed::Stalled(why));
        for (delivery, at_wall_ms, generation) in &group.revived {
            // Their records are written again, so they are letters again until then.
            self.cursor.letters.lock().keep(*at_wall_ms, *delivery, *generation);
        }
        // Who closes the engine waits for this thread, however long the device refuses: a stop that
        // came with the group counts.
        let Taken { records, revivals, cancelled, cleared, forgotten, stop, .. } = taken;
        let mut waiting =
            Taken { records, revivals, cancelled, cleared, forgotten, stop, ..Taken::default() };
        if !self.wait_for_the_device(&mut waiting, &group)? {
            // The records are lost with the process and repeat their attempts (I3).
            self.marker.send(Command::Stop);
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
            waiting.take_while_stalled(&self.waiting.commands, &self.admission, pause);
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
        write_all(&*database, batches(operations, &[]))?;
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
        group.put_first(Operation::Put(key, sealed));
    }
}

pub(super) fn write_all(database: &dyn Database, batches: Vec<(usize, Batch)>) -> Result<()> {
    if batches.is_empty() {
        return Ok(());
    }
    let failed = |failure| Error::store("syncing a group", failure);
    let mut unsynced = 0;
    for (bytes, batch) in batches {
        if unsynced + bytes > UNSYNCED_BYTES_MAX {
            database.sync().map_err(failed)?;
            unsynced = 0;
        }
        unsynced += bytes;
        database.apply(batch).map_err(|failure| Error::store("writing a group", failure))?;
    }
    database.sync().map_err(failed)
}
