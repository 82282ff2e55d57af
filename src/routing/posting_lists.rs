//! The posting lists of one number: its subscriptions by event type. A list is ascending and contains a
//! subscription once; no empty list is kept.
//!
//! A look-up of a number that was not used recently mostly waits for memory. So the common case, one type and
//! a few subscriptions, lies in the index's map itself and costs one read. More types lie in one block, which
//! costs two; only long lists have maps of their own.

use foldhash::HashMap;
use roaring::RoaringBitmap;

/// The subscriptions listed under one number, or under all numbers of an account.
#[derive(Debug)]
pub(super) enum PostingLists {
    /// One type and few subscriptions. The fields are inline because a struct would take 8 bytes more.
    One { kind: u32, count: u8, ids: [u32; ONE_MAX] },
    /// Any types, ordered by type and then by id.
    Block(Vec<Posting>),
    /// Too many to scan for every look-up.
    Map(Box<HashMap<u32, LongList>>),
}

/// One subscription in the list of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Posting {
    kind: u32,
    id: u32,
}

/// How many ids fit into 64 bytes together with the key.
const ONE_MAX: usize = 10;

/// A longer block becomes a map, because scanning it costs more than two more reads.
const BLOCK_MAX: usize = 64;

impl PostingLists {
    /// Lists with one subscription.
    pub(super) fn new(kind: u32, id: u32) -> PostingLists {
        PostingLists::One { kind, count: 1, ids: [id; ONE_MAX] }
    }

    /// Adds a subscription. Returns whether it is the first of its type.
    pub(super) fn insert(&mut self, kind: u32, id: u32) -> bool {
        match self {
            PostingLists::One { kind: only, count, ids } => {
                if *only == kind && insert_id(count, ids, id) {
                    return false;
                }
                let pair = |id: &u32| Posting { kind: *only, id: *id };
                let mut block: Vec<_> = counted(*count, ids).iter().map(pair).collect();
                let is_first = insert_pair(&mut block, Posting { kind, id });
                *self = PostingLists::Block(block);
                is_first
            }
            PostingLists::Block(block) => {
                let is_first = insert_pair(block, Posting { kind, id });
                if block.len() > BLOCK_MAX {
                    *self = PostingLists::Map(Box::new(map_of(block)));
                }
                is_first
            }
            PostingLists::Map(map) => {
                let long = map.entry(kind).or_default();
                let was_empty = long.is_empty();
                long.insert(id);
                was_empty
            }
        }
    }

    /// Removes a subscription. Returns whether it was the last of its type.
    pub(super) fn remove(&mut self, kind: u32, id: u32) -> bool {
        match self {
            PostingLists::One { kind: only, count, ids } => {
                *only == kind && remove_id(count, ids, id) && *count == 0
            }
            PostingLists::Block(block) => {
                let Ok(at) = block.binary_search(&Posting { kind, id }) else { return false };
                block.remove(at);
                pairs_of(block, kind).is_empty()
            }
            PostingLists::Map(map) => {
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
            PostingLists::One { count, .. } => *count == 0,
            PostingLists::Block(block) => block.is_empty(),
            PostingLists::Map(map) => map.is_empty(),
        }
    }

    /// How many subscriptions are in all lists together.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        match self {
            PostingLists::One { count, .. } => usize::from(*count),
            PostingLists::Block(block) => block.len(),
            PostingLists::Map(map) => map.values().map(|long| long.list().len()).sum(),
        }
    }

    /// The list of a type.
    pub(super) fn of(&self, kind: u32) -> PostingList<'_> {
        match self {
            PostingLists::One { kind: only, count, ids } if *only == kind => {
                PostingList::Ids(counted(*count, ids))
            }
            PostingLists::One { .. } => PostingList::Ids(&[]),
            PostingLists::Block(block) => PostingList::Pairs(pairs_of(block, kind)),
            PostingLists::Map(map) => map.get(&kind).map_or(PostingList::Ids(&[]), LongList::list),
        }
    }
}

fn counted(count: u8, ids: &[u32; ONE_MAX]) -> &[u32] {
    ids.get(..usize::from(count)).unwrap_or_default()
}

/// Returns whether the id is in the list now; false if there is no room.
fn insert_id(count: &mut u8, ids: &mut [u32; ONE_MAX], id: u32) -> bool {
    let Err(at) = counted(*count, ids).binary_search(&id) else { return true };
    if usize::from(*count) == ONE_MAX {
        return false;
    }
    *count += 1;
    // The free place behind the last id moves to where the new id belongs.
    if let Some(moved) = ids.get_mut(at..usize::from(*count)) {
        moved.rotate_right(1);
    }
    if let Some(place) = ids.get_mut(at) {
        *place = id;
    }
    true
}

/// Returns whether the id was in the list.
fn remove_id(count: &mut u8, ids: &mut [u32; ONE_MAX], id: u32) -> bool {
    let Ok(at) = counted(*count, ids).binary_search(&id) else { return false };
    if let Some(moved) = ids.get_mut(at..usize::from(*count)) {
        moved.rotate_left(1);
    }
    *count -= 1;
    true
}

