//! An index of the dead letters that are kept: when each was written, and which generation holds it.
//!
//! The number and the age of dead letters never exceed their bounds. The oldest of an account are dropped first, and
//! where all accounts together have too many, those of the account with the most: no account loses a letter because
//! of a neighbour that has more. The caller learns which were dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::{Bound, RangeBounds as _};

use roaring::RoaringTreemap;

use super::accounts::events::{AccountRef, AccountRefs};
use crate::attempt::DeliveryId;

/// The sort key of a dead letter: when its delivery was given up, in milliseconds since the Unix epoch, and the
/// delivery.
pub(super) type LetterPosition = (u64, DeliveryId);

/// The dead letters, oldest first.
#[derive(Debug, Default)]
pub(super) struct DeadLetterIndex {
    count_max: usize,
    age_max_ms: u64,
    /// With the generation that holds each record.
    kept: BTreeMap<LetterPosition, u64>,
    /// When each delivery was given up, and whose it is once [`trim`](DeadLetterIndex::trim) has looked that up.
    owners: HashMap<DeliveryId, LetterOwner>,
    /// The letters of each account, oldest first.
    by_account: HashMap<AccountRef, BTreeSet<LetterPosition>>,
    /// Letters whose account was not looked up yet.
    unsorted: Vec<LetterPosition>,
    /// The letters replayed last, as they were.
    revived: VecDeque<(DeliveryId, LetterOwner)>,
    /// The number of letters in each generation.
    counts: HashMap<u64, u64>,
}

#[derive(Debug, Clone, Copy)]
struct LetterOwner {
    at_wall_ms: u64,
    account: Option<AccountRef>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DroppedLetter {
    pub(super) delivery: DeliveryId,
    pub(super) account: AccountRef,
}

/// Knows the account of each event, and how many dead letters an account may keep.
pub(super) trait LetterAccounts {
    fn account_of(&self, sequence: u64) -> AccountRef;
    fn letters_max(&self, account: AccountRef) -> usize;
}

impl DeadLetterIndex {
    pub(super) fn new(count_max: usize, age_max_ms: u64) -> DeadLetterIndex {
        DeadLetterIndex { count_max, age_max_ms, ..DeadLetterIndex::default() }
    }

    /// Adds a letter whose record is in `generation`, or updates the generation of a copied one.
    pub(super) fn keep(&mut self, at_wall_ms: u64, delivery: DeliveryId, generation: u64) {
        let before = self.kept.insert((at_wall_ms, delivery), generation);
        self.uncount(before);
        let known = self.owners.get(&delivery).filter(|owner| owner.at_wall_ms == at_wall_ms);
        if known.is_none() {
            self.owners.insert(delivery, LetterOwner { at_wall_ms, account: None });
            self.unsorted.push((at_wall_ms, delivery));
        }
        *self.counts.entry(generation).or_default() += 1;
    }

    /// Drops the letters that are over the bounds and returns them, by account.
    pub(super) fn trim(
        &mut self,
        wall_ms: u64,
        accounts: &impl LetterAccounts,
    ) -> Vec<DroppedLetter> {
        let changed = self.sort(accounts);
        let mut dropped = Vec::new();
        let oldest_at_ms = wall_ms.saturating_sub(self.age_max_ms);
        while let Some((position, _)) = self.kept.first_key_value()
            && position.0 < oldest_at_ms
        {
            dropped.extend(self.drop_letter(*position));
        }
        for account in changed {
            while let Some(letters) = self.by_account.get(&account)
                && letters.len() > accounts.letters_max(account)
                && let Some(oldest) = letters.first()
            {
                dropped.extend(self.drop_letter(*oldest));
            }
        }
        while self.kept.len() > self.count_max
            && let Some(letters) = self.by_account.values().max_by_key(|letters| letters.len())
            && let Some(oldest) = letters.first()
        {
            dropped.extend(self.drop_letter(*oldest));
        }
        dropped.sort_by_key(|letter| letter.account);
        dropped
    }

    /// Looks up the accounts of new letters and returns these accounts.
    fn sort(&mut self, accounts: &impl LetterAccounts) -> BTreeSet<AccountRef> {
        let mut changed = BTreeSet::new();
        for (at_wall_ms, delivery) in std::mem::take(&mut self.unsorted) {
            let owner = self.owners.get_mut(&delivery);
            let Some(owner) = owner.filter(|owner| owner.at_wall_ms == at_wall_ms) else {
                continue;
            };
            let account = accounts.account_of(delivery.sequence);
            owner.account = Some(account);
            self.by_account.entry(account).or_default().insert((at_wall_ms, delivery));
            changed.insert(account);
        }
        changed
    }

    /// Removes a letter, because a bound is reached or its record is lost.
    pub(super) fn drop_letter(&mut self, position: LetterPosition) -> Option<DroppedLetter> {
        let (_, delivery) = position;
        let owner = self.owners.remove(&delivery)?;
        let account = owner.account.unwrap_or_default();
        self.leave_account(position, account);
        let generation = self.kept.remove(&position);
        self.uncount(generation);
        Some(DroppedLetter { delivery, account })
    }

