//! What the engine does with the events of the committer, and how it answers the committer's question
//! what is still owed. The committer calls both on its own thread. Both hold the engine weakly, so that
//! the committer's thread never keeps a dropped engine alive.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::shared::Shared;
use crate::attempt::DeliveryId;
use crate::dispatch::{FAN_OUT_LANES_MAX, FanOut};
use crate::error::Error;
use crate::history::{HistoryEntry, HistoryEvent};
use crate::notice::Notice;
use crate::outbox::{CommitEvent, CommitListener, GroupTotals, OwedEvent, OwedQuery, TracedEvent};
use crate::store::{StoreEvent, StoreListener};

/// Receives the committer's events for as long as the engine exists.
pub(super) fn commit_listener(shared: Weak<Shared>) -> CommitListener {
    Box::new(move |event| {
        if let Some(shared) = shared.upgrade() {
            shared.committed(event);
        }
    })
}

/// Receives the store's own events, as long as the engine exists.
pub(super) fn store_listener(shared: Weak<Shared>) -> StoreListener {
    Box::new(move |event| {
        let Some(shared) = shared.upgrade() else { return };
        match event {
            StoreEvent::OwnerAgain => shared.wake_workers(&mut shared.dispatch_state.lock()),
            StoreEvent::Lost => shared.stop_for(Error::NotOwner),
            StoreEvent::Unreplicated(why) => shared.notices.send(&Notice::Unreplicated { why }),
        }
    })
}

/// Answers which deliveries of some events are still owed; none once the engine is gone.
pub(super) fn owed_query(shared: Weak<Shared>) -> OwedQuery {
    Box::new(move |sequences| {
        let shared = shared.upgrade();
        let owed = |shared: &Shared| shared.dispatch_state.lock().dispatcher.owed_among(sequences);
        shared.as_deref().map(owed).unwrap_or_default()
    })
}

impl Shared {
    fn committed(&self, event: CommitEvent) {
        match event {
            CommitEvent::Group(totals, owed) => self.owe(totals, &owed),
            CommitEvent::Traced(events) => self.note_accepted(events),
            CommitEvent::Revived(deliveries) => self.owe_again(&deliveries),
            CommitEvent::Settled(mains) => {
                let mut state = self.dispatch_state.lock();
                state.dispatcher.settled(&mains);
                self.wake_workers(&mut state);
            }
            CommitEvent::Stalled(why) => {
                self.dispatch_state.lock().stall = Some(self.limits.queue_events_max);
                self.notices.send(&Notice::Stalled { why });
            }
            CommitEvent::Resumed => {
                let mut state = self.dispatch_state.lock();
                state.stall = None;
                self.wake_workers(&mut state);
                drop(state);
                self.notices.send(&Notice::Resumed);
            }
            CommitEvent::BatchedArrivals(is_contended) => {
                self.yields_cpu.store(is_contended, Ordering::Relaxed);
            }
            CommitEvent::LettersDropped { account, letters } => {
                self.letters_dropped(&account, letters);
            }
            CommitEvent::KeysDropped(dropped) => {
                self.counters.keys_dropped.add(dropped.keys);
                if dropped.begins {
                    self.notices.send(&Notice::DedupKeysDropped(dropped.keys));
                }
            }
            CommitEvent::Faulty(why) => self.notices.send(&Notice::InternalError { why }),
            CommitEvent::Failed(error) => self.stop_for(error),
        }
    }

    /// Counts dropped dead letters, and reports them once a minute for each account.
    fn letters_dropped(&self, account: &Arc<str>, letters: u64) {
        self.counters.letters_dropped.add(letters);
        let now_ms = self.clock.monotonic_ms();
        let mut counts = self.dropped_letters.lock();
        let told = counts.entry(Arc::clone(account)).or_default().add(letters, now_ms);
        drop(counts);
        if let Some(letters) = told {
            self.notices
                .send(&Notice::DeadLettersDropped { account: account.to_string(), letters });
        }
    }

    fn note_accepted(&self, events: Vec<TracedEvent>) {
        let Some(history) = &self.history else { return };
        let (mut accepted, mut duplicates) = (Vec::with_capacity(events.len()), Vec::new());
        let at_ms = self.clock.wall_ms();
        for event in events {
            match event {
                TracedEvent::Accepted { event, targets, hashes } => {
                    accepted.push(HistoryEvent { event, targets, hashes });
                }
                TracedEvent::Duplicate(id) => duplicates.push(HistoryEntry::duplicate(id, at_ms)),
            }
        }
        history.accepted(accepted, duplicates);
    }

    /// Owes replayed dead letters. The committer leaves out those of removed subscriptions; a lane that
    /// was removed since then cancels its delivery here.
    fn owe_again(&self, deliveries: &[DeliveryId]) {
        let mut state = self.dispatch_state.lock();
        for delivery in state.dispatcher.revived(deliveries, self.clock.monotonic_ms()) {
            self.outbox.cancel([delivery.sequence].into_iter().collect());
            self.counters.cancelled.add(1);
        }
        self.counters.replayed.add(deliveries.len() as u64);
        self.wake_workers(&mut state);
    }

    /// Owes what a group made durable, and counts it under the same lock, so that a reader of the
    /// counters sees both or neither.
    fn owe(&self, totals: GroupTotals, owed: &[OwedEvent]) {
        let GroupTotals { accepted, unrouted, duplicates, synced, took_ms } = totals;
        self.outbox.cache_events(owed);
        let mut state = self.dispatch_state.lock();
        if let Some(last) = owed.last() {
            let now_ms = self.clock.monotonic_ms();
            state.dispatcher.note_accepted(last.event.id.sequence(), now_ms);
        }
        // What is left of large fan-outs is owed by the timekeeper, so that the next group does not wait for it.
        let mut lanes_left = FAN_OUT_LANES_MAX;
        for run in by_account(owed) {
            let Some(first) = run.first() else { continue };
            let events = run.iter().map(|owed| (owed.event.id.sequence(), owed.event.key_hash));
            let fan_out = FanOut::new(events, Arc::clone(&first.targets));
            let reached = state.dispatcher.owe(&first.event.account, fan_out, lanes_left);
            lanes_left = lanes_left.saturating_sub(reached);
        }
        // Subscriptions removed after the match: their tombstones are already durable.
        self.counters.cancelled.add(state.dispatcher.take_cancelled());
        self.counters.accepted.add(accepted);
        self.counters.unrouted.add(unrouted);
        self.counters.duplicates.add(duplicates);
        if synced {
            self.counters.groups.add(1);
            self.counters.group_durations.record(took_ms);
        }
        self.wake_workers(&mut state);
        drop(state);
        if synced {
            tracing::debug!(accepted, duplicates, took_ms, "group is durable");
        }
    }
}

/// The events of a group as runs with the same targets. Accounts that owe little come first, so that none waits for the
/// large fan-out of another; the events of one account keep their order.
fn by_account(owed: &[OwedEvent]) -> Vec<&[OwedEvent]> {
    let mut runs: Vec<_> = owed.chunk_by(is_followed_by).collect();
    let mut targets = HashMap::<&str, usize>::new();
    for one in owed {
        *targets.entry(&one.event.account).or_default() += one.targets.len();
    }
    if targets.len() > 1 {
        runs.sort_by_key(|run| run.first().and_then(|one| targets.get(&*one.event.account)));
    }
    runs
}

/// Whether `next` has the next sequence after `one` and the same targets.
fn is_followed_by(one: &OwedEvent, next: &OwedEvent) -> bool {
    next.event.id.sequence() == one.event.id.sequence() + 1 && one.targets == next.targets
}
