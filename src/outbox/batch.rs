//! The committer's queue, and the batch of commands that it takes out of the queue for one group.
//!
//! Commands are taken in the order sent, but accounts take turns (see `accounts::queues`), and a batch is bounded in
//! events, bytes and records. A batch that contains nothing but records waits a few milliseconds for more, because no
//! thread waits for a record and a sync per record would take the device away from publishers. While it waits, only a
//! command that a thread waits for wakes the committer: waking it for each record would cost every delivery two thread
//! switches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use parking_lot::{Condvar, Mutex};
use roaring::RoaringTreemap;

use crate::attempt::{DeliveryId, Record};
use crate::error::Error;
use crate::receipt::ReceiptSender;
use crate::subscription::SubscriptionId;

use super::accounts::queues::AccountQueues;
use super::admission::QueueAdmission;
use super::command::{CommitterCommand, SealedOutbox, Submission, answer_all};
use super::records::BatchRecords;

/// How long a batch of nothing but records waits for more.
const RECORDS_LINGER: Duration = Duration::from_millis(5);

const RECORDS_MAX: usize = 8_192;

/// How many payload bytes a batch may have before its last submission.
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;

pub(super) fn command_queue() -> (CommandQueue, CommandReceiver) {
    let (sender, commands) = crossbeam_channel::unbounded();
    let linger = Arc::<Linger>::default();
    let queues = Mutex::default();
    let receiver = CommandReceiver { commands, queues, linger: Arc::clone(&linger) };
    (CommandQueue { sender, linger }, receiver)
}

#[derive(Clone)]
pub(super) struct CommandQueue {
    sender: Sender<CommitterCommand>,
    linger: Arc<Linger>,
}

pub(super) struct CommandReceiver {
    pub(super) commands: Receiver<CommitterCommand>,
    /// Only the committer locks it.
    queues: Mutex<AccountQueues>,
    linger: Arc<Linger>,
}

#[derive(Default)]
struct Linger {
    /// Whether the committer waits for more records instead of waiting in the channel.
    is_on: AtomicBool,
    /// The committer holds it from before it sets `is_on` until it waits.
    starting: Mutex<()>,
    over: Condvar,
}

impl CommandQueue {
    /// Sends a command. The channel has no bound of its own: admission is the bound. After the engine has
    /// closed, the command is dropped, which resolves its receipts as closed.
    pub(super) fn send(&self, command: CommitterCommand) {
        let is_awaited = command.is_awaited();
        let _ = self.sender.send(command);
        if !is_awaited {
            return;
        }
        // Either this thread sees that the committer lingers, or the committer sees the command: each
        // writes before it reads what the other writes.
        fence(Ordering::SeqCst);
        if self.linger.is_on.load(Ordering::Relaxed) {
            drop(self.linger.starting.lock());
            self.linger.over.notify_one();
        }
    }
}

impl CommandReceiver {
    /// Waits until a command arrives that a thread waits for, at most for `timeout`. `should_wait` takes
    /// what is already in the queue and says whether to wait at all.
    fn linger(&self, timeout: Duration, should_wait: impl FnOnce() -> bool) {
        let Linger { is_on, starting, over } = &*self.linger;
        let mut started = starting.lock();
        is_on.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if should_wait() {
            over.wait_for(&mut started, timeout);
        }
        is_on.store(false, Ordering::Relaxed);
    }
}

/// The commands of one group.
#[derive(Default)]
pub(super) struct PendingBatch {
    pub(super) submissions: Vec<Submission>,
    pub(super) records: BatchRecords,
    pub(super) forgotten: Vec<(SubscriptionId, ReceiptSender<()>)>,
    /// The callers that wait for one of the records.
    pub(super) record_waiters: Vec<ReceiptSender<()>>,
    /// The callers that wait for dead letters to be owed again or discarded, and which letters.
    pub(super) letter_waiters: Vec<(ReceiptSender<u64>, Vec<DeliveryId>)>,
    /// The callers that wait until the batch is in a sealed generation.
    pub(super) seals: Vec<ReceiptSender<SealedOutbox>>,
    pub(super) cancelled: Vec<RoaringTreemap>,
    /// Generations that may be cleared after this group is committed.
    pub(super) cleared: Vec<u64>,
    pub(super) events: usize,
    payload_bytes: usize,
    /// What its events took in the queue.
    pub(super) bytes: usize,
    pub(super) stop: bool,
}

