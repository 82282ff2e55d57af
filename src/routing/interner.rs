//! Interns names as small ids for as long as a list is kept under them. A name has one id and an id one name,
//! from the first list until the last is gone. Ids are then reused, because the set of names is open and
//! would otherwise grow with every name ever registered.

use std::borrow::Borrow;
use std::hash::Hash;

use foldhash::HashMap;

/// Small ids for names.
#[derive(Debug)]
pub(super) struct Interner<K> {
    by_name: HashMap<K, Interned>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Interned {
    id: u32,
    /// How many lists are kept under the name.
    lists: usize,
}

impl<K> Default for Interner<K> {
    fn default() -> Interner<K> {
        Interner { by_name: HashMap::default(), free: Vec::new() }
    }
}

impl<K: Hash + Eq> Interner<K> {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The id of a name, assigned now if it has none. It is kept only by a [`hold`](Interner::hold).
    pub(super) fn intern<Q>(&mut self, name: &Q, to_owned: impl FnOnce(&Q) -> K) -> u32
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(interned) = self.by_name.get(name) {
            return interned.id;
        }
        // Ids are 1 to the number of names, and there are fewer names than fit into memory.
        let next = u32::try_from(self.by_name.len() + 1).unwrap_or(u32::MAX);
        let id = self.free.pop().unwrap_or(next);
        self.by_name.insert(to_owned(name), Interned { id, lists: 0 });
        id
    }

    pub(super) fn id<Q: Hash + Eq + ?Sized>(&self, name: &Q) -> Option<u32>
    where
        K: Borrow<Q>,
    {
        self.by_name.get(name).map(|name| name.id)
    }

    pub(super) fn hold<Q: Hash + Eq + ?Sized>(&mut self, name: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some(name) = self.by_name.get_mut(name) {
            name.lists += 1;
        }
    }

    pub(super) fn release<Q: Hash + Eq + ?Sized>(&mut self, name: &Q)
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
