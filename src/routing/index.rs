//! Decides which subscriptions an event reaches, by account, event type and WABA number.
//!
//! Leaves to others: parsing filters and numbers, and telling which numbers a WABA has. Invariant:
//! a subscription is listed once under each (type, number) of its filter, where "all" is a value of
//! its own; so a match reads at most four lists for a number, and two for each number of a WABA.
//!
//! A change costs the pairs of its filter, a match costs what it finds; neither depends on how many
//! other subscriptions there are.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use roaring::RoaringBitmap;

use super::precedence::{Bearing, Precedence};
use crate::event::{EventType, WabaNumber};
use crate::subscription::{Filter, Level, Profile, SubscriptionId};

/// Event -> subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Index {
    accounts: Names<Box<str>>,
    kinds: Names<EventType>,
    listed: HashMap<Place, List>,
    precedence: Precedence,
    known: Mutex<Known>,
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

/// One (account, type, number), with `ALL` for a type or a number that is not named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    account: u32,
    kind: u32,
    number: u64,
    /// Only of answers; the lists know no parts.
    is_part: bool,
}

/// No name is given this id, and no WABA number is this short.
const ALL: u32 = 0;
const ALL_NUMBERS: u64 = 0;

impl Index {
    /// Lists a subscription under its filter. Doing so again changes nothing.
    pub(crate) fn insert(&mut self, id: SubscriptionId, account: &str, filter: &Filter) {
        self.known.get_mut().clear();
        each_pair(filter, |kind, number| self.list(id, account, kind, number));
    }

    /// Says for whom more than the filter decides. To be told of each that is inserted.
    pub(crate) fn rank(&mut self, id: SubscriptionId, level: Level, profile: Profile) {
        self.known.get_mut().clear();
        self.precedence.put(id, level, profile);
    }

    /// Takes a subscription off the lists of the filter that it was inserted with.
    pub(crate) fn remove(&mut self, id: SubscriptionId, account: &str, filter: &Filter) {
        self.known.get_mut().clear();
        self.precedence.remove(id);
        each_pair(filter, |kind, number| self.unlist(id, account, kind, number));
    }

    /// The subscriptions that an event reaches, ascending, each once. Events that are asked for alike
    /// share the answer, so that what follows from it is worked out once for them all.
    ///
    /// The number decides. An event without one reaches the subscriptions to all numbers, and those
    /// that name a number of its WABA.
    pub(crate) fn targets(&self, sought: &Sought<'_>) -> Arc<[SubscriptionId]> {
        let mut found = Vec::new();
        let Some(account) = self.accounts.id(sought.account) else { return found.into() };
        let digits = match sought.number {
            Some(number) => number.digits(),
            None if sought.waba_numbers.is_empty() => ALL_NUMBERS,
            None => {
                self.matches(sought, &mut found);
                return found.into();
            }
        };
        let kind = self.kinds.id(sought.kind).unwrap_or(ALL);
        let is_part = sought.is_part && !self.precedence.is_empty();
        let place = Place { account, kind, number: digits, is_part };
        if let Some(known) = self.known.lock().of(&place) {
            return known;
        }
        self.matches(sought, &mut found);
        let targets: Arc<[_]> = found.into();
        // Nobody changes the index meanwhile, because the caller borrows it.
        self.known.lock().keep(place, &targets);
        targets
    }

    /// Replaces `out` with the subscriptions that an event reaches.
    fn matches(&self, sought: &Sought<'_>, out: &mut Vec<SubscriptionId>) {
        out.clear();
        let &Sought { kind, number, waba_numbers, is_part, .. } = sought;
        let Some(account) = self.accounts.id(sought.account) else { return };
        // A type that nobody names still reaches those who asked for all types.
        let kind = self.kinds.id(kind);
        let mut collect = |number: u64| {
            for kind in [Some(ALL), kind].into_iter().flatten() {
                if let Some(list) =
                    self.listed.get(&Place { account, kind, number, is_part: false })
                {
                    list.copy_to(out);
                }
            }
        };
        collect(ALL_NUMBERS);
        match number {
            Some(number) => collect(number.digits()),
            None => waba_numbers.iter().for_each(|number| collect(number.digits())),
        }
        out.sort_unstable();
        out.dedup();
        if !self.precedence.is_empty() {
            self.precedence.settle(out, Bearing { has_number: number.is_some(), is_part });
        }
    }

