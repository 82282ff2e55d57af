//! The engine: what a host can ask of it, and what carries values between routing, outbox, dispatch and delivery.
//! [`Engine`] is a cheap handle; `shared` holds what its calls and threads share, and the order of the locks.
//!
//! The way of an event starts in `publish`, goes on in `commit_events` once the event is durable, and ends in
//! `attempts`; `threads` run it. `publish` never blocks (I7), `subscribe` and `unsubscribe` return once their change is
//! durable, and no thread of a closed engine changes anything durable.

mod accounts;
mod attempts;
mod callbacks;
mod close;
mod commit_events;
mod deliveries;
mod events;
mod filter;
mod page;
mod publish;
mod shared;
mod stats;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod stepping;
mod storage;
mod subscriptions;
mod threads;

use std::sync::Arc;
use std::time::Duration;

pub use self::accounts::declarations::AccountChanges;
pub use self::deliveries::dead_letter_filter::{DeadLetterFilter, DeadLetterId};
pub use self::deliveries::{Delivery, DeliveryCursor, DeliveryFilter, DeliveryState};

pub use self::deliveries::purge::{PurgeFilter, Purged};
pub use self::events::query::{
    DeliveryOutcome, DeliveryTrace, EventCursor, EventQuery, EventTrace,
};
pub use self::events::recent_attempts::{RecentAttempt, RecentOutcome};
pub use self::page::Page;
pub use self::storage::migration::Migration;
pub use self::subscriptions::match_report::{ConditionReport, MatchReport};
pub use self::subscriptions::test_delivery::TestDelivery;

pub(crate) use self::subscriptions::{AccountSnapshot, SubscriptionChange};

use self::close::Owner;
use self::shared::Shared;
use self::subscriptions::ExistingName;
use crate::config::{Config, Limits};
use crate::error::{Error, Result};
use crate::event::{Accepted, Catalogue, Event, PublishError};
use crate::network::Network;
use crate::notice::Notices;
use crate::receipt::Receipt;
use crate::stats::Bound;
use crate::subscription::{Subscription, SubscriptionId, SubscriptionInfo, SubscriptionState};

/// The engine: a cheap handle, `Send` and `Sync`, whose clones share everything.
///
/// Dropping the last clone signals the engine's threads to end and waits for none; [`close`]
/// ends in order. Either way nothing accepted is lost.
///
/// ```
/// use wabahook::{Config, Engine, Event, Subscription};
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path();
/// let engine = Engine::open(Config::new(path))?;
/// engine.subscribe(Subscription::to("https://crm.example/hook")?.name("crm").events(["ADD_TAG"]))?;
/// let receipt = engine.publish(Event::new("MESSAGE_RECEIVED", "{}").number("919999999999"))?;
/// let accepted = receipt.wait()?;
/// assert_eq!(accepted.owed, 0); // nobody asked for this type
/// engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`close`]: Engine::close
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    _owner: Arc<Owner>,
}

impl Engine {
    /// Opens the data directory, creating it where missing, recovers what was owed and starts
    /// delivering it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a setting that cannot be right; [`Error::InUse`],
    /// [`Error::UnsupportedFormat`], [`Error::Directory`], [`Error::Store`] or [`Error::Damaged`] when
    /// the directory cannot be used. Nothing in it is lost by the refusal.
    pub fn open(config: Config) -> Result<Engine> {
        let shared = storage::recovery::open(config)?;
        let (subscriptions, recovered) =
            (shared.subscriptions.read().len(), shared.counters.recovered.value());
        tracing::info!(subscriptions, recovered, "the engine is open");
        Ok(Engine { _owner: Arc::new(Owner(Arc::clone(&shared))), shared })
    }

