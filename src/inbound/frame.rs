//! Writes parts of a JSON text again without changing a byte of the values that stay: the text around
//! one value, or an object with some members replaced or dropped. Members keep their order; only spaces
//! between the members of an object that is opened are lost.

use std::borrow::Cow;

use crate::text::json::{JsonMember, JsonObject};

/// The text of an object before and after one of its values.
#[derive(Debug)]
pub(super) struct Frame {
    before: String,
    after: String,
}

impl Frame {
    /// The text around the value with this name, which the object must have.
    pub(super) fn around_value(object: &JsonObject<'_>, name: &str) -> Frame {
        let mut frame = Frame { before: String::from("{"), after: String::new() };
        let mut found = false;
        for (index, member) in object.0.iter().enumerate() {
            let side = if found { &mut frame.after } else { &mut frame.before };
            push_name(side, index, member);
            if member.name.as_deref() == Some(name) {
                found = true;
            } else {
                side.push_str(member.value.get());
            }
        }
        frame.after.push('}');
        frame
    }

    /// As [`around_value`](Frame::around_value), with the brackets of an array inside.
    pub(super) fn around_element(object: &JsonObject<'_>, name: &str) -> Frame {
        let Frame { mut before, after } = Frame::around_value(object, name);
        before.push('[');
        Frame { before, after: format!("]{after}") }
    }
}

/// The text with all frames around it, the outermost first.
pub(super) fn framed(frames: &[&Frame], inner: &str) -> String {
    let frame_bytes: usize =
        frames.iter().map(|frame| frame.before.len() + frame.after.len()).sum();
    let mut out = String::with_capacity(frame_bytes + inner.len());
    frames.iter().for_each(|frame| out.push_str(&frame.before));
    out.push_str(inner);
    frames.iter().rev().for_each(|frame| out.push_str(&frame.after));
    out
}

/// What happens to a member when its object is written again.
pub(super) enum MemberEdit<'t> {
    Keep,
    Replace(Cow<'t, str>),
    Drop,
}

/// Writes an object again with an edit for each member name.
pub(super) fn rewritten<'t>(
    object: &JsonObject<'_>,
    mut edit: impl FnMut(&str) -> MemberEdit<'t>,
) -> String {
    let mut out = String::from("{");
    let mut index = 0;
    for member in &object.0 {
        let name = member.name.as_deref();
        let value = match name.map_or(MemberEdit::Keep, &mut edit) {
            MemberEdit::Keep => Cow::Borrowed(member.value.get()),
            MemberEdit::Replace(text) => text,
            MemberEdit::Drop => continue,
        };
        push_name(&mut out, index, member);
        out.push_str(&value);
        index += 1;
    }
    out.push('}');
    out
}

fn push_name(out: &mut String, index: usize, member: &JsonMember<'_>) {
    if index > 0 {
        out.push(',');
    }
    out.push_str(member.name_text);
    out.push(':');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_stay_keep_every_byte_and_their_order() {
        let given =
            r#" { "b" : 1.50e+2 , "\u0061\/" :"\ud83d\ude00 \/", "c":{ "z" :1,  "a":-0 } } "#;
        let object = JsonObject::parse(given).unwrap();
        assert_eq!(
            rewritten(&object, |_| MemberEdit::Keep),
            r#"{"b":1.50e+2,"\u0061\/":"\ud83d\ude00 \/","c":{ "z" :1,  "a":-0 }}"#
        );
        assert_eq!(
            rewritten(&object, |name| match name {
                "b" => MemberEdit::Drop,
                "a/" => MemberEdit::Replace("[]".into()),
                _ => MemberEdit::Keep,
            }),
            r#"{"\u0061\/":[],"c":{ "z" :1,  "a":-0 }}"#
        );
    }

    #[test]
    fn a_frame_holds_all_but_one_value() {
        let object = JsonObject::parse(r#"{"a":1,"b":2,"c":3}"#).unwrap();
        for (name, before, after) in [
            ("a", r#"{"a":"#, r#","b":2,"c":3}"#),
            ("b", r#"{"a":1,"b":"#, r#","c":3}"#),
            ("c", r#"{"a":1,"b":2,"c":"#, "}"),
        ] {
            let frame = Frame::around_value(&object, name);
            assert_eq!((frame.before.as_str(), frame.after.as_str()), (before, after));
        }
    }
}
