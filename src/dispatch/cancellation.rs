//! Ends owed deliveries because the host no longer wants them. An attempt in flight is not called back; its end
//! changes nothing of the delivery, which holds its place in the order until then (I5).

use roaring::RoaringTreemap;

use super::backlog::Disposition;
use super::lane::InFlightAttempt;
use super::{Completed, Dispatcher};
use crate::attempt::{DeliveryId, Record};

impl Dispatcher {
    /// Cancels a delivery. Returns the records to be made durable in one batch: its own end, and the ends of the
    /// deliveries that depended on it, which are given up. `None` if it is not owed.
    #[must_use = "a cancelled delivery is owed again after a crash until its records are durable"]
    pub(crate) fn cancel(&mut self, delivery: DeliveryId, wall_ms: u64) -> Option<Vec<Record>> {
        let DeliveryId { sequence, subscription: id } = delivery;
        self.owe_ahead(id);
        let lane = self.lanes.get_mut(&id)?;
        let due_ms = lane.backlog.retrying(sequence).map(|retrying| retrying.due_ms);
        if !lane.backlog.cancel(sequence) {
            return None;
        }
        self.owed -= 1;
        self.held -= u64::from(lane.is_held());
        if let Some(due_ms) = due_ms {
            self.waiting.remove(&(due_ms, delivery));
        }
        if let Some(attempt) = self.in_flight.get_mut(&delivery) {
            attempt.is_cancelled = true;
        }
        let mut records = vec![Record::Settle(delivery)];
        records.extend(self.give_up_dependents(delivery, wall_ms));
        self.refresh(id);
        Some(records)
    }

    pub(super) fn end_cancelled(
        &mut self,
        delivery: DeliveryId,
        attempt: InFlightAttempt,
        now_ms: u64,
    ) -> Completed {
        let id = delivery.subscription;
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.put_back(delivery.sequence, &Disposition::Delivered, now_ms);
        }
        self.refresh(id);
        let took_ms = now_ms.saturating_sub(attempt.started_ms);
        Completed { took_ms, ..Completed::default() }
    }

    /// The sequences of everything owed, held deliveries included.
    pub(crate) fn owed_sequences(&self) -> RoaringTreemap {
        let of_lanes = self.lanes.values().map(|lane| lane.backlog.sequences());
        let mut owed = of_lanes.fold(RoaringTreemap::new(), |all, owed| all | owed);
        self.waiting_among(
            |_| true,
            |_, sequence| {
                owed.insert(sequence);
            },
        );
        owed
    }
}
