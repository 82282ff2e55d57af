//! Decides what a subscription is: who registered it, what it asks for, where it goes and how.
//!
//! Leaves to others: finding the subscriptions of an event (`routing`), what each is owed
//! (`dispatch`, `outbox`). Invariant: a [`Filter`] never is empty on either side, so a subscription
//! that can never match cannot be registered.

mod authorization;
mod book;
mod journal;
mod level;
mod policy;
mod profile;
mod reached;
mod secret;
mod stored;
mod target;
mod tls;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use authorization::Authorization;
pub(crate) use book::{Book, Change as BookChange, Opened};
pub use level::Level;
pub(crate) use policy::LONGEST_MS;
pub use policy::{Accept, Breaker, Ordering, Policy, RateLimit, Retried, Retry};
pub use profile::Profile;
pub(crate) use reached::{FEW_MAX, Found, Reached};
pub use secret::{Retiring, Secret};
pub(crate) use target::EXTRAS_MAX;
pub use target::{BodyFormat, Target};
pub use tls::{ClientPair, Tls};

use crate::error::{Error, Result};
use crate::event::{Catalogue, EventType, NumberGiven, WabaNumber, number_given};

/// Names a subscription for ever: ids are given once and never again.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct SubscriptionId(pub u32);

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One registered webhook: account, name, filter, target, policy, secret, profile.
///
/// ```
/// use wabahook::Subscription;
/// let crm = Subscription::to("https://crm.example/hook")?
///     .name("crm")
///     .events(["MESSAGE_RECEIVED", "Template Updated"])
///     .numbers(["+919999999999"])
///     .secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
/// # let _ = crm;
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Clone)]
pub struct Subscription {
    pub(crate) account: Option<String>,
    pub(crate) name: String,
    pub(crate) events: Option<Vec<String>>,
    pub(crate) numbers: Option<Vec<NumberGiven>>,
    pub(crate) target: Target,
    pub(crate) policy: Policy,
    pub(crate) secret: Option<Secret>,
    pub(crate) profile: Profile,
    pub(crate) level: Level,
}

impl Subscription {
    /// A subscription to every event of every number of the account, delivered to `url`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `url` is not an absolute `https://` or `http://` URL, or carries a
    /// user name, a password or a fragment. Whether `http://` is admitted is decided by the engine
    /// that it is registered with.
    pub fn to(url: impl AsRef<str>) -> Result<Subscription> {
        Target::new(url.as_ref()).map(Subscription::to_target)
    }

    pub(crate) fn to_target(target: Target) -> Subscription {
        Subscription {
            account: None,
            name: String::new(),
            events: None,
            numbers: None,
            target,
            policy: Policy::default(),
            secret: None,
            profile: Profile::default(),
            level: Level::default(),
        }
    }

    /// The account it belongs to. Defaults to the only account, where there is one.
    #[must_use]
    pub fn account(mut self, name: impl Into<String>) -> Subscription {
        self.account = Some(name.into());
        self
    }

