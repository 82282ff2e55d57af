//! Owes durable events to their targets, a bounded number of lanes at a time, so that an event with 100,000 targets
//! keeps neither the committer nor the lock around the dispatcher nor the ready queue from others (I4). What is left of
//! a large fan-out waits here for the next ticks, and accounts take turns. Every lane is owed its events in the order
//! published, so an event waits behind an earlier one that still has to reach one of its targets.
//!
//! Targets that depend on each other are owed together, before the others: a main delivery must not end before its
//! dependents are owed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;

use super::backlog::NewEvent;
use super::expiry::signed;
use super::lane_demand::AccountSlot;
use super::{Dispatcher, place};
use crate::subscription::SubscriptionId;

/// So many lanes of one event queue at once, and the next ones so much later. Other events of the account that arrive
/// while a large fan-out is delivered precede what is left of it, unless fewer than 100 deliveries/s start. A fan-out
/// of 100,000 waits at most 1,000 s for a flood of them.
const CHUNK: usize = 64;
const SPACING_US: u64 = 640_000;

/// How many lanes one step owes to at most: about 0.1 ms under the lock.
pub(crate) const FAN_OUT_LANES_MAX: usize = 256;

/// How many events with the same targets are owed together. A lane takes many events for little more than one.
const EVENTS_TOGETHER: usize = 256;

/// An event passes those that wait if there are at most so many, and if it has at most so many targets.
const PASSED_MAX: usize = 8;
const PASSING_TARGETS_MAX: usize = 64;

/// Events that become owed to the same targets.
#[derive(Debug)]
pub(crate) struct FanOut {
    /// In ascending order.
    events: SmallVec<[NewEvent; 1]>,
    /// In ascending order.
    targets: Arc<[SubscriptionId]>,
    reached: usize,
    /// Targets behind these that were owed before their turn, in ascending order.
    ahead: VecDeque<SubscriptionId>,
    has_begun: bool,
}

impl FanOut {
    /// Events, each with its sequence and the hash of its key, and targets, both in ascending order.
    pub(crate) fn new(
        events: impl IntoIterator<Item = (u64, u64)>,
        targets: Arc<[SubscriptionId]>,
    ) -> FanOut {
        debug_assert!(targets.is_sorted(), "look-ups depend on the order");
        let new = |(sequence, key_hash)| NewEvent { sequence, key_hash };
        let events = events.into_iter().map(new).collect();
        FanOut { events, targets, reached: 0, ahead: VecDeque::new(), has_begun: false }
    }

    fn rest(&self) -> &[SubscriptionId] {
        self.targets.get(self.reached..).unwrap_or_default()
    }

    fn awaits(&self, id: SubscriptionId) -> bool {
        self.rest().binary_search(&id).is_ok() && self.ahead.binary_search(&id).is_err()
    }

    fn awaiting(&self) -> impl Iterator<Item = SubscriptionId> {
        self.rest().iter().copied().filter(|id| self.ahead.binary_search(id).is_err())
    }

    fn is_done(&self) -> bool {
        self.rest().is_empty() && self.has_begun
    }

    fn deliveries(&self) -> u64 {
        ((self.rest().len() - self.ahead.len()) * self.events.len()) as u64
    }

    /// The next target, and whether it was owed before.
    fn next(&mut self) -> Option<(SubscriptionId, bool)> {
        let id = *self.rest().first()?;
        self.reached += 1;
        let is_ahead = self.ahead.front() == Some(&id);
        if is_ahead {
            self.ahead.pop_front();
        }
        Some((id, is_ahead))
    }

    fn runs(&self) -> impl Iterator<Item = &[NewEvent]> {
        self.events.chunk_by(|one, next| next.sequence == one.sequence + 1)
    }

    /// What the events cost a lane, in events. A run costs little more than one event, unless the lane is ordered.
    fn lane_cost(&self) -> usize {
        (self.runs().count() + self.events.len() / 16).max(1)
    }

