//! Ends deliveries at the end of their age, whether or not they were ever tried (I13). The age counts from
//! acceptance, or from a replay. At its end a delivery of an active lane has [`LAST_ATTEMPT_MS`] more to start one
//! last attempt, for which the rest of a failing endpoint is cut short once in a while; then it is a dead letter,
//! and at once if its lane is paused or disabled.
//!
//! A lane has one timer, set when it begins to owe something and set again when it ran out. So a delivery that
//! succeeds costs nothing here.

use std::collections::BTreeSet;

use super::backlog::Retrying;
use super::lane::{DeliveryAge, Lane};
use super::{Dispatcher, StepContext};
use crate::attempt::{DeliveryId, Reason, Record, StoredDeadLetter};
use crate::event::AcceptanceTimes;
use crate::subscription::SubscriptionId;

/// How long after the end of its age a delivery may start its last attempt.
pub(super) const LAST_ATTEMPT_MS: u64 = 10_000;

/// A lane is looked at again after this if something overdue is still in flight, or nothing may end now.
const AGAIN_MS: u64 = 1_000;

/// A lane is looked at again after this if it has more to end than fits into one step.
const MORE_MS: u64 = 20;

/// After an open everything recovered keeps at least this part of its age, so that a jump of the clock while the host
/// was down ends nothing at once.
const KEPT_PART: u64 = 24;

/// From when ages count, and the lanes' timers.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    pub(super) times: AcceptanceTimes,
    opened_ms: u64,
    timers: BTreeSet<(u64, SubscriptionId)>,
}

impl Expiry {
    /// Sets a lane's timer, if it has none, because it owes something that was accepted or replayed now.
    pub(super) fn begin(&mut self, lane: &mut Lane, id: SubscriptionId, now_ms: u64) {
        if lane.expiry_ms.is_none()
            && let Some(age_max_ms) = lane.age_max_ms()
        {
            let ends_ms = now_ms.saturating_add(age_max_ms);
            lane.expiry_ms = Some(ends_ms);
            self.timers.insert((ends_ms, id));
        }
    }

    /// Removes the timer of a lane that is gone.
    pub(super) fn forget(&mut self, lane: &Lane, id: SubscriptionId) {
        if let Some(set_ms) = lane.expiry_ms {
            self.timers.remove(&(set_ms, id));
        }
    }

    pub(super) fn age(&self, lane: &Lane, sequence: u64, now_ms: u64) -> DeliveryAge {
        let noted_ms = lane.backlog.counts_from(sequence, &self.times);
        let counts_from_ms = noted_ms.unwrap_or_else(|| signed(now_ms));
        let ends_ms =
            lane.age_max_ms().map_or(u64::MAX, |most_ms| self.ends_ms(counts_from_ms, most_ms));
        DeliveryAge { counts_from_ms, ends_ms }
    }

    fn ends_ms(&self, counts_from_ms: i64, age_max_ms: u64) -> u64 {
        let ends_ms = u64::try_from(counts_from_ms.saturating_add(signed(age_max_ms))).unwrap_or(0);
        ends_ms.max(self.opened_ms.saturating_add(age_max_ms / KEPT_PART))
    }

    /// The latest time from which an age may count that ended `ago_ms` ago or before; `None` if none did.
    fn ended_by(&self, age_max_ms: u64, now_ms: u64, ago_ms: u64) -> Option<i64> {
        let then_ms = now_ms.checked_sub(ago_ms)?;
        let kept_ms = self.opened_ms.saturating_add(age_max_ms / KEPT_PART);
        (then_ms >= kept_ms).then(|| signed(then_ms).saturating_sub(signed(age_max_ms)))
    }
}

impl Dispatcher {
    /// Sets when recovered events were accepted. `accepted` has wall times.
    pub(crate) fn recovered_times(&mut self, accepted: AcceptanceTimes, context: StepContext) {
        let StepContext { now_ms, wall_ms, .. } = context;
        self.expiry.times = accepted.moved(signed(now_ms) - signed(wall_ms));
        self.expiry.opened_ms = now_ms;
    }

