//! Owes again what was owed when the outbox was closed, and what the host replays. A jump of the wall clock while the
//! host was down lengthens no wait. Deliveries of an unknown subscription are held, never dropped.

use std::collections::HashMap;

use roaring::RoaringTreemap;

use super::backlog::Retrying;
use super::expiry::signed;
use super::{Dispatcher, StepContext, backoff};
use crate::attempt::{DeliveryId, LaneHealth, RetryState};
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
        let counts_from_ms = signed(now_ms).saturating_sub(signed(age_ms));
        let attempts = state.attempts;
        let retrying = Retrying { attempts, counts_from_ms, at_ms: now_ms, due_ms };
        let DeliveryId { sequence, subscription: id } = delivery;
        let lane = self.lanes.entry(id).or_default();
        let (waits, new) = lane.backlog.owe_retry(sequence, retrying, key_hash);
        if waits {
            self.waiting.insert((due_ms, delivery));
        }
        self.count_owed(id, u64::from(new));
    }

    /// Counts the age of an owed delivery from its replay, before which it was a dead letter.
    pub(crate) fn recovered_replay(
        &mut self,
        delivery: DeliveryId,
        state: &RetryState,
        context: StepContext,
    ) {
        let (age_ms, _) = backoff::resumed_ms(state, context.wall_ms);
        if let Some(lane) = self.lanes.get_mut(&delivery.subscription) {
            let at_ms = signed(context.now_ms).saturating_sub(signed(age_ms));
            lane.backlog.note_replay(delivery.sequence, at_ms);
        }
    }

    /// Owes replayed dead letters, whose replay is durable. Their ages begin now. Returns those whose lane was
    /// removed.
    #[must_use = "a cancelled delivery is counted"]
    pub(crate) fn revived(&mut self, deliveries: &[DeliveryId], now_ms: u64) -> Vec<DeliveryId> {
        self.advance(now_ms);
        let mut cancelled = Vec::new();
        for delivery in deliveries {
            let Some(lane) = self.lanes.get_mut(&delivery.subscription) else {
                cancelled.push(*delivery);
                continue;
            };
            let new = lane.backlog.owe_again(delivery.sequence, signed(now_ms));
            self.expiry.begin(lane, delivery.subscription, now_ms);
            self.count_owed(delivery.subscription, u64::from(new));
        }
        for DeliveryId { sequence, subscription } in deliveries {
            self.hold_dependents(*sequence, &[*subscription]);
            self.refresh(*subscription);
        }
        cancelled
    }

    pub(crate) fn recovered_health(
        &mut self,
        id: SubscriptionId,
        health: &LaneHealth,
        now_ms: u64,
        wall_ms: u64,
    ) {
        self.advance(now_ms);
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
