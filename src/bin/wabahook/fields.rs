//! Decides how a JSON object of a request is read: field by field, so that each error names the
//! field, what was found and what is right.
//!
//! Leaves to others: what the fields mean. Invariant: a value that is read raw is the text as it
//! stands in the request, and no message repeats a value (I9).

use std::fmt;

use axum::http::StatusCode;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::refusal::Refusal;

/// What is expected where a subscription is named.
pub(crate) const SUBSCRIPTION: &str = "the id of a subscription, a whole number";

/// The fields of one JSON object, not yet looked into.
pub(crate) struct Object<'a> {
    /// What the field names are prefixed with, such as `retry.`.
    prefix: &'static str,
    pairs: Vec<(String, &'a RawValue)>,
}

struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs<'a>, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    pairs.push((name, map.next_value()?));
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(Each).map(Pairs)
    }
}

impl<'a> Object<'a> {
    /// Reads a whole text that must be one object with these fields, each at most once.
    pub(crate) fn read(text: &'a str, known: &[&str]) -> Result<Object<'a>, Refusal> {
        // Looked at first, because the parser's own message would repeat the value.
        if let Some(found) = kind_of(text).filter(|found| *found != "an object") {
            let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
            let found = if is_json { found } else { "text that is not JSON" };
            let message = format!("found {found}; expected one JSON object");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid", message));
        }
        let Pairs(pairs) = serde_json::from_str(text).map_err(|e| not_json(&e))?;
        let object = Object { prefix: "", pairs };
        object.check_names(known)?;
        Ok(object)
    }

    /// Reads the value of a field that must itself be an object.
    pub(crate) fn read_inner(
        field: &str,
        prefix: &'static str,
        raw: &'a RawValue,
    ) -> Result<Object<'a>, Refusal> {
        let wrong = || wrong_kind(field, raw, "an object");
        let Pairs(pairs) = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
        let object = Object { prefix, pairs };
        object.check_unrepeated()?;
        Ok(object)
    }

    /// Refuses a field that is not known, by name.
    pub(crate) fn check_names(&self, known: &[&str]) -> Result<(), Refusal> {
        self.check_unrepeated()?;
        match self.pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => {
                let field = self.named(&shortened(name));
                let problem = format!("unknown field; expected one of {}", known.join(", "));
                Err(Refusal::invalid(&field, problem))
            }
            None => Ok(()),
        }
    }

    fn check_unrepeated(&self) -> Result<(), Refusal> {
        let mut names: Vec<&str> = self.pairs.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(pair) => {
                let field = self.named(&shortened(pair.first().copied().unwrap_or_default()));
                Err(Refusal::invalid(&field, "given twice; expected once"))
            }
            None => Ok(()),
        }
    }

    /// The field's name as the caller knows it.
    fn named(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The value as it stands, `null` included.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, raw)| *raw)
    }

    /// The value of a field that may be left out; `null` means the same as leaving it out.
    pub(crate) fn given(&self, name: &str) -> Option<&'a RawValue> {
        self.raw(name).filter(|raw| raw.get() != "null")
    }

    /// A text that may be left out.
    pub(crate) fn text(&self, name: &str, expected: &str) -> Result<Option<String>, Refusal> {
        let read = |raw| text(&self.named(name), raw, expected);
        self.given(name).map(read).transpose()
    }

    /// A text that must be there.
    pub(crate) fn required_text(&self, name: &str, expected: &str) -> Result<String, Refusal> {
        self.text(name, expected)?.ok_or_else(|| self.missing(name, expected))
    }

    /// A value of another type that may be left out.
    pub(crate) fn value<T: Deserialize<'a>>(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, Refusal> {
        let read = |raw: &'a RawValue| {
            let parsed = serde_json::from_str(raw.get());
            parsed.map_err(|_| wrong_kind(&self.named(name), raw, expected))
        };
        self.given(name).map(read).transpose()
    }

    /// A value of another type that must be there.
    pub(crate) fn required_value<T: Deserialize<'a>>(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<T, Refusal> {
        self.value(name, expected)?.ok_or_else(|| self.missing(name, expected))
    }

    /// The refusal of a field that must be there and is not.
    pub(crate) fn missing(&self, name: &str, expected: &str) -> Refusal {
        Refusal::invalid(&self.named(name), format!("missing; expected {expected}"))
    }

    /// Every field with its value, in the order given.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.pairs.iter().map(|(name, raw)| (name.as_str(), *raw))
    }
}

/// A value that must be a text.
pub(crate) fn text(field: &str, raw: &RawValue, expected: &str) -> Result<String, Refusal> {
    if kind_of(raw.get()) != Some("a string") {
        return Err(wrong_kind(field, raw, expected));
    }
    let unpaired = || {
        let problem = "found a string with half a surrogate pair; expected Unicode text";
        Refusal::invalid(field, problem)
    };
    serde_json::from_str(raw.get()).map_err(|_| unpaired())
}

/// The refusal of a value of another type or out of range.
pub(crate) fn wrong_kind(field: &str, raw: &RawValue, expected: &str) -> Refusal {
    let found = kind_of(raw.get()).unwrap_or("nothing");
    Refusal::invalid(field, format!("found {found}; expected {expected}"))
}

/// A body as text.
pub(crate) fn utf8(body: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(body).map_err(|error| {
        let message = format!("the body is not UTF-8 at byte {}", error.valid_up_to());
        Refusal::new(StatusCode::BAD_REQUEST, "invalid", message)
    })
}

/// What the parser says, without its line where the text is a single one.
pub(crate) fn not_json(error: &serde_json::Error) -> Refusal {
    let said = error.to_string();
    let why = said.split(" at line ").next().unwrap_or_default();
    let place = match error.line() {
        0 | 1 => format!("column {}", error.column()),
        line => format!("line {line}, column {}", error.column()),
    };
    let message = format!("not JSON: {why} at {place}");
    Refusal::new(StatusCode::BAD_REQUEST, "invalid", message)
}

/// What a JSON text is, judged by how it starts.
fn kind_of(text: &str) -> Option<&'static str> {
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

fn shortened(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}