impl PendingBatch {
    /// Waits for the first command, at most for `patience` if given, then takes what else is in the queue,
    /// up to the bounds. A batch of nothing but records lingers once.
    pub(super) fn fill(
        &mut self,
        receiver: &CommandReceiver,
        events_max: usize,
        patience: Option<Duration>,
    ) {
        if receiver.queues.lock().is_empty() {
            let first = match patience {
                Some(patience) => receiver.commands.recv_timeout(patience),
                None => receiver.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Ok(command) => self.sort(command, &mut receiver.queues.lock()),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => self.stop = true,
            }
        }
        self.take_queued(receiver, events_max);
        if self.stop || !self.is_only_records() {
            return;
        }
        receiver.linger(RECORDS_LINGER, || {
            self.take_queued(receiver, events_max);
            !self.stop && self.is_only_records() && !self.is_full(events_max)
        });
        self.take_queued(receiver, events_max);
    }

    /// Takes a command, or keeps it until the turn of its account.
    fn sort(&mut self, command: CommitterCommand, queues: &mut AccountQueues) {
        if let Some(command) = queues.sort(command) {
            self.take(command);
        }
    }

    /// Takes commands for `pause` while the device refuses writes: keeps records and removals, and refuses
    /// publishers.
    pub(super) fn fill_while_stalled(
        &mut self,
        receiver: &CommandReceiver,
        admission: &QueueAdmission,
        pause: Duration,
    ) {
        while let Some(command) = receiver.queues.lock().next() {
            self.take(command);
        }
        self.refuse_waiters(admission);
        let commands = &receiver.commands;
        let paused = crossbeam_channel::after(pause);
        while !self.stop {
            crossbeam_channel::select! {
                recv(commands) -> command => match command {
                    Ok(command) => self.take(command),
                    Err(_) => self.stop = true,
                },
                recv(paused) -> _ => break,
            }
            self.refuse_waiters(admission);
        }
    }

    /// Tells everyone who waits that nothing of theirs was written. Their records and removals stay in the
    /// batch and are written when the device accepts writes again.
    fn refuse_waiters(&mut self, admission: &QueueAdmission) {
        let refused = || Error::Refused { why: admission.stall_reason().unwrap_or_default() };
        answer_all(self.submissions.iter().map(|one| (&one.sender, Err(refused()))));
        self.fail_record_waiters(&refused());
        self.seals.drain(..).for_each(|sender| sender.send(Err(refused())));
        admission.release(self.events, self.bytes);
        self.forget_events();
    }

    /// Keeps the records and removals of a failed group only.
    pub(super) fn forget_events(&mut self) {
        self.submissions.clear();
        self.record_waiters.clear();
        (self.events, self.payload_bytes, self.bytes) = (0, 0, 0);
    }

    /// Tells those who wait for a record that it is not on the device.
    pub(super) fn fail_record_waiters(&self, error: &Error) {
        let removals = self.forgotten.iter().map(|(_, sender)| sender);
        removals.chain(&self.record_waiters).for_each(|sender| sender.send(Err(error.clone())));
        self.letter_waiters.iter().for_each(|(sender, _)| sender.send(Err(error.clone())));
    }

    /// Takes what is in the queue, up to the bounds; the accounts take turns.
    pub(super) fn take_queued(&mut self, receiver: &CommandReceiver, events_max: usize) {
        let queues = &mut receiver.queues.lock();
        while !self.stop && !self.is_full(events_max) {
            let is_connected = self.sort_queued(&receiver.commands, queues);
            match queues.next() {
                Some(command) => self.take(command),
                None if is_connected => return,
                None => self.stop = true,
            }
        }
    }

