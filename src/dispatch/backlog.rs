//! Decides which deliveries a lane owes, and which of them may start.
//!
//! Leaves to others: how many start and how an attempt ends (`lane`), which goes before which within
//! a key (`order`), the timers (`Dispatcher`). Invariant: an owed delivery is in exactly one place:
//! pending (never tried, may start), blocked (never tried, held back), in retry (waiting, due, or
//! held back), or under way for the first time; so none is lost and none is tried twice at once.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::RangeInclusive;

use roaring::RoaringTreemap;

use super::order::Order;
use super::{Listed, Stage};
use crate::subscription::Ordering;

/// What one lane owes.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    ordering: Ordering,
    pending: Counted,
    blocked: Counted,
    /// Deliveries that failed, wherever they are now.
    retries: BTreeMap<u64, Retrying>,
    /// Of these, the ones whose wait is over, as the dispatcher's timer said: it says so once.
    waited: RoaringTreemap,
    /// Of these, the ones that may start, in the order in which their time came.
    due: VecDeque<u64>,
    /// What is being tried.
    under_way: Vec<u64>,
    order: Order,
    /// Replayed by the host: outside of the order.
    exempt: HashSet<u64>,
    /// Deliveries whose main one is not settled yet.
    gated: RoaringTreemap,
    /// Keys of what is owed since the host asked for an order that is not in force yet.
    noted: Option<HashMap<u64, u64>>,
}

/// A set that knows its size: the bitmap would count itself by walking its containers. A delivery
/// that succeeds at once costs its bit here and no more.
#[derive(Debug, Default)]
struct Counted {
    set: RoaringTreemap,
    len: u64,
}

impl Counted {
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

/// A delivery that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retrying {
    pub(super) attempts: u32,
    /// Its age at `at_ms`, counted from its first attempt.
    pub(super) age_ms: u64,
    pub(super) at_ms: u64,
    pub(super) due_ms: u64,
}

/// Where an attempt that was taken out ends up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// No longer owed.
    Ended,
    /// In retry, until it is due.
    Waits(Retrying),
    /// Where it was before the attempt.
    Again,
}

