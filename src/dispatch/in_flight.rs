//! The attempts in flight, each with what its end needs to know. An attempt is here from its start to its
//! end, also when its lane is removed meanwhile, because it holds a connection until then.

use foldhash::HashMap;

use super::lane_demand::{AccountSlot, LaneGroup};
use crate::attempt::{Attempt, DeliveryId};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InFlightAttempt {
    /// Which attempt of its delivery, from 1.
    pub(super) number: u32,
    pub(super) started_ms: u64,
    /// The account under which it is counted.
    pub(super) account: AccountSlot,
    pub(super) group: LaneGroup,
    /// Whether its delivery was cancelled: then the result of the attempt changes nothing.
    pub(super) is_cancelled: bool,
}

#[derive(Debug, Default)]
pub(super) struct InFlight {
    attempts: HashMap<DeliveryId, InFlightAttempt>,
}

impl InFlight {
    pub(super) fn start(&mut self, delivery: DeliveryId, attempt: InFlightAttempt) {
        self.attempts.insert(delivery, attempt);
    }

    /// Marks a delivery as cancelled, if an attempt of it is in flight.
    pub(super) fn cancel(&mut self, delivery: DeliveryId) {
        if let Some(attempt) = self.attempts.get_mut(&delivery) {
            attempt.is_cancelled = true;
        }
    }

    /// Takes an attempt out; `None` if it is not in flight.
    pub(super) fn end(&mut self, attempt: Attempt) -> Option<InFlightAttempt> {
        let found = self.attempts.get(&attempt.delivery).copied()?;
        if found.number != attempt.number {
            return None;
        }
        self.attempts.remove(&attempt.delivery)
    }
}
