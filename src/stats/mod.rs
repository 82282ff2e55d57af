//! The engine's counters, and the snapshot of them that a host reads ([`Stats`]): as it is, or as Prometheus text in
//! `metrics`. Every way in which an event, a delivery or a callback can end has a counter here, so that nothing ends
//! unseen (I8).

mod callbacks;
#[cfg(feature = "metrics")]
pub mod metrics;
mod minute_count;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) use self::callbacks::CallbackLedger;
pub use self::callbacks::{CallbackRefusal, UnownedSource};
pub(crate) use self::minute_count::MinuteCount;
use crate::subscription::SubscriptionId;
use crate::transport::Shortage;

/// A snapshot of the engine's counters. Counts start when this engine is opened, unless a field says otherwise.
///
/// The figures of deliveries are read at one moment: a delivery that is no longer in `owed` is already in
/// `delivered`, `dead` or `cancelled`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Events accepted: written to the device, or without a subscriber.
    pub accepted: u64,
    /// Events answered with the id of an earlier event with the same dedup key.
    pub duplicates: u64,
    /// Events without a subscriber.
    pub unrouted: u64,
    /// Events that matched a subscription with a condition, and whose payload is not JSON, so that the condition
    /// does not hold.
    pub condition_unparsable: u64,
    /// Events of callbacks that were not published because no account owns their number or WABA.
    /// [`Engine::unowned`](crate::Engine::unowned) lists the numbers and WABAs.
    pub unowned: u64,
    /// Callbacks without a valid signature.
    pub callbacks_refused_signature: u64,
    /// Requests to verify the callback URL without a valid verify token.
    pub callbacks_refused_verify_token: u64,
    /// Callbacks whose body is not a callback.
    pub callbacks_refused_malformed: u64,
    /// Malformed parts of callbacks whose other parts were accepted.
    pub callback_parts_malformed: u64,
    /// Events given back because a bound of the engine, or a limit of their account, was reached.
    pub busy: u64,
    /// Deliveries owed now, in any state, from this run or an earlier one.
    pub owed: u64,
    /// Deliveries that were owed when the engine was opened.
    pub recovered: u64,
    /// Deliveries that their receivers acknowledged.
    pub delivered: u64,
    /// Attempts made.
    pub attempts: u64,
    /// Attempts that failed and are followed by another.
    pub retried: u64,
    /// Deliveries that became dead letters.
    pub dead: u64,
    /// Deliveries cancelled by the host, or because their subscription was removed.
    pub cancelled: u64,
    /// Deliveries held now because their subscription is neither known nor removed.
    pub held: u64,
    /// Attempts in flight now.
    pub in_flight: u64,
    /// How many attempts may be in flight.
    pub in_flight_max: u64,
    /// Attempts that do not count, because something of ours was short.
    pub uncounted: u64,
    /// What kept ready deliveries from starting within the last minute.
    pub bound: Option<Bound>,
    /// 1 while the store [refuses writes](crate::Engine::is_stalled), otherwise 0.
    pub stalled: u64,
    /// Threads of the host's own transport now.
    pub transport_threads: u64,
    /// Groups written; each was made durable by one sync.
    pub groups: u64,
    /// Events waiting now to be written to the device.
    pub queued_events: u64,
    /// Payload bytes waiting now to be written to the device.
    pub queued_bytes: u64,
    /// Events with a delivery that is owed now; `outbox_events_max` bounds them.
    pub owed_events: u64,
    /// Payload bytes of these events; `outbox_bytes_max` bounds them.
    pub owed_bytes: u64,
    /// Events on the device now: those still owed, and settled ones whose generation is not freed yet.
    pub outbox_events: u64,
    /// Bytes of keys and values on the device now.
    pub outbox_bytes: u64,
    /// Generations of the outbox now.
    pub generations: u64,
    /// Dead letters kept now, from this run or an earlier one.
    pub dead_letters: u64,
    /// Dead letters replayed.
    pub replayed: u64,
    /// Dead letters dropped because they exceeded their limits on number or age.
    pub letters_dropped: u64,
    /// Dead letters discarded by the host, purged ones included.
    pub letters_discarded: u64,
    /// Deliveries and dead letters that ended because their contact, number or account was purged. Each also
    /// counts in `cancelled` or `letters_discarded`.
    pub purged: u64,
    /// Dedup keys dropped before the end of their window because an account, or all together, had more than
    /// [`dedup_keys_max`](crate::AccountLimits::dedup_keys_max). A duplicate of their events would be accepted.
    pub keys_dropped: u64,
    /// What the history of events takes on the device, in bytes.
    pub history_bytes: u64,
    /// What the history did not keep because it could not be written in time: events and attempts.
    pub history_dropped: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
    /// How long attempts took until they were answered or failed.
    pub attempt_durations: DurationHistogram,
    /// How long groups took to be written and synced.
    pub group_durations: DurationHistogram,
    /// The live figures of each subscription that is or was owed a delivery, sorted by id.
    pub lanes: Vec<LaneStats>,
}