/// Returns whether the posting is the first of its type.
fn insert_pair(block: &mut Vec<Posting>, pair: Posting) -> bool {
    let Err(at) = block.binary_search(&pair) else { return false };
    let is_first = pairs_of(block, pair.kind).is_empty();
    block.insert(at, pair);
    is_first
}

fn pairs_of(block: &[Posting], kind: u32) -> &[Posting] {
    let start = block.iter().position(|pair| pair.kind >= kind).unwrap_or(block.len());
    let from_here = block.get(start..).unwrap_or_default();
    let end = from_here.iter().position(|pair| pair.kind != kind).unwrap_or(from_here.len());
    from_here.get(..end).unwrap_or_default()
}

fn map_of(block: &[Posting]) -> HashMap<u32, LongList> {
    let mut map = HashMap::<u32, LongList>::default();
    block.iter().for_each(|pair| map.entry(pair.kind).or_default().insert(pair.id));
    map
}

/// One list of a map.
#[derive(Debug)]
pub(super) enum LongList {
    Few(Vec<u32>),
    /// A bitmap, so that a removal moves little memory.
    Many(RoaringBitmap),
}

/// A longer list becomes a bitmap, because moving more ids costs more than finding a container.
const FEW_MAX: usize = 256;

impl Default for LongList {
    fn default() -> LongList {
        LongList::Few(Vec::new())
    }
}

impl LongList {
    fn insert(&mut self, id: u32) {
        match self {
            LongList::Few(ids) => {
                let Err(at) = ids.binary_search(&id) else { return };
                ids.insert(at, id);
                if ids.len() > FEW_MAX {
                    *self = LongList::Many(ids.iter().copied().collect());
                }
            }
            LongList::Many(ids) => {
                ids.insert(id);
            }
        }
    }

    fn remove(&mut self, id: u32) -> bool {
        match self {
            LongList::Few(ids) => ids.binary_search(&id).map(|at| ids.remove(at)).is_ok(),
            LongList::Many(ids) => ids.remove(id),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            LongList::Few(ids) => ids.is_empty(),
            LongList::Many(ids) => ids.is_empty(),
        }
    }

    fn list(&self) -> PostingList<'_> {
        match self {
            LongList::Few(ids) => PostingList::Ids(ids),
            LongList::Many(ids) => PostingList::Set(ids),
        }
    }
}

/// The subscriptions of one type, ascending.
#[derive(Debug, Clone, Copy)]
pub(super) enum PostingList<'a> {
    Ids(&'a [u32]),
    Pairs(&'a [Posting]),
    Set(&'a RoaringBitmap),
}

impl PostingList<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            PostingList::Ids(ids) => ids.len(),
            PostingList::Pairs(pairs) => pairs.len(),
            PostingList::Set(ids) => usize::try_from(ids.len()).unwrap_or(usize::MAX),
        }
    }

    /// Calls `visit` for each.
    pub(super) fn each(&self, mut visit: impl FnMut(u32)) {
        match self {
            PostingList::Ids(ids) => ids.iter().for_each(|id| visit(*id)),
            PostingList::Pairs(pairs) => pairs.iter().for_each(|pair| visit(pair.id)),
            PostingList::Set(ids) => ids.iter().for_each(visit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::collections::BTreeSet;

    fn listed(lists: &PostingLists, kind: u32) -> Vec<u32> {
        let mut ids = Vec::new();
        lists.of(kind).each(|id| ids.push(id));
        assert_eq!(ids.len(), lists.of(kind).len());
        ids
    }

    /// Adds `ids` subscriptions for each of `kinds` types in random order, removes all in another, and
    /// compares with sets after each step.
    fn check(kinds: u32, ids: u32, form: fn(&PostingLists) -> bool) {
        let mut chance = fastrand::Rng::with_seed(u64::from(kinds * ids));
        let mut pairs: Vec<(u32, u32)> =
            (0..kinds).flat_map(|kind| (0..ids).map(move |id| (kind, id))).collect();
        chance.shuffle(&mut pairs);
        let mut model: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let (first, rest) = pairs.split_first().unwrap();
        let mut lists = PostingLists::new(first.0, first.1);
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
    fn every_form_of_a_list_is_ascending_and_without_duplicates() {
        check(1, 1, |lists| matches!(lists, PostingLists::One { .. }));
        check(1, 10, |lists| matches!(lists, PostingLists::One { .. }));
        check(1, 11, |lists| matches!(lists, PostingLists::Block(_)));
        check(2, 2, |lists| matches!(lists, PostingLists::Block(_)));
        check(8, 8, |lists| matches!(lists, PostingLists::Block(_)));
        check(32, 10, |lists| matches!(lists, PostingLists::Map(_)));
        check(40, 40, |lists| matches!(lists, PostingLists::Map(_)));
        check(2, 600, |lists| matches!(lists, PostingLists::Map(_)));
    }

    #[test]
    fn the_common_case_fits_into_64_bytes_with_its_key() {
        assert_eq!(size_of::<PostingLists>(), 48);
    }
}
