//! Evaluates a condition, and finds the part of it that does not hold.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::payload::ParsedPayload;
use super::{Node, Test};

impl Node {
    pub(super) fn holds(&self, payload: &ParsedPayload) -> bool {
        match self {
            Node::And(parts) => parts.iter().all(|part| part.holds(payload)),
            Node::Or(parts) => parts.iter().any(|part| part.holds(payload)),
            Node::Not(part) => !part.holds(payload),
            Node::Tests(pointer, tests) => {
                let value = pointer.find(payload.root());
                tests.iter().all(|test| test.holds(value))
            }
        }
    }

    /// The place of the first part because of which it does not hold.
    pub(super) fn failing_part(&self, payload: &ParsedPayload, place: &str) -> Option<String> {
        match self {
            Node::And(parts) => parts.iter().enumerate().find_map(|(index, part)| {
                part.failing_part(payload, &format!("{place}.and[{index}]"))
            }),
            Node::Or(_) => (!self.holds(payload)).then(|| format!("{place}.or")),
            Node::Not(_) => (!self.holds(payload)).then(|| format!("{place}.not")),
            Node::Tests(pointer, tests) => {
                let value = pointer.find(payload.root());
                let failing = tests.iter().find(|test| !test.holds(value))?;
                Some(format!("{place}.{}", failing.name()))
            }
        }
    }
}

impl Test {
    fn holds(&self, value: Option<&Value>) -> bool {
        let Some(value) = value else { return matches!(self, Test::Exists(false)) };
        match self {
            Test::Exists(expected) => *expected,
            Test::Eq(scalar) => are_equal(scalar, value),
            Test::In(scalars) => scalars.iter().any(|scalar| are_equal(scalar, value)),
            Test::Prefix(prefix) => value.as_str().is_some_and(|text| text.starts_with(&**prefix)),
            Test::Compare((_, admits), bound) => {
                let ordering = match value {
                    Value::Number(number) => compare(number, bound),
                    // Meta writes many numbers as strings, timestamps among them.
                    Value::String(text) => number(text).and_then(|number| compare(&number, bound)),
                    _ => None,
                };
                ordering.is_some_and(admits)
            }
        }
    }

    /// Its name in the condition.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Test::Exists(_) => "exists",
            Test::Eq(_) => "eq",
            Test::In(_) => "in",
            Test::Prefix(_) => "prefix",
            Test::Compare((name, _), _) => name,
        }
    }
}

fn are_equal(scalar: &Value, value: &Value) -> bool {
    match (scalar, value) {
        (Value::Number(expected), Value::Number(given)) => {
            compare(given, expected).is_some_and(Ordering::is_eq)
        }
        _ => scalar == value,
    }
}

/// Whole numbers are compared exactly, others as doubles.
fn compare(one: &Number, other: &Number) -> Option<Ordering> {
    match (one.as_i128(), other.as_i128()) {
        (Some(one), Some(other)) => Some(one.cmp(&other)),
        _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
    }
}

/// Longer strings are not read as numbers.
const NUMBER_BYTES_MAX: usize = 32;

fn number(text: &str) -> Option<Number> {
    let is_short = text.len() <= NUMBER_BYTES_MAX && !text.starts_with(char::is_whitespace);
    if is_short { text.parse().ok() } else { None }
}
