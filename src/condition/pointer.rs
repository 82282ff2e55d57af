//! JSON pointers (RFC 6901), taken apart when they are read, so that a look-up allocates nothing.

use serde_json::Value;

/// The place of a value in a JSON document.
#[derive(Debug)]
pub(super) struct Pointer(Box<[PointerPart]>);

#[derive(Debug)]
struct PointerPart {
    name: Box<str>,
    /// The part as the index of an array.
    index: Option<usize>,
}

impl Pointer {
    /// `None` if the text is no pointer.
    pub(super) fn parse(text: &str) -> Option<Pointer> {
        if text.is_empty() {
            return Some(Pointer(Box::default()));
        }
        let parts = text.strip_prefix('/')?.split('/').map(PointerPart::parse);
        parts.collect::<Option<_>>().map(Pointer)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value at this place.
    pub(super) fn find<'v>(&self, root: &'v Value) -> Option<&'v Value> {
        self.0.iter().try_fold(root, |value, part| match value {
            Value::Object(members) => members.get(&*part.name),
            Value::Array(elements) => elements.get(part.index?),
            _ => None,
        })
    }
}

impl PointerPart {
    /// `~1` stands for a slash and `~0` for a tilde; no other use of a tilde is allowed.
    fn parse(text: &str) -> Option<PointerPart> {
        let mut pieces = text.split('~');
        let mut name = pieces.next()?.to_owned();
        for piece in pieces {
            let (escaped, rest) = piece.split_at_checked(1)?;
            name.push(match escaped {
                "0" => '~',
                "1" => '/',
                _ => return None,
            });
            name.push_str(rest);
        }
        let is_index =
            text == "0" || !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
        let index = text.parse().ok().filter(|_| is_index);
        Some(PointerPart { name: name.into(), index })
    }
}
