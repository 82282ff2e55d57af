//! What the committer reports to the engine.

use std::sync::Arc;

use crate::attempt::DeliveryId;
use crate::error::Error;
use crate::event::{EventId, StoredEvent};
use crate::history::HistoryHashes;
use crate::subscription::SubscriptionId;

use super::dedup::DroppedKeys;

#[derive(Debug)]
pub(crate) enum CommitEvent {
    /// A group is durable. Its receipts resolve right after the listener returns.
    Group(GroupTotals, Vec<OwedEvent>),
    /// What a durable group accepted, for the history. Sent before the group itself.
    Traced(Vec<TracedEvent>),
    /// These dead letters are durably owed again.
    Revived(Vec<DeliveryId>),
    /// These deliveries, which others depend on, are durably settled.
    Settled(Vec<DeliveryId>),
    /// The device refused a write. Nothing is accepted until [`CommitEvent::Resumed`].
    Stalled(String),
    Resumed,
    /// So many dead letters of an account were dropped because they were over their bounds.
    LettersDropped {
        account: Arc<str>,
        letters: u64,
    },
    /// Dedup keys were forgotten before their window ended, because there were too many.
    KeysDropped(DroppedKeys),
    /// Whether events now arrive in batches, so that workers should yield the CPU to publishers.
    BatchedArrivals(bool),
    /// A part of the outbox cannot be compacted. Nothing accepted is lost by it.
    Faulty(String),
    /// The committer stopped for good.
    Failed(Error),
}

/// What a group adds to the counters.
#[derive(Debug, Default)]
pub(crate) struct GroupTotals {
    /// Events accepted, without duplicates.
    pub(crate) accepted: u64,
    /// Of these, events without a subscriber.
    pub(crate) unrouted: u64,
    /// Duplicates of earlier events.
    pub(crate) duplicates: u64,
    /// Whether anything was written and synced.
    pub(crate) synced: bool,
    /// How long that took, in milliseconds.
    pub(crate) took_ms: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct OwedEvent {
    pub(crate) event: Arc<StoredEvent>,
    pub(crate) targets: Arc<[SubscriptionId]>,
}

/// What became of a published event, for the history.
#[derive(Debug, Clone)]
pub(crate) enum TracedEvent {
    /// It was accepted; without targets it has no subscriber.
    Accepted { event: Arc<StoredEvent>, targets: Arc<[SubscriptionId]>, hashes: HistoryHashes },
    /// It has the dedup key of this event.
    Duplicate(EventId),
}

/// Called on the committer's thread; it must not block.
pub(crate) type CommitListener = Box<dyn FnMut(CommitEvent) + Send>;