    fn leave_account(&mut self, position: LetterPosition, account: AccountRef) {
        let Some(letters) = self.by_account.get_mut(&account) else { return };
        letters.remove(&position);
        if letters.is_empty() {
            self.by_account.remove(&account);
        }
    }

    pub(super) fn count_of(&self, account: AccountRef) -> usize {
        self.by_account.get(&account).map_or(0, BTreeSet::len)
    }

    /// The letters of some events: when each was written, its delivery and its generation.
    pub(super) fn of_events(&self, sequences: &RoaringTreemap) -> Vec<(u64, DeliveryId, u64)> {
        let theirs = self.kept.iter().filter(|((_, d), _)| sequences.contains(d.sequence));
        theirs.map(|((at_wall_ms, delivery), holder)| (*at_wall_ms, *delivery, *holder)).collect()
    }

    /// Removes a letter because its delivery is owed again. Returns when the delivery was given up, and the
    /// generation of the record.
    pub(super) fn take(&mut self, delivery: DeliveryId) -> Option<(u64, u64)> {
        let owner = self.owners.remove(&delivery)?;
        let LetterOwner { at_wall_ms, account } = owner;
        self.leave_account((at_wall_ms, delivery), account.unwrap_or_default());
        let generation = self.kept.remove(&(at_wall_ms, delivery))?;
        self.uncount(Some(generation));
        self.revived.push_back((delivery, owner));
        if self.revived.len() > self.count_max {
            self.revived.pop_front();
        }
        Some((at_wall_ms, generation))
    }

    /// The newest letters before a position, or the newest of all. Those of some accounts are found at the cost of
    /// theirs alone.
    pub(super) fn before(
        &self,
        position: Option<LetterPosition>,
        accounts: Option<&AccountRefs>,
        count_max: usize,
    ) -> Vec<LetterPosition> {
        let older = (Bound::Unbounded, position.map_or(Bound::Unbounded, Bound::Excluded));
        let Some(accounts) = accounts else {
            let all = self.kept.range(older).rev();
            return all.take(count_max).map(|(position, _)| *position).collect();
        };
        let theirs = accounts.iter().filter_map(|account| self.by_account.get(account));
        let theirs = theirs.flat_map(|letters| letters.range(older).rev().take(count_max));
        // They may be anybody's.
        let unsorted = self.unsorted.iter().filter(|one| older.contains(*one) && self.is_kept(one));
        let found: BTreeSet<_> = theirs.chain(unsorted).copied().collect();
        found.into_iter().rev().take(count_max).collect()
    }

    fn is_kept(&self, position: &LetterPosition) -> bool {
        self.kept.contains_key(position)
    }

    /// The position of a letter that may be of one of these accounts. Recently replayed letters have one too, because
    /// a caller may replay the first pages of a list while it reads the next.
    pub(super) fn position_of(
        &self,
        delivery: DeliveryId,
        accounts: Option<&AccountRefs>,
    ) -> Option<LetterPosition> {
        let revived = || self.revived.iter().rev().find(|(letter, _)| *letter == delivery);
        let owner = self.owners.get(&delivery).or_else(|| revived().map(|(_, owner)| owner))?;
        let account = owner.account.unwrap_or_default();
        let is_theirs = accounts.is_none_or(|accounts| accounts.may_include(account));
        is_theirs.then_some((owner.at_wall_ms, delivery))
    }

    pub(super) fn holder_of(&self, delivery: DeliveryId) -> Option<u64> {
        let at_wall_ms = self.owners.get(&delivery)?.at_wall_ms;
        self.kept.get(&(at_wall_ms, delivery)).copied()
    }

    pub(super) fn count_in(&self, generation: u64) -> u64 {
        self.counts.get(&generation).copied().unwrap_or(0)
    }

    pub(super) fn len(&self) -> u64 {
        self.kept.len() as u64
    }

