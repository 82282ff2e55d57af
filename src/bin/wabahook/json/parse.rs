//! Parses a request into its type and explains what does not fit: the path of the member, what was
//! found there and what is right. serde's own messages repeat the value, which may be a secret, so they
//! are taken apart here and only their fixed words are kept (I9).

use serde::Deserialize;

use super::problem::JsonProblem;
use super::values::Object;

/// The longest path that a message repeats, in characters: names come from the request.
const PATH_CHARS_MAX: usize = 128;

/// A body as text, without the byte order mark with which some editors and shells begin a text.
pub(crate) fn utf8(body: &[u8]) -> Result<&str, JsonProblem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        JsonProblem::whole(format!("the body is not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Parses a text that must be one JSON object. The path is tracked only when the text does not fit.
pub(crate) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, JsonProblem> {
    match serde_json::from_str(text) {
        Ok(Object(value)) => Ok(value),
        Err(error) => Err(explain::<T>(text).unwrap_or_else(|| problem("", &error))),
    }
}

/// Parses a second time, with the path.
fn explain<'a, T: Deserialize<'a>>(text: &'a str) -> Option<JsonProblem> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = serde_path_to_error::deserialize::<_, Object<T>>(&mut deserializer);
    let error = parsed.err()?;
    Some(problem(&error.path().to_string(), error.inner()))
}

fn problem(path: &str, error: &serde_json::Error) -> JsonProblem {
    let said = error.to_string();
    let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
    if !error.is_data() {
        let place = match error.line() {
            0 | 1 => format!("column {}", error.column()),
            line => format!("line {line}, column {}", error.column()),
        };
        return JsonProblem::whole(format!("not JSON: {said} at {place}"));
    }
    let path = if path == "." { "" } else { path };
    let expected = said.rsplit_once(", expected ").map_or("", |(_, expected)| expected);
    if said.starts_with("missing field `") {
        return JsonProblem::missing(&joined(path, said));
    }
    if said.starts_with("duplicate field `") {
        return JsonProblem::at(&joined(path, said), "given twice; expected once");
    }
    let found = if said.starts_with("unknown field `") {
        "unknown field".to_owned()
    } else if let Some(found) =
        said.strip_prefix("invalid type: ").or_else(|| said.strip_prefix("invalid value: "))
    {
        format!("found {}", kind(found))
    } else {
        // A message of our own types, which holds no value.
        return described(path, said);
    };
    let expected = match expected.replace('`', "") {
        list if list == "a sequence" => "a list".to_owned(),
        number if number == "a JSON number" => "a whole number".to_owned(),
        boolean if boolean == "a boolean" => "true or false".to_owned(),
        other => other,
    };
    described(path, &format!("{found}; expected {expected}"))
}

fn described(path: &str, message: &str) -> JsonProblem {
    match printable(path) {
        path if path.is_empty() => JsonProblem::whole(message),
        path => JsonProblem::at(&path, message),
    }
}

/// The path of the member that a message names in backticks, below `path`.
fn joined(path: &str, said: &str) -> String {
    let name = said.split_once('`').and_then(|(_, rest)| rest.rsplit_once('`'));
    let name = name.map_or("", |(name, _)| name);
    printable(&if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") })
}

fn printable(path: &str) -> String {
    path.chars().filter(|c| !c.is_control()).take(PATH_CHARS_MAX).collect()
}

/// The kind of a value, without the value.
fn kind(found: &str) -> &'static str {
    match found.split([' ', ',']).next().unwrap_or_default() {
        "string" | "character" => "a string",
        "integer" | "floating" | "number" => "a number",
        "boolean" => "a boolean",
        "null" | "unit" => "null",
        "sequence" => "an array",
        "map" => "an object",
        _ => "another value",
    }
}
