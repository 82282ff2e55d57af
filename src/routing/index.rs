//! Decides which subscriptions an event reaches, by account, event type and WABA number.
//!
//! Leaves to others: parsing filters and numbers, and telling which numbers a WABA has. Invariant:
//! a subscription is listed once under each (type, number) of its filter, where "all" is a value of
//! its own; so a match reads at most four lists for a number, and two for each number of a WABA.
//!
//! A change costs the pairs of its filter, a match costs what it finds; neither depends on how many
//! other subscriptions there are.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use foldhash::HashMap;

use super::answers::Answers;
use super::lists::{List, Lists};
use super::names::Names;
use super::precedence::{Bearing, Precedence};
use crate::event::{EventType, WabaNumber};
use crate::subscription::{FEW_MAX, Filter, Found, Level, Profile, Reached, SubscriptionId};

/// Event -> subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Index {
    accounts: Names<Box<str>>,
    kinds: Names<EventType>,
    listed: HashMap<Place, Lists>,
    precedence: Precedence,
    answers: Answers,
}

/// What about an event decides who gets it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sought<'a> {
    pub(crate) account: &'a str,
    pub(crate) kind: &'a EventType,
    pub(crate) number: Option<WabaNumber>,
    /// The numbers of its WABA, where it has no number itself.
    pub(crate) waba_numbers: &'a [WabaNumber],
    /// Whether it is a part of a callback that is published whole beside it.
    pub(crate) is_part: bool,
}

/// One number of an account, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    number: u64,
    account: u32,
}

/// What an event without a WABA asks for: a type of a number. What it reaches is known by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    number: u64,
    account: u32,
    kind: u32,
    is_part: bool,
}

#[cfg(test)]
impl Asked {
    pub(super) fn new(number: u64) -> Asked {
        Asked { number, account: 1, kind: 1, is_part: false }
    }
}

/// No name is given this id, and no WABA number is this short.
const ALL: u32 = 0;
const ALL_NUMBERS: u64 = 0;

impl Index {
    /// Lists a subscription under its filter. Doing so again changes nothing.
    pub(crate) fn insert(&mut self, id: SubscriptionId, account: &str, filter: &Filter) {
        self.answers.forget();
        each_pair(filter, |kind, number| self.list(id, account, kind, number));
    }

    /// Says for whom more than the filter decides. To be told of each that is inserted.
    pub(crate) fn rank(&mut self, id: SubscriptionId, level: Level, profile: Profile) {
        self.answers.forget();
        self.precedence.put(id, level, profile);
    }

    /// Takes a subscription off the lists of the filter that it was inserted with.
    pub(crate) fn remove(&mut self, id: SubscriptionId, account: &str, filter: &Filter) {
        self.answers.forget();
        self.precedence.remove(id);
        each_pair(filter, |kind, number| self.unlist(id, account, kind, number));
    }

    /// The subscriptions that an event reaches, ascending, each once. Events that reach many and are asked
    /// for alike share the answer, so that what follows from it is worked out once for them all.
    ///
    /// The number decides. An event without one reaches the subscriptions to all numbers, and those
    /// that name a number of its WABA.
    pub(crate) fn targets(&self, sought: &Sought<'_>) -> Reached {
        let Some(account) = self.accounts.id(sought.account) else { return Found::new().into() };
        // A type that nobody names still reaches those who asked for all types.
        let kind = self.kinds.id(sought.kind).unwrap_or(ALL);
        let is_part = sought.is_part && !self.precedence.is_empty();
        let number = match sought.number {
            Some(number) => number.digits(),
            None if sought.waba_numbers.is_empty() => ALL_NUMBERS,
            None => return self.of_waba(account, kind, sought.waba_numbers, is_part),
        };
        self.of_number(Asked { number, account, kind, is_part })
    }

    /// Whom an event of one number reaches, or one of an account alone.
    fn of_number(&self, asked: Asked) -> Reached {
        let Asked { number, account, kind, is_part } = asked;
        let [of_all, of_kind] = self.lists(Place { number: ALL_NUMBERS, account }, kind);
        let own = match number {
            ALL_NUMBERS => NONE,
            number => self.lists(Place { number, account }, kind),
        };
        let lists = [of_all, of_kind, own[0], own[1]];
        let bearing = Bearing { has_number: number != ALL_NUMBERS, is_part };
        if lists.iter().map(List::len).sum::<usize>() <= FEW_MAX {
            // Anew for each event: that costs less than looking for it among the answers given before.
            return self.gathered(&lists, bearing).into();
        }
        // Nobody changes the index meanwhile, because the caller borrows it.
        let gathered = || Arc::from(self.gathered(&lists, bearing).as_slice());
        Reached::Many(self.answers.known_or(asked, gathered))
    }

    /// Whom an event without a number reaches, by those of its WABA.
    fn of_waba(&self, account: u32, kind: u32, numbers: &[WabaNumber], is_part: bool) -> Reached {
        let numbers = numbers.iter().map(|number| number.digits());
        let each = [ALL_NUMBERS].into_iter().chain(numbers);
        let lists: Vec<_> =
            each.flat_map(|number| self.lists(Place { number, account }, kind)).collect();
        self.gathered(&lists, Bearing { has_number: false, is_part }).into()
    }

    /// The lists of all types and of one type under a number.
    fn lists(&self, place: Place, kind: u32) -> [List<'_>; 2] {
        let Some(lists) = self.listed.get(&place) else { return NONE };
        [lists.of(ALL), if kind == ALL { NONE[0] } else { lists.of(kind) }]
    }

