//! JSON pointers (RFC 6901), taken apart when they are read, so that a look-up allocates nothing. All names of a
//! pointer are one text: ten thousand conditions are read for one event, and each separate text would be a
//! cache miss.

use serde_json::Value;

/// The place of a value in a JSON document.
#[derive(Debug, Default)]
pub(super) struct Pointer {
    /// The names of all parts, one after the other.
    names: Box<str>,
    parts: Box<[PointerPart]>,
}

#[derive(Debug)]
struct PointerPart {
    /// Where the name ends in the names; it starts where the one before ends.
    end: u32,
    /// The part as the index of an array; `NO_INDEX` if it is none.
    index: u32,
}

const NO_INDEX: u32 = u32::MAX;

impl Pointer {
    /// `None` if the text is not a pointer.
    pub(super) fn parse(text: &str) -> Option<Pointer> {
        if text.is_empty() {
            return Some(Pointer::default());
        }
        let (mut names, mut parts) = (String::with_capacity(text.len()), Vec::new());
        for part in text.strip_prefix('/')?.split('/') {
            push_decoded(part, &mut names)?;
            let end = u32::try_from(names.len()).ok()?;
            parts.push(PointerPart { end, index: index(part).unwrap_or(NO_INDEX) });
        }
        Some(Pointer { names: names.into(), parts: parts.into() })
    }

    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }

    /// The value at this place.
    pub(super) fn find<'v>(&self, root: &'v Value) -> Option<&'v Value> {
        let (mut value, mut start) = (root, 0);
        for part in &self.parts {
            let end = part.end as usize;
            value = match value {
                Value::Object(members) => members.get(self.names.get(start..end)?)?,
                Value::Array(elements) => elements.get(part.index as usize)?,
                _ => return None,
            };
            start = end;
        }
        Some(value)
    }
}

/// `~1` stands for a slash and `~0` for a tilde; no other use of a tilde is allowed.
fn push_decoded(part: &str, names: &mut String) -> Option<()> {
    let mut pieces = part.split('~');
    names.push_str(pieces.next()?);
    for piece in pieces {
        let (escaped, rest) = piece.split_at_checked(1)?;
        names.push(match escaped {
            "0" => '~',
            "1" => '/',
            _ => return None,
        });
        names.push_str(rest);
    }
    Some(())
}

/// The index of an array that a part is: digits without leading zeros.
fn index(part: &str) -> Option<u32> {
    let is_digits = part.bytes().all(|byte| byte.is_ascii_digit());
    let is_index = part == "0" || is_digits && !part.starts_with('0');
    part.parse().ok().filter(|index| is_index && *index != NO_INDEX)
}