    /// When [`expire`](Self::expire) may have something to end next, in monotonic milliseconds.
    pub(crate) fn next_expiry_ms(&self) -> Option<u64> {
        self.expiry.timers.first().map(|first| first.0)
    }

    /// Ends deliveries whose age has ended, at most `count_max`. Returns the records of each, to be made durable in
    /// one batch: its own end, and the ends of the deliveries that depended on it.
    #[must_use = "a delivery that expired is owed again after a crash until its records are durable"]
    pub(crate) fn expire(
        &mut self,
        now_ms: u64,
        wall_ms: u64,
        count_max: usize,
    ) -> Vec<Vec<Record>> {
        self.advance(now_ms);
        let mut ended = Vec::new();
        while let Some((_, id)) =
            self.expiry.timers.first().copied().filter(|first| first.0 <= now_ms)
        {
            let left = count_max - ended.len();
            let overdue = self.overdue(id, now_ms, left);
            let again_ms = if count_max == 0 { AGAIN_MS } else { MORE_MS };
            let has_more = overdue.len() == left;
            for sequence in overdue {
                let delivery = DeliveryId { sequence, subscription: id };
                ended.extend(self.end_expired(delivery, wall_ms));
            }
            self.set_expiry(id, |ends_ms| {
                if has_more {
                    now_ms.saturating_add(again_ms)
                } else if ends_ms <= now_ms {
                    (ends_ms + LAST_ATTEMPT_MS).max(now_ms.saturating_add(AGAIN_MS))
                } else {
                    ends_ms
                }
            });
            self.refresh(id);
        }
        ended
    }

    /// The deliveries of a lane that end now. Cuts the rest of the lane's endpoint short if last attempts wait for
    /// it.
    fn overdue(&mut self, id: SubscriptionId, now_ms: u64, count_max: usize) -> Vec<u64> {
        let Some(lane) = self.lanes.get_mut(&id) else { return Vec::new() };
        let Some(age_max_ms) = lane.age_max_ms() else { return Vec::new() };
        let (expiry, is_stopped) = (&self.expiry, lane.is_held_back());
        if !is_stopped && let Some(by_ms) = expiry.ended_by(age_max_ms, now_ms, 0) {
            let oldest_ms = lane.backlog.oldest(&expiry.times);
            if oldest_ms.is_some_and(|oldest_ms| oldest_ms <= by_ms) {
                lane.cut_rest(now_ms);
            }
        }
        let ago_ms = if is_stopped { 0 } else { LAST_ATTEMPT_MS };
        let ended_by = expiry.ended_by(age_max_ms, now_ms, ago_ms);
        let overdue = |by_ms| lane.backlog.counting_from_by(by_ms, &expiry.times, count_max);
        ended_by.map(overdue).unwrap_or_default()
    }

    fn end_expired(&mut self, delivery: DeliveryId, wall_ms: u64) -> Option<Vec<Record>> {
        let lane = self.lanes.get_mut(&delivery.subscription)?;
        let failed = lane.backlog.retrying(delivery.sequence).copied();
        if !lane.give_up(delivery.sequence) {
            return None;
        }
        if let Some(Retrying { due_ms, .. }) = failed {
            self.waiting.remove(&(due_ms, delivery));
        }
        let attempts = failed.map_or(0, |failed| failed.attempts);
        self.owed -= 1;
        let reason = Reason::Expired;
        let letter = StoredDeadLetter { delivery, reason, attempts, at_wall_ms: wall_ms };
        let mut records = vec![Record::Dead(letter)];
        records.extend(self.give_up_dependents(delivery, wall_ms));
        Some(records)
    }

    /// Sets a lane's timer. `due_ms` gets the time at which the age of its oldest delivery ends, and returns when to look
    /// at the lane again.
    pub(super) fn set_expiry(&mut self, id: SubscriptionId, due_ms: impl FnOnce(u64) -> u64) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if let Some(set_ms) = lane.expiry_ms.take() {
            self.expiry.timers.remove(&(set_ms, id));
        }
        let Some(age_max_ms) = lane.age_max_ms() else { return };
        let Some(oldest_ms) = lane.backlog.oldest(&self.expiry.times) else { return };
        let due_ms = due_ms(self.expiry.ends_ms(oldest_ms, age_max_ms));
        lane.expiry_ms = Some(due_ms);
        self.expiry.timers.insert((due_ms, id));
    }
}

