//! The handle through which the engine uses the outbox.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use roaring::RoaringTreemap;
use smallvec::SmallVec;

use super::accounts::shares::SharedRoom;
use crate::attempt::{DeliveryId, Record};
use crate::clock::Clock;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::event::Catalogue;
use crate::process::HostCalls;
use crate::receipt::{Receipt, ReceiptSender, WakeGroups, receipt_pair, receipt_pair_in};
use crate::subscription::SubscriptionId;

use super::admission::QueueAdmission;
use super::attempts::AttemptIndex;
use super::batch::{CommandQueue, CommandReceiver, PendingBatch, command_queue};
use super::command::{ATOMIC_RECORDS_MAX, CommitterCommand, Submission};
use super::commit_event::{CommitListener, OwedEvent};
use super::committer::Committer;
use super::compaction::{CompactionBounds, Compactor, OwedQuery};
use super::cursor::Cursor;
use super::dead_letters::DeadLetterIndex;
use super::dedup::database::DedupDatabase;
use super::event_cache::EventCache;
use super::generations::{Generations, OutboxUsage};
use super::recovery::OpenedOutbox;
use super::writer::GroupWriter;

pub(crate) struct Outbox {
    pub(super) queue: CommandQueue,
    admission: Arc<QueueAdmission>,
    wake_groups: Arc<WakeGroups>,
    pub(super) cache: Mutex<EventCache>,
    pub(super) generations: Arc<Generations>,
    pub(super) letters: Arc<Mutex<DeadLetterIndex>>,
    pub(super) attempts: Arc<Mutex<AttemptIndex>>,
    pub(super) catalogue: Catalogue,
    stored_removals: Arc<Mutex<HashSet<SubscriptionId>>>,
    bounds: CompactionBounds,
    committer: Mutex<Option<JoinHandle<()>>>,
    /// The committer of an engine without a committer thread.
    stepped: Mutex<Option<Committer>>,
}

pub(crate) struct CommitterParts {
    receiver: CommandReceiver,
    cursor: Cursor,
    dedup_database: DedupDatabase,
    group_events_max: usize,
}

impl OpenedOutbox {
    /// Makes the handle. The committer starts with [`Outbox::start`].
    pub(crate) fn prepare(
        self,
        limits: &Limits,
        wakers: Arc<HostCalls>,
    ) -> (Outbox, CommitterParts) {
        let (queue, receiver) = command_queue();
        let OpenedOutbox { generations, cursor, dedup_database, catalogue } = self;
        let outbox = Outbox {
            queue,
            admission: Arc::new(QueueAdmission::new(limits)),
            wake_groups: Arc::new(WakeGroups::new(limits.group_events_max, wakers)),
            cache: Mutex::new(EventCache::new(limits.cache_bytes_max)),
            generations: Arc::new(generations),
            letters: Arc::clone(&cursor.letters),
            attempts: Arc::clone(&cursor.attempts),
            stored_removals: Arc::clone(&cursor.stored_removals),
            catalogue,
            bounds: CompactionBounds {
                generation_bytes: limits.generation_bytes,
                events_max: limits.outbox_events_max,
                bytes_max: limits.outbox_bytes_max,
            },
            committer: Mutex::new(None),
            stepped: Mutex::new(None),
        };
        let parts = CommitterParts {
            receiver,
            cursor,
            dedup_database,
            group_events_max: limits.group_events_max,
        };
        (outbox, parts)
    }
}

impl Outbox {
    /// Starts the committer, which reports to `listener` what it made durable and asks `owed_query` what is still
    /// owed when it copies.
    pub(crate) fn start(
        &self,
        parts: CommitterParts,
        clock: Arc<dyn Clock>,
        owed_query: OwedQuery,
        listener: CommitListener,
    ) -> Result<()> {
        let thread = self.committer(parts, clock, owed_query, listener).start();
        let thread = thread.map_err(Error::thread)?;
        *self.committer.lock() = Some(thread);
        Ok(())
    }