    /// By how many microseconds the lane reached last queues behind the first lanes of the event.
    fn behind_us(&self) -> u64 {
        (self.reached.saturating_sub(1) / CHUNK) as u64 * SPACING_US
    }
}

/// Fan-outs that have not reached all of their targets, in the order of their events for each account.
#[derive(Debug, Default)]
pub(super) struct WaitingFanOuts {
    by_account: BTreeMap<AccountSlot, VecDeque<FanOut>>,
    turns: VecDeque<AccountSlot>,
    deliveries: u64,
}

impl WaitingFanOuts {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// How many deliveries are accepted and not yet owed to a lane.
    pub(super) fn deliveries(&self) -> u64 {
        self.deliveries
    }

    /// Whether an earlier event of the account has still to reach a target of this one.
    fn is_behind(&self, account: AccountSlot, fan_out: &FanOut) -> bool {
        let Some(before) = self.by_account.get(&account) else { return false };
        before.len() > PASSED_MAX
            || fan_out.targets.len() > PASSING_TARGETS_MAX
            || before.iter().any(|one| fan_out.targets.iter().any(|id| one.awaits(*id)))
    }

    fn push(&mut self, account: AccountSlot, fan_out: FanOut) {
        self.deliveries += fan_out.deliveries();
        let own = self.by_account.entry(account).or_default();
        if own.is_empty() {
            self.turns.push_back(account);
        }
        if let Some(last) = own.back_mut()
            && !last.has_begun
            && last.events.len() + fan_out.events.len() <= EVENTS_TOGETHER
            && last.targets == fan_out.targets
        {
            last.events.extend(fan_out.events);
            return;
        }
        own.push_back(fan_out);
    }

    /// Takes out the first fan-out of the account whose turn it is.
    fn pop(&mut self) -> Option<(AccountSlot, FanOut)> {
        let account = *self.turns.front()?;
        let fan_out = self.by_account.get_mut(&account)?.pop_front()?;
        self.deliveries -= fan_out.deliveries();
        Some((account, fan_out))
    }

    /// Ends the turn that [`pop`](Self::pop) began.
    fn put_back(&mut self, account: AccountSlot, fan_out: FanOut) {
        let own = self.by_account.entry(account).or_default();
        if !fan_out.is_done() {
            self.deliveries += fan_out.deliveries();
            own.push_front(fan_out);
        }
        self.turns.pop_front();
        match own.is_empty() {
            true => drop(self.by_account.remove(&account)),
            false => self.turns.push_back(account),
        }
    }
}

impl Dispatcher {
    /// Notes that all events up to a sequence are accepted. To be called before they are owed.
    pub(crate) fn note_accepted(&mut self, sequence: u64, now_ms: u64) {
        self.advance(now_ms);
        self.expiry.times.note(sequence, signed(self.now_ms));
    }

    /// Owes events of an account to their targets, to at most `lanes_max` of them now and to the others in later
    /// ticks. Returns to how many now. For most lanes many events cost about as much as one.
    pub(crate) fn owe(&mut self, account: &str, mut fan_out: FanOut, lanes_max: usize) -> usize {
        let account = self.account_index(account);
        if self.fan_outs.is_behind(account, &fan_out) {
            self.fan_outs.push(account, fan_out);
            return 0;
        }
        let reached = self.reach(&mut fan_out, lanes_max);
        if !fan_out.is_done() {
            self.fan_outs.push(account, fan_out);
        }
        reached
    }

    /// How many deliveries were cancelled since the last call, because their subscriptions were removed after the
    /// events were matched.
    pub(crate) fn take_cancelled(&mut self) -> u64 {
        std::mem::take(&mut self.cancelled)
    }

    pub(super) fn owe_waiting(&mut self) {
        let Some((account, mut fan_out)) = self.fan_outs.pop() else { return };
        let lanes_max = FAN_OUT_LANES_MAX.div_ceil(fan_out.lane_cost());
        self.reach(&mut fan_out, lanes_max);
        self.fan_outs.put_back(account, fan_out);
    }

