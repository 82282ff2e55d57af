//! The outbox: the durable side of the engine. It stores accepted events and what became of each delivery.
//!
//! An event exists if its head is on the device with everything it needs, and every change of a delivery is one
//! record that is there or not (I1, I2). The engine uses the outbox through `handle`. `committer` writes groups to the
//! newest of the `generations`, `compaction` removes old generations, `recovery` reads them at open, and `codec`
//! defines their bytes. Start with `committer`; `batch` is what it takes and `group_builder` what it writes.

mod accounts;
mod admission;
mod attempts;
mod batch;
mod batch_scheduling;
mod codec;
mod command;
mod commit_event;
mod committer;
mod compaction;
mod cursor;
mod dead_letters;
mod dedup;
mod event_cache;
mod generations;
mod group;
mod group_builder;
mod handle;
mod lookup;
mod records;
mod recovery;
mod snapshot;
mod stall;
mod writer;

pub(crate) use self::accounts::events::AccountRefs;
pub use self::accounts::shares::{AccountBounds, AccountUsage};
pub(crate) use self::accounts::shares::{AccountShare, AccountShares, QueueClaim};
pub(crate) use self::codec::dedup_page::dedup_key_of;
pub(crate) use self::codec::heads::HeadOwner;
pub(crate) use self::command::{RoutedEvent, Submission, SubmissionSender};
pub(crate) use self::commit_event::{
    CommitEvent, CommitListener, GroupTotals, OwedEvent, TracedEvent,
};
pub(crate) use self::compaction::OwedQuery;
pub(crate) use self::handle::{CommitterParts, Outbox};
pub(crate) use self::lookup::OwnerPages;
pub(crate) use self::recovery::{OpenedOutbox, OutboxOptions, RecoveredOutbox};

/// Whether a database with this name is the outbox's.
pub(crate) fn has_database(name: &str) -> bool {
    name == dedup::database::DEDUP_DATABASE || generations::number_of(name).is_some()
}

#[cfg(test)]
mod tests;
