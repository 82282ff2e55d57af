//! Decides which dead letters a host is shown, and what is replayed with each.
//!
//! Leaves to others: keeping them (`outbox`) and trying them again (`dispatch`). Invariant (I2): a
//! delivery that others waited for is owed again together with those that ended because of it, so
//! none of them can overtake it; and (I9) a filter by account shows the letters of no other.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use super::Engine;
use super::core::Core;
use crate::attempt::{DeadLetter, DeliveryId, Letter, Reason, Tried};
use crate::error::{Error, Result};
use crate::event::{EventId, Published};
use crate::subscription::SubscriptionId;

/// Names a dead letter: the event, and whom it was owed to. Its text is
/// `<event id>.<subscription id>`.
///
/// ```
/// use wabahook::DeadLetterId;
/// let text = "evt_00000000000000070000000000000009.3";
/// let id: DeadLetterId = text.parse()?;
/// assert_eq!(id.subscription.0, 3);
/// assert_eq!(id.to_string(), text);
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeadLetterId {
    /// Which event.
    pub event: EventId,
    /// Whom it was owed to.
    pub subscription: SubscriptionId,
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.event, self.subscription)
    }
}

impl FromStr for DeadLetterId {
    type Err = Error;

    fn from_str(given: &str) -> Result<DeadLetterId> {
        let refused =
            || Error::invalid("id", given, "an event id, a dot and the id of a subscription");
        let (event, subscription) = given.split_once('.').ok_or_else(refused)?;
        let event = event.parse().map_err(|_| refused())?;
        let plain = subscription.bytes().all(|byte| byte.is_ascii_digit());
        let id = subscription.parse().ok().filter(|_| plain).ok_or_else(refused)?;
        Ok(DeadLetterId { event, subscription: SubscriptionId(id) })
    }
}

impl DeadLetter {
    /// Its name.
    pub fn id(&self) -> DeadLetterId {
        DeadLetterId { event: self.event, subscription: self.subscription }
    }
}

/// Which dead letters are meant: those of which everything that is set holds. Defaults to all.
///
/// ```
/// use wabahook::{DeadLetterFilter, SubscriptionId};
/// let recent = DeadLetterFilter::default().subscription(SubscriptionId(3)).since_ms(1_700_000_000_000);
/// assert_eq!(recent.reason, None);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetterFilter {
    /// Of the subscriptions of this account.
    pub account: Option<String>,
    /// Of this subscription.
    pub subscription: Option<SubscriptionId>,
    /// Given up for this reason, as its text says it (`status:404`).
    pub reason: Option<String>,
    /// Given up then or later, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Given up before, in milliseconds since the Unix epoch.
    pub until_ms: Option<u64>,
}

impl DeadLetterFilter {
    /// Those of the subscriptions of an account.
    #[must_use]
    pub fn account(mut self, name: impl Into<String>) -> DeadLetterFilter {
        self.account = Some(name.into());
        self
    }

    /// Those of a subscription.
    #[must_use]
    pub fn subscription(mut self, id: SubscriptionId) -> DeadLetterFilter {
        self.subscription = Some(id);
        self
    }

    /// Those given up for a reason, as its text says it (`status:404`, `gate`).
    #[must_use]
    pub fn reason(mut self, text: impl Into<String>) -> DeadLetterFilter {
        self.reason = Some(text.into());
        self
    }

    /// Those given up then or later, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn since_ms(mut self, since_ms: u64) -> DeadLetterFilter {
        self.since_ms = Some(since_ms);
        self
    }

    /// Those given up before, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn until_ms(mut self, until_ms: u64) -> DeadLetterFilter {
        self.until_ms = Some(until_ms);
        self
    }

    /// What can be told without reading the letter.
    fn admits_moment(&self, at_ms: u64, subscription: SubscriptionId) -> bool {
        self.subscription.is_none_or(|id| id == subscription)
            && self.since_ms.is_none_or(|since_ms| since_ms <= at_ms)
            && self.until_ms.is_none_or(|until_ms| at_ms < until_ms)
    }

    /// Whether it admits a letter.
    pub fn admits(&self, letter: &DeadLetter) -> bool {
        self.admits_moment(letter.at_ms, letter.subscription)
            && self.reason.as_ref().is_none_or(|text| *text == letter.reason.to_string())
            && self.account.as_ref().is_none_or(|name| *name == letter.account)
    }
}

