//! Decides what can be read of the dispatcher: its counts, its lanes, and what each owes.
//!
//! Leaves to others: every change. Invariant: nothing here changes anything, and all but the reading of
//! every lane costs what is asked for and not what is owed.

use super::Dispatcher;
use crate::stats::LaneStats;
use crate::subscription::SubscriptionId;

/// A delivery that is owed, as it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) sequence: u64,
    pub(crate) stage: Stage,
}

/// What an owed delivery waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its first attempt, or the end of that.
    Owed,
    /// Its order, its gate, or its lane to be served.
    Blocked,
    /// Its next attempt after a failure; `due_ms` is monotonic.
    Retrying { attempts: u32, due_ms: u64 },
}

impl Dispatcher {
    /// Deliveries owed, at any stage, held ones included.
    pub(crate) fn owed(&self) -> u64 {
        self.owed
    }

    /// Deliveries held because nobody knows their subscription.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Attempts under way, those of removed lanes included.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.in_flight()
    }

    /// Attempts under way that have gone unanswered for `stuck_after_ms`.
    pub(crate) fn stuck(&self) -> usize {
        self.flights.stuck()
    }

    /// A reading of every lane that is owed something or was, by id. Looks at all lanes.
    pub(crate) fn lane_stats(&self) -> Vec<LaneStats> {
        let mut stats: Vec<_> =
            self.lanes.iter().filter_map(|(id, l)| l.stats(*id, self.now_ms)).collect();
        stats.sort_unstable_by_key(|stats| stats.subscription);
        stats
    }

    /// What a lane owes from a sequence on, in the order published, at the stages that are
    /// `wanted`. Costs what is wanted and not what is owed, so a backlog is read in slices.
    pub(crate) fn listed(
        &self,
        id: SubscriptionId,
        from: u64,
        wanted: impl Fn(Stage) -> bool,
        count_max: usize,
    ) -> Vec<Listed> {
        let Some(lane) = self.lanes.get(&id) else { return Vec::new() };
        let never_tried = if lane.is_held_back() { Stage::Blocked } else { Stage::Owed };
        lane.backlog.listed(from, never_tried, wanted, count_max)
    }
}