    fn list(
        &mut self,
        id: SubscriptionId,
        account: &str,
        kind: Option<&EventType>,
        number: Option<WabaNumber>,
    ) {
        let place = Place {
            account: self.accounts.name(account, |name| Box::from(name)),
            kind: kind.map_or(ALL, |kind| self.kinds.name(kind, EventType::clone)),
            number: number.map_or(ALL_NUMBERS, WabaNumber::digits),
            is_part: false,
        };
        if let Some(list) = self.listed.get_mut(&place) {
            list.insert(id);
            return;
        }
        self.listed.insert(place, List::One(id.0));
        self.accounts.hold(account);
        if let Some(kind) = kind {
            self.kinds.hold(kind);
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
        let place = Place { account: account_id, kind: kind_id, number, is_part: false };
        let Some(list) = self.listed.get_mut(&place) else { return };
        if !list.remove(id) {
            return;
        }
        self.listed.remove(&place);
        self.accounts.release(account);
        if let Some(kind) = kind {
            self.kinds.release(kind);
        }
    }
}

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

/// Answers given since the index changed last.
#[derive(Debug, Default)]
struct Known {
    by_place: HashMap<Place, Arc<[SubscriptionId]>>,
    /// Ids in the answers, and so many for each answer itself as it weighs.
    weight: usize,
}

/// How much the known answers may weigh, in ids of 4 bytes.
const KNOWN_WEIGHT_MAX: usize = 1 << 18;

/// What an answer weighs beside its ids.
const ANSWER_WEIGHT: usize = 16;

impl Known {
    fn of(&self, place: &Place) -> Option<Arc<[SubscriptionId]>> {
        self.by_place.get(place).cloned()
    }

    fn keep(&mut self, place: Place, targets: &Arc<[SubscriptionId]>) {
        let weight = targets.len() + ANSWER_WEIGHT;
        if self.weight + weight > KNOWN_WEIGHT_MAX {
            self.clear();
        }
        if weight <= KNOWN_WEIGHT_MAX && self.by_place.insert(place, Arc::clone(targets)).is_none()
        {
            self.weight += weight;
        }
    }

    fn clear(&mut self) {
        self.by_place.clear();
        self.weight = 0;
    }
}

/// Small ids for names, given back when no list needs them: the vocabulary is open, so without
/// that it would grow with every name ever registered.
#[derive(Debug)]
struct Names<K> {
    by_name: HashMap<K, Name>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Name {
    id: u32,
    /// How many lists are kept under it.
    lists: usize,
}

impl<K> Default for Names<K> {
    fn default() -> Names<K> {
        Names { by_name: HashMap::new(), free: Vec::new() }
    }
}

impl<K: Hash + Eq> Names<K> {
    /// The id of a name, given now where it has none. Without a [`hold`](Names::hold) it is free.
    fn name<Q>(&mut self, name: &Q, own: impl FnOnce(&Q) -> K) -> u32
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(known) = self.by_name.get(name) {
            return known.id;
        }
        // Ids are 1 to the number of names, and there are fewer names than fit into memory.
        let next = u32::try_from(self.by_name.len() + 1).unwrap_or(u32::MAX);
        let id = self.free.pop().unwrap_or(next);
        self.by_name.insert(own(name), Name { id, lists: 0 });
        id
    }

    fn id<Q: Hash + Eq + ?Sized>(&self, name: &Q) -> Option<u32>
    where
        K: Borrow<Q>,
    {
        self.by_name.get(name).map(|name| name.id)
    }

