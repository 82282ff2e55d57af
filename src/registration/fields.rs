//! Decides how a JSON object of a request is read: field by field, so that each error names the
//! field, what was found and what is right.
//!
//! Leaves to others: what the fields mean. Invariant: a value that is read raw is the text as it
//! stands in the request, and no message repeats a value (I9).

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// What is wrong with a request: the field, where it is one, and what was found and is right.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The field as the caller knows it.
    pub field: Option<String>,
    /// What was found and what is right, without the value and without the field's name.
    pub message: String,
}

impl Problem {
    /// A problem of one field.
    pub fn at(field: &str, problem: impl fmt::Display) -> Problem {
        Problem { field: Some(field.to_owned()), message: problem.to_string() }
    }

    /// A problem of the body as a whole.
    pub fn of_body(message: impl Into<String>) -> Problem {
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

/// The fields of one JSON object, not yet looked into.
///
/// ```
/// use wabahook::registration::fields::Object;
/// let object = Object::read(r#"{"name": 7}"#, &["name", "url"]).map_err(|problem| problem.message)?;
/// let problem = object.required_text("name", "a text").unwrap_err();
/// assert_eq!(problem.field.as_deref(), Some("name"));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug)]
pub struct Object<'a> {
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
    pub fn read(text: &'a str, known: &[&str]) -> Result<Object<'a>, Problem> {
        // Looked at first, because the parser's own message would repeat the value.
        if let Some(found) = kind_of(text).filter(|found| *found != "an object") {
            let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
            let found = if is_json { found } else { "text that is not JSON" };
            let message = format!("found {found}; expected one JSON object");
            return Err(Problem::of_body(message));
        }
        let Pairs(pairs) = serde_json::from_str(text).map_err(|e| not_json(&e))?;
        let object = Object { prefix: "", pairs };
        object.check_names(known)?;
        Ok(object)
    }

    /// Reads the value of a field that must itself be an object.
    pub fn read_inner(
        field: &str,
        prefix: &'static str,
        raw: &'a RawValue,
    ) -> Result<Object<'a>, Problem> {
        let wrong = || wrong_kind(field, raw, "an object");
        let Pairs(pairs) = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
        let object = Object { prefix, pairs };
        object.check_unrepeated()?;
        Ok(object)
    }

    /// The object that a field holds, which may be left out; its own fields are named with `prefix`.
    ///
    /// # Errors
    /// A value of another type, or one of its fields given twice.
    pub fn inner(&self, name: &str, prefix: &'static str) -> Result<Option<Object<'a>>, Problem> {
        let read = |raw| Object::read_inner(&self.named(name), prefix, raw);
        self.given(name).map(read).transpose()
    }

    /// Refuses a field that is not known, by name.
    pub fn check_names(&self, known: &[&str]) -> Result<(), Problem> {
        self.check_unrepeated()?;
        match self.pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => {
                let field = self.named(&shortened(name));
                let problem = format!("unknown field; expected one of {}", known.join(", "));
                Err(Problem::at(&field, problem))
            }
            None => Ok(()),
        }
    }

    fn check_unrepeated(&self) -> Result<(), Problem> {
        let mut names: Vec<&str> = self.pairs.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(pair) => {
                let field = self.named(&shortened(pair.first().copied().unwrap_or_default()));
                Err(Problem::at(&field, "given twice; expected once"))
            }
            None => Ok(()),
        }
    }

    /// The field's name as the caller knows it.
    fn named(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The value as it stands, `null` included.
    pub fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, raw)| *raw)
    }

    /// The value of a field that may be left out; `null` means the same as leaving it out.
    pub fn given(&self, name: &str) -> Option<&'a RawValue> {
        self.raw(name).filter(|raw| raw.get() != "null")
    }

    /// A text that may be left out.
    ///
    /// # Errors
    /// A value of another type.
    pub fn text(&self, name: &str, expected: &str) -> Result<Option<String>, Problem> {
        let read = |raw| text(&self.named(name), raw, expected);
        self.given(name).map(read).transpose()
    }

    /// A text that must be there.
    pub fn required_text(&self, name: &str, expected: &str) -> Result<String, Problem> {
        self.text(name, expected)?.ok_or_else(|| self.missing(name, expected))
    }

    /// A value of another type that may be left out.
    pub fn value<T: Deserialize<'a>>(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, Problem> {
        let read = |raw| parsed(raw).ok_or_else(|| wrong_kind(&self.named(name), raw, expected));
        self.given(name).map(read).transpose()
    }

    /// A value of another type that must be there.
    pub fn required_value<T: Deserialize<'a>>(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<T, Problem> {
        self.value(name, expected)?.ok_or_else(|| self.missing(name, expected))
    }

    /// The refusal of a field that must be there and is not.
    pub fn missing(&self, name: &str, expected: &str) -> Problem {
        Problem::at(&self.named(name), format!("missing; expected {expected}"))
    }

    /// Every field with its value, in the order given.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.pairs.iter().map(|(name, raw)| (name.as_str(), *raw))
    }
}

/// A value that must be a text.
pub fn text(field: &str, raw: &RawValue, expected: &str) -> Result<String, Problem> {
    if kind_of(raw.get()) != Some("a string") {
        return Err(wrong_kind(field, raw, expected));
    }
    let unpaired = || {
        let problem = "found a string with half a surrogate pair; expected Unicode text";
        Problem::at(field, problem)
    };
    serde_json::from_str(raw.get()).map_err(|_| unpaired())
}

/// A text as it is to be sent: a string's characters, a number or a boolean as it stands.
pub fn plain_text(field: &str, raw: &RawValue, expected: &str) -> Result<String, Problem> {
    match raw.get().bytes().next() {
        Some(b'-' | b'0'..=b'9' | b't' | b'f') => Ok(raw.get().to_owned()),
        _ => text(field, raw, expected),
    }
}

/// The refusal of a value of another type or out of range.
pub fn wrong_kind(field: &str, raw: &RawValue, expected: &str) -> Problem {
    let found = kind_of(raw.get()).unwrap_or("nothing");
    Problem::at(field, format!("found {found}; expected {expected}"))
}

/// A value of a type, if it is one. A whole number may be written with a fraction of zeros, as clients
/// do that know only one kind of number.
pub fn parsed<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    let text = raw.get();
    serde_json::from_str(text).ok().or_else(|| {
        let (whole, fraction) = text.split_once('.')?;
        let is_whole = fraction.bytes().all(|digit| digit == b'0');
        serde_json::from_str(whole).ok().filter(|_| is_whole)
    })
}

/// A body as text.
pub fn utf8(body: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(body).map_err(|error| {
        let message = format!("the body is not UTF-8 at byte {}", error.valid_up_to());
        Problem::of_body(message)
    })
}

/// What the parser says, without its line where the text is a single one.
pub fn not_json(error: &serde_json::Error) -> Problem {
    let said = error.to_string();
    let why = said.split(" at line ").next().unwrap_or_default();
    let place = match error.line() {
        0 | 1 => format!("column {}", error.column()),
        line => format!("line {line}, column {}", error.column()),
    };
    let message = format!("not JSON: {why} at {place}");
    Problem::of_body(message)
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
