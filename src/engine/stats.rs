//! One reading of the engine's counters, taken while the dispatch state is locked, so that what is owed
//! and what has ended add up.

use super::Engine;
use crate::history::History;
use crate::stats::{LaneStats, Stats};
use crate::subscription::SubscriptionId;

impl Engine {
    /// The figures of one subscription, at the same cost however many there are; `None` if it never owed anything.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Event, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let crm = engine.subscribe(Subscription::to("https://crm.example/hook")?.name("crm"))?;
    /// assert_eq!(engine.lane_stats(crm).map_or(0, |lane| lane.owed), 0);
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lane_stats(&self, id: SubscriptionId) -> Option<LaneStats> {
        let now_ms = self.shared.clock.monotonic_ms();
        self.shared.dispatch_state.lock().dispatcher.lane_stats_of(id, now_ms)
    }

    /// A reading of the counters. Costs a short lock and a line for each subscription.
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        let (queued_events, queued_bytes) = shared.outbox.queued();
        let holding = shared.outbox.usage();
        let subscriptions = shared.subscriptions.read().len() as u64;
        let state = shared.dispatch_state.lock();
        let now_ms = shared.clock.monotonic_ms();
        Stats {
            owed: state.dispatcher.owed(),
            held: state.dispatcher.held(),
            in_flight: state.dispatcher.in_flight() as u64,
            in_flight_max: state.dispatcher.in_flight_max() as u64,
            bound: state.bounds.current(now_ms),
            stalled: u64::from(state.is_stalled()),
            transport_threads: state.workers as u64,
            queued_events: queued_events as u64,
            queued_bytes: queued_bytes as u64,
            owed_events: holding.owed_events,
            owed_bytes: holding.owed_bytes,
            outbox_events: holding.events,
            outbox_bytes: holding.bytes,
            generations: holding.generations as u64,
            dead_letters: shared.outbox.letter_count(),
            history_bytes: shared.history.as_ref().map_or(0, History::bytes),
            history_dropped: shared.history.as_ref().map_or(0, History::dropped),
            subscriptions,
            lanes: state.dispatcher.lane_stats(now_ms),
            ..shared.counters.read()
        }
    }
}
