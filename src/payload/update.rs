//! Reads the one update that the payload of a typed event holds: a callback of Meta with one change and in it one
//! message, status or call. A payload of another shape, or with more than one update, does not count as an update, so
//! that no body is built from two.

use std::borrow::Cow;

use crate::event::WabaNumber;
use crate::text::json::{JsonObject, elements};
use crate::text::rfc3339;

/// One change of Meta.
pub(super) struct MetaUpdate<'a> {
    pub(super) field: Cow<'a, str>,
    pub(super) value: JsonObject<'a>,
}

impl<'a> MetaUpdate<'a> {
    /// The only change of a payload, if it is a callback of Meta.
    pub(super) fn read(payload: &'a [u8]) -> Option<MetaUpdate<'a>> {
        let text = std::str::from_utf8(payload).ok()?;
        let entry = only_element(&JsonObject::parse(text).ok()?, "entry")?;
        let change = only_element(&entry, "changes")?;
        let (field, value) = (change.id("field")?, change.value("value")?);
        Some(MetaUpdate { field, value: JsonObject::parse(value).ok()? })
    }

    /// The only update of the change, if it is in this list.
    pub(super) fn only(&self, list: &str) -> Option<JsonObject<'a>> {
        let lists = ["messages", "statuses", "calls", "message_echoes"];
        let count = |name: &&str| self.value.value(name).and_then(elements).map(|all| all.len());
        match lists.iter().filter_map(count).sum() {
            1_usize => only_element(&self.value, list),
            _ => None,
        }
    }

    /// The business number that the change names.
    pub(super) fn display_number(&self) -> Option<WabaNumber> {
        let metadata = nested(&self.value, "metadata");
        let named = metadata.as_ref().and_then(|metadata| metadata.id("display_phone_number"));
        named?.parse().ok()
    }

    /// The contact with one of these ids: phone numbers or user ids. No other is ever shown.
    pub(super) fn contact(&self, ids: &[Option<Cow<'a, str>>]) -> Option<JsonObject<'a>> {
        let contacts = self.value.value("contacts").and_then(elements)?;
        let is_meant = |contact: &JsonObject<'a>| {
            let own = [contact.id("wa_id"), contact.id("user_id")];
            own.iter().flatten().any(|own| ids.iter().flatten().any(|id| id == own))
        };
        contacts.into_iter().filter_map(|text| JsonObject::parse(text).ok()).find(is_meant)
    }
}

/// The only element of a list, if it is an object.
fn only_element<'a>(object: &JsonObject<'a>, list: &str) -> Option<JsonObject<'a>> {
    match object.value(list).and_then(elements)?.as_slice() {
        [only] => JsonObject::parse(only).ok(),
        _ => None,
    }
}

/// The object in a member.
pub(super) fn nested<'a>(object: &JsonObject<'a>, name: &str) -> Option<JsonObject<'a>> {
    JsonObject::parse(object.value(name)?).ok()
}

/// The moment that a member names in seconds since the Unix epoch, as RFC 3339.
pub(super) fn moment(object: &JsonObject<'_>, name: &str) -> Option<String> {
    let seconds: u64 = object.id(name)?.parse().ok()?;
    Some(rfc3339(seconds.saturating_mul(1_000)))
}

/// A whole number, as its digits.
pub(super) fn whole<'a>(object: &JsonObject<'a>, name: &str) -> Option<Cow<'a, str>> {
    let is_plain = |text: &Cow<'_, str>| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        digits && !text.is_empty() && (text.len() == 1 || !text.starts_with('0'))
    };
    object.id(name).filter(is_plain)
}