/// How many places of letters are looked at under one lock.
const PLACES_AT_ONCE: usize = 256;

/// How many deliveries one group revives: few enough that others do not wait long behind it.
const REVIVED_AT_ONCE: usize = 1_024;

impl Engine {
    /// Dead letters, those given up last first, at most `count_max`. The next page is asked for
    /// with `after`, the id of the last letter of this one, also when that was replayed meanwhile.
    ///
    /// ```
    /// # use wabahook::{Config, Engine};
    /// use wabahook::DeadLetterFilter;
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let filter = DeadLetterFilter::default().reason("status:404");
    /// let page = engine.dead_letters(&filter, None, 100)?;
    /// if let Some(last) = page.last() {
    ///     let next = engine.dead_letters(&filter, Some(last.id()), 100)?;
    /// #   assert!(next.is_empty());
    /// }
    /// # engine.close(std::time::Duration::from_secs(1))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`] when `after` is no letter, or none any more since long ago or since the
    /// engine was opened; [`Error::Store`] or [`Error::Damaged`] when one cannot be read.
    pub fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterId>,
        count_max: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.core.check_open()?;
        self.core.dead_letters(filter, after, count_max)
    }

    /// One dead letter, with the failed attempts that are kept of it, oldest first.
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
    /// for letter in engine.dead_letters(&DeadLetterFilter::default(), None, 10)? {
    ///     let Some((letter, attempts)) = engine.dead_letter(letter.id())? else { continue };
    ///     println!("{} after {} attempts: {}", letter.id(), letter.attempts, letter.reason);
    ///     for attempt in attempts {
    ///         println!("  {}: {}, {} ms", attempt.number, attempt.reason, attempt.took_ms);
    ///     }
    /// }
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dead_letter(&self, id: DeadLetterId) -> Result<Option<(DeadLetter, Vec<Tried>)>> {
        self.core.check_open()?;
        let Ok(delivery) = self.core.delivery_of(id.event, id.subscription) else {
            return Ok(None);
        };
        let Some(letter) = self.core.outbox.letter(delivery)? else { return Ok(None) };
        let history = self.core.outbox.history(delivery)?;
        Ok(Some((self.core.shown(letter)?, history)))
    }

    /// The event of a dead letter, with its payload.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the letter is gone or of another outbox; [`Error::Store`] or
    /// [`Error::Damaged`] when it cannot be read.
    pub fn event_of(&self, letter: DeadLetterId) -> Result<Published> {
        self.core.check_open()?;
        let delivery = self.core.delivery_of(letter.event, letter.subscription)?;
        let gone = || Error::NotFound { what: "dead letter", given: letter.to_string() };
        self.core.outbox.letter(delivery)?.ok_or_else(gone)?;
        self.core.outbox.event(delivery.sequence).map(|event| Published::from(&*event))
    }

    /// The failed attempts that are kept of a delivery, oldest first: at most
    /// [`HISTORY_MAX`](crate::HISTORY_MAX). None of one that never failed, that was delivered, or
    /// that was replayed and has not failed since.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the event is of another outbox; [`Error::Store`] or
    /// [`Error::Damaged`] when an attempt cannot be read.
    pub fn history(&self, event: EventId, subscription: SubscriptionId) -> Result<Vec<Tried>> {
        self.core.check_open()?;
        self.core.outbox.history(self.core.delivery_of(event, subscription)?)
    }

    /// Owes a dead letter again, from its first attempt on and with the same `webhook-id`, and with
    /// it the letters of the same event that ended because this one did (`gate`). Durable when it
    /// returns: blocks on a sync. A letter that is gone, or was replayed before, is left as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`] when its subscription is removed, or the event is of another outbox: the
    /// letter stays as it is. [`Error::Refused`] or [`Error::Unknown`] while the device refuses, and
    /// then it is owed again when the device takes writes.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Event, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// use wabahook::DeadLetterFilter;
    ///
    /// for letter in engine.dead_letters(&DeadLetterFilter::default().reason("status:404"), None, 10)? {
    ///     engine.replay(&letter)?;
    /// }
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn replay(&self, letter: &DeadLetter) -> Result<()> {
        self.core.check_open()?;
        let delivery = self.core.delivery_of(letter.event, letter.subscription)?;
        self.core.check_registered(letter.subscription)?;
        let together = self.core.with_dependents(delivery)?;
        match self.core.outbox.wait(self.core.outbox.revive(vec![together]))? {
            // It may have been removed since it was looked for.
            0 => self.core.check_registered(letter.subscription),
            _ => Ok(()),
        }
    }

    /// Owes all dead letters again that a filter admits, as [`replay`](Engine::replay) does one, and
    /// says how many deliveries that are. Letters of removed subscriptions are left out. Durable when
    /// it returns: blocks on a sync for about a thousand of them.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Damaged`] when a letter cannot be read, and then none is
    /// replayed; [`Error::Refused`] or [`Error::Unknown`] as [`replay`](Engine::replay), and then
    /// some may be owed again already.
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
        self.core.check_open()?;
        let letters = self.core.dead_letters(filter, None, usize::MAX)?;
        self.core.revive_all(letters.iter().map(DeadLetter::id))
    }

    /// As [`replay_matching`](Engine::replay_matching), of the dead letters that are named. One that
    /// the filter does not admit, that is gone, was replayed before, or whose subscription is
    /// removed, is left as it is and not counted.
    ///
    /// # Errors
    /// As [`replay_matching`](Engine::replay_matching).
    pub fn replay_these(&self, ids: &[DeadLetterId], filter: &DeadLetterFilter) -> Result<u64> {
        self.core.check_open()?;
        let mut meant = Vec::new();
        for id in ids {
            // An event of another outbox has no letters here.
            let Ok(delivery) = self.core.delivery_of(id.event, id.subscription) else { continue };
            let letter = self.core.outbox.letter(delivery)?;
            let letter = letter.map(|letter| self.core.shown(letter)).transpose()?;
            meant.extend(letter.filter(|letter| filter.admits(letter)).map(|letter| letter.id()));
        }
        self.core.revive_all(meant.into_iter())
    }
}

