//! Decides what a host can ask of the engine.
//!
//! Leaves to others: all the work; it only hands values on. Invariant: `publish` never blocks (I7),
//! `subscribe` and `unsubscribe` return when their change is durable, and no thread of a closed
//! engine changes anything durable.

mod changes;
mod core;
mod drain;
mod letters;
mod listing;
mod publishing;
mod recent;
mod recovery;
mod registry;
pub mod stepping;
mod terms;
mod testing;

use std::sync::Arc;
use std::time::Duration;

pub use self::letters::{DeadLetterFilter, DeadLetterId};
pub use self::listing::{Delivery, DeliveryFilter, DeliveryPage, DeliveryPlace, DeliveryState};

pub use self::recent::{RecentAttempt, RecentOutcome};
pub use self::testing::Tested;

pub(crate) use self::changes::{Change, Standing};

use self::core::Core;
use crate::account::Accounts;
use crate::config::{Config, Limits, Network};
use crate::error::{Error, Result};
use crate::event::{Accepted, Catalogue, Event};
use crate::notice::Notices;
use crate::receipt::Receipt;
use crate::stats::Stats;
use crate::subscription::{Registered, Secret, State, Subscription, SubscriptionId};

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
    core: Arc<Core>,
    _owner: Arc<Owner>,
}

/// Signals the threads when the last handle goes: they hold the core themselves.
#[derive(Debug)]
struct Owner(Arc<Core>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.phase.close();
        self.0.signal_stop();
        self.0.outbox.signal_stop();
    }
}

/// How long a worker may take to end after its attempt was interrupted.
const INTERRUPT_GRACE: Duration = Duration::from_secs(1);

impl Engine {
    /// Opens the data directory, creating it where missing, recovers what was owed and starts
    /// delivering it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a setting that cannot be right; [`Error::InUse`],
    /// [`Error::NewerFormat`], [`Error::Directory`], [`Error::Store`] or [`Error::Damaged`] when
    /// the directory cannot be used. Nothing in it is lost by the refusal.
    pub fn open(config: Config) -> Result<Engine> {
        let core = recovery::open(config)?;
        let (subscriptions, recovered) =
            (core.registry.read().len(), core.counters.recovered.value());
        tracing::info!(subscriptions, recovered, "the engine is open");
        Ok(Engine { _owner: Arc::new(Owner(Arc::clone(&core))), core })
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
        self.core.subscribe(subscription, true)
    }

    /// Registers a subscription under a name that is not taken yet.
    ///
    /// # Errors
    /// As [`subscribe`](Engine::subscribe), and [`Error::NameTaken`].
    pub fn register(&self, subscription: Subscription) -> Result<SubscriptionId> {
        self.core.subscribe(subscription, false)
    }

    /// Whether a subscription could be registered, but for its name and for who it waits for. Changes
    /// nothing.
    pub(crate) fn check_subscription(&self, subscription: Subscription) -> Result<()> {
        self.core.check_subscription(subscription)
    }

    /// Changes a subscription in place, its name included: `revise` is given what it is and answers
    /// what it is to be, and nothing else changes it meanwhile. It keeps its id, what it is owed, and
    /// its state. Durable and in force when it returns: blocks on a sync.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NameTaken`], what `revise` answers, and as
    /// [`subscribe`](Engine::subscribe).
    ///
    /// ```
    /// use wabahook::{Config, Engine, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let crm = engine.subscribe(Subscription::to("https://crm.example/hook")?.name("crm"))?;
    /// engine.revise(crm, |crm| Ok(Subscription::from(crm).events(["ADD_TAG"])))?;
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn revise(
        &self,
        id: SubscriptionId,
        revise: impl FnOnce(&Registered) -> Result<Subscription>,
    ) -> Result<()> {
        self.core.revise(id, |before| Ok((revise(before)?, before.state)))
    }

    /// As [`revise`](Engine::revise), its state included: one that was disabled and is active then
    /// starts as if its endpoint had never failed.
    pub(crate) fn revise_with_state(
        &self,
        id: SubscriptionId,
        revise: impl FnOnce(&Registered) -> Result<(Subscription, State)>,
    ) -> Result<()> {
        self.core.revise(id, revise)
    }

    /// Gives a subscription another secret, or one made here where none is given, and returns it. The
    /// one before goes on signing beside it for `overlap_ms` (at most 30 days), so that the receiver
    /// can change over; 0 revokes it, and all that were replaced before it, at once. At most 4 sign
    /// beside the newest; the oldest goes first. Durable and in force when it returns: blocks on a
    /// sync.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for a secret that cannot sign or a longer overlap; and
    /// as [`subscribe`](Engine::subscribe).
    pub fn rotate_secret(
        &self,
        id: SubscriptionId,
        secret: Option<Secret>,
        overlap_ms: u64,
    ) -> Result<Secret> {
        self.core.rotate_secret(id, secret, overlap_ms)
    }

