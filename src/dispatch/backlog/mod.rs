//! The deliveries that a lane owes, and which of them may start. An owed delivery is in exactly one place: pending
//! (never tried, may start), blocked (never tried, held back), in retry (waiting, due, or held back), or in flight
//! for the first time. So none is lost and none is tried twice at once.

mod ages;
mod queries;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use roaring::RoaringTreemap;

use self::ages::ReplayTimes;
use super::order::Order;
use crate::attempt::Reason;
use crate::subscription::Ordering;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    ordering: Ordering,
    pending: CountedSet,
    blocked: CountedSet,
    /// Deliveries that failed, in whatever place they are now.
    retries: BTreeMap<u64, Retrying>,
    /// Those of these whose wait is over. The dispatcher's timer reports each of them once.
    waited: RoaringTreemap,
    /// Of these, those that may start, in the order in which they became due.
    due: VecDeque<u64>,
    in_flight: Vec<u64>,
    /// Deliveries that were cancelled in flight, until their attempts end.
    cancelled: Vec<u64>,
    /// Whether an ordering began meanwhile. Their keys may be purged with their events, so nothing starts until the
    /// attempts have ended.
    awaits_cancelled: bool,
    order: Order,
    /// Replayed by the host, so exempt from the ordering.
    exempt: HashSet<u64>,
    replays: ReplayTimes,
    /// Deliveries whose main delivery is not settled yet.
    awaiting_main: RoaringTreemap,
    /// Key hashes of events owed since the host asked for an ordering that is not in force yet.
    noted: Option<HashMap<u64, u64>>,
}

/// A set that knows its size, which a bitmap would have to count. A delivery that succeeds at the first attempt
/// costs its bit here and no more.
#[derive(Debug, Default)]
struct CountedSet {
    set: RoaringTreemap,
    len: u64,
}

impl CountedSet {
    fn insert(&mut self, sequence: u64) -> bool {
        let new = self.set.insert(sequence);
        self.len += u64::from(new);
        new
    }

    fn remove(&mut self, sequence: u64) -> bool {
        let removed = self.set.remove(sequence);
        self.len -= u64::from(removed);
        removed
    }

    fn take(&mut self) -> RoaringTreemap {
        self.len = 0;
        std::mem::take(&mut self.set)
    }

    fn extend(&mut self, sequences: RoaringTreemap) {
        self.set |= sequences;
        self.len = self.set.len();
    }
}

/// An event that becomes owed.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewEvent {
    pub(super) sequence: u64,
    /// 0 for no key.
    pub(super) key_hash: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retrying {
    pub(super) attempts: u32,
    /// From when its age counts: its acceptance or its replay, in monotonic time.
    pub(super) counts_from_ms: i64,
    pub(super) at_ms: u64,
    pub(super) due_ms: u64,
}

/// What the end of an attempt means for its delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Disposition {
    /// No longer owed: the receiver has it.
    Delivered,
    /// No longer owed: given up.
    Dead(Reason),
    Retry(Retrying),
    /// Waits until it is due again; the attempt does not count.
    Postponed(Retrying),
    /// Back to the state before the attempt; the attempt does not count.
    Unchanged,
}

/// How deliveries enter.
impl Backlog {
    /// Owes a delivery that was never tried. Returns whether it was not owed before.
    pub(super) fn owe(&mut self, sequence: u64, key_hash: u64) -> bool {
        if self.owes(sequence) {
            return false;
        }
        if let Some(noted) = &mut self.noted {
            noted.insert(sequence, key_hash);
        }
        self.join(sequence, key_hash);
        if self.is_held_back(sequence) {
            self.blocked.insert(sequence)
        } else {
            self.pending.insert(sequence)
        }
    }

