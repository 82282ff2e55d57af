//! The ready lanes of one I/O thread: by account and group, and by whose turn it is. Which of them may start is decided by
//! [`ReadyQueue`](super::ready_queue::ReadyQueue), which counts the attempts of all threads.

use std::collections::BTreeMap;

use super::lane_demand::{AccountSlot, LaneDemand, LaneGroup};
use crate::stats::Bound;
use crate::subscription::SubscriptionId;

#[derive(Debug)]
pub(super) struct QueueTicket {
    pub(super) key: (u64, u64),
    pub(super) demand: LaneDemand,
}

/// The ready lanes of one I/O thread.
#[derive(Debug, Default)]
pub(super) struct ThreadQueue {
    /// By the account's number.
    pub(super) lanes: Vec<AccountLanes>,
    pub(super) prompt: AccountTurns,
    pub(super) proven: AccountTurns,
    pub(super) unproven: AccountTurns,
    pub(super) attempts: usize,
    pub(super) bound: Option<QueueBound>,
    /// A lane of it waits that could not start when it was last asked for one.
    pub(super) was_refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueBound {
    All(Bound),
    /// The limit of each account that has ready lanes.
    Account,
    /// A lane of another thread that was refused before has its turn first.
    Turn,
}

#[derive(Debug, Default)]
pub(super) struct AccountLanes {
    pub(super) prompt: LaneQueue,
    pub(super) proven: LaneQueue,
    pub(super) unproven: LaneQueue,
}

/// Lanes of one account and group, by when it is their turn.
#[derive(Debug, Default)]
pub(super) struct LaneQueue {
    pub(super) lanes: BTreeMap<(u64, u64), SubscriptionId>,
    /// The account's own turn; `None` while it has no lane here.
    pub(super) turn: Option<u64>,
}

/// The accounts with ready lanes of one group, by turn.
#[derive(Debug, Default)]
pub(super) struct AccountTurns {
    pub(super) waiting: BTreeMap<u64, AccountSlot>,
    /// Found above their share; they wait until one of their attempts ends or nobody else waits.
    pub(super) above_share: BTreeMap<u64, AccountSlot>,
    /// Found at the account's limit, or at the bound of an account's unproven lanes; they wait until one of their
    /// attempts ends.
    pub(super) blocked: BTreeMap<u64, AccountSlot>,
}

impl ThreadQueue {
    pub(super) fn turns(&mut self, group: LaneGroup) -> &mut AccountTurns {
        match group {
            LaneGroup::Prompt => &mut self.prompt,
            LaneGroup::Proven => &mut self.proven,
            LaneGroup::Unproven => &mut self.unproven,
        }
    }

    pub(super) fn move_up(&mut self, held: &mut QueueTicket, at_us: u64) {
        if at_us >= held.key.0 {
            return;
        }
        let Some(account) = self.lanes.get_mut(held.demand.account.0) else { return };
        let lanes = &mut account.of(held.demand.class.group()).lanes;
        let Some(id) = lanes.remove(&held.key) else { return };
        held.key.0 = at_us;
        lanes.insert(held.key, id);
    }

    pub(super) fn remove(&mut self, key: (u64, u64), demand: LaneDemand) {
        self.attempts -= demand.attempts;
        if self.attempts == 0 {
            self.bound = None;
        }
        let group = demand.class.group();
        let Some(account) = self.lanes.get_mut(demand.account.0) else { return };
        let queue = account.of(group);
        queue.lanes.remove(&key);
        if queue.lanes.is_empty()
            && let Some(turn) = queue.turn.take()
        {
            self.turns(group).remove(turn);
        }
    }
}

impl AccountLanes {
    pub(super) fn of(&mut self, group: LaneGroup) -> &mut LaneQueue {
        match group {
            LaneGroup::Prompt => &mut self.prompt,
            LaneGroup::Proven => &mut self.proven,
            LaneGroup::Unproven => &mut self.unproven,
        }
    }
}

impl AccountTurns {
    pub(super) fn remove(&mut self, turn: u64) {
        self.waiting.remove(&turn);
        self.above_share.remove(&turn);
        self.blocked.remove(&turn);
    }

    /// Lets an account wait for its turn again, one of whose attempts ended.
    pub(super) fn reconsider(&mut self, turn: Option<u64>) {
        let Some(turn) = turn else { return };
        if let Some(account) = self.above_share.remove(&turn).or(self.blocked.remove(&turn)) {
            self.waiting.insert(turn, account);
        }
    }
}
