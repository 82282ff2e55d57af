//! Bodies as each gateway sends them, built from the update of Meta that an event holds. Pure functions of the
//! event: an event that is not an update of Meta, or for which the gateway documents no body, is delivered as
//! it was published. What the update does not contain is absent, never invented, and nothing is read but the
//! update itself. `docs/requests.md` describes them.

mod business_api;
mod doubletick;
mod object;
mod session;
#[cfg(test)]
mod tests;
mod update;

use std::borrow::Cow;

use crate::event::StoredEvent;
use crate::profile::Profile;

/// What a gateway sends for an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GatewayPayload<'a> {
    /// The gateway's name of the event, where the update decides it.
    pub(crate) name: Option<&'static str>,
    pub(crate) bytes: Cow<'a, [u8]>,
}

/// The payload of an event as a gateway sends it.
pub(crate) fn of_gateway(profile: Profile, event: &StoredEvent) -> GatewayPayload<'_> {
    let built = match profile {
        Profile::DoubleTick => doubletick::body(event).map(|body| (None, body)),
        Profile::BusinessApi => business_api::body(event).map(|body| (None, body)),
        Profile::Session => session::data(event),
        // Their payload is Meta's, or the bytes as published.
        Profile::Dialog360 | Profile::Wabahook => None,
    };
    match built {
        Some((name, text)) => GatewayPayload { name, bytes: Cow::Owned(text.into_bytes()) },
        None => GatewayPayload { name: None, bytes: Cow::Borrowed(&event.payload) },
    }
}
