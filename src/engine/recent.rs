//! Decides which attempts are remembered for somebody who looks: the newest ones of each subscription
//! and of all, successes too.
//!
//! Leaves to others: what an attempt meant (`dispatch`) and what must outlive the process (`outbox`,
//! which keeps the failed attempts of what is owed or dead). Invariant (I10): there are never more than
//! the limits say, and taking one in costs the same however many there are.

use std::fmt;

use foldhash::HashMap;
use parking_lot::Mutex;

use crate::attempt::{Attempt, Reason, Record, Reply};
use crate::config::Limits;
use crate::event::{EventId, EventType};
use crate::subscription::SubscriptionId;

/// An attempt as it is remembered for a while, in memory.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecentAttempt {
    /// When it ended, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Which event: its `webhook-id`.
    pub event: EventId,
    /// The type of the event; `None` where the attempt failed for a reason of our own.
    pub event_type: Option<EventType>,
    /// Which attempt of the delivery, from 1.
    pub number: u32,
    /// What became of the delivery with it.
    pub outcome: RecentOutcome,
    /// The HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// Why it failed; `None` where it did not.
    pub reason: Option<Reason>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The first bytes of an answer that was no success, at most
    /// [`EXCERPT_BYTES_MAX`](crate::EXCERPT_BYTES_MAX).
    pub excerpt: Vec<u8>,
}

/// What became of a delivery with one of its attempts.
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

impl RecentOutcome {
    /// The outcome's name in listings.
    pub fn as_str(self) -> &'static str {
        match self {
            RecentOutcome::Delivered => "delivered",
            RecentOutcome::Retry => "retry",
            RecentOutcome::Dead => "dead",
        }
    }

    /// The outcome of an attempt by what it changed; `None` where it changed nothing.
    fn of(record: Option<&Record>) -> Option<RecentOutcome> {
        match record? {
            Record::Settle(_) | Record::SettleMain(_) => Some(RecentOutcome::Delivered),
            Record::Retry(..) => Some(RecentOutcome::Retry),
            Record::Dead(_) => Some(RecentOutcome::Dead),
            Record::Revive(_) | Record::Tried(..) | Record::Health(..) => None,
        }
    }
}

impl fmt::Debug for RecentAttempt {
    /// Without the excerpt, which may repeat the payload (I9).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecentAttempt")
            .field("at_ms", &self.at_ms)
            .field("event", &self.event)
            .field("event_type", &self.event_type)
            .field("number", &self.number)
            .field("outcome", &self.outcome)
            .field("status", &self.status)
            .field("reason", &self.reason)
            .field("took_ms", &self.took_ms)
            .field("excerpt_bytes", &self.excerpt.len())
            .finish()
    }
}

/// An attempt that ended, and what it changed.
pub(super) struct Ended<'a> {
    pub(super) attempt: Attempt,
    pub(super) event: EventId,
    pub(super) event_type: Option<EventType>,
    pub(super) reply: Reply,
    pub(super) reason: Option<Reason>,
    pub(super) record: Option<&'a Record>,
    pub(super) at_ms: u64,
    pub(super) took_ms: u64,
}

/// The attempts that are remembered.
#[derive(Debug)]
pub(super) struct Recent {
    max: usize,
    of_one_max: usize,
    ring: Mutex<Ring>,
}

impl Recent {
    pub(super) fn new(limits: &Limits) -> Recent {
        let of_one_max = limits.recent_attempts_each_max;
        Recent { max: limits.recent_attempts_max, of_one_max, ring: Mutex::default() }
    }

    /// Remembers an attempt that changed something. One that was interrupted, or whose subscription is
    /// removed, is left out, as everywhere. Returns the one that it took the place of, which the
    /// caller gives back to the allocator when no lock is held.
    pub(super) fn remember(&self, ended: Ended<'_>) -> Option<RecentAttempt> {
        let outcome = RecentOutcome::of(ended.record)?;
        if self.max == 0 || self.of_one_max == 0 {
            return None;
        }
        let (status, excerpt) = ended.reply.into_answer();
        let failed = ended.reason.is_some();
        let remembered = RecentAttempt {
            at_ms: ended.at_ms,
            event: ended.event,
            event_type: ended.event_type,
            number: ended.attempt.number,
            outcome,
            status,
            reason: ended.reason,
            took_ms: ended.took_ms,
            excerpt: if failed { excerpt } else { Vec::new() },
        };
        let id = ended.attempt.delivery.subscription;
        self.ring.lock().push(id, remembered, self.max, self.of_one_max)
    }

    /// The newest attempts of a subscription, the last one first.
    pub(super) fn of(&self, id: SubscriptionId, count_max: usize) -> Vec<RecentAttempt> {
        self.ring.lock().of(id, count_max)
    }
}

