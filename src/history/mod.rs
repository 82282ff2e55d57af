//! A bounded history of events on the device: each accepted event, its duplicates, and the attempts and ends of its
//! deliveries, so that somebody can look up what became of a message after it was delivered. It is written by a
//! thread of its own from a bounded queue and is not synced: nothing that is accepted or delivered waits for it,
//! and what does not fit into the queue is dropped and counted. A power cut may cost its newest entries.
//!
//! What is kept ends by age, by size, and by a purge (I13).

mod entry;
mod message_ids;
mod query;
mod segment;
mod segments;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use parking_lot::Mutex;

pub(crate) use self::entry::{
    AcceptedEntry, AttemptEntry, DeliveryStep, HistoryEntry, HistoryEvent, HistoryHashes,
    dedup_hash,
};
pub(crate) use self::query::HistoryQuery;
pub(crate) use self::segment::EntryPosition;
use self::segments::Segments;
pub(crate) use self::segments::{FoundEntries, HistoryBounds, PAGE_PAYLOAD_BYTES_MAX};
use crate::clock::Clock;
use crate::event::EventId;
use crate::process::threads;
use crate::store::private;

/// How many entries may wait to be written.
const QUEUE_ENTRIES_MAX: u64 = 65_536;

/// How many payload bytes may wait to be written.
const QUEUE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// How often the age of what is kept is looked at while nothing is written.
const TRIM_EVERY: Duration = Duration::from_secs(600);

/// What the writer is to do.
enum Task {
    Accepted(Vec<HistoryEvent>, Vec<HistoryEntry>),
    Entries(Vec<HistoryEntry>),
    /// Erases the events that match, and answers how many.
    Purge(HistoryQuery, Sender<io::Result<u64>>),
    /// Answers once everything before it is written.
    Flush(Sender<()>),
    /// Completes the open segment, and answers with the files of all segments.
    Seal(Sender<io::Result<Vec<PathBuf>>>),
}

/// What waits to be written.
#[derive(Debug, Default)]
struct HistoryQueueSize {
    entries: AtomicU64,
    /// The bytes of their payloads.
    bytes: AtomicU64,
}

