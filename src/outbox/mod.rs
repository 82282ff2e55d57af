//! Decides what is durable: accepted events, and what became of each delivery.
//!
//! Leaves to others: which attempt is next (`dispatch`) and how it is made (`delivery`). Invariant
//! (I1, I2): an event is visible iff its head is on the device with all that it needs, and every
//! change of a delivery is one record that is there or not.

mod cache;
mod committer;
mod dedup;
mod group;
mod heads;
mod keys;
mod page;
mod recovery;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLock};

pub(crate) use committer::{Committed, Sink};
pub(crate) use dedup::key_hash;
pub(crate) use group::{Answer, Matched, Owed, Submission};
pub(crate) use recovery::Recovered;

use crate::attempt::Record;
use crate::clock::Clock;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::event::{Catalogue, EventId, StoredEvent};
use crate::receipt::{Receipt, promise};
use crate::store::Database;
use crate::subscription::SubscriptionId;

use self::cache::Cache;
use self::committer::{Command, Committer};
use self::group::Cursor;

/// What waits for the device, counted so that `publish` can refuse without waiting.
#[derive(Debug)]
pub(crate) struct Admission {
    events: AtomicUsize,
    bytes: AtomicUsize,
    events_max: usize,
    bytes_max: usize,
}

impl Admission {
    /// Takes room for a submission, or says which bound is in the way.
    fn take(&self, events: usize, bytes: usize) -> std::result::Result<(), String> {
        if self.events.fetch_add(events, Ordering::AcqRel) + events > self.events_max {
            self.events.fetch_sub(events, Ordering::AcqRel);
            return Err(format!("{} events wait for the device already", self.events_max));
        }
        if self.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes > self.bytes_max {
            self.release(events, bytes);
            return Err(format!("{} bytes wait for the device already", self.bytes_max));
        }
        Ok(())
    }

