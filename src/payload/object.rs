//! Writes one JSON object member by member, in the order of the calls. What is absent in the source is left out.

use std::fmt::Write as _;

use crate::text::json::quoted;

/// A JSON object being written.
#[derive(Debug)]
pub(super) struct ObjectWriter(String);

impl ObjectWriter {
    pub(super) fn new() -> ObjectWriter {
        ObjectWriter(String::from("{"))
    }

    /// Adds a value that is JSON text already: it keeps its bytes.
    pub(super) fn raw(mut self, name: &str, json: Option<&str>) -> ObjectWriter {
        if let Some(json) = json {
            let comma = if self.0.len() > 1 { "," } else { "" };
            // Writing to a string does not fail. Names are words of this crate or come from JSON.
            let _ = write!(self.0, "{comma}{}:{json}", quoted(name));
        }
        self
    }

    /// Adds a text.
    pub(super) fn text(self, name: &str, text: Option<impl AsRef<str>>) -> ObjectWriter {
        let json = text.map(|text| quoted(text.as_ref()));
        self.raw(name, json.as_deref())
    }

    /// Adds an object.
    pub(super) fn object(self, name: &str, object: Option<ObjectWriter>) -> ObjectWriter {
        let json = object.map(ObjectWriter::finish);
        self.raw(name, json.as_deref())
    }

    pub(super) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}
