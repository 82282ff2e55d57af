//! DoubleTick's bodies. Members and their order are those of its documents; ids, agents and customers of
//! DoubleTick's own database do not exist here and are absent. Phone numbers are written as it writes them:
//! without a plus in messages and calls, with one elsewhere.

use std::borrow::Cow;

use super::object::ObjectWriter;
use super::update::{MetaUpdate, moment, nested, whole};
use crate::event::StoredEvent;
use crate::text::json::{JsonObject, elements};

mod message;

/// The body of an event, if DoubleTick documents one and the update decides it.
pub(super) fn body(event: &StoredEvent) -> Option<String> {
    let update = MetaUpdate::read(&event.payload)?;
    let context = Context { event, update: &update };
    let body = match event.event_type.as_str() {
        "MESSAGE_RECEIVED" => context.message(Kind::Single),
        "CALL_TO_WHATSAPP_MESSAGE_RECEIVED" => context.message(Kind::Advertised),
        "WA_GROUP_MESSAGE_RECEIVED" => context.message(Kind::Group),
        "NEW_LEAD" => context.lead(),
        "CALL_PERMISSION_REPLY_RECEIVED" => context.permission_reply(),
        "MESSAGE_STATUS_UPDATE" => context.status(),
        "TEMPLATE_UPDATE" => context.template(),
        "CALL_INCOMING_INITIATED" | "CALL_OUTGOING_INITIATED" => context.call("INITIATED"),
        "CALL_ACCEPTED" => context.call("IN_PROGRESS"),
        "CALL_ENDED" => context.call("END"),
        "CALL_REJECTED" => context.call("REJECT"),
        "CALL_MISSED" => context.call("MISSED"),
        _ => None,
    };
    body.map(ObjectWriter::finish)
}

/// The events that a message becomes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Single,
    /// Answers an advertisement.
    Advertised,
    Group,
}

struct Context<'a> {
    event: &'a StoredEvent,
    update: &'a MetaUpdate<'a>,
}

impl<'a> Context<'a> {
    /// The digits of the business number.
    fn business(&self) -> Option<String> {
        let number = self.event.number.or_else(|| self.update.display_number());
        number.map(|number| number.to_string())
    }

    /// The customer who wrote a message.
    fn sender(&self, message: &JsonObject<'a>) -> Option<JsonObject<'a>> {
        self.update.contact(&[message.id("from"), message.id("from_user_id")])
    }

    fn message(&self, kind: Kind) -> Option<ObjectWriter> {
        let message = self.update.only("messages")?;
        let contact = self.sender(&message);
        let profile = contact.as_ref().and_then(|contact| nested(contact, "profile"));
        let named = profile.as_ref().and_then(|profile| profile.value("name"));
        let to = match kind {
            Kind::Group => message.id("group_id"),
            _ => self.business().map(Cow::Owned),
        };
        let of_contact = |name: &str| contact.as_ref().and_then(|contact| contact.id(name));
        let body = ObjectWriter::new()
            .text("to", to)
            .text("from", message.id("from"))
            .text("messageId", message.id("id"))
            .text("receivedAt", moment(&message, "timestamp"))
            .object("contact", named.map(|name| ObjectWriter::new().raw("name", Some(name))))
            .text("integrationType", Some("WHATSAPP"))
            .text("type", (kind == Kind::Group).then_some("wa_group"))
            .object("message", Some(message::content(&message)))
            .text("userId", message.id("from_user_id").or_else(|| of_contact("user_id")))
            .text("parentUserId", of_contact("parent_user_id"))
            .raw("username", profile.as_ref().and_then(|profile| profile.value("username")));
        match kind {
            Kind::Advertised => Some(body.raw("referralObject", message.value("referral"))),
            Kind::Single | Kind::Group => Some(body),
        }
    }

    /// The first message of a customer, as a host that knows it publishes it.
    fn lead(&self) -> Option<ObjectWriter> {
        let message = self.update.only("messages")?;
        let contact = self.sender(&message);
        let profile = contact.as_ref().and_then(|contact| nested(contact, "profile"));
        let from = message.id("from").map(with_plus);
        let to = self.business().map(with_plus);
        let referral = message.value("referral");
        let is_advertised = if referral.is_some() { "true" } else { "false" };
        let body = ObjectWriter::new()
            .raw("customerName", profile.as_ref().and_then(|profile| profile.value("name")))
            .text("customerPhone", from.as_ref())
            .text("from", from.as_ref())
            .text("to", to.as_ref())
            .raw("isCTWA", Some(is_advertised))
            .text("wabaNumber", to.as_ref())
            .raw("newLead", Some("true"))
            .raw("referral", referral);
        Some(body)
    }

    fn permission_reply(&self) -> Option<ObjectWriter> {
        let message = self.update.only("messages")?;
        let interactive = nested(&message, "interactive")?;
        let reply = nested(&interactive, "call_permission_reply")?;
        let paired = nested(&message, "context").and_then(|context| context.id("id"));
        let body = ObjectWriter::new()
            .text("from", message.id("from").map(with_plus))
            .text("to", self.business().map(with_plus))
            .text("receivedAt", moment(&message, "timestamp"))
            .text("messageId", message.id("id"))
            .text("pairedMessageId", paired)
            .text("response", reply.id("response"))
            .text("responseSource", reply.id("response_source"))
            .raw("expirationTimestamp", whole(&reply, "expiration_timestamp").as_deref())
            .raw("isPermanent", reply.value("is_permanent"));
        Some(body)
    }

    fn status(&self) -> Option<ObjectWriter> {
        // DoubleTick documents no status of a group's message.
        let is_group = |status: &JsonObject<'_>| {
            status.id("recipient_type").is_some_and(|kind| kind == "group")
        };
        let status = self.update.only("statuses").filter(|status| !is_group(status))?;
        let word = status.id("status")?.to_ascii_uppercase();
        let ids = [status.id("recipient_id"), status.id("recipient_user_id")];
        let profile = self.update.contact(&ids).and_then(|contact| nested(&contact, "profile"));
        let body = ObjectWriter::new()
            .text("messageId", status.id("id"))
            .text("to", status.id("recipient_id"))
            .text("wabaNumber", self.business().map(with_plus))
            .text("status", Some(&word))
            .text("statusTimestamp", moment(&status, "timestamp"))
            .raw("customerName", profile.as_ref().and_then(|profile| profile.value("name")))
            .text("userId", status.id("recipient_user_id"));
        let failed = (word == "FAILED").then(|| failure(&status)).flatten();
        Some(body.text("failMessage", failed))
    }

