//! Lists, reads and replays dead letters. A delivery that others waited for (`after`) is owed again together
//! with those that ended because of it, so none of them can overtake it (I2). A filter by account shows the
//! dead letters of no other (I9).

use std::collections::HashSet;

use super::dead_letter_filter::{DeadLetterFilter, DeadLetterId};
use crate::attempt::{DeadLetter, DeliveryId, FailedAttempt, Reason, StoredDeadLetter};
use crate::engine::page::READ_FOR_PAGE_MAX;
use crate::engine::shared::Shared;
use crate::engine::{Engine, Page};
use crate::error::{Error, Result};
use crate::event::{EventId, StoredEvent};
use crate::outbox::{AccountRefs, OwnerPages};
use crate::subscription::SubscriptionId;

const PLACES_AT_ONCE: usize = 256;

/// How many deliveries are replayed in one group, so that other commands do not wait long behind it.
const REVIVED_AT_ONCE: usize = 1_024;

impl Engine {
    /// Lists dead letters, newest first, at most `count_max`. Pass the `next` of a page as `after` to get
    /// the next one, also if that page's letters were replayed meanwhile. A page has fewer letters, or none, if
    /// few of those read for it match the filter; the listing ends where `next` is `None`.
    ///
    /// ```
    /// # use wabahook::{Config, Engine};
    /// use wabahook::DeadLetterFilter;
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let filter = DeadLetterFilter::default().reason("status:404");
    /// let page = engine.dead_letters(&filter, None, 100)?;
    /// if page.next.is_some() {
    ///     let next = engine.dead_letters(&filter, page.next, 100)?;
    /// #   assert!(next.items.is_empty());
    /// }
    /// # engine.close(std::time::Duration::from_secs(1))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`] when `after` is not a dead letter, or was removed long ago or before the
    /// engine was opened; [`Error::Store`] or [`Error::Damaged`] when one cannot be read;
    /// [`Error::Unknown`] while the outbox is opened again after a failed write: list them again later.
    pub fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterId>,
        count_max: usize,
    ) -> Result<Page<DeadLetter, DeadLetterId>> {
        self.shared.check_open()?;
        if after.is_none() {
            self.shared.settle_ends();
        }
        let filter = &filter.resolved(self.accounts());
        let read_max = count_max.max(READ_FOR_PAGE_MAX);
        self.shared.dead_letters(filter, after, count_max, read_max)
    }

    /// Counts the dead letters that match a filter: those that
    /// [`discard_matching`](Engine::discard_matching) would discard now.
    ///
    /// # Errors
    /// As [`dead_letters`](Engine::dead_letters).
    pub fn count_dead_letters(&self, filter: &DeadLetterFilter) -> Result<u64> {
        self.shared.check_open()?;
        self.shared.settle_ends();
        Ok(self.shared.all_dead_letters(filter)?.len() as u64)
    }

    /// Counts the deliveries that [`replay_matching`](Engine::replay_matching) would owe again now.
    ///
    /// # Errors
    /// As [`dead_letters`](Engine::dead_letters).
    pub fn count_replayable(&self, filter: &DeadLetterFilter) -> Result<u64> {
        self.shared.check_open()?;
        self.shared.settle_ends();
        let letters = self.shared.all_dead_letters(filter)?;
        let groups = self.shared.revivals(letters.iter().map(DeadLetter::id))?;
        Ok(groups.iter().flatten().map(|together| together.len() as u64).sum())
    }

    /// One dead letter, with its kept failed attempts, oldest first.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Damaged`] when it cannot be read.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Event, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// use wabahook::DeadLetterFilter;
    ///
    /// for letter in engine.dead_letters(&DeadLetterFilter::default(), None, 10)?.items {
    ///     let Some((letter, attempts)) = engine.dead_letter(letter.id())? else { continue };
    ///     println!("{} after {} attempts: {}", letter.id(), letter.attempts, letter.reason);
    ///     for attempt in attempts {
    ///         println!("  {}: {}, {:?}", attempt.number, attempt.reason, attempt.took);
    ///     }
    /// }
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dead_letter(
        &self,
        id: DeadLetterId,
    ) -> Result<Option<(DeadLetter, Vec<FailedAttempt>)>> {
        self.shared.check_open()?;
        let Ok(delivery) = self.shared.delivery_of(id.event, id.subscription) else {
            return Ok(None);
        };
        let Some(letter) = self.shared.letter(delivery)? else { return Ok(None) };
        let history = self.shared.outbox.history(delivery)?;
        Ok(Some((self.shared.shown(letter, &mut OwnerPages::default())?, history)))
    }

    /// The event of a dead letter, with its payload.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the letter was removed or is of another outbox; [`Error::Store`] or
    /// [`Error::Damaged`] when it cannot be read.
    pub fn event_of(&self, letter: DeadLetterId) -> Result<std::sync::Arc<StoredEvent>> {
        self.shared.check_open()?;
        let delivery = self.shared.delivery_of(letter.event, letter.subscription)?;
        let gone = || Error::NotFound { what: "dead letter", given: letter.to_string() };
        self.shared.letter(delivery)?.ok_or_else(gone)?;
        self.shared.outbox.event(delivery.sequence)
    }

    /// The kept failed attempts of a delivery, oldest first, at most
    /// [`HISTORY_MAX`](crate::HISTORY_MAX). Empty for a delivery that never failed, was delivered, or was
    /// replayed and has not failed since.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the event is of another outbox; [`Error::Store`] or
    /// [`Error::Damaged`] when an attempt cannot be read.
    pub fn history(
        &self,
        event: EventId,
        subscription: SubscriptionId,
    ) -> Result<Vec<FailedAttempt>> {
        self.shared.check_open()?;
        self.shared.settle_ends();
        self.shared.outbox.history(self.shared.delivery_of(event, subscription)?)
    }

    /// Replays a dead letter: it is owed again, from its first attempt on and with the same `webhook-id`,
    /// together with the dead letters of the same event that ended because of it (`gate`). Durable when
    /// it returns: blocks on a sync. A letter that was removed or replayed before is ignored.
    ///
    /// # Errors
    /// [`Error::NotFound`] when its subscription was removed, or the event is of another outbox; the letter
    /// is then unchanged. [`Error::Refused`] or [`Error::Unknown`] while the device refuses; it is then
    /// replayed when the device takes writes.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Event, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// use wabahook::DeadLetterFilter;
    ///
    /// for letter in engine.dead_letters(&DeadLetterFilter::default().reason("status:404"), None, 10)?.items {
    ///     engine.replay(&letter)?;
    /// }
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn replay(&self, letter: &DeadLetter) -> Result<()> {
        self.shared.check_open()?;
        let delivery = self.shared.delivery_of(letter.event, letter.subscription)?;
        self.shared.check_registered(letter.subscription)?;
        let together = self.shared.with_dependents(delivery)?;
        match self.shared.outbox.wait(self.shared.outbox.revive(vec![together]))? {
            // The subscription may have been removed meanwhile.
            0 => self.shared.check_registered(letter.subscription),
            _ => Ok(()),
        }
    }

    /// Replays all dead letters that match a filter, and returns how many deliveries are owed again.
    /// Letters of removed subscriptions are left out. Durable when it returns: blocks on one sync for
    /// about every thousand.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Damaged`] when a letter cannot be read; then none is replayed.
    /// [`Error::Refused`] or [`Error::Unknown`] as [`replay`](Engine::replay); then some may have been
    /// replayed.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Event, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// use wabahook::DeadLetterFilter;
    ///
    /// let crm = engine.subscribe(Subscription::to("https://crm.example/hook")?.name("crm"))?;
    /// let filter = DeadLetterFilter::default().subscription(crm).reason("status:404");
    /// assert_eq!(engine.replay_matching(&filter)?, 0); // none died
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn replay_matching(&self, filter: &DeadLetterFilter) -> Result<u64> {
        self.shared.check_open()?;
        self.shared.settle_ends();
        let letters = self.shared.all_dead_letters(filter)?;
        self.shared.revive_all(letters.iter().map(DeadLetter::id))
    }

    /// Replays the given dead letters. Letters that do not match the filter, were removed or replayed
    /// before, or whose subscription was removed, are ignored and not counted.
    ///
    /// # Errors
    /// As [`replay_matching`](Engine::replay_matching).
    pub fn replay_these(&self, ids: &[DeadLetterId], filter: &DeadLetterFilter) -> Result<u64> {
        self.shared.revive_all(self.shared.letters_among(ids, filter)?.into_iter())
    }
}

