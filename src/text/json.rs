//! Takes JSON apart without interpreting it: an object as the list of its members, each value as the
//! text it was. Deliveries, callbacks and the gateways' requests pass values on byte for byte (escapes,
//! number formats, spaces inside a value), which a parsed tree cannot do.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one JSON object, in their order; a name may occur more than once.
#[derive(Debug)]
pub(crate) struct JsonObject<'a>(pub(crate) Vec<JsonMember<'a>>);

#[derive(Debug)]
pub(crate) struct JsonMember<'a> {
    /// The decoded name; `None` where it holds half a surrogate pair.
    pub(crate) name: Option<Cow<'a, str>>,
    /// The name as written, with its quotes.
    pub(crate) name_text: &'a str,
    pub(crate) value: &'a RawValue,
}

impl<'a> JsonObject<'a> {
    /// The members of a text that is one JSON object.
    pub(crate) fn parse(text: &'a str) -> serde_json::Result<JsonObject<'a>> {
        serde_json::from_str(text)
    }

    /// The text of the first value with this name.
    pub(crate) fn value(&self, name: &str) -> Option<&'a str> {
        let member = self.0.iter().find(|member| member.name.as_deref() == Some(name));
        member.map(|member| member.value.get())
    }

    /// The value with this name where it is a string or a whole number.
    pub(crate) fn id(&self, name: &str) -> Option<Cow<'a, str>> {
        self.value(name).and_then(id)
    }
}

impl JsonMember<'_> {
    /// The decoded name, or its text where it cannot be decoded.
    pub(crate) fn shown_name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.name_text)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonObject<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonObject<'a>, D::Error> {
        deserializer.deserialize_map(MembersVisitor).map(JsonObject)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Vec<JsonMember<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
            let name_text = name.get();
            members.push(JsonMember { name: id(name_text), name_text, value });
        }
        Ok(members)
    }
}

/// A name that occurs more than once.
pub(crate) fn repeated_name<'m>(members: &'m [JsonMember<'_>]) -> Option<&'m str> {
    let mut names = HashSet::with_capacity(members.len());
    members.iter().map(JsonMember::shown_name).find(|name| !names.insert(*name))
}

/// The texts of an array's elements; `None` where the text is not an array.
pub(crate) fn elements(text: &str) -> Option<Vec<&str>> {
    let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    Some(elements.into_iter().map(RawValue::get).collect())
}

/// A string decoded, or the digits of a whole number: Meta writes ids in both forms.
pub(crate) fn id(value: &str) -> Option<Cow<'_, str>> {
    if let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        if !inner.contains('\\') {
            return Some(Cow::Borrowed(inner));
        }
        return serde_json::from_str(value).ok().map(Cow::Owned);
    }
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    digits.then_some(Cow::Borrowed(value))
}

pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The kind of a JSON value by its first byte, which shows nothing of the value; `None` where no JSON
/// value starts like this.
pub(crate) fn kind_of(text: &str) -> Option<&'static str> {
    Some(match text.trim_ascii_start().bytes().next()? {
        b'{' => "an object",
        b'[' => "an array",
        b'"' => "a string",
        b't' | b'f' => "a boolean",
        b'n' => "null",
        b'-' | b'0'..=b'9' => "a number",
        _ => return None,
    })
}

/// How deeply arrays and objects are nested in a valid JSON text.
pub(crate) fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_decoded() {
        let object = JsonObject::parse(r#"{"v\u0061lue":2,"\ud800":3}"#).unwrap();
        assert_eq!(object.value("value"), Some("2"));
        assert_eq!(object.0[1].name, None);
        assert_eq!(object.0[1].name_text, r#""\ud800""#);
        for other in ["[]", "1", "null", "\"x\"", "{}{}"] {
            assert!(JsonObject::parse(other).is_err(), "{other}");
        }
    }

    #[test]
    fn ids_are_strings_or_whole_numbers() {
        for (value, read) in [
            (r#""a""#, Some("a")),
            (r#""a\/\u0062""#, Some("a/b")),
            ("12", Some("12")),
            (r#""\ud800""#, None),
            ("1.5", None),
            ("-1", None),
            ("null", None),
            ("[\"a\"]", None),
        ] {
            assert_eq!(id(value).as_deref(), read, "{value}");
        }
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        for (given, levels) in
            [("1", 0), ("[]", 1), (r#"{"a":[{}],"b":{}}"#, 3), (r#"["[[\"[[","{"]"#, 1)]
        {
            assert_eq!(depth(given), levels, "{given}");
        }
    }
}
