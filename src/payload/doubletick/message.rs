//! The `message` of DoubleTick's bodies: its own form for the kinds that it documents, and Meta's content under
//! Meta's name for the others. Media has Meta's `id`: DoubleTick's `url` is of its own storage.

use super::super::object::ObjectWriter;
use super::super::update::nested;
use crate::text::json::{JsonMember, JsonObject, quoted};

/// The kinds of content, for a message that does not name its own.
const KINDS: [&str; 11] = [
    "text",
    "image",
    "video",
    "audio",
    "sticker",
    "document",
    "location",
    "contacts",
    "button",
    "interactive",
    "reaction",
];

pub(super) fn content(message: &JsonObject<'_>) -> ObjectWriter {
    let named = message.id("type").map(|kind| kind.into_owned());
    let held = || KINDS.iter().find(|kind| message.value(kind).is_some());
    let kind = named.or_else(|| held().map(|kind| (*kind).to_owned()));
    let content = match kind.as_deref() {
        Some(kind) => of_kind(kind, message),
        None => ObjectWriter::new(),
    };
    let context = nested(message, "context").unwrap_or(JsonObject(Vec::new()));
    let context = ObjectWriter::new().text("from", context.id("from")).text("id", context.id("id"));
    content.raw("errors", message.value("errors")).object("context", Some(context))
}

fn of_kind(kind: &str, message: &JsonObject<'_>) -> ObjectWriter {
    let typed = |kind: &str| ObjectWriter::new().text("type", Some(kind.to_ascii_uppercase()));
    let as_meta = || typed(kind).raw(kind, message.value(kind));
    let Some(inner) = nested(message, kind) else { return as_meta() };
    match kind {
        "text" => typed(kind).raw("text", inner.value("body")),
        "image" | "video" | "audio" | "sticker" | "document" => typed(kind)
            .raw("url", inner.value("url"))
            .raw("id", inner.value("id"))
            .raw("mimeType", inner.value("mime_type"))
            .raw("fileName", inner.value("filename"))
            .raw("caption", inner.value("caption")),
        "location" => ["latitude", "longitude", "name", "address"]
            .into_iter()
            .fold(typed(kind), |body, name| body.raw(name, inner.value(name))),
        "button" => {
            typed(kind).raw("text", inner.value("text")).raw("payload", inner.value("payload"))
        }
        "interactive" => interactive(&inner).unwrap_or_else(as_meta),
        _ => as_meta(),
    }
}

/// A pressed button or a submitted flow; DoubleTick documents no other.
fn interactive(inner: &JsonObject<'_>) -> Option<ObjectWriter> {
    if let Some(reply) = nested(inner, "button_reply") {
        let button = ObjectWriter::new().text("type", Some("BUTTON"));
        return Some(button.raw("text", reply.value("title")).raw("id", reply.value("id")));
    }
    let answered = nested(inner, "nfm_reply")?.id("response_json")?.into_owned();
    let fields = JsonObject::parse(&answered).ok()?;
    let field = |member: &JsonMember<'_>| {
        let field = ObjectWriter::new().raw("id", Some(&quoted(member.shown_name())));
        field.raw("value", Some(member.value.get())).finish()
    };
    let fields: Vec<String> = fields.0.iter().map(field).collect();
    let flow = ObjectWriter::new().text("type", Some("FLOW"));
    Some(flow.raw("flowResponse", Some(&format!("[{}]", fields.join(",")))))
}