    /// Owes the deliveries of consecutive events as [`owe`](Self::owe) does. Returns how many were not owed before.
    pub(super) fn owe_run(&mut self, events: &[NewEvent]) -> u64 {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return 0 };
        let sequences = first.sequence..=last.sequence;
        let is_plain = self.ordering == Ordering::None && self.noted.is_none();
        let is_known = self.blocked.len > 0
            || self.retries.range(sequences.clone()).next().is_some()
            || self.in_flight.iter().any(|sequence| sequences.contains(sequence));
        if !is_plain || is_known {
            let new = events.iter().filter(|event| self.owe(event.sequence, event.key_hash));
            return new.count() as u64;
        }
        if events.len() == 1 {
            // Inserting one number costs a fifth of inserting a range of one.
            return u64::from(self.pending.insert(first.sequence));
        }
        let new = self.pending.set.insert_range(sequences);
        self.pending.len += new;
        new
    }

    /// Owes a dead letter again, outside of the order. Returns whether it was not owed before.
    pub(super) fn owe_again(&mut self, sequence: u64, at_ms: i64) -> bool {
        let new = !self.owes(sequence) && self.pending.insert(sequence);
        if new && self.ordering != Ordering::None {
            self.exempt.insert(sequence);
        }
        if new {
            self.replays.note(sequence, at_ms);
        }
        new
    }

    /// Counts the age of an owed delivery from its replay.
    pub(super) fn note_replay(&mut self, sequence: u64, at_ms: i64) {
        self.replays.note(sequence, at_ms);
    }

    /// Owes many deliveries that were never tried. Returns how many were not owed before.
    pub(super) fn owe_all(&mut self, sequences: RoaringTreemap, keys: &HashMap<u64, u64>) -> u64 {
        let before = self.owed();
        if before == 0 && self.ordering == Ordering::None {
            self.pending.extend(sequences);
        } else {
            for sequence in sequences {
                self.owe(sequence, keys.get(&sequence).copied().unwrap_or(0));
            }
        }
        self.owed() - before
    }

    /// Owes a delivery that failed before. Returns whether it is new among those that failed, and
    /// whether it was not owed before.
    pub(super) fn owe_retry(
        &mut self,
        sequence: u64,
        retrying: Retrying,
        key_hash: u64,
    ) -> (bool, bool) {
        if self.retries.contains_key(&sequence) || self.is_in_flight(sequence) {
            return (false, false);
        }
        let was_owed = self.pending.remove(sequence) || self.blocked.remove(sequence);
        self.retries.insert(sequence, retrying);
        self.join(sequence, key_hash);
        (true, !was_owed)
    }

    /// Queues a delivery behind those of its key, if the lane is ordered.
    fn join(&mut self, sequence: u64, key_hash: u64) {
        match self.line_of(key_hash) {
            Some(line) if self.is_in_flight(sequence) => self.order.join_ahead(sequence, line),
            Some(line) => self.order.join(sequence, line),
            None => {}
        }
    }

    fn line_of(&self, key_hash: u64) -> Option<u64> {
        match self.ordering {
            Ordering::Strict => Some(0),
            Ordering::PerKey => Some(key_hash).filter(|key_hash| *key_hash != 0),
            Ordering::None => None,
        }
    }

    /// Records the key hashes of events owed from now on, because an ordering is about to be set. Returns the
    /// deliveries that are already owed, whose key hashes must be looked up.
    pub(super) fn note_keys(&mut self) -> RoaringTreemap {
        self.noted.get_or_insert_default();
        self.sequences()
    }

    /// Changes the ordering, also for what is already owed. `keys` has the key hashes of what was owed before they
    /// were noted; a delivery named nowhere has no key.
    pub(super) fn set_ordering(&mut self, ordering: Ordering, keys: &HashMap<u64, u64>) {
        let noted = self.noted.take().unwrap_or_default();
        if ordering == self.ordering {
            return;
        }
        self.ordering = ordering;
        self.awaits_cancelled = ordering != Ordering::None && !self.cancelled.is_empty();
        self.order = Order::default();
        let mut never_tried = self.pending.take();
        never_tried |= self.blocked.take();
        self.due.clear();
        // An attempt in flight holds its key, even if another event of the key was published before.
        let waiting: Vec<u64> = self.sequences().into_iter().chain(&never_tried).collect();
        let waiting: RoaringTreemap =
            waiting.into_iter().filter(|sequence| !self.is_in_flight(*sequence)).collect();
        for sequence in self.in_flight.clone().into_iter().chain(&waiting) {
            let key_hash = keys.get(&sequence).or_else(|| noted.get(&sequence));
            if !self.exempt.contains(&sequence) {
                self.join(sequence, key_hash.copied().unwrap_or(0));
            }
        }
        self.blocked.extend(never_tried);
        waiting.iter().for_each(|sequence| self.release(sequence));
    }
}

/// Deliveries that wait for another subscription's.
impl Backlog {
    /// Holds a delivery that was never tried until [`release_dependent`](Self::release_dependent).
    pub(super) fn hold(&mut self, sequence: u64) {
        if self.pending.remove(sequence) {
            self.blocked.insert(sequence);
        }
        if self.blocked.set.contains(sequence) {
            self.awaiting_main.insert(sequence);
        } else if self.is_postponed(sequence) {
            self.awaiting_main.insert(sequence);
            self.due.retain(|due| *due != sequence);
        }
    }

