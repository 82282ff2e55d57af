//! Which generation holds which event, and what each generation contains.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use roaring::RoaringTreemap;

use super::owed::{EventCount, OwedCounts};
use crate::outbox::accounts::events::{AccountRef, EventAccounts};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Generation {
    pub(crate) number: u64,
    /// Events accepted into it have this sequence or a greater one, below the next generation's.
    pub(crate) first_sequence: u64,
    /// The size of the keys and values written to it.
    pub(crate) bytes: u64,
    /// Events in it, including events copied into it.
    pub(crate) events: u64,
    /// Deliveries of its events that are owed.
    pub(crate) owed: u64,
    /// Head pages and settle pages in it. A sealed generation must still have as many when it is read.
    pub(crate) pages: u64,
}

/// All generations, by number, and where events are.
#[derive(Debug)]
pub(crate) struct GenerationIndex {
    generations: BTreeMap<u64, (Generation, OwedCounts)>,
    /// The first own sequence of each generation and its number. Of several generations with the same first
    /// sequence only the newest has events of its own.
    begins: BTreeSet<(u64, u64)>,
    moved: HashMap<u64, MovedEvent>,
    totals: OutboxUsage,
    accounts: Arc<EventAccounts>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct MovedEvent {
    pub(crate) generation: u64,
    pub(crate) deliveries: u32,
    pub(crate) payload_bytes: u32,
    pub(crate) account: AccountRef,
}

/// What is owed, and what is on the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OutboxUsage {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    /// Events with a delivery that is owed.
    pub(crate) owed_events: u64,
    /// The payloads of these events.
    pub(crate) owed_bytes: u64,
    pub(crate) generations: usize,
}

impl OutboxUsage {
    /// Counts an event whose deliveries changed from none to some, or back, also for its account.
    fn changed(&mut self, accounts: &EventAccounts, event: EventCount, deliveries: u32) {
        let bytes = u64::from(event.payload_bytes);
        if (event.deliveries > 0) == (deliveries > 0) {
            return;
        }
        let share = accounts.share(event.account);
        if deliveries > 0 {
            self.owed_events += 1;
            self.owed_bytes += bytes;
            share.inspect(|share| share.owe(bytes));
        } else {
            self.owed_events -= 1;
            self.owed_bytes -= bytes;
            share.inspect(|share| share.settle(bytes));
        }
    }
}

impl GenerationIndex {
    pub(super) fn new(accounts: Arc<EventAccounts>) -> GenerationIndex {
        GenerationIndex {
            generations: BTreeMap::new(),
            begins: BTreeSet::new(),
            moved: HashMap::new(),
            totals: OutboxUsage::default(),
            accounts,
        }
    }

    pub(crate) fn add(&mut self, generation: Generation) {
        self.begins.insert((generation.first_sequence, generation.number));
        self.totals.events += generation.events;
        self.totals.bytes += generation.bytes;
        self.generations.insert(generation.number, (generation, OwedCounts::default()));
    }

    /// Adds own events of a generation, in ascending order, that are counted in it already.
    pub(crate) fn add_events(&mut self, number: u64, events: impl Iterator<Item = EventCount>) {
        let Some((_, counts)) = self.generations.get_mut(&number) else { return };
        for event in events {
            counts.push(event);
            let none = EventCount { deliveries: 0, ..event };
            self.totals.changed(&self.accounts, none, event.deliveries);
        }
    }

    /// Adds an event that was copied and is counted in its generation already.
    pub(crate) fn add_moved(&mut self, sequence: u64, moved: MovedEvent) {
        let none = EventCount { deliveries: 0, ..moved.count(sequence) };
        self.totals.changed(&self.accounts, none, moved.deliveries);
        self.moved.insert(sequence, moved);
    }

    pub(super) fn remove(&mut self, number: u64) {
        if let Some((gone, counts)) = self.generations.remove(&number) {
            self.begins.remove(&(gone.first_sequence, gone.number));
            self.totals.events -= gone.events;
            self.totals.bytes -= gone.bytes;
            counts.owed().for_each(|event| self.totals.changed(&self.accounts, event, 0));
        }
        let (totals, accounts) = (&mut self.totals, &self.accounts);
        self.moved.retain(|sequence, moved| {
            let stays = moved.generation != number;
            if !stays {
                totals.changed(accounts, moved.count(*sequence), 0);
            }
            stays
        });
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.generations.contains_key(&number)
    }

    pub(super) fn totals(&self) -> OutboxUsage {
        OutboxUsage { generations: self.generations.len(), ..self.totals }
    }

    pub(super) fn newest(&self) -> Option<&Generation> {
        self.generations.last_key_value().map(|(_, (newest, _))| newest)
    }

    /// The numbers of all generations but the newest, in order.
    pub(super) fn sealed_numbers(&self) -> Vec<u64> {
        let newest = self.newest().map(|newest| newest.number);
        self.generations.keys().copied().filter(|number| Some(*number) != newest).collect()
    }