/// Attempts in slots that are linked twice: in the order of all, and in that of their subscription. A
/// slot is never given back; what is forgotten makes room for what comes.
#[derive(Debug, Default)]
struct Ring {
    slots: Vec<Slot>,
    all: Ends,
    of_one: HashMap<SubscriptionId, Ends>,
}

#[derive(Debug)]
struct Slot {
    attempt: RecentAttempt,
    subscription: SubscriptionId,
    /// In the order of all.
    older: Option<usize>,
    newer: Option<usize>,
    /// In the order of its subscription. What goes is always its oldest, so one direction is enough.
    next: Option<usize>,
}

/// The ends of a row of slots.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    oldest: Option<usize>,
    newest: Option<usize>,
    count: usize,
}

impl Ring {
    /// Takes an attempt in. Returns the one that it took the place of.
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
        let slot = Slot { attempt, subscription: id, older: None, newer: None, next: None };
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

    /// Takes the oldest slot of a subscription out of both rows.
    fn unlink(&mut self, place: usize) {
        let Some(&Slot { subscription, older, newer, next, .. }) = self.slots.get(place) else {
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

    /// Makes a slot the newest of both rows.
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
    use crate::attempt::{Answered, DeliveryId, Letter, RetryState};
    use proptest::prelude::*;

    fn attempt(sequence: u64, subscription: u32) -> Attempt {
        let subscription = SubscriptionId(subscription);
        Attempt { delivery: DeliveryId { sequence, subscription }, number: 1 }
    }

    fn ended<'a>(attempt: Attempt, reply: Reply, record: Option<&'a Record>) -> Ended<'a> {
        let failed = !matches!(record, Some(Record::Settle(_)));
        Ended {
            attempt,
            event: EventId::new(7, attempt.delivery.sequence),
            event_type: None,
            reply,
            reason: failed.then_some(Reason::Status(500)),
            record,
            at_ms: 1,
            took_ms: 2,
        }
    }

    fn recent(max: usize, of_one_max: usize) -> Recent {
        Recent::new(&Limits {
            recent_attempts_max: max,
            recent_attempts_each_max: of_one_max,
            ..Limits::default()
        })
    }

    fn deliver(recent: &Recent, sequence: u64, subscription: u32) {
        let attempt = attempt(sequence, subscription);
        let settle = Record::Settle(attempt.delivery);
        recent.remember(ended(attempt, Reply::status(200), Some(&settle)));
    }

    fn sequences(recent: &Recent, subscription: u32, count_max: usize) -> Vec<u64> {
        let found = recent.of(SubscriptionId(subscription), count_max);
        found.iter().map(|attempt| attempt.event.sequence()).collect()
    }

    #[test]
    fn the_newest_are_remembered_and_a_busy_subscription_leaves_a_quiet_one_its_own() {
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
    fn nothing_is_remembered_where_either_limit_is_0() {
        for (max, of_one_max) in [(0, 3), (3, 0)] {
            let recent = recent(max, of_one_max);
            deliver(&recent, 1, 5);
            assert_eq!(sequences(&recent, 5, 10), [0; 0]);
        }
    }

    #[test]
    fn an_attempt_says_what_became_of_its_delivery_and_only_a_failed_one_what_was_answered() {
        let recent = recent(10, 10);
        let attempt = attempt(4, 5);
        let delivery = attempt.delivery;
        let retry = RetryState { attempts: 1, age_ms: 0, due_wall_ms: 0, saved_wall_ms: 0 };
        let reason = Reason::Status(500);
        let letter = Letter { delivery, reason: reason.clone(), attempts: 1, at_wall_ms: 0 };
        let answered = |status| Reply::Answered(Answered::new(status).excerpt(b"hidden"));
        let cases = [
            (answered(200), Some(Record::Settle(delivery)), Some(("delivered", Some(200), ""))),
            (
                answered(500),
                Some(Record::Retry(delivery, retry)),
                Some(("retry", Some(500), "hidden")),
            ),
            (
                Reply::Failed(crate::attempt::Failure::Dns),
                Some(Record::Dead(letter)),
                Some(("dead", None, "")),
            ),
            (answered(200), None, None),
        ];
        for (reply, record, expected) in cases {
            let before = recent.of(delivery.subscription, 10).len();
            recent.remember(ended(attempt, reply, record.as_ref()));
            let found = recent.of(delivery.subscription, 10);
            assert!(!format!("{found:?}").contains("hidden"));
            let Some((word, status, excerpt)) = expected else {
                assert_eq!(found.len(), before);
                continue;
            };
            assert_eq!((found[0].outcome.as_str(), found[0].status), (word, status));
            assert_eq!(found[0].reason, (word != "delivered").then_some(reason.clone()));
            assert_eq!(found[0].excerpt, excerpt.as_bytes());
        }
    }

    proptest! {
        /// Against lists that are searched and shifted.
        #[test]
        fn whatever_comes_the_rows_hold_what_plain_lists_would(
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