    fn uncount(&mut self, generation: Option<u64>) {
        if let Some(count) = generation.and_then(|generation| self.counts.get_mut(&generation)) {
            *count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::SubscriptionId;

    fn delivery(sequence: u64) -> DeliveryId {
        DeliveryId { sequence, subscription: SubscriptionId(1) }
    }

    /// The events of the letters in a generation.
    fn inside(letters: &DeadLetterIndex, generation: u64) -> Vec<u64> {
        let all = letters.of_events(&(0..100).collect());
        all.iter().filter(|letter| letter.2 == generation).map(|(_, d, _)| d.sequence).collect()
    }

    /// Events below 1,000 are of one account and the others of another, of which each may keep so many letters.
    struct TwoAccounts(usize);

    const ACME: AccountRef = AccountRef::new(1);
    const BETA: AccountRef = AccountRef::new(2);

    impl LetterAccounts for TwoAccounts {
        fn account_of(&self, sequence: u64) -> AccountRef {
            if sequence < 1_000 { ACME } else { BETA }
        }

        fn letters_max(&self, _: AccountRef) -> usize {
            self.0
        }
    }

    fn trim(letters: &mut DeadLetterIndex, wall_ms: u64) -> Vec<u64> {
        let dropped = letters.trim(wall_ms, &TwoAccounts(4));
        dropped.into_iter().map(|letter| letter.delivery.sequence).collect()
    }

    #[test]
    fn the_oldest_letters_are_dropped_by_number_and_by_age() {
        let mut letters = DeadLetterIndex::new(3, 1_000);
        (1..=5).for_each(|n| letters.keep(n * 100, delivery(n), 1));
        assert_eq!(trim(&mut letters, 500), [1, 2]);
        assert_eq!(inside(&letters, 1), [3, 4, 5]);
        assert_eq!(trim(&mut letters, 1_350), [3]);
        assert_eq!(inside(&letters, 1), [4, 5]);
        assert_eq!(trim(&mut letters, 1_350), [0; 0]);
    }

    #[test]
    fn an_account_over_its_bound_loses_its_own_letters() {
        let mut letters = DeadLetterIndex::new(100, 100_000);
        letters.keep(1, delivery(1_000), 1);
        (1..=6).for_each(|n| letters.keep(n * 100, delivery(n), 1));
        assert_eq!(trim(&mut letters, 600), [1, 2]);
        assert_eq!((letters.count_of(ACME), letters.count_of(BETA)), (4, 1));
        letters.take(delivery(3));
        letters.keep(700, delivery(7), 1);
        assert_eq!(trim(&mut letters, 700), [0; 0], "a letter that was taken made room");
    }

    #[test]
    fn the_account_with_the_most_letters_loses_at_the_bound() {
        let mut letters = DeadLetterIndex::new(4, 100_000);
        (1_000..1_002).for_each(|n| letters.keep(1, delivery(n), 1));
        for n in 1..=100 {
            letters.keep(n * 100, delivery(n), 1);
            trim(&mut letters, n * 100);
        }
        assert_eq!(
            letters.of_events(&(1_000..1_002).collect()).len(),
            2,
            "the neighbour keeps its own"
        );
        assert_eq!(letters.len(), 4);
    }

    #[test]
    fn a_copied_letter_is_only_in_its_new_generation() {
        let mut letters = DeadLetterIndex::new(3, 1_000);
        letters.keep(5, delivery(1), 1);
        letters.keep(6, delivery(2), 1);
        letters.keep(5, delivery(1), 2);
        assert_eq!((inside(&letters, 1), inside(&letters, 2)), (vec![2], vec![1]));
        assert_eq!((letters.count_in(1), letters.count_in(2)), (1, 1));
    }

    #[test]
    fn paging_continues_after_a_replayed_letter() {
        let mut letters = DeadLetterIndex::new(3, 1_000);
        (1..=3).for_each(|n| letters.keep(n * 100, delivery(n), 1));
        let page = letters.before(None, None, 2);
        assert_eq!(page, [(300, delivery(3)), (200, delivery(2))]);
        assert_eq!(letters.take(delivery(2)), Some((200, 1)));
        assert_eq!(letters.holder_of(delivery(2)), None);
        let after = letters.position_of(delivery(2), None).unwrap();
        assert_eq!(letters.before(Some(after), None, 2), [(100, delivery(1))]);
        assert_eq!(letters.position_of(delivery(9), None), None);
        assert_eq!(letters.holder_of(delivery(3)), Some(1));
        for n in 10..20 {
            letters.keep(n * 100, delivery(n), 1);
            letters.take(delivery(n));
        }
        assert_eq!(letters.position_of(delivery(2), None), None, "what is remembered is bounded");
    }

    #[test]
    fn a_list_of_an_account_has_no_other_letters() {
        let mut letters = DeadLetterIndex::new(100, 100_000);
        (1..=3).for_each(|n| letters.keep(n * 100, delivery(n), 1));
        letters.keep(250, delivery(1_000), 1);
        trim(&mut letters, 400);
        let (acme, beta) = (AccountRefs::new(vec![ACME]), AccountRefs::new(vec![BETA]));
        let newest = letters.before(None, Some(&acme), 2);
        assert_eq!(newest, [(300, delivery(3)), (200, delivery(2))]);
        assert_eq!(letters.before(Some((200, delivery(2))), Some(&acme), 2), [(100, delivery(1))]);
        assert_eq!(letters.before(None, Some(&beta), 2), [(250, delivery(1_000))]);
        assert_eq!(letters.position_of(delivery(2), Some(&beta)), None);
        letters.take(delivery(2));
        assert_eq!(letters.position_of(delivery(2), Some(&beta)), None, "also once it is replayed");
        assert_eq!(letters.position_of(delivery(2), Some(&acme)), Some((200, delivery(2))));
        // The account of a new letter is looked up with the next group.
        letters.keep(400, delivery(4), 1);
        assert_eq!(letters.before(None, Some(&beta), 1), [(400, delivery(4))]);
    }
}
