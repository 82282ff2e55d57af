//! Decides which ready lane starts the next attempt, within the bounds on attempts in flight (I4).
//!
//! Accounts take turns, and the lanes of an account take turns among each other. Lanes that are proven, that
//! is whose endpoint responded in time, may use all of `in_flight_max`. The others may hang and hold what
//! they take for a whole timeout, so a part of `in_flight_max` is closed to them, and one account may take at
//! most half of what they may use while there are several accounts. They also start more rarely while proven lanes
//! are ready. Among them, a lane that timed out queues behind by its last latency. No account has more attempts in flight than its own limit.
//!
//! A small part of `in_flight_max` is kept for prompt lanes, whose endpoint responded fast lately and which owe little
//! or have nothing in flight. So their events do not wait for attempts at slow endpoints to end.
//!
//! The lanes of one event queue a little behind each other, so that the next event need not wait for all lanes
//! of a large fan-out.
//!
//! An account above its share, `in_flight_max` divided by the number of accounts that want attempts, starts
//! more only while no other account is waiting.
//!
//! Each I/O thread has a queue of its own, because it has the connections of its lanes. The bounds hold for all together:
//! where a lane of one thread was refused, it takes turns with those of the others.

use super::lane_demand::{AccountSlot, LaneClass, LaneDemand, LaneGroup};
use super::thread_queue::{AccountLanes, QueueBound, QueueTicket, ThreadQueue};
use crate::attempt::LoopId;
use crate::stats::Bound;
use crate::subscription::SubscriptionId;

/// The ready lanes, and the counts of attempts in flight that bound them.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    in_flight_max: usize,
    accounts: Vec<AccountLoad>,
    threads: Vec<ThreadQueue>,
    next_turn: u64,
    in_flight: usize,
    /// Attempts of prompt lanes that started while there was no other room.
    reserve_in_flight: usize,
    unproven_in_flight: usize,
    /// Accounts with ready lanes or attempts in flight.
    active_accounts: usize,
}

#[derive(Debug, Default)]
struct AccountLoad {
    /// Its ready lanes, of all threads.
    ready_lanes: usize,
    /// How many attempts it may have in flight; `None` for as many as all accounts together.
    in_flight_max: Option<usize>,
    in_flight: usize,
    unproven_in_flight: usize,
}

/// The share of `in_flight_max` that only proven lanes may use is one divided by this.
const PROVEN_RESERVE: usize = 4;

/// The share of `in_flight_max` that only prompt lanes may use is one divided by this.
const PROMPT_RESERVE: usize = 16;

/// How many turns the unproven lanes of an account queue behind the others; an attempt takes one or two turns. An
/// attempt of theirs opens a connection, which costs as much as several attempts over an open one, and where a
/// receiver is down it hangs.
const UNPROVEN_BEHIND: u64 = 8;

impl ReadyQueue {
    pub(super) fn new(in_flight_max: usize, threads: usize) -> ReadyQueue {
        let threads = (0..threads.max(1)).map(|_| ThreadQueue::default()).collect();
        ReadyQueue { in_flight_max: in_flight_max.max(1), threads, ..ReadyQueue::default() }
    }

    /// Adds an account, whose index is the number of those before it.
    pub(super) fn add_account(&mut self) -> AccountSlot {
        self.accounts.push(AccountLoad::default());
        self.threads.iter_mut().for_each(|thread| thread.lanes.push(AccountLanes::default()));
        AccountSlot(self.accounts.len() - 1)
    }

    pub(super) fn set_in_flight_max(&mut self, account: AccountSlot, most: usize) {
        let Some(load) = self.accounts.get_mut(account.0) else { return };
        load.in_flight_max = Some(most.max(1));
        self.clear_bound();
        self.reconsider(account);
    }

    /// Lets an account wait for its turns again, which has room for more attempts.
    fn reconsider(&mut self, account: AccountSlot) {
        for thread in &mut self.threads {
            let Some(lanes) = thread.lanes.get(account.0) else { continue };
            thread.prompt.reconsider(lanes.prompt.turn);
            thread.proven.reconsider(lanes.proven.turn);
            thread.unproven.reconsider(lanes.unproven.turn);
        }
    }

    pub(super) fn in_flight_of(&self, account: AccountSlot) -> usize {
        self.accounts.get(account.0).map_or(0, |load| load.in_flight)
    }

