//! Reads the JSON object of a request field by field, so that each error names the field, what was found
//! and what was expected. Raw values keep their text, and no error repeats a value (I9). Real clients send
//! more than the documents say, so fields that a gateway does not have are ignored, and named in the log at
//! debug level; names may be written in any case.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::error::Error;
use crate::text::json::{JsonMember, JsonObject, kind_of, repeated_name};

/// What is wrong with a request: the field, if it is one, what was found and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// The field's path in the request.
    pub(super) field: Option<String>,
    /// What was found and what was expected, without the value and the field's name.
    pub(super) message: String,
}

impl Problem {
    pub(super) fn at(field: &str, problem: impl fmt::Display) -> Problem {
        Problem { field: Some(field.to_owned()), message: problem.to_string() }
    }

    pub(super) fn of_body(message: impl Into<String>) -> Problem {
        Problem { field: None, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Problem {}

/// How many ignored names of one request the log has.
pub(super) const LOGGED_MAX: usize = 16;

/// The fields of one JSON object, not yet parsed.
#[derive(Debug)]
pub(super) struct RequestObject<'a> {
    /// The prefix of the field names, such as `retry.`.
    prefix: &'static str,
    members: Vec<JsonMember<'a>>,
}

impl<'a> RequestObject<'a> {
    /// Reads a text that must be one object, with each of these fields at most once.
    pub(super) fn read(text: &'a str, known: &[&str]) -> Result<RequestObject<'a>, Problem> {
        // Checked first, because the parser's own message would repeat the value.
        if let Some(found) = kind_of(text).filter(|found| *found != "an object") {
            let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
            let found = if is_json { found } else { "text that is not JSON" };
            let message = format!("found {found}; expected one JSON object");
            return Err(Problem::of_body(message));
        }
        let JsonObject(members) = JsonObject::parse(text).map_err(|e| not_json(&e))?;
        let object = RequestObject { prefix: "", members };
        object.check_unrepeated(known)?;
        object.log_unknown(known);
        Ok(object)
    }

    /// Reads the value of a field that must itself be an object. An empty array counts as an empty object:
    /// some languages have one type for both.
    pub(super) fn read_inner(
        field: &str,
        prefix: &'static str,
        raw: &'a RawValue,
    ) -> Result<RequestObject<'a>, Problem> {
        let wrong = || wrong_kind(field, raw, "an object");
        let is_empty_array = serde_json::from_str::<[(); 0]>(raw.get()).is_ok();
        let members = match is_empty_array {
            true => Vec::new(),
            false => JsonObject::parse(raw.get()).map_err(|_| wrong())?.0,
        };
        let object = RequestObject { prefix, members };
        match repeated_name(&object.members) {
            Some(name) => Err(object.given_twice(name)),
            None => Ok(object),
        }
    }

    /// The optional object in a field; errors name its fields with `prefix`.
    pub(super) fn inner(
        &self,
        name: &str,
        prefix: &'static str,
    ) -> Result<Option<RequestObject<'a>>, Problem> {
        let read = |raw| RequestObject::read_inner(&self.named(name), prefix, raw);
        self.given(name).map(read).transpose()
    }

    /// Names the fields that are not among these in the log.
    pub(super) fn log_unknown(&self, known: &[&str]) {
        let is_known = |name: &&str| known.iter().any(|known| known.eq_ignore_ascii_case(name));
        let names = self.members.iter().map(JsonMember::shown_name);
        let unknown = names.filter(|name| !is_known(name)).take(LOGGED_MAX).map(shortened);
        let unknown: Vec<_> = unknown.map(|name| self.named(&name)).collect();
        if !unknown.is_empty() {
            tracing::debug!(fields = %unknown.join(", "), "a request has fields that are ignored");
        }
    }

    /// Refuses a repeated field, if it is one of these.
    fn check_unrepeated(&self, known: &[&str]) -> Result<(), Problem> {
        let mut seen = HashSet::new();
        let given = self.members.iter().map(JsonMember::shown_name);
        match given.filter(|name| known.contains(name)).find(|name| !seen.insert(*name)) {
            Some(name) => Err(self.given_twice(name)),
            None => Ok(()),
        }
    }

    fn given_twice(&self, name: &str) -> Problem {
        Problem::at(&self.named(&shortened(name)), "given twice; expected once")
    }

    /// The path of a field in the request.
    fn named(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The raw value, including `null`. A name in another case counts if the exact one is absent.
    pub(super) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        let exact = |member: &&JsonMember<'a>| member.shown_name() == name;
        let any_case = |member: &&JsonMember<'a>| member.shown_name().eq_ignore_ascii_case(name);
        let found = self.members.iter().find(exact);
        found.or_else(|| self.members.iter().find(any_case)).map(|member| member.value)
    }

    /// The value of an optional field; `null` counts as absent.
    pub(super) fn given(&self, name: &str) -> Option<&'a RawValue> {
        self.raw(name).filter(|raw| raw.get() != "null")
    }

