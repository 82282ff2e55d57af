//! The index from account, event type and WABA number to subscriptions. A subscription is listed once under
//! each (type, number) pair of its filter, where "all" is a value of its own. A wide filter, of many types and
//! many numbers, would have too many pairs: its subscription is listed once under each number, and its types
//! are kept as a set that a match looks into. So a match reads at most six lists for a number, and three for
//! each number of a WABA.
//!
//! A change costs the types plus the numbers of its filter, or at most [`PAIRS_MAX`], because every `publish`
//! waits for it. A match costs what it finds, and the wide filters of its number. Neither depends on the number
//! of other subscriptions.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};

use super::conditions::{ConditionTable, FilterMatch};
use super::interner::Interner;
use super::match_cache::{MatchCache, MatchKey};
use super::posting_lists::{PostingList, PostingLists};
use super::precedence::{MatchContext, PrecedenceTable};
use crate::event::{EventType, WabaNumber};
use crate::profile::Profile;
use crate::subscription::{FEW_MAX, Filter, Precedence, SubscriptionId, TargetIds, Targets};

/// Maps events to subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Index {
    accounts: Interner<Box<str>>,
    kinds: Interner<EventType>,
    listed: HashMap<NumberKey, PostingLists>,
    /// The types of each wide filter.
    wide: HashMap<SubscriptionId, HashSet<u32>>,
    precedence: PrecedenceTable,
    conditions: ConditionTable,
    match_cache: MatchCache,
}

/// The properties of an event that decide which subscriptions get it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatchQuery<'a> {
    pub(crate) account: &'a str,
    pub(crate) kind: &'a EventType,
    pub(crate) number: Option<WabaNumber>,
    /// The numbers of its WABA, if it has no number itself.
    pub(crate) waba_numbers: &'a [WabaNumber],
    /// Whether it is a part of a callback that is also published whole.
    pub(crate) is_part: bool,
}

/// One number of an account, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct NumberKey {
    number: u64,
    account: u32,
}

/// No interned name has this id, and no WABA number is this short.
const ALL: u32 = 0;
const ALL_NUMBERS: u64 = 0;

/// Under this instead of a type, subscriptions with wide filters are listed.
const WIDE: u32 = u32::MAX;

/// A filter with more pairs is wide. In tests few are, so that the property test has both kinds.
const PAIRS_MAX: usize = if cfg!(test) { 4 } else { 1_024 };

/// The list of a number that a subscription is in: of all types, of one type, or of subscriptions with many types.
#[derive(Debug, Clone, Copy)]
enum ListKind<'a> {
    All,
    One(&'a EventType),
    Wide,
}

impl Index {
    /// Adds a subscription under its filter. Idempotent.
    pub(crate) fn insert(&mut self, id: SubscriptionId, account: &str, filter: &Filter) {
        self.match_cache.invalidate();
        if let Some(kinds) = kinds_if_wide(filter)
            && !self.wide.contains_key(&id)
        {
            let each = kinds.iter().map(|kind| {
                let interned = self.kinds.intern(kind, EventType::clone);
                self.kinds.hold(kind);
                interned
            });
            let interned = each.collect();
            self.wide.insert(id, interned);
        }
        if let Some(condition) = &filter.condition {
            self.conditions.put(id, condition.clone());
        }
        each_listing(filter, |kind, number| self.list(id, account, kind, number));
    }

    /// Sets the precedence of a subscription. To be called for each that is inserted.
    pub(crate) fn rank(&mut self, id: SubscriptionId, precedence: Precedence, profile: Profile) {
        self.match_cache.invalidate();
        self.precedence.put(id, precedence, profile);
    }

