//! How many deliveries each event of a generation owes. The bounds of the outbox count events that are owed, so
//! these counts are exact.

use crate::outbox::accounts::events::AccountRef;

/// An event and what it owes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventCount {
    pub(crate) sequence: u64,
    pub(crate) deliveries: u32,
    pub(crate) payload_bytes: u32,
    pub(crate) account: AccountRef,
}

/// The events of one generation, in 16 bytes each.
#[derive(Debug, Default)]
pub(super) struct OwedCounts {
    /// Runs of ascending sequences, relative to the first of each run.
    runs: Vec<(u64, Vec<OwedSlot>)>,
}

#[derive(Debug, Clone, Copy)]
struct OwedSlot {
    offset: u32,
    deliveries: u32,
    payload_bytes: u32,
    account: AccountRef,
}

impl OwedCounts {
    /// Adds an event. Sequences ascend.
    pub(super) fn push(&mut self, event: EventCount) {
        let EventCount { sequence, deliveries, payload_bytes, account } = event;
        let offset_in = |first: u64| u32::try_from(sequence - first).ok();
        if let Some((first, slots)) = self.runs.last_mut()
            && let Some(offset) = offset_in(*first)
        {
            slots.push(OwedSlot { offset, deliveries, payload_bytes, account });
        } else {
            let slot = OwedSlot { offset: 0, deliveries, payload_bytes, account };
            self.runs.push((sequence, vec![slot]));
        }
    }

    /// What an event owes; `None` for a sequence without an event.
    pub(super) fn get(&self, sequence: u64) -> Option<EventCount> {
        let run = self.runs.partition_point(|(first, _)| *first <= sequence).checked_sub(1)?;
        let (first, slots) = self.runs.get(run)?;
        let offset = u32::try_from(sequence - first).ok()?;
        let slot = slots.get(slots.binary_search_by_key(&offset, |slot| slot.offset).ok()?)?;
        let OwedSlot { deliveries, payload_bytes, account, .. } = *slot;
        Some(EventCount { sequence, deliveries, payload_bytes, account })
    }

    pub(super) fn set(&mut self, sequence: u64, deliveries: u32) {
        let run = self.runs.partition_point(|(first, _)| *first <= sequence).checked_sub(1);
        let run = run.and_then(|run| self.runs.get_mut(run));
        let Some((first, slots)) = run else { return };
        let Ok(offset) = u32::try_from(sequence - *first) else { return };
        if let Ok(position) = slots.binary_search_by_key(&offset, |slot| slot.offset)
            && let Some(slot) = slots.get_mut(position)
        {
            slot.deliveries = deliveries;
        }
    }

    pub(super) fn owed(&self) -> impl Iterator<Item = EventCount> {
        self.runs.iter().flat_map(|(first, slots)| {
            let owed = slots.iter().filter(|slot| slot.deliveries > 0);
            owed.map(move |slot| EventCount {
                sequence: first + u64::from(slot.offset),
                deliveries: slot.deliveries,
                payload_bytes: slot.payload_bytes,
                account: slot.account,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_by_sequence_also_far_apart() {
        let mut counts = OwedCounts::default();
        let sequences = [7, 8, 20, 1 << 33, (1 << 33) + 5];
        for (deliveries, sequence) in (1..).zip(sequences) {
            let account = AccountRef::default();
            counts.push(EventCount { sequence, deliveries, payload_bytes: 100, account });
        }
        for (deliveries, sequence) in (1..).zip(sequences) {
            assert_eq!(counts.get(sequence).map(|event| event.deliveries), Some(deliveries));
        }
        assert_eq!([6, 9, 1 << 32, u64::MAX].map(|sequence| counts.get(sequence)), [None; 4]);
        counts.set(20, 0);
        counts.set(9, 5);
        let owed: Vec<_> = counts.owed().map(|event| event.sequence).collect();
        assert_eq!(owed, [7, 8, 1 << 33, (1 << 33) + 5]);
    }
}
