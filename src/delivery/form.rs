//! Writes a form: `multipart/form-data` as browsers do (RFC 7578). The same fields of the same event make the
//! same bytes (I6), and the boundary occurs in none of them.

use std::borrow::Cow;

use super::content::Member;

/// A form, and the value of `content-type` with its boundary.
pub(super) struct Form {
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
}

/// The form with these fields, for the event of this id.
pub(super) fn form(members: &[Member<'_>], id: &str) -> Form {
    let fields = members.iter().map(|member| (disposition(&member.name), member.value.field()));
    let fields: Vec<_> = fields.collect();
    let boundary = boundary(&fields, id);
    let room: usize = fields.iter().map(|(head, value)| head.len() + value.len() + 80).sum();
    let mut body = Vec::with_capacity(room + 80);
    for (head, value) in &fields {
        for part in [b"--", boundary.as_bytes(), b"\r\n", head.as_bytes(), b"\r\n\r\n", value] {
            body.extend_from_slice(part);
        }
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Form { content_type: format!("multipart/form-data; boundary={boundary}"), body }
}

/// Characters that could end the head of a part are escaped as browsers do.
fn disposition(name: &str) -> String {
    let name = name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
    format!("Content-Disposition: form-data; name=\"{name}\"")
}

/// The id is the same at every attempt and hard to guess. If a field contains it nevertheless, the first number that
/// no field contains is appended.
fn boundary(fields: &[(String, Cow<'_, [u8]>)], id: &str) -> String {
    let occurs = |wanted: &str| {
        let within =
            |bytes: &[u8]| bytes.windows(wanted.len()).any(|part| part == wanted.as_bytes());
        fields.iter().any(|(head, value)| within(head.as_bytes()) || within(value))
    };
    let mut boundary = format!("wabahook-{id}");
    let mut number = 0_u64;
    while occurs(&boundary) {
        number += 1;
        boundary = format!("wabahook-{id}-{number}");
    }
    boundary
}

#[cfg(test)]
mod tests {
    use super::super::content::Value;
    use super::*;

    fn check(fields: &[(&str, &str)], boundary: &str, expected: &str) {
        let members = fields.iter().map(|(name, json)| Member {
            name: Cow::Borrowed(*name),
            value: Value::Json(Cow::Borrowed(*json)),
        });
        let form = form(&members.collect::<Vec<_>>(), "evt_1");
        assert_eq!(form.content_type, format!("multipart/form-data; boundary={boundary}"));
        assert_eq!(String::from_utf8(form.body).unwrap(), expected.replace('\n', "\r\n"));
    }

    #[test]
    fn form_fields_are_strings_or_json_text() {
        let expected = "--wabahook-evt_1\n\
            Content-Disposition: form-data; name=\"text\"\n\nsay \"hi\" \u{e4}\n\
            --wabahook-evt_1\n\
            Content-Disposition: form-data; name=\"more\"\n\n{ \"a\": 1.0 }\n\
            --wabahook-evt_1--\n";
        let fields = [("text", r#""say \"hi\" \u00e4""#), ("more", r#"{ "a": 1.0 }"#)];
        check(&fields, "wabahook-evt_1", expected);
        check(&[], "wabahook-evt_1", "--wabahook-evt_1--\n");
    }

    #[test]
    fn a_name_cannot_end_the_head_of_its_part() {
        let expected = "--wabahook-evt_1\n\
            Content-Disposition: form-data; name=\"a%22%0D%0Ab\"\n\n1\n\
            --wabahook-evt_1--\n";
        check(&[("a\"\r\nb", "1")], "wabahook-evt_1", expected);
    }

    #[test]
    fn the_boundary_is_one_that_no_field_has() {
        let expected = "--wabahook-evt_1-2\n\
            Content-Disposition: form-data; name=\"a\"\n\n--wabahook-evt_1--\n\
            --wabahook-evt_1-2\n\
            Content-Disposition: form-data; name=\"wabahook-evt_1-1\"\n\n1\n\
            --wabahook-evt_1-2--\n";
        let fields = [("a", r#""--wabahook-evt_1--""#), ("wabahook-evt_1-1", "1")];
        check(&fields, "wabahook-evt_1-2", expected);
    }
}