    fn release(&self, events: usize, bytes: usize) {
        self.events.fetch_sub(events, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// An outbox that was read and waits to be started.
pub(crate) struct Opened {
    database: Arc<dyn Database>,
    cursor: Cursor,
    catalogue: Catalogue,
    pub(crate) recovered: Recovered,
}

/// The outbox of a running engine.
pub(crate) struct Outbox {
    commands: Sender<Command>,
    admission: Arc<Admission>,
    cache: Mutex<Cache>,
    /// Gone once the outbox is closed, so that the database can be opened again.
    reader: RwLock<Option<Arc<dyn Database>>>,
    catalogue: Catalogue,
    incarnation: u64,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl Opened {
    /// Reads what is there. `fresh_incarnation` names the outbox if it is new.
    pub(crate) fn read(
        database: Arc<dyn Database>,
        catalogue: &Catalogue,
        limits: &Limits,
        clock: &dyn Clock,
    ) -> Result<Opened> {
        let (cursor, recovered) =
            recovery::recover(&*database, catalogue, limits, clock.wall_ms(), clock.chance())?;
        Ok(Opened { database, cursor, catalogue: catalogue.clone(), recovered })
    }

    /// Makes the handle; the committer starts with [`Outbox::start`].
    pub(crate) fn prepare(self, limits: &Limits) -> (Outbox, Unstarted) {
        let (sender, commands) = crossbeam_channel::unbounded();
        let admission = Arc::new(Admission {
            events: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            events_max: limits.queue_events_max,
            bytes_max: limits.queue_bytes_max,
        });
        let outbox = Outbox {
            commands: sender,
            admission: Arc::clone(&admission),
            cache: Mutex::new(Cache::new(limits.cache_bytes_max)),
            reader: RwLock::new(Some(Arc::clone(&self.database))),
            catalogue: self.catalogue,
            incarnation: self.cursor.incarnation,
            committer: Mutex::new(None),
        };
        let unstarted = Unstarted {
            database: self.database,
            cursor: self.cursor,
            commands,
            admission,
            group_events_max: limits.group_events_max,
        };
        (outbox, unstarted)
    }
}

/// What the committer's thread will own.
pub(crate) struct Unstarted {
    database: Arc<dyn Database>,
    cursor: Cursor,
    commands: crossbeam_channel::Receiver<Command>,
    admission: Arc<Admission>,
    group_events_max: usize,
}

impl Outbox {
    /// Starts the committer, which tells `sink` what it made durable.
    pub(crate) fn start(&self, parts: Unstarted, clock: Arc<dyn Clock>, sink: Sink) -> Result<()> {
        let committer = Committer {
            database: parts.database,
            cursor: parts.cursor,
            commands: parts.commands,
            admission: parts.admission,
            clock,
            group_events_max: parts.group_events_max,
            sink,
        };
        let thread = committer.start();
        let thread = thread.map_err(|error| Error::Poisoned { why: error.to_string() })?;
        *self.committer.lock() = Some(thread);
        Ok(())
    }

    /// Takes room for events that [`submit`](Outbox::submit) will bring, or says which bound is in
    /// the way.
    pub(crate) fn admit(&self, events: usize, bytes: usize) -> std::result::Result<(), String> {
        self.admission.take(events, bytes)
    }

    /// Queues events, for which room was taken, for the next group.
    pub(crate) fn submit(&self, submission: Submission) {
        // The channel has no bound of its own: admission is the bound. It is closed only with the
        // engine, and then the promise resolves as closed because the submission is dropped.
        let _ = self.commands.send(Command::Publish(submission));
    }

    /// Queues a change of a delivery's state. Never refused: it is bounded by attempts under way.
    pub(crate) fn record(&self, record: Record) {
        if let Record::Settle(delivery) = &record {
            self.cache.lock().settled(delivery.sequence);
        }
        let _ = self.commands.send(Command::Record(record));
    }

    /// Makes durable that a subscription was removed: what it is owed is cancelled from then on.
    pub(crate) fn forget(&self, id: SubscriptionId) -> Receipt<()> {
        let (promised, receipt) = promise();
        let _ = self.commands.send(Command::Forget(id, promised));
        receipt
    }

    /// Keeps the events of a group at hand for their deliveries.
    pub(crate) fn keep_at_hand(&self, owed: &[Owed]) {
        let mut cache = self.cache.lock();
        for Owed { event, targets } in owed {
            cache.keep(Arc::clone(event), targets.len() as u64);
        }
    }

    /// An event that is owed, from memory or from the device.
    pub(crate) fn event(&self, sequence: u64) -> Result<Arc<StoredEvent>> {
        if let Some(event) = self.cache.lock().event(sequence) {
            return Ok(event);
        }
        let reader = self.reader.read().clone();
        let database = reader.ok_or(Error::Closed)?;
        let event = Arc::new(self.read(&*database, sequence)?);
        self.cache.lock().keep(Arc::clone(&event), u64::MAX);
        Ok(event)
    }

    fn read(&self, database: &dyn Database, sequence: u64) -> Result<StoredEvent> {
        let missing = || Error::Damaged {
            record: format!("head of event {sequence}"),
            why: "it is missing".to_owned(),
        };
        let found = database.last(keys::HEADS, &keys::numbered(keys::HEADS, sequence));
        let (key, sealed) = found
            .map_err(|failure| Error::store("reading a head page", failure))?
            .ok_or_else(missing)?;
        let first_sequence = keys::number_of(&key).ok_or_else(missing)?;
        let page = heads::read(database, &self.catalogue, first_sequence, &sealed)?;
        let head = page.heads.into_iter().find(|head| head.sequence == sequence);
        let head = head.ok_or_else(missing)?;
        Ok(StoredEvent {
            id: EventId::new(self.incarnation, sequence),
            payload: page::read(database, head.payload)?,
            account: head.account,
            kind: head.kind,
            number: head.number,
            waba: head.waba,
            key_hash: head.key_hash,
            accepted_wall_ms: head.accepted_wall_ms,
        })
    }

    /// The name of a sequence to the outside.
    pub(crate) fn id_of(&self, sequence: u64) -> EventId {
        EventId::new(self.incarnation, sequence)
    }

    /// Events and payload bytes that wait for the device.
    pub(crate) fn queued(&self) -> (usize, usize) {
        let events = self.admission.events.load(Ordering::Acquire);
        (events, self.admission.bytes.load(Ordering::Acquire))
    }

    /// Asks the committer to end after what was sent before, without waiting for it.
    pub(crate) fn signal_stop(&self) {
        let _ = self.commands.send(Command::Stop);
    }

    /// Ends the committer after what was sent before, waits for it, and lets go of the database.
    pub(crate) fn close(&self) {
        self.signal_stop();
        let thread = self.committer.lock().take();
        if let Some(thread) = thread {
            // A panic of the committer was told to the sink already.
            let _ = thread.join();
        }
        *self.reader.write() = None;
    }
}

fn payload_bytes(submission: &Submission) -> usize {
    submission.events.iter().map(|event| event.payload.len()).sum()
}

#[cfg(test)]
mod tests;
