//! Decides when a group is written: the one thread that writes to the outbox.
//!
//! Leaves to others: what a group holds (`group`) and what follows from it (the sink). Invariant
//! (I1): a receipt is kept only after the group that holds its events was applied and synced, and
//! the committer never waits on a send, so no cycle of waiting can form.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};

use crate::attempt::Record;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::receipt::Promised;
use crate::store::{Database, Operation};
use crate::subscription::SubscriptionId;

use super::group::{self, Cursor, Group, Owed, Submission};
use super::{Admission, keys};

/// What the committer is asked to make durable.
pub(super) enum Command {
    Publish(Submission),
    Record(Record),
    Forget(SubscriptionId, Promised<()>),
    Stop,
}

/// What the committer tells the engine.
#[derive(Debug)]
pub(crate) enum Committed {
    /// A group is durable; receipts are kept right after this returns.
    Group {
        /// The events in it that somebody is owed.
        owed: Vec<Owed>,
        /// How many events were accepted, duplicates left out.
        accepted: u64,
        /// Of these, how many nobody asked for.
        unrouted: u64,
        /// How many were duplicates of earlier events.
        duplicates: u64,
        /// Whether anything was written and synced.
        synced: bool,
    },
    /// The committer stopped because a write failed or it panicked.
    Failed(String),
}

/// Receives what was committed, on the committer's thread. It must not block.
pub(crate) type Sink = Box<dyn FnMut(Committed) + Send>;

/// How long a group that holds nothing but records waits for company: nobody waits for a record,
/// and a sync for each would take the device from those who publish.
const RECORDS_LINGER: Duration = Duration::from_millis(5);

/// How many records one group takes at most.
const RECORDS_MAX: usize = 8_192;

/// How many payload bytes one group takes beside its last submission.
const GROUP_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The committer's belongings.
pub(super) struct Committer {
    pub(super) database: Arc<dyn Database>,
    pub(super) cursor: Cursor,
    pub(super) commands: Receiver<Command>,
    pub(super) admission: Arc<Admission>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) group_events_max: usize,
    pub(super) sink: Sink,
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
            let mut taken = Taken::default();
            taken.fill(&self.commands, self.group_events_max);
            if !taken.is_empty() {
                self.commit(&mut taken)?;
            }
            if taken.stop {
                return Ok(());
            }
        }
    }

    fn commit(&mut self, taken: &mut Taken) -> Result<()> {
        let wall_ms = self.clock.wall_ms();
        let submissions = std::mem::take(&mut taken.submissions);
        let (events, bytes) = (taken.events, taken.bytes);
        let mut group = group::build(&mut self.cursor, submissions, &taken.records, wall_ms)?;
        self.forget(taken, wall_ms, &mut group);
        let expired = self.expired_dedup_keys()?;
        group.operations.splice(0..0, expired);
        let synced = !group.operations.is_empty();
        let written = self.write(&mut group);
        self.admission.release(events, bytes);
        match written {
            Ok(()) => {
                self.tell(group, synced);
                Ok(())
            }
            Err(error) => {
                let unknown = Error::Unknown { why: error.to_string() };
                group.answers.iter().for_each(|(answer, _)| answer.keep(Err(unknown.clone())));
                group.forgotten.iter().for_each(|promised| promised.keep(Err(unknown.clone())));
                Err(error)
            }
        }
    }

    fn forget(&mut self, taken: &mut Taken, wall_ms: u64, group: &mut Group) {
        for (id, promised) in taken.forgotten.drain(..) {
            let key = keys::of_subscription(keys::TOMBSTONE, id);
            let sealed = crate::store::record::seal(group::VERSION, &wall_ms.to_le_bytes());
            group.operations.insert(0, Operation::Put(key, sealed));
            group.forgotten.push(promised);
        }
    }

    /// Pages of dedup keys that are past their window, a few with each group.
    fn expired_dedup_keys(&mut self) -> Result<Vec<Operation>> {
        const KEYS_PER_GROUP: usize = 32;
        let Some(bucket) = self.cursor.dedup.expired_bucket() else { return Ok(Vec::new()) };
        let mut removals = Vec::new();
        let prefix = keys::numbered(keys::DEDUP, bucket);
        let visit: &mut crate::store::Visit<'_> = &mut |key, _| {
            removals.push(Operation::Remove(key.to_vec()));
            match removals.len() < KEYS_PER_GROUP {
                true => std::ops::ControlFlow::Continue(()),
                false => std::ops::ControlFlow::Break(()),
            }
        };
        let scanned = self.database.scan(&prefix, b"", visit);
        scanned.map_err(|failure| Error::store("looking for old dedup pages", failure))?;
        if removals.len() < KEYS_PER_GROUP {
            self.cursor.dedup.removed(bucket);
        }
        Ok(removals)
    }

    fn write(&self, group: &mut Group) -> Result<()> {
        let batches = group.take_batches();
        if batches.is_empty() {
            return Ok(());
        }
        for batch in batches {
            let applied = self.database.apply(batch);
            applied.map_err(|failure| Error::store("writing a group", failure))?;
        }
        self.database.sync().map_err(|failure| Error::store("syncing a group", failure))
    }

    fn tell(&mut self, group: Group, synced: bool) {
        let answered: usize = group.answers.iter().map(|(_, accepted)| accepted.len()).sum();
        (self.sink)(Committed::Group {
            owed: group.owed,
            accepted: answered as u64 - group.duplicates,
            unrouted: group.unrouted,
            duplicates: group.duplicates,
            synced,
        });
        group.answers.into_iter().for_each(|(answer, accepted)| answer.keep(Ok(accepted)));
        group.forgotten.iter().for_each(|promised| promised.keep(Ok(())));
    }
}

/// What was waiting when a group was begun.
#[derive(Default)]
struct Taken {
    submissions: Vec<Submission>,
    records: Vec<Record>,
    forgotten: Vec<(SubscriptionId, Promised<()>)>,
    events: usize,
    bytes: usize,
    stop: bool,
}

impl Taken {
    /// Waits for the first command, then takes what else is waiting, up to the bounds. A group that
    /// holds nothing but records waits for company, once, for [`RECORDS_LINGER`] in all.
    fn fill(&mut self, commands: &Receiver<Command>, events_max: usize) {
        match commands.recv() {
            Ok(command) => self.take(command),
            Err(_) => self.stop = true,
        }
        self.take_waiting(commands, events_max);
        if self.stop || !self.only_records() {
            return;
        }
        let lingered = crossbeam_channel::after(RECORDS_LINGER);
        while !self.stop && self.only_records() && !self.is_full(events_max) {
            crossbeam_channel::select! {
                recv(commands) -> command => match command {
                    Ok(command) => self.take(command),
                    Err(_) => self.stop = true,
                },
                recv(lingered) -> _ => break,
            }
        }
        self.take_waiting(commands, events_max);
    }

    fn take_waiting(&mut self, commands: &Receiver<Command>, events_max: usize) {
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
            Command::Forget(id, promised) => self.forgotten.push((id, promised)),
            Command::Stop => self.stop = true,
        }
    }

    fn only_records(&self) -> bool {
        self.submissions.is_empty() && self.forgotten.is_empty()
    }

    fn is_full(&self, events_max: usize) -> bool {
        self.events >= events_max
            || self.bytes >= GROUP_BYTES_MAX
            || self.records.len() >= RECORDS_MAX
    }

    fn is_empty(&self) -> bool {
        self.only_records() && self.records.is_empty()
    }
}
