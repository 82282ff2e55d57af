//! The content of a request: the payload as the subscription's gateway sends it, alone, in the session gateway's
//! envelope, or with the keys that the target adds. A payload to which nothing is added is passed on byte for
//! byte; otherwise the text of each value is kept as it is. A key of the event wins over one of the target.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::event::StoredEvent;
use crate::payload::{self, GatewayPayload};
use crate::profile::Profile;
use crate::subscription::{PayloadFormat, SubscriptionInfo};
use crate::text::json::{JsonMember, JsonObject, quoted};
use crate::text::rfc3339;

/// What is made of the payloads of one subscription.
#[derive(Clone)]
pub(super) struct Composer {
    /// The gateway whose bodies it receives; `None` for the bytes as published.
    gateway: Option<Profile>,
    /// Whether the payload goes into the session gateway's envelope.
    enveloped: bool,
    /// Keys, and values as JSON text, for what the event does not say itself.
    additions: Vec<(String, String)>,
}

/// One key of the content of a request, with its value.
pub(super) struct Member<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) value: Value<'a>,
}

/// A value as it came.
pub(super) enum Value<'a> {
    Json(Cow<'a, str>),
    Bytes(&'a [u8]),
}

/// An event as one subscription receives it.
pub(super) struct Content<'a> {
    event: &'a StoredEvent,
    /// The event's type in the gateway's vocabulary.
    pub(super) name: &'a str,
    payload: Cow<'a, [u8]>,
}

impl Composer {
    pub(super) fn new(subscription: &SubscriptionInfo) -> Composer {
        let SubscriptionInfo { profile, target, .. } = subscription;
        Composer {
            gateway: (target.payload() == PayloadFormat::Gateway).then_some(*profile),
            enveloped: *profile == Profile::Session,
            additions: target.body().to_vec(),
        }
    }

    /// The event, which has this name in the gateway's vocabulary, as the subscription receives it.
    pub(super) fn content<'a>(&self, event: &'a StoredEvent, name: &'a str) -> Content<'a> {
        match self.gateway.map(|gateway| payload::of_gateway(gateway, event)) {
            Some(GatewayPayload { name: own, bytes }) => {
                Content { event, name: own.unwrap_or(name), payload: bytes }
            }
            None => Content { event, name, payload: Cow::Borrowed(&event.payload) },
        }
    }

    /// Everything as one JSON value; the payload itself, whatever it is, if nothing is put around it or added.
    pub(super) fn json<'a>(&self, content: Content<'a>) -> Cow<'a, [u8]> {
        if !self.enveloped && self.additions.is_empty() {
            return content.payload;
        }
        let mut text = String::with_capacity(content.payload.len() + 256);
        for member in self.members(&content) {
            text.push(if text.is_empty() { '{' } else { ',' });
            text.push_str(&quoted(&member.name));
            text.push(':');
            text.push_str(&member.value.json());
        }
        text.push('}');
        Cow::Owned(text.into_bytes())
    }

    /// All keys: the event's own in their order, then those that the target adds.
    pub(super) fn members<'a>(&'a self, content: &'a Content<'_>) -> Vec<Member<'a>> {
        let mut members = match self.enveloped {
            true => envelope(content),
            false => own_members(&content.payload),
        };
        let own = members.len();
        for (name, json) in &self.additions {
            let said = members.iter().take(own).any(|member| member.name == *name);
            if !said {
                let (name, value) = (Cow::Borrowed(name.as_str()), Value::json_text(json));
                members.push(Member { name, value });
            }
        }
        members
    }
}

impl<'a> Value<'a> {
    fn json_text(text: &'a str) -> Value<'a> {
        Value::Json(Cow::Borrowed(text))
    }

    /// Bytes that are JSON, without the space around it, or others.
    fn of(payload: &'a [u8]) -> Value<'a> {
        match serde_json::from_slice::<&RawValue>(payload) {
            Ok(raw) => Value::json_text(raw.get()),
            Err(_) => Value::Bytes(payload),
        }
    }

    /// The value as JSON. A value that is not JSON becomes a string, in base64 if it is not text.
    fn json(&self) -> Cow<'_, str> {
        match self {
            Value::Json(text) => Cow::Borrowed(text),
            Value::Bytes(bytes) => Cow::Owned(match std::str::from_utf8(bytes) {
                Ok(text) => quoted(text),
                Err(_) => quoted(&STANDARD.encode(bytes)),
            }),
        }
    }

    /// As a field of a form: a string without its quotes, any other value as its JSON text.
    pub(super) fn field(&self) -> Cow<'_, [u8]> {
        match self {
            Value::Bytes(bytes) => Cow::Borrowed(bytes),
            Value::Json(text) => match serde_json::from_str::<String>(text) {
                Ok(string) => Cow::Owned(string.into_bytes()),
                Err(_) => Cow::Borrowed(text.as_bytes()),
            },
        }
    }
}

