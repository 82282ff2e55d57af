//! Decides how the subscriptions of one number are listed by type.
//!
//! Leaves to others: which number, and who may be listed (`index`). Invariants: a list is ascending and
//! names a subscription once; no list is kept empty.
//!
//! A look-up of a number that nobody asked for lately waits for memory and for little else. So what most
//! numbers have, one type and a few subscriptions, lies in the index's map itself, where one read finds
//! it; more types lie side by side in one block, which takes two; only long lists have maps of their own.

use foldhash::HashMap;
use roaring::RoaringBitmap;

/// The subscriptions listed under one number, or under all numbers of an account.
#[derive(Debug)]
pub(super) enum Lists {
    /// Of one type, and few. The fields stand here because a struct of them would take 8 bytes more.
    One { kind: u32, count: u8, ids: [u32; ONE_MAX] },
    /// Of any, by type and then by id.
    Block(Vec<Pair>),
    /// Too many to read them through for every look-up.
    Map(Box<HashMap<u32, Long>>),
}

/// One subscription in the list of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    kind: u32,
    id: u32,
}

/// What fits beside the key into 64 bytes.
const ONE_MAX: usize = 10;

/// From this length on a block is a map: reading it through costs more than two more reads elsewhere.
const BLOCK_MAX: usize = 64;

impl Lists {
    /// Lists with one subscription.
    pub(super) fn new(kind: u32, id: u32) -> Lists {
        Lists::One { kind, count: 1, ids: [id; ONE_MAX] }
    }

    /// Lists a subscription. Returns whether it is the first of its type.
    pub(super) fn insert(&mut self, kind: u32, id: u32) -> bool {
        match self {
            Lists::One { kind: only, count, ids } => {
                if *only == kind && insert_id(count, ids, id) {
                    return false;
                }
                let pair = |id: &u32| Pair { kind: *only, id: *id };
                let mut block: Vec<_> = counted(*count, ids).iter().map(pair).collect();
                let is_first = insert_pair(&mut block, Pair { kind, id });
                *self = Lists::Block(block);
                is_first
            }
            Lists::Block(block) => {
                let is_first = insert_pair(block, Pair { kind, id });
                if block.len() > BLOCK_MAX {
                    *self = Lists::Map(Box::new(map_of(block)));
                }
                is_first
            }
            Lists::Map(map) => {
                let long = map.entry(kind).or_default();
                let was_empty = long.is_empty();
                long.insert(id);
                was_empty
            }
        }
    }

    /// Takes a subscription off. Returns whether it was the last of its type.
    pub(super) fn remove(&mut self, kind: u32, id: u32) -> bool {
        match self {
            Lists::One { kind: only, count, ids } => {
                *only == kind && remove_id(count, ids, id) && *count == 0
            }
            Lists::Block(block) => {
                let Ok(at) = block.binary_search(&Pair { kind, id }) else { return false };
                block.remove(at);
                pairs_of(block, kind).is_empty()
            }
            Lists::Map(map) => {
                let Some(long) = map.get_mut(&kind) else { return false };
                let is_gone = long.remove(id) && long.is_empty();
                if is_gone {
                    map.remove(&kind);
                }
                is_gone
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Lists::One { count, .. } => *count == 0,
            Lists::Block(block) => block.is_empty(),
            Lists::Map(map) => map.is_empty(),
        }
    }

    /// The list of a type.
    pub(super) fn of(&self, kind: u32) -> List<'_> {
        match self {
            Lists::One { kind: only, count, ids } if *only == kind => {
                List::Ids(counted(*count, ids))
            }
            Lists::One { .. } => List::Ids(&[]),
            Lists::Block(block) => List::Pairs(pairs_of(block, kind)),
            Lists::Map(map) => map.get(&kind).map_or(List::Ids(&[]), Long::list),
        }
    }
}

fn counted(count: u8, ids: &[u32; ONE_MAX]) -> &[u32] {
    ids.get(..usize::from(count)).unwrap_or_default()
}

/// Whether the id is listed now; false where there is no room for it.
fn insert_id(count: &mut u8, ids: &mut [u32; ONE_MAX], id: u32) -> bool {
    let Err(at) = counted(*count, ids).binary_search(&id) else { return true };
    if usize::from(*count) == ONE_MAX {
        return false;
    }
    *count += 1;
    // The place behind the last comes round to where the new one belongs.
    if let Some(moved) = ids.get_mut(at..usize::from(*count)) {
        moved.rotate_right(1);
    }
    if let Some(place) = ids.get_mut(at) {
        *place = id;
    }
    true
}

/// Whether the id was listed.
fn remove_id(count: &mut u8, ids: &mut [u32; ONE_MAX], id: u32) -> bool {
    let Ok(at) = counted(*count, ids).binary_search(&id) else { return false };
    if let Some(moved) = ids.get_mut(at..usize::from(*count)) {
        moved.rotate_left(1);
    }
    *count -= 1;
    true
}

/// Whether it is the first pair of its type.
fn insert_pair(block: &mut Vec<Pair>, pair: Pair) -> bool {
    let Err(at) = block.binary_search(&pair) else { return false };
    let is_first = pairs_of(block, pair.kind).is_empty();
    block.insert(at, pair);
    is_first
}

