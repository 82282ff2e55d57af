//! Decides what goes into a group together: what was waiting when it was begun.
//!
//! Leaves to others: building and writing it. Invariant: commands are taken in the order sent, and
//! a group is bounded in events, bytes and records.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use roaring::RoaringTreemap;

use crate::attempt::{DeliveryId, Record};
use crate::error::Error;
use crate::receipt::Promised;
use crate::subscription::SubscriptionId;

use super::Admission;
use super::committer::Command;
use super::group::{Submission, answer_all};
use super::queue::Waiting;
use super::records::Records;

/// How long a group that holds nothing but records waits for company: nobody waits for a record,
/// and a sync for each would take the device from those who publish.
const RECORDS_LINGER: Duration = Duration::from_millis(5);

/// How many records one group takes at most.
const RECORDS_MAX: usize = 8_192;

/// How many payload bytes one group takes beside its last submission.
const GROUP_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What was waiting when a group was begun.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) submissions: Vec<Submission>,
    pub(super) records: Records,
    pub(super) forgotten: Vec<(SubscriptionId, Promised<()>)>,
    /// Who waits for one of the records.
    pub(super) awaited: Vec<Promised<()>>,
    /// Who waits for dead letters to be owed again, and for which.
    pub(super) revivals: Vec<(Promised<u64>, Vec<DeliveryId>)>,
    pub(super) cancelled: Vec<RoaringTreemap>,
    /// Generations that may go once this group is committed.
    pub(super) cleared: Vec<u64>,
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) stop: bool,
}

impl Taken {
    /// Waits for the first command, for `patience` if there is one, then takes what else is
    /// waiting, up to the bounds. A group that holds nothing but records waits for company, once.
    pub(super) fn fill(
        &mut self,
        waiting: &Waiting,
        events_max: usize,
        patience: Option<Duration>,
    ) {
        let commands = &waiting.commands;
        let first = match patience {
            Some(patience) => commands.recv_timeout(patience),
            None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match first {
            Ok(command) => self.take(command),
            Err(RecvTimeoutError::Timeout) => return,
            Err(RecvTimeoutError::Disconnected) => self.stop = true,
        }
        self.take_waiting(commands, events_max);
        if self.stop || !self.only_records() {
            return;
        }
        waiting.linger(RECORDS_LINGER, || {
            self.take_waiting(commands, events_max);
            !self.stop && self.only_records() && !self.is_full(events_max)
        });
        self.take_waiting(commands, events_max);
    }

    /// While the device refuses, for `pause`: keeps records and removals, and refuses publishers.
    pub(super) fn take_while_stalled(
        &mut self,
        commands: &Receiver<Command>,
        admission: &Admission,
        pause: Duration,
    ) {
        let paused = crossbeam_channel::after(pause);
        while !self.stop {
            crossbeam_channel::select! {
                recv(commands) -> command => match command {
                    Ok(command) => self.take(command),
                    Err(_) => self.stop = true,
                },
                recv(paused) -> _ => break,
            }
            self.refuse_those_who_wait(admission);
        }
    }

    /// Nothing of what they brought was written.
    fn refuse_those_who_wait(&mut self, admission: &Admission) {
        let refused = || Error::Refused { why: admission.stalled().unwrap_or_default() };
        let refusals = self.submissions.iter().map(|one| (&one.promised, Err(refused())));
        answer_all(refusals);
        self.submissions.clear();
        // What they asked for is written when the device takes writes; they wait no longer.
        self.answer_records(&refused());
        self.awaited.clear();
        admission.release(std::mem::take(&mut self.events), std::mem::take(&mut self.bytes));
    }

    /// Tells those who wait for a record that it is not on the device.
    pub(super) fn answer_records(&self, error: &Error) {
        let waiting = self.forgotten.iter().map(|(_, promised)| promised).chain(&self.awaited);
        waiting.for_each(|promised| promised.keep(Err(error.clone())));
        self.revivals.iter().for_each(|(promised, _)| promised.keep(Err(error.clone())));
    }

    /// Takes what is waiting, up to the bounds.
    pub(super) fn take_waiting(&mut self, commands: &Receiver<Command>, events_max: usize) {
        while !self.stop && !self.is_full(events_max) {
            match commands.try_recv() {
                Ok(command) => self.take(command),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.stop = true,
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Publish(submission) => {
                self.events += submission.events.len();
                self.bytes += super::payload_bytes(&submission);
                self.submissions.push(submission);
            }
            Command::Record(record) => self.records.push(record),
            Command::RecordAndTell(record, promised) => {
                self.records.push(record);
                self.awaited.push(promised);
            }
            Command::Forget(id, promised) => self.forgotten.push((id, promised)),
            Command::RecordTogether(records) => self.records.push_together(records),
            Command::Revive(deliveries, promised) => {
                for together in &deliveries {
                    self.records.push_together(together.iter().copied().map(Record::Revive));
                }
                self.revivals.push((promised, deliveries.concat()));
            }
            Command::Cancel(sequences) => self.cancelled.push(sequences),
            Command::Clear(generation) => self.cleared.push(generation),
            Command::Stop => self.stop = true,
        }
    }

    /// How many calls of `publish` came together, or ends of attempts, whichever are more.
    pub(super) fn together(&self) -> usize {
        self.submissions.len().max(self.records.len())
    }

    fn only_records(&self) -> bool {
        let nobody_waits = self.forgotten.is_empty() && self.awaited.is_empty();
        self.submissions.is_empty() && nobody_waits && self.revivals.is_empty()
    }

    fn is_full(&self, events_max: usize) -> bool {
        self.events >= events_max
            || self.bytes >= GROUP_BYTES_MAX
            || self.records.len() >= RECORDS_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        let nothing_to_note = self.cancelled.is_empty() && self.cleared.is_empty();
        self.only_records() && self.records.is_empty() && nothing_to_note
    }
}
