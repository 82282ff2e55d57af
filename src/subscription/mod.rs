//! What a subscription is: which account registered it, which events it receives, where they go and
//! how. Types only; `book` stores them, `routing` matches them, `dispatch` applies their policies.

mod authorization;
mod condition;
mod filter;
mod host_name;
mod info;
mod payload_format;
mod policy;
mod precedence;
mod target;
mod targets;
mod tls;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use authorization::Authorization;
pub(crate) use condition::ParsedPayload;
pub use condition::{Condition, UnreadablePayload};
pub use filter::Filter;
pub use info::{RetiringSecret, SubscriptionInfo, SubscriptionState};
pub use payload_format::PayloadFormat;
pub(crate) use policy::LONGEST_MS;
pub use policy::{Accept, Breaker, Ordering, Policy, RateLimit, Retry, RetryOn};
pub use precedence::Precedence;
pub(crate) use target::EXTRAS_MAX;
pub use target::{BodyFormat, Target};
pub(crate) use targets::{FEW_MAX, TargetIds, Targets};
pub use tls::{ClientCertificate, Tls};

use crate::error::{Error, Result};
use crate::event::{NumberInput, WabaNumber, number_input};
use crate::profile::Profile;
use crate::secret::Secret;
use crate::text::{NAME_EXPECTED, debug_fields, hex, is_name};

/// Identifies a subscription. An id is never assigned twice.
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

impl FromStr for SubscriptionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<SubscriptionId> {
        let number = text.parse().map(SubscriptionId);
        number.map_err(|_| Error::invalid("subscription", text, "the number of a subscription"))
    }
}

/// The longest description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 256;
/// How much of a URL, and of its digest, is in a name that was not given: 128 bytes in all.
const URL_IN_NAME_BYTES: usize = 111;
const DIGEST_IN_NAME_BYTES: usize = 8;

/// A webhook to register: account, name, filter, target, policy, secret, profile.
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
    pub(crate) description: Option<String>,
    pub(crate) events: Option<Vec<String>>,
    pub(crate) numbers: Option<Vec<NumberInput>>,
    pub(crate) condition: Option<Condition>,
    pub(crate) target: Target,
    pub(crate) policy: Policy,
    pub(crate) secret: Option<Secret>,
    pub(crate) profile: Profile,
    pub(crate) precedence: Precedence,
}

impl Subscription {
    /// A subscription to every event of every number of the account, delivered to `url`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `url` is not an absolute `https://` or `http://` URL, or carries a
    /// user name, a password or a fragment. The engine decides at registration whether it admits
    /// `http://`.
    pub fn to(url: impl AsRef<str>) -> Result<Subscription> {
        Target::new(url.as_ref()).map(Subscription::to_target)
    }

    pub(crate) fn to_target(target: Target) -> Subscription {
        Subscription {
            account: None,
            name: String::new(),
            description: None,
            events: None,
            numbers: None,
            condition: None,
            target,
            policy: Policy::default(),
            secret: None,
            profile: Profile::default(),
            precedence: Precedence::default(),
        }
    }

    /// The account that owns it. Defaults to the only account of the engine.
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