impl Shared {
    /// A dead letter. One that is not there may be in the group that is being written.
    fn letter(&self, delivery: DeliveryId) -> Result<Option<StoredDeadLetter>> {
        match self.outbox.letter(delivery)? {
            Some(letter) => Ok(Some(letter)),
            None => {
                self.settle_ends();
                self.outbox.letter(delivery)
            }
        }
    }

    /// Of these dead letters, those that are there and match the filter. What ended before this call is there.
    pub(in crate::engine) fn letters_among(
        &self,
        ids: &[DeadLetterId],
        filter: &DeadLetterFilter,
    ) -> Result<Vec<DeadLetterId>> {
        self.check_open()?;
        self.settle_ends();
        let filter = &filter.resolved(&self.accounts);
        let (mut meant, mut pages) = (Vec::new(), OwnerPages::default());
        for id in ids {
            // An event of another outbox has no dead letters here.
            let Ok(delivery) = self.delivery_of(id.event, id.subscription) else { continue };
            let letter = self.outbox.letter(delivery)?;
            let letter = letter.map(|letter| self.shown(letter, &mut pages)).transpose()?;
            meant.extend(letter.filter(|letter| filter.admits(letter)).map(|letter| letter.id()));
        }
        Ok(meant)
    }

    pub(in crate::engine) fn all_dead_letters(
        &self,
        filter: &DeadLetterFilter,
    ) -> Result<Vec<DeadLetter>> {
        let filter = &filter.resolved(&self.accounts);
        Ok(self.dead_letters(filter, None, usize::MAX, usize::MAX)?.items)
    }

    fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterId>,
        count_max: usize,
        read_max: usize,
    ) -> Result<Page<DeadLetter, DeadLetterId>> {
        let accounts = self.account_refs(filter.account.as_deref());
        let place_of = |id| self.place_of(id, accounts.as_ref());
        let mut position = after.map(place_of).transpose()?;
        let (mut found, mut pages, mut read) = (Vec::new(), OwnerPages::default(), 0);
        while found.len() < count_max && read < read_max {
            let accounts = accounts.as_ref();
            let places = self.outbox.letters_before(position, accounts, PLACES_AT_ONCE);
            if places.is_empty() {
                return Ok(Page { items: found, next: None });
            }
            for (at_ms, delivery) in places {
                if found.len() >= count_max || read >= read_max {
                    break;
                }
                position = Some((at_ms, delivery));
                if !filter.admits_moment(at_ms, delivery.subscription) {
                    continue;
                }
                read += 1;
                let letter = self.outbox.letter(delivery)?;
                let letter = letter.map(|letter| self.shown(letter, &mut pages)).transpose()?;
                found.extend(letter.filter(|letter| filter.admits(letter)));
            }
        }
        let next = position.map(|(_, delivery)| DeadLetterId {
            event: self.outbox.id_of(delivery.sequence),
            subscription: delivery.subscription,
        });
        Ok(Page { items: found, next })
    }

    /// An account, and those that were moved to it.
    pub(in crate::engine) fn account_refs(&self, account: Option<&str>) -> Option<AccountRefs> {
        account.map(|account| self.outbox.account_refs(&self.accounts.ids_of(account)))
    }

    fn place_of(
        &self,
        id: DeadLetterId,
        accounts: Option<&AccountRefs>,
    ) -> Result<(u64, DeliveryId)> {
        let unknown = || Error::NotFound { what: "dead letter", given: id.to_string() };
        let delivery = self.delivery_of(id.event, id.subscription).map_err(|_| unknown())?;
        self.outbox.letter_position(delivery, accounts).ok_or_else(unknown)
    }

    pub(in crate::engine) fn delivery_of(
        &self,
        event: EventId,
        subscription: SubscriptionId,
    ) -> Result<DeliveryId> {
        let sequence = event.sequence();
        if self.outbox.id_of(sequence) != event {
            return Err(Error::NotFound { what: "event", given: event.to_string() });
        }
        Ok(DeliveryId { sequence, subscription })
    }

    fn check_registered(&self, id: SubscriptionId) -> Result<()> {
        self.subscriptions.read().require(id).map(drop)
    }

    fn shown(&self, letter: StoredDeadLetter, pages: &mut OwnerPages) -> Result<DeadLetter> {
        let DeliveryId { sequence, subscription } = letter.delivery;
        let owner = pages.owner(&self.outbox, sequence)?;
        let registered = self.subscriptions.read().get(subscription);
        let account = match (registered, owner) {
            (Some(active), _) => active.info.account.clone(),
            // The subscription was removed; its event names the account.
            (None, Some(owner)) => self.accounts.successor(&owner.account),
            (None, None) => self.accounts.successor(&self.outbox.account_of(sequence)?),
        };
        Ok(DeadLetter {
            event: self.outbox.id_of(sequence),
            subscription,
            account,
            event_type: owner.and_then(|owner| self.catalogue.canonical(&owner.event_type).ok()),
            number: owner.and_then(|owner| owner.number),
            accepted_at_ms: owner.map(|owner| owner.accepted_at_ms),
            reason: letter.reason,
            attempts: letter.attempts,
            at_ms: letter.at_wall_ms,
        })
    }

    /// A delivery, and the deliveries of the same event that ended because of it.
    fn with_dependents(&self, main: DeliveryId) -> Result<Vec<DeliveryId>> {
        let mut together = vec![main];
        let dependents = self.subscriptions.read().dependents_of(main.subscription);
        for subscription in dependents {
            let delivery = DeliveryId { subscription, ..main };
            let letter = self.outbox.letter(delivery)?;
            if letter.is_some_and(|letter| letter.reason == Reason::Gate) {
                together.push(delivery);
            }
        }
        Ok(together)
    }

    fn revive_all(&self, letters: impl Iterator<Item = DeadLetterId>) -> Result<u64> {
        let mut revived = 0;
        for group in self.revivals(letters)? {
            revived += self.outbox.wait(self.outbox.revive(group))?;
        }
        Ok(revived)
    }

    /// Divides dead letters into groups of deliveries that are replayed together. Main deliveries come
    /// first, so that no dependent is replayed without its main delivery. Letters of removed subscriptions are
    /// left out.
    fn revivals(
        &self,
        letters: impl Iterator<Item = DeadLetterId>,
    ) -> Result<Vec<Vec<Vec<DeliveryId>>>> {
        // An event of another outbox has no dead letters here.
        let here = letters.filter_map(|id| self.delivery_of(id.event, id.subscription).ok());
        let deliveries =
            here.filter(|delivery| self.check_registered(delivery.subscription).is_ok());
        let is_main = |delivery: &DeliveryId| {
            !self.subscriptions.read().dependents_of(delivery.subscription).is_empty()
        };
        let (mains, others): (Vec<_>, Vec<_>) = deliveries.partition(is_main);
        let mut seen: HashSet<DeliveryId> = HashSet::new();
        let (mut groups, mut group, mut count) = (Vec::new(), Vec::new(), 0);
        for delivery in mains.into_iter().chain(others) {
            if seen.contains(&delivery) {
                continue;
            }
            let together = self.with_dependents(delivery)?;
            seen.extend(&together);
            count += together.len();
            group.push(together);
            if count >= REVIVED_AT_ONCE {
                groups.push(std::mem::take(&mut group));
                count = 0;
            }
        }
        groups.push(group);
        groups.retain(|group| !group.is_empty());
        Ok(groups)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::attempt::Record;
    use crate::clock::ManualClock;
    use crate::config::Config;
    use crate::event::Event;
    use crate::store::Memory;
    use crate::subscription::{Policy, Subscription};
    use crate::testing::{DEADLINE, ScriptedReply, ScriptedTransport, is_within};

    #[test]
    fn an_id_parses_its_own_text_and_nothing_else() {
        let event = EventId::new(7, 9);
        let id = DeadLetterId { event, subscription: SubscriptionId(u32::MAX) };
        assert_eq!(id.to_string().parse::<DeadLetterId>().unwrap(), id);
        let cut = [String::new(), ".".into(), event.to_string(), format!("{event}.")];
        let wrong = ["+3", "-1", "4294967296", "3.4", " 3"].map(|id| format!("{event}.{id}"));
        for text in cut.into_iter().chain(wrong) {
            let error = text.parse::<DeadLetterId>().unwrap_err();
            assert_eq!(error.field(), Some("id"), "{text}");
        }
    }

    fn open(store: Memory, status: u16) -> Engine {
        let clock = Arc::new(ManualClock::new(1_700_000_000_000, 3));
        let receiver = Arc::new(ScriptedTransport::new(move |_| ScriptedReply::Status(status)));
        let config = Config::new("unused").store(Arc::new(store));
        Engine::open(config.clock(clock).transport(receiver)).unwrap()
    }

    fn subscribe(engine: &Engine, name: &str, after: Option<SubscriptionId>) -> SubscriptionId {
        let subscription = Subscription::to("https://a.example/hook").unwrap().name(name);
        let policy = Policy { after, ..Policy::default() };
        engine.subscribe(subscription.policy(policy)).unwrap()
    }

    /// What an engine leaves that ended these deliveries of each of two events.
    fn left_dead(subscriptions: &[(&str, Option<u32>, Reason)]) -> (Memory, Vec<EventId>) {
        let store = Memory::default();
        let engine = open(store.clone(), 503);
        let mut ids = Vec::new();
        for (name, after, reason) in subscriptions {
            let id = subscribe(&engine, name, after.map(SubscriptionId));
            ids.push((id, reason));
        }
        let events = [1, 2].map(|_| {
            let receipt = engine.publish(Event::new("ADD_TAG", "{}").number("919999999999"));
            receipt.unwrap().wait().unwrap().id
        });
        for event in events {
            let dead = ids.iter().map(|(subscription, reason)| {
                let delivery =
                    DeliveryId { sequence: event.sequence(), subscription: *subscription };
                let reason = (*reason).clone();
                Record::Dead(StoredDeadLetter {
                    delivery,
                    reason,
                    attempts: 1,
                    at_wall_ms: 1_700_000_000_000,
                })
            });
            engine.shared.outbox.record_together(dead.collect());
        }
        engine.close(DEADLINE).unwrap();
        (store.crash(), events.to_vec())
    }

    fn wait_delivered(engine: &Engine, delivered: u64) {
        let in_time = is_within(DEADLINE, || engine.stats().delivered >= delivered);
        assert!(in_time, "not in time: {:?}", engine.stats());
    }

    fn letters(engine: &Engine) -> Vec<(EventId, u32)> {
        let all = engine.dead_letters(&DeadLetterFilter::default(), None, 100).unwrap().items;
        let mut all: Vec<_> = all.iter().map(|one| (one.event, one.subscription.0)).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn a_main_is_replayed_with_its_dependents_only() {
        let refused = Reason::Status(404);
        let (store, events) = left_dead(&[
            ("main", None, refused.clone()),
            ("waits", Some(1), Reason::Gate),
            ("failed by itself", Some(1), refused.clone()),
            ("bystander", None, Reason::Gate),
        ]);
        let engine = open(store, 200);
        let main = DeadLetterId { event: events[0], subscription: SubscriptionId(1) };
        let (letter, _) = engine.dead_letter(main).unwrap().unwrap();
        engine.replay(&letter).unwrap();
        wait_delivered(&engine, 2);
        let left = [3, 4].map(|id| (events[0], id)).into_iter();
        let left: Vec<_> = left.chain((1..=4).map(|id| (events[1], id))).collect();
        assert_eq!(letters(&engine), left);
        assert_eq!((engine.stats().replayed, engine.stats().owed), (2, 0));
        engine.close(DEADLINE).unwrap();
    }

    #[test]
    fn a_filter_that_matches_a_main_replays_its_dependents() {
        let refused = Reason::Status(404);
        let (store, events) = left_dead(&[
            ("main", None, refused),
            ("waits", Some(1), Reason::Gate),
            ("bystander", None, Reason::Gate),
        ]);
        let engine = open(store.crash(), 200);
        let refused = DeadLetterFilter::default().reason("status:404");
        assert_eq!(engine.replay_matching(&refused).unwrap(), 4);
        wait_delivered(&engine, 4);
        assert_eq!(letters(&engine), [(events[0], 3), (events[1], 3)]);
        engine.close(DEADLINE).unwrap();
        let engine = open(store, 200);
        let waits = DeadLetterFilter::default().subscription(SubscriptionId(2));
        assert_eq!(engine.replay_matching(&waits).unwrap(), 2);
        wait_delivered(&engine, 2);
        assert_eq!(letters(&engine).len(), 4);
        engine.close(DEADLINE).unwrap();
    }

    #[test]
    fn letters_of_a_removed_subscription_are_not_replayed() {
        let refused = Reason::Status(404);
        let (store, events) =
            left_dead(&[("leaves", None, refused.clone()), ("bystander", None, refused)]);
        let engine = open(store.clone(), 200);
        let all = DeadLetterFilter::default();
        let gone = DeadLetterId { event: events[0], subscription: SubscriptionId(1) };
        let (letter, _) = engine.dead_letter(gone).unwrap().unwrap();
        engine.unsubscribe(SubscriptionId(1)).unwrap();
        let error = engine.replay(&letter).unwrap_err();
        assert_eq!(error.to_string(), "no subscription \"1\" in this account");
        assert_eq!(engine.replay_these(&[gone], &all).unwrap(), 0);
        assert_eq!(engine.replay_matching(&all).unwrap(), 2);
        wait_delivered(&engine, 2);
        assert_eq!(letters(&engine), [(events[0], 1), (events[1], 1)], "they are there to see");
        let stats = engine.stats();
        assert_eq!((stats.replayed, stats.cancelled, stats.owed), (2, 0, 0));
        engine.close(DEADLINE).unwrap();
        let again = open(store.crash(), 200);
        assert_eq!((again.stats().held, again.stats().owed), (0, 0));
        let error = again.replay(&letter).unwrap_err();
        assert!(matches!(error, Error::NotFound { what: "subscription", .. }), "{error}");
        again.close(DEADLINE).unwrap();
    }
}
