//! A line of the log, as text or as JSON. The fields of an event's spans come after its own.

use std::fmt::{self, Write};

use serde_json::{Map, Value};
use tracing::Level;
use tracing::field::{Field, Visit};

use crate::timestamp::rfc3339;

/// The fields of an event or a span, in order.
#[derive(Default, Clone)]
pub(super) struct Fields {
    message: String,
    others: Vec<(&'static str, FieldValue)>,
}

/// A value, as text shows it and as JSON does.
#[derive(Clone)]
struct FieldValue {
    text: String,
    json: Value,
}

/// A line before it is written.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) wall_ms: u64,
    level: Level,
    fields: Fields,
    /// How many more lines like this one were suppressed.
    pub(super) repeated: u64,
}

impl Fields {
    pub(super) fn append(&mut self, more: &Fields) {
        self.others.extend(more.others.iter().cloned());
    }

    #[cfg(test)]
    pub(super) fn set(&mut self, name: &'static str, text: &str) {
        let value = FieldValue { text: text.to_owned(), json: text.into() };
        self.others.push((name, value));
    }

    fn add(&mut self, field: &Field, text: String, json: Value) {
        match field.name() {
            "message" => self.message = text,
            name => self.others.push((name, FieldValue { text, json })),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.add(field, text.clone(), Value::String(text));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let text = if field.name() == "message" { value.to_owned() } else { format!("{value:?}") };
        self.add(field, text, Value::String(value.to_owned()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.to_string(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.to_string(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.to_string(), value.into());
    }
}

impl Line {
    pub(super) fn new(wall_ms: u64, level: Level, fields: Fields) -> Line {
        Line { wall_ms, level, fields, repeated: 0 }
    }

    /// The text of a field; empty where it is missing.
    pub(super) fn field(&self, name: &str) -> &str {
        let found = self.fields.others.iter().find(|(known, _)| *known == name);
        found.map_or("", |(_, value)| &value.text)
    }

    /// `wabahook: 2026-01-31T12:00:00.000Z WARN the message field=value`.
    pub(super) fn text(&self) -> String {
        let (at, level) = (rfc3339(self.wall_ms), self.level);
        // A text of a value never becomes a line of its own.
        let message = self.fields.message.replace('\n', "\\n");
        let mut text = format!("wabahook: {at} {level} {message}");
        for (name, value) in &self.fields.others {
            let _ = write!(text, " {name}={}", value.text.replace('\n', "\\n"));
        }
        if self.repeated > 0 {
            let _ = write!(text, " repeated={}", self.repeated);
        }
        text.push('\n');
        text
    }

    pub(super) fn json(&self) -> String {
        let mut object = Map::new();
        object.insert("at".to_owned(), rfc3339(self.wall_ms).into());
        object.insert("level".to_owned(), self.level.as_str().to_ascii_lowercase().into());
        object.insert("message".to_owned(), self.fields.message.clone().into());
        for (name, value) in &self.fields.others {
            object.entry(*name).or_insert_with(|| value.json.clone());
        }
        if self.repeated > 0 {
            object.insert("repeated".to_owned(), self.repeated.into());
        }
        let mut text = Value::Object(object).to_string();
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        let value = |text: &str, json: Value| FieldValue { text: text.to_owned(), json };
        let name = value("\"crm\"", "crm".into());
        let others = vec![("subscription", value("1", 1.into())), ("name", name)];
        let fields = Fields { message: "breaker opened".to_owned(), others };
        Line::new(0, Level::WARN, fields)
    }

    #[test]
    fn a_line_is_text_or_json() {
        assert_eq!(
            line().text(),
            "wabahook: 1970-01-01T00:00:00.000Z WARN breaker opened subscription=1 name=\"crm\"\n"
        );
        let json: Value = serde_json::from_str(&line().json()).unwrap();
        assert_eq!(json["at"], "1970-01-01T00:00:00.000Z");
        assert_eq!(json["level"], "warn");
        assert_eq!(json["message"], "breaker opened");
        assert_eq!((&json["subscription"], &json["name"]), (&1.into(), &"crm".into()));
    }

    #[test]
    fn a_line_tells_how_often_it_was_repeated() {
        let line = Line { repeated: 173, ..line() };
        assert!(line.text().ends_with(" repeated=173\n"));
        assert!(line.json().contains("\"repeated\":173"));
    }
}
