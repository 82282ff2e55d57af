//! The attempts in flight, each with what its end needs to know. An attempt is here from its start to its
//! end, also when its lane is removed meanwhile, because it holds a connection until then.

use foldhash::HashMap;

use super::ready_queue::{AccountIndex, Group};
use crate::attempt::{Attempt, DeliveryId};

/// One attempt in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InFlightAttempt {
    /// Which attempt of its delivery, from 1.
    pub(super) number: u32,
    pub(super) started_ms: u64,
    /// What it was counted under when it started.
    pub(super) account: AccountIndex,
    pub(super) group: Group,
}

/// All attempts in flight.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    attempts: HashMap<DeliveryId, InFlightAttempt>,
}

impl InFlight {
    pub(super) fn start(&mut self, delivery: DeliveryId, attempt: InFlightAttempt) {
        self.attempts.insert(delivery, attempt);
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
