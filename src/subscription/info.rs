//! A registered subscription as the engine holds and lists it.

use super::{Filter, Policy, Precedence, SubscriptionId, Target};
use crate::event::WabaNumber;
use crate::macros::word_enum;
use crate::profile::Profile;
use crate::secret::Secret;

/// A registered subscription: checked, with its id and state.
///
/// ```
/// # use wabahook::{Config, Engine, Event, Subscription};
/// # let directory = tempfile::tempdir()?;
/// # let engine = Engine::open(Config::new(directory.path()))?;
/// engine.subscribe(Subscription::to("https://crm.example/hook")?.name("crm"))?;
/// for info in engine.subscriptions() {
///     println!("{} {} {}", info.id, info.name, info.target.url());
/// }
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionInfo {
    /// Its id, assigned once.
    pub id: SubscriptionId,
    /// The id of the account it belongs to.
    pub account: String,
    /// Its name, unique in the account.
    pub name: String,
    /// What it is for, in the words of the host.
    pub description: Option<String>,
    /// Which events it receives.
    pub filter: Filter,
    /// Where and how its deliveries are sent.
    pub target: Target,
    /// Retries, order, limits and what counts as success.
    pub policy: Policy,
    /// The secret that signs its attempts.
    pub secret: Option<Secret>,
    /// Replaced secrets that still sign for a while.
    pub retiring: Vec<RetiringSecret>,
    /// Which gateway's conventions it follows.
    pub profile: Profile,
    /// How it ranks among the subscriptions of its gateway.
    pub precedence: Precedence,
    /// Whether it receives deliveries.
    pub state: SubscriptionState,
    /// While it is disabled, the text of the [`Reason`](crate::Reason) why, such as `status:410` or `failing`.
    pub disabled_reason: Option<String>,
    /// When it was first registered, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
}

impl SubscriptionInfo {
    /// The bytes of its texts and of its filter: what its memory grows with.
    pub(crate) fn text_bytes(&self) -> u64 {
        let events =
            self.filter.events.iter().flatten().map(|one| one.as_str().len()).sum::<usize>();
        let numbers = self
            .filter
            .numbers
            .as_ref()
            .map_or(0, |numbers| numbers.len() * size_of::<WabaNumber>());
        let description = self.description.as_ref().map_or(0, String::len);
        (self.name.len() + description + events + numbers + self.target.text_bytes()) as u64
    }

    /// Sets its state, and forgets why it was disabled unless it still is.
    pub(crate) fn set_state(&mut self, state: SubscriptionState) {
        self.state = state;
        if state != SubscriptionState::Disabled {
            self.disabled_reason = None;
        }
    }

    /// Removes its dependency after the main subscription was removed. It shared that one's
    /// precedence and is now independent, so that it masks no other subscription.
    pub(crate) fn clear_after(&mut self) {
        self.policy.after = None;
        if self.precedence != Precedence::Masked {
            self.precedence = Precedence::Independent;
        }
    }
}

/// A replaced secret that still signs for a while, so that a receiver can change over.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetiringSecret {
    /// The secret.
    pub secret: Secret,
    /// Until when it signs, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// Whether a subscription receives deliveries.
///
/// ```
/// # use wabahook::{Config, Engine, Event, Subscription};
/// # let directory = tempfile::tempdir()?;
/// # let engine = Engine::open(Config::new(directory.path()))?;
/// use wabahook::SubscriptionState;
///
/// let active = engine.subscriptions().iter().filter(|one| one.state == SubscriptionState::Active).count();
/// assert_eq!(active, 0);
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SubscriptionState {
    /// Deliveries are attempted.
    #[default]
    Active,
    /// The host paused it: its deliveries wait, and new events are added to them.
    Paused,
    /// The receiver asked to stop (410, or its header `webhook-delivery`), or failed for too long. Its
    /// deliveries wait, and events published meanwhile are not added to them.
    Disabled,
}

word_enum!(pub SubscriptionState, "state":
    Active = "active", Paused = "paused", Disabled = "disabled",
);

#[cfg(feature = "serde")]
impl serde::Serialize for SubscriptionInfo {
    /// Without the target's credentials, headers and secrets (I9).
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;

        let mut shown = to.serialize_struct("SubscriptionInfo", 8)?;
        shown.serialize_field("id", &self.id)?;
        shown.serialize_field("account", &self.account)?;
        shown.serialize_field("name", &self.name)?;
        shown.serialize_field("url", &self.target.url().to_string())?;
        shown.serialize_field("filter", &self.filter)?;
        shown.serialize_field("profile", self.profile.as_str())?;
        shown.serialize_field("state", self.state.as_str())?;
        shown.serialize_field("created_at_ms", &self.created_at_ms)?;
        shown.end()
    }
}