    #[cfg(any(test, feature = "testing"))]
    /// Takes the committer without starting a thread for it: it works in [`step`](Outbox::step).
    pub(crate) fn start_stepped(
        &self,
        parts: CommitterParts,
        clock: Arc<dyn Clock>,
        owed_query: OwedQuery,
        listener: CommitListener,
    ) {
        *self.stepped.lock() = Some(self.committer(parts, clock, owed_query, listener));
    }

    /// Lets a committer without a thread do what is queued, up to one group. Returns whether there was anything
    /// to do.
    pub(crate) fn step(&self) -> Result<bool> {
        self.stepped.lock().as_mut().map_or(Ok(false), Committer::step_now)
    }

    fn committer(
        &self,
        parts: CommitterParts,
        clock: Arc<dyn Clock>,
        owed_query: OwedQuery,
        listener: CommitListener,
    ) -> Committer {
        let compactor = Compactor::new(
            self.catalogue.clone(),
            Arc::clone(&clock),
            self.bounds,
            owed_query,
            self.queue.clone(),
            parts.dedup_database,
        );
        let generations = Arc::clone(&self.generations);
        Committer {
            writer: GroupWriter { generations, cursor: parts.cursor },
            compactor,
            receiver: parts.receiver,
            queue: self.queue.clone(),
            admission: Arc::clone(&self.admission),
            wake_groups: Arc::clone(&self.wake_groups),
            clock,
            group_events_max: parts.group_events_max,
            listener,
            kept: PendingBatch::default(),
        }
    }

    /// Waits until the committer resolves a receipt. A committer without a thread does so here.
    pub(crate) fn wait<T: Clone>(&self, receipt: Receipt<T>) -> Result<T> {
        while !receipt.is_done() && self.step()? {}
        receipt.wait()
    }

    /// Reserves room for events that are [submitted](Outbox::submit) next, or says which bound is reached.
    pub(crate) fn admit(&self, events: usize, bytes: usize) -> std::result::Result<(), String> {
        self.check_room(events, bytes)?;
        self.admission.reserve(events, bytes)
    }

    /// Says which bound is reached, if there is no room for events now.
    pub(crate) fn check_room(
        &self,
        events: usize,
        bytes: usize,
    ) -> std::result::Result<(), String> {
        if let Some(why) = self.admission.stall_reason() {
            return Err(format!("the device refuses writes ({why}) and is tried again"));
        }
        let (owed_events, owed_bytes) = self.generations.owed();
        if owed_events + events as u64 > self.bounds.events_max {
            return Err(format!(
                "the outbox owes its maximum of {} events",
                self.bounds.events_max
            ));
        }
        if owed_bytes + bytes as u64 > self.bounds.bytes_max {
            return Err(format!("the outbox owes its maximum of {} bytes", self.bounds.bytes_max));
        }
        self.admission.check_room(events, bytes)
    }

    /// What is left of the bounds that all accounts share.
    pub(crate) fn shared_room(&self) -> SharedRoom {
        let (owed_events, owed_bytes) = self.generations.owed();
        let (queued_events, queued_bytes) = self.admission.left();
        SharedRoom {
            owed_events: self.bounds.events_max.saturating_sub(owed_events),
            owed_bytes: self.bounds.bytes_max.saturating_sub(owed_bytes),
            queued_events: queued_events as u64,
            queued_bytes: queued_bytes as u64,
        }
    }

    /// Whether no event would be admitted, because the outbox owes its maximum.
    pub(crate) fn is_full(&self) -> bool {
        let (events, bytes) = self.generations.owed();
        events >= self.bounds.events_max || bytes >= self.bounds.bytes_max
    }

    /// Both ends of a receipt for a submission that follows at once.
    pub(crate) fn promise<T: Clone>(&self) -> (ReceiptSender<T>, Receipt<T>) {
        receipt_pair_in(self.wake_groups.current())
    }

    /// Queues events, for which room was reserved, for the next group.
    pub(crate) fn submit(&self, submission: Submission) {
        let size = submission.queued_size();
        self.admission.add_target_bytes(size.target_bytes);
        self.queue.send(CommitterCommand::Publish(submission, size));
    }

    /// Queues a change of a delivery. Never refused: the attempts in flight are its bound.
    pub(crate) fn record(&self, record: Record) {
        self.queue.send(CommitterCommand::Change([record].into(), None));
    }

