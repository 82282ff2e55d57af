//! Remembers the newest attempts in memory, successes too: a number of each subscription and a number of
//! all. Both numbers are bounded by the limits (I10), and adding an attempt costs the same however many are
//! remembered. Failed attempts that must outlive the process are kept by `outbox`.

use std::time::Duration;

use foldhash::HashMap;
use parking_lot::Mutex;

use crate::attempt::{Reason, Record};
use crate::config::Limits;
use crate::event::{EventId, EventType, StoredEvent};
use crate::macros::word_enum;
use crate::subscription::SubscriptionId;
use crate::text::debug_fields;

/// An attempt, remembered in memory for a while.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecentAttempt {
    /// When it ended, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Which event: its `webhook-id`.
    pub event: EventId,
    /// The type of the event; `None` if the attempt failed before the event was read.
    pub event_type: Option<EventType>,
    /// Which attempt of the delivery, from 1.
    pub number: u32,
    /// What it meant for the delivery.
    pub outcome: RecentOutcome,
    /// The HTTP status, if there was a response.
    pub status: Option<u16>,
    /// Why it failed; `None` if it did not.
    pub reason: Option<Reason>,
    /// How long it took, in whole milliseconds.
    pub took: Duration,
    /// The first bytes of a response that was no success, at most
    /// [`EXCERPT_BYTES_MAX`](crate::EXCERPT_BYTES_MAX).
    pub excerpt: Vec<u8>,
}

/// What is remembered of an event while an attempt of it is in flight.
#[derive(Debug)]
pub(in crate::engine) struct SentEvent {
    pub(in crate::engine) id: EventId,
    pub(in crate::engine) event_type: EventType,
}

impl From<&StoredEvent> for SentEvent {
    fn from(event: &StoredEvent) -> SentEvent {
        SentEvent { id: event.id, event_type: event.event_type.clone() }
    }
}

/// What an attempt meant for its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecentOutcome {
    /// The receiver has it.
    Delivered,
    /// It failed, and another attempt follows.
    Retry,
    /// It failed, and the delivery was given up.
    Dead,
}

word_enum!(pub RecentOutcome: Delivered = "delivered", Retry = "retry", Dead = "dead");

impl RecentOutcome {
    /// The outcome that a change of the delivery stands for; `None` if nothing changed.
    pub(in crate::engine) fn of(record: &Record) -> Option<RecentOutcome> {
        match record {
            Record::Settle(_) | Record::SettleMain(_) => Some(RecentOutcome::Delivered),
            Record::Retry(..) => Some(RecentOutcome::Retry),
            Record::Dead(_) => Some(RecentOutcome::Dead),
            Record::Revive(_)
            | Record::Discard(_)
            | Record::FailedAttempt(..)
            | Record::Health(..) => None,
        }
    }
}

// Omits the excerpt, which may repeat the payload (I9).
debug_fields!(
    RecentAttempt: at_ms, event, event_type, number, outcome, status, reason, took, excerpt.len()
);

#[derive(Debug)]
pub(in crate::engine) struct RecentAttempts {
    max: usize,
    of_one_max: usize,
    ring: Mutex<AttemptRing>,
}

impl RecentAttempts {
    pub(in crate::engine) fn new(limits: &Limits) -> RecentAttempts {
        let of_one_max = limits.recent_attempts_each_max;
        RecentAttempts { max: limits.recent_attempts_max, of_one_max, ring: Mutex::default() }
    }

    /// Remembers attempts. Returns those they replace, for the caller to free without a lock.
    pub(in crate::engine) fn remember(
        &self,
        attempts: Vec<(SubscriptionId, RecentAttempt)>,
    ) -> Vec<RecentAttempt> {
        if self.max == 0 || self.of_one_max == 0 || attempts.is_empty() {
            return Vec::new();
        }
        let mut ring = self.ring.lock();
        let (max, of_one_max) = (self.max, self.of_one_max);
        let pushed = attempts.into_iter();
        pushed.filter_map(|(id, attempt)| ring.push(id, attempt, max, of_one_max)).collect()
    }

    /// Forgets what receivers answered to attempts of some events, which may repeat their payload.
    pub(in crate::engine) fn forget_excerpts(&self, is_meant: impl Fn(EventId) -> bool) {
        let mut ring = self.ring.lock();
        let slots = ring.slots.iter_mut().map(|slot| &mut slot.attempt);
        slots.filter(|attempt| is_meant(attempt.event)).for_each(|attempt| attempt.excerpt.clear());
    }

    /// The newest attempts of a subscription, newest first.
    pub(in crate::engine) fn of(&self, id: SubscriptionId, count_max: usize) -> Vec<RecentAttempt> {
        self.ring.lock().of(id, count_max)
    }
}