    pub(super) fn oldest_sealed(&self) -> Option<&Generation> {
        let oldest = self.generations.first_key_value().map(|(_, (oldest, _))| oldest);
        oldest.filter(|_| self.generations.len() > 1)
    }

    /// The counts of all sealed generations added up, under the number 0.
    pub(super) fn sealed_total(&self) -> Generation {
        let sealed = self.generations.len().saturating_sub(1);
        let mut total = Generation::default();
        for (generation, _) in self.generations.values().take(sealed) {
            total.bytes += generation.bytes;
            total.events += generation.events;
            total.owed += generation.owed.min(generation.events);
        }
        total
    }

    pub(super) fn generation_of(&self, sequence: u64) -> Option<u64> {
        let own = || self.begins.range(..=(sequence, u64::MAX)).next_back();
        let moved = self.moved.get(&sequence).map(|moved| moved.generation);
        moved.or_else(|| own().map(|(_, number)| *number))
    }

    /// The sequences of the events in a generation, below `next_sequence`. May include sequences that no event
    /// has.
    pub(super) fn sequences_in(&self, number: u64, next_sequence: u64) -> RoaringTreemap {
        let mut sequences = RoaringTreemap::new();
        if let Some((generation, _)) = self.generations.get(&number) {
            let after = self.begins.range((generation.first_sequence, number + 1)..).next();
            let end = after.map_or(next_sequence, |(begin, _)| next_sequence.min(*begin));
            sequences.insert_range(generation.first_sequence..end);
        }
        self.moved.keys().for_each(|sequence| {
            sequences.remove(*sequence);
        });
        let inside = self.moved.iter().filter(|(_, moved)| moved.generation == number);
        sequences.extend(inside.map(|(sequence, _)| *sequence));
        sequences
    }

    /// Changes what is known of a generation. Returns its page count where that changed.
    pub(super) fn change(
        &mut self,
        number: u64,
        change: impl FnOnce(&mut Generation),
    ) -> Option<u64> {
        let (generation, _) = self.generations.get_mut(&number)?;
        let Generation { events, bytes, pages, .. } = *generation;
        change(generation);
        self.totals.events = self.totals.events - events + generation.events;
        self.totals.bytes = self.totals.bytes - bytes + generation.bytes;
        (generation.pages != pages).then_some(generation.pages)
    }

    pub(crate) fn ended(&mut self, sequence: u64) {
        self.set_deliveries(sequence, |deliveries| deliveries.saturating_sub(1));
    }

    pub(crate) fn revived(&mut self, sequence: u64) {
        self.set_deliveries(sequence, |deliveries| deliveries.saturating_add(1));
    }

    fn set_deliveries(&mut self, sequence: u64, change: impl FnOnce(u32) -> u32) {
        let Some(number) = self.generation_of(sequence) else { return };
        let Some((generation, counts)) = self.generations.get_mut(&number) else { return };
        let moved = self.moved.get_mut(&sequence);
        let before = moved.as_ref().map(|moved| moved.count(sequence));
        let Some(before) = before.or_else(|| counts.get(sequence)) else { return };
        let deliveries = change(before.deliveries);
        match moved {
            Some(moved) => moved.deliveries = deliveries,
            None => counts.set(sequence, deliveries),
        }
        let owed = generation.owed.saturating_sub(u64::from(before.deliveries));
        generation.owed = owed + u64::from(deliveries);
        self.totals.changed(&self.accounts, before, deliveries);
    }

    pub(super) fn account_of(&self, sequence: u64) -> AccountRef {
        if let Some(moved) = self.moved.get(&sequence) {
            return moved.account;
        }
        let own = self.generation_of(sequence).and_then(|number| self.generations.get(&number));
        own.and_then(|(_, counts)| counts.get(sequence))
            .map_or(AccountRef::default(), |event| event.account)
    }

    /// Notes that an event, with the deliveries that it owes, was copied to another generation.
    pub(crate) fn moved(&mut self, sequence: u64, owed: u32, to: u64) {
        let count = self.moved.get(&sequence).map(|moved| moved.count(sequence));
        let mut before = count;
        let from = self.generation_of(sequence).and_then(|from| self.generations.get_mut(&from));
        if let Some((from, counts)) = from {
            before = before.or_else(|| counts.get(sequence));
            counts.set(sequence, 0);
            let deliveries = before.map_or(0, |before| before.deliveries);
            from.owed = from.owed.saturating_sub(u64::from(deliveries));
            from.events = from.events.saturating_sub(1);
        }
        let account = AccountRef::default();
        let unknown = EventCount { sequence, deliveries: 0, payload_bytes: 0, account };
        let before = before.unwrap_or(unknown);
        if let Some((to, _)) = self.generations.get_mut(&to) {
            to.owed += u64::from(owed);
            to.events += 1;
        }
        self.totals.changed(&self.accounts, before, owed);
        let EventCount { payload_bytes, account, .. } = before;
        let moved = MovedEvent { generation: to, deliveries: owed, payload_bytes, account };
        self.moved.insert(sequence, moved);
    }
}