    /// Removes a subscription from the lists of the filter that it was inserted with.
    pub(crate) fn remove(&mut self, id: SubscriptionId, account: &str, filter: &Filter) {
        self.match_cache.invalidate();
        self.precedence.remove(id);
        if filter.condition.is_some() {
            self.conditions.remove(id);
        }
        if let Some(kinds) = kinds_if_wide(filter)
            && self.wide.remove(&id).is_some()
        {
            kinds.iter().for_each(|kind| self.kinds.release(kind));
        }
        each_listing(filter, |kind, number| self.unlist(id, account, kind, number));
    }

    /// Whether any subscription has a condition.
    pub(crate) fn has_conditions(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// The subscriptions that match an event, with those of their conditions that its payload has to meet.
    pub(crate) fn matches(&self, query: &MatchQuery<'_>) -> FilterMatch {
        let targets = self.targets(query);
        let conditions = self.conditions.of(&targets);
        FilterMatch { targets, conditions }
    }

    /// The subscriptions whose filters match an event, ascending, without duplicates. Events with the same query and
    /// many matches share the result, so that the outbox derives the rest from it once.
    ///
    /// The number decides. An event without one matches subscriptions to all numbers, and those that name
    /// a number of its WABA.
    pub(crate) fn targets(&self, query: &MatchQuery<'_>) -> Targets {
        let Some(account) = self.accounts.id(query.account) else { return TargetIds::new().into() };
        // A type that no filter names still matches filters for all types.
        let kind = self.kinds.id(query.kind).unwrap_or(ALL);
        let is_part = query.is_part && !self.precedence.is_empty();
        let number = match query.number {
            Some(number) => number.digits(),
            None if query.waba_numbers.is_empty() => ALL_NUMBERS,
            None => return self.of_waba(account, kind, query.waba_numbers, is_part),
        };
        self.of_number(MatchKey { number, account, kind, is_part })
    }

    /// The matches of an event with one number, or with none and no WABA.
    fn of_number(&self, key: MatchKey) -> Targets {
        let MatchKey { number, account, kind, is_part } = key;
        let general = self.lists(NumberKey { number: ALL_NUMBERS, account }, kind);
        let own = match number {
            ALL_NUMBERS => NONE,
            number => self.lists(NumberKey { number, account }, kind),
        };
        let lists = [general, own];
        let context = MatchContext { has_number: number != ALL_NUMBERS, is_part };
        if lists.as_flattened().iter().map(PostingList::len).sum::<usize>() <= FEW_MAX {
            // For few matches, gathering costs less than a look-up in the cache.
            return self.gathered(&lists, kind, context).into();
        }
        // The index cannot change meanwhile, because the caller borrows it.
        let gathered = || Arc::from(self.gathered(&lists, kind, context).as_slice());
        Targets::Many(self.match_cache.get_or_insert(key, gathered))
    }

    /// The matches of an event without a number, by the numbers of its WABA.
    fn of_waba(&self, account: u32, kind: u32, numbers: &[WabaNumber], is_part: bool) -> Targets {
        let numbers = numbers.iter().map(|number| number.digits());
        let each = [ALL_NUMBERS].into_iter().chain(numbers);
        let lists: Vec<_> =
            each.map(|number| self.lists(NumberKey { number, account }, kind)).collect();
        self.gathered(&lists, kind, MatchContext { has_number: false, is_part }).into()
    }

    /// The lists of all types, of one type and of wide filters under a number.
    fn lists(&self, number: NumberKey, kind: u32) -> NumberLists<'_> {
        let Some(lists) = self.listed.get(&number) else { return NONE };
        let [none, ..] = NONE;
        // A type that no filter names is in no wide one either.
        let of_kind = if kind == ALL { none } else { lists.of(kind) };
        let wide = if kind == ALL || self.wide.is_empty() { none } else { lists.of(WIDE) };
        [lists.of(ALL), of_kind, wide]
    }