    /// Owes to one lane what waits for it, before its turn: something is to be done with all that the lane is owed.
    pub(super) fn owe_ahead(&mut self, id: SubscriptionId) {
        let mut waiting = std::mem::take(&mut self.fan_outs);
        for own in waiting.by_account.values_mut() {
            if !own.iter().any(|fan_out| fan_out.awaits(id)) {
                continue;
            }
            for fan_out in own {
                waiting.deliveries -= fan_out.deliveries();
                self.begin(fan_out);
                self.owe_one_ahead(id, fan_out);
                waiting.deliveries += fan_out.deliveries();
            }
        }
        self.fan_outs = waiting;
    }

    fn owe_one_ahead(&mut self, id: SubscriptionId, fan_out: &mut FanOut) {
        if fan_out.awaits(id)
            && let Err(place) = fan_out.ahead.binary_search(&id)
        {
            fan_out.ahead.insert(place, id);
            self.owe_lane(id, fan_out);
            self.refresh(id);
        }
    }

    /// What waits to be owed of some events, by lane.
    pub(super) fn waiting_among(
        &self,
        wanted: impl Fn(u64) -> bool,
        mut found: impl FnMut(SubscriptionId, u64),
    ) {
        for fan_out in self.fan_outs.by_account.values().flatten() {
            for event in fan_out.events.iter().filter(|event| wanted(event.sequence)) {
                fan_out.awaiting().for_each(|id| found(id, event.sequence));
            }
        }
    }

    /// Owes the events to at most `lanes_max` of their targets. Returns to how many.
    fn reach(&mut self, fan_out: &mut FanOut, lanes_max: usize) -> usize {
        let mut reached = self.begin(fan_out);
        while reached < lanes_max
            && let Some((id, is_ahead)) = fan_out.next()
        {
            if is_ahead || !self.owe_lane(id, fan_out) {
                continue;
            }
            reached += 1;
            if let Some(lane) = self.lanes.get_mut(&id) {
                let (queue, resting) = (&mut self.ready_queue, &mut self.resting);
                place(lane, id, queue, resting, (self.now_ms, fan_out.behind_us()));
            }
        }
        reached
    }

    /// Owes the events to targets that depend on each other, unless that was done. Returns to how many.
    fn begin(&mut self, fan_out: &mut FanOut) -> usize {
        if std::mem::replace(&mut fan_out.has_begun, true) {
            return 0;
        }
        let related = self.related(&fan_out.targets);
        for id in &related {
            self.owe_lane(*id, fan_out);
        }
        for event in fan_out.events.iter().take_while(|_| !related.is_empty()) {
            self.hold_dependents(event.sequence, &related);
        }
        related.iter().for_each(|id| self.refresh(*id));
        let count = related.len();
        fan_out.ahead = related.into();
        count
    }

