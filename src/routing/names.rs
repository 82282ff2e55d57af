//! Decides which small id stands for a name, as long as a list is kept under it.
//!
//! Leaves to others: what the names are. Invariant: a name has one id, and an id one name, from the first
//! list until the last is gone; ids are given back then, because the vocabulary is open and would grow
//! with every name ever registered.

use std::borrow::Borrow;
use std::hash::Hash;

use foldhash::HashMap;

/// Small ids for names.
#[derive(Debug)]
pub(super) struct Names<K> {
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
        Names { by_name: HashMap::default(), free: Vec::new() }
    }
}

impl<K: Hash + Eq> Names<K> {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The id of a name, given now where it has none. Without a [`hold`](Names::hold) it is free.
    pub(super) fn name<Q>(&mut self, name: &Q, own: impl FnOnce(&Q) -> K) -> u32
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
