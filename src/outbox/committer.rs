//! The committer: the one thread that writes groups.
//!
//! A receipt resolves only after the group that has its events was applied and synced (I1). The committer never
//! blocks on a send, so no cycle of waiting threads can form.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::attempt::DeliveryId;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::process::threads::{self, CpuWaitMeter, ThreadScheduling};
use crate::receipt::WakeGroups;
use crate::store::Operation;

use super::admission::QueueAdmission;
use super::batch::{CommandQueue, CommandReceiver, PendingBatch};
use super::batch_scheduling::ContentionMonitor;
use super::codec::tombstones;
use super::command::CommitterCommand;
use super::commit_event::{CommitEvent, CommitListener, GroupTotals};
use super::compaction::Compactor;
use super::group::CommitGroup;
use super::group_builder;
use super::stall::{self, Stall};
use super::writer::{FailedWrite, GroupWriter};

/// How long the queue must be empty before leftovers are cleaned up.
const CLEAN_UP_AFTER: Duration = Duration::from_secs(1);

/// What the committer's thread owns.
pub(super) struct Committer {
    pub(super) writer: GroupWriter,
    pub(super) compactor: Compactor,
    pub(super) receiver: CommandReceiver,
    pub(super) queue: CommandQueue,
    pub(super) admission: Arc<QueueAdmission>,
    pub(super) wake_groups: Arc<WakeGroups>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) group_events_max: usize,
    pub(super) listener: CommitListener,
    /// What was kept while the device refused writes and is written first.
    pub(super) kept: PendingBatch,
}

impl Committer {
    /// Starts the thread. It ends on [`CommitterCommand::Stop`], after everything sent before it.
    pub(super) fn start(mut self) -> std::io::Result<JoinHandle<()>> {
        threads::start("wabahook-committer", None, move || {
            let ended = catch_unwind(AssertUnwindSafe(|| self.run()));
            let why = match ended {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(_) => Error::Poisoned { why: "the committer panicked".to_owned() },
            };
            (self.listener)(CommitEvent::Failed(why));
        })
    }

    fn run(&mut self) -> Result<()> {
        let (mut scheduling, mut waits) =
            (ThreadScheduling::of_this_thread(), CpuWaitMeter::of_this_thread());
        let mut monitor = ContentionMonitor::default();
        loop {
            let patience = self.compactor.has_leftovers(&self.writer).then_some(CLEAN_UP_AFTER);
            let mut batch = std::mem::take(&mut self.kept);
            if batch.is_empty() {
                batch.fill(&self.receiver, self.group_events_max, patience);
            }
            let waited_us = waits.read_us();
            let now_ms = self.clock.monotonic_ms();
            if !batch.is_empty() && monitor.record(batch.size(), waited_us, now_ms) {
                scheduling.set_batch(monitor.should_yield());
                (self.listener)(CommitEvent::BatchedArrivals(monitor.should_yield()));
            }
            if self.step(batch)?.is_break() {
                return Ok(());
            }
        }
    }

    /// One turn of the loop without waiting: commits what is queued, or cleans up if nothing is. Returns whether
    /// there was anything to do.
    pub(super) fn step_now(&mut self) -> Result<bool> {
        let mut batch = std::mem::take(&mut self.kept);
        if batch.is_empty() {
            batch.take_queued(&self.receiver, self.group_events_max);
        }
        if batch.is_empty() && !self.compactor.has_leftovers(&self.writer) {
            return Ok(false);
        }
        self.step(batch).map(|_| true)
    }

    fn step(&mut self, mut batch: PendingBatch) -> Result<ControlFlow<()>> {
        let stop = batch.stop;
        if batch.is_empty() && !stop {
            self.compactor.clean_up(&mut self.writer)?;
            return Ok(ControlFlow::Continue(()));
        }
        self.wake_groups.start_next();
        let seals = std::mem::take(&mut batch.seals);
        if !batch.is_empty() {
            self.commit(batch)?;
        }
        for sender in seals {
            sender.send(self.seal());
        }
        if stop {
            return Ok(ControlFlow::Break(()));
        }
        self.compactor.maintain(&mut self.writer)?;
        Ok(ControlFlow::Continue(()))
    }

    fn commit(&mut self, mut batch: PendingBatch) -> Result<()> {
        let wall_ms = self.clock.wall_ms();
        let cursor = &mut self.writer.cursor;
        let reserved = cursor.meta.reserved;
        cursor.removed.extend(batch.forgotten.iter().map(|(id, _)| *id));
        for (id, _) in &batch.forgotten {
            cursor.health.remove(id);
        }
        let submissions = std::mem::take(&mut batch.submissions);
        let mut group = group_builder::build(cursor, submissions, &batch.records, wall_ms)?;
        group.prepend(tombstone_pages(&batch, wall_ms));
        let started_ms = self.clock.monotonic_ms();
        let written = self.writer.write(&mut group);
        let took_ms = self.clock.monotonic_ms().saturating_sub(started_ms);
        self.admission.release(batch.events, batch.bytes);
        if let Err(error) = written {
            self.writer.cursor.meta.reserved = reserved;
            return self.stall(FailedWrite { group, error }, batch);
        }
        self.committed(&batch, group, took_ms);
        self.drop_letters(wall_ms);
        if let Some(dropped) = self.writer.cursor.dedup.take_dropped() {
            (self.listener)(CommitEvent::KeysDropped(dropped));
        }
        match self.compactor.finish(&mut self.writer, &batch.cleared, &mut self.listener) {
            Ok(()) => Ok(()),
            Err(failed) => self.stall(*failed, PendingBatch::default()),
        }
    }

