//! Bounds what waits for the device, so that `publish` can refuse at once instead of waiting (I7).
//!
//! Counters only: a publisher takes no lock here unless the device refuses writes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::config::Limits;

/// Counts the events in the committer's queue, and the bytes of their payloads and target lists.
#[derive(Debug, Default)]
pub(super) struct QueueAdmission {
    events: AtomicUsize,
    bytes: AtomicUsize,
    events_max: usize,
    bytes_max: usize,
    is_stalled: AtomicBool,
    /// Why the device refuses writes, while it does.
    stall_reason: Mutex<String>,
}

impl QueueAdmission {
    pub(super) fn new(limits: &Limits) -> QueueAdmission {
        QueueAdmission {
            events_max: limits.queue_events_max,
            bytes_max: limits.queue_bytes_max,
            ..QueueAdmission::default()
        }
    }

    /// Reserves room in the queue, or says which bound is reached.
    pub(super) fn reserve(&self, events: usize, bytes: usize) -> Result<(), String> {
        let queued = self.events.fetch_add(events, Ordering::AcqRel);
        let queued = (queued, self.bytes.fetch_add(bytes, Ordering::AcqRel));
        self.check(queued, events, bytes).inspect_err(|_| self.release(events, bytes))
    }

    /// Says which bound is reached, if there is no room now.
    pub(super) fn check_room(&self, events: usize, bytes: usize) -> Result<(), String> {
        self.check(self.queued(), events, bytes)
    }

    fn check(&self, queued: (usize, usize), events: usize, bytes: usize) -> Result<(), String> {
        if queued.0 + events > self.events_max {
            return Err(format!("{} events wait for the device already", self.events_max));
        }
        if queued.1 + bytes > self.bytes_max {
            return Err(format!("{} bytes wait for the device already", self.bytes_max));
        }
        Ok(())
    }

    /// Counts the target lists of a submission, whose room was reserved before they were known. They are never
    /// refused; later publishers are.
    pub(super) fn add_target_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(super) fn release(&self, events: usize, bytes: usize) {
        self.events.fetch_sub(events, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Events in the queue, and the bytes of their payloads and target lists.
    pub(super) fn queued(&self) -> (usize, usize) {
        (self.events.load(Ordering::Acquire), self.bytes.load(Ordering::Acquire))
    }

    /// The events and bytes that still fit.
    pub(super) fn left(&self) -> (usize, usize) {
        let (events, bytes) = self.queued();
        (self.events_max.saturating_sub(events), self.bytes_max.saturating_sub(bytes))
    }

    pub(super) fn stall(&self, why: String) {
        *self.stall_reason.lock() = why;
        self.is_stalled.store(true, Ordering::Release);
    }

    pub(super) fn resume(&self) {
        self.is_stalled.store(false, Ordering::Release);
    }

    pub(super) fn stall_reason(&self) -> Option<String> {
        let is_stalled = self.is_stalled.load(Ordering::Acquire);
        is_stalled.then(|| self.stall_reason.lock().clone())
    }
}
