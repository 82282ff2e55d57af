//! Owes durable events to their targets, part by part, so that an event with 100,000 targets holds neither the lock
//! around the dispatcher nor the ready queue while others wait (I4).
//!
//! Targets that depend on each other are owed together, with the first part: a main delivery must not end before its
//! dependents are owed. Ordering by key needs no more, because all events of a lane are owed in their order.

use std::ops::RangeInclusive;

use super::expiry::signed;
use super::{Dispatcher, place};
use crate::subscription::SubscriptionId;

/// So many lanes of one event queue at once, and the next ones so much later. Other events of the account that arrive
/// while a large fan-out is delivered precede what is left of it, unless fewer than 100 deliveries/s start. A fan-out
/// of 100,000 waits at most 1,000 s for a flood of them.
const CHUNK: usize = 64;
const SPACING_US: u64 = 640_000;

/// How many targets are owed at once.
const PART_MAX: usize = 4_096;

/// Events of consecutive sequences that become owed to the same targets.
#[derive(Debug)]
pub(crate) struct FanOut<'a> {
    sequences: RangeInclusive<u64>,
    key_hashes: &'a [u64],
    targets: &'a [SubscriptionId],
    /// How many of the targets were taken.
    taken: usize,
    /// The targets that depend on each other, ascending; `None` before the first part.
    related: Option<Vec<SubscriptionId>>,
}

impl<'a> FanOut<'a> {
    pub(crate) fn new(
        sequences: RangeInclusive<u64>,
        key_hashes: &'a [u64],
        targets: &'a [SubscriptionId],
    ) -> FanOut<'a> {
        FanOut { sequences, key_hashes, targets, taken: 0, related: None }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.taken >= self.targets.len() && self.related.is_some()
    }
}

impl Dispatcher {
    /// Notes that all events up to a sequence are accepted. To be called before they are owed.
    pub(crate) fn note_accepted(&mut self, sequence: u64, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.expiry.times.note(sequence, signed(self.now_ms));
    }

    /// Owes the next part of a fan-out. Returns how many deliveries are cancelled, because their subscriptions were
    /// removed after the events were matched. For most lanes a run of events costs about as much as one event.
    #[must_use = "a cancelled delivery is counted"]
    pub(crate) fn owe_part(&mut self, fan_out: &mut FanOut<'_>) -> u64 {
        let (count, mut missing) = (fan_out.sequences.clone().count() as u64, 0);
        let related = match fan_out.related.take() {
            Some(related) => related,
            None => {
                let related = self.related(fan_out.targets);
                missing += self.owe_together(fan_out, &related);
                related
            }
        };
        let first = fan_out.taken;
        let rest = fan_out.targets.get(first..).unwrap_or_default();
        for (position, id) in rest.iter().enumerate().take(PART_MAX) {
            fan_out.taken += 1;
            if related.binary_search(id).is_ok() {
                continue;
            }
            if !self.owe_lane(*id, fan_out) {
                missing += 1;
                continue;
            }
            let behind_us = ((first + position) / CHUNK) as u64 * SPACING_US;
            if let Some(lane) = self.lanes.get_mut(id) {
                let (queue, resting) = (&mut self.ready_queue, &mut self.resting);
                place(lane, *id, queue, resting, (self.now_ms, behind_us));
            }
        }
        fan_out.related = Some(related);
        missing * count
    }

    /// Owes the events to targets that depend on each other. Returns how many of the targets were removed.
    fn owe_together(&mut self, fan_out: &FanOut<'_>, related: &[SubscriptionId]) -> u64 {
        let missing = related.iter().filter(|id| !self.owe_lane(**id, fan_out)).count();
        for sequence in fan_out.sequences.clone().take_while(|_| !related.is_empty()) {
            self.hold_dependents(sequence, related);
        }
        related.iter().for_each(|id| self.refresh(*id));
        missing as u64
    }

    /// Owes the events to one lane, if it exists.
    fn owe_lane(&mut self, id: SubscriptionId, fan_out: &FanOut<'_>) -> bool {
        let Some(lane) = self.lanes.get_mut(&id) else { return false };
        let new = lane.backlog.owe_run(fan_out.sequences.clone(), fan_out.key_hashes);
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

    use super::*;
    use crate::attempt::Attempt;
    use crate::dispatch::tests::{ACTIVE, WALL_MS, judged};
    use crate::dispatch::{DispatchLimits, StepContext};
    use crate::outcome::Outcome;
    use crate::subscription::Policy;

    const LIMITS: DispatchLimits = DispatchLimits { lane_in_flight_max: 4, in_flight_max: 32 };
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
    fn a_fan_out_delays_neither_a_neighbour_nor_another_event_of_its_account() {
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

    #[test]
    fn a_fan_out_is_owed_in_parts_also_with_dependencies() {
        let count = u32::try_from(PART_MAX).unwrap() + 10;
        let mut dispatcher = dispatcher(count);
        // The last lane waits for the first one.
        let (main, dependent) = (SubscriptionId(0), SubscriptionId(count - 1));
        let waits = Policy { after: Some(main), ..Policy::default() };
        dispatcher.set_lane(dependent, "noisy", waits, ACTIVE, &HashMap::new());
        let targets = lanes(count);
        let mut fan_out = FanOut::new(1..=1, &[0], &targets);
        assert_eq!(dispatcher.owe_part(&mut fan_out), 0);
        assert!(!fan_out.is_done());
        assert_eq!(dispatcher.owed(), PART_MAX as u64 + 1, "the dependent is owed with its main");
        let _ = dispatcher.remove_lane(SubscriptionId(count - 2));
        assert_eq!(dispatcher.owe_part(&mut fan_out), 1, "a lane removed in between is cancelled");
        assert!(fan_out.is_done());
        assert_eq!(dispatcher.owed(), u64::from(count) - 1);
        let mut now_ms = 0;
        let first = dispatcher.next_attempt(now_ms).unwrap();
        assert_eq!(first.delivery.subscription, main);
        served_before(&mut dispatcher, SubscriptionId(count - 3), &mut now_ms, 0);
        assert!(
            dispatcher
                .lane_stats(0)
                .iter()
                .any(|lane| lane.subscription == dependent && lane.blocked == 1)
        );
    }
}