impl HistoryQueueSize {
    /// Takes room; false if the queue is full.
    fn take(&self, entries: u64, bytes: u64) -> bool {
        let before = self.entries.fetch_add(entries, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before + entries <= QUEUE_ENTRIES_MAX && bytes_before + bytes <= QUEUE_BYTES_MAX;
        if !fits {
            self.release(entries, bytes);
        }
        fits
    }

    fn release(&self, entries: u64, bytes: u64) {
        self.entries.fetch_sub(entries, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The history of an engine.
pub(crate) struct History {
    segments: Arc<Segments>,
    queue: Mutex<Option<Sender<Task>>>,
    queued: Arc<HistoryQueueSize>,
    dropped: Arc<AtomicU64>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl History {
    /// Opens the history in a directory and starts its thread.
    pub(crate) fn open(
        directory: &Path,
        bounds: HistoryBounds,
        clock: Arc<dyn Clock>,
    ) -> io::Result<History> {
        let segments = Arc::new(Segments::open(directory, bounds)?);
        let (queue, tasks) = unbounded();
        let (queued, dropped) = (Arc::default(), Arc::default());
        let writer = HistoryWriter {
            segments: Arc::clone(&segments),
            queued: Arc::clone(&queued),
            dropped: Arc::clone(&dropped),
            clock,
        };
        let writer = threads::start("wabahook-history", None, move || writer.run(&tasks))?;
        let (queue, writer) = (Mutex::new(Some(queue)), Mutex::new(Some(writer)));
        Ok(History { segments, queue, queued, dropped, writer })
    }

    /// Queues accepted events and duplicates.
    pub(crate) fn accepted(&self, events: Vec<HistoryEvent>, duplicates: Vec<HistoryEntry>) {
        let (count, bytes) = (events.len() + duplicates.len(), payload_bytes(&events));
        self.try_send(Task::Accepted(events, duplicates), count as u64, bytes);
    }

    /// Queues what happened to deliveries.
    pub(crate) fn record(&self, entries: Vec<HistoryEntry>) {
        let count = entries.len() as u64;
        if count > 0 {
            self.try_send(Task::Entries(entries), count, 0);
        }
    }

    fn try_send(&self, task: Task, count: u64, bytes: u64) {
        let queue = self.queue.lock();
        let open = queue.as_ref().filter(|_| self.queued.take(count, bytes));
        if open.is_none_or(|queue| queue.send(task).is_err()) {
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.segments.directory()
    }

    /// How many entries were dropped because they could not be written in time.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.bytes()
    }

    /// Erases what is kept of the events that match, those in the queue included. Returns how many events.
    pub(crate) fn purge(&self, query: HistoryQuery) -> io::Result<u64> {
        let (sender, answer) = bounded(1);
        self.send(Task::Purge(query, sender));
        answer.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// Waits until what was queued before can be found.
    pub(crate) fn flush(&self) {
        let (sender, answer) = bounded(1);
        self.send(Task::Flush(sender));
        let _ = answer.recv();
    }

    /// Copies what was queued before into a new directory, which a history can be opened in. The writer goes on
    /// meanwhile; a segment that it removes is left out.
    pub(crate) fn copy_to(&self, directory: &Path) -> io::Result<()> {
        let (sender, answer) = bounded(1);
        self.send(Task::Seal(sender));
        let files = answer.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        private::create_directories(directory)?;
        for (file, name) in files.iter().filter_map(|file| Some((file, file.file_name()?))) {
            let copy = directory.join(name);
            match std::fs::copy(file, &copy) {
                Ok(_) => File::open(copy)?.sync_all()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn send(&self, task: Task) {
        let queue = self.queue.lock().clone();
        if let Some(queue) = queue {
            // After a close there is nobody to answer, so the waiter sees the end of its channel.
            let _ = queue.send(task);
        }
    }

    /// Everything that is kept of an event, oldest first.
    pub(crate) fn entries_of(&self, event: EventId) -> io::Result<Vec<HistoryEntry>> {
        self.segments.entries_of(event)
    }

    /// Whether an event is kept as it was accepted at this time. Reads no entry.
    pub(crate) fn has_accepted(&self, event: EventId, accepted_at_ms: u64) -> io::Result<bool> {
        self.segments.has_accepted(event, accepted_at_ms)
    }

    /// The accepted events that match, newest first, from before a position on. Reads at most `read_max` entries.
    pub(crate) fn find(
        &self,
        query: &HistoryQuery,
        before: Option<EntryPosition>,
        count_max: usize,
        read_max: usize,
    ) -> io::Result<FoundEntries> {
        self.segments.find(query, before, count_max, read_max)
    }

    /// Writes what is queued and ends the thread.
    pub(crate) fn close(&self) {
        drop(self.queue.lock().take());
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }
}

fn payload_bytes(events: &[HistoryEvent]) -> u64 {
    events.iter().map(|accepted| accepted.event.payload.len() as u64).sum()
}

/// Writes the history.
struct HistoryWriter {
    segments: Arc<Segments>,
    queued: Arc<HistoryQueueSize>,
    dropped: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
}

impl HistoryWriter {
    fn run(&self, tasks: &Receiver<Task>) {
        loop {
            match tasks.recv_timeout(TRIM_EVERY) {
                Ok(Task::Accepted(events, duplicates)) => {
                    let bytes = payload_bytes(&events);
                    let entries = events.iter().map(|one| HistoryEntry::Accepted(one.into()));
                    let entries: Vec<_> = entries.chain(duplicates).collect();
                    drop(events);
                    self.write(&entries, bytes);
                }
                Ok(Task::Entries(entries)) => self.write(&entries, 0),
                Ok(Task::Purge(query, answer)) => drop(answer.send(self.segments.purge(&query))),
                Ok(Task::Flush(answer)) => drop(answer.send(())),
                Ok(Task::Seal(answer)) => drop(answer.send(self.segments.seal())),
                Err(RecvTimeoutError::Timeout) => drop(self.segments.trim(self.clock.wall_ms())),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Writes entries, whose payloads took so many bytes in the queue.
    fn write(&self, entries: &[HistoryEntry], bytes: u64) {
        if self.segments.append(entries, self.clock.wall_ms()).is_err() {
            self.dropped.fetch_add(entries.len() as u64, Ordering::Relaxed);
        }
        self.queued.release(entries.len() as u64, bytes);
    }
}
