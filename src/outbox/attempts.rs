//! An index of the failed attempts that are kept of each delivery: which generation holds which.
//!
//! At most [`HISTORY_MAX`] attempts are kept per delivery, each in the slot of its number, and the newest record
//! of a slot counts. A delivery that was settled or replayed has no history.

use std::collections::HashMap;

use crate::attempt::{DeliveryId, FailedAttempt, HISTORY_MAX, Reason};
use crate::transport::{EXCERPT_BYTES_MAX, Failure};

/// Where the failed attempts of deliveries are stored.
#[derive(Debug, Default)]
pub(super) struct AttemptIndex {
    /// By slot. Ends with the last slot in use; a slot that was skipped has generation 0.
    kept: HashMap<DeliveryId, Vec<AttemptPlace>>,
    /// The size of the kept records in each generation, in bytes.
    bytes: HashMap<u64, u64>,
}

/// Where one record is stored. Generations are numbered from 1; 0 means nowhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AttemptPlace {
    pub(super) generation: u64,
    /// The size of key and value.
    pub(super) bytes: u32,
}

impl AttemptIndex {
    /// Sets where the newest record of a slot is.
    pub(super) fn keep(&mut self, delivery: DeliveryId, slot: u8, place: AttemptPlace) {
        let slots = self.kept.entry(delivery).or_default();
        let slot = usize::from(slot);
        if slots.len() <= slot {
            slots.resize(slot + 1, AttemptPlace::default());
        }
        let before = slots.get_mut(slot).map(|kept| std::mem::replace(kept, place));
        *self.bytes.entry(place.generation).or_default() += u64::from(place.bytes);
        self.uncount(before.unwrap_or_default());
    }

    /// Updates the generation of a record that was copied.
    pub(super) fn moved(&mut self, delivery: DeliveryId, slot: u8, to: u64) {
        if let Some(place) = self.place_of(delivery, slot) {
            self.keep(delivery, slot, AttemptPlace { generation: to, ..place });
        }
    }

    pub(super) fn lose(&mut self, delivery: DeliveryId, slot: u8) {
        let slots = self.kept.get_mut(&delivery);
        let place = slots.and_then(|slots| slots.get_mut(usize::from(slot))).map(std::mem::take);
        self.uncount(place.unwrap_or_default());
    }

    pub(super) fn forget(&mut self, delivery: DeliveryId) {
        let slots = self.kept.remove(&delivery).unwrap_or_default();
        slots.into_iter().for_each(|place| self.uncount(place));
    }

    /// Removes the histories of all deliveries for which `keeps` is false.
    pub(super) fn retain(&mut self, keeps: impl Fn(DeliveryId) -> bool) {
        let all = self.kept.keys().copied();
        let gone: Vec<_> = all.filter(|delivery| !keeps(*delivery)).collect();
        gone.into_iter().for_each(|delivery| self.forget(delivery));
    }

    pub(super) fn place_of(&self, delivery: DeliveryId, slot: u8) -> Option<AttemptPlace> {
        let place = self.kept.get(&delivery)?.get(usize::from(slot)).copied();
        place.filter(|place| place.generation != 0)
    }

    /// The slots in use of a delivery, each with the generation of its record.
    pub(super) fn slots_of(&self, delivery: DeliveryId) -> Vec<(u8, u64)> {
        let slots = self.kept.get(&delivery).map(Vec::as_slice).unwrap_or_default();
        let held = (0_u8..).zip(slots);
        let held = held.map(|(slot, place)| (slot, place.generation));
        held.filter(|(_, generation)| *generation != 0).collect()
    }

    pub(super) fn inside(&self, generation: u64) -> Vec<(DeliveryId, u8)> {
        let mut inside = Vec::new();
        for (delivery, slots) in &self.kept {
            for (slot, place) in (0_u8..).zip(slots) {
                if place.generation == generation {
                    inside.push((*delivery, slot));
                }
            }
        }
        inside
    }