    /// An optional text.
    pub(super) fn text(&self, name: &str, expected: &str) -> Result<Option<String>, Problem> {
        let read = |raw| text(&self.named(name), raw, expected);
        self.given(name).map(read).transpose()
    }

    pub(super) fn required_text(&self, name: &str, expected: &str) -> Result<String, Problem> {
        self.text(name, expected)?.ok_or_else(|| self.missing(name, expected))
    }

    /// An optional word of an enum.
    pub(super) fn word<T: FromStr<Err = Error>>(&self, name: &str) -> Result<Option<T>, Problem> {
        let Some(word) = self.text(name, "a string")? else { return Ok(None) };
        let refused = |error: Error| match error {
            Error::Invalid { expected, .. } => format!("found another text; expected {expected}"),
            other => other.to_string(),
        };
        word.parse().map(Some).map_err(|error| Problem::at(&self.named(name), refused(error)))
    }

    /// An optional value of another type.
    pub(super) fn value<T: Deserialize<'a>>(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, Problem> {
        let read = |raw| parsed(raw).ok_or_else(|| wrong_kind(&self.named(name), raw, expected));
        self.given(name).map(read).transpose()
    }

    /// A required value of another type.
    pub(super) fn required_value<T: Deserialize<'a>>(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<T, Problem> {
        self.value(name, expected)?.ok_or_else(|| self.missing(name, expected))
    }

    /// The problem of a missing required field.
    pub(super) fn missing(&self, name: &str, expected: &str) -> Problem {
        Problem::at(&self.named(name), format!("missing; expected {expected}"))
    }

    /// Every field with its value, in the order given.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.members.iter().map(|member| (member.shown_name(), member.value))
    }
}

pub(super) fn text(field: &str, raw: &RawValue, expected: &str) -> Result<String, Problem> {
    if kind_of(raw.get()) != Some("a string") {
        return Err(wrong_kind(field, raw, expected));
    }
    let unpaired = || {
        let problem = "found a string with half a surrogate pair; expected Unicode text";
        Problem::at(field, problem)
    };
    serde_json::from_str(raw.get()).map_err(|_| unpaired())
}

/// A text to send: the characters of a string, or a number or boolean as written.
pub(super) fn plain_text(field: &str, raw: &RawValue, expected: &str) -> Result<String, Problem> {
    match raw.get().bytes().next() {
        Some(b'-' | b'0'..=b'9' | b't' | b'f') => Ok(raw.get().to_owned()),
        _ => text(field, raw, expected),
    }
}

/// The problem of a value of another type or out of range.
pub(super) fn wrong_kind(field: &str, raw: &RawValue, expected: &str) -> Problem {
    let found = kind_of(raw.get()).unwrap_or("nothing");
    Problem::at(field, format!("found {found}; expected {expected}"))
}

/// A value of a type, if it is one. A whole number may have a fraction of zeros, which clients without an
/// integer type write.
pub(super) fn parsed<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    let text = raw.get();
    serde_json::from_str(text).ok().or_else(|| {
        let (whole, fraction) = text.split_once('.')?;
        let is_whole = fraction.bytes().all(|digit| digit == b'0');
        serde_json::from_str(whole).ok().filter(|_| is_whole)
    })
}

/// A body as text.
pub(super) fn utf8(body: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(body).map_err(|error| {
        let message = format!("the body is not UTF-8 at byte {}", error.valid_up_to());
        Problem::of_body(message)
    })
}

/// The parser's message, without the line number where the text is a single line.
pub(super) fn not_json(error: &serde_json::Error) -> Problem {
    let said = error.to_string();
    let why = said.split(" at line ").next().unwrap_or_default();
    let place = match error.line() {
        0 | 1 => format!("column {}", error.column()),
        line => format!("line {line}, column {}", error.column()),
    };
    let message = format!("not JSON: {why} at {place}");
    Problem::of_body(message)
}

/// The first part of a name of a client, for messages and the log.
pub(super) fn shortened(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}