    /// Removes a subscription. What it is owed is cancelled and counted; those that waited for its
    /// deliveries ([`Policy::after`](crate::Policy::after)) wait no longer. Durable and in force when
    /// it returns: blocks on two syncs, and one more for each that waited. An attempt under way is
    /// not called back.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Store`] or [`Error::Directory`] when the book took no write, and then
    /// the removal is finished by the next call that writes to it, or at the next open; [`Error::Refused`] or [`Error::Unknown`] while the device refuses,
    /// and then it is in force in this engine and made durable when the device takes writes;
    /// [`Error::Closed`] when the engine ended first, and then the next open shows whether it was
    /// removed.
    pub fn unsubscribe(&self, id: SubscriptionId) -> Result<()> {
        self.core.unsubscribe(id)
    }

    /// Holds a subscription back until [`resume`](Engine::resume): events go on being owed to it and
    /// none is attempted, also across a restart. Durable and in force when it returns: blocks on a
    /// sync. An attempt under way is not called back. One that is disabled stays disabled; one that
    /// is paused already is left as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`]; after [`Error::Store`] it may be paused at the next open.
    pub fn pause(&self, id: SubscriptionId) -> Result<()> {
        self.core.pause(id)
    }

    /// Serves a subscription again that was paused or disabled. What it is owed goes on where it was;
    /// what was published while it was disabled was never owed to it. One that was disabled starts as
    /// if its endpoint had never failed. Durable and in force when it returns: blocks on a sync, and on
    /// another one where it was disabled.
    ///
    /// # Errors
    /// [`Error::NotFound`]; after [`Error::Store`] it may be resumed at the next open;
    /// [`Error::Refused`] or [`Error::Unknown`] while the device refuses, and then one that was disabled
    /// stays so.
    ///
    /// ```
    /// use wabahook::{Config, Engine, State, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let crm = engine.subscribe(Subscription::to("https://crm.example/hook")?.name("crm"))?;
    /// engine.pause(crm)?;
    /// assert_eq!(engine.subscription(crm).map(|crm| crm.state), Some(State::Paused));
    /// engine.resume(crm)?;
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resume(&self, id: SubscriptionId) -> Result<()> {
        self.core.resume(id)
    }

    /// Sends a test event to one subscription and returns what its receiver did: one attempt, with the
    /// request, the guard and the transport of real deliveries. The event has the type `TEST`
    /// (`test.ping` where the session gateway's names are used), an id that no other event has, the
    /// payload `{"name":"<its name>","subscription":<its id>,"test":true}` and, where the subscription
    /// asks for numbers, the smallest of them. A subscription that is paused or disabled is tested as
    /// well. Nothing is stored, retried, counted or held against the endpoint.
    ///
    /// Blocks until the receiver answered, at most the subscription's timeout and the look-up of its
    /// name: not a call for the thread of an event loop.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Closed`] also when the engine is closed meanwhile. What the
    /// receiver does is no error.
    ///
    /// ```no_run
    /// use wabahook::{Config, Engine, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let crm = engine.subscribe(Subscription::to("https://crm.example/hook")?.name("crm"))?;
    /// let tested = engine.test(crm)?;
    /// if let Some(reason) = tested.reason {
    ///     println!("crm does not answer as it should: {reason}"); // such as status:404
    /// }
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn test(&self, id: SubscriptionId) -> Result<Tested> {
        self.core.test(id)
    }

    /// Every subscription, in the order of their ids.
    pub fn subscriptions(&self) -> Vec<Arc<Registered>> {
        self.core.registry.read().all()
    }

    /// Every subscription of an account, in the order of their ids.
    pub fn subscriptions_of(&self, account: &str) -> Vec<Arc<Registered>> {
        self.core.registry.read().of_account(account)
    }

    /// One subscription.
    pub fn subscription(&self, id: SubscriptionId) -> Option<Arc<Registered>> {
        self.core.registry.read().served(id).map(|served| Arc::clone(&served.registered))
    }

