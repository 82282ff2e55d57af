//! A payload as conditions read it. It is parsed once for all conditions of an event.

use std::fmt;

use serde_json::Value;

/// The payload of an event, parsed.
#[derive(Debug)]
pub(crate) struct ParsedPayload(Value);

/// Why a payload cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnreadablePayload {
    /// It is not JSON.
    NotJson,
    /// It is JSON that is nested more than 127 deep.
    TooDeep,
}

impl fmt::Display for UnreadablePayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UnreadablePayload::NotJson => "the payload is not JSON",
            UnreadablePayload::TooDeep => "the payload is nested more than 127 deep",
        })
    }
}

impl From<serde_json::Error> for UnreadablePayload {
    fn from(error: serde_json::Error) -> UnreadablePayload {
        match error.to_string().starts_with("recursion limit exceeded") {
            true => UnreadablePayload::TooDeep,
            false => UnreadablePayload::NotJson,
        }
    }
}

impl ParsedPayload {
    pub(crate) fn parse(payload: &[u8]) -> Result<ParsedPayload, UnreadablePayload> {
        let error = match serde_json::from_slice(payload) {
            Ok(value) => return Ok(ParsedPayload(value)),
            Err(error) => error,
        };
        // Texts that were cut in the middle of an emoji are JSON by its grammar, and Meta sends them.
        let repaired = std::str::from_utf8(payload).ok().and_then(without_lone_surrogates);
        let repaired = repaired.ok_or(error)?;
        Ok(ParsedPayload(serde_json::from_str(&repaired)?))
    }

    pub(super) fn root(&self) -> &Value {
        &self.0
    }
}

/// The text with U+FFFD in place of each escaped half of a surrogate pair that lacks the other half; `None` if there
/// is no such half.
fn without_lone_surrogates(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut is_changed) = (text, false);
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let taken = match (surrogate(escape, 0), surrogate(escape, 6)) {
            (Some(Half::High), Some(Half::Low)) => 12,
            (Some(_), _) => {
                is_changed = true;
                out.push_str("\\ufffd");
                rest = escape.get(6..).unwrap_or_default();
                continue;
            }
            // The backslash and what it escapes, which may be another backslash.
            (None, _) => 1 + escape.chars().nth(1).map_or(0, char::len_utf8),
        };
        let (kept, after) = escape.split_at_checked(taken)?;
        out.push_str(kept);
        rest = after;
    }
    out.push_str(rest);
    is_changed.then_some(out)
}

enum Half {
    High,
    Low,
}

/// The half of a surrogate pair that is escaped at this byte.
fn surrogate(text: &str, at: usize) -> Option<Half> {
    let digits = text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
    match u16::from_str_radix(digits, 16).ok()? {
        0xd800..=0xdbff => Some(Half::High),
        0xdc00..=0xdfff => Some(Half::Low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_surrogate_pairs_are_replaced_and_pairs_kept() {
        for (given, read) in [
            (r#"{"a":"cut \ud83d"}"#, Some("cut \u{fffd}")),
            (r#"{"a":"\ude00\ud83d"}"#, Some("\u{fffd}\u{fffd}")),
            (r#"{"a":"\ud83d\ude00 \ud83d"}"#, Some("\u{1f600} \u{fffd}")),
            (r#"{"a":"\\\ud83d"}"#, Some("\\\u{fffd}")),
            // An escaped backslash, and then text.
            (r#"{"a":"\\ud83d"}"#, Some("\\ud83d")),
            (r#"{"a":"\ud83d\n"}"#, Some("\u{fffd}\n")),
            (r#"{"a":"\ud83"}"#, None),
            (r#"{"a":"\ud83d"#, None),
            ("{\"a\":\"\\", None),
        ] {
            let payload = ParsedPayload::parse(given.as_bytes());
            let text = payload.as_ref().ok().and_then(|one| one.root().get("a")?.as_str());
            assert_eq!(text, read, "{given}");
        }
        let unreadable = |payload: &[u8]| ParsedPayload::parse(payload).unwrap_err();
        assert_eq!(unreadable(b"{\"a\":\"\xff\"}"), UnreadablePayload::NotJson);
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(ParsedPayload::parse(nested(127).as_bytes()).is_ok());
        assert_eq!(unreadable(nested(128).as_bytes()), UnreadablePayload::TooDeep);
        let surrogate = nested(128).replace("[]", r#"["\ud83d"]"#);
        assert_eq!(unreadable(surrogate.as_bytes()), UnreadablePayload::TooDeep);
    }
}
