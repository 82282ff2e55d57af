//! The session gateway's documented `data`. It names people by JID (`919812300001@s.whatsapp.net`) and the
//! business by its digits, and it never holds the content of a message.

use std::borrow::Cow;

use super::object::ObjectWriter;
use super::update::{MetaUpdate, nested, whole};
use crate::event::StoredEvent;
use crate::text::json::{JsonObject, elements};

/// The name of the event where the update decides it, and the data.
pub(super) type NamedData = (Option<&'static str>, String);

pub(super) fn data(event: &StoredEvent) -> Option<NamedData> {
    let update = MetaUpdate::read(&event.payload)?;
    match event.event_type.as_str() {
        "MESSAGE_RECEIVED" | "WA_GROUP_MESSAGE_RECEIVED" => received(&update),
        "MESSAGE_STATUS_UPDATE" => receipt(&update),
        "CALL_INCOMING_INITIATED" | "CALL_ACCEPTED" | "CALL_REJECTED" | "CALL_ENDED" => {
            call(event, &update)
        }
        "HISTORY_SYNC" => history(event, &update),
        "SMB_APP_STATE_SYNC" => contact(event, &update),
        _ => None,
    }
}

fn received(update: &MetaUpdate<'_>) -> Option<NamedData> {
    let message = update.only("messages")?;
    let from = message.id("from").map(jid);
    let chat = message.id("group_id").map(jid).or_else(|| from.clone());
    let data = ObjectWriter::new()
        .text("message_id", message.id("id"))
        .text("from", from)
        .text("chat", chat)
        .raw("timestamp", whole(&message, "timestamp").as_deref())
        .raw("is_from_me", Some("false"));
    // A group's message is a message like others here.
    Some((Some("message.received"), data.finish()))
}

/// The gateway reports three statuses, each under a name of its own.
fn receipt(update: &MetaUpdate<'_>) -> Option<NamedData> {
    let status = update.only("statuses")?;
    let name = match status.id("status")?.as_ref() {
        "delivered" => "message.delivered",
        "read" => "message.read",
        "played" => "message.played",
        _ => return None,
    };
    let chat = status.id("recipient_id").map(jid);
    // Meta has had both names for who of a group received it.
    let participant = ["recipient_participant_id", "participant_recipient_id"];
    let participant = participant.iter().find_map(|name| status.id(name)).map(jid);
    let is_group = status.id("recipient_type").is_some_and(|kind| kind == "group");
    let sender = participant.or_else(|| chat.clone().filter(|_| !is_group));
    let data = ObjectWriter::new()
        .text("message_id", status.id("id"))
        .text("chat", chat)
        .text("sender", sender)
        .raw("timestamp", whole(&status, "timestamp").as_deref());
    Some((Some(name), data.finish()))
}

fn call(event: &StoredEvent, update: &MetaUpdate<'_>) -> Option<NamedData> {
    let call = update.only("calls").or_else(|| update.only("statuses"))?;
    let business = business(event, update);
    let is_customer = |id: &Cow<'_, str>| business.as_deref() != Some(&**id);
    let parties = ["from", "to", "recipient_id"].into_iter().filter_map(|name| call.id(name));
    let customer = { parties }.find(is_customer);
    let data = ObjectWriter::new()
        .text("jid", business.as_deref())
        .text("call_id", call.id("id"))
        .text("from", customer.map(jid))
        .raw("timestamp", whole(&call, "timestamp").as_deref());
    Some((None, data.finish()))
}

fn history(event: &StoredEvent, update: &MetaUpdate<'_>) -> Option<NamedData> {
    let chunk = only(update.value.value("history")?)?;
    let progress = nested(&chunk, "metadata")
        .and_then(|metadata| whole(&metadata, "progress").map(Cow::into_owned));
    let threads = chunk.value("threads").and_then(elements);
    let count = threads.map(|threads| threads.len().to_string());
    let data = ObjectWriter::new()
        .text("jid", business(event, update))
        .raw("progress", progress.as_deref())
        .raw("conversation_count", count.as_deref());
    Some((None, data.finish()))
}

/// A change of one contact of the phone's address book.
fn contact(event: &StoredEvent, update: &MetaUpdate<'_>) -> Option<NamedData> {
    let change = only(update.value.value("state_sync")?)?;
    let contact = nested(&change, "contact")?;
    let data = ObjectWriter::new()
        .text("jid", business(event, update))
        .text("contact_jid", contact.id("phone_number").map(jid))
        .text("action", change.id("action"));
    Some((Some("contact.update"), data.finish()))
}

/// The only element of a list.
fn only(list: &str) -> Option<JsonObject<'_>> {
    match elements(list)?.as_slice() {
        [only] => JsonObject::parse(only).ok(),
        _ => None,
    }
}

/// The digits of the business number.
fn business(event: &StoredEvent, update: &MetaUpdate<'_>) -> Option<String> {
    event.number.or_else(|| update.display_number()).map(|number| number.to_string())
}

/// The JID of a phone number; other ids stay as Meta writes them.
fn jid(id: Cow<'_, str>) -> String {
    let digits = id.trim_start_matches('+');
    match !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => format!("{digits}@s.whatsapp.net"),
        false => id.into_owned(),
    }
}
