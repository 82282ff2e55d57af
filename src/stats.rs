//! Decides what is counted, and in which words a host reads it.
//!
//! Leaves to others: telling single happenings (`notice`). Invariant (I8): every end that an event
//! or a delivery can have has its own counter here.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::subscription::SubscriptionId;

/// A reading of the engine's counters. Counts are since this engine was opened, unless said
/// otherwise. What happens to deliveries is read as of one moment: a delivery that is no longer in
/// `owed` is in `delivered`, `dead` or `cancelled` already, and an event in `accepted` has its
/// deliveries in one of the four.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Events accepted: on the device, or wanted by nobody.
    pub accepted: u64,
    /// Events answered with an earlier event's id, because of their dedup key.
    pub duplicates: u64,
    /// Events that nobody asked for, or whose number or WABA nobody owns.
    pub unrouted: u64,
    /// Events given back because the queue was full.
    pub busy: u64,
    /// Deliveries owed now, at any stage, from this run or before.
    pub owed: u64,
    /// Deliveries found owed when the engine was opened.
    pub recovered: u64,
    /// Deliveries that their receivers acknowledged.
    pub delivered: u64,
    /// Attempts made.
    pub attempts: u64,
    /// Attempts that failed and will be followed by another.
    pub retried: u64,
    /// Deliveries given up.
    pub dead: u64,
    /// Deliveries cancelled because their subscription was removed.
    pub cancelled: u64,
    /// Deliveries held now because their subscription is neither known nor removed.
    pub held: u64,
    /// Attempts under way now.
    pub in_flight: u64,
    /// Attempts under way now that have gone unanswered for longer than `stuck_after_ms`.
    pub stuck: u64,
    /// Worker threads now, busy, idle and stuck.
    pub workers: u64,
    /// Groups written; each was made durable by one sync.
    pub groups: u64,
    /// Events waiting for the device now.
    pub queued_events: u64,
    /// Payload bytes waiting for the device now.
    pub queued_bytes: u64,
    /// Events that lie in the outbox now: owed ones, and those that went but whose generation is
    /// not given back yet.
    pub outbox_events: u64,
    /// Bytes of keys and values that lie in the outbox now.
    pub outbox_bytes: u64,
    /// Generations of the outbox now.
    pub generations: u64,
    /// Dead letters that were owed again at the host's wish.
    pub replayed: u64,
    /// Dead letters dropped because they were over their bounds on number or age.
    pub letters_dropped: u64,
    /// Dedup keys dropped before their window ended, because there were more than `dedup_keys_max`:
    /// a duplicate of their events would be accepted.
    pub keys_dropped: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
    /// How long attempts took, until they were answered or had failed.
    pub attempt_durations: Durations,
    /// How long the groups took to be written and synced.
    pub group_durations: Durations,
    /// The live side of each subscription that is owed something or has been, by id.
    pub lanes: Vec<LaneStats>,
}

impl Stats {
    /// The live side of a subscription; `None` for one that was never owed anything.
    ///
    /// ```
    /// use wabahook::{Config, Engine, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// let engine = Engine::open(Config::new(directory.path()))?;
    /// let crm = engine.subscribe(Subscription::to("https://crm.example/hook")?.name("crm"))?;
    /// assert_eq!(engine.stats().lane(crm).map_or(0, |lane| lane.owed), 0);
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lane(&self, id: SubscriptionId) -> Option<&LaneStats> {
        let place = self.lanes.binary_search_by_key(&id, |lane| lane.subscription).ok()?;
        self.lanes.get(place)
    }
}

/// How long things took: how many in each span, and all of them together. Taken with a clock of whole
/// milliseconds: the sum errs as little in one direction as in the other, a single one may lie one span
/// beside its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Durations {
    /// How many took at most as long as the bound in the same place of [`BOUNDS_MS`](Self::BOUNDS_MS), and
    /// longer than the bound before it; the last place counts what took longer than every bound.
    pub counts: [u64; Durations::BOUNDS_MS.len() + 1],
    /// All of them together, in milliseconds.
    pub sum_ms: u64,
}

