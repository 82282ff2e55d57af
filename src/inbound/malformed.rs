//! Decides which bodies are refused before anything is made of them, and how the refusal reads.
//!
//! Leaves to others: what a readable body becomes. Invariant (I9): a refusal names the place and the
//! kind of what was found, and never shows what the body held.

use std::fmt;

use serde_json::value::RawValue;

use super::raw::{Members, Unreadable, depth};

/// Why a body is not taken for a callback. Nothing of it became an event; it never shows the body.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Malformed {
    /// Where: `body`, or a path into it such as `entry[2].changes[0].value`.
    pub place: String,
    /// What was there, by its kind.
    pub found: String,
    /// What would be right.
    pub expected: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found {}; expected {}", self.place, self.found, self.expected)
    }
}

impl std::error::Error for Malformed {}

/// Levels of arrays and objects in each other: what serde_json reads, so that no payload that came
/// in here is refused by whoever reads it next. Meta's own go down about ten.
const DEPTH_MAX: usize = 127;

/// The body as JSON text, checked once and whole.
pub(super) fn json(body: &[u8]) -> Result<&str, Malformed> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let found = format!("bytes that are not UTF-8 after byte {}", error.valid_up_to());
        malformed("body", found, "JSON in UTF-8")
    })?;
    // serde_json's own words may quote the body; line and column say enough.
    serde_json::from_str::<&RawValue>(text).map_err(|error| {
        let found = format!(
            "something that is not JSON at line {}, column {}",
            error.line(),
            error.column()
        );
        malformed("body", found, "one JSON object")
    })?;
    match depth(text) {
        0..=DEPTH_MAX => Ok(text),
        levels => Err(malformed(
            "body",
            format!("arrays and objects nested {levels} deep"),
            "at most 127 levels",
        )),
    }
}

/// Reads an object that decides where something goes; `None` when it is no object.
pub(super) fn read<'a>(
    place: impl FnOnce() -> String,
    text: &'a str,
) -> Result<Option<Members<'a>>, Malformed> {
    match Members::read(text) {
        Ok(members) => Ok(Some(members)),
        Err(Unreadable::NotAnObject) => Ok(None),
        Err(Unreadable::NamedTwice) => {
            Err(malformed(&place(), "a member named twice", "an object that names each once"))
        }
    }
}

/// Shorthand for [`Malformed`].
pub(super) fn malformed(
    place: &str,
    found: impl Into<String>,
    expected: &'static str,
) -> Malformed {
    Malformed { place: place.to_owned(), found: found.into(), expected }
}

/// Names the kind of a JSON value, which shows nothing of it.
pub(super) fn kind_of(value: &str) -> &'static str {
    match value.trim_start().bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}