/// A monotonic time as one that may also be before the start of the process.
pub(super) fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

pub(super) fn age_ms(counts_from_ms: i64, now_ms: u64) -> u64 {
    u64::try_from(signed(now_ms).saturating_sub(counts_from_ms)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;
    use crate::dispatch::tests::{ACCOUNT, ACTIVE, BYSTANDER, LANE, LIMITS, WALL_MS, policy};
    use crate::subscription::{Breaker, Policy, SubscriptionState};
    use crate::transport::Reply;

    const NONE: [u64; 0] = [];

    /// Ends the next attempt with 503 and returns its sequence.
    fn fail_next(dispatcher: &mut Dispatcher, now_ms: u64) -> Option<u64> {
        dispatcher.tick(now_ms);
        let attempt = dispatcher.next_attempt(now_ms)?;
        let context = StepContext { now_ms, wall_ms: WALL_MS + now_ms, random: u64::MAX / 2 };
        let _ = dispatcher.complete(attempt, &Reply::status(503).into(), context);
        Some(attempt.delivery.sequence)
    }

    fn expired(dispatcher: &mut Dispatcher, now_ms: u64, count_max: usize) -> Vec<u64> {
        let ended = dispatcher.expire(now_ms, WALL_MS + now_ms, count_max).into_iter().flatten();
        let sequence = |record| match record {
            Record::Dead(letter) => letter.delivery.sequence,
            other => panic!("{other:?}"),
        };
        ended.map(sequence).collect()
    }

    #[test]
    fn a_rest_is_cut_short_at_most_once_a_minute() {
        let hour = Duration::from_secs(3_600);
        let breaker = Breaker { failures: Some(1), initial: hour, max: hour };
        let policy = Policy { breaker, attempts_max: None, ..policy() };
        let mut dispatcher = Dispatcher::new(LIMITS);
        dispatcher.set_lane(LANE, ACCOUNT, policy.clone(), ACTIVE, &HashMap::new());
        let long = Policy { age_max: hour, ..policy };
        let paused = SubscriptionState::Paused;
        dispatcher.set_lane(BYSTANDER, ACCOUNT, long, paused, &HashMap::new());
        dispatcher.note_accepted(1, 0);
        assert_eq!(dispatcher.accept(1, 0, &[LANE, BYSTANDER]), 0);
        assert_eq!(fail_next(&mut dispatcher, 0), Some(1), "the breaker opens for an hour");
        dispatcher.note_accepted(3, 1_000);
        for sequence in [2, 3] {
            assert_eq!(dispatcher.accept(sequence, 0, &[LANE]), 0);
        }
        assert_eq!(fail_next(&mut dispatcher, 9_999), None);
        assert_eq!(dispatcher.next_expiry_ms(), Some(10_000));
        assert_eq!(expired(&mut dispatcher, 10_000, 9), NONE);
        assert_eq!(fail_next(&mut dispatcher, 10_000), Some(1), "its last attempt");
        assert_eq!(expired(&mut dispatcher, 11_500, 9), NONE);
        assert_eq!(fail_next(&mut dispatcher, 11_500), None, "not again for the next ones");
        assert_eq!(expired(&mut dispatcher, 21_500, 0), NONE, "no room for ends");
        assert_eq!(expired(&mut dispatcher, 22_500, 1), [2]);
        assert_eq!(expired(&mut dispatcher, 22_520, 9), [3]);
        dispatcher.note_accepted(4, 61_000);
        assert_eq!(dispatcher.accept(4, 0, &[LANE]), 0);
        assert_eq!(expired(&mut dispatcher, 71_000, 9), NONE);
        assert_eq!(fail_next(&mut dispatcher, 71_000), Some(4));
        assert_eq!(dispatcher.owed(), 1, "the bystander's");
        assert_eq!(expired(&mut dispatcher, 3_600_000, 9), [1], "at once in a paused lane");
    }
}