    /// What it is for: free text of at most 256 bytes. Defaults to none.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Subscription {
        self.description = Some(text.into()).filter(|text| !text.is_empty());
        self
    }

    /// Refuses a name that cannot be shown, and a description that is too long. Without a name the URL
    /// is used.
    pub(crate) fn check_name(&self) -> Result<()> {
        let bytes = self.description.as_ref().map_or(0, String::len);
        if bytes > DESCRIPTION_BYTES_MAX {
            let expected = format!("at most {DESCRIPTION_BYTES_MAX} bytes");
            return Err(Error::invalid("description", format!("{bytes} bytes"), expected));
        }
        if is_name(&self.name) || self.name.is_empty() {
            return Ok(());
        }
        Err(Error::invalid("name", &self.name, NAME_EXPECTED))
    }

    /// The name, or the URL without one. Of a URL that is too long for a name it is the beginning, with a digest of
    /// the whole, because two names of an account differ.
    pub(crate) fn name_or_url(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        let url = self.target.url().to_string();
        match url.get(..URL_IN_NAME_BYTES).filter(|_| !is_name(&url)) {
            Some(start) => {
                let digest = Sha256::digest(&url);
                format!("{start}~{}", hex(digest.get(..DIGEST_IN_NAME_BYTES).unwrap_or_default()))
            }
            None => url,
        }
    }

    /// Receives only these event types, named in any vocabulary of the catalogue. Defaults to all.
    #[must_use]
    pub fn events<E: Into<String>>(mut self, events: impl IntoIterator<Item = E>) -> Subscription {
        self.events = Some(events.into_iter().map(Into::into).collect());
        self
    }

    /// Receives events of only these WABA numbers. Defaults to every number of the account, also
    /// those added later.
    #[must_use]
    pub fn numbers<N: AsRef<str>>(mut self, numbers: impl IntoIterator<Item = N>) -> Subscription {
        self.numbers = Some(numbers.into_iter().map(|n| number_input(n.as_ref())).collect());
        self
    }

    /// Receives events of these numbers, or of every number of the account.
    pub(crate) fn numbers_or_all(
        mut self,
        numbers: Option<impl IntoIterator<Item = WabaNumber>>,
    ) -> Subscription {
        self.numbers = numbers.map(|numbers| numbers.into_iter().map(Ok).collect());
        self
    }

    /// Receives only events whose payload meets this condition, in addition to the types and numbers. It is
    /// evaluated once, when the event is published. Defaults to none.
    #[must_use]
    pub fn condition(mut self, condition: Condition) -> Subscription {
        self.condition = Some(condition);
        self
    }

    /// Signs every attempt with this secret, as Standard Webhooks does (`webhook-signature`) and as
    /// Meta does (`x-hub-signature-256`). After `whsec_` follows padded base64 of 24 to 64 bytes. Line
    /// ends and surrounding spaces are refused.
    #[must_use]
    pub fn secret(mut self, secret: impl Into<Secret>) -> Subscription {
        self.secret = Some(secret.into());
        self
    }

    /// Adds a header to every attempt, and replaces an earlier one of the same name.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Subscription {
        self.target.add_header(name.into(), value.into());
        self
    }

    /// The method of each request: GET, POST, PUT, DELETE, PATCH or HEAD. Defaults to POST. GET and
    /// HEAD carry the event in the query, as one percent-encoded parameter `payload` of at most 8 KiB;
    /// a larger event becomes a dead letter (`too_large`).
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

    /// Adds a key to the body of each request; its value is JSON text. A key of the event with the
    /// same name wins.
    #[must_use]
    pub fn body(mut self, name: impl Into<String>, json: impl Into<String>) -> Subscription {
        self.target.body.push((name.into(), json.into()));
        self
    }

    /// The header `authorization` of each request. It wins over one added with
    /// [`header`](Self::header).
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

    /// What it receives for an update of Meta. Defaults to the body that the gateway of its profile sends.
    #[must_use]
    pub fn payload(mut self, payload: PayloadFormat) -> Subscription {
        self.target.payload = payload;
        self
    }

    /// TLS settings that differ from the engine's.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Subscription {
        self.target.tls = Some(tls);
        self
    }

    /// Which gateway's conventions it follows. Defaults to the engine's own.
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Subscription {
        self.profile = profile;
        self
    }

    /// How it ranks among the subscriptions of its gateway. Defaults to independent of all others.
    #[must_use]
    pub fn precedence(mut self, precedence: Precedence) -> Subscription {
        self.precedence = precedence;
        self
    }

    /// Retries, order, limits and what counts as success, all at once. Defaults to
    /// [`Policy::default`]. Call it before the setters below, whose values it replaces.
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

    /// At most `events` attempts start in any span of `per`. Defaults to no limit.
    #[must_use]
    pub fn rate_limit(mut self, events: u32, per: Duration) -> Subscription {
        self.policy.rate_limit = Some(RateLimit { events, per });
        self
    }

    /// Each delivery waits until that subscription's delivery of the same event has succeeded. That
    /// one must belong to the same account and may not wait itself; at most 16 may wait for one.
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

debug_fields!(Subscription: account, name, events, numbers, target);

impl From<&SubscriptionInfo> for Subscription {
    /// The subscription to register again in order to change a part of it.
    fn from(info: &SubscriptionInfo) -> Subscription {
        let Filter { events, numbers, condition } = &info.filter;
        Subscription {
            account: Some(info.account.clone()),
            name: info.name.clone(),
            description: info.description.clone(),
            events: events.as_ref().map(|set| set.iter().map(ToString::to_string).collect()),
            numbers: numbers.as_ref().map(|set| set.iter().map(|number| Ok(*number)).collect()),
            condition: condition.clone(),
            target: info.target.clone(),
            policy: info.policy.clone(),
            secret: info.secret.clone(),
            profile: info.profile,
            precedence: info.precedence,
        }
    }
}