    fn template(&self) -> Option<ObjectWriter> {
        let value = Some(&self.update.value);
        let value = value.filter(|_| self.update.field == "message_template_status_update")?;
        let status = value.id("event")?;
        let rejection = nested(value, "rejection_info");
        let reason = rejection.and_then(|info| info.id("reason")).or_else(|| value.id("reason"));
        // Empty for every other transition, as documented.
        let reason = if status == "REJECTED" { reason } else { Some(Cow::Borrowed("")) };
        let body = ObjectWriter::new()
            .text("wabaPhoneNumber", self.business().map(with_plus))
            .text("templateName", value.id("message_template_name"))
            .text("templateLanguage", value.id("message_template_language"))
            .text("newStatus", Some(status))
            .text("rejectedReason", reason)
            .text("event", Some("TEMPLATE_STATUS_UPDATE"));
        Some(body)
    }

    /// A call, or what became of one that the business placed.
    fn call(&self, by_type: &str) -> Option<ObjectWriter> {
        let call = self.update.only("calls").or_else(|| self.update.only("statuses"))?;
        let business = self.business();
        let parties = ["from", "to", "recipient_id"].into_iter().filter_map(|name| call.id(name));
        let customer = { parties }.find(|party| business.as_deref() != Some(&**party));
        let ids = [customer.clone(), call.id("from_user_id"), call.id("to_user_id")];
        let profile = self.update.contact(&ids).and_then(|contact| nested(&contact, "profile"));
        let direction = match call.id("direction").as_deref() {
            Some("USER_INITIATED") => Some("INCOMING"),
            Some("BUSINESS_INITIATED") => Some("OUTGOING"),
            _ => None,
        };
        let has_failed = call.id("status").is_some_and(|status| status == "FAILED");
        let (started, ended) = match by_type {
            "INITIATED" => (None, None),
            "IN_PROGRESS" => (moment(&call, "timestamp"), None),
            _ => (moment(&call, "start_time"), moment(&call, "end_time")),
        };
        let is_over = !matches!(by_type, "INITIATED" | "IN_PROGRESS");
        let ended = ended.or_else(|| moment(&call, "timestamp").filter(|_| is_over));
        let reason = has_failed.then(|| failure(&call).or_else(|| failure(&self.update.value)));
        let body = ObjectWriter::new()
            .text("event", Some(self.event.event_type.as_str()))
            .text("callId", call.id("id"))
            .text("wabaNumber", business)
            .text("customerNumber", customer)
            .raw("customerName", profile.as_ref().and_then(|profile| profile.value("name")))
            .text("callDirection", direction)
            .text("callStatus", Some(if has_failed { "FAILED" } else { by_type }))
            .text("failedReason", reason.flatten())
            .raw("durationInSeconds", whole(&call, "duration").as_deref())
            .text("callStartedAt", started)
            .text("callEndedAt", ended);
        Some(body)
    }
}

/// The text of the first error of a list.
fn failure<'a>(object: &JsonObject<'a>) -> Option<Cow<'a, str>> {
    let errors = object.value("errors").and_then(elements)?;
    let first = JsonObject::parse(errors.first()?).ok()?;
    first.id("message").or_else(|| first.id("title"))
}

fn with_plus(number: impl AsRef<str>) -> String {
    format!("+{}", number.as_ref().trim_start_matches('+'))
}