    /// Holds back those of the sequences that were never tried.
    pub(super) fn hold_among(&mut self, sequences: &RoaringTreemap) {
        let mut never_tried = &self.pending.set & sequences;
        never_tried |= &self.blocked.set & sequences;
        let postponed = self.retries.keys().filter(|sequence| self.is_postponed(**sequence));
        never_tried.extend(postponed.filter(|sequence| sequences.contains(**sequence)).copied());
        never_tried.iter().for_each(|sequence| self.hold(sequence));
    }

    /// Whether a delivery waits for its first attempt to be repeated, because that did not count.
    fn is_postponed(&self, sequence: u64) -> bool {
        self.retries.get(&sequence).is_some_and(|retrying| retrying.attempts == 0)
            && !self.is_in_flight(sequence)
    }

    /// Releases a delivery whose main delivery is settled.
    pub(super) fn release_dependent(&mut self, sequence: u64) {
        if self.awaiting_main.remove(sequence) {
            self.release(sequence);
        }
    }

    pub(super) fn release_all_dependents(&mut self) {
        for sequence in std::mem::take(&mut self.awaiting_main) {
            self.release(sequence);
        }
    }

    pub(super) fn awaits_main(&self, sequence: u64) -> bool {
        self.awaiting_main.contains(sequence)
    }

    /// Gives up a delivery whose main delivery was given up. Returns whether it waited for it.
    pub(super) fn give_up_dependent(&mut self, sequence: u64) -> bool {
        if !self.awaiting_main.remove(sequence) {
            return false;
        }
        if !self.blocked.remove(sequence) && self.retries.remove(&sequence).is_none() {
            return false;
        }
        self.forget(sequence);
        true
    }
}

/// How deliveries start and end.
impl Backlog {
    /// Takes the next delivery, with the number of its attempt; it is then in flight. Retries go before first
    /// attempts, which start only while fewer than `retrying_max` deliveries are in retry.
    pub(super) fn take_next(&mut self, retrying_max: u32) -> Option<(u64, u32)> {
        if self.awaits_cancelled {
            return None;
        }
        let next = match self.due.pop_front() {
            Some(sequence) => {
                let attempts = self.retries.get(&sequence).map_or(0, |retrying| retrying.attempts);
                (sequence, attempts.saturating_add(1))
            }
            None if self.first_attempts(retrying_max) == 0 => return None,
            None => {
                let sequence = self.pending.set.min()?;
                self.pending.remove(sequence);
                (sequence, 1)
            }
        };
        self.in_flight.push(next.0);
        Some(next)
    }

    pub(super) fn ready(&self, retrying_max: u32) -> usize {
        if self.awaits_cancelled {
            return 0;
        }
        self.due.len().saturating_add(self.first_attempts(retrying_max))
    }

    fn first_attempts(&self, retrying_max: u32) -> usize {
        let many = self.retries.len() as u64 >= u64::from(retrying_max);
        // If all are held back behind one that was never tried, that one must start, or none ever would.
        if many && self.retries.keys().any(|sequence| !self.is_held_back(*sequence)) {
            return 0;
        }
        usize::try_from(self.pending.len).unwrap_or(usize::MAX)
    }

    /// Ends what [`take_next`](Self::take_next) began.
    pub(super) fn put(&mut self, sequence: u64, disposition: &Disposition) {
        if let Some(at) = self.in_flight.iter().position(|one| *one == sequence) {
            self.in_flight.swap_remove(at);
        } else {
            self.cancelled.retain(|one| *one != sequence);
            self.awaits_cancelled &= !self.cancelled.is_empty();
        }
        self.order.land(sequence);
        match disposition {
            Disposition::Delivered | Disposition::Dead(_) => self.forget(sequence),
            Disposition::Retry(retrying) | Disposition::Postponed(retrying) => {
                self.waited.remove(sequence);
                self.retries.insert(sequence, *retrying);
            }
            Disposition::Unchanged => self.put_back(sequence),
        }
    }

    fn put_back(&mut self, sequence: u64) {
        match (self.retries.contains_key(&sequence), self.is_held_back(sequence)) {
            (true, false) => self.due.push_front(sequence),
            // It starts when its turn in its key comes.
            (true, true) => {}
            (false, false) => drop(self.pending.insert(sequence)),
            (false, true) => drop(self.blocked.insert(sequence)),
        }
    }