fn pairs_of(block: &[Pair], kind: u32) -> &[Pair] {
    let start = block.iter().position(|pair| pair.kind >= kind).unwrap_or(block.len());
    let from_here = block.get(start..).unwrap_or_default();
    let end = from_here.iter().position(|pair| pair.kind != kind).unwrap_or(from_here.len());
    from_here.get(..end).unwrap_or_default()
}

fn map_of(block: &[Pair]) -> HashMap<u32, Long> {
    let mut map = HashMap::<u32, Long>::default();
    block.iter().for_each(|pair| map.entry(pair.kind).or_default().insert(pair.id));
    map
}

/// One list of a map.
#[derive(Debug)]
pub(super) enum Long {
    Few(Vec<u32>),
    /// A bitmap, so that a removal from it moves little.
    Many(RoaringBitmap),
}

/// From this length on a list is a bitmap: moving more ids costs more than finding their container.
const FEW_MAX: usize = 256;

impl Default for Long {
    fn default() -> Long {
        Long::Few(Vec::new())
    }
}

impl Long {
    fn insert(&mut self, id: u32) {
        match self {
            Long::Few(ids) => {
                let Err(at) = ids.binary_search(&id) else { return };
                ids.insert(at, id);
                if ids.len() > FEW_MAX {
                    *self = Long::Many(ids.iter().copied().collect());
                }
            }
            Long::Many(ids) => {
                ids.insert(id);
            }
        }
    }

    fn remove(&mut self, id: u32) -> bool {
        match self {
            Long::Few(ids) => ids.binary_search(&id).map(|at| ids.remove(at)).is_ok(),
            Long::Many(ids) => ids.remove(id),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Long::Few(ids) => ids.is_empty(),
            Long::Many(ids) => ids.is_empty(),
        }
    }

    fn list(&self) -> List<'_> {
        match self {
            Long::Few(ids) => List::Ids(ids),
            Long::Many(ids) => List::Set(ids),
        }
    }
}

/// The subscriptions of one type, ascending.
#[derive(Debug, Clone, Copy)]
pub(super) enum List<'a> {
    Ids(&'a [u32]),
    Pairs(&'a [Pair]),
    Set(&'a RoaringBitmap),
}

impl List<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            List::Ids(ids) => ids.len(),
            List::Pairs(pairs) => pairs.len(),
            List::Set(ids) => usize::try_from(ids.len()).unwrap_or(usize::MAX),
        }
    }

    /// Calls `visit` for each.
    pub(super) fn each(&self, mut visit: impl FnMut(u32)) {
        match self {
            List::Ids(ids) => ids.iter().for_each(|id| visit(*id)),
            List::Pairs(pairs) => pairs.iter().for_each(|pair| visit(pair.id)),
            List::Set(ids) => ids.iter().for_each(visit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::collections::BTreeSet;

    fn listed(lists: &Lists, kind: u32) -> Vec<u32> {
        let mut ids = Vec::new();
        lists.of(kind).each(|id| ids.push(id));
        assert_eq!(ids.len(), lists.of(kind).len());
        ids
    }

    /// Lists so many subscriptions of so many types in an order that follows nothing, takes half of them
    /// off again and then all; beside it a model of sets.
    fn check(kinds: u32, ids: u32, form: fn(&Lists) -> bool) {
        let mut chance = fastrand::Rng::with_seed(u64::from(kinds * ids));
        let mut pairs: Vec<(u32, u32)> =
            (0..kinds).flat_map(|kind| (0..ids).map(move |id| (kind, id))).collect();
        chance.shuffle(&mut pairs);
        let mut model: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let (first, rest) = pairs.split_first().unwrap();
        let mut lists = Lists::new(first.0, first.1);
        model.entry(first.0).or_default().insert(first.1);
        for (kind, id) in rest {
            let is_first = !model.contains_key(kind);
            assert_eq!(lists.insert(*kind, *id), is_first, "{kind} {id}");
            assert!(!lists.insert(*kind, *id), "again changes nothing");
            model.entry(*kind).or_default().insert(*id);
        }
        assert!(form(&lists), "{kinds} types of {ids}");
        chance.shuffle(&mut pairs);
        for (kind, id) in &pairs {
            let all = model.get_mut(kind).unwrap();
            all.remove(id);
            assert_eq!(lists.remove(*kind, *id), all.is_empty(), "{kind} {id}");
            assert!(!lists.remove(*kind, *id), "again changes nothing");
            for kind in [*kind, (*kind + 1) % kinds, kinds] {
                let expected = model.get(&kind).into_iter().flatten().copied();
                assert_eq!(listed(&lists, kind), expected.collect::<Vec<_>>(), "{kind}");
            }
        }
        assert!(lists.is_empty());
    }

    #[test]
    fn whatever_its_form_a_list_is_ascending_and_names_each_once() {
        check(1, 1, |lists| matches!(lists, Lists::One { .. }));
        check(1, 10, |lists| matches!(lists, Lists::One { .. }));
        check(1, 11, |lists| matches!(lists, Lists::Block(_)));
        check(2, 2, |lists| matches!(lists, Lists::Block(_)));
        check(8, 8, |lists| matches!(lists, Lists::Block(_)));
        check(32, 10, |lists| matches!(lists, Lists::Map(_)));
        check(40, 40, |lists| matches!(lists, Lists::Map(_)));
        check(2, 600, |lists| matches!(lists, Lists::Map(_)));
    }

    #[test]
    fn what_most_numbers_have_fits_beside_its_key() {
        assert_eq!(size_of::<Lists>(), 48);
    }
}
