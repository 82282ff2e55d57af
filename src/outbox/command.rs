//! What the committer is asked to do, and how a publisher is answered.

use std::sync::Arc;

use roaring::RoaringTreemap;
use smallvec::SmallVec;

use super::accounts::shares::QueueClaim;
use crate::attempt::{DeliveryId, Record};
use crate::error::{Error, Result};
use crate::event::{Accepted, StoredEvent};
use crate::history::HistoryHashes;
use crate::receipt::{ReceiptSender, WakeGroup};
use crate::store::Database;
use crate::subscription::{SubscriptionId, Targets};

use super::codec::dedup_page::DedupKey;

/// How many records may be sent as one change. Each is at most two operations, and a batch of the store takes
/// 256. A main delivery and its 16 dependents, with an attempt of each, are 34.
pub(super) const ATOMIC_RECORDS_MAX: usize = 64;

#[allow(clippy::large_enum_variant, reason = "nearly all commands are of the largest kind")]
pub(super) enum CommitterCommand {
    Publish(Submission, QueuedSize),
    /// Records that take effect all together or not at all, and who waits until they are durable.
    Change(SmallVec<[Record; 1]>, Option<ReceiptSender<()>>),
    /// Makes the removal of a subscription durable.
    Forget(SubscriptionId, ReceiptSender<()>),
    /// Makes dead letters owed again, those of one vector all together or not at all. Answers how many were
    /// dead letters.
    Revive(Vec<Vec<DeliveryId>>, ReceiptSender<u64>),
    /// Ends dead letters that the host no longer wants. Answers how many were dead letters.
    Discard(Vec<DeliveryId>, ReceiptSender<u64>),
    /// Ends what a removed subscription was owed.
    Cancel(RoaringTreemap),
    /// Marks the point in the queue where the clearing of this generation was prepared.
    Clear(u64),
    /// Seals the newest generation, so that everything sent before is in sealed ones.
    Seal(ReceiptSender<SealedOutbox>),
    Stop,
}

/// The generations that were sealed for a backup, and the database of dedup keys.
#[derive(Debug, Clone)]
pub(super) struct SealedOutbox {
    pub(super) numbers: Vec<u64>,
    pub(super) dedup_database: Arc<dyn Database>,
}

impl CommitterCommand {
    pub(super) fn is_awaited(&self) -> bool {
        match self {
            CommitterCommand::Change(_, waiter) => waiter.is_some(),
            CommitterCommand::Cancel(_) | CommitterCommand::Clear(_) => false,
            CommitterCommand::Publish(..)
            | CommitterCommand::Forget(..)
            | CommitterCommand::Revive(..)
            | CommitterCommand::Discard(..)
            | CommitterCommand::Seal(_)
            | CommitterCommand::Stop => true,
        }
    }
}

/// An event that was checked and routed, on its way to the device.
pub(crate) struct RoutedEvent {
    /// Without its id and its time, which the committer sets.
    pub(crate) event: StoredEvent,
    pub(crate) dedup: Option<DedupKey>,
    pub(crate) targets: Targets,
    /// For the history; `None` without one.
    pub(crate) traced: Option<HistoryHashes>,
}

/// The events of one `publish` call, which become durable together, and the receipt to resolve.
pub(crate) struct Submission {
    pub(crate) events: SmallVec<[RoutedEvent; 1]>,
    /// The room that its accounts hold in the queue until it is written.
    pub(crate) claims: SmallVec<[QueueClaim; 1]>,
    pub(crate) sender: SubmissionSender,
}

impl Submission {
    /// What it takes in the queue. A target list that others share counts for nothing.
    pub(super) fn queued_size(&self) -> QueuedSize {
        let target_bytes = |event: &RoutedEvent| match &event.targets {
            Targets::Many(ids) if Arc::strong_count(ids) == 1 => size_of_val::<[_]>(ids),
            _ => 0,
        };
        QueuedSize {
            events: self.events.len(),
            payload_bytes: self.events.iter().map(|routed| routed.event.payload.len()).sum(),
            target_bytes: self.events.iter().map(target_bytes).sum(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct QueuedSize {
    pub(super) events: usize,
    pub(super) payload_bytes: usize,
    pub(super) target_bytes: usize,
}

/// What the committer answers for the events of one submission.
pub(super) type AcceptedEvents = SmallVec<[Accepted; 1]>;

/// The committer's side of a publisher's receipt.
pub(crate) enum SubmissionSender {
    /// Of `publish`.
    One(ReceiptSender<Accepted>),
    /// Of `publish_many`.
    Many(ReceiptSender<Vec<Accepted>>),
}

impl SubmissionSender {
    /// Resolves the receipt. The caller still has to wake the threads of the returned group.
    fn resolve(&self, accepted: Result<AcceptedEvents>) -> Option<&Arc<WakeGroup>> {
        match self {
            SubmissionSender::Many(sender) => sender.resolve(accepted.map(SmallVec::into_vec)),
            SubmissionSender::One(sender) => {
                sender.resolve(accepted.and_then(|all| all.first().copied().ok_or(Error::Closed)))
            }
        }
    }
}

/// Resolves receipts. Neighbors that share a wake group are woken by one call.
pub(super) fn answer_all<'a>(
    answers: impl Iterator<Item = (&'a SubmissionSender, Result<AcceptedEvents>)>,
) {
    let mut asleep: Option<&Arc<WakeGroup>> = None;
    for (sender, accepted) in answers {
        let Some(group) = sender.resolve(accepted) else { continue };
        if let Some(before) = asleep.replace(group).filter(|before| !Arc::ptr_eq(before, group)) {
            before.wake_all();
        }
    }
    if let Some(group) = asleep {
        group.wake_all();
    }
}
