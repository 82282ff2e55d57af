//! Decides how a JSON object is taken apart and written again: by the text of its members.
//!
//! Leaves to others: what the members mean. Invariant: the text of a value that is kept does not
//! change by a byte (escapes, forms of numbers, order and spaces inside it), and members keep their
//! order.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one JSON object, in their order, each as the text it was.
#[derive(Debug)]
pub(super) struct Members<'a>(Vec<Member<'a>>);

#[derive(Debug)]
struct Member<'a> {
    /// The decoded name, to compare; the name's own text where it is no valid Unicode.
    name: Cow<'a, str>,
    name_text: &'a str,
    value: &'a str,
}

/// Why a text has no members to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    NotAnObject,
    /// Which of the two counts depends on who reads it, so neither may decide anything.
    NamedTwice,
}

/// What becomes of a member when its object is written again.
pub(super) enum Kept<'t> {
    AsItIs,
    With(Cow<'t, str>),
    Dropped,
}

/// The text of an object before and after one of its values.
#[derive(Debug)]
pub(super) struct Around {
    pub(super) before: String,
    pub(super) after: String,
}

impl<'a> Members<'a> {
    /// Takes apart a text that is valid JSON.
    pub(super) fn read(text: &'a str) -> Result<Members<'a>, Unreadable> {
        let members: Members<'a> =
            serde_json::from_str(text).map_err(|_| Unreadable::NotAnObject)?;
        let mut names = HashSet::with_capacity(members.0.len());
        if members.0.iter().all(|member| names.insert(&member.name)) {
            return Ok(members);
        }
        Err(Unreadable::NamedTwice)
    }

    /// The text of the value with this name.
    pub(super) fn value(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|member| member.name == name).map(|member| member.value)
    }

    /// The value with this name as text, where it is a string or a whole number.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.value(name).and_then(text)
    }

    /// What stands before and after the value with this name; the object must have it.
    pub(super) fn around(&self, name: &str) -> Around {
        let mut around = Around { before: String::from("{"), after: String::new() };
        let mut found = false;
        for (place, member) in self.0.iter().enumerate() {
            let side = if found { &mut around.after } else { &mut around.before };
            open_member(side, place, member);
            if member.name == name {
                found = true;
            } else {
                side.push_str(member.value);
            }
        }
        around.after.push('}');
        around
    }

    /// As [`around`](Members::around), with the brackets of a list instead of the value.
    pub(super) fn around_list(&self, name: &str) -> Around {
        let Around { mut before, after } = self.around(name);
        before.push('[');
        Around { before, after: format!("]{after}") }
    }

    /// Writes the object again, each member as `kept` says of its name.
    pub(super) fn written<'t>(&self, mut kept: impl FnMut(&str) -> Kept<'t>) -> String {
        let mut out = String::from("{");
        let mut place = 0;
        for member in &self.0 {
            let value: Cow<'_, str> = match kept(&member.name) {
                Kept::AsItIs => Cow::Borrowed(member.value),
                Kept::With(text) => text,
                Kept::Dropped => continue,
            };
            open_member(&mut out, place, member);
            out.push_str(&value);
            place += 1;
        }
        out.push('}');
        out
    }
}

fn open_member(out: &mut String, place: usize, member: &Member<'_>) {
    if place > 0 {
        out.push(',');
    }
    out.push_str(member.name_text);
    out.push(':');
}

/// The texts of an array's elements; none where the text is no array.
pub(super) fn elements(text: &str) -> Option<Vec<&str>> {
    let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    Some(elements.into_iter().map(RawValue::get).collect())
}

/// A string decoded, or the digits of a whole number: ids come in both forms.
pub(super) fn text(value: &str) -> Option<Cow<'_, str>> {
    if let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        if !inner.contains('\\') {
            return Some(Cow::Borrowed(inner));
        }
        return serde_json::from_str(value).ok().map(Cow::Owned);
    }
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    digits.then_some(Cow::Borrowed(value))
}

/// How deep the arrays and objects of a valid JSON text lie in each other.
pub(super) fn depth(text: &str) -> usize {
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

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'a>, D::Error> {
        deserializer.deserialize_map(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
            let name_text = name.get();
            let name = text(name_text).unwrap_or(Cow::Borrowed(name_text));
            members.push(Member { name, name_text, value: value.get() });
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_keeps_every_byte_and_its_place() {
        let given =
            r#" { "b" : 1.50e+2 , "\u0061\/" :"\ud83d\ude00 \/", "c":{ "z" :1,  "a":-0 } } "#;
        let members = Members::read(given).unwrap();
        assert_eq!(
            members.written(|_| Kept::AsItIs),
            r#"{"b":1.50e+2,"\u0061\/":"\ud83d\ude00 \/","c":{ "z" :1,  "a":-0 }}"#
        );
        assert_eq!(
            members.written(|name| match name {
                "b" => Kept::Dropped,
                "a/" => Kept::With("[]".into()),
                _ => Kept::AsItIs,
            }),
            r#"{"\u0061\/":[],"c":{ "z" :1,  "a":-0 }}"#
        );
    }

    #[test]
    fn around_a_value_stands_all_the_rest() {
        let members = Members::read(r#"{"a":1,"b":2,"c":3}"#).unwrap();
        for (name, before, after) in [
            ("a", r#"{"a":"#, r#","b":2,"c":3}"#),
            ("b", r#"{"a":1,"b":"#, r#","c":3}"#),
            ("c", r#"{"a":1,"b":2,"c":"#, "}"),
        ] {
            let around = members.around(name);
            assert_eq!((around.before.as_str(), around.after.as_str()), (before, after));
        }
    }

    #[test]
    fn names_are_compared_decoded_and_may_not_come_twice() {
        let twice = Members::read(r#"{"value":1,"v\u0061lue":2}"#);
        assert_eq!(twice.unwrap_err(), Unreadable::NamedTwice);
        let members = Members::read(r#"{"v\u0061lue":2,"\ud800":3}"#).unwrap();
        assert_eq!(members.value("value"), Some("2"));
        assert_eq!(members.value(r#""\ud800""#), Some("3"));
        for other in ["[]", "1", "null", "\"x\""] {
            assert_eq!(Members::read(other).unwrap_err(), Unreadable::NotAnObject, "{other}");
        }
    }

    #[test]
    fn ids_are_read_from_strings_and_from_whole_numbers() {
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
            assert_eq!(text(value).as_deref(), read, "{value}");
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