/// JSON without the space between its tokens; other content is returned unchanged.
pub(super) fn compact(said: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    if serde_json::from_slice::<&RawValue>(&said).is_err() {
        return said;
    }
    let (mut in_string, mut escaped) = (false, false);
    let is_said = |byte: &u8| {
        if in_string {
            (in_string, escaped) = (*byte != b'"' || escaped, *byte == b'\\' && !escaped);
            return true;
        }
        in_string = *byte == b'"';
        !matches!(*byte, b' ' | b'\t' | b'\r' | b'\n')
    };
    Cow::Owned(said.iter().copied().filter(is_said).collect())
}

/// What the session gateway sends. It knows the sender as the device of a session, which here is the
/// number; an event without one came from the account as a whole. Its time is that of the event, so
/// that each attempt says the same.
fn envelope<'a>(content: &'a Content<'_>) -> Vec<Member<'a>> {
    let Content { event, name, payload } = content;
    let device =
        event.number.map_or_else(|| event.account.to_string(), |number| number.to_string());
    let text = |text: &str| Value::Json(Cow::Owned(quoted(text)));
    let member = |name, value| Member { name: Cow::Borrowed(name), value };
    vec![
        member("event_type", text(name)),
        member("device_id", text(&device)),
        member("timestamp", text(&rfc3339(event.accepted_at_ms))),
        member("data", Value::of(payload)),
    ]
}

/// The members of a payload that is an object; any other goes under the key `payload`.
fn own_members(payload: &[u8]) -> Vec<Member<'_>> {
    let object = std::str::from_utf8(payload).ok().and_then(|text| JsonObject::parse(text).ok());
    fn member(own: JsonMember<'_>) -> Option<Member<'_>> {
        Some(Member { name: own.name?, value: Value::json_text(own.value.get()) })
    }
    let members = object.and_then(|object| object.0.into_iter().map(member).collect());
    members.unwrap_or_else(|| {
        vec![Member { name: Cow::Borrowed("payload"), value: Value::of(payload) }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_compact(given: &str, expected: &str) {
        let compacted = compact(Cow::Borrowed(given.as_bytes()));
        assert_eq!(std::str::from_utf8(&compacted).unwrap(), expected, "{given:?}");
    }

    #[test]
    fn space_goes_between_the_tokens_of_json_and_nowhere_else() {
        check_compact(" { \"a b\" : [ 1.0 ,\t\"x \\\" y\" ]\r\n} ", r#"{"a b":[1.0,"x \" y"]}"#);
        check_compact(r#"{"a": "\\", "b": " \\\" "}"#, r#"{"a":"\\","b":" \\\" "}"#);
        check_compact(" 1e400 ", "1e400");
        check_compact(" no json ", " no json ");
        check_compact(r#"{"a": 1} x"#, r#"{"a": 1} x"#);
        check_compact("", "");
    }

    fn check_value(payload: &[u8], json: &str, field: &[u8]) {
        let value = Value::of(payload);
        assert_eq!(value.json(), json, "{payload:?}");
        assert_eq!(&*value.field(), field, "{payload:?}");
    }

    #[test]
    fn every_payload_has_a_json_text_and_a_field() {
        check_value(b" {\"a\": 1} ", r#"{"a": 1}"#, br#"{"a": 1}"#);
        check_value(
            br#""say \"hi\" \u00e4""#,
            r#""say \"hi\" \u00e4""#,
            "say \"hi\" \u{e4}".as_bytes(),
        );
        check_value(b"[1, null]", "[1, null]", b"[1, null]");
        check_value(b"1.10", "1.10", b"1.10");
        check_value(b"say \"hi\"", r#""say \"hi\"""#, b"say \"hi\"");
        check_value(b"\xff\x00", r#""/wA=""#, b"\xff\x00");
        check_value(b"", r#""""#, b"");
        // Half of a pair stands for no character: the text of the string is all there is to pass on.
        check_value(br#""\ud800""#, r#""\ud800""#, br#""\ud800""#);
    }

    fn check_own(payload: &str, expected: &[(&str, &str)]) {
        let members = own_members(payload.as_bytes());
        let read: Vec<_> =
            members.iter().map(|m| (&*m.name, m.value.json().into_owned())).collect();
        let read: Vec<_> = read.iter().map(|(name, json)| (*name, json.as_str())).collect();
        assert_eq!(read, expected, "{payload:?}");
    }

    #[test]
    fn an_object_has_members_and_other_content_is_one_payload() {
        check_own(r#" {"b": 1.0, "a" : "\u00e4" } "#, &[("b", "1.0"), ("a", r#""\u00e4""#)]);
        check_own("{}", &[]);
        check_own(r#"{"a":1,"a":2}"#, &[("a", "1"), ("a", "2")]);
        check_own("[1]", &[("payload", "[1]")]);
        check_own(r#"{"a":1} {"b":2}"#, &[("payload", r#""{\"a\":1} {\"b\":2}""#)]);
        check_own("text", &[("payload", r#""text""#)]);
        check_own(r#"{"\ud800":1}"#, &[("payload", r#"{"\ud800":1}"#)]);
    }
}
