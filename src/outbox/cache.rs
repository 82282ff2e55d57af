//! Decides which events are kept at hand for deliveries under way.
//!
//! Leaves to others: reading what is not at hand. Invariant (I10): the payloads held never exceed
//! the bound, whatever is owed.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::HashMap;

use crate::event::StoredEvent;

/// Events at hand, the oldest first to go.
#[derive(Debug)]
pub(super) struct Cache {
    bytes_max: usize,
    bytes: usize,
    entries: HashMap<u64, Entry>,
    /// Sequences in the order they came; some are gone already.
    order: VecDeque<u64>,
}

#[derive(Debug)]
struct Entry {
    event: Arc<StoredEvent>,
    /// Deliveries that still need it.
    needed: u64,
}

/// What an event weighs beside its payload, roughly.
const ENTRY_BYTES: usize = 256;

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Cache {
        Cache { bytes_max, bytes: 0, entries: HashMap::default(), order: VecDeque::new() }
    }

    pub(super) fn event(&self, sequence: u64) -> Option<Arc<StoredEvent>> {
        self.entries.get(&sequence).map(|entry| Arc::clone(&entry.event))
    }

    /// Keeps an event that so many deliveries need.
    pub(super) fn keep(&mut self, event: Arc<StoredEvent>, needed: u64) {
        let sequence = event.id.sequence();
        let weight = weight(&event);
        if weight > self.bytes_max {
            return;
        }
        if let Some(before) = self.entries.insert(sequence, Entry { event, needed }) {
            self.bytes -= self::weight(&before.event);
        } else {
            self.order.push_back(sequence);
        }
        self.bytes += weight;
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { break };
            self.forget(oldest);
        }
        // Events that are done leave their place in the order behind; it must not outgrow them.
        if self.order.len() > 2 * self.entries.len() + 1_024 {
            let entries = &self.entries;
            self.order.retain(|sequence| entries.contains_key(sequence));
        }
    }

    /// One delivery of the event needs it no more.
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
    event.payload.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Catalogue, EventId};

    fn event(sequence: u64, bytes: usize) -> Arc<StoredEvent> {
        Arc::new(StoredEvent {
            id: EventId::new(1, sequence),
            account: "acme".into(),
            kind: Catalogue::default().canonical("ADD_TAG").unwrap(),
            number: None,
            waba: None,
            key_hash: 0,
            accepted_wall_ms: 0,
            payload: vec![0; bytes],
        })
    }

    #[test]
    fn the_oldest_go_when_the_bound_is_reached() {
        let mut cache = Cache::new(3 * (1_000 + ENTRY_BYTES));
        (1..=4).for_each(|n| cache.keep(event(n, 1_000), 1));
        assert!(cache.event(1).is_none());
        assert!((2..=4).all(|n| cache.event(n).is_some()));
        cache.keep(event(5, 1_000_000), 1);
        assert!(cache.event(5).is_none(), "an event larger than the bound is not kept");
        assert!((2..=4).all(|n| cache.event(n).is_some()), "and drives nothing out");
    }

    #[test]
    fn an_event_goes_when_no_delivery_needs_it_and_its_neighbour_stays() {
        let mut cache = Cache::new(1 << 20);
        cache.keep(event(1, 10), 2);
        cache.keep(event(2, 10), 1);
        cache.settled(1);
        assert!(cache.event(1).is_some());
        cache.settled(1);
        assert!(cache.event(1).is_none());
        assert!(cache.event(2).is_some());
        assert_eq!(cache.bytes, 10 + ENTRY_BYTES);
    }

    #[test]
    fn the_order_does_not_outgrow_what_is_kept() {
        let mut cache = Cache::new(1 << 20);
        cache.keep(event(0, 10), 1);
        for n in 1..10_000 {
            cache.keep(event(n, 10), 1);
            cache.settled(n);
        }
        assert!(cache.order.len() < 2_000, "{}", cache.order.len());
        assert!(cache.event(0).is_some());
    }
}