    /// Its name, unique in the account: 1 to 128 bytes. Defaults to the URL.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Subscription {
        self.name = name.into();
        self
    }

    /// Refuses a name that cannot be shown; none at all is no fault, the URL is one.
    pub(crate) fn check_name(&self) -> Result<()> {
        if is_name(&self.name) || self.name.is_empty() {
            return Ok(());
        }
        Err(Error::invalid("name", &self.name, NAME_EXPECTED))
    }

    /// The name, or the URL where none was given.
    pub(crate) fn name_or_url(&self) -> String {
        if self.name.is_empty() { self.target.url().to_string() } else { self.name.clone() }
    }

    /// Asks for these event types alone, named in any vocabulary of the catalogue. Defaults to all.
    #[must_use]
    pub fn events<E: Into<String>>(mut self, events: impl IntoIterator<Item = E>) -> Subscription {
        self.events = Some(events.into_iter().map(Into::into).collect());
        self
    }

    /// Asks for these WABA numbers alone. Defaults to every number of the account, also one that
    /// is added later.
    #[must_use]
    pub fn numbers<N: AsRef<str>>(mut self, numbers: impl IntoIterator<Item = N>) -> Subscription {
        self.numbers = Some(numbers.into_iter().map(|n| number_given(n.as_ref())).collect());
        self
    }

    /// Asks for the events of these numbers, or of every number of the account.
    pub(crate) fn numbers_or_all(
        mut self,
        numbers: Option<impl IntoIterator<Item = WabaNumber>>,
    ) -> Subscription {
        self.numbers = numbers.map(|numbers| numbers.into_iter().map(Ok).collect());
        self
    }

    /// Signs every attempt with this secret: Standard Webhooks (`webhook-signature`) and Meta's
    /// form (`x-hub-signature-256`). A `whsec_` secret must be base64 after its prefix.
    #[must_use]
    pub fn secret(mut self, secret: impl Into<Secret>) -> Subscription {
        self.secret = Some(secret.into());
        self
    }

    /// Adds a header to every attempt. Later ones of the same name replace earlier ones.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Subscription {
        self.target.add_header(name.into(), value.into());
        self
    }

    /// The method of each request: GET, POST, PUT, DELETE, PATCH or HEAD. Defaults to POST. GET and
    /// HEAD carry the event in the query, as one parameter `payload` of at most 8 KiB as it is sent,
    /// percent-encoded; an event that takes more is a dead letter (`too_large`).
    #[must_use]
    pub fn method(mut self, method: http::Method) -> Subscription {
        self.target.method = method;
        self
    }

    /// Adds a parameter to the URL's own query.
    #[must_use]
    pub fn query(mut self, name: impl Into<String>, value: impl Into<String>) -> Subscription {
        self.target.query.push((name.into(), value.into()));
        self
    }

    /// Adds a key to the body of each request, its value given as JSON text. A key of the event wins
    /// over it.
    #[must_use]
    pub fn body(mut self, name: impl Into<String>, json: impl Into<String>) -> Subscription {
        self.target.body.push((name.into(), json.into()));
        self
    }

    /// The header `authorization` of each request; wins over one among the headers.
    #[must_use]
    pub fn authorization(mut self, authorization: Authorization) -> Subscription {
        self.target.authorization = Some(authorization);
        self
    }

    /// How the body is written. Defaults to JSON.
    #[must_use]
    pub fn body_format(mut self, body_format: BodyFormat) -> Subscription {
        self.target.body_format = body_format;
        self
    }

    /// What its TLS connections do otherwise than all others.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Subscription {
        self.target.tls = Some(tls);
        self
    }

    /// Which gateway's manners it follows. Defaults to the engine's own.
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Subscription {
        self.profile = profile;
        self
    }

    /// How it ranks beside others of its gateway. Defaults to beside all others.
    #[must_use]
    pub fn level(mut self, level: Level) -> Subscription {
        self.level = level;
        self
    }

    /// All terms at once: when to try again, for how long, in which order, and what counts as
    /// success. Defaults to [`Policy::default`]. Give it before the single terms below, which it
    /// would replace.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Subscription {
        self.policy = policy;
        self
    }

    /// In which order its deliveries start. Defaults to none.
    #[must_use]
    pub fn ordering(mut self, ordering: Ordering) -> Subscription {
        self.policy.ordering = ordering;
        self
    }

    /// At most so many attempts start in any span of `per_ms` milliseconds. Defaults to no limit.
    #[must_use]
    pub fn rate_limit(mut self, events: u32, per_ms: u64) -> Subscription {
        self.policy.rate_limit = Some(RateLimit { events, per_ms });
        self
    }

    /// Each delivery waits until that subscription's delivery of the same event has succeeded. It
    /// must belong to the same account and wait for no other itself; at most 16 may wait for one.
    /// Defaults to none.
    ///
    /// ```
    /// use wabahook::{Config, Engine, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// let main = engine.subscribe(Subscription::to("https://crm.example/hook")?.name("main"))?;
    /// engine.subscribe(Subscription::to("https://log.example/hook")?.name("extra").after(main))?;
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn after(mut self, main: SubscriptionId) -> Subscription {
        self.policy.after = Some(main);
        self
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("account", &self.account)
            .field("name", &self.name)
            .field("events", &self.events)
            .field("numbers", &self.numbers)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// The longest name that somebody chooses, in bytes.
const NAME_BYTES_MAX: usize = 128;
pub(crate) const NAME_EXPECTED: &str = "1 to 128 bytes without control characters";

/// Whether somebody may choose this name.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// Which events a subscription asks for: a set of types or all, times a set of numbers or all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// The event types, canonical; `None` means all.
    pub events: Option<BTreeSet<EventType>>,
    /// The WABA numbers; `None` means every number of the account.
    pub numbers: Option<BTreeSet<WabaNumber>>,
}