    /// Cancels a delivery. Returns whether it was owed. One in flight holds its key until [`put`](Self::put).
    pub(super) fn cancel(&mut self, sequence: u64) -> bool {
        if let Some(at) = self.in_flight.iter().position(|one| *one == sequence) {
            self.in_flight.swap_remove(at);
            self.cancelled.push(sequence);
            self.retries.remove(&sequence);
            self.waited.remove(sequence);
            self.replays.forget(sequence);
            return true;
        }
        let never_tried = self.pending.remove(sequence) || self.blocked.remove(sequence);
        let was_owed = never_tried || self.retries.contains_key(&sequence);
        if was_owed {
            self.awaiting_main.remove(sequence);
            if !never_tried {
                self.due.retain(|due| *due != sequence);
            }
            self.forget(sequence);
        }
        was_owed
    }

    /// A delivery is no longer owed, so the next one of its key may start.
    fn forget(&mut self, sequence: u64) {
        self.replays.forget(sequence);
        self.retries.remove(&sequence);
        self.waited.remove(sequence);
        self.exempt.remove(&sequence);
        if let Some(next) = self.order.withdraw(sequence) {
            self.release(next);
        }
    }

    /// The wait of a delivery that failed is over.
    pub(super) fn fall_due(&mut self, sequence: u64) {
        // A dependent may have been given up while it waited.
        if !self.retries.contains_key(&sequence) {
            return;
        }
        self.waited.insert(sequence);
        if !self.is_held_back(sequence) {
            self.due.push_back(sequence);
        }
    }

    /// Lets a delivery start that is not in flight, unless something else holds it back.
    fn release(&mut self, sequence: u64) {
        if self.is_held_back(sequence) || self.is_in_flight(sequence) {
            return;
        }
        if self.blocked.remove(sequence) {
            self.pending.insert(sequence);
        } else if self.waited.contains(sequence) {
            self.due.push_back(sequence);
        }
    }

