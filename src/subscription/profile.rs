//! Decides which gateways there are, and what their subscriptions are served of.
//!
//! Leaves to others: what each gateway's requests look like (`delivery::request`) and its API
//! (`registration`). Invariant: a profile's name is stable, because hosts filter by it.

use serde::{Deserialize, Serialize};

/// Which gateway's manners a subscription follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Profile {
    /// The engine's own registration: the payload byte for byte, named by headers.
    #[default]
    Wabahook,
    /// DoubleTick's webhooks.
    DoubleTick,
    /// The on-premises WhatsApp Business API.
    BusinessApi,
    /// 360dialog, at the level of a number or of a WABA, and its further destinations.
    Dialog360,
    /// The session gateway, which wraps what it sends in an envelope of its own.
    Session,
}

impl Profile {
    /// The profile's name in listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Profile::Wabahook => "wabahook",
            Profile::DoubleTick => "doubletick",
            Profile::BusinessApi => "business_api",
            Profile::Dialog360 => "dialog360",
            Profile::Session => "session",
        }
    }

    /// Whether it is served of the single messages and statuses of Meta's callbacks. The others know
    /// callbacks only whole, and would get each twice.
    pub(crate) fn takes_parts(self) -> bool {
        !matches!(self, Profile::BusinessApi | Profile::Dialog360)
    }
}