    /// Registers a subscription, or replaces the one of the same account and name, which keeps its
    /// id and what it is owed, is served again if it was disabled, and stays paused if it was
    /// [paused](Engine::pause). So a host may subscribe at every start. Durable and in force when it
    /// returns: blocks on a sync.
    ///
    /// # Errors
    /// [`Error::Invalid`] or [`Error::Forbidden`] names the field at fault and changes nothing.
    /// After [`Error::Store`] or [`Error::Directory`] it is not registered in this engine, and the next
    /// call writes to the book again; only if the engine ends before, the next open may find it.
    /// [`Error::Refused`] or [`Error::Unknown`] while the device refuses and the one it would replace
    /// is disabled, which it stays.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Event, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let crm = Subscription::to("https://crm.example/hook")?.name("crm").events(["MESSAGE_RECEIVED"]);
    /// let id = engine.subscribe(crm.clone())?;
    /// assert_eq!(engine.subscribe(crm)?, id); // at the next start: the same one
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe(&self, subscription: Subscription) -> Result<SubscriptionId> {
        self.subscribe_as(subscription, ExistingName::Replace)
    }

    /// Registers several subscriptions as [`subscribe`](Engine::subscribe) does, all or none, with one
    /// sync. Their names must differ.
    ///
    /// # Errors
    /// As [`subscribe`](Engine::subscribe), and [`Error::NameTaken`] for a name that occurs twice.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let crm = Subscription::to("https://crm.example/hook")?.name("crm");
    /// let audit = Subscription::to("https://audit.example/hook")?.name("audit");
    /// let ids = engine.subscribe_many([crm, audit])?;
    /// assert_eq!(ids.len(), 2);
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe_many(
        &self,
        subscriptions: impl IntoIterator<Item = Subscription>,
    ) -> Result<Vec<SubscriptionId>> {
        self.shared.subscribe(subscriptions.into_iter().collect(), ExistingName::Replace)
    }

    fn subscribe_as(
        &self,
        subscription: Subscription,
        existing: ExistingName,
    ) -> Result<SubscriptionId> {
        let ids = self.shared.subscribe(vec![subscription], existing)?;
        ids.first().copied().ok_or(Error::Closed)
    }

    /// Registers a subscription under a name that is not taken yet.
    ///
    /// # Errors
    /// As [`subscribe`](Engine::subscribe), and [`Error::NameTaken`].
    pub fn register(&self, subscription: Subscription) -> Result<SubscriptionId> {
        self.subscribe_as(subscription, ExistingName::Refuse)
    }

    /// Changes a subscription in place, its name included: `revise` is given its current form and returns the
    /// new one. It is called without a lock, so it may call the engine, and it is called again if the
    /// subscription was changed meanwhile. The subscription keeps its id, what it is owed, and its state.
    /// Durable and in force when it returns: blocks on a sync.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NameTaken`], what `revise` returns, in an error type of the caller's, and as
    /// [`subscribe`](Engine::subscribe). [`Error::Busy`] if the subscription was changed during each of 100 calls.
    ///
    /// ```
    /// use wabahook::{Config, Engine, Error, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let crm = engine.subscribe(Subscription::to("https://crm.example/hook")?.name("crm"))?;
    /// engine.revise(crm, |crm| Ok::<_, Error>(Subscription::from(crm).events(["ADD_TAG"])))?;
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn revise<E: From<Error>>(
        &self,
        id: SubscriptionId,
        mut revise: impl FnMut(&SubscriptionInfo) -> std::result::Result<Subscription, E>,
    ) -> std::result::Result<(), E> {
        self.shared.revise(id, |before| Ok((revise(before)?, before.state)))
    }

    /// As [`revise`](Engine::revise), its state included: one that was disabled and is active then
    /// starts as if its endpoint had never failed.
    pub(crate) fn revise_with_state<E: From<Error>>(
        &self,
        id: SubscriptionId,
        revise: impl FnMut(
            &SubscriptionInfo,
        ) -> std::result::Result<(Subscription, SubscriptionState), E>,
    ) -> std::result::Result<(), E> {
        self.shared.revise(id, revise)
    }