    fn hold<Q: Hash + Eq + ?Sized>(&mut self, name: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some(name) = self.by_name.get_mut(name) {
            name.lists += 1;
        }
    }

    fn release<Q: Hash + Eq + ?Sized>(&mut self, name: &Q)
    where
        K: Borrow<Q>,
    {
        let Some(held) = self.by_name.get_mut(name) else { return };
        held.lists = held.lists.saturating_sub(1);
        if held.lists == 0 {
            self.free.push(held.id);
            self.by_name.remove(name);
        }
    }
}

/// The subscriptions of one place, ascending. Most places have one, so it costs no allocation; a
/// long one is a bitmap, so that a removal from it moves little.
#[derive(Debug)]
enum List {
    One(u32),
    Few(Vec<u32>),
    Many(RoaringBitmap),
}

/// From this length on a list is a bitmap: moving more ids costs more than finding their container.
const FEW_MAX: usize = 256;

impl List {
    fn insert(&mut self, id: SubscriptionId) {
        match self {
            List::One(only) if *only == id.0 => {}
            List::One(only) => *self = List::Few(vec![(*only).min(id.0), (*only).max(id.0)]),
            List::Few(ids) => {
                let Err(at) = ids.binary_search(&id.0) else { return };
                ids.insert(at, id.0);
                if ids.len() > FEW_MAX {
                    *self = List::Many(ids.iter().copied().collect());
                }
            }
            List::Many(ids) => {
                ids.insert(id.0);
            }
        }
    }

    /// Whether the list is empty now and can go.
    fn remove(&mut self, id: SubscriptionId) -> bool {
        match self {
            List::One(only) => *only == id.0,
            List::Few(ids) => {
                if let Ok(at) = ids.binary_search(&id.0) {
                    ids.remove(at);
                }
                ids.is_empty()
            }
            List::Many(ids) => {
                ids.remove(id.0);
                ids.is_empty()
            }
        }
    }

    fn copy_to(&self, out: &mut Vec<SubscriptionId>) {
        match self {
            List::One(only) => out.push(SubscriptionId(*only)),
            List::Few(ids) => out.extend(ids.iter().map(|id| SubscriptionId(*id))),
            List::Many(ids) => out.extend(ids.iter().map(SubscriptionId)),
        }
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
        assert!(index.accounts.by_name.is_empty() && index.kinds.by_name.is_empty());
    }

    #[test]
    fn answers_are_shared_until_the_index_changes_and_their_number_is_bounded() {
        let mut index = each_kind();
        let ask = |index: &Index, account: &str, last| {
            let (kind, number) = (&kind("A"), Some(number(last)));
            index.targets(&Sought { account, kind, number, waba_numbers: &[], is_part: false })
        };
        let (first, bystander) = (ask(&index, "acme", 1), ask(&index, "beta", 1));
        assert!(Arc::ptr_eq(&first, &ask(&index, "acme", 1)));
        index.insert(SubscriptionId(6), "acme", &filter(None, None));
        assert_eq!(*ask(&index, "acme", 1), [1, 2, 3, 4, 6].map(SubscriptionId));
        index.remove(SubscriptionId(6), "acme", &filter(None, None));
        assert_eq!(ask(&index, "acme", 1), first);
        assert_eq!(ask(&index, "beta", 1), bystander);
        for last in 0..2 * KNOWN_WEIGHT_MAX / ANSWER_WEIGHT {
            ask(&index, "acme", last as u64);
        }
        let known = index.known.lock();
        let ids: usize = known.by_place.values().map(|targets| targets.len()).sum();
        assert!(known.weight <= KNOWN_WEIGHT_MAX && !known.by_place.is_empty());
        assert_eq!(known.weight, ids + known.by_place.len() * ANSWER_WEIGHT);
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
        let many = u32::try_from(FEW_MAX).unwrap() * 3;
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
            prop_assert!(index.listed.is_empty() && index.kinds.by_name.is_empty());
        }
    }
}
