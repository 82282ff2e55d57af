//! Decides how what was owed when the outbox was closed is owed again.
//!
//! Leaves to others: reading it (`outbox`), and closing gates afterwards (`gate`). Invariant: a jump of
//! the wall clock while the host was down neither ages a delivery nor lengthens a wait; what is owed
//! to a subscription that nobody knows is held, never dropped.

use std::collections::HashMap;

use roaring::RoaringTreemap;

use super::backlog::Retrying;
use super::{Dispatcher, backoff};
use crate::attempt::{DeliveryId, LaneHealth, RetryState};
use crate::subscription::SubscriptionId;

impl Dispatcher {
    /// Owes what was found never tried when the outbox was opened; held where the lane is unknown.
    /// `keys` are of the events of lanes that keep an order. Gates are closed afterwards, by
    /// [`close_gates`](Self::close_gates).
    pub(crate) fn recovered(
        &mut self,
        id: SubscriptionId,
        pending: RoaringTreemap,
        keys: &HashMap<u64, u64>,
    ) {
        let new = self.lanes.entry(id).or_default().backlog.owe_all(pending, keys);
        self.count_owed(id, new);
    }

    /// Owes a delivery that had failed before the outbox was opened; held where its lane is unknown.
    /// It is due after what is left of its wait, of which a jump of the wall clock can add nothing.
    /// Ahead of what was never tried, so that it keeps its place in the order.
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

    /// Remembers what was known of an endpoint when the outbox was closed.
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
