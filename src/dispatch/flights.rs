//! Decides what the attempts under way cost in threads, and when one counts as stuck.
//!
//! Leaves to others: starting threads (`engine`), and what an attempt meant (`lane`). Invariant
//! (I4): while the stuck budget lasts, an attempt that is not answered holds no worker's place.
//!
//! An attempt is a worker's until it has gone unanswered for `stuck_after_ms`; then it is charged to
//! the stuck budget. The attempt of a slow lane is charged from its start, because it will most
//! likely be late again, and prompt lanes would wait `stuck_after_ms` for its worker each time.

use std::collections::BTreeSet;

use crate::attempt::DeliveryId;

/// One attempt under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flight {
    pub(super) sequence: u64,
    /// Which attempt of its delivery, from 1.
    pub(super) number: u32,
    pub(super) started_ms: u64,
    pub(super) charge: Charge,
}

/// Whose thread an attempt holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charge {
    /// A worker's.
    Worker,
    /// One of the stuck budget's, because its lane was slow when it started.
    Presumed,
    /// One of the stuck budget's, because it has not been answered in time.
    Stuck,
}

/// The counts of all attempts under way, and the order in which they get stuck.
#[derive(Debug, Default)]
pub(super) struct Flights {
    in_flight: usize,
    charged: usize,
    stuck: usize,
    /// Attempts that are not stuck, by their start.
    watched: BTreeSet<(u64, DeliveryId)>,
}

impl Flights {
    /// Counts an attempt that starts.
    pub(super) fn start(&mut self, delivery: DeliveryId, flight: Flight) {
        self.in_flight += 1;
        self.charged += usize::from(flight.charge != Charge::Worker);
        self.watched.insert((flight.started_ms, delivery));
    }

    /// Counts an attempt that ended.
    pub(super) fn end(&mut self, delivery: DeliveryId, flight: Flight) {
        self.in_flight -= 1;
        self.charged -= usize::from(flight.charge != Charge::Worker);
        self.stuck -= usize::from(flight.charge == Charge::Stuck);
        self.watched.remove(&(flight.started_ms, delivery));
    }

    /// Counts an attempt as stuck.
    pub(super) fn mark_stuck(&mut self, flight: &mut Flight) {
        self.charged += usize::from(flight.charge == Charge::Worker);
        self.stuck += usize::from(flight.charge != Charge::Stuck);
        flight.charge = Charge::Stuck;
    }

    /// The next attempt that started no later than `started_ms` and is not stuck yet.
    pub(super) fn pop_late(&mut self, started_ms: u64) -> Option<DeliveryId> {
        let first = *self.watched.first().filter(|first| first.0 <= started_ms)?;
        self.watched.remove(&first);
        Some(first.1)
    }

    /// When the oldest attempt that is not stuck started.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        self.watched.first().map(|first| first.0)
    }

    /// Attempts under way.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Attempts charged to the stuck budget.
    pub(super) fn charged(&self) -> usize {
        self.charged
    }

    /// Attempts that have not been answered in time.
    pub(super) fn stuck(&self) -> usize {
        self.stuck
    }
}