    /// Sorts in what is in the channel. Returns false once all senders are gone.
    fn sort_queued(
        &mut self,
        commands: &Receiver<CommitterCommand>,
        queues: &mut AccountQueues,
    ) -> bool {
        while !queues.has_barrier() && self.records.len() < RECORDS_MAX {
            match commands.try_recv() {
                Ok(command) => self.sort(command, queues),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    fn take(&mut self, command: CommitterCommand) {
        match command {
            CommitterCommand::Publish(submission, size) => {
                self.events += size.events;
                self.payload_bytes += size.payload_bytes;
                self.bytes += size.payload_bytes + size.target_bytes;
                self.submissions.push(submission);
            }
            CommitterCommand::Change(records, waiter) => {
                self.records.push(records);
                self.record_waiters.extend(waiter);
            }
            CommitterCommand::Forget(id, sender) => self.forgotten.push((id, sender)),
            CommitterCommand::Revive(deliveries, sender) => {
                for together in &deliveries {
                    self.records.push_together(together.iter().copied().map(Record::Revive));
                }
                self.letter_waiters.push((sender, deliveries.concat()));
            }
            CommitterCommand::Discard(deliveries, sender) => {
                for delivery in &deliveries {
                    self.records.push([Record::Discard(*delivery)]);
                }
                self.letter_waiters.push((sender, deliveries));
            }
            CommitterCommand::Cancel(sequences) => self.cancelled.push(sequences),
            CommitterCommand::Seal(sender) => self.seals.push(sender),
            CommitterCommand::Clear(generation) => self.cleared.push(generation),
            CommitterCommand::Stop => self.stop = true,
        }
    }

    /// The number of `publish` calls or of records, whichever is greater.
    pub(super) fn size(&self) -> usize {
        self.submissions.len().max(self.records.len())
    }

    fn is_only_records(&self) -> bool {
        let has_waiters = !self.forgotten.is_empty() || !self.record_waiters.is_empty();
        let is_sealing = !self.seals.is_empty();
        self.submissions.is_empty() && !has_waiters && !is_sealing && self.letter_waiters.is_empty()
    }

    fn is_full(&self, events_max: usize) -> bool {
        self.events >= events_max
            || self.payload_bytes >= BATCH_BYTES_MAX
            || self.records.len() >= RECORDS_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        let has_notes = !self.cancelled.is_empty() || !self.cleared.is_empty();
        self.is_only_records() && self.records.is_empty() && !has_notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::receipt_pair;
    use std::time::Instant;

    /// No test takes as long; one that waits for it has failed.
    const DEADLINE: Duration = Duration::from_secs(60);

    fn settle(sequence: u64, waiter: Option<ReceiptSender<()>>) -> CommitterCommand {
        let delivery = DeliveryId { sequence, subscription: SubscriptionId(1) };
        CommitterCommand::Change([Record::Settle(delivery)].into(), waiter)
    }

    #[test]
    fn an_awaited_command_always_ends_the_linger() {
        let (queue, receiver) = command_queue();
        for n in 0..2_000 {
            let queue = queue.clone();
            let sender = std::thread::spawn(move || queue.send(settle(n, Some(receipt_pair().0))));
            let started = Instant::now();
            receiver.linger(DEADLINE, || receiver.commands.is_empty());
            assert!(started.elapsed() < DEADLINE, "the command was not seen");
            assert!(receiver.commands.try_recv().is_ok());
            sender.join().unwrap();
        }
    }

    #[test]
    fn other_commands_do_not_end_the_linger_and_stay_queued() {
        let (queue, receiver) = command_queue();
        let short = Duration::from_millis(20);
        let started = Instant::now();
        receiver.linger(short, || {
            queue.send(settle(1, None));
            queue.send(CommitterCommand::Cancel([2].into_iter().collect()));
            true
        });
        assert!(started.elapsed() >= short);
        assert_eq!(receiver.commands.len(), 2);
        receiver.linger(DEADLINE, || false);
        assert_eq!(receiver.commands.len(), 2);
    }
}
