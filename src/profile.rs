//! The gateways whose conventions a subscription can follow. Their requests are built in `delivery` and
//! their APIs live in `registration`. A profile's name is stable, because hosts filter by it.

use crate::macros::word_enum;

/// Which gateway's conventions a subscription follows.
///
/// ```
/// use wabahook::Profile;
/// assert_eq!("doubletick".parse::<Profile>()?, Profile::DoubleTick);
/// assert_eq!(Profile::Session.to_string(), "session");
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Profile {
    /// The engine's own registration: the payload byte for byte, named by headers.
    #[default]
    Wabahook,
    /// DoubleTick's webhooks.
    DoubleTick,
    /// The on-premises WhatsApp Business API.
    BusinessApi,
    /// 360dialog: the webhook of a number or of a WABA, and its further destinations.
    Dialog360,
    /// The session gateway, which wraps each event in an envelope.
    Session,
}

impl Profile {
    /// Whether it receives the single messages and statuses of Meta's callbacks. The other gateways
    /// receive callbacks only whole, and would get each event twice.
    pub(crate) fn receives_split_events(self) -> bool {
        !matches!(self, Profile::BusinessApi | Profile::Dialog360)
    }
}

word_enum!(pub Profile, "profile":
    Wabahook = "wabahook", DoubleTick = "doubletick", BusinessApi = "business_api",
    Dialog360 = "dialog360", Session = "session",
);
