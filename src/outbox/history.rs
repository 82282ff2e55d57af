//! Decides which failed attempts of a delivery are kept, and where each lies.
//!
//! Leaves to others: when an attempt failed (`dispatch`) and reading one back (`lookup`).
//! Invariant: of a delivery at most [`HISTORY_MAX`] attempts are kept, each under the slot of its
//! number, and the newest record of a slot counts; a delivery that was settled or revived has none.

use std::collections::HashMap;

use crate::attempt::{DeliveryId, EXCERPT_BYTES_MAX, Failure, HISTORY_MAX, Reason, Tried};
use crate::error::Result;
use crate::store::Operation;

use super::group::{self, Cursor};
use super::keys;

/// Where the kept attempts of deliveries lie.
#[derive(Debug, Default)]
pub(super) struct Histories {
    /// By slot; short of those that no attempt has reached yet.
    kept: HashMap<DeliveryId, Vec<Option<Place>>>,
    /// What the kept records of each generation take, in bytes.
    bytes: HashMap<u64, u64>,
}

/// Where one record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) generation: u64,
    /// What key and value take.
    pub(super) bytes: u32,
}

impl Histories {
    /// Notes where the newest record of a slot lies.
    pub(super) fn keep(&mut self, delivery: DeliveryId, slot: u8, place: Place) {
        let slots = self.kept.entry(delivery).or_default();
        let slot = usize::from(slot);
        if slots.len() <= slot {
            slots.resize(slot + 1, None);
        }
        let before = slots.get_mut(slot).and_then(|kept| kept.replace(place));
        *self.bytes.entry(place.generation).or_default() += u64::from(place.bytes);
        self.uncount(before);
    }

    /// Notes that a record lies in another generation now.
    pub(super) fn moved(&mut self, delivery: DeliveryId, slot: u8, to: u64) {
        let slots = self.kept.get(&delivery);
        if let Some(Some(place)) = slots.and_then(|slots| slots.get(usize::from(slot))).copied() {
            self.keep(delivery, slot, Place { generation: to, ..place });
        }
    }

    /// The delivery has no history any more.
    pub(super) fn forget(&mut self, delivery: DeliveryId) {
        let slots = self.kept.remove(&delivery).unwrap_or_default();
        slots.into_iter().for_each(|place| self.uncount(place));
    }

    /// Forgets the histories of all deliveries that `keeps` does not name.
    pub(super) fn retain(&mut self, keeps: impl Fn(DeliveryId) -> bool) {
        let all = self.kept.keys().copied();
        let gone: Vec<_> = all.filter(|delivery| !keeps(*delivery)).collect();
        gone.into_iter().for_each(|delivery| self.forget(delivery));
    }

    /// The slots of a delivery, and the generation that holds each one's record.
    pub(super) fn slots_of(&self, delivery: DeliveryId) -> Vec<(u8, u64)> {
        let slots = self.kept.get(&delivery).map(Vec::as_slice).unwrap_or_default();
        let held = (0_u8..).zip(slots);
        held.filter_map(|(slot, place)| place.map(|place| (slot, place.generation))).collect()
    }

    /// The records that lie in a generation.
    pub(super) fn inside(&self, generation: u64) -> Vec<(DeliveryId, u8)> {
        let mut inside = Vec::new();
        for (delivery, slots) in &self.kept {
            for (slot, place) in (0_u8..).zip(slots) {
                if place.is_some_and(|place| place.generation == generation) {
                    inside.push((*delivery, slot));
                }
            }
        }
        inside
    }

    /// What the kept records in a generation take, in bytes.
    pub(super) fn bytes_in(&self, generation: u64) -> u64 {
        self.bytes.get(&generation).copied().unwrap_or(0)
    }

    /// What all kept records take, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.values().sum()
    }

    fn uncount(&mut self, place: Option<Place>) {
        let Some(Place { generation, bytes }) = place else { return };
        if let Some(count) = self.bytes.get_mut(&generation) {
            *count -= u64::from(bytes);
            if *count == 0 {
                self.bytes.remove(&generation);
            }
        }
    }
}

/// The write of a failed attempt, under the slot of its number.
pub(super) fn write(
    cursor: &mut Cursor,
    delivery: DeliveryId,
    tried: &Tried,
) -> Result<Option<Operation>> {
    if cursor.removed.contains(&delivery.subscription) {
        // Cancelled with its subscription; nobody would forget it again.
        return Ok(None);
    }
    let slot = slot_of(tried.number);
    let value = group::encoded("failed attempt", &(cursor.next_record, bounded(tried)))?;
    cursor.next_record += 1;
    let key = keys::of_attempt(delivery, slot);
    let bytes = u32::try_from(key.len() + value.len()).unwrap_or(u32::MAX);
    let place = Place { generation: cursor.generation, bytes };
    cursor.histories.lock().keep(delivery, slot, place);
    Ok(Some(Operation::Put(key, value)))
}

fn slot_of(number: u32) -> u8 {
    u8::try_from(number.saturating_sub(1) % HISTORY_MAX).unwrap_or(0)
}

/// A transport of the host may say more than a record holds.
fn bounded(tried: &Tried) -> Tried {
    let excerpt = tried.excerpt.iter().copied().take(EXCERPT_BYTES_MAX).collect();
    Tried { excerpt, reason: bounded_reason(&tried.reason), ..tried.clone() }
}

/// A reason whose text is short enough for a record of the store, whoever made it.
pub(super) fn bounded_reason(reason: &Reason) -> Reason {
    let cut = |text: &str| text.chars().take(TEXT_CHARS_MAX).collect::<String>();
    match reason {
        Reason::Failed(Failure::Tls(why)) => Reason::Failed(Failure::Tls(cut(why))),
        Reason::Failed(Failure::Guard(rule)) => Reason::Failed(Failure::Guard(cut(rule))),
        other => other.clone(),
    }
}

/// How much is kept of what a failure says: ours are single words.
const TEXT_CHARS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::SubscriptionId;

    fn delivery(sequence: u64) -> DeliveryId {
        DeliveryId { sequence, subscription: SubscriptionId(1) }
    }

    fn place(generation: u64, bytes: u32) -> Place {
        Place { generation, bytes }
    }

    #[test]
    fn slots_follow_the_number_and_no_number_is_out_of_them() {
        let slots: Vec<u8> = [1, 2, 8, 9, 17, 0, u32::MAX].map(slot_of).to_vec();
        assert_eq!(slots, [0, 1, 7, 0, 0, 0, 6]);
    }

    #[test]
    fn the_newest_place_of_a_slot_counts_and_another_delivery_keeps_its_own() {
        let mut histories = Histories::default();
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
    fn what_a_transport_says_never_outgrows_a_record() {
        let tried = Tried {
            number: 1,
            at_ms: 2,
            took_ms: 3,
            reason: Reason::Failed(Failure::Tls("\u{e9}".repeat(100_000))),
            excerpt: vec![1; 100_000],
        };
        let value = group::encoded("failed attempt", &(1_u64, bounded(&tried))).unwrap();
        assert!(value.len() < 1_024, "{} bytes", value.len());
        let short = Tried { reason: Reason::Status(503), excerpt: vec![1; 256], ..tried };
        assert_eq!(bounded(&short), short);
    }
}