impl Filter {
    /// Reads a filter in any vocabulary; an empty set on either side is refused, because it could
    /// never match and "all" has its own form.
    pub(crate) fn parse(
        events: Option<&[String]>,
        numbers: Option<&[NumberGiven]>,
        catalogue: &Catalogue,
    ) -> Result<Filter> {
        let events = events.map(|names| parse_events(names, catalogue)).transpose()?;
        let numbers = numbers.map(parse_numbers).transpose()?;
        Ok(Filter { events, numbers })
    }
}

fn parse_events(names: &[String], catalogue: &Catalogue) -> Result<BTreeSet<EventType>> {
    if names.is_empty() {
        let expected = "at least one event type, or all of them by leaving events out (\"*\")";
        return Err(Error::invalid("events", "an empty set", expected));
    }
    let each = names.iter().enumerate().map(|(place, name)| {
        catalogue.canonical(name).map_err(|_| {
            let expected = "an event type of 1 to 128 visible ASCII characters";
            Error::invalid(format!("events[{place}]"), name, expected)
        })
    });
    each.collect()
}

fn parse_numbers(given: &[NumberGiven]) -> Result<BTreeSet<WabaNumber>> {
    if given.is_empty() {
        let expected = "at least one number, or all of the account by leaving numbers out (\"*\")";
        return Err(Error::invalid("numbers", "an empty set", expected));
    }
    let each = given.iter().enumerate().map(|(place, number)| {
        number.as_ref().copied().map_err(|text| {
            let expected = "7 to 15 digits with the country code, such as +919999999999";
            Error::invalid(format!("numbers[{place}]"), text, expected)
        })
    });
    each.collect()
}

/// Whether a subscription is served.
///
/// ```
/// # use wabahook::{Config, Engine, Event, Subscription};
/// # let directory = tempfile::tempdir()?;
/// # let engine = Engine::open(Config::new(directory.path()))?;
/// use wabahook::State;
///
/// let served = engine.subscriptions().iter().filter(|one| one.state == State::Active).count();
/// assert_eq!(served, 0);
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum State {
    /// Deliveries are attempted.
    #[default]
    Active,
    /// The host holds it back; what it is owed waits, and events go on being owed to it.
    Paused,
    /// The receiver wants no more (410, or its header `webhook-delivery`), or there was nothing but
    /// failure for too long. What it is owed waits; what is published meanwhile is not owed to it.
    Disabled,
}

impl State {
    /// The state's name in listings.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Paused => "paused",
            State::Disabled => "disabled",
        }
    }
}

impl From<&Registered> for Subscription {
    /// The subscription as it would have to be registered to be as it is, so that a part of it can be
    /// changed.
    fn from(registered: &Registered) -> Subscription {
        let Filter { events, numbers } = &registered.filter;
        Subscription {
            account: Some(registered.account.clone()),
            name: registered.name.clone(),
            events: events.as_ref().map(|set| set.iter().map(ToString::to_string).collect()),
            numbers: numbers.as_ref().map(|set| set.iter().map(|number| Ok(*number)).collect()),
            target: registered.target.clone(),
            policy: registered.policy.clone(),
            secret: registered.secret.clone(),
            profile: registered.profile,
            level: registered.level,
        }
    }
}

/// A subscription as the engine holds it: checked, with its id and state.
///
/// ```
/// # use wabahook::{Config, Engine, Event, Subscription};
/// # let directory = tempfile::tempdir()?;
/// # let engine = Engine::open(Config::new(directory.path()))?;
/// engine.subscribe(Subscription::to("https://crm.example/hook")?.name("crm"))?;
/// for registered in engine.subscriptions() {
///     println!("{} {} {}", registered.id, registered.name, registered.target.url());
/// }
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Registered {
    /// Its id, given once.
    pub id: SubscriptionId,
    /// The account it belongs to.
    pub account: String,
    /// Its name, unique in the account.
    pub name: String,
    /// What it asks for.
    pub filter: Filter,
    /// Where it goes.
    pub target: Target,
    /// When to try again, and what counts as success.
    pub policy: Policy,
    /// What its attempts are signed with.
    pub secret: Option<Secret>,
    /// What they are signed with beside it, each for a while, after the secret was changed.
    pub retiring: Vec<Retiring>,
    /// Which gateway's manners it follows.
    pub profile: Profile,
    /// How it ranks beside others of its gateway.
    pub level: Level,
    /// Whether it is served.
    pub state: State,
    /// When it was first registered, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
}

impl Registered {
    /// Whom it waited for is no more. It ranked as that one did; now it stands beside all others, so
    /// that it silences nobody.
    pub(crate) fn wait_no_longer(&mut self) {
        self.policy.after = None;
        if self.level != Level::Masked {
            self.level = Level::Beside;
        }
    }
}