impl Core {
    fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterId>,
        count_max: usize,
    ) -> Result<Vec<DeadLetter>> {
        let mut place = after.map(|id| self.place_of(id)).transpose()?;
        let mut found = Vec::new();
        while found.len() < count_max {
            let places = self.outbox.letters_before(place, PLACES_AT_ONCE);
            let Some(last) = places.last() else { break };
            place = Some(*last);
            for (at_ms, delivery) in places {
                if !filter.admits_moment(at_ms, delivery.subscription) {
                    continue;
                }
                let letter = self.outbox.letter(delivery)?.map(|letter| self.shown(letter));
                found.extend(letter.transpose()?.filter(|letter| filter.admits(letter)));
            }
        }
        found.truncate(count_max);
        Ok(found)
    }

    fn place_of(&self, id: DeadLetterId) -> Result<(u64, DeliveryId)> {
        let unknown = || Error::NotFound { what: "dead letter", given: id.to_string() };
        let delivery = self.delivery_of(id.event, id.subscription).map_err(|_| unknown())?;
        self.outbox.letter_moment(delivery).ok_or_else(unknown)
    }

    fn delivery_of(&self, event: EventId, subscription: SubscriptionId) -> Result<DeliveryId> {
        let sequence = event.sequence();
        if self.outbox.id_of(sequence) != event {
            return Err(Error::NotFound { what: "event", given: event.to_string() });
        }
        Ok(DeliveryId { sequence, subscription })
    }

    fn check_registered(&self, id: SubscriptionId) -> Result<()> {
        self.registry.read().known(id).map(drop)
    }

    fn shown(&self, letter: Letter) -> Result<DeadLetter> {
        let DeliveryId { sequence, subscription } = letter.delivery;
        let account = match self.registry.read().served(subscription) {
            Some(served) => served.registered.account.clone(),
            // Removed since; its event knows whose it was.
            None => self.outbox.account_of(sequence)?,
        };
        Ok(DeadLetter {
            event: self.outbox.id_of(sequence),
            subscription,
            account,
            reason: letter.reason,
            attempts: letter.attempts,
            at_ms: letter.at_wall_ms,
        })
    }

    /// A delivery, and those of its event that ended because it did.
    fn with_dependents(&self, main: DeliveryId) -> Result<Vec<DeliveryId>> {
        let mut together = vec![main];
        for subscription in self.dependents_of(main.subscription) {
            let delivery = DeliveryId { subscription, ..main };
            let letter = self.outbox.letter(delivery)?;
            if letter.is_some_and(|letter| letter.reason == Reason::Gate) {
                together.push(delivery);
            }
        }
        Ok(together)
    }

    fn dependents_of(&self, main: SubscriptionId) -> Vec<SubscriptionId> {
        self.registry.read().dependents_of(main)
    }

    fn revive_all(&self, letters: impl Iterator<Item = DeadLetterId>) -> Result<u64> {
        // An event of another outbox has no letters here.
        let here = letters.filter_map(|id| self.delivery_of(id.event, id.subscription).ok());
        let here = here.filter(|delivery| self.check_registered(delivery.subscription).is_ok());
        let mut revived = 0;
        for group in self.revivals(here)? {
            revived += self.outbox.wait(self.outbox.revive(group))?;
        }
        Ok(revived)
    }

    /// Dead letters in groups; within a group what is revived together. Mains come first, so that
    /// none of their dependents is revived without them.
    fn revivals(
        &self,
        deliveries: impl Iterator<Item = DeliveryId>,
    ) -> Result<Vec<Vec<Vec<DeliveryId>>>> {
        let is_main = |delivery: &DeliveryId| !self.dependents_of(delivery.subscription).is_empty();
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
    use std::sync::atomic::{AtomicU16, Ordering};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::attempt::{Record, Reply};
    use crate::clock::Manual;
    use crate::config::Config;
    use crate::delivery::{Request, Transport};
    use crate::event::Event;
    use crate::store::Memory;
    use crate::subscription::{Policy, Subscription};

    const DEADLINE: Duration = Duration::from_secs(20);

    #[test]
    fn an_id_reads_back_and_what_is_none_is_refused() {
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

    /// A receiver that always answers the same.
    struct Always(AtomicU16);

    impl Transport for Always {
        fn send(&self, _: &Request<'_>) -> Reply {
            Reply::status(self.0.load(Ordering::Acquire))
        }

        fn interrupt(&self) {}
    }

    fn open(store: Memory, status: u16) -> Engine {
        let clock = Arc::new(Manual::new(1_700_000_000_000, 3));
        let receiver = Arc::new(Always(status.into()));
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
                Record::Dead(Letter {
                    delivery,
                    reason,
                    attempts: 1,
                    at_wall_ms: 1_700_000_000_000,
                })
            });
            engine.core.outbox.record_together(dead.collect());
        }
        engine.close(DEADLINE).unwrap();
        (store.crash(), events.to_vec())
    }

    fn wait_delivered(engine: &Engine, delivered: u64) {
        let deadline = Instant::now() + DEADLINE;
        while engine.stats().delivered < delivered {
            assert!(Instant::now() < deadline, "not in time: {:?}", engine.stats());
            std::thread::yield_now();
        }
    }

    fn letters(engine: &Engine) -> Vec<(EventId, u32)> {
        let all = engine.dead_letters(&DeadLetterFilter::default(), None, 100).unwrap();
        let mut all: Vec<_> = all.iter().map(|one| (one.event, one.subscription.0)).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn a_main_comes_back_with_those_that_ended_because_it_did_and_with_no_other() {
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
    fn mains_that_a_filter_admits_bring_their_dependents_and_a_dependent_alone_brings_none() {
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
    fn a_letter_of_a_removed_subscription_is_refused_and_left_out_where_many_are_replayed() {
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
