//! A cache of events for the deliveries in progress. The payloads in it never exceed its bound, whatever is owed
//! (I10); events that fall out are read from the device again.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::HashMap;

use crate::event::StoredEvent;

/// Events in memory. The oldest is evicted first.
#[derive(Debug)]
pub(super) struct EventCache {
    bytes_max: usize,
    bytes: usize,
    entries: HashMap<u64, CachedEvent>,
    /// Sequences in insertion order; some are not in `entries` any more.
    order: VecDeque<u64>,
}

#[derive(Debug)]
struct CachedEvent {
    event: Arc<StoredEvent>,
    /// The number of deliveries that still need it.
    needed: u64,
}

const EVENT_OVERHEAD_BYTES: usize = 256;

impl EventCache {
    pub(super) fn new(bytes_max: usize) -> EventCache {
        EventCache { bytes_max, bytes: 0, entries: HashMap::default(), order: VecDeque::new() }
    }

    pub(super) fn event(&self, sequence: u64) -> Option<Arc<StoredEvent>> {
        self.entries.get(&sequence).map(|entry| Arc::clone(&entry.event))
    }

    pub(super) fn keep(&mut self, event: Arc<StoredEvent>, needed: u64) {
        let sequence = event.id.sequence();
        let weight = weight(&event);
        if weight > self.bytes_max {
            return;
        }
        if let Some(before) = self.entries.insert(sequence, CachedEvent { event, needed }) {
            self.bytes -= self::weight(&before.event);
        } else {
            self.order.push_back(sequence);
        }
        self.bytes += weight;
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { break };
            self.forget(oldest);
        }
        // Settled events stay in `order` until this cleans up.
        if self.order.len() > 2 * self.entries.len() + 1_024 {
            let entries = &self.entries;
            self.order.retain(|sequence| entries.contains_key(sequence));
        }
    }

    /// One delivery of the event does not need it any more.
    pub(super) fn settled(&mut self, sequence: u64) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        entry.needed = entry.needed.saturating_sub(1);
        if entry.needed == 0 {
            self.forget(sequence);
        }
    }

    fn forget(&mut self, sequence: u64) {
        if let Some(entry) = self.entries.remove(&sequence) {
            self.bytes -= weight(&entry.event);
        }
    }
}

fn weight(event: &StoredEvent) -> usize {
    event.payload.len() + EVENT_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    fn event(sequence: u64, bytes: usize) -> Arc<StoredEvent> {
        let (id, payload) = (EventId::new(1, sequence), vec![0; bytes]);
        Arc::new(StoredEvent { id, payload, ..StoredEvent::example() })
    }

    #[test]
    fn the_oldest_are_evicted_at_the_bound() {
        let mut cache = EventCache::new(3 * (1_000 + EVENT_OVERHEAD_BYTES));
        (1..=4).for_each(|n| cache.keep(event(n, 1_000), 1));
        assert!(cache.event(1).is_none());
        assert!((2..=4).all(|n| cache.event(n).is_some()));
        cache.keep(event(5, 1_000_000), 1);
        assert!(cache.event(5).is_none(), "an event larger than the bound is not kept");
        assert!((2..=4).all(|n| cache.event(n).is_some()), "and drives nothing out");
    }

    #[test]
    fn an_event_is_removed_when_no_delivery_needs_it() {
        let mut cache = EventCache::new(1 << 20);
        cache.keep(event(1, 10), 2);
        cache.keep(event(2, 10), 1);
        cache.settled(1);
        assert!(cache.event(1).is_some());
        cache.settled(1);
        assert!(cache.event(1).is_none());
        assert!(cache.event(2).is_some());
        assert_eq!(cache.bytes, 10 + EVENT_OVERHEAD_BYTES);
    }

    #[test]
    fn the_order_does_not_outgrow_the_entries() {
        let mut cache = EventCache::new(1 << 20);
        cache.keep(event(0, 10), 1);
        for n in 1..10_000 {
            cache.keep(event(n, 10), 1);
            cache.settled(n);
        }
        assert!(cache.order.len() < 2_000, "{}", cache.order.len());
        assert!(cache.event(0).is_some());
    }
}
