//! Conditions over the payload of an event, which a subscription adds to its filter. A condition is written in
//! JSON, checked and compiled once, and evaluated without I/O, clock or randomness (I6). Its size, depth and
//! number of tests are bounded, so that one evaluation takes microseconds.

mod evaluation;
mod parsing;
mod payload;
mod pointer;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Number, Value};

pub(crate) use self::payload::ParsedPayload;
pub use self::payload::UnreadablePayload;

use self::pointer::Pointer;
use crate::error::{Error, Result};

/// A condition over the JSON payload of an event. An event is owed to a subscription only if its condition
/// holds, in addition to its filter.
///
/// ```
/// use wabahook::{Condition, Subscription};
/// let condition: Condition = r#"{"and": [
///     {"pointer": "/entry/0/changes/0/value/messages/0/type", "in": ["text", "button"]},
///     {"not": {"pointer": "/entry/0/changes/0/value/messages/0/text/body", "prefix": "STOP"}}
/// ]}"#.parse()?;
/// let texts = Subscription::to("https://crm.example/hook")?.condition(condition);
/// # let _ = texts;
/// # Ok::<(), wabahook::Error>(())
/// ```
///
/// | condition | holds if |
/// |---|---|
/// | `{"and": [..]}` | all conditions of the list hold |
/// | `{"or": [..]}` | one condition of the list holds |
/// | `{"not": ..}` | the condition does not hold |
/// | `{"pointer": "/a/0/b", ..}` | every test next to the [JSON pointer](https://www.rfc-editor.org/rfc/rfc6901) holds |
///
/// | test | holds if the value at the pointer |
/// |---|---|
/// | `"exists": true` or `false` | is there, or is not; `null` is there |
/// | `"eq": x` | is the string, number, boolean or `null` `x`; `1` and `1.0` are equal, `1` and `"1"` are not |
/// | `"in": [x, y]` | equals one of the list |
/// | `"prefix": "x"` | is a string that begins with `x` |
/// | `"gt"`, `"gte"`, `"lt"`, `"lte"` | is a number, or a string that is one, above, not below, below or not above another |
///
/// A test of a value that is not there, or of another kind, does not hold. A payload that is not JSON meets no
/// condition, not even a `not`.
#[derive(Clone)]
pub struct Condition(Arc<Compiled>);

struct Compiled {
    text: Box<str>,
    root: Node,
}

/// One part of a condition.
enum Node {
    And(Box<[Node]>),
    Or(Box<[Node]>),
    Not(Box<Node>),
    Tests(Pointer, Box<[Test]>),
}

/// A test of the value at a pointer.
#[derive(Debug)]
enum Test {
    Exists(bool),
    /// Equals this value, which has no parts.
    Eq(Value),
    In(Box<[Value]>),
    Prefix(Box<str>),
    Compare(Comparison, Number),
}

/// The name of a comparison with a number, and the orderings for which it holds.
type Comparison = (&'static str, fn(Ordering) -> bool);

const COMPARISONS: [Comparison; 4] = [
    ("gt", Ordering::is_gt),
    ("gte", Ordering::is_ge),
    ("lt", Ordering::is_lt),
    ("lte", Ordering::is_le),
];

impl Condition {
    /// Reads a condition.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the place in the condition, such as `condition.and[1].gte`, and its byte in the
    /// text. [`Error::TooLarge`] for more than 8 KiB, 8 levels, 64 tests, 256 values of one `in` or 32 parts of a
    /// pointer.
    pub fn parse(text: &str) -> Result<Condition> {
        let text = text.trim_ascii();
        let root = parsing::parse(text)?;
        Ok(Condition(Arc::new(Compiled { text: text.into(), root })))
    }

    /// The condition as it was written.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Whether a payload meets it. One that is not JSON does not.
    ///
    /// ```
    /// use wabahook::Condition;
    /// let condition = Condition::parse(r#"{"pointer": "/total", "gte": 100}"#)?;
    /// assert!(condition.is_met_by(br#"{"total": 120}"#));
    /// assert!(!condition.is_met_by(br#"{"total": 80}"#) && !condition.is_met_by(b"not JSON"));
    /// # Ok::<(), wabahook::Error>(())
    /// ```
    pub fn is_met_by(&self, payload: &[u8]) -> bool {
        ParsedPayload::parse(payload).is_ok_and(|payload| self.holds(&payload))
    }

    /// Whether it holds for a payload.
    pub(crate) fn holds(&self, payload: &ParsedPayload) -> bool {
        self.0.root.holds(payload)
    }

    /// The place of the first part because of which it does not hold, such as `condition.and[1].prefix`.
    pub(crate) fn failing_part(&self, payload: &ParsedPayload) -> Option<String> {
        self.0.root.failing_part(payload, "condition")
    }
}

impl FromStr for Condition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Condition> {
        Condition::parse(text)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.as_str()).finish()
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Condition) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Condition {}

#[cfg(feature = "serde")]
impl serde::Serialize for Condition {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}
