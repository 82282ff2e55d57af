//! One reading of the engine's counters, taken while the dispatch state is locked, so that what is owed
//! and what has ended add up.

use super::Engine;
use crate::history::History;
use crate::stats::Stats;

impl Engine {
    /// A reading of the counters. Costs a short lock and a line for each subscription.
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        let counters = &shared.counters;
        let (queued_events, queued_bytes) = shared.outbox.queued();
        let holding = shared.outbox.usage();
        let subscriptions = shared.subscriptions.read().len() as u64;
        let state = shared.dispatch_state.lock();
        let now_ms = shared.clock.monotonic_ms();
        Stats {
            accepted: counters.accepted.value(),
            duplicates: counters.duplicates.value(),
            unrouted: counters.unrouted.value(),
            condition_unparsable: counters.condition_unparsable.value(),
            unowned: counters.unowned.value(),
            callbacks_refused_signature: counters.callbacks_refused_signature.value(),
            callbacks_refused_verify_token: counters.callbacks_refused_verify_token.value(),
            callbacks_refused_malformed: counters.callbacks_refused_malformed.value(),
            callback_parts_malformed: counters.callback_parts_malformed.value(),
            busy: counters.busy.value(),
            owed: state.dispatcher.owed(),
            recovered: counters.recovered.value(),
            delivered: counters.delivered.value(),
            attempts: counters.attempts.value(),
            retried: counters.retried.value(),
            dead: counters.dead.value(),
            cancelled: counters.cancelled.value(),
            held: state.dispatcher.held(),
            in_flight: state.dispatcher.in_flight() as u64,
            in_flight_max: state.dispatcher.in_flight_max() as u64,
            uncounted: counters.uncounted.value(),
            bound: state.bounds.current(now_ms),
            transport_threads: state.workers as u64,
            groups: counters.groups.value(),
            queued_events: queued_events as u64,
            queued_bytes: queued_bytes as u64,
            owed_events: holding.owed_events,
            owed_bytes: holding.owed_bytes,
            outbox_events: holding.events,
            outbox_bytes: holding.bytes,
            generations: holding.generations as u64,
            dead_letters: shared.outbox.letter_count(),
            replayed: counters.replayed.value(),
            letters_dropped: counters.letters_dropped.value(),
            letters_discarded: counters.letters_discarded.value(),
            purged: counters.purged.value(),
            keys_dropped: counters.keys_dropped.value(),
            history_bytes: shared.history.as_ref().map_or(0, History::bytes),
            history_dropped: shared.history.as_ref().map_or(0, History::dropped),
            subscriptions,
            attempt_durations: counters.attempt_durations.snapshot(),
            group_durations: counters.group_durations.snapshot(),
            lanes: state.dispatcher.lane_stats(now_ms),
        }
    }
}