    /// The ids of some lists, ascending, each once, without those that another one goes before.
    fn gathered(&self, lists: &[List<'_>], bearing: Bearing) -> Found {
        let mut ids = Found::new();
        let mut filled = 0;
        for list in lists.iter().filter(|list| list.len() > 0) {
            list.each(|id| ids.push(SubscriptionId(id)));
            filled += 1;
        }
        // Every list is ascending by itself.
        if filled > 1 {
            ids.sort_unstable();
            ids.dedup();
        }
        if !self.precedence.is_empty() {
            self.precedence.settle(&mut ids, bearing);
        }
        ids
    }

    fn list(
        &mut self,
        id: SubscriptionId,
        account: &str,
        kind: Option<&EventType>,
        number: Option<WabaNumber>,
    ) {
        let account_id = self.accounts.name(account, |name| Box::from(name));
        let kind_id = kind.map_or(ALL, |kind| self.kinds.name(kind, EventType::clone));
        let number = number.map_or(ALL_NUMBERS, WabaNumber::digits);
        let is_first = match self.listed.entry(Place { number, account: account_id }) {
            Entry::Occupied(mut lists) => lists.get_mut().insert(kind_id, id.0),
            Entry::Vacant(place) => {
                place.insert(Lists::new(kind_id, id.0));
                true
            }
        };
        if is_first {
            self.accounts.hold(account);
            if let Some(kind) = kind {
                self.kinds.hold(kind);
            }
        }
    }

    fn unlist(
        &mut self,
        id: SubscriptionId,
        account: &str,
        kind: Option<&EventType>,
        number: Option<WabaNumber>,
    ) {
        let kind_id = kind.map_or(Some(ALL), |kind| self.kinds.id(kind));
        let (Some(account_id), Some(kind_id)) = (self.accounts.id(account), kind_id) else {
            return;
        };
        let number = number.map_or(ALL_NUMBERS, WabaNumber::digits);
        let place = Place { number, account: account_id };
        let Some(lists) = self.listed.get_mut(&place) else { return };
        if !lists.remove(kind_id, id.0) {
            return;
        }
        if lists.is_empty() {
            self.listed.remove(&place);
        }
        self.accounts.release(account);
        if let Some(kind) = kind {
            self.kinds.release(kind);
        }
    }
}

/// Neither list.
const NONE: [List<'static>; 2] = [List::Ids(&[]); 2];

/// Calls `visit` for every (type, number) of a filter; `None` stands for all.
fn each_pair<'a>(
    filter: &'a Filter,
    mut visit: impl FnMut(Option<&'a EventType>, Option<WabaNumber>),
) {
    let mut each_number = |kind| match &filter.numbers {
        None => visit(kind, None),
        Some(numbers) => numbers.iter().for_each(|number| visit(kind, Some(*number))),
    };
    match &filter.events {
        None => each_number(None),
        Some(kinds) => kinds.iter().for_each(|kind| each_number(Some(kind))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Catalogue;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
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
        let sought = Sought {
            account,
            kind: &kind(name),
            number: of.map(number),
            waba_numbers: &waba_numbers,
            is_part: false,
        };
        let ask = || index.targets(&sought);
        let (first, again) = (ask(), ask());
        assert_eq!(first, again, "what is known is what was found");
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
    fn all_four_kinds_of_filter_match_what_they_ask_for_and_only_in_their_account() {
        let index = each_kind();
        assert_eq!(found(&index, "acme", "A", Some(1), &[]), [1, 2, 3, 4]);
        assert_eq!(found(&index, "acme", "B", Some(1), &[]), [2, 3, 4]);
        assert_eq!(found(&index, "acme", "A", Some(9), &[]), [3, 4]);
        assert_eq!(found(&index, "acme", "C", Some(3), &[]), [4]);
        assert_eq!(found(&index, "beta", "A", Some(1), &[]), [5]);
        assert_eq!(found(&index, "gamma", "A", Some(1), &[]), [0_u32; 0]);
    }

    #[test]
    fn without_a_number_the_numbers_of_the_waba_decide_and_each_is_reached_once() {
        let index = each_kind();
        assert_eq!(found(&index, "acme", "A", None, &[1, 2, 3]), [1, 2, 3, 4]);
        assert_eq!(found(&index, "acme", "A", None, &[2]), [2, 3, 4]);
        assert_eq!(found(&index, "acme", "A", None, &[]), [3, 4]);
        assert_eq!(found(&index, "acme", "A", Some(9), &[1, 2, 3]), [3, 4], "the number decides");
    }

    #[test]
    fn a_removed_subscription_leaves_nothing_behind_and_its_neighbour_stays() {
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
    fn events_that_reach_many_share_the_answer_until_the_index_changes() {
        let mut index = each_kind();
        let ask = |index: &Index, account: &str| {
            let (kind, number) = (&kind("A"), Some(number(1)));
            index.targets(&Sought { account, kind, number, waba_numbers: &[], is_part: false })
        };
        let bystander = ask(&index, "beta");
        let more = u32::try_from(FEW_MAX).unwrap();
        (10..10 + more)
            .for_each(|id| index.insert(SubscriptionId(id), "acme", &filter(None, None)));
        let first = ask(&index, "acme");
        assert_eq!(first.len(), 4 + FEW_MAX);
        let Reached::Many(shared) = &first else { panic!("{first:?}") };
        let again = ask(&index, "acme");
        assert!(matches!(&again, Reached::Many(again) if Arc::ptr_eq(shared, again)));
        index.insert(SubscriptionId(6), "acme", &filter(None, None));
        assert_eq!(ask(&index, "acme").len(), 5 + FEW_MAX);
        index.remove(SubscriptionId(6), "acme", &filter(None, None));
        assert_eq!(ask(&index, "acme"), first);
        assert_eq!(ask(&index, "beta"), bystander);
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
            prop_assert!(index.listed.is_empty() && index.kinds.is_empty());
        }
    }
}