impl MovedEvent {
    fn count(&self, sequence: u64) -> EventCount {
        let MovedEvent { deliveries, payload_bytes, account, .. } = *self;
        EventCount { sequence, deliveries, payload_bytes, account }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::accounts::shares::tests::shares_of;

    fn accounts() -> Arc<EventAccounts> {
        Arc::new(EventAccounts::new(shares_of(&["acme", "beta"])))
    }

    fn index(first_sequences: &[u64]) -> GenerationIndex {
        let mut index = GenerationIndex::new(accounts());
        for (number, first_sequence) in (1..).zip(first_sequences.iter().copied()) {
            index.add(Generation { number, first_sequence, ..Generation::default() });
        }
        index
    }

    fn sequences(index: &GenerationIndex, number: u64, next_sequence: u64) -> Vec<u64> {
        index.sequences_in(number, next_sequence).iter().collect()
    }

    #[test]
    fn the_sequences_of_a_generation_end_where_the_next_begins() {
        let index = index(&[1, 4, 4, 8]);
        assert_eq!(sequences(&index, 1, 10), [1, 2, 3]);
        assert_eq!(sequences(&index, 2, 10), [0; 0], "nothing was accepted into it");
        assert_eq!(sequences(&index, 3, 10), [4, 5, 6, 7]);
        // Without the bound this would fill memory until the process ends.
        assert_eq!(sequences(&index, 4, 10), [8, 9]);
        assert_eq!(sequences(&index, 9, 10), [0; 0], "there is no such generation");
    }

    fn event(sequence: u64, deliveries: u32) -> EventCount {
        EventCount { sequence, deliveries, payload_bytes: 100, account: AccountRef::default() }
    }

    #[test]
    fn what_is_owed_is_counted_by_account_through_every_change() {
        let mut index = index(&[1, 4]);
        let accounts = Arc::clone(&index.accounts);
        let (acme, beta) = (accounts.refer("acme"), accounts.refer("beta"));
        let of =
            |account, sequence, deliveries| EventCount { account, ..event(sequence, deliveries) };
        let owed = || [acme, beta].map(|account| accounts.share(account).unwrap().owed());
        index.add_events(1, [of(acme, 1, 2), of(beta, 2, 1), of(acme, 3, 1)].into_iter());
        assert_eq!(owed(), [(2, 200), (1, 100)]);
        index.ended(1);
        index.ended(3);
        assert_eq!(owed(), [(1, 100), (1, 100)], "one of two deliveries is left");
        index.revived(3);
        index.moved(3, 1, 2);
        assert_eq!((owed(), index.account_of(3)), ([(2, 200), (1, 100)], acme));
        index.remove(1);
        assert_eq!((owed(), index.account_of(2)), ([(1, 100), (0, 0)], AccountRef::default()));
        index.ended(3);
        assert_eq!(owed(), [(0, 0), (0, 0)]);
    }

    #[test]
    fn a_moved_event_is_only_in_its_new_generation() {
        let mut index = index(&[1, 4]);
        index.add_events(1, (1..4).map(|sequence| event(sequence, 1)));
        index.moved(2, 0, 2);
        assert_eq!(sequences(&index, 1, 6), [1, 3]);
        assert_eq!(sequences(&index, 2, 6), [2, 4, 5]);
    }

    #[test]
    fn the_totals_follow_every_change() {
        let mut index = index(&[1, 4]);
        index.change(1, |one| (one.events, one.bytes, one.owed) = (3, 300, 5));
        assert_eq!(index.change(2, |two| (two.events, two.bytes, two.pages) = (1, 50, 2)), Some(2));
        index.add_events(1, [event(1, 2), event(2, 2), event(3, 1)].into_iter());
        index.add_events(2, [event(4, 0)].into_iter());
        let totals = |events, bytes, owed_events| OutboxUsage {
            events,
            bytes,
            owed_events,
            owed_bytes: 100 * owed_events,
            generations: if events > 2 { 2 } else { 1 },
        };
        assert_eq!(index.totals(), totals(4, 350, 3));
        index.ended(1);
        assert_eq!(index.totals(), totals(4, 350, 3), "one of two deliveries is left");
        index.ended(1);
        index.ended(1);
        assert_eq!(index.totals(), totals(4, 350, 2));
        index.revived(1);
        index.moved(2, 1, 2);
        assert_eq!(index.totals(), totals(4, 350, 3));
        assert_eq!(index.sealed_total().owed, 2);
        index.remove(1);
        assert_eq!(index.totals(), totals(2, 50, 1));
        index.ended(2);
        assert_eq!(index.totals(), totals(2, 50, 0));
    }
}