    /// Counts and reports a durable group, and resolves the receipts of its batch.
    fn committed(&mut self, batch: &PendingBatch, mut group: CommitGroup, took_ms: u64) {
        let ended = group.ended.drain(..).chain(batch.cancelled.iter().flatten());
        self.writer.generations.update(|index| ended.for_each(|sequence| index.ended(sequence)));
        let revived: Vec<_> = group.revived.drain(..).map(|letter| letter.delivery).collect();
        let discarded: Vec<_> = group.discarded.drain(..).map(|letter| letter.delivery).collect();
        self.compactor.note_group(&self.writer, &batch.records, &revived, group.synced);
        let cursor = &mut self.writer.cursor;
        let tombstones = cursor.tombstones.entry(cursor.generation).or_default();
        tombstones.extend(batch.forgotten.iter().map(|(id, _)| *id));
        self.writer.generations.update(|index| {
            revived.iter().for_each(|delivery| index.revived(delivery.sequence));
        });
        let settled_mains = std::mem::take(&mut group.settled_mains);
        self.answer_submissions(group, took_ms);
        self.answer_records(batch, revived, discarded, settled_mains);
    }

    fn answer_submissions(&mut self, mut group: CommitGroup, took_ms: u64) {
        let answered: usize = group.answers.iter().map(|(_, accepted)| accepted.len()).sum();
        let totals = GroupTotals {
            accepted: answered as u64 - group.duplicates,
            unrouted: group.unrouted,
            duplicates: group.duplicates,
            synced: group.synced,
            took_ms,
        };
        let traced = std::mem::take(&mut group.traced);
        if !traced.is_empty() {
            (self.listener)(CommitEvent::Traced(traced));
        }
        (self.listener)(CommitEvent::Group(totals, group.owed));
        stall::accept_group(&mut group.answers);
    }

    fn answer_records(
        &mut self,
        batch: &PendingBatch,
        revived: Vec<DeliveryId>,
        discarded: Vec<DeliveryId>,
        settled_mains: Vec<DeliveryId>,
    ) {
        let taken: HashSet<DeliveryId> = revived.iter().chain(&discarded).copied().collect();
        if !revived.is_empty() {
            (self.listener)(CommitEvent::Revived(revived));
        }
        if !settled_mains.is_empty() {
            (self.listener)(CommitEvent::Settled(settled_mains));
        }
        batch.forgotten.iter().for_each(|(_, sender)| sender.send(Ok(())));
        batch.record_waiters.iter().for_each(|sender| sender.send(Ok(())));
        for (sender, requested) in &batch.letter_waiters {
            let count = requested.iter().filter(|delivery| taken.contains(delivery)).count();
            sender.send(Ok(count as u64));
        }
    }

    /// Drops the dead letters that are over their bounds, with their histories. The next group writes their end.
    fn drop_letters(&mut self, wall_ms: u64) {
        let generations = &*self.writer.generations;
        let dropped = self.writer.cursor.letters.lock().trim(wall_ms, generations);
        if dropped.is_empty() {
            return;
        }
        let mut attempts = self.writer.cursor.attempts.lock();
        dropped.iter().for_each(|letter| attempts.forget(letter.delivery));
        drop(attempts);
        let ended = dropped.iter().map(|letter| letter.delivery);
        self.writer.cursor.dropped_letters.extend(ended);
        for letters in dropped.chunk_by(|one, next| one.account == next.account) {
            let share = letters.first().and_then(|one| generations.accounts().share(one.account));
            let account = share.map_or_else(|| "".into(), |share| Arc::clone(share.name()));
            let letters = letters.len() as u64;
            (self.listener)(CommitEvent::LettersDropped { account, letters });
        }
    }

    /// Waits until the device accepts writes again. The batch it kept meanwhile is written by the loop and not
    /// here, so that a device that comes and goes does not nest calls.
    fn stall(&mut self, failed: FailedWrite, batch: PendingBatch) -> Result<()> {
        let stall = Stall {
            writer: &mut self.writer,
            receiver: &self.receiver,
            admission: &self.admission,
            listener: &mut self.listener,
            clock: &*self.clock,
        };
        match stall.wait(failed, batch)? {
            Some(kept) => self.kept = kept,
            // The records are lost with the process, so their attempts repeat (I3).
            None => self.queue.send(CommitterCommand::Stop),
        }
        Ok(())
    }
}

fn tombstone_pages(batch: &PendingBatch, wall_ms: u64) -> Vec<Operation> {
    let removed: Vec<_> = batch.forgotten.iter().map(|(id, _)| *id).collect();
    let pages = tombstones::pages(&removed, wall_ms);
    pages.map(|(key, page)| Operation::Put(key, page)).collect()
}
