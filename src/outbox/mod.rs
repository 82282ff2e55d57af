//! Decides what is durable: accepted events, and what became of each delivery.
//!
//! Leaves to others: which attempt is next (`dispatch`) and how it is made (`delivery`). Invariant
//! (I1, I2): an event is visible iff its head is on the device with all that it needs, and every
//! change of a delivery is one record that is there or not.

mod cache;
mod committer;
mod company;
mod dedup;
mod group;
mod heads;
mod history;
mod keys;
mod known;
mod letters;
mod lookup;
mod meta;
mod page;
mod queue;
mod reading;
mod reclaim;
mod records;
mod recovery;
mod row;
mod taken;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use roaring::{RoaringBitmap, RoaringTreemap};

pub(crate) use committer::{Committed, Sink, Totals};
pub(crate) use dedup::key_hash;
pub(crate) use group::{Answer, Matched, Owed, Submission};
pub(crate) use reclaim::Owing;
pub(crate) use recovery::Recovered;

use crate::attempt::{DeliveryId, Record};
use crate::clock::Clock;
use crate::config::{Limits, OnDamage};
use crate::error::{Error, Result};
use crate::event::{Catalogue, EventId, StoredEvent};
use crate::receipt::{Bells, Promised, Receipt, promise, promise_with};
use crate::store::{Database, Store};
use crate::subscription::SubscriptionId;

use self::cache::Cache;
use self::committer::{Command, Committer};
use self::group::Cursor;
use self::history::Histories;
use self::letters::Letters;
use self::queue::{Queue, Waiting};
use self::recovery::Read;
use self::row::Row;

/// How many records may lie together: each is at most two operations, and a batch of the store takes
/// 256. A main delivery and its 16 dependents, with an attempt of each, are 34.
pub(crate) const TOGETHER_MAX: usize = 64;

/// What waits for the device, counted so that `publish` can refuse without waiting.
#[derive(Debug)]
pub(crate) struct Admission {
    events: AtomicUsize,
    bytes: AtomicUsize,
    events_max: usize,
    bytes_max: usize,
    /// Why the device refuses, while it does.
    stalled: Mutex<Option<String>>,
}

impl Admission {
    fn new(limits: &Limits) -> Admission {
        Admission {
            events: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            events_max: limits.queue_events_max,
            bytes_max: limits.queue_bytes_max,
            stalled: Mutex::new(None),
        }
    }

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

    fn stall(&self, why: Option<String>) {
        *self.stalled.lock() = why;
    }

    fn stalled(&self) -> Option<String> {
        self.stalled.lock().clone()
    }
}

/// How an outbox is opened.
pub(crate) struct Setting<'a> {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) limits: &'a Limits,
    pub(crate) on_damage: OnDamage,
    /// Subscriptions whose deliveries need the key of their event.
    pub(crate) ordered: RoaringBitmap,
    pub(crate) clock: &'a dyn Clock,
}

/// An outbox that was read and waits to be started.
pub(crate) struct Opened {
    read: Read,
    catalogue: Catalogue,
}

/// The outbox of a running engine.
pub(crate) struct Outbox {
    commands: Queue,
    admission: Arc<Admission>,
    bells: Arc<Bells>,
    cache: Mutex<Cache>,
    row: Arc<Row>,
    letters: Arc<Mutex<Letters>>,
    histories: Arc<Mutex<Histories>>,
    catalogue: Catalogue,
    events_max: u64,
    bytes_max: u64,
    committer: Mutex<Option<JoinHandle<()>>>,
    /// The committer of an engine that has no thread for it.
    stepped: Mutex<Option<Committer>>,
}

/// What the committer's thread will own.
pub(crate) struct Unstarted {
    waiting: Waiting,
    cursor: Cursor,
    dedup_database: Arc<dyn Database>,
    group_events_max: usize,
    generation_bytes: u64,
}

impl Opened {
    /// Reads what is there, beginning an outbox where there is none.
    pub(crate) fn read(setting: Setting<'_>) -> Result<(Opened, Recovered)> {
        let catalogue = setting.catalogue.clone();
        let reader = recovery::Reader {
            store: setting.store,
            catalogue: setting.catalogue,
            limits: setting.limits,
            on_damage: setting.on_damage,
            ordered: setting.ordered,
            wall_ms: setting.clock.wall_ms(),
            fresh_name: setting.clock.chance(),
        };
        let mut read = reader.read()?;
        let recovered = std::mem::take(&mut read.recovered);
        Ok((Opened { read, catalogue }, recovered))
    }

