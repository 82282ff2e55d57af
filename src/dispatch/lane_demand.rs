//! What a ready lane asks the ready queue for.

use crate::attempt::LoopId;

/// The number of an account, given by the dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct AccountSlot(pub(super) usize);

/// What is known of a lane's endpoint, as far as the queue cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneClass {
    /// It responded fast lately, and it owes little or has no attempt in flight.
    Prompt,
    Proven,
    /// It was never tried, or every attempt was interrupted.
    Untried,
    /// Its last attempt timed out after so many milliseconds.
    TimedOut(u64),
}

impl LaneClass {
    pub(super) fn group(self) -> LaneGroup {
        match self {
            LaneClass::Prompt => LaneGroup::Prompt,
            LaneClass::Proven => LaneGroup::Proven,
            LaneClass::Untried | LaneClass::TimedOut(_) => LaneGroup::Unproven,
        }
    }
}

/// The lanes that share a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneGroup {
    Prompt,
    Proven,
    Unproven,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneDemand {
    pub(super) account: AccountSlot,
    /// The I/O thread that makes its attempts.
    pub(super) thread: LoopId,
    pub(super) class: LaneClass,
    /// How many attempts it could start now, at least 1.
    pub(super) attempts: usize,
}

impl LaneDemand {
    /// Whether lanes with these demands wait in the same queue.
    pub(super) fn queues_with(self, other: LaneDemand) -> bool {
        let queue = |demand: LaneDemand| (demand.class, demand.account, demand.thread);
        queue(self) == queue(other)
    }
}