    /// Brings a lane's place in line with its demand. A lane that joins queues as if it came `behind_us`
    /// microseconds later. A lane that stays in its class keeps its place, unless that is behind the place at which
    /// it would join: an event for few lanes does not wait where a large fan-out put one of them.
    pub(super) fn update(
        &mut self,
        id: SubscriptionId,
        ticket: &mut Option<QueueTicket>,
        demand: Option<LaneDemand>,
        now_ms: u64,
        behind_us: u64,
    ) {
        if let (Some(held), Some(demand)) = (ticket.as_mut(), demand)
            && held.demand.queues_with(demand)
            && let Some(thread) = self.threads.get_mut(demand.thread.0)
        {
            thread.attempts = thread.attempts - held.demand.attempts + demand.attempts;
            held.demand = demand;
            thread.move_up(held, place_us(demand.class, now_ms, behind_us));
            return;
        }
        self.leave(ticket);
        if let Some(demand) = demand {
            *ticket = self.join(id, demand, place_us(demand.class, now_ms, behind_us));
        }
    }

    fn join(&mut self, id: SubscriptionId, demand: LaneDemand, at_us: u64) -> Option<QueueTicket> {
        let group = demand.class.group();
        let turn = self.next_turn(group);
        let load = self.accounts.get_mut(demand.account.0)?;
        let thread = self.threads.get_mut(demand.thread.0)?;
        self.active_accounts += usize::from(!load.is_active());
        load.ready_lanes += 1;
        let key = (at_us, turn);
        let queue = thread.lanes.get_mut(demand.account.0)?.of(group);
        queue.lanes.insert(key, id);
        if queue.turn.is_none() {
            queue.turn = Some(turn);
            thread.turns(group).waiting.insert(turn, demand.account);
        }
        thread.attempts += demand.attempts;
        let is_of_others = group == LaneGroup::Prompt
            || matches!(thread.bound, Some(QueueBound::All(Bound::Unproven) | QueueBound::Account));
        if is_of_others {
            // That bound holds other lanes back, and not necessarily this one.
            thread.bound = None;
        }
        Some(QueueTicket { key, demand })
    }

    pub(super) fn leave(&mut self, ticket: &mut Option<QueueTicket>) {
        let Some(QueueTicket { key, demand }) = ticket.take() else { return };
        let Some(load) = self.accounts.get_mut(demand.account.0) else { return };
        load.ready_lanes -= 1;
        self.active_accounts -= usize::from(!load.is_active());
        if let Some(thread) = self.threads.get_mut(demand.thread.0) {
            thread.remove(key, demand);
        }
    }

    /// The lane of a thread whose turn it is, while no more than `limit` attempts are in flight, and what its attempt
    /// counts as. It keeps its place until it leaves; its account goes behind the others.
    pub(super) fn choose(
        &mut self,
        slot: LoopId,
        limit: usize,
    ) -> Option<(SubscriptionId, LaneGroup)> {
        self.end_turn(slot);
        let thread = self.threads.get_mut(slot.0)?;
        (thread.bound, thread.was_refused) = (None, false);
        if thread.attempts == 0 {
            return None;
        }
        let most = limit.min(self.in_flight_max);
        let (reserve, is_below) = (most / PROMPT_RESERVE, self.in_flight < most);
        let has_room = is_below && self.in_flight - self.reserve_in_flight < most - reserve;
        let has_room_for_unproven = has_room && self.unproven_in_flight < self.unproven_max();
        let has_reserve = is_below && self.reserve_in_flight < reserve;
        let groups = [
            (LaneGroup::Prompt, has_room || has_reserve),
            (LaneGroup::Proven, has_room),
            (LaneGroup::Unproven, has_room_for_unproven),
        ];
        let Some((front, group)) = self.first(slot, groups) else {
            let all = QueueBound::All(Bound::InFlight);
            return self.refuse(slot, if has_room { self.bound_of_accounts(slot) } else { all });
        };
        if self.is_anothers_turn(slot, front, groups) {
            return self.refuse(slot, QueueBound::Turn);
        }
        let id = self.serve(slot, front, group)?;
        // A prompt lane takes from the reserve only where there is no other room, so that it shuts nobody out of the rest.
        let counts_as = match group {
            LaneGroup::Prompt if has_room => LaneGroup::Proven,
            group => group,
        };
        Some((id, counts_as))
    }

