//! Owes again what was owed when the outbox was closed. A jump of the wall clock while the host was down neither ages
//! a delivery nor lengthens a wait. Deliveries of an unknown subscription are held, never dropped.

use std::collections::HashMap;

use roaring::RoaringTreemap;

use super::backlog::Retrying;
use super::{Dispatcher, backoff};
use crate::attempt::DeliveryId;
use crate::delivery_record::{LaneHealth, RetryState};
use crate::subscription::SubscriptionId;

impl Dispatcher {
    /// Owes deliveries that were never tried. `keys` has the key hashes of events of ordered lanes. Dependents are
    /// held afterwards, by [`hold_recovered_dependents`](Self::hold_recovered_dependents).
    pub(crate) fn recovered(
        &mut self,
        id: SubscriptionId,
        pending: RoaringTreemap,
        keys: &HashMap<u64, u64>,
    ) {
        let new = self.lanes.entry(id).or_default().backlog.owe_all(pending, keys);
        self.count_owed(id, new);
    }

    /// Owes a delivery that had failed. It is due after the rest of its wait, which a jump of the wall clock cannot
    /// lengthen. To be called before first attempts are recovered, so that it keeps its place in its key.
    pub(crate) fn recovered_retry(
        &mut self,
        delivery: DeliveryId,
        key_hash: u64,
        state: &RetryState,
        now_ms: u64,
        wall_ms: u64,
    ) {
        let (age_ms, left_ms) = backoff::resumed_ms(state, wall_ms);
        let due_ms = now_ms.saturating_add(left_ms);
        let retrying = Retrying { attempts: state.attempts, age_ms, at_ms: now_ms, due_ms };
        let DeliveryId { sequence, subscription: id } = delivery;
        let lane = self.lanes.entry(id).or_default();
        let (waits, new) = lane.backlog.owe_retry(sequence, retrying, key_hash);
        if waits {
            self.waiting.insert((due_ms, delivery));
        }
        self.count_owed(id, u64::from(new));
    }

    /// Restores an endpoint's health.
    pub(crate) fn recovered_health(
        &mut self,
        id: SubscriptionId,
        health: &LaneHealth,
        now_ms: u64,
        wall_ms: u64,
    ) {
        self.now_ms = self.now_ms.max(now_ms);
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.resume(health, now_ms, wall_ms);
        }
        self.refresh(id);
    }

    pub(super) fn count_owed(&mut self, id: SubscriptionId, new: u64) {
        self.owed += new;
        if self.lanes.get(&id).is_some_and(|lane| lane.is_held()) {
            self.held += new;
        }
        self.refresh(id);
    }
}
