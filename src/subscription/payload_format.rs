//! What a subscription receives for an update of Meta.

use crate::macros::word_enum;

/// What a subscription receives for an update of Meta.
///
/// ```
/// use wabahook::{PayloadFormat, Profile, Subscription};
/// let crm = Subscription::to("https://crm.example/hook")?
///     .profile(Profile::DoubleTick)
///     .payload(PayloadFormat::Meta);
/// # let _ = crm;
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum PayloadFormat {
    /// The body that the gateway of its profile sends. For the engine's own profile, the bytes as published.
    #[default]
    Gateway,
    /// The bytes as published, which are Meta's callback with this update alone.
    Meta,
}

word_enum!(pub PayloadFormat, "payload": Gateway = "gateway", Meta = "meta");