impl Durations {
    /// The bounds of the spans, in milliseconds: from a sync of a good device to the longest timeout that is
    /// usual.
    pub const BOUNDS_MS: [u64; 14] =
        [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 15_000, 60_000];

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// A reading of one subscription's live side.
///
/// ```
/// # use wabahook::{Config, Engine, Event, Subscription};
/// # let directory = tempfile::tempdir()?;
/// # let engine = Engine::open(Config::new(directory.path()))?;
/// for lane in engine.stats().lanes {
///     if lane.failing_for_ms > 3_600_000 {
///         println!("{} fails for an hour and is owed {}", lane.subscription, lane.owed);
///     }
/// }
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneStats {
    /// Which subscription.
    pub subscription: SubscriptionId,
    /// Deliveries owed now.
    pub owed: u64,
    /// Of these, deliveries that failed and wait for their next attempt.
    pub retrying: u64,
    /// Of these, deliveries never tried that wait for another of their key, or for another
    /// subscription's.
    pub blocked: u64,
    /// Attempts under way now.
    pub in_flight: u64,
    /// Deliveries acknowledged since the engine was opened.
    pub delivered: u64,
    /// Attempts that failed and will be followed by another, since the engine was opened.
    pub retried: u64,
    /// Deliveries given up since the engine was opened.
    pub dead: u64,
    /// Attempts that failed since the last one that was acknowledged.
    pub failures_in_row: u64,
    /// For how long there has been nothing but failure, in milliseconds.
    pub failing_for_ms: u64,
    /// How often in a row the breaker opened; 0 while it is closed.
    pub breaker_trips: u64,
    /// How much longer the endpoint is left alone, in milliseconds.
    pub rests_for_ms: u64,
}

/// The counters that are counted as things happen; the rest is read off where it lives.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) unrouted: Counter,
    pub(crate) busy: Counter,
    pub(crate) recovered: Counter,
    pub(crate) delivered: Counter,
    pub(crate) attempts: Counter,
    pub(crate) retried: Counter,
    pub(crate) dead: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) groups: Counter,
    pub(crate) letters_dropped: Counter,
    pub(crate) keys_dropped: Counter,
    pub(crate) replayed: Counter,
    pub(crate) attempt_durations: Stopwatch,
    pub(crate) group_durations: Stopwatch,
}

/// One number that only grows. Relaxed, because no other memory is read by its order.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts how long things took. Two additions each, no lock: a reading between the two is off by one.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch {
    counts: [Counter; Durations::BOUNDS_MS.len() + 1],
    sum_ms: Counter,
}

impl Stopwatch {
    pub(crate) fn note(&self, took_ms: u64) {
        let place = Durations::BOUNDS_MS.iter().take_while(|bound_ms| **bound_ms < took_ms).count();
        if let Some(count) = self.counts.get(place) {
            count.add(1);
        }
        self.sum_ms.add(took_ms);
    }

    pub(crate) fn reading(&self) -> Durations {
        let counts = self.counts.each_ref().map(Counter::value);
        Durations { counts, sum_ms: self.sum_ms.value() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_counted_in_its_span_and_summed() {
        let (watch, bystander) = (Stopwatch::default(), Stopwatch::default());
        for took_ms in [0, 1, 2, 3, 60_000, 60_001] {
            watch.note(took_ms);
        }
        let reading = watch.reading();
        assert_eq!((reading.counts[0], reading.counts[1], reading.counts[2]), (2, 1, 1));
        assert_eq!((reading.counts[13], reading.counts[14]), (1, 1));
        assert_eq!((reading.count(), reading.sum_ms), (6, 120_007));
        assert_eq!(bystander.reading(), Durations::default());
    }
}