impl Stats {
    /// The live figures of a subscription; `None` if it was never owed a delivery.
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
        let position = self.lanes.binary_search_by_key(&id, |lane| lane.subscription).ok()?;
        self.lanes.get(position)
    }
}

/// How long things took: a count for each range, and the sum.
///
/// Measured with a clock of whole milliseconds. The sum has no bias; a single duration may be counted one
/// range off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DurationHistogram {
    /// How many took at most the bound at the same index of [`BOUNDS`](Self::BOUNDS) and longer than the
    /// bound before it. The last element counts those longer than every bound.
    pub counts: [u64; DurationHistogram::BOUNDS.len() + 1],
    /// All durations together.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "sum_ms", with = "crate::text::serde_with::duration_ms")
    )]
    pub sum: Duration,
}

impl DurationHistogram {
    /// The upper bounds of the ranges, from a sync of a fast device (1 ms) to the longest usual timeout (60 s).
    pub const BOUNDS: [Duration; 14] = [
        Duration::from_millis(1),
        Duration::from_millis(2),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(25),
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(250),
        Duration::from_millis(500),
        Duration::from_secs(1),
        Duration::from_millis(2_500),
        Duration::from_secs(5),
        Duration::from_secs(15),
        Duration::from_secs(60),
    ];

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// A snapshot of one subscription's live figures.
///
/// ```
/// # use wabahook::{Config, Engine, Event, Subscription};
/// # let directory = tempfile::tempdir()?;
/// # let engine = Engine::open(Config::new(directory.path()))?;
/// for lane in engine.stats().lanes {
///     if lane.failing_for.as_secs() > 3_600 {
///         println!("{} has failed for an hour and is owed {}", lane.subscription, lane.owed);
///     }
/// }
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LaneStats {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// Deliveries owed now.
    pub owed: u64,
    /// Those of `owed` that failed and wait for their next attempt.
    pub retrying: u64,
    /// Those of `owed` never tried that wait for another delivery of their key, or for the delivery they
    /// depend on.
    pub blocked: u64,
    /// Attempts in flight now.
    pub in_flight: u64,
    /// Deliveries acknowledged since the engine was opened.
    pub delivered: u64,
    /// Attempts that failed and are followed by another, since the engine was opened.
    pub retried: u64,
    /// Deliveries that became dead letters since the engine was opened.
    pub dead: u64,
    /// Failed attempts since the last acknowledged one.
    pub failures_in_row: u64,
    /// For how long every attempt has failed; zero while the endpoint works.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "failing_for_ms", with = "crate::text::serde_with::duration_ms")
    )]
    pub failing_for: Duration,
    /// How often in a row the circuit breaker opened; 0 while it is closed.
    pub breaker_trips: u64,
    /// For how much longer no attempt is made, because of the breaker or of what the receiver asked for.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "rests_for_ms", with = "crate::text::serde_with::duration_ms")
    )]
    pub rests_for: Duration,
}