    /// Holds a subscription back until [`resume`](Engine::resume): events go on being owed to it and
    /// none is attempted, also across a restart. Durable and in force when it returns: blocks on a
    /// sync. An attempt under way is not called back. One that is disabled stays disabled; one that
    /// is paused already is left as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`]; after [`Error::Store`] it may be paused at the next open.
    pub fn pause(&self, id: SubscriptionId) -> Result<()> {
        self.shared.change_state(id, |before| match before {
            SubscriptionState::Active => SubscriptionState::Paused,
            not_active => not_active,
        })
    }

    /// Activates a paused or disabled subscription. Its owed deliveries continue; events published while it
    /// was disabled were never owed to it. What is known of its endpoint is cleared: its breaker, its
    /// `Retry-After` and for how long it has failed. Durable and in force when it returns: blocks on
    /// two syncs.
    ///
    /// # Errors
    /// [`Error::NotFound`]; after [`Error::Store`] it may be resumed at the next open;
    /// [`Error::Refused`] or [`Error::Unknown`] while the device refuses, and then one that was disabled
    /// stays so.
    ///
    /// ```
    /// use wabahook::{Config, Engine, SubscriptionState, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let crm = engine.subscribe(Subscription::to("https://crm.example/hook")?.name("crm"))?;
    /// engine.pause(crm)?;
    /// assert_eq!(engine.subscription(crm).map(|crm| crm.state), Some(SubscriptionState::Paused));
    /// engine.resume(crm)?;
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resume(&self, id: SubscriptionId) -> Result<()> {
        self.shared.change_state(id, |_| SubscriptionState::Active)
    }

    /// Every subscription, in the order of their ids.
    pub fn subscriptions(&self) -> Vec<Arc<SubscriptionInfo>> {
        self.shared.subscriptions.read().all()
    }

    /// Every subscription of an account, which is given by its id or its name, in the order of their ids.
    pub fn subscriptions_of(&self, account: &str) -> Vec<Arc<SubscriptionInfo>> {
        let account = self.shared.accounts.id_of(account);
        self.shared.subscriptions.read().of_account(&account)
    }

    /// One subscription.
    pub fn subscription(&self, id: SubscriptionId) -> Option<Arc<SubscriptionInfo>> {
        self.shared.subscriptions.read().get(id).map(|active| Arc::clone(&active.info))
    }

