//! Finds the message ids in a payload: the strings of members whose name says that they are one. It reads JSON
//! roughly, without building anything, and finds nothing in other bytes.

/// Names of members that hold the id of a message: Meta's and those of the gateways.
const NAMES: [&[u8]; 6] = [b"id", b"message_id", b"messageId", b"msg_id", b"wamid", b"dtMessageId"];

/// How many ids one payload gives.
const IDS_MAX: usize = 16;

/// Shorter and longer strings are no message ids.
const ID_BYTES: std::ops::RangeInclusive<usize> = 6..=256;

/// The message ids in a payload, each once.
pub(super) fn message_ids(payload: &[u8]) -> Vec<&[u8]> {
    let mut found: Vec<&[u8]> = Vec::new();
    let (mut rest, mut name): (&[u8], Option<&[u8]>) = (payload, None);
    while let Some(quote) = rest.iter().position(|byte| *byte == b'"') {
        // A value follows its name with nothing but a colon and spaces in between.
        let between = rest.get(..quote).unwrap_or_default().trim_ascii();
        let Some((text, after)) = string(rest.get(quote + 1..).unwrap_or_default()) else { break };
        let is_id = name.is_some_and(|name| between == b":" && NAMES.contains(&name));
        if is_id && ID_BYTES.contains(&text.len()) && !found.contains(&text) {
            found.push(text);
            if found.len() == IDS_MAX {
                break;
            }
        }
        name = Some(text);
        rest = after;
    }
    found
}

/// The text up to the closing quote, and what follows it.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    loop {
        let more = bytes.get(at..)?.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        at += more;
        match bytes.get(at)? {
            b'"' => return Some((bytes.get(..at)?, bytes.get(at + 1..)?)),
            _ => at += 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(payload: &str) -> Vec<String> {
        let found = message_ids(payload.as_bytes()).into_iter();
        found.map(|id| String::from_utf8_lossy(id).into_owned()).collect()
    }

    #[test]
    fn ids_are_found_by_their_names() {
        let payload = r#"{"id": "117123971064972", "statuses": [{"id":"wamid.A1B2C3==","status":"read"}],
            "text": "\"id\":\"wamid.NOT\"", "messageId" : "3EB0C767D097", "name":"id", "other":"wamid.NOT2"}"#;
        assert_eq!(ids(payload), ["117123971064972", "wamid.A1B2C3==", "3EB0C767D097"]);
    }

    #[test]
    fn other_bytes_have_no_ids() {
        for payload in
            ["", "\"", "\"id", "\"id\":\"", "\"id\":\"short\"", "id=wamid.AAAA", "\"id\":7", "\"\\"]
        {
            assert_eq!(ids(payload), Vec::<String>::new(), "{payload}");
        }
        assert_eq!(ids(&r#"{"id":"wamid.AAAA"}"#.repeat(40)), ["wamid.AAAA"]);
    }
}