    /// The size of the kept records in a generation, in bytes.
    pub(super) fn bytes_in(&self, generation: u64) -> u64 {
        self.bytes.get(&generation).copied().unwrap_or(0)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.values().sum()
    }

    fn uncount(&mut self, AttemptPlace { generation, bytes }: AttemptPlace) {
        if let Some(count) = self.bytes.get_mut(&generation) {
            *count -= u64::from(bytes);
            if *count == 0 {
                self.bytes.remove(&generation);
            }
        }
    }
}

/// The slot of an attempt: its number, less 1, modulo [`HISTORY_MAX`].
pub(super) fn slot_of(number: u32) -> u8 {
    u8::try_from(number.saturating_sub(1) % HISTORY_MAX).unwrap_or(0)
}

/// Cuts an attempt to what fits into a record: a transport of the host may return more.
pub(super) fn bounded(tried: &FailedAttempt) -> FailedAttempt {
    let excerpt = tried.excerpt.iter().copied().take(EXCERPT_BYTES_MAX).collect();
    FailedAttempt { excerpt, reason: bounded_reason(&tried.reason), ..tried.clone() }
}

/// Cuts the text of a reason to what fits into a record.
pub(super) fn bounded_reason(reason: &Reason) -> Reason {
    let cut = |text: &str| text.chars().take(TEXT_CHARS_MAX).collect::<String>();
    match reason {
        Reason::Failed(Failure::Tls(why)) => Reason::Failed(Failure::Tls(cut(why))),
        Reason::Failed(Failure::Guard(rule)) => Reason::Failed(Failure::Guard(cut(rule))),
        other => other.clone(),
    }
}

/// The most characters kept of the text of a failure. Our own are single words.
const TEXT_CHARS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::codec;
    use crate::subscription::SubscriptionId;

    fn delivery(sequence: u64) -> DeliveryId {
        DeliveryId { sequence, subscription: SubscriptionId(1) }
    }

    fn place(generation: u64, bytes: u32) -> AttemptPlace {
        AttemptPlace { generation, bytes }
    }

    #[test]
    fn every_number_has_a_slot() {
        let slots: Vec<u8> = [1, 2, 8, 9, 17, 0, u32::MAX].map(slot_of).to_vec();
        assert_eq!(slots, [0, 1, 7, 0, 0, 0, 6]);
    }

    #[test]
    fn the_newest_record_of_a_slot_counts() {
        let mut histories = AttemptIndex::default();
        histories.keep(delivery(1), 0, place(1, 100));
        histories.keep(delivery(1), 2, place(1, 50));
        histories.keep(delivery(2), 0, place(1, 7));
        histories.keep(delivery(1), 0, place(2, 120));
        assert_eq!(histories.slots_of(delivery(1)), [(0, 2), (2, 1)]);
        assert_eq!((histories.bytes_in(1), histories.bytes_in(2)), (57, 120));
        histories.moved(delivery(1), 2, 3);
        histories.moved(delivery(9), 2, 3);
        assert_eq!(histories.inside(1), [(delivery(2), 0)]);
        assert_eq!((histories.bytes_in(1), histories.bytes_in(3)), (7, 50));
        histories.forget(delivery(1));
        assert_eq!(histories.slots_of(delivery(1)), []);
        assert_eq!((histories.bytes(), histories.bytes.len()), (7, 1));
        histories.retain(|kept| kept != delivery(2));
        assert_eq!(histories.bytes(), 0);
    }

    #[test]
    fn a_long_failure_text_does_not_outgrow_a_record() {
        let tried = FailedAttempt {
            number: 1,
            at_ms: 2,
            took: std::time::Duration::from_millis(3),
            reason: Reason::Failed(Failure::Tls("\u{e9}".repeat(100_000))),
            excerpt: vec![1; 100_000],
        };
        let value = codec::encoded("failed attempt", &(1_u64, bounded(&tried))).unwrap();
        assert!(value.len() < 1_024, "{} bytes", value.len());
        let short = FailedAttempt { reason: Reason::Status(503), excerpt: vec![1; 256], ..tried };
        assert_eq!(bounded(&short), short);
    }
}
