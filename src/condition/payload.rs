//! A payload as conditions read it. It is parsed once for all conditions of an event.

use serde_json::Value;

/// The payload of an event, parsed.
#[derive(Debug)]
pub(crate) struct ParsedPayload(Value);

impl ParsedPayload {
    /// `None` if it is not JSON.
    pub(crate) fn parse(payload: &[u8]) -> Option<ParsedPayload> {
        if let Ok(value) = serde_json::from_slice(payload) {
            return Some(ParsedPayload(value));
        }
        // Texts that were cut in the middle of an emoji are JSON by its grammar, and Meta sends them.
        let repaired = without_lone_surrogates(std::str::from_utf8(payload).ok()?)?;
        serde_json::from_str(&repaired).ok().map(ParsedPayload)
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
            let text = payload.as_ref().and_then(|one| one.root().get("a")?.as_str());
            assert_eq!(text, read, "{given}");
        }
        assert!(ParsedPayload::parse(b"{\"a\":\"\xff\"}").is_none());
    }
}