    /// Makes the handle; the committer starts with [`Outbox::start`].
    pub(crate) fn prepare(self, limits: &Limits) -> (Outbox, Unstarted) {
        let (commands, waiting) = queue::queue();
        let Read { row, cursor, dedup_database, .. } = self.read;
        let outbox = Outbox {
            commands,
            admission: Arc::new(Admission::new(limits)),
            bells: Arc::new(Bells::new(limits.group_events_max)),
            cache: Mutex::new(Cache::new(limits.cache_bytes_max)),
            row: Arc::new(row),
            letters: Arc::clone(&cursor.letters),
            histories: Arc::clone(&cursor.histories),
            catalogue: self.catalogue,
            events_max: limits.outbox_events_max,
            bytes_max: limits.outbox_bytes_max,
            committer: Mutex::new(None),
            stepped: Mutex::new(None),
        };
        let unstarted = Unstarted {
            waiting,
            cursor,
            dedup_database,
            group_events_max: limits.group_events_max,
            generation_bytes: limits.generation_bytes,
        };
        (outbox, unstarted)
    }
}

/// What the outbox holds on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) generations: usize,
}

impl Outbox {
    /// Starts the committer, which tells `sink` what it made durable and asks `owing` what is
    /// still owed when it copies.
    pub(crate) fn start(
        &self,
        parts: Unstarted,
        clock: Arc<dyn Clock>,
        owing: Owing,
        sink: Sink,
    ) -> Result<()> {
        let thread = self.committer(parts, clock, owing, sink).start();
        let thread = thread.map_err(|error| Error::Poisoned { why: error.to_string() })?;
        *self.committer.lock() = Some(thread);
        Ok(())
    }

    /// Takes the committer without a thread of its own: it works in [`step`](Outbox::step).
    pub(crate) fn start_stepped(
        &self,
        parts: Unstarted,
        clock: Arc<dyn Clock>,
        owing: Owing,
        sink: Sink,
    ) {
        *self.stepped.lock() = Some(self.committer(parts, clock, owing, sink));
    }

    /// Lets a committer without a thread do what is waiting, up to one group. Returns whether there
    /// was anything to do.
    pub(crate) fn step(&self) -> Result<bool> {
        self.stepped.lock().as_mut().map_or(Ok(false), Committer::step_now)
    }

    fn committer(
        &self,
        parts: Unstarted,
        clock: Arc<dyn Clock>,
        owing: Owing,
        sink: Sink,
    ) -> Committer {
        Committer {
            row: Arc::clone(&self.row),
            dedup_database: Some(parts.dedup_database),
            cursor: parts.cursor,
            closed_at_ms: clock.monotonic_ms(),
            catalogue: self.catalogue.clone(),
            waiting: parts.waiting,
            marker: self.commands.clone(),
            admission: Arc::clone(&self.admission),
            bells: Arc::clone(&self.bells),
            clock,
            group_events_max: parts.group_events_max,
            generation_bytes: parts.generation_bytes,
            owing,
            sink,
            clearing: None,
            removable: None,
            uncopyable: None,
            rests: false,
            kept: taken::Taken::default(),
        }
    }

    /// Waits until the committer has kept a promise. One without a thread keeps it here.
    pub(crate) fn wait<T: Clone>(&self, receipt: Receipt<T>) -> Result<T> {
        while !receipt.is_done() && self.step()? {}
        receipt.wait()
    }

    /// Takes room for events that [`submit`](Outbox::submit) will bring, or says which bound is in
    /// the way.
    pub(crate) fn admit(&self, events: usize, bytes: usize) -> std::result::Result<(), String> {
        if let Some(why) = self.admission.stalled() {
            return Err(format!("the device refuses ({why}) and is tried again"));
        }
        let held = self.holding();
        if held.events + events as u64 > self.events_max {
            return Err(format!("the outbox holds its {} events", self.events_max));
        }
        if held.bytes + bytes as u64 > self.bytes_max {
            return Err(format!("the outbox holds its {} bytes", self.bytes_max));
        }
        self.admission.take(events, bytes)
    }

    /// A promise to whom publishes now, to be submitted soon.
    pub(crate) fn promise<T: Clone>(&self) -> (Promised<T>, Receipt<T>) {
        promise_with(self.bells.bell())
    }