    /// Accepts an event for everybody who asked for it. Never blocks and never drops: the receipt
    /// resolves when the event and all deliveries it owes are on the device (I1).
    ///
    /// # Errors
    /// [`Error::Busy`] gives the event back when too much waits for the device, [`Error::LimitReached`] when its
    /// account has reached one of its own limits; [`Error::TooLarge`], [`Error::Invalid`] and
    /// [`Error::Forbidden`] name the field at fault.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Event, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let event = Event::new("MESSAGE_RECEIVED", "{}").number("919999999999").dedup_key("wamid.1");
    /// match engine.publish(event) {
    ///     Ok(receipt) => println!("{} is on the device", receipt.wait()?.id),
    ///     Err(error) if error.is_busy() => println!("{} to retry later", error.events.len()),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publish(&self, event: Event) -> Result<Receipt, PublishError> {
        self.shared.publish(event)
    }

    /// Accepts all of the events, in this order, or none, also across a crash. Never blocks.
    ///
    /// # Errors
    /// As [`publish`](Engine::publish), the field named with the event's place (`events[3].number`);
    /// [`Error::TooLarge`] also when the events could never fit the queue together.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Event, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let events = vec![Event::new("ADD_TAG", "{}"), Event::new("REMOVE_TAG", "{}")];
    /// let accepted = engine.publish_many(events)?.wait()?;
    /// assert!(accepted[0].id < accepted[1].id);
    ///
    /// let events = vec![Event::new("ADD_TAG", "{}"), Event::new("ADD_TAG", "{}").number("none")];
    /// let error = engine.publish_many(events).unwrap_err();
    /// assert_eq!(error.error.field(), Some("events[1].number"));
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publish_many(&self, events: Vec<Event>) -> Result<Receipt<Vec<Accepted>>, PublishError> {
        self.shared.publish_many(events)
    }

    /// The newest attempts of a subscription, successes too, the last one first: at most `count_max`,
    /// and at most [`recent_attempts_each_max`](Limits::recent_attempts_each_max). They are remembered
    /// in memory alone, so a restart forgets them; what must not be forgotten of failures is in
    /// [`history`](Engine::history) and [`dead_letters`](Engine::dead_letters). None of a subscription
    /// that there is not.
    ///
    /// ```
    /// use wabahook::{Config, Engine, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let crm = engine.subscribe(Subscription::to("https://crm.example/hook")?.name("crm"))?;
    /// for attempt in engine.recent_attempts(crm, 100) {
    ///     println!("{} {}: {}", attempt.at_ms, attempt.event, attempt.outcome.as_str());
    /// }
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recent_attempts(&self, id: SubscriptionId, count_max: usize) -> Vec<RecentAttempt> {
        self.shared.recent_attempts.of(id, count_max)
    }

    /// What kept ready deliveries from starting within the last minute; `None` if nothing did.
    pub fn bound(&self) -> Option<Bound> {
        let now_ms = self.shared.clock.monotonic_ms();
        self.shared.dispatch_state.lock().bounds.current(now_ms)
    }

    /// Whether the device refuses writes: `publish` gives events back as `Busy` until it accepts them again.
    /// [`Notice::Stalled`](crate::Notice::Stalled) has the reason.
    pub fn is_stalled(&self) -> bool {
        self.shared.dispatch_state.lock().is_stalled()
    }

    /// Whether the outbox owes as many events or bytes as it may: `publish` gives events back as `Busy` until
    /// deliveries end.
    pub fn is_full(&self) -> bool {
        self.shared.outbox.is_full()
    }

    /// A reader of what happens from now on, with a ring of its own.
    pub fn notices(&self) -> Notices {
        self.shared.notices.reader()
    }

    /// Calls `wake` when there are notices, for instance to wake an event loop. Several notices may share one
    /// call. It runs on a thread for such callbacks, so it may call the engine and may block; a panic is caught
    /// and sent once as [`Notice::InternalError`](crate::Notice::InternalError). Callbacks are dropped when the
    /// engine is closed.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Event, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let notices = engine.notices();
    /// let (ring, bell) = std::sync::mpsc::sync_channel(1);
    /// engine.on_notice(move || {
    ///     let _ = ring.try_send(()); // many rings before the loop looks are one
    /// });
    /// // In the loop, whenever the bell rang:
    /// if bell.try_recv().is_ok() {
    ///     while let Some(notice) = notices.try_next() {
    ///         eprintln!("{notice:?}");
    ///     }
    /// }
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_notice(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.shared.notices.wake_with(Box::new(wake));
    }

    /// The catalogue of event types as configured.
    pub fn catalogue(&self) -> &Catalogue {
        &self.shared.catalogue
    }

    /// The limits as configured.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// The targets admitted beyond the safe ones, as configured.
    pub fn network(&self) -> &Network {
        &self.shared.network
    }

    /// Stops accepting, lets attempts under way finish for at most `timeout`, interrupts the rest
    /// and lets go of the directory. Never waits for the backlog: what is owed is on the device and
    /// goes on at the next open. A concurrent or later call waits as well until the engine is closed.
    ///
    /// # Errors
    /// [`Error::Poisoned`] when the engine had failed before; it is closed all the same. [`Error::Store`] if
    /// the device does not finish what was begun within 3 seconds: the engine accepts nothing any more, and it
    /// releases the directory as soon as the device answers.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        self.shared.close(timeout)
    }
}