    /// Like [`record`](Outbox::record), with a receipt that resolves when the change is durable.
    pub(crate) fn record_and_tell(&self, record: Record) -> Receipt<()> {
        self.ask(|sender| CommitterCommand::Change([record].into(), Some(sender)))
    }

    /// Queues changes that take effect all together or not at all, also across a crash, because they are one
    /// batch of the store. At most [`ATOMIC_RECORDS_MAX`] records.
    pub(crate) fn record_together(&self, records: Vec<Record>) {
        debug_assert!(records.len() <= ATOMIC_RECORDS_MAX, "{} records together", records.len());
        self.queue.send(CommitterCommand::Change(records.into(), None));
    }

    /// Sends a command that a receipt answers.
    pub(super) fn ask<T: Clone>(
        &self,
        command: impl FnOnce(ReceiptSender<T>) -> CommitterCommand,
    ) -> Receipt<T> {
        let (sender, receipt) = receipt_pair();
        self.queue.send(command(sender));
        receipt
    }

    /// Makes the removal of a subscription durable: what it is owed is cancelled from then on.
    pub(crate) fn forget(&self, id: SubscriptionId) -> Receipt<()> {
        self.ask(|sender| CommitterCommand::Forget(id, sender))
    }

    /// Notes that the subscription store no longer has these subscriptions: nothing needs their tombstones.
    pub(crate) fn removals_stored(&self, removed: &[SubscriptionId]) {
        self.stored_removals.lock().extend(removed);
    }

    /// Makes dead letters owed again, those of one vector all together or not at all. The listener is told, then
    /// the receipt resolves with how many were dead letters.
    pub(crate) fn revive(&self, deliveries: Vec<Vec<DeliveryId>>) -> Receipt<u64> {
        debug_assert!(deliveries.iter().all(|together| together.len() <= ATOMIC_RECORDS_MAX));
        self.ask(|sender| CommitterCommand::Revive(deliveries, sender))
    }

    /// Ends dead letters that the host no longer wants. The receipt resolves with how many were dead letters.
    pub(crate) fn discard(&self, deliveries: Vec<DeliveryId>) -> Receipt<u64> {
        self.ask(|sender| CommitterCommand::Discard(deliveries, sender))
    }

    /// Waits until the changes of deliveries that were sent before are durable, at most so long. Unlike
    /// [`flush`](Outbox::flush) it holds up no event that is published meanwhile.
    pub(crate) fn settle(&self, at_most: Duration) -> Result<()> {
        let receipt = self.ask(|sender| CommitterCommand::Change(SmallVec::new(), Some(sender)));
        while !receipt.is_done() && self.step()? {}
        receipt.wait_timeout(at_most).unwrap_or(Ok(()))
    }

    /// Waits until everything that was sent before is durable.
    pub(crate) fn flush(&self) -> Result<()> {
        self.wait(self.discard(Vec::new())).map(drop)
    }

    /// Ends what a removed subscription was owed.
    pub(crate) fn cancel(&self, sequences: RoaringTreemap) {
        self.queue.send(CommitterCommand::Cancel(sequences));
    }

    /// Keeps the events of a group in memory for their deliveries.
    pub(crate) fn cache_events(&self, owed: &[OwedEvent]) {
        let mut cache = self.cache.lock();
        for OwedEvent { event, targets } in owed {
            cache.keep(Arc::clone(event), targets.len() as u64);
        }
    }

    pub(crate) fn usage(&self) -> OutboxUsage {
        self.generations.totals()
    }

    /// Events and payload bytes that wait for the device.
    pub(crate) fn queued(&self) -> (usize, usize) {
        self.admission.queued()
    }

    /// Asks the committer to end after what was sent before, without waiting for it.
    pub(crate) fn signal_stop(&self) {
        self.queue.send(CommitterCommand::Stop);
    }

    /// Ends the committer after what was sent before, waits for it, and closes the databases.
    pub(crate) fn close(&self) {
        self.signal_stop();
        let thread = self.committer.lock().take();
        if let Some(thread) = thread {
            // A panic of the committer was reported to the listener.
            let _ = thread.join();
        }
        self.generations.close();
    }
}