    /// Queues events, for which room was taken, for the next group.
    pub(crate) fn submit(&self, submission: Submission) {
        self.commands.send(Command::Publish(submission));
    }

    /// Queues a change of a delivery's state. Never refused: it is bounded by attempts under way.
    pub(crate) fn record(&self, record: Record) {
        if let Record::Settle(delivery) | Record::SettleMain(delivery) = &record {
            self.cache.lock().settled(delivery.sequence);
        }
        self.commands.send(Command::Record(record));
    }

    /// As [`record`](Outbox::record), and tells when it is durable.
    pub(crate) fn record_and_tell(&self, record: Record) -> Receipt<()> {
        let (promised, receipt) = promise();
        self.commands.send(Command::RecordAndTell(record, promised));
        receipt
    }

    /// Makes durable that a subscription was removed: what it is owed is cancelled from then on.
    pub(crate) fn forget(&self, id: SubscriptionId) -> Receipt<()> {
        let (promised, receipt) = promise();
        self.commands.send(Command::Forget(id, promised));
        receipt
    }

    /// Queues changes that take effect as a whole or not at all, also across a crash: all of them
    /// lie in one batch. For at most [`TOGETHER_MAX`] records.
    pub(crate) fn record_together(&self, records: Vec<Record>) {
        debug_assert!(records.len() <= TOGETHER_MAX, "{} records together", records.len());
        for record in &records {
            if let Record::Settle(delivery) | Record::SettleMain(delivery) = record {
                self.cache.lock().settled(delivery.sequence);
            }
        }
        self.commands.send(Command::RecordTogether(records));
    }

    /// Makes durable that dead letters are owed again, those of one vector as a whole or not at
    /// all; the sink is told, and then the receipt kept with how many were letters.
    pub(crate) fn revive(&self, deliveries: Vec<Vec<DeliveryId>>) -> Receipt<u64> {
        debug_assert!(deliveries.iter().all(|together| together.len() <= TOGETHER_MAX));
        let (promised, receipt) = promise();
        self.commands.send(Command::Revive(deliveries, promised));
        receipt
    }

    /// Ends what a removed subscription was owed.
    pub(crate) fn cancel(&self, sequences: RoaringTreemap) {
        self.commands.send(Command::Cancel(sequences));
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
        let (event, targets) = lookup::twice(|| self.read(sequence))?;
        let event = Arc::new(event);
        self.cache.lock().keep(Arc::clone(&event), targets);
        Ok(event)
    }

    /// An event from the device, and how many deliveries may need it.
    fn read(&self, sequence: u64) -> Result<(StoredEvent, u64)> {
        let (database, head) = self.head(sequence)?;
        let event = StoredEvent {
            id: self.id_of(sequence),
            payload: page::read(&*database, head.payload)?,
            account: head.account,
            kind: head.kind,
            number: head.number,
            waba: head.waba,
            key_hash: head.key_hash,
            accepted_wall_ms: head.accepted_wall_ms,
        };
        Ok((event, head.targets.len()))
    }

    /// The name of a sequence to the outside.
    pub(crate) fn id_of(&self, sequence: u64) -> EventId {
        self.row.id_of(sequence)
    }

    /// What lies on the device.
    pub(crate) fn holding(&self) -> Holding {
        let (events, bytes) = self.row.held();
        Holding { events, bytes, generations: self.row.generations() }
    }

    /// Events and payload bytes that wait for the device.
    pub(crate) fn queued(&self) -> (usize, usize) {
        let events = self.admission.events.load(Ordering::Acquire);
        (events, self.admission.bytes.load(Ordering::Acquire))
    }

    /// Asks the committer to end after what was sent before, without waiting for it.
    pub(crate) fn signal_stop(&self) {
        self.commands.send(Command::Stop);
    }

    /// Ends the committer after what was sent before, waits for it, and lets go of the database.
    pub(crate) fn close(&self) {
        self.signal_stop();
        let thread = self.committer.lock().take();
        if let Some(thread) = thread {
            // A panic of the committer was told to the sink already.
            let _ = thread.join();
        }
        self.row.close();
    }
}

fn payload_bytes(submission: &Submission) -> usize {
    submission.events.iter().map(|event| event.payload.len()).sum()
}

#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod tests;