    /// The merged ids of some lists, ascending, without duplicates and without those of lower precedence.
    fn gathered(&self, lists: &[NumberLists<'_>], kind: u32, context: MatchContext) -> TargetIds {
        let mut ids = TargetIds::new();
        let mut filled = 0;
        for [all, of_kind, wide] in lists {
            for list in [all, of_kind].into_iter().filter(|list| list.len() > 0) {
                list.each(|id| ids.push(SubscriptionId(id)));
                filled += 1;
            }
            if wide.len() > 0 {
                let takes = |id| self.wide.get(&id).is_some_and(|kinds| kinds.contains(&kind));
                wide.each(|id| ids.extend(Some(SubscriptionId(id)).filter(|id| takes(*id))));
                filled += 1;
            }
        }
        // Each list is ascending, but they are not in order together.
        if filled > 1 {
            ids.sort_unstable();
            ids.dedup();
        }
        if !self.precedence.is_empty() {
            self.precedence.settle(&mut ids, context);
        }
        ids
    }

    fn list(
        &mut self,
        id: SubscriptionId,
        account: &str,
        kind: ListKind<'_>,
        number: Option<WabaNumber>,
    ) {
        let account_id = self.accounts.intern(account, |name| Box::from(name));
        let kind_id = match kind {
            ListKind::All => ALL,
            ListKind::One(kind) => self.kinds.intern(kind, EventType::clone),
            ListKind::Wide => WIDE,
        };
        let number = number.map_or(ALL_NUMBERS, WabaNumber::digits);
        let is_first = match self.listed.entry(NumberKey { number, account: account_id }) {
            Entry::Occupied(mut lists) => lists.get_mut().insert(kind_id, id.0),
            Entry::Vacant(place) => {
                place.insert(PostingLists::new(kind_id, id.0));
                true
            }
        };
        if is_first {
            self.accounts.hold(account);
            if let ListKind::One(kind) = kind {
                self.kinds.hold(kind);
            }
        }
    }

    fn unlist(
        &mut self,
        id: SubscriptionId,
        account: &str,
        kind: ListKind<'_>,
        number: Option<WabaNumber>,
    ) {
        let kind_id = match kind {
            ListKind::All => Some(ALL),
            ListKind::One(kind) => self.kinds.id(kind),
            ListKind::Wide => Some(WIDE),
        };
        let (Some(account_id), Some(kind_id)) = (self.accounts.id(account), kind_id) else {
            return;
        };
        let number = number.map_or(ALL_NUMBERS, WabaNumber::digits);
        let key = NumberKey { number, account: account_id };
        let Some(lists) = self.listed.get_mut(&key) else { return };
        if !lists.remove(kind_id, id.0) {
            return;
        }
        if lists.is_empty() {
            self.listed.remove(&key);
        }
        self.accounts.release(account);
        if let ListKind::One(kind) = kind {
            self.kinds.release(kind);
        }
    }
}

#[cfg(test)]
impl Index {
    /// How many times subscriptions are listed.
    fn postings(&self) -> usize {
        self.listed.values().map(PostingLists::len).sum()
    }
}

/// The lists under one number: of all types, of one type, of wide filters.
type NumberLists<'a> = [PostingList<'a>; 3];

/// Three empty lists.
const NONE: NumberLists<'static> = [PostingList::Ids(&[]); 3];

/// The types of a filter with too many pairs to list each.
fn kinds_if_wide(filter: &Filter) -> Option<&BTreeSet<EventType>> {
    let (kinds, numbers) = (filter.events.as_ref()?, filter.numbers.as_ref()?);
    let is_wide = kinds.len() > 1 && kinds.len().saturating_mul(numbers.len()) > PAIRS_MAX;
    is_wide.then_some(kinds)
}

