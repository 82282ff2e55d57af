//! Checks a callback's body before anything is made of it, and describes what is wrong with it. An
//! error names the place and the kind of what was found, never the content (I9).

use std::fmt;

use serde_json::value::RawValue;

use crate::text::json::{JsonObject, depth, elements, kind_of, repeated_name};

/// Why a body is not a callback. Nothing of it became an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MalformedCallback {
    /// Where: `body`, or a path into it such as `entry[2].changes[0].value`.
    pub place: String,
    /// The kind of what was there.
    pub found: String,
    /// What would be right.
    pub expected: &'static str,
}

impl fmt::Display for MalformedCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found {}; expected {}", self.place, self.found, self.expected)
    }
}

impl std::error::Error for MalformedCallback {}

impl MalformedCallback {
    pub(super) fn new(
        place: impl Into<String>,
        found: impl Into<String>,
        expected: &'static str,
    ) -> MalformedCallback {
        MalformedCallback { place: place.into(), found: found.into(), expected }
    }
}

/// The deepest nesting of arrays and objects: what serde_json reads, so that receivers can read every
/// payload that is accepted here. Meta's own callbacks are about ten levels deep.
const DEPTH_MAX: usize = 127;

/// The body as JSON text.
pub(super) fn check_json(body: &[u8]) -> Result<&str, MalformedCallback> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let found = format!("bytes that are not UTF-8 after byte {}", error.valid_up_to());
        MalformedCallback::new("body", found, "JSON in UTF-8")
    })?;
    // serde_json's own message may quote the body; line and column are enough.
    serde_json::from_str::<&RawValue>(text).map_err(|error| {
        let found = format!(
            "something that is not JSON at line {}, column {}",
            error.line(),
            error.column()
        );
        MalformedCallback::new("body", found, "one JSON object")
    })?;
    Ok(text)
}

/// Checks the nesting of one entry, which is inside an object and an array.
pub(super) fn check_depth(
    place: impl FnOnce() -> String,
    entry: &str,
) -> Result<(), MalformedCallback> {
    match depth(entry).saturating_add(2) {
        0..=DEPTH_MAX => Ok(()),
        levels => Err(too_deep(place(), levels)),
    }
}

fn too_deep(place: String, levels: usize) -> MalformedCallback {
    let found = format!("arrays and objects nested {levels} deep");
    MalformedCallback::new(place, found, "at most 127 levels")
}

/// Reads the body as the object that holds the entries. Its other members are in every payload.
pub(super) fn read_root(body: &str) -> Result<JsonObject<'_>, MalformedCallback> {
    let expected = "an object with one array named entry";
    let object = JsonObject::parse(body);
    let object = object.map_err(|_| MalformedCallback::new("body", kind(body), expected))?;
    let mut entries = 0;
    for member in &object.0 {
        if member.name.as_deref() == Some("entry") {
            entries += 1;
        } else if depth(member.value.get()) >= DEPTH_MAX {
            return Err(too_deep("body".into(), depth(member.value.get()) + 1));
        }
    }
    match entries {
        0 | 1 => Ok(object),
        _ => Err(MalformedCallback::new("body", "a member named twice", expected)),
    }
}

/// The entries of a body.
pub(super) fn entries_of<'a>(root: &JsonObject<'a>) -> Result<Vec<&'a str>, MalformedCallback> {
    root.value("entry").and_then(elements).ok_or_else(|| {
        let found = root.value("entry").map_or("nothing", kind);
        MalformedCallback::new("entry", found, "an array of entries")
    })
}

/// Reads an object that decides where an event goes; `None` when the text is not an object.
///
/// # Errors
/// A member named twice: readers disagree on which of the two counts.
pub(super) fn read_object<'a>(
    place: impl FnOnce() -> String,
    text: &'a str,
) -> Result<Option<JsonObject<'a>>, MalformedCallback> {
    let Ok(object) = JsonObject::parse(text) else { return Ok(None) };
    match repeated_name(&object.0) {
        None => Ok(Some(object)),
        Some(_) => {
            let expected = "an object that names each once";
            Err(MalformedCallback::new(place(), "a member named twice", expected))
        }
    }
}

/// The kind of a valid JSON value.
fn kind(value: &str) -> &'static str {
    kind_of(value).unwrap_or("nothing")
}