    fn refuse<T>(&mut self, slot: LoopId, bound: QueueBound) -> Option<T> {
        let thread = self.threads.get_mut(slot.0)?;
        (thread.bound, thread.was_refused) = (Some(bound), true);
        None
    }

    /// The account of a thread whose turn it is, among the groups that are open.
    fn first(
        &mut self,
        slot: LoopId,
        groups: [(LaneGroup, bool); 3],
    ) -> Option<(QueueFront, LaneGroup)> {
        let open = groups.into_iter().filter(|(_, is_open)| *is_open);
        let fronts = open.filter_map(|(group, _)| Some((self.front(slot, group)?, group)));
        fronts.min_by_key(|(front, _)| *front)
    }

    /// Whether a lane that was refused in another thread comes before this one. Otherwise the thread whose attempt ended
    /// would always take the room that this left.
    fn is_anothers_turn(
        &mut self,
        slot: LoopId,
        own: QueueFront,
        groups: [(LaneGroup, bool); 3],
    ) -> bool {
        let refused =
            |(_, thread): &(usize, &ThreadQueue)| thread.was_refused && thread.bound.is_none();
        let refused =
            self.threads.iter().enumerate().filter(refused).map(|(number, _)| LoopId(number));
        let others: Vec<_> = refused.filter(|other| *other != slot).collect();
        others
            .into_iter()
            .any(|other| self.first(other, groups).is_some_and(|(front, _)| front < own))
    }

    /// A thread asks for a lane, so those that let it go first may go on.
    fn end_turn(&mut self, slot: LoopId) {
        for (number, thread) in self.threads.iter_mut().enumerate() {
            if number != slot.0 && thread.bound == Some(QueueBound::Turn) {
                thread.bound = None;
            }
        }
    }

    /// The bound that holds every account back when no lane of a thread can start.
    fn bound_of_accounts(&self, slot: LoopId) -> QueueBound {
        let all = QueueBound::All(Bound::Unproven);
        let Some(ThreadQueue { prompt, proven, unproven, .. }) = self.threads.get(slot.0) else {
            return all;
        };
        let waits_for_unproven = self.unproven_in_flight >= self.unproven_max()
            && unproven.waiting.len() + unproven.above_share.len() > 0;
        let is_at_limit = |account: &AccountSlot| {
            self.accounts.get(account.0).is_some_and(AccountLoad::is_at_limit)
        };
        let mut blocked =
            [prompt, proven, unproven].into_iter().flat_map(|turns| turns.blocked.values());
        match !waits_for_unproven && blocked.any(is_at_limit) {
            true => QueueBound::Account,
            false => all,
        }
    }

    fn serve(
        &mut self,
        slot: LoopId,
        QueueFront { turn, account, .. }: QueueFront,
        group: LaneGroup,
    ) -> Option<SubscriptionId> {
        let next_turn = self.next_turn(group);
        let thread = self.threads.get_mut(slot.0)?;
        let turns = thread.turns(group);
        let was_above = turns.above_share.contains_key(&turn);
        turns.remove(turn);
        let back = if was_above { &mut turns.above_share } else { &mut turns.waiting };
        back.insert(next_turn, account);
        let queue = thread.lanes.get_mut(account.0)?.of(group);
        queue.turn = Some(next_turn);
        queue.lanes.first_key_value().map(|(_, id)| *id)
    }

    /// A turn behind all others of the group, and behind some of those that proven lanes will take. No two are equal, so
    /// that nothing but the order of calls decides.
    fn next_turn(&mut self, group: LaneGroup) -> u64 {
        self.next_turn += 2;
        match group {
            LaneGroup::Prompt | LaneGroup::Proven => self.next_turn,
            LaneGroup::Unproven => self.next_turn + 2 * UNPROVEN_BEHIND + 1,
        }
    }

