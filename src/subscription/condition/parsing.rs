//! Reads a condition from its text. An error names the place in the condition, what is there and at which byte
//! of the text, and what is expected.

use serde_json::{Number, Value};

use super::pointer::Pointer;
use super::{COMPARISONS, Node, Test};
use crate::error::{Error, Result};
use crate::text::json::{JsonMember, JsonObject, elements, kind_of, repeated_name};

const TEXT_BYTES_MAX: usize = 8 * 1024;
const DEPTH_MAX: usize = 8;
const TESTS_MAX: usize = 64;
const IN_VALUES_MAX: usize = 256;
const POINTER_PARTS_MAX: usize = 32;

const EXPECTED: &str = "an object with \"and\", \"or\", \"not\", or \"pointer\" and tests";

pub(super) fn parse(text: &str) -> Result<Node> {
    check_bound("condition", text.len(), TEXT_BYTES_MAX)?;
    if let Err(error) = serde_json::from_str::<&serde_json::value::RawValue>(text) {
        let given =
            format!("text that is not JSON, at line {} column {}", error.line(), error.column());
        return Err(Error::invalid("condition", given, EXPECTED));
    }
    let mut parser = Parser { text, tests: 0 };
    parser.node(text, "condition", 1)
}

fn check_bound(place: &str, given: usize, limit: usize) -> Result<()> {
    if given <= limit {
        return Ok(());
    }
    let (field, given, limit) = (place.to_owned(), given as u64, limit as u64);
    Err(Error::TooLarge { field, given, limit })
}

struct Parser<'t> {
    text: &'t str,
    /// The tests read so far.
    tests: usize,
}

impl<'t> Parser<'t> {
    /// The error for a part of the text.
    fn refused(&self, part: &str, place: &str, expected: &str) -> Error {
        let at = part.as_ptr().addr().saturating_sub(self.text.as_ptr().addr());
        let given = format!("{} at byte {at} of the condition", kind_of(part).unwrap_or("nothing"));
        Error::invalid(place, given, expected)
    }

    fn node(&mut self, part: &'t str, place: &str, depth: usize) -> Result<Node> {
        check_bound(place, depth, DEPTH_MAX)?;
        let Ok(object) = JsonObject::parse(part) else {
            return Err(self.refused(part, place, EXPECTED));
        };
        if let Some(name) = repeated_name(&object.0) {
            let place = format!("{place}.{name}");
            return Err(self.refused(part, &place, "each member once"));
        }
        if let Some(pointer) = object.value("pointer") {
            return self.tests(pointer, &object.0, place, part);
        }
        let [member] = object.0.as_slice() else {
            return Err(self.refused(part, place, EXPECTED));
        };
        let name = member.shown_name();
        let inner = format!("{place}.{name}");
        let value = member.value.get();
        match name {
            "and" => Ok(Node::And(self.nodes(value, &inner, depth)?)),
            "or" => Ok(Node::Or(self.nodes(value, &inner, depth)?)),
            "not" => Ok(Node::Not(Box::new(self.node(value, &inner, depth + 1)?))),
            _ => Err(self.refused(member.name_text, &inner, EXPECTED)),
        }
    }

    fn nodes(&mut self, part: &'t str, place: &str, depth: usize) -> Result<Box<[Node]>> {
        let parts = elements(part).filter(|parts| !parts.is_empty());
        let Some(parts) = parts else {
            return Err(self.refused(part, place, "a list of conditions, at least one"));
        };
        let nodes = parts.into_iter().enumerate();
        nodes
            .map(|(index, part)| self.node(part, &format!("{place}[{index}]"), depth + 1))
            .collect()
    }

    fn tests(
        &mut self,
        pointer: &'t str,
        members: &[JsonMember<'t>],
        place: &str,
        part: &str,
    ) -> Result<Node> {
        let pointer = self.pointer(pointer, &format!("{place}.pointer"))?;
        let mut tests = Vec::new();
        for member in members.iter().filter(|member| member.shown_name() != "pointer") {
            tests.push(self.test(member, &format!("{place}.{}", member.shown_name()))?);
        }
        if tests.is_empty() {
            return Err(self.refused(part, place, "a test next to \"pointer\", such as \"eq\""));
        }
        Ok(Node::Tests(pointer, tests.into()))
    }

    fn pointer(&self, part: &str, place: &str) -> Result<Pointer> {
        let text = serde_json::from_str::<String>(part).ok();
        let pointer = text.and_then(|text| Pointer::parse(&text)).ok_or_else(|| {
            self.refused(part, place, "a JSON pointer, such as \"/entry/0/changes/0/field\"")
        })?;
        check_bound(place, pointer.len(), POINTER_PARTS_MAX)?;
        Ok(pointer)
    }

    fn test(&mut self, member: &JsonMember<'t>, place: &str) -> Result<Test> {
        self.tests += 1;
        check_bound("condition.tests", self.tests, TESTS_MAX)?;
        let part = member.value.get();
        Ok(match member.shown_name() {
            "exists" => Test::Exists(
                serde_json::from_str(part)
                    .map_err(|_| self.refused(part, place, "true or false"))?,
            ),
            "eq" => Test::Eq(self.scalar(part, place)?),
            "in" => Test::In(self.scalars(part, place)?),
            "prefix" => Test::Prefix(
                serde_json::from_str(part).map_err(|_| self.refused(part, place, "a string"))?,
            ),
            name => match COMPARISONS.into_iter().find(|(known, _)| *known == name) {
                Some(comparison) => {
                    let number = serde_json::from_str::<Number>(part);
                    let number = number.map_err(|_| self.refused(part, place, "a number"));
                    Test::Compare(comparison, number?)
                }
                None => {
                    let expected = "one of exists, eq, in, prefix, gt, gte, lt, lte";
                    return Err(self.refused(member.name_text, place, expected));
                }
            },
        })
    }

    fn scalars(&self, part: &str, place: &str) -> Result<Box<[Value]>> {
        let parts = elements(part).filter(|parts| !parts.is_empty());
        let Some(parts) = parts else {
            return Err(self.refused(part, place, "a list of values, at least one"));
        };
        check_bound(place, parts.len(), IN_VALUES_MAX)?;
        let each = parts.into_iter().enumerate();
        each.map(|(index, part)| self.scalar(part, &format!("{place}[{index}]"))).collect()
    }

    fn scalar(&self, part: &str, place: &str) -> Result<Value> {
        let value = serde_json::from_str(part).ok();
        let scalar = value.filter(|value: &Value| !value.is_array() && !value.is_object());
        let expected = "a string, a number, true, false or null";
        scalar.ok_or_else(|| self.refused(part, place, expected))
    }
}