/// What comes in.
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

    /// Owes consecutive deliveries as [`owe`](Self::owe) does. Returns how many were not owed before.
    pub(super) fn owe_run(&mut self, sequences: RangeInclusive<u64>, key_hashes: &[u64]) -> u64 {
        let is_plain = self.ordering == Ordering::None && self.noted.is_none();
        let is_known = self.blocked.len > 0
            || self.retries.range(sequences.clone()).next().is_some()
            || self.under_way.iter().any(|sequence| sequences.contains(sequence));
        if !is_plain || is_known {
            let keyed = sequences.zip(key_hashes);
            return keyed.filter(|(sequence, key_hash)| self.owe(*sequence, **key_hash)).count()
                as u64;
        }
        let new = self.pending.set.insert_range(sequences);
        self.pending.len += new;
        new
    }

    /// Owes a dead letter again, outside of the order. Returns whether it was not owed before.
    pub(super) fn owe_again(&mut self, sequence: u64) -> bool {
        let new = !self.owes(sequence) && self.pending.insert(sequence);
        if new && self.ordering != Ordering::None {
            self.exempt.insert(sequence);
        }
        new
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
        if self.retries.contains_key(&sequence) || self.is_under_way(sequence) {
            return (false, false);
        }
        let was_owed = self.pending.remove(sequence) || self.blocked.remove(sequence);
        self.retries.insert(sequence, retrying);
        self.join(sequence, key_hash);
        (true, !was_owed)
    }

    /// Puts a delivery into its line, where the lane keeps an order.
    fn join(&mut self, sequence: u64, key_hash: u64) {
        match self.line_of(key_hash) {
            Some(line) if self.is_under_way(sequence) => self.order.join_ahead(sequence, line),
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

    /// Notes the keys of what is owed from now on, for an order to come. Returns what is owed already,
    /// whose keys must be looked up.
    pub(super) fn note_keys(&mut self) -> RoaringTreemap {
        self.noted.get_or_insert_default();
        self.sequences()
    }

    /// Puts everything owed into the lines of another order, or lets it out of them. `keys` says the
    /// key of what was owed before they were noted; what is named nowhere has none.
    pub(super) fn set_ordering(&mut self, ordering: Ordering, keys: &HashMap<u64, u64>) {
        let noted = self.noted.take().unwrap_or_default();
        if ordering == self.ordering {
            return;
        }
        self.ordering = ordering;
        self.order = Order::default();
        let mut never_tried = self.pending.take();
        never_tried |= self.blocked.take();
        self.due.clear();
        // What is under way holds its line, also where another of its key was published before.
        let waiting: Vec<u64> = self.sequences().into_iter().chain(&never_tried).collect();
        let waiting: RoaringTreemap =
            waiting.into_iter().filter(|sequence| !self.is_under_way(*sequence)).collect();
        for sequence in self.under_way.clone().into_iter().chain(&waiting) {
            let key_hash = keys.get(&sequence).or_else(|| noted.get(&sequence));
            if !self.exempt.contains(&sequence) {
                self.join(sequence, key_hash.copied().unwrap_or(0));
            }
        }
        self.blocked.extend(never_tried);
        waiting.iter().for_each(|sequence| self.release(sequence));
    }
}

/// What is held back by another subscription.
impl Backlog {
    /// Holds a delivery that was never tried back until [`open`](Self::open).
    pub(super) fn gate(&mut self, sequence: u64) {
        if self.pending.remove(sequence) {
            self.blocked.insert(sequence);
        }
        if self.blocked.set.contains(sequence) {
            self.gated.insert(sequence);
        }
    }

    /// Of these, holds back what was never tried.
    pub(super) fn gate_among(&mut self, sequences: &RoaringTreemap) {
        let mut never_tried = &self.pending.set & sequences;
        never_tried |= &self.blocked.set & sequences;
        never_tried.iter().for_each(|sequence| self.gate(sequence));
    }

    /// Lets a delivery go whose main one is settled.
    pub(super) fn open(&mut self, sequence: u64) {
        if self.gated.remove(sequence) {
            self.release(sequence);
        }
    }

    /// Lets everything go that waits for a main one.
    pub(super) fn open_all(&mut self) {
        for sequence in std::mem::take(&mut self.gated) {
            self.release(sequence);
        }
    }

    pub(super) fn is_gated(&self, sequence: u64) -> bool {
        self.gated.contains(sequence)
    }

    /// Ends a delivery whose main one was given up. Returns whether it had waited for it.
    pub(super) fn give_up_gated(&mut self, sequence: u64) -> bool {
        if !self.gated.remove(sequence) || !self.blocked.remove(sequence) {
            return false;
        }
        self.exempt.remove(&sequence);
        if let Some(next) = self.order.withdraw(sequence) {
            self.release(next);
        }
        true
    }
}

/// What goes out and comes back.
impl Backlog {
    /// The next delivery, with the number of its attempt; it is under way from then on. What failed
    /// before goes before what was never tried, and that only where fewer than `retrying_max` failed.
    pub(super) fn take_next(&mut self, retrying_max: u32) -> Option<(u64, u32)> {
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
        self.under_way.push(next.0);
        Some(next)
    }

    /// How many deliveries may start.
    pub(super) fn ready(&self, retrying_max: u32) -> usize {
        self.due.len().saturating_add(self.first_attempts(retrying_max))
    }

    fn first_attempts(&self, retrying_max: u32) -> usize {
        let many = self.retries.len() as u64 >= u64::from(retrying_max);
        // Those that are parked wait for one that was never tried: it must go, or none ever does.
        if many && self.retries.keys().any(|sequence| !self.order.is_parked(*sequence)) {
            return 0;
        }
        usize::try_from(self.pending.len).unwrap_or(usize::MAX)
    }

    /// Ends what [`take_next`](Self::take_next) began.
    pub(super) fn put(&mut self, sequence: u64, place: Place) {
        if let Some(at) = self.under_way.iter().position(|one| *one == sequence) {
            self.under_way.swap_remove(at);
        }
        self.order.land(sequence);
        match place {
            Place::Ended => self.forget(sequence),
            Place::Waits(retrying) => {
                self.waited.remove(sequence);
                self.retries.insert(sequence, retrying);
            }
            Place::Again => self.put_back(sequence),
        }
    }

    fn put_back(&mut self, sequence: u64) {
        match (self.retries.contains_key(&sequence), self.is_held_back(sequence)) {
            (true, false) => self.due.push_front(sequence),
            // Its line comes to it.
            (true, true) => {}
            (false, false) => drop(self.pending.insert(sequence)),
            (false, true) => drop(self.blocked.insert(sequence)),
        }
    }

    /// A delivery is no longer owed: the next one of its key may go.
    fn forget(&mut self, sequence: u64) {
        self.retries.remove(&sequence);
        self.waited.remove(sequence);
        self.exempt.remove(&sequence);
        if let Some(next) = self.order.withdraw(sequence) {
            self.release(next);
        }
    }

    /// A delivery that failed has waited its time.
    pub(super) fn fall_due(&mut self, sequence: u64) {
        self.waited.insert(sequence);
        if !self.is_held_back(sequence) {
            self.due.push_back(sequence);
        }
    }

    /// Puts a delivery that is not under way where it may start from, unless it is held back still.
    fn release(&mut self, sequence: u64) {
        if self.is_held_back(sequence) || self.is_under_way(sequence) {
            return;
        }
        if self.blocked.remove(sequence) {
            self.pending.insert(sequence);
        } else if self.waited.contains(sequence) {
            self.due.push_back(sequence);
        }
    }

    fn is_held_back(&self, sequence: u64) -> bool {
        self.gated.contains(sequence) || self.order.is_parked(sequence)
    }
}

/// What is asked of it.
impl Backlog {
    /// Deliveries owed, at any stage.
    pub(super) fn owed(&self) -> u64 {
        let first_attempts = self.under_way.len() - self.retries_under_way();
        self.pending.len + self.blocked.len + self.retries.len() as u64 + first_attempts as u64
    }

    /// Whether a delivery is owed, at any stage.
    pub(super) fn owes(&self, sequence: u64) -> bool {
        self.pending.set.contains(sequence)
            || self.blocked.set.contains(sequence)
            || self.retries.contains_key(&sequence)
            || self.is_under_way(sequence)
    }

    /// The sequences of everything that is owed.
    pub(super) fn sequences(&self) -> RoaringTreemap {
        let mut sequences = &self.pending.set | &self.blocked.set;
        sequences.extend(self.retries.keys().chain(&self.under_way).copied());
        sequences
    }

    /// Of these sequences, the ones that are owed.
    pub(super) fn owed_among(&self, sequences: &RoaringTreemap) -> RoaringTreemap {
        let mut owed = &self.pending.set & sequences;
        owed |= &self.blocked.set & sequences;
        let others = self.retries.keys().chain(&self.under_way).copied();
        owed.extend(others.filter(|sequence| sequences.contains(*sequence)));
        owed
    }

    /// A delivery that failed.
    pub(super) fn retrying(&self, sequence: u64) -> Option<&Retrying> {
        self.retries.get(&sequence)
    }

    /// The deliveries that failed, each with what is known of it.
    pub(super) fn retries(&self) -> impl Iterator<Item = (u64, &Retrying)> {
        self.retries.iter().map(|(sequence, retrying)| (*sequence, retrying))
    }

    /// Deliveries that failed and are not being tried.
    pub(super) fn waiting(&self) -> u64 {
        (self.retries.len() - self.retries_under_way()) as u64
    }

    /// Deliveries never tried that are held back.
    pub(super) fn blocked(&self) -> u64 {
        self.blocked.len
    }

    /// What is owed from a sequence on, in the order published, at the stages that are wanted. What was
    /// never tried and is not held back here is at the stage `never_tried`.
    pub(super) fn listed(
        &self,
        from: u64,
        never_tried: Stage,
        wanted: impl Fn(Stage) -> bool,
        count_max: usize,
    ) -> Vec<Listed> {
        let mut listed = Vec::new();
        let mut add = |stage: Stage, sequences: &mut dyn Iterator<Item = u64>| {
            if wanted(stage) {
                let next = sequences.filter(|sequence| *sequence >= from).take(count_max);
                listed.extend(next.map(|sequence| Listed { sequence, stage }));
            }
        };
        let (mut pending, mut blocked) = (self.pending.set.iter(), self.blocked.set.iter());
        pending.advance_to(from);
        blocked.advance_to(from);
        add(never_tried, &mut pending);
        add(Stage::Blocked, &mut blocked);
        let mut first: Vec<u64> = self.under_way.clone();
        first.retain(|sequence| !self.retries.contains_key(sequence));
        add(Stage::Owed, &mut first.into_iter());
        let failed = |(sequence, retrying): (&u64, &Retrying)| {
            let Retrying { attempts, due_ms, .. } = *retrying;
            Listed { sequence: *sequence, stage: Stage::Retrying { attempts, due_ms } }
        };
        if wanted(Stage::Retrying { attempts: 0, due_ms: 0 }) {
            listed.extend(self.retries.range(from..).map(failed).take(count_max));
        }
        listed.sort_unstable_by_key(|one| one.sequence);
        listed.truncate(count_max);
        listed
    }

    fn retries_under_way(&self) -> usize {
        self.under_way.iter().filter(|sequence| self.retries.contains_key(sequence)).count()
    }

    fn is_under_way(&self, sequence: u64) -> bool {
        self.under_way.contains(&sequence)
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

    fn waits(due_ms: u64) -> Place {
        Place::Waits(Retrying { attempts: 1, age_ms: 0, at_ms: 0, due_ms })
    }

    const KEYED: &[(u64, u64)] = &[(1, 7), (2, 7), (3, 8), (4, 0), (5, 7), (6, 0)];

    #[test]
    fn each_ordering_lets_start_what_it_promises() {
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
    fn a_failing_delivery_blocks_its_key_alone_until_it_ends() {
        let mut backlog = owing(Ordering::PerKey, KEYED);
        taken(&mut backlog);
        backlog.put(1, waits(50));
        backlog.put(3, Place::Ended);
        assert_eq!((taken(&mut backlog), backlog.blocked()), (vec![], 2));
        backlog.fall_due(1);
        assert_eq!(taken(&mut backlog), [1]);
        backlog.put(1, Place::Ended);
        assert_eq!(taken(&mut backlog), [2]);
        backlog.put(2, Place::Again);
        assert_eq!(taken(&mut backlog), [2]);
        backlog.put(2, Place::Ended);
        assert_eq!(taken(&mut backlog), [5]);
    }

    #[test]
    fn an_order_that_begins_with_a_backlog_takes_in_what_is_under_way_failed_and_noted() {
        let mut backlog = owing(Ordering::None, &[(1, 7), (2, 7), (3, 7), (4, 8)]);
        assert_eq!(taken(&mut backlog), [1, 2, 3, 4]);
        backlog.put(1, waits(5));
        backlog.put(3, Place::Again);
        backlog.put(4, Place::Ended);
        backlog.fall_due(1);
        let keys = backlog.note_keys().into_iter().map(|sequence| (sequence, 7)).collect();
        assert!(backlog.owe(5, 8) && backlog.owe(6, 8));
        backlog.set_ordering(Ordering::PerKey, &keys);
        assert_eq!(taken(&mut backlog), [5]);
        backlog.put(2, Place::Ended);
        assert_eq!(taken(&mut backlog), [1], "due since, and parked until now");
        backlog.put(1, Place::Ended);
        assert_eq!(taken(&mut backlog), [3]);
        backlog.set_ordering(Ordering::None, &HashMap::new());
        assert_eq!((taken(&mut backlog), backlog.owed()), (vec![6], 3));
    }

    #[test]
    fn what_waits_for_a_main_delivery_starts_when_that_is_settled_and_in_its_order() {
        let mut backlog = owing(Ordering::PerKey, KEYED);
        backlog.gate_among(&[1, 2, 3].into_iter().collect());
        assert_eq!(taken(&mut backlog), [4, 6]);
        backlog.open(2);
        assert!(taken(&mut backlog).is_empty(), "its key waits for 1");
        assert!(backlog.give_up_gated(1) && !backlog.give_up_gated(2));
        assert_eq!(taken(&mut backlog), [2]);
        backlog.open_all();
        assert_eq!((taken(&mut backlog), backlog.owed()), (vec![3], 5));
    }

    #[test]
    fn a_wait_that_is_over_before_its_timer_says_so_leads_to_one_attempt() {
        let mut backlog = owing(Ordering::None, &[(1, 7), (9, 8)]);
        assert_eq!(backlog.take_next(10), Some((1, 1)));
        backlog.put(1, waits(50));
        backlog.set_ordering(Ordering::Strict, &HashMap::new());
        assert!(taken(&mut backlog).is_empty(), "its timer has said nothing yet");
        backlog.fall_due(1);
        assert_eq!(taken(&mut backlog), [1]);
        backlog.put(1, Place::Ended);
        assert_eq!((taken(&mut backlog), backlog.owed()), (vec![9], 1));
    }

    #[test]
    fn an_order_over_what_failed_and_what_was_never_tried_begins_with_the_earliest() {
        let failed = Retrying { attempts: 1, age_ms: 0, at_ms: 0, due_ms: 5 };
        let mut backlog = Backlog::default();
        assert!(backlog.owe(2, 0) && backlog.owe(4, 0));
        assert_eq!(backlog.owe_retry(3, failed, 0), (true, true));
        assert_eq!(backlog.owe_retry(1, failed, 0), (true, true));
        backlog.set_ordering(Ordering::Strict, &HashMap::new());
        [3, 1].into_iter().for_each(|sequence| backlog.fall_due(sequence));
        for sequence in 1..=4 {
            assert_eq!(taken(&mut backlog), [sequence]);
            backlog.put(sequence, Place::Ended);
        }
    }

    #[test]
    fn what_failed_and_is_parked_behind_one_never_tried_does_not_keep_it_from_starting() {
        let failed = Retrying { attempts: 1, age_ms: 0, at_ms: 0, due_ms: 5 };
        let mut backlog = Backlog::default();
        assert!(backlog.owe(1, 7) && backlog.owe(3, 8));
        assert_eq!(backlog.owe_retry(2, failed, 7), (true, true));
        assert_eq!(backlog.ready(1), 0, "as many failed as may");
        let keys = HashMap::from([(1, 7), (2, 7), (3, 8)]);
        backlog.set_ordering(Ordering::PerKey, &keys);
        backlog.fall_due(2);
        assert_eq!(backlog.take_next(1), Some((1, 1)));
        backlog.put(1, Place::Ended);
        assert_eq!(backlog.take_next(1), Some((2, 2)));
        assert_eq!(backlog.take_next(1), None, "the bystander's first attempt waits");
    }

    #[test]
    fn an_order_that_begins_waits_for_all_that_is_under_way() {
        let mut backlog = owing(Ordering::None, &[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]);
        let begun: Vec<_> = (0..3).filter_map(|_| backlog.take_next(10)).collect();
        assert_eq!(begun, [(1, 1), (2, 1), (3, 1)]);
        backlog.set_ordering(Ordering::Strict, &HashMap::new());
        backlog.put(3, Place::Ended);
        backlog.put(1, Place::Ended);
        assert!(taken(&mut backlog).is_empty(), "2 is under way");
        backlog.put(2, waits(5));
        assert!(taken(&mut backlog).is_empty(), "2 is before them still");
        backlog.fall_due(2);
        for sequence in [2, 4, 5] {
            assert_eq!(taken(&mut backlog), [sequence]);
            backlog.put(sequence, Place::Ended);
        }
    }

    #[test]
    fn a_replay_goes_outside_of_the_order() {
        let mut backlog = owing(Ordering::Strict, &[(5, 0), (6, 0)]);
        assert!(backlog.owe_again(1) && !backlog.owe_again(1));
        assert_eq!(taken(&mut backlog), [1, 5]);
        backlog.put(1, Place::Ended);
        assert!(taken(&mut backlog).is_empty());
        backlog.put(5, Place::Ended);
        assert_eq!(taken(&mut backlog), [6]);
    }

    #[test]
    fn with_too_many_in_retry_none_is_tried_for_the_first_time() {
        let mut backlog = owing(Ordering::None, KEYED);
        for _ in 0..2 {
            let (sequence, number) = backlog.take_next(2).unwrap();
            assert_eq!(number, 1);
            backlog.put(sequence, waits(5));
        }
        assert_eq!((backlog.take_next(2), backlog.ready(2), backlog.ready(3)), (None, 0, 4));
        backlog.fall_due(1);
        assert_eq!(backlog.take_next(2), Some((1, 2)));
    }

    #[test]
    fn what_is_recovered_keeps_its_place_in_the_line() {
        let mut backlog = owing(Ordering::PerKey, &[]);
        let retrying = Retrying { attempts: 3, age_ms: 0, at_ms: 0, due_ms: 9 };
        assert_eq!(backlog.owe_retry(4, retrying, 7), (true, true));
        let keys = HashMap::from([(4, 7), (5, 7), (6, 8)]);
        assert_eq!(backlog.owe_all([4, 5, 6].into_iter().collect(), &keys), 2);
        assert_eq!((taken(&mut backlog), backlog.owed()), (vec![6], 3));
        backlog.fall_due(4);
        assert_eq!(backlog.take_next(9), Some((4, 4)));
    }
}
