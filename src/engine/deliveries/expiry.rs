//! Ends deliveries whose age has ended, on the timekeeper. Each end is queued for the device, counted and announced
//! (I8, I13).

use parking_lot::MutexGuard;

use crate::attempt::{Record, StoredDeadLetter};
use crate::engine::shared::{DispatchState, Shared};
use crate::notice::Notice;

const ENDED_AT_ONCE: usize = 256;

impl Shared {
    /// Ends deliveries whose age has ended. None while the device refuses and there is no room to queue their ends.
    pub(in crate::engine) fn end_expired(
        &self,
        state: &mut MutexGuard<'_, DispatchState>,
        now_ms: u64,
    ) {
        if state.dispatcher.next_expiry_ms().is_none_or(|due_ms| due_ms > now_ms) {
            return;
        }
        let count_max = state.room_for_ends().min(ENDED_AT_ONCE);
        let ended = state.dispatcher.expire(now_ms, self.clock.wall_ms(), count_max);
        if ended.is_empty() {
            return;
        }
        let mut letters = Vec::with_capacity(ended.len());
        for records in ended {
            state.note_end();
            letters.extend(records.iter().filter_map(Record::letter).cloned());
            self.outbox.record_together(records);
        }
        self.counters.dead.add(letters.len() as u64);
        MutexGuard::unlocked(state, || {
            let sequences: Vec<u64> = letters.iter().map(|one| one.delivery.sequence).collect();
            self.outbox.release_cached(&sequences);
            self.tell_given_up(letters);
        });
    }

    pub(in crate::engine) fn tell_given_up(&self, letters: Vec<StoredDeadLetter>) {
        self.note_given_up(&letters);
        for StoredDeadLetter { delivery, reason, .. } in letters {
            let event = self.outbox.id_of(delivery.sequence);
            let subscription = delivery.subscription;
            tracing::debug!(%event, %subscription, %reason, "delivery given up");
            self.notices.send(&Notice::DeadLettered { event, subscription, reason });
        }
    }
}
