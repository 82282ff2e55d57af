//! What can be read of the dispatcher: its counts, its lanes, and what each owes. Only the figures of all lanes cost
//! more than what is asked for. An event of a large fan-out that has not reached its lanes counts as owed, but not yet
//! in the figures of these lanes.

use super::Dispatcher;
use crate::attempt::LoopId;
use crate::stats::{Bound, LaneStats};
use crate::subscription::SubscriptionId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListedDelivery {
    pub(crate) sequence: u64,
    pub(crate) stage: DeliveryStage,
}

/// What an owed delivery waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryStage {
    /// Its first attempt, or the end of it.
    Owed,
    /// Its ordering, its main delivery, or its subscription to be active.
    Blocked,
    /// Its next attempt after a failure. `due_ms` is monotonic; `None` while the subscription or its account is not
    /// active.
    Retrying { attempts: u32, due_ms: Option<u64> },
}

impl Dispatcher {
    /// Owed deliveries at any stage, held ones included.
    pub(crate) fn owed(&self) -> u64 {
        self.owed + self.fan_outs.deliveries()
    }

    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// What a lane owes, without what still waits in a fan-out.
    pub(crate) fn owed_of(&self, id: SubscriptionId) -> u64 {
        self.lanes.get(&id).map_or(0, |lane| lane.backlog.owed())
    }

    /// Attempts in flight, those of removed lanes included.
    pub(crate) fn in_flight(&self) -> usize {
        self.ready_queue.in_flight()
    }

    pub(crate) fn in_flight_of(&self, account: &str) -> usize {
        self.accounts.get(account).map_or(0, |index| self.ready_queue.in_flight_of(*index))
    }

    pub(crate) fn in_flight_max(&self) -> usize {
        self.limits.in_flight_max.max(1)
    }

    /// Whether a lane's endpoint has failed since its last success, or rests.
    pub(crate) fn has_failures(&self, id: SubscriptionId) -> bool {
        self.lanes.get(&id).is_some_and(|lane| lane.endpoint.has_failures())
    }

    /// How many attempts could start now.
    pub(crate) fn startable(&self) -> usize {
        let all = self.ready_queue.threads().map(|thread| self.startable_of(thread));
        all.sum::<usize>().min(self.room())
    }

    /// How many attempts of a thread could start now.
    pub(crate) fn startable_of(&self, thread: LoopId) -> usize {
        self.ready_queue.unbound_attempts(thread).min(self.room())
    }

    fn room(&self) -> usize {
        let most = self.in_flight_max().min(self.throttle.limit(self.now_ms));
        most.saturating_sub(self.in_flight())
    }

    pub(crate) fn bound(&self) -> Option<Bound> {
        let shortage = self.throttle.shortage().map(Bound::Shortage);
        self.ready_queue.bound().map(|bound| shortage.unwrap_or(bound))
    }

    /// The figures of every lane that ever owed anything, ordered by id.
    pub(crate) fn lane_stats(&self, now_ms: u64) -> Vec<LaneStats> {
        let mut stats: Vec<_> =
            self.lanes.iter().filter_map(|(id, lane)| lane.stats(*id, now_ms)).collect();
        stats.sort_unstable_by_key(|stats| stats.subscription);
        stats
    }

    pub(crate) fn lane_stats_of(&self, id: SubscriptionId, now_ms: u64) -> Option<LaneStats> {
        self.lanes.get(&id)?.stats(id, now_ms)
    }

    /// When [`tick`](Self::tick) or [`expire`](Self::expire) has something to do next, in monotonic milliseconds.
    pub(crate) fn next_timer_ms(&self) -> Option<u64> {
        [self.next_wake_ms(), self.next_expiry_ms()].into_iter().flatten().min()
    }

    /// What a lane owes from a sequence on, in the order published, at the stages that are `wanted`. The
    /// cost grows with `count_max` and not with the backlog, so a backlog is read in slices.
    pub(crate) fn listed(
        &mut self,
        id: SubscriptionId,
        from: u64,
        wanted: impl Fn(DeliveryStage) -> bool,
        count_max: usize,
    ) -> Vec<ListedDelivery> {
        self.owe_ahead(id);
        let Some(lane) = self.lanes.get(&id) else { return Vec::new() };
        let never_tried =
            if lane.is_held_back() { DeliveryStage::Blocked } else { DeliveryStage::Owed };
        let mut listed = lane.backlog.listed(from, never_tried, wanted, count_max);
        for one in &mut listed {
            if let DeliveryStage::Retrying { due_ms, .. } = &mut one.stage {
                *due_ms = due_ms.and_then(|due_ms| lane.earliest_start_ms(due_ms));
            }
        }
        listed
    }
}