/// Declares the counters, each of which has the name of a figure of [`Stats`].
macro_rules! engine_counters {
    ($($name:ident),* $(,)?) => {
        /// The counters that are updated as things happen. The other figures of [`Stats`] are read where they live.
        #[derive(Debug, Default)]
        pub(crate) struct EngineCounters {
            $(pub(crate) $name: Counter,)*
            pub(crate) attempt_durations: AtomicHistogram,
            pub(crate) group_durations: AtomicHistogram,
        }

        impl EngineCounters {
            /// The counters, without the other figures.
            pub(crate) fn read(&self) -> Stats {
                Stats {
                    $($name: self.$name.value(),)*
                    attempt_durations: self.attempt_durations.snapshot(),
                    group_durations: self.group_durations.snapshot(),
                    ..Stats::default()
                }
            }
        }
    };
}

engine_counters! {
    accepted, duplicates, unrouted, condition_unparsable, unowned, callbacks_refused_signature,
    callbacks_refused_verify_token, callbacks_refused_malformed, callback_parts_malformed, busy,
    recovered, delivered, attempts, retried, dead, cancelled, uncounted, groups, letters_dropped,
    letters_discarded, purged, keys_dropped, replayed,
}

/// A number that only grows. Relaxed, because nothing else depends on its order.
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

/// Counts durations with two additions and no lock; a snapshot between the two is off by one.
#[derive(Debug, Default)]
pub(crate) struct AtomicHistogram {
    counts: [Counter; DurationHistogram::BOUNDS.len() + 1],
    sum_ms: Counter,
}

impl AtomicHistogram {
    pub(crate) fn record(&self, took_ms: u64) {
        let took = Duration::from_millis(took_ms);
        let range = DurationHistogram::BOUNDS.partition_point(|bound| *bound < took);
        if let Some(count) = self.counts.get(range) {
            count.add(1);
        }
        self.sum_ms.add(took_ms);
    }

    pub(crate) fn snapshot(&self) -> DurationHistogram {
        let counts = self.counts.each_ref().map(Counter::value);
        DurationHistogram { counts, sum: Duration::from_millis(self.sum_ms.value()) }
    }
}

/// What keeps ready deliveries from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(into = "&'static str"))]
#[non_exhaustive]
pub enum Bound {
    /// [`Limits::in_flight_max`](crate::Limits::in_flight_max) attempts are in flight.
    InFlight,
    /// Attempts to endpoints that never responded in time, or timed out last, use the part of
    /// [`Limits::in_flight_max`](crate::Limits::in_flight_max) that is open to them.
    Unproven,
    /// The process ran short of something.
    Shortage(Shortage),
}

impl Bound {
    /// The bound's name in notices and `/healthz`.
    pub fn as_str(self) -> &'static str {
        match self {
            Bound::InFlight => "in_flight",
            Bound::Unproven => "unproven",
            Bound::Shortage(shortage) => shortage.as_str(),
        }
    }
}

impl From<Bound> for &'static str {
    fn from(bound: Bound) -> &'static str {
        bound.as_str()
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_counted_in_its_range_and_summed() {
        let (histogram, bystander) = (AtomicHistogram::default(), AtomicHistogram::default());
        for took_ms in [0, 1, 2, 3, 60_000, 60_001] {
            histogram.record(took_ms);
        }
        let reading = histogram.snapshot();
        assert_eq!((reading.counts[0], reading.counts[1], reading.counts[2]), (2, 1, 1));
        assert_eq!((reading.counts[13], reading.counts[14]), (1, 1));
        assert_eq!((reading.count(), reading.sum), (6, Duration::from_millis(120_007)));
        assert_eq!(bystander.snapshot(), DurationHistogram::default());
    }
}
