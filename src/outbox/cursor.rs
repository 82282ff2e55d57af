//! The committer's view of the outbox: where the next group continues, and which generation holds the newest
//! record of each kind.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::accounts::shares::AccountShares;
use crate::attempt::DeliveryId;
use crate::subscription::SubscriptionId;

use super::attempts::AttemptIndex;
use super::codec::meta::GenerationMeta;
use super::dead_letters::DeadLetterIndex;
use super::dedup::DedupTable;

/// Where the next group continues.
#[derive(Debug)]
pub(super) struct Cursor {
    /// The number of the newest generation.
    pub(super) generation: u64,
    pub(super) meta: GenerationMeta,
    pub(super) next_sequence: u64,
    pub(super) next_page: u64,
    pub(super) next_record: u64,
    pub(super) dedup: DedupTable,
    pub(super) letters: Arc<Mutex<DeadLetterIndex>>,
    pub(super) attempts: Arc<Mutex<AttemptIndex>>,
    /// Dead letters that were dropped and whose end the next group writes: a restart would find their records.
    pub(super) dropped_letters: Vec<DeliveryId>,
    /// Lanes with a health record, and the generation of the newest one.
    pub(super) health: HashMap<SubscriptionId, u64>,
    /// Deliveries with a retry state, and the generation of the newest one.
    pub(super) retrying: HashMap<DeliveryId, u64>,
    /// The tombstones of subscriptions removed since the engine was opened, by the generation that holds them.
    pub(super) tombstones: HashMap<u64, Vec<SubscriptionId>>,
    /// Removals that the subscription store has, so that their tombstones need not be copied.
    pub(super) stored_removals: Arc<Mutex<HashSet<SubscriptionId>>>,
    /// Subscriptions removed since the engine was opened. Events that were routed before the removal are
    /// not owed to them.
    pub(super) removed: HashSet<SubscriptionId>,
    pub(super) shares: Arc<AccountShares>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The cursor of a new outbox.
    pub(crate) fn cursor() -> Cursor {
        let mut meta = GenerationMeta::first();
        meta.incarnations.begin(0, 7);
        Cursor {
            generation: 1,
            meta,
            next_sequence: 1,
            next_page: 1,
            next_record: 1,
            dedup: DedupTable::new(1_000, 10),
            letters: Arc::new(Mutex::new(DeadLetterIndex::new(10, 1_000))),
            attempts: Arc::default(),
            dropped_letters: Vec::new(),
            health: HashMap::new(),
            retrying: HashMap::new(),
            tombstones: HashMap::new(),
            stored_removals: Arc::default(),
            removed: HashSet::new(),
            shares: crate::outbox::accounts::shares::tests::shares_of(&[]),
        }
    }
}