    /// The account whose turn it is in a group of a thread.
    fn front(&mut self, slot: LoopId, group: LaneGroup) -> Option<QueueFront> {
        let share = self.in_flight_max / self.active_accounts.max(1);
        let unproven_max = self.unproven_max_of_account();
        let turns = self.threads.get_mut(slot.0)?.turns(group);
        loop {
            let waiting = turns.waiting.first_key_value().map(|(turn, account)| (*turn, *account));
            let above = || turns.above_share.first_key_value();
            let (turn, account, is_above) = match waiting {
                Some((turn, account)) => (turn, account, false),
                None => above().map(|(turn, account)| (*turn, *account, true))?,
            };
            let load = self.accounts.get(account.0)?;
            let is_blocked = load.is_at_limit()
                || group == LaneGroup::Unproven && load.unproven_in_flight >= unproven_max;
            let exceeds = load.in_flight >= share.max(1);
            if is_blocked {
                turns.remove(turn);
                turns.blocked.insert(turn, account);
            } else if exceeds && !is_above {
                turns.waiting.remove(&turn);
                turns.above_share.insert(turn, account);
            } else {
                return Some(QueueFront { is_above, turn, account });
            }
        }
    }

    /// Counts an attempt that starts, given as what it counts as.
    pub(super) fn start(&mut self, account: AccountSlot, group: LaneGroup) {
        let Some(load) = self.accounts.get_mut(account.0) else { return };
        self.active_accounts += usize::from(!load.is_active());
        let unproven = usize::from(group == LaneGroup::Unproven);
        load.in_flight += 1;
        load.unproven_in_flight += unproven;
        self.in_flight += 1;
        self.reserve_in_flight += usize::from(group == LaneGroup::Prompt);
        self.unproven_in_flight += unproven;
    }

    /// Counts the end of an attempt, given as what it counted as.
    pub(super) fn end(&mut self, account: AccountSlot, group: LaneGroup) {
        let Some(load) = self.accounts.get_mut(account.0) else { return };
        let unproven = usize::from(group == LaneGroup::Unproven);
        load.in_flight -= 1;
        load.unproven_in_flight -= unproven;
        self.in_flight -= 1;
        self.reserve_in_flight -= usize::from(group == LaneGroup::Prompt);
        self.unproven_in_flight -= unproven;
        self.active_accounts -= usize::from(!load.is_active());
        self.clear_bound();
        self.reconsider(account);
    }

    /// How many attempts the ready lanes could start, apart from the bounds.
    pub(super) fn attempts(&self) -> usize {
        self.threads.iter().map(|thread| thread.attempts).sum()
    }

    /// How many attempts the ready lanes of a thread could start, unless something keeps them from it.
    pub(super) fn unbound_attempts(&self, slot: LoopId) -> usize {
        let thread = self.threads.get(slot.0).filter(|thread| thread.bound.is_none());
        thread.map_or(0, |thread| thread.attempts)
    }

    /// The numbers of all threads.
    pub(super) fn threads(&self) -> impl Iterator<Item = LoopId> {
        (0..self.threads.len()).map(LoopId)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Forgets what kept a ready lane from starting: time may have changed that.
    pub(super) fn clear_bound(&mut self) {
        self.threads.iter_mut().for_each(|thread| thread.bound = None);
    }

    /// The bound for all accounts that kept a ready lane from starting when [`choose`](Self::choose) was last called.
    /// The limit of one account is not reported.
    pub(super) fn bound(&self) -> Option<Bound> {
        self.threads.iter().find_map(|thread| match thread.bound {
            Some(QueueBound::All(bound)) => Some(bound),
            Some(QueueBound::Account | QueueBound::Turn) | None => None,
        })
    }

    fn unproven_max(&self) -> usize {
        (self.in_flight_max - self.in_flight_max / PROVEN_RESERVE).max(1)
    }

    fn unproven_max_of_account(&self) -> usize {
        match self.accounts.len() {
            0 | 1 => self.unproven_max(),
            _ => self.unproven_max().div_ceil(2),
        }
    }
}

/// An account at the front of a group. Below its share it goes first, then by turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct QueueFront {
    is_above: bool,
    turn: u64,
    account: AccountSlot,
}

impl AccountLoad {
    fn is_at_limit(&self) -> bool {
        self.in_flight_max.is_some_and(|most| self.in_flight >= most)
    }

    fn is_active(&self) -> bool {
        self.in_flight > 0 || self.ready_lanes > 0
    }
}