/// Calls `visit` for everything that a filter is listed under; no number stands for all.
fn each_listing<'a>(filter: &'a Filter, mut visit: impl FnMut(ListKind<'a>, Option<WabaNumber>)) {
    let mut each_number = |kind| match &filter.numbers {
        None => visit(kind, None),
        Some(numbers) => numbers.iter().for_each(|number| visit(kind, Some(*number))),
    };
    match &filter.events {
        None => each_number(ListKind::All),
        Some(_) if kinds_if_wide(filter).is_some() => each_number(ListKind::Wide),
        Some(kinds) => kinds.iter().for_each(|kind| each_number(ListKind::One(kind))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Catalogue;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::LazyLock;

    fn kind(name: &str) -> EventType {
        // Building the catalogue each time would take longer than all that is tested.
        static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(Catalogue::default);
        CATALOGUE.canonical(name).unwrap()
    }

    fn number(last: u64) -> WabaNumber {
        WabaNumber::from_digits(919_000_000_000 + last).unwrap()
    }

    fn filter(events: Option<&[&str]>, numbers: Option<&[u64]>) -> Filter {
        Filter {
            events: events.map(|names| names.iter().map(|name| kind(name)).collect()),
            numbers: numbers.map(|all| all.iter().map(|last| number(*last)).collect()),
            condition: None,
        }
    }

    fn found(
        index: &Index,
        account: &str,
        name: &str,
        of: Option<u64>,
        waba_numbers: &[u64],
    ) -> Vec<u32> {
        let waba_numbers: Vec<_> = waba_numbers.iter().map(|last| number(*last)).collect();
        let query = MatchQuery {
            account,
            kind: &kind(name),
            number: of.map(number),
            waba_numbers: &waba_numbers,
            is_part: false,
        };
        let ask = || index.targets(&query);
        let (first, again) = (ask(), ask());
        assert_eq!(first, again, "the cached result equals the first");
        first.iter().map(|id| id.0).collect()
    }

    /// One subscription of each kind of filter, and one of another account that asks for all.
    fn each_kind() -> Index {
        let mut index = Index::default();
        index.insert(SubscriptionId(4), "acme", &filter(None, None));
        index.insert(SubscriptionId(3), "acme", &filter(Some(&["A", "B"]), None));
        index.insert(SubscriptionId(2), "acme", &filter(None, Some(&[1, 2])));
        index.insert(SubscriptionId(1), "acme", &filter(Some(&["A"]), Some(&[1, 3])));
        index.insert(SubscriptionId(5), "beta", &filter(None, None));
        index
    }

    #[test]
    fn each_kind_of_filter_matches_only_in_its_account() {
        let index = each_kind();
        assert_eq!(found(&index, "acme", "A", Some(1), &[]), [1, 2, 3, 4]);
        assert_eq!(found(&index, "acme", "B", Some(1), &[]), [2, 3, 4]);
        assert_eq!(found(&index, "acme", "A", Some(9), &[]), [3, 4]);
        assert_eq!(found(&index, "acme", "C", Some(3), &[]), [4]);
        assert_eq!(found(&index, "beta", "A", Some(1), &[]), [5]);
        assert_eq!(found(&index, "gamma", "A", Some(1), &[]), [0_u32; 0]);
    }

    #[test]
    fn without_a_number_the_numbers_of_the_waba_decide() {
        let index = each_kind();
        assert_eq!(found(&index, "acme", "A", None, &[1, 2, 3]), [1, 2, 3, 4]);
        assert_eq!(found(&index, "acme", "A", None, &[2]), [2, 3, 4]);
        assert_eq!(found(&index, "acme", "A", None, &[]), [3, 4]);
        assert_eq!(found(&index, "acme", "A", Some(9), &[1, 2, 3]), [3, 4], "the number decides");
    }

    #[test]
    fn a_removed_subscription_leaves_nothing_behind() {
        let mut index = each_kind();
        index.remove(SubscriptionId(1), "acme", &filter(Some(&["A"]), Some(&[1, 3])));
        assert_eq!(found(&index, "acme", "A", Some(1), &[]), [2, 3, 4]);
        for (id, filter) in [
            (4, filter(None, None)),
            (3, filter(Some(&["A", "B"]), None)),
            (2, filter(None, Some(&[1, 2]))),
        ] {
            index.remove(SubscriptionId(id), "acme", &filter);
            index.remove(SubscriptionId(id), "acme", &filter);
        }
        assert_eq!(found(&index, "beta", "A", Some(1), &[]), [5]);
        index.remove(SubscriptionId(5), "beta", &filter(None, None));
        assert!(index.listed.is_empty());
        assert!(index.accounts.is_empty() && index.kinds.is_empty());
    }

    #[test]
    fn events_with_many_matches_share_the_result() {
        let mut index = each_kind();
        let ask = |index: &Index, account: &str| {
            let (kind, number) = (&kind("A"), Some(number(1)));
            index.targets(&MatchQuery { account, kind, number, waba_numbers: &[], is_part: false })
        };
        let bystander = ask(&index, "beta");
        let more = u32::try_from(FEW_MAX).unwrap();
        (10..10 + more)
            .for_each(|id| index.insert(SubscriptionId(id), "acme", &filter(None, None)));
        let first = ask(&index, "acme");
        assert_eq!(first.len(), 4 + FEW_MAX);
        let Targets::Many(shared) = &first else { panic!("{first:?}") };
        let again = ask(&index, "acme");
        assert!(matches!(&again, Targets::Many(again) if Arc::ptr_eq(shared, again)));
        index.insert(SubscriptionId(6), "acme", &filter(None, None));
        assert_eq!(ask(&index, "acme").len(), 5 + FEW_MAX);
        index.remove(SubscriptionId(6), "acme", &filter(None, None));
        assert_eq!(ask(&index, "acme"), first);
        assert_eq!(ask(&index, "beta"), bystander);
    }

    /// Types that are told apart by a number.
    fn kinds(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("TYPE_{n}")).collect()
    }

    /// A filter of many types and many numbers.
    fn wide(kinds: &[String], numbers: u64) -> Filter {
        let names: Vec<_> = kinds.iter().map(String::as_str).collect();
        filter(Some(&names), Some(&(0..numbers).collect::<Vec<_>>()))
    }

    /// Not once for each of the 90,000 pairs: every publish would wait for that.
    #[test]
    fn a_wide_filter_costs_its_lists_and_not_their_product() {
        let (mut index, kinds) = (each_kind(), kinds(300));
        let before = index.postings();
        let wide = wide(&kinds, 300);
        index.insert(SubscriptionId(9), "acme", &wide);
        assert!(index.postings() - before <= 600, "{}", index.postings());
        let asked = filter(Some(&["TYPE_299", "B"]), Some(&[2]));
        index.insert(SubscriptionId(7), "beta", &asked);
        assert_eq!(found(&index, "acme", "TYPE_299", Some(299), &[]), [4, 9]);
        assert_eq!(found(&index, "acme", "TYPE_0", Some(2), &[]), [2, 4, 9]);
        assert_eq!(found(&index, "acme", "TYPE_0", Some(300), &[]), [4], "another number");
        assert_eq!(found(&index, "acme", "B", Some(2), &[]), [2, 3, 4], "another type");
        assert_eq!(found(&index, "acme", "TYPE_5", None, &[5, 400]), [4, 9]);
        assert_eq!(found(&index, "acme", "TYPE_5", None, &[]), [4]);
        assert_eq!(found(&index, "acme", "TYPE_400", Some(2), &[]), [2, 4]);
        assert_eq!(found(&index, "beta", "TYPE_299", Some(2), &[]), [5, 7]);
        index.remove(SubscriptionId(9), "acme", &wide);
        assert_eq!(found(&index, "acme", "TYPE_0", Some(2), &[]), [2, 4]);
        assert_eq!(found(&index, "beta", "TYPE_299", Some(2), &[]), [5, 7]);
        index.remove(SubscriptionId(7), "beta", &asked);
        assert_eq!(index.postings(), before);
        assert!(index.kinds.id(&kind("TYPE_0")).is_none());
    }

    #[test]
    fn removing_what_was_never_inserted_changes_nothing() {
        let mut index = each_kind();
        index.remove(SubscriptionId(9), "acme", &filter(None, None));
        index.remove(SubscriptionId(4), "gamma", &filter(None, None));
        index.remove(SubscriptionId(4), "acme", &filter(Some(&["Z"]), None));
        assert_eq!(found(&index, "acme", "A", Some(1), &[]), [1, 2, 3, 4]);
    }

    #[test]
    fn a_long_list_stays_in_order_through_growth_and_removal() {
        let mut index = Index::default();
        let all = filter(None, None);
        let many = 3_000;
        (0..many).rev().for_each(|id| index.insert(SubscriptionId(id), "acme", &all));
        (0..many)
            .filter(|id| id % 3 != 0)
            .for_each(|id| index.remove(SubscriptionId(id), "acme", &all));
        let kept: Vec<_> = (0..many).filter(|id| id % 3 == 0).collect();
        assert_eq!(found(&index, "acme", "A", Some(1), &[]), kept);
    }

    const ACCOUNTS: [&str; 2] = ["acme", "beta"];
    const KINDS: [&str; 4] = ["A", "B", "C", "D"];

    fn any_filter() -> impl Strategy<Value = Filter> {
        let events = proptest::option::of(proptest::collection::btree_set(0..KINDS.len(), 1..4));
        let numbers = proptest::option::of(proptest::collection::btree_set(0_u64..5, 1..4));
        (events, numbers).prop_map(|(events, numbers)| Filter {
            events: events.map(|set| set.into_iter().map(|at| kind(KINDS[at])).collect()),
            numbers: numbers.map(|set| set.into_iter().map(number).collect()),
            condition: None,
        })
    }

    fn asks_for(filter: &Filter, name: &str, of: Option<u64>, waba: &BTreeSet<u64>) -> bool {
        let typed = filter.events.as_ref().is_none_or(|kinds| kinds.contains(&kind(name)));
        let numbered = filter.numbers.as_ref().is_none_or(|numbers| match of {
            Some(of) => numbers.contains(&number(of)),
            None => waba.iter().any(|last| numbers.contains(&number(*last))),
        });
        typed && numbered
    }

    proptest! {
        #[test]
        fn it_finds_what_a_scan_of_all_subscriptions_finds(
            changes in proptest::collection::vec(
                (0_u32..12, 0..ACCOUNTS.len(), any_filter(), any::<bool>()), 1..60),
            waba in proptest::collection::btree_set(0_u64..5, 0..4),
        ) {
            let mut index = Index::default();
            let mut scanned: BTreeMap<u32, (usize, Filter)> = BTreeMap::new();
            let waba_numbers: Vec<_> = waba.iter().copied().collect();
            for (id, account, filter, stays) in changes {
                if let Some((account, filter)) = scanned.remove(&id) {
                    index.remove(SubscriptionId(id), ACCOUNTS[account], &filter);
                }
                if stays {
                    index.insert(SubscriptionId(id), ACCOUNTS[account], &filter);
                    scanned.insert(id, (account, filter));
                }
                for name in KINDS {
                    for of in [None, Some(0), Some(3), Some(7)] {
                        let expected: Vec<u32> = scanned
                            .iter()
                            .filter(|(_, (a, f))| *a == 0 && asks_for(f, name, of, &waba))
                            .map(|(id, _)| *id)
                            .collect();
                        prop_assert_eq!(found(&index, "acme", name, of, &waba_numbers), expected);
                    }
                }
            }
            for (id, (account, filter)) in scanned {
                index.remove(SubscriptionId(id), ACCOUNTS[account], &filter);
            }
            prop_assert!(index.listed.is_empty() && index.kinds.is_empty() && index.wide.is_empty());
        }
    }
}