    /// Owes the events to one lane. Without the lane its deliveries are cancelled.
    fn owe_lane(&mut self, id: SubscriptionId, fan_out: &FanOut) -> bool {
        let Some(lane) = self.lanes.get_mut(&id) else {
            self.cancelled += fan_out.events.len() as u64;
            return false;
        };
        let new = fan_out.runs().map(|run| lane.backlog.owe_run(run)).sum::<u64>();
        self.owed += new;
        if lane.is_held() {
            self.held += new;
        }
        self.expiry.begin(lane, id, self.now_ms);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use roaring::RoaringTreemap;

    use super::*;
    use crate::attempt::{Attempt, DeliveryId, Outcome};
    use crate::dispatch::tests::{ACTIVE, WALL_MS, judged};
    use crate::dispatch::{DispatchLimits, StepContext};
    use crate::stats::LaneStats;
    use crate::subscription::Policy;

    const LIMITS: DispatchLimits =
        DispatchLimits { lane_in_flight_max: 4, in_flight_max: 32, threads: 1 };
    const OTHER: SubscriptionId = SubscriptionId(1_000_000);
    const NEIGHBOUR: SubscriptionId = SubscriptionId(1_000_001);

    /// `count` lanes of one account, one more of it, and one of a neighbour.
    fn dispatcher(count: u32) -> Dispatcher {
        let mut dispatcher = Dispatcher::new(LIMITS);
        let mut add = |id, account: &str| {
            dispatcher.set_lane(id, account, Policy::default(), ACTIVE, &HashMap::new());
        };
        (0..count).for_each(|id| add(SubscriptionId(id), "noisy"));
        add(OTHER, "noisy");
        add(NEIGHBOUR, "quiet");
        dispatcher
    }

    fn lanes(count: u32) -> Vec<SubscriptionId> {
        (0..count).map(SubscriptionId).collect()
    }

    /// Delivers one attempt after the other until one is to `until`; returns how many were before it. Each takes
    /// `each_ms`.
    fn served_before(
        dispatcher: &mut Dispatcher,
        until: SubscriptionId,
        now_ms: &mut u64,
        each_ms: u64,
    ) -> usize {
        for count in 0.. {
            let attempt: Attempt = dispatcher.next_attempt(*now_ms).expect("a lane is ready");
            *now_ms += each_ms;
            let context = StepContext { now_ms: *now_ms, wall_ms: WALL_MS, random: 0 };
            let _ = dispatcher.end(attempt, judged(Outcome::Delivered), context);
            if attempt.delivery.subscription == until {
                return count;
            }
        }
        unreachable!()
    }

    #[test]
    fn a_fan_out_delays_no_neighbour_and_no_other_event() {
        let mut dispatcher = dispatcher(20_000);
        let mut now_ms = 0;
        assert_eq!(dispatcher.accept(1, 0, &lanes(20_000)), 0);
        // A host that delivers 200/s: 28 s of the fan-out are behind it.
        let last = SubscriptionId(5_600);
        served_before(&mut dispatcher, last, &mut now_ms, 5);
        assert!(now_ms > 20_000, "{now_ms} ms");
        assert_eq!(dispatcher.accept(2, 0, &[NEIGHBOUR]), 0);
        let before = served_before(&mut dispatcher, NEIGHBOUR, &mut now_ms, 5);
        assert!(before <= 2, "{before} attempts before the neighbour's");
        assert_eq!(dispatcher.accept(3, 0, &[OTHER]), 0);
        assert_eq!(dispatcher.accept(4, 0, &[NEIGHBOUR]), 0);
        let before = served_before(&mut dispatcher, OTHER, &mut now_ms, 5);
        assert!(before <= 2 * CHUNK, "{before} attempts before the other event of the account");
        // An event for the lane that the fan-out put last.
        assert_eq!(dispatcher.accept(5, 0, &[SubscriptionId(19_999)]), 0);
        let before = served_before(&mut dispatcher, SubscriptionId(19_999), &mut now_ms, 5);
        assert!(before <= 2 * CHUNK, "{before} attempts before the event of the last lane");
        assert!(dispatcher.owed() > 14_000, "most of the fan-out is still owed");
    }

    /// A large event of the noisy account that has reached its first lanes.
    fn large(dispatcher: &mut Dispatcher, sequence: u64, targets: &[SubscriptionId]) {
        let fan_out = FanOut::new([(sequence, 0)], targets.into());
        let reached = dispatcher.owe("noisy", fan_out, FAN_OUT_LANES_MAX);
        assert!(reached <= FAN_OUT_LANES_MAX, "one step is bounded");
    }

    fn owed_of(dispatcher: &Dispatcher, id: SubscriptionId) -> Vec<u64> {
        let lane = dispatcher.lanes.get(&id).unwrap();
        lane.backlog.sequences().into_iter().collect()
    }

    #[test]
    fn a_large_fan_out_leaves_the_next_group_its_turn() {
        let mut dispatcher = dispatcher(10_000);
        let targets = lanes(10_000);
        for sequence in 1..=20 {
            large(&mut dispatcher, sequence, &targets);
        }
        let small = FanOut::new([(21, 0)], [NEIGHBOUR].into());
        assert_eq!(dispatcher.owe("quiet", small, FAN_OUT_LANES_MAX), 1, "at once");
        assert_eq!(dispatcher.owed(), 20 * 10_000 + 1, "what waits is owed");
        let mut steps = 0;
        while !dispatcher.fan_outs.is_empty() {
            assert_eq!(dispatcher.next_wake_ms(), Some(0));
            dispatcher.tick(0);
            steps += 1;
        }
        assert!(steps < 2_000, "{steps} steps: events to the same lanes are owed together");
        assert_eq!(owed_of(&dispatcher, SubscriptionId(9_999)), (1..=20).collect::<Vec<u64>>());
        assert_eq!((dispatcher.owed(), dispatcher.take_cancelled()), (20 * 10_000 + 1, 0));
    }

    #[test]
    fn a_lane_is_owed_its_events_in_their_order() {
        let mut dispatcher = dispatcher(1_000);
        let last = SubscriptionId(999);
        large(&mut dispatcher, 1, &lanes(1_000));
        assert_eq!(dispatcher.owe("noisy", FanOut::new([(2, 0)], [last].into()), 9), 0);
        assert!(owed_of(&dispatcher, last).is_empty(), "event 1 comes first");
        let passing = FanOut::new([(3, 0)], [SubscriptionId(0), OTHER].into());
        assert_eq!(dispatcher.owe("noisy", passing, 9), 2, "its lanes were reached");
        for _ in 0..20 {
            dispatcher.tick(0);
        }
        assert_eq!(owed_of(&dispatcher, last), [1, 2]);
        assert_eq!(owed_of(&dispatcher, SubscriptionId(0)), [1, 3]);
    }

    #[test]
    fn what_waits_is_found_with_what_a_lane_owes() {
        let mut dispatcher = dispatcher(1_000);
        let (listed, removed, last) =
            (SubscriptionId(700), SubscriptionId(800), SubscriptionId(999));
        large(&mut dispatcher, 1, &lanes(1_000));
        large(&mut dispatcher, 2, &lanes(1_000));
        assert_eq!(dispatcher.listed(listed, 0, |_| true, 9).len(), 2);
        assert_eq!(dispatcher.remove_lane(removed).len(), 2, "cancelled with its lane");
        let delivery = DeliveryId { sequence: 2, subscription: last };
        assert!(dispatcher.cancel(delivery, WALL_MS).is_some());
        let events: RoaringTreemap = [1, 2, 3].into_iter().collect();
        let owed = dispatcher.owed_among(&events);
        assert_eq!((owed.len(), owed[&last].len(), owed[&listed].len()), (999, 1, 2));
        assert_eq!(owed[&SubscriptionId(998)], dispatcher.owed_sequences());
        for _ in 0..20 {
            dispatcher.tick(0);
        }
        assert_eq!((dispatcher.owed(), dispatcher.take_cancelled()), (999 * 2 - 1, 0));
        assert_eq!(
            (owed_of(&dispatcher, last), owed_of(&dispatcher, listed)),
            (vec![1], vec![1, 2])
        );
    }

    #[test]
    fn dependents_are_owed_with_their_main() {
        let count = u32::try_from(FAN_OUT_LANES_MAX).unwrap() + 10;
        let mut dispatcher = dispatcher(count);
        // The last lane waits for the first one.
        let (main, dependent) = (SubscriptionId(0), SubscriptionId(count - 1));
        let waits = Policy { after: Some(main), ..Policy::default() };
        dispatcher.set_lane(dependent, "noisy", waits, ACTIVE, &HashMap::new());
        large(&mut dispatcher, 1, &lanes(count));
        assert_eq!(
            (owed_of(&dispatcher, main), owed_of(&dispatcher, dependent)),
            (vec![1], vec![1])
        );
        let mut now_ms = 0;
        dispatcher.tick(0);
        let first = dispatcher.next_attempt(now_ms).unwrap();
        assert_eq!(first.delivery.subscription, main);
        served_before(&mut dispatcher, SubscriptionId(count - 2), &mut now_ms, 0);
        let is_blocked = |lane: &LaneStats| lane.subscription == dependent && lane.blocked == 1;
        assert!(dispatcher.lane_stats(0).iter().any(is_blocked));
    }
}