/// The position of a lane that is ranked this far behind the present. One that timed out joins further behind.
fn place_us(class: LaneClass, now_ms: u64, behind_us: u64) -> u64 {
    let latency_ms = match class {
        LaneClass::Prompt | LaneClass::Proven | LaneClass::Untried => 0,
        LaneClass::TimedOut(latency_ms) => latency_ms,
    };
    now_ms.saturating_add(latency_ms).saturating_mul(1_000).saturating_add(behind_us)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// A queue whose lanes stay ready, and the attempts in flight.
    struct QueueBench {
        queue: ReadyQueue,
        tickets: HashMap<SubscriptionId, Option<QueueTicket>>,
        demands: HashMap<SubscriptionId, LaneDemand>,
        in_flight: Vec<(SubscriptionId, LaneGroup)>,
    }

    impl QueueBench {
        /// Lanes numbered from 0, each given as its account and its class.
        fn new(in_flight_max: usize, lanes: &[(usize, LaneClass)]) -> QueueBench {
            let mut queue = ReadyQueue::new(in_flight_max, 1);
            let accounts = lanes.iter().map(|lane| lane.0 + 1).max().unwrap_or(0);
            for _ in 0..accounts {
                queue.add_account();
            }
            let (tickets, demands, in_flight) = (HashMap::new(), HashMap::new(), Vec::new());
            let mut bench = QueueBench { queue, tickets, demands, in_flight };
            for (id, (account, class)) in (0..).zip(lanes) {
                bench.put(id, *account, *class);
            }
            bench
        }

        fn put(&mut self, id: u32, account: usize, class: LaneClass) {
            let id = SubscriptionId(id);
            let demand =
                LaneDemand { account: AccountSlot(account), thread: SLOT, class, attempts: 1 };
            self.demands.insert(id, demand);
            let ticket = self.tickets.entry(id).or_default();
            self.queue.update(id, ticket, Some(demand), 0, 0);
        }

        /// Starts an attempt of the lane whose turn it is; the lane stays ready.
        fn start(&mut self) -> Option<u32> {
            let (id, group) = self.queue.choose(SLOT, usize::MAX)?;
            let demand = self.demands[&id];
            let ticket = self.tickets.get_mut(&id).unwrap();
            self.queue.leave(ticket);
            self.queue.start(demand.account, group);
            self.queue.update(id, ticket, Some(demand), 0, 0);
            self.in_flight.push((id, group));
            Some(id.0)
        }

        fn end(&mut self, place: usize) {
            let (id, group) = self.in_flight.remove(place);
            self.queue.end(self.demands[&id].account, group);
        }

        fn start_all(&mut self) -> Vec<u32> {
            std::iter::from_fn(|| self.start()).collect()
        }

        /// Starts and ends attempts one after the other.
        fn serve(&mut self, times: usize) -> Vec<u32> {
            let mut serve = || self.start().inspect(|_| self.end(self.in_flight.len() - 1));
            (0..times).filter_map(|_| serve()).collect()
        }
    }

    const SLOT: LoopId = LoopId(0);

    use LaneClass::{Prompt, Proven, TimedOut, Untried};

    #[test]
    fn accounts_take_turns_and_lanes_within_an_account() {
        let mut bench = QueueBench::new(100, &[(0, Proven), (0, Proven), (0, Proven), (1, Proven)]);
        assert_eq!(bench.serve(6), [0, 3, 1, 3, 2, 3]);
    }

    #[test]
    fn unproven_lanes_start_rarely_beside_proven_ones_and_at_once_alone() {
        let lanes = [(0, Proven), (0, Untried), (1, Proven), (1, Untried), (2, Untried)];
        let mut bench = QueueBench::new(100, &lanes);
        let served = bench.serve(200);
        let times = |id| served.iter().filter(|served| **served == id).count();
        assert_eq!([1, 3, 4].map(times), [25, 25, 24], "of three accounts");
        assert_eq!([0, 2].map(times), [63, 63]);
        let mut bench = QueueBench::new(100, &[(0, Untried), (1, TimedOut(3))]);
        assert_eq!(bench.serve(6), [0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn lanes_never_tried_precede_those_that_timed_out_by_latency() {
        let lanes = [(0, TimedOut(900)), (0, TimedOut(20)), (0, Untried)];
        let mut bench = QueueBench::new(100, &lanes);
        let mut order = Vec::new();
        while let Some((id, _)) = bench.queue.choose(SLOT, usize::MAX) {
            bench.queue.leave(bench.tickets.get_mut(&id).unwrap());
            order.push(id.0);
        }
        assert_eq!(order, [2, 1, 0]);
    }

    #[test]
    fn a_reserve_is_kept_for_proven_lanes() {
        let mut bench = QueueBench::new(8, &[(0, Untried)]);
        assert_eq!(bench.start_all().len(), 6);
        assert_eq!(bench.queue.bound(), Some(Bound::Unproven));
        bench.put(1, 0, Proven);
        assert_eq!(bench.start_all(), [1, 1]);
        assert_eq!(bench.queue.bound(), Some(Bound::InFlight));
        bench.end(0);
        assert!(bench.start().is_some());
    }

    #[test]
    fn a_prompt_lane_waits_for_no_slow_one() {
        let mut bench = QueueBench::new(32, &[(0, Proven), (1, Proven)]);
        assert_eq!(bench.start_all().len(), 30);
        assert_eq!(bench.queue.bound(), Some(Bound::InFlight));
        // An event for a lane with nothing in flight.
        bench.put(2, 0, Prompt);
        assert!(bench.queue.unbound_attempts(SLOT) > 0, "it may start");
        assert_eq!(bench.start(), Some(2));
        bench.put(2, 0, Proven);
        assert_eq!(bench.start(), None, "the rest of the reserve is kept");
        assert!(bench.queue.unbound_attempts(SLOT) == 0);
    }

    #[test]
    fn prompt_lanes_above_their_share_do_not_shut_out_another_account() {
        let mut bench = QueueBench::new(32, &[(0, Prompt), (1, Prompt)]);
        bench.queue.add_account();
        assert_eq!(bench.start_all().len(), 32);
        bench.put(2, 2, Proven);
        bench.end(0);
        assert_eq!(bench.start_all(), [2]);
    }

    #[test]
    fn a_proven_lane_is_not_held_by_the_bound_of_others() {
        let mut bench = QueueBench::new(8, &[(0, Untried)]);
        bench.start_all();
        assert_eq!(bench.queue.bound(), Some(Bound::Unproven));
        bench.put(1, 0, Proven);
        assert_eq!(bench.queue.bound(), None);
    }

    #[test]
    fn unproven_lanes_of_one_account_leave_room_for_another() {
        let mut bench = QueueBench::new(8, &[(0, Untried), (1, Proven)]);
        bench.queue.leave(bench.tickets.get_mut(&SubscriptionId(1)).unwrap());
        assert_eq!(bench.start_all(), [0, 0, 0]);
        bench.put(2, 1, Untried);
        assert_eq!(bench.start_all(), [2, 2, 2]);
    }

    #[test]
    fn an_account_exceeds_its_share_only_while_nobody_waits() {
        let mut bench = QueueBench::new(8, &[(0, Proven)]);
        bench.queue.add_account();
        assert_eq!(bench.start_all().len(), 8, "alone it may use all");
        bench.put(1, 1, Proven);
        bench.end(0);
        bench.end(0);
        assert_eq!(bench.start_all(), [1, 1]);
        (0..2).for_each(|_| bench.end(0));
        assert_eq!(bench.start_all(), [1, 1], "up to its share of 4");
    }

    #[test]
    fn an_account_at_its_limit_waits_for_its_own_attempts() {
        let mut bench = QueueBench::new(8, &[(0, Proven), (0, Untried), (1, Proven)]);
        bench.queue.set_in_flight_max(AccountSlot(0), 2);
        bench.queue.leave(bench.tickets.get_mut(&SubscriptionId(2)).unwrap());
        assert_eq!(bench.start_all(), [0, 0]);
        assert!(
            bench.queue.unbound_attempts(SLOT) == 0 && bench.queue.bound().is_none(),
            "no bound of the engine"
        );
        bench.put(2, 1, Proven);
        assert!(bench.queue.unbound_attempts(SLOT) > 0);
        assert_eq!(bench.start_all(), [2; 6], "the neighbour uses what is left");
        bench.end(2);
        bench.end(0);
        assert_eq!(bench.start_all().iter().filter(|id| **id == 0).count(), 1);
        bench.queue.set_in_flight_max(AccountSlot(0), 3);
        (0..2).for_each(|_| bench.end(3));
        assert_eq!(
            bench.start_all().iter().filter(|id| **id < 2).count(),
            1,
            "the limit was raised"
        );
    }

    #[test]
    fn a_lane_moves_up_to_the_place_at_which_it_would_join() {
        let mut queue = ReadyQueue::new(8, 1);
        let account = queue.add_account();
        let demand = Some(LaneDemand { account, thread: SLOT, class: Proven, attempts: 1 });
        let (mut first, mut last) = (None, None);
        queue.update(SubscriptionId(1), &mut first, demand, 0, 5_000);
        queue.update(SubscriptionId(2), &mut last, demand, 0, 900_000);
        queue.update(SubscriptionId(2), &mut last, demand, 1, 0);
        assert_eq!(queue.choose(SLOT, 8), Some((SubscriptionId(2), LaneGroup::Proven)));
        queue.leave(&mut last);
        queue.update(SubscriptionId(1), &mut first, demand, 9, 0);
        assert_eq!(queue.choose(SLOT, 8), Some((SubscriptionId(1), LaneGroup::Proven)));
        queue.leave(&mut first);
        assert_eq!((queue.attempts(), queue.choose(SLOT, 8)), (0, None));
    }

    #[test]
    fn a_lower_limit_bounds_everybody() {
        let mut bench = QueueBench::new(8, &[(0, Proven)]);
        assert!(bench.queue.choose(SLOT, 0).is_none());
        assert_eq!(bench.queue.bound(), Some(Bound::InFlight));
        bench.queue.leave(bench.tickets.get_mut(&SubscriptionId(0)).unwrap());
        assert_eq!(bench.queue.bound(), None);
    }

    proptest! {
        /// Whatever starts and ends, the bounds hold, and nobody waits while there is room.
        #[test]
        fn bounds_hold_and_no_room_is_left_unused(
            lanes in prop::collection::vec((0_usize..4, 0_u8..4), 1..12),
            in_flight_max in 1_usize..24,
            account_max in 1_usize..24,
            steps in prop::collection::vec((any::<bool>(), 0_usize..24), 0..120),
        ) {
            let class = |kind| match kind { 0 => Proven, 1 => Untried, 2 => Prompt, _ => TimedOut(7) };
            let lanes: Vec<_> = lanes.iter().map(|(account, kind)| (*account, class(*kind))).collect();
            let mut bench = QueueBench::new(in_flight_max, &lanes);
            // One account has a limit of its own.
            bench.queue.set_in_flight_max(AccountSlot(0), account_max);
            for (starts, place) in steps {
                if !starts && !bench.in_flight.is_empty() {
                    bench.end(place % bench.in_flight.len());
                    continue;
                }
                let share = in_flight_max / lanes.iter().map(|lane| lane.0).collect::<std::collections::HashSet<_>>().len();
                let load = |bench: &QueueBench, account| {
                    let of = |(id, _): &&(SubscriptionId, LaneGroup)| bench.demands[id].account.0 == account;
                    bench.in_flight.iter().filter(of).count()
                };
                let reserve = in_flight_max / 16;
                let count = |bench: &QueueBench, wanted| {
                    bench.in_flight.iter().filter(|(_, group)| *group == wanted).count()
                };
                let kept = reserve - count(&bench, LaneGroup::Prompt);
                let has_proven_below = lanes.iter().any(|(account, class)| {
                    let has_room = *account > 0 || load(&bench, 0) < account_max;
                    let is_open = *class == Proven && bench.in_flight.len() + kept < in_flight_max;
                    (is_open || *class == Prompt && bench.in_flight.len() < in_flight_max) && has_room && load(&bench, *account) < share.max(1)
                });
                let before: Vec<usize> = (0..4).map(|account| load(&bench, account)).collect();
                match bench.start() {
                    Some(id) => {
                        let account = bench.demands[&SubscriptionId(id)].account.0;
                        prop_assert!(!has_proven_below || before[account] < share.max(1));
                    }
                    None => prop_assert!(!has_proven_below),
                }
                prop_assert!(count(&bench, LaneGroup::Unproven) <= (in_flight_max - in_flight_max / 4).max(1));
                prop_assert!(bench.in_flight.len() - count(&bench, LaneGroup::Prompt) <= in_flight_max - reserve);
                prop_assert!(bench.in_flight.len() <= in_flight_max);
                prop_assert!(load(&bench, 0) <= account_max);
                prop_assert_eq!(bench.queue.in_flight(), bench.in_flight.len());
            }
        }
    }
}
