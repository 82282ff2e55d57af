//! What an event is known by when Meta sends it again: its dedup key. Two updates that differ in anything
//! are two events; the same update sent again is one (I11).
//!
//! The ids of an update identify it only in shapes that are known to be safe. Everything else is identified
//! by the hash of its own bytes: Meta repeats the id of a message in its statuses per participant of a
//! group, in each attempt of a payment, in refunds and in repeated failures.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::update::{Update, UpdateList};
use crate::text::hex;

/// The longest key that the engine accepts, in bytes.
const KEY_BYTES_MAX: usize = 512;

/// The dedup key of an update at this number.
pub(super) fn update_identity(
    update: &Update<'_>,
    number: &str,
    moment: &ChangeMoment<'_>,
) -> String {
    let identity = match update.list {
        UpdateList::Messages | UpdateList::Standby => plain_message(update),
        UpdateList::Statuses => plain_status(update),
        _ => None,
    };
    match identity {
        // The parts hold no separator, so that two lists of parts never make one key.
        Some(parts) if is_plain(number) && parts.iter().all(|part| is_plain(part)) => {
            format!("{number}:{}", parts.join(":"))
        }
        _ => moment.hash(&[number, update.list.name(), update.text]),
    }
}

/// Types whose messages are never sent again in another form under the same id. An `unsupported` message
/// may later be sent with its content.
const PLAIN_TYPES: [&str; 13] = [
    "audio",
    "button",
    "contacts",
    "document",
    "image",
    "interactive",
    "location",
    "order",
    "reaction",
    "sticker",
    "text",
    "video",
    "voice",
];

/// The id and type of a message without members that could make it another message.
fn plain_message<'a>(update: &Update<'a>) -> Option<Vec<Cow<'a, str>>> {
    let kind = update.id("type").filter(|kind| PLAIN_TYPES.contains(&kind.as_ref()))?;
    let has_only_known = only_members(update, |name| {
        let known = [
            "context",
            "from",
            "from_parent_user_id",
            "from_user_id",
            "id",
            "identity",
            "referral",
            "timestamp",
            "type",
        ];
        known.contains(&name) || name == kind
    });
    update.id("from").or_else(|| update.id("from_user_id"))?;
    let id = update.id("id").filter(|_| has_only_known)?;
    Some(vec![id, kind])
}

/// The message id, status and recipient of a status that is reached once.
fn plain_status<'a>(update: &Update<'a>) -> Option<Vec<Cow<'a, str>>> {
    let statuses = ["sent", "delivered", "read", "played"];
    let status = update.id("status").filter(|status| statuses.contains(&status.as_ref()))?;
    let has_only_known = only_members(update, |name| {
        let known = [
            "biz_opaque_callback_data",
            "conversation",
            "id",
            "pricing",
            "recipient_id",
            "recipient_parent_user_id",
            "recipient_type",
            "recipient_user_id",
            "status",
            "timestamp",
        ];
        known.contains(&name)
    });
    let is_group = update.id("recipient_type").is_some_and(|kind| kind != "individual");
    let recipient = update.id("recipient_id").map(|id| format!("to={id}").into());
    let user = update.id("recipient_user_id").map(|id| format!("user={id}").into());
    recipient.as_ref().or(user.as_ref())?;
    let id = update.id("id").filter(|_| has_only_known && !is_group)?;
    Some([Some(id), Some(status), recipient, user].into_iter().flatten().collect())
}

fn only_members(update: &Update<'_>, is_known: impl Fn(&str) -> bool) -> bool {
    update.object.0.iter().all(|member| member.name.as_deref().is_some_and(&is_known))
}

/// Whether a part is short, so that five of them make a key, and holds no separator.
fn is_plain(part: &str) -> bool {
    (1..=KEY_BYTES_MAX / 5 - 1).contains(&part.len()) && !part.contains(':')
}

/// What a change is known by. The bytes of updates hold their own ids and times; a change without them (a
/// template that is approved, rejected and approved again) is told apart by the time of its entry, which
/// stays the same when Meta sends the callback again.
pub(super) enum ChangeMoment<'a> {
    Updates,
    Entry { waba: &'a str, time: &'a str },
}

impl ChangeMoment<'_> {
    /// The dedup key of what these parts tell apart.
    pub(super) fn hash(&self, parts: &[&str]) -> String {
        match self {
            ChangeMoment::Updates => hash(parts.iter().copied()),
            ChangeMoment::Entry { waba, time } => hash([parts, &[*waba, *time]].concat()),
        }
    }
}

/// The text itself, or its hash where it is longer than a key may be.
pub(super) fn bounded(text: Cow<'_, str>) -> String {
    match text.len() {
        0..=KEY_BYTES_MAX => text.into_owned(),
        _ => hash([text.as_ref()]),
    }
}

/// The SHA-256 of the parts, each with its length, in hexadecimal.
pub(super) fn hash<'t>(parts: impl IntoIterator<Item = &'t str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}