    fn is_held_back(&self, sequence: u64) -> bool {
        self.awaiting_main.contains(sequence) || self.order.is_parked(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(backlog: &mut Backlog) -> Vec<u64> {
        std::iter::from_fn(|| backlog.take_next(10)).map(|(sequence, _)| sequence).collect()
    }

    fn owing(ordering: Ordering, keyed: &[(u64, u64)]) -> Backlog {
        let mut backlog = Backlog::default();
        backlog.set_ordering(ordering, &HashMap::new());
        keyed.iter().for_each(|(sequence, key)| assert!(backlog.owe(*sequence, *key)));
        backlog
    }

    fn waits(due_ms: u64) -> Disposition {
        Disposition::Retry(Retrying { attempts: 1, counts_from_ms: 0, at_ms: 0, due_ms })
    }

    const KEYED: &[(u64, u64)] = &[(1, 7), (2, 7), (3, 8), (4, 0), (5, 7), (6, 0)];

    #[test]
    fn each_ordering_starts_what_it_promises() {
        for (ordering, expected) in [
            (Ordering::None, vec![1, 2, 3, 4, 5, 6]),
            (Ordering::PerKey, vec![1, 3, 4, 6]),
            (Ordering::Strict, vec![1]),
        ] {
            let mut backlog = owing(ordering, KEYED);
            assert_eq!(taken(&mut backlog), expected, "{ordering:?}");
            assert_eq!(backlog.owed(), 6);
        }
    }

    #[test]
    fn a_failing_delivery_blocks_only_its_key() {
        let mut backlog = owing(Ordering::PerKey, KEYED);
        taken(&mut backlog);
        backlog.put(1, &waits(50));
        backlog.put(3, &Disposition::Delivered);
        assert_eq!((taken(&mut backlog), backlog.blocked()), (vec![], 2));
        backlog.fall_due(1);
        assert_eq!(taken(&mut backlog), [1]);
        backlog.put(1, &Disposition::Delivered);
        assert_eq!(taken(&mut backlog), [2]);
        backlog.put(2, &Disposition::Unchanged);
        assert_eq!(taken(&mut backlog), [2]);
        backlog.put(2, &Disposition::Delivered);
        assert_eq!(taken(&mut backlog), [5]);
    }

    #[test]
    fn an_ordering_that_begins_includes_all_that_is_owed() {
        let mut backlog = owing(Ordering::None, &[(1, 7), (2, 7), (3, 7), (4, 8)]);
        assert_eq!(taken(&mut backlog), [1, 2, 3, 4]);
        backlog.put(1, &waits(5));
        backlog.put(3, &Disposition::Unchanged);
        backlog.put(4, &Disposition::Delivered);
        backlog.fall_due(1);
        let keys = backlog.note_keys().into_iter().map(|sequence| (sequence, 7)).collect();
        assert!(backlog.owe(5, 8) && backlog.owe(6, 8));
        backlog.set_ordering(Ordering::PerKey, &keys);
        assert_eq!(taken(&mut backlog), [5]);
        backlog.put(2, &Disposition::Delivered);
        assert_eq!(taken(&mut backlog), [1], "due since, and parked until now");
        backlog.put(1, &Disposition::Delivered);
        assert_eq!(taken(&mut backlog), [3]);
        backlog.set_ordering(Ordering::None, &HashMap::new());
        assert_eq!((taken(&mut backlog), backlog.owed()), (vec![6], 3));
    }

    #[test]
    fn a_dependent_starts_in_order_when_its_main_is_settled() {
        let mut backlog = owing(Ordering::PerKey, KEYED);
        backlog.hold_among(&[1, 2, 3].into_iter().collect());
        assert_eq!(taken(&mut backlog), [4, 6]);
        backlog.release_dependent(2);
        assert!(taken(&mut backlog).is_empty(), "its key waits for 1");
        assert!(backlog.give_up_dependent(1) && !backlog.give_up_dependent(2));
        assert_eq!(taken(&mut backlog), [2]);
        backlog.release_all_dependents();
        assert_eq!((taken(&mut backlog), backlog.owed()), (vec![3], 5));
    }

    #[test]
    fn a_wait_is_over_only_when_its_timer_tells() {
        let mut backlog = owing(Ordering::None, &[(1, 7), (9, 8)]);
        assert_eq!(backlog.take_next(10), Some((1, 1)));
        backlog.put(1, &waits(50));
        backlog.set_ordering(Ordering::Strict, &HashMap::new());
        assert!(taken(&mut backlog).is_empty(), "its timer has said nothing yet");
        backlog.fall_due(1);
        assert_eq!(taken(&mut backlog), [1]);
        backlog.put(1, &Disposition::Delivered);
        assert_eq!((taken(&mut backlog), backlog.owed()), (vec![9], 1));
    }

    #[test]
    fn an_ordering_begins_with_the_earliest_delivery() {
        let failed = Retrying { attempts: 1, counts_from_ms: 0, at_ms: 0, due_ms: 5 };
        let mut backlog = Backlog::default();
        assert!(backlog.owe(2, 0) && backlog.owe(4, 0));
        assert_eq!(backlog.owe_retry(3, failed, 0), (true, true));
        assert_eq!(backlog.owe_retry(1, failed, 0), (true, true));
        backlog.set_ordering(Ordering::Strict, &HashMap::new());
        [3, 1].into_iter().for_each(|sequence| backlog.fall_due(sequence));
        for sequence in 1..=4 {
            assert_eq!(taken(&mut backlog), [sequence]);
            backlog.put(sequence, &Disposition::Delivered);
        }
    }

    #[test]
    fn a_parked_retry_does_not_block_the_first_attempt_before_it() {
        let failed = Retrying { attempts: 1, counts_from_ms: 0, at_ms: 0, due_ms: 5 };
        let mut backlog = Backlog::default();
        assert!(backlog.owe(1, 7) && backlog.owe(3, 8));
        assert_eq!(backlog.owe_retry(2, failed, 7), (true, true));
        assert_eq!(backlog.ready(1), 0, "as many failed as may");
        let keys = HashMap::from([(1, 7), (2, 7), (3, 8)]);
        backlog.set_ordering(Ordering::PerKey, &keys);
        backlog.fall_due(2);
        assert_eq!(backlog.take_next(1), Some((1, 1)));
        backlog.put(1, &Disposition::Delivered);
        assert_eq!(backlog.take_next(1), Some((2, 2)));
        assert_eq!(backlog.take_next(1), None, "the bystander's first attempt waits");
    }

    #[test]
    fn an_ordering_that_begins_waits_for_all_in_flight() {
        let mut backlog = owing(Ordering::None, &[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]);
        let begun: Vec<_> = (0..3).filter_map(|_| backlog.take_next(10)).collect();
        assert_eq!(begun, [(1, 1), (2, 1), (3, 1)]);
        backlog.set_ordering(Ordering::Strict, &HashMap::new());
        backlog.put(3, &Disposition::Delivered);
        backlog.put(1, &Disposition::Delivered);
        assert!(taken(&mut backlog).is_empty(), "2 is in flight");
        backlog.put(2, &waits(5));
        assert!(taken(&mut backlog).is_empty(), "2 is before them still");
        backlog.fall_due(2);
        for sequence in [2, 4, 5] {
            assert_eq!(taken(&mut backlog), [sequence]);
            backlog.put(sequence, &Disposition::Delivered);
        }
    }

    #[test]
    fn an_ordering_that_begins_waits_for_cancelled_attempts() {
        for ordering in [Ordering::PerKey, Ordering::Strict] {
            let mut backlog = owing(Ordering::None, &[(1, 7), (2, 7)]);
            assert_eq!(backlog.take_next(10), Some((1, 1)));
            assert!(backlog.cancel(1));
            backlog.set_ordering(ordering, &HashMap::from([(2, 7)]));
            assert_eq!((backlog.ready(10), taken(&mut backlog)), (0, vec![]), "{ordering:?}");
            backlog.put(1, &Disposition::Delivered);
            assert_eq!((backlog.ready(10), taken(&mut backlog)), (1, vec![2]), "{ordering:?}");
        }
    }

    #[test]
    fn a_postponed_dependent_holds_no_first_attempt() {
        let mut backlog = owing(Ordering::None, &[(1, 0), (2, 0)]);
        assert_eq!(backlog.take_next(1), Some((1, 1)));
        let postponed = Retrying { attempts: 0, counts_from_ms: 0, at_ms: 0, due_ms: 5 };
        backlog.put(1, &Disposition::Postponed(postponed));
        assert_eq!(backlog.take_next(1), None);
        backlog.hold(1);
        assert_eq!(backlog.take_next(1), Some((2, 1)), "its main delivery may take hours");
    }

    #[test]
    fn a_postponed_first_attempt_is_like_one_never_made() {
        let mut backlog = owing(Ordering::None, &[(1, 0), (2, 0)]);
        assert_eq!(taken(&mut backlog), [1, 2]);
        let postponed = Retrying { attempts: 0, counts_from_ms: 0, at_ms: 0, due_ms: 5 };
        for sequence in [1, 2] {
            backlog.put(sequence, &Disposition::Postponed(postponed));
        }
        backlog.fall_due(1);
        backlog.hold_among(&[1, 2].into_iter().collect());
        backlog.fall_due(2);
        assert!(taken(&mut backlog).is_empty());
        assert!(backlog.give_up_dependent(1));
        backlog.fall_due(1);
        backlog.release_dependent(2);
        assert_eq!((backlog.take_next(10), backlog.owed()), (Some((2, 1)), 1));
    }

    #[test]
    fn a_replay_is_exempt_from_the_ordering() {
        let mut backlog = owing(Ordering::Strict, &[(5, 0), (6, 0)]);
        assert!(backlog.owe_again(1, 0) && !backlog.owe_again(1, 0));
        assert_eq!(taken(&mut backlog), [1, 5]);
        backlog.put(1, &Disposition::Delivered);
        assert!(taken(&mut backlog).is_empty());
        backlog.put(5, &Disposition::Delivered);
        assert_eq!(taken(&mut backlog), [6]);
    }

    #[test]
    fn too_many_retries_hold_first_attempts() {
        let mut backlog = owing(Ordering::None, KEYED);
        for _ in 0..2 {
            let (sequence, number) = backlog.take_next(2).unwrap();
            assert_eq!(number, 1);
            backlog.put(sequence, &waits(5));
        }
        assert_eq!((backlog.take_next(2), backlog.ready(2), backlog.ready(3)), (None, 0, 4));
        backlog.fall_due(1);
        assert_eq!(backlog.take_next(2), Some((1, 2)));
    }

    #[test]
    fn a_recovered_delivery_keeps_its_place_in_its_key() {
        let mut backlog = owing(Ordering::PerKey, &[]);
        let retrying = Retrying { attempts: 3, counts_from_ms: 0, at_ms: 0, due_ms: 9 };
        assert_eq!(backlog.owe_retry(4, retrying, 7), (true, true));
        let keys = HashMap::from([(4, 7), (5, 7), (6, 8)]);
        assert_eq!(backlog.owe_all([4, 5, 6].into_iter().collect(), &keys), 2);
        assert_eq!((taken(&mut backlog), backlog.owed()), (vec![6], 3));
        backlog.fall_due(4);
        assert_eq!(backlog.take_next(9), Some((4, 4)));
    }
}
