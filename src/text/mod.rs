//! Texts, without knowledge of webhooks: names that a host chooses, hexadecimal and search here, JSON whose bytes must
//! stay as they came in [`json`], `Debug` that leaves out fields, and moments and durations in the form in which they are written.

mod debug;
pub(crate) mod json;
pub(crate) mod serde_with;
mod timestamp;

pub(crate) use self::debug::debug_fields;
pub(crate) use self::timestamp::rfc3339;

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// What is expected of a name.
pub(crate) const NAME_EXPECTED: &str = "1 to 128 bytes without control characters";

/// Whether a host may give an account or a subscription this name.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// A number of things in words, such as `1 event` or `2 events`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    push_hex(&mut text, bytes);
    text
}

/// Appends bytes as lower-case hexadecimal digits.
pub(crate) fn push_hex(text: &mut String, bytes: &[u8]) {
    text.reserve(2 * bytes.len());
    for digit in bytes.iter().flat_map(|byte| hex_digits(*byte)) {
        // Four times as fast as extending by an iterator.
        text.push(char::from(digit));
    }
}

/// The two lower-case hexadecimal digits of a byte. The formatter is slow at padding.
pub(crate) fn hex_digits(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 0xf]
        .map(|nibble| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 })
}

/// The byte of two hexadecimal digits in any case.
pub(crate) fn hex_byte(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

/// Whether a text contains another one, in any case.
pub(crate) fn contains(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}

/// Whether the digits of a number contain those of another text, which may be written with a plus and spaces.
pub(crate) fn contains_digits(number: &str, part: &str) -> bool {
    let digits: String = part.chars().filter(char::is_ascii_digit).collect();
    !digits.is_empty() && number.contains(&digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_and_read_as_hexadecimal() {
        assert_eq!(hex(&[0x00, 0x0a, 0x9f, 0xff]), "000a9fff");
        for byte in 0..=u8::MAX {
            assert_eq!(hex_byte(hex_digits(byte)), Some(byte));
        }
        assert_eq!(hex_byte(*b"Fe"), Some(0xfe));
        assert_eq!((hex_byte(*b"g0"), hex_byte(*b"+1")), (None, None));
    }

    #[test]
    fn a_name_has_bounds() {
        assert!(is_name("crm") && is_name(&"n".repeat(128)));
        assert!(!is_name("") && !is_name(&"n".repeat(129)) && !is_name("a\nb"));
    }

    #[test]
    fn parts_are_found_in_any_case() {
        assert!(
            contains("status:404", "STATUS") && contains("TIMEOUT", "time") && contains("x", "")
        );
        assert!(!contains("status:404", "405"));
        assert!(
            contains_digits("919000000001", "+91 90000") && !contains_digits("919000000001", "+")
        );
    }
}