/// Attempts in slots that belong to two linked lists: one of all attempts, one of their subscription. Slots
/// are never freed; a new attempt reuses the slot of the one it replaces.
#[derive(Debug, Default)]
struct AttemptRing {
    slots: Vec<RingSlot>,
    all: RingEnds,
    of_one: HashMap<SubscriptionId, RingEnds>,
}

#[derive(Debug)]
struct RingSlot {
    attempt: RecentAttempt,
    subscription: SubscriptionId,
    /// In the list of all.
    older: Option<usize>,
    newer: Option<usize>,
    /// In the list of its subscription, which only ever drops its oldest, so one direction is enough.
    next: Option<usize>,
}

#[derive(Debug, Clone, Copy, Default)]
struct RingEnds {
    oldest: Option<usize>,
    newest: Option<usize>,
    count: usize,
}

impl AttemptRing {
    /// Adds an attempt. Returns the one it replaces.
    fn push(
        &mut self,
        id: SubscriptionId,
        attempt: RecentAttempt,
        max: usize,
        of_one_max: usize,
    ) -> Option<RecentAttempt> {
        let own = self.of_one.get(&id).copied().unwrap_or_default();
        let goes = if own.count >= of_one_max {
            own.oldest
        } else if self.slots.len() >= max {
            self.all.oldest
        } else {
            None
        };
        let slot = RingSlot { attempt, subscription: id, older: None, newer: None, next: None };
        let (place, forgotten) = match goes {
            Some(place) => {
                self.unlink(place);
                let held = self.slots.get_mut(place)?;
                (place, Some(std::mem::replace(held, slot).attempt))
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1, None)
            }
        };
        self.link(place, id);
        forgotten
    }

    /// Takes the oldest slot of a subscription out of both lists.
    fn unlink(&mut self, place: usize) {
        let Some(&RingSlot { subscription, older, newer, next, .. }) = self.slots.get(place) else {
            return;
        };
        match older.and_then(|older| self.slots.get_mut(older)) {
            Some(slot) => slot.newer = newer,
            None => self.all.oldest = newer,
        }
        match newer.and_then(|newer| self.slots.get_mut(newer)) {
            Some(slot) => slot.older = older,
            None => self.all.newest = older,
        }
        self.all.count -= 1;
        let Some(own) = self.of_one.get_mut(&subscription) else { return };
        own.oldest = next;
        own.count -= 1;
        if own.count == 0 {
            self.of_one.remove(&subscription);
        }
    }

    fn link(&mut self, place: usize, id: SubscriptionId) {
        let own = self.of_one.entry(id).or_default();
        let before = own.newest.replace(place);
        own.oldest = own.oldest.or(Some(place));
        own.count += 1;
        if let Some(slot) = before.and_then(|before| self.slots.get_mut(before)) {
            slot.next = Some(place);
        }
        let older = self.all.newest.replace(place);
        self.all.oldest = self.all.oldest.or(Some(place));
        self.all.count += 1;
        if let Some(slot) = older.and_then(|older| self.slots.get_mut(older)) {
            slot.newer = Some(place);
        }
        if let Some(slot) = self.slots.get_mut(place) {
            slot.older = older;
        }
    }

    fn of(&self, id: SubscriptionId, count_max: usize) -> Vec<RecentAttempt> {
        let own = self.of_one.get(&id).copied().unwrap_or_default();
        let slot = |place: usize| self.slots.get(place);
        let first = own.oldest.and_then(slot);
        let row = std::iter::successors(first, |before| before.next.and_then(slot));
        let wanted = row.skip(own.count.saturating_sub(count_max));
        let mut found: Vec<_> = wanted.map(|slot| slot.attempt.clone()).collect();
        found.reverse();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::{Attempt, DeliveryId, RetryState, StoredDeadLetter};
    use crate::transport::{Reply, Response};
    use proptest::prelude::*;

    fn attempt(sequence: u64, subscription: u32) -> Attempt {
        let subscription = SubscriptionId(subscription);
        Attempt { delivery: DeliveryId { sequence, subscription }, number: 1 }
    }

    fn remember(recent: &RecentAttempts, attempt: Attempt, reply: Reply, record: &Record) {
        let DeliveryId { sequence, subscription } = attempt.delivery;
        let failed = !matches!(record, Record::Settle(_));
        let (status, excerpt) = reply.into_status_and_excerpt();
        let remembered = RecentAttempt {
            at_ms: 1,
            event: EventId::new(7, sequence),
            event_type: None,
            number: attempt.number,
            outcome: RecentOutcome::of(record).unwrap(),
            status,
            reason: failed.then_some(Reason::Status(500)),
            took: Duration::from_millis(2),
            excerpt,
        };
        recent.remember(vec![(subscription, remembered)]);
    }

    fn recent(max: usize, of_one_max: usize) -> RecentAttempts {
        RecentAttempts::new(&Limits {
            recent_attempts_max: max,
            recent_attempts_each_max: of_one_max,
            ..Limits::default()
        })
    }

    fn deliver(recent: &RecentAttempts, sequence: u64, subscription: u32) {
        let attempt = attempt(sequence, subscription);
        let settle = Record::Settle(attempt.delivery);
        remember(recent, attempt, Reply::status(200), &settle);
    }

    fn sequences(recent: &RecentAttempts, subscription: u32, count_max: usize) -> Vec<u64> {
        let found = recent.of(SubscriptionId(subscription), count_max);
        found.iter().map(|attempt| attempt.event.sequence()).collect()
    }

    #[test]
    fn a_busy_subscription_does_not_evict_a_quiet_one() {
        let recent = recent(1_000, 3);
        deliver(&recent, 1, 9);
        for sequence in 2..50 {
            deliver(&recent, sequence, 5);
        }
        assert_eq!(sequences(&recent, 5, 10), [49, 48, 47]);
        assert_eq!(sequences(&recent, 5, 2), [49, 48]);
        assert_eq!(sequences(&recent, 9, 10), [1]);
        assert_eq!(sequences(&recent, 1, 10), [0; 0]);
    }

    #[test]
    fn nothing_is_remembered_if_a_limit_is_0() {
        for (max, of_one_max) in [(0, 3), (3, 0)] {
            let recent = recent(max, of_one_max);
            deliver(&recent, 1, 5);
            assert_eq!(sequences(&recent, 5, 10), [0; 0]);
        }
    }

    #[test]
    fn an_attempt_shows_its_outcome_and_hides_its_excerpt() {
        let recent = recent(10, 10);
        let attempt = attempt(4, 5);
        let delivery = attempt.delivery;
        let retry = RetryState { attempts: 1, age_ms: 0, due_wall_ms: 0, saved_wall_ms: 0 };
        let reason = Reason::Status(500);
        let letter =
            StoredDeadLetter { delivery, reason: reason.clone(), attempts: 1, at_wall_ms: 0 };
        let answered = |status| Reply::Response(Response::new(status).excerpt(b"hidden"));
        let cases = [
            (answered(200), Record::Settle(delivery), ("delivered", Some(200), "hidden")),
            (answered(500), Record::Retry(delivery, retry), ("retry", Some(500), "hidden")),
            (
                Reply::Failed(crate::transport::Failure::Dns),
                Record::Dead(letter),
                ("dead", None, ""),
            ),
        ];
        for (reply, record, expected) in cases {
            remember(&recent, attempt, reply, &record);
            let found = recent.of(delivery.subscription, 10);
            assert!(!format!("{found:?}").contains("hidden"));
            let (word, status, excerpt) = expected;
            assert_eq!((found[0].outcome.as_str(), found[0].status), (word, status));
            assert_eq!(found[0].reason, (word != "delivered").then_some(reason.clone()));
            assert_eq!(found[0].excerpt, excerpt.as_bytes());
        }
    }

    proptest! {
        /// The model: plain lists that are searched and shifted.
        #[test]
        fn the_lists_hold_what_plain_lists_would(
            attempts in prop::collection::vec(0_u32..6, 0..200),
            max in 1_usize..20,
            of_one_max in 1_usize..8,
        ) {
            let recent = recent(max, of_one_max);
            let mut plain: Vec<(u32, u64)> = Vec::new();
            for (sequence, subscription) in (1..).zip(attempts) {
                deliver(&recent, sequence, subscription);
                plain.push((subscription, sequence));
                if plain.iter().filter(|(id, _)| *id == subscription).count() > of_one_max {
                    let oldest = plain.iter().position(|(id, _)| *id == subscription).unwrap();
                    plain.remove(oldest);
                }
                if plain.len() > max {
                    plain.remove(0);
                }
            }
            for subscription in 0..6 {
                let own = plain.iter().rev().filter(|(id, _)| *id == subscription);
                let expected: Vec<u64> = own.map(|(_, sequence)| *sequence).collect();
                prop_assert_eq!(sequences(&recent, subscription, usize::MAX), expected);
            }
            let ring = recent.ring.lock();
            prop_assert_eq!((ring.slots.len(), ring.all.count), (plain.len(), plain.len()));
        }
    }
}