    /// Accepts an event for everybody who asked for it. Never blocks and never drops: the receipt
    /// resolves when the event and all deliveries it owes are on the device (I1).
    ///
    /// # Errors
    /// [`Error::Busy`] gives the event back when too much waits for the device;
    /// [`Error::TooLarge`], [`Error::Invalid`] and [`Error::Forbidden`] name the field at fault.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Event, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// use wabahook::Error;
    ///
    /// let event = Event::new("MESSAGE_RECEIVED", "{}").number("919999999999").dedup_key("wamid.1");
    /// match engine.publish(event) {
    ///     Ok(receipt) => println!("{} is on the device", receipt.wait()?.id),
    ///     Err(Error::Busy { events, .. }) => println!("{} to be tried again later", events.len()),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publish(&self, event: Event) -> Result<Receipt> {
        self.core.publish(event)
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
    /// assert_eq!(error.field(), Some("events[1].number"));
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publish_many(&self, events: Vec<Event>) -> Result<Receipt<Vec<Accepted>>> {
        self.core.publish_many(events)
    }

    /// Counts events that the host could not publish because nobody owns their number or WABA, so
    /// that they are visible in [`stats`](Engine::stats).
    pub fn count_unrouted(&self, events: u64) {
        self.core.counters.unrouted.add(events);
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
        self.core.recent.of(id, count_max)
    }

    /// A reading of the counters. Costs a short lock and a line for each subscription.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// A reader of what happens from now on, with a ring of its own.
    pub fn notices(&self) -> Notices {
        self.core.board.reader()
    }

    /// Calls `wake` after each notice, on a thread of the engine, so that an event loop can be
    /// woken; it must be quick and must not call the engine.
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
        self.core.board.wake_with(Arc::new(wake));
    }

    /// The accounts as configured.
    pub fn accounts(&self) -> &Accounts {
        &self.core.accounts
    }

    /// The catalogue of event types as configured.
    pub fn catalogue(&self) -> &Catalogue {
        &self.core.catalogue
    }

    /// The limits as configured.
    pub fn limits(&self) -> &Limits {
        &self.core.limits
    }

    /// The targets admitted beyond the safe ones, as configured.
    pub fn network(&self) -> &Network {
        &self.core.network
    }

    /// Stops accepting, lets attempts under way finish for at most `timeout`, interrupts the rest
    /// and lets go of the directory. Never waits for the backlog: what is owed is on the device and
    /// goes on at the next open. A second call does nothing.
    ///
    /// # Errors
    /// [`Error::Poisoned`] when the engine had failed before; it is closed all the same.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        self.core.close(timeout)
    }
}

impl Core {
    fn stats(&self) -> Stats {
        let counters = &self.counters;
        let (queued_events, queued_bytes) = self.outbox.queued();
        let holding = self.outbox.holding();
        let subscriptions = self.registry.read().len() as u64;
        let drive = self.drive.lock();
        Stats {
            accepted: counters.accepted.value(),
            duplicates: counters.duplicates.value(),
            unrouted: counters.unrouted.value(),
            busy: counters.busy.value(),
            owed: drive.dispatcher.owed(),
            recovered: counters.recovered.value(),
            delivered: counters.delivered.value(),
            attempts: counters.attempts.value(),
            retried: counters.retried.value(),
            dead: counters.dead.value(),
            cancelled: counters.cancelled.value(),
            held: drive.dispatcher.held(),
            in_flight: drive.dispatcher.in_flight() as u64,
            stuck: drive.dispatcher.stuck() as u64,
            workers: drive.workers as u64,
            groups: counters.groups.value(),
            queued_events: queued_events as u64,
            queued_bytes: queued_bytes as u64,
            outbox_events: holding.events,
            outbox_bytes: holding.bytes,
            generations: holding.generations as u64,
            replayed: counters.replayed.value(),
            letters_dropped: counters.letters_dropped.value(),
            keys_dropped: counters.keys_dropped.value(),
            subscriptions,
            attempt_durations: counters.attempt_durations.reading(),
            group_durations: counters.group_durations.reading(),
            lanes: drive.dispatcher.lane_stats(),
        }
    }

    fn close(&self, timeout: Duration) -> Result<()> {
        let state = match self.check_open() {
            Err(Error::Closed) => Ok(()),
            state => state,
        };
        self.phase.close();
        self.signal_stop();
        let mut drive = self.drive.lock();
        self.quiet.wait_while_for(&mut drive, |drive| drive.workers > 0, timeout);
        drop(drive);
        self.transport.interrupt();
        let mut drive = self.drive.lock();
        let runs = |drive: &mut core::Drive| drive.workers > 0 || drive.timekeeper_runs;
        self.quiet.wait_while_for(&mut drive, runs, INTERRUPT_GRACE);
        drop(drive);
        self.outbox.close();
        *self.book.lock() = None;
        *self.lock.lock() = None;
        tracing::info!("the engine is closed");
        state
    }
}
