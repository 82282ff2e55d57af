//! The idle connections of a loop in the order in which they became idle, so that the oldest is found and
//! any of them taken out at once.

/// A list of slots, linked through a table of their neighbours.
#[derive(Debug, Default)]
pub(super) struct IdleList {
    links: Vec<Link>,
    oldest: Option<usize>,
    newest: Option<usize>,
    len: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Link {
    older: Option<usize>,
    newer: Option<usize>,
    is_in: bool,
}

impl IdleList {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn oldest(&self) -> Option<usize> {
        self.oldest
    }

    /// Adds a slot that is not in the list, as the newest.
    pub(super) fn push(&mut self, slot: usize) {
        if slot >= self.links.len() {
            self.links.resize(slot + 1, Link::default());
        }
        let older = self.newest.replace(slot);
        self.set(slot, Link { older, newer: None, is_in: true });
        match older {
            Some(older) => self.change(older, |link| link.newer = Some(slot)),
            None => self.oldest = Some(slot),
        }
        self.len += 1;
    }

    /// Takes a slot out, if it is in the list.
    pub(super) fn remove(&mut self, slot: usize) {
        let Some(link) = self.links.get(slot).copied().filter(|link| link.is_in) else { return };
        match link.older {
            Some(older) => self.change(older, |other| other.newer = link.newer),
            None => self.oldest = link.newer,
        }
        match link.newer {
            Some(newer) => self.change(newer, |other| other.older = link.older),
            None => self.newest = link.older,
        }
        self.set(slot, Link::default());
        self.len -= 1;
    }

    fn set(&mut self, slot: usize, link: Link) {
        self.change(slot, |known| *known = link);
    }

    fn change(&mut self, slot: usize, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.get_mut(slot) {
            change(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_comes_first_whatever_is_taken_out_between() {
        let mut list = IdleList::default();
        for slot in [3, 0, 5, 1] {
            list.push(slot);
        }
        list.remove(0);
        list.remove(0);
        list.remove(9);
        list.remove(1);
        list.push(0);
        let order: Vec<_> = std::iter::from_fn(|| {
            let oldest = list.oldest()?;
            list.remove(oldest);
            Some(oldest)
        })
        .collect();
        assert_eq!(order, [3, 5, 0]);
        assert_eq!(list.len(), 0);
    }
}
