//! WhatsApp Business numbers in E.164 form.
//!
//! A [`WabaNumber`] is checked when it is made, so one that exists is valid.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A WhatsApp Business number in international form (ITU-T E.164): 7 to 15 digits, the first not 0.
///
/// ```
/// use wabahook::WabaNumber;
/// let number: WabaNumber = "+91 99999-99999".parse()?;
/// assert_eq!(number.to_string(), "919999999999");
/// assert!("91-CALL-ME".parse::<WabaNumber>().is_err());
/// # Ok::<(), wabahook::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WabaNumber(u64);

impl WabaNumber {
    pub(crate) const EXPECTED: &str = "7 to 15 digits with the country code, such as +919999999999";

    /// The digits as one number. Nothing is lost, because E.164 has no leading zeros.
    pub fn digits(self) -> u64 {
        self.0
    }

    /// Reads stored digits; `None` if they are not a number.
    pub(crate) fn from_digits(digits: u64) -> Option<WabaNumber> {
        (1_000_000..1_000_000_000_000_000).contains(&digits).then_some(WabaNumber(digits))
    }

    /// A mobile number of Brazil, Mexico or Argentina with or without the digit that these countries write
    /// before it in some forms: Meta shows the same number in either.
    pub(crate) fn other_spelling(self) -> Option<WabaNumber> {
        let digits = self.to_string();
        let (at, digit) = match digits.get(..2)? {
            "55" => (4, '9'),
            "52" => (2, '1'),
            "54" => (2, '9'),
            _ => return None,
        };
        let (head, tail) = digits.split_at_checked(at)?;
        let other = match digits.len() {
            12 => format!("{head}{digit}{tail}"),
            13 => format!("{head}{}", tail.strip_prefix(digit)?),
            _ => return None,
        };
        other.parse().ok()
    }
}

impl FromStr for WabaNumber {
    type Err = Error;

    /// Accepts a leading `+`, and spaces, `-`, `.` and parentheses as separators.
    fn from_str(given: &str) -> Result<WabaNumber> {
        let refused = || Error::invalid("number", given, Self::EXPECTED);
        let trimmed = given.trim();
        let mut digits = 0_u64;
        let mut count = 0;
        for c in trimmed.strip_prefix('+').unwrap_or(trimmed).chars() {
            match c {
                '0'..='9' if count < 15 => {
                    digits = digits * 10 + u64::from(c.to_digit(10).unwrap_or(0));
                    count += 1;
                }
                ' ' | '-' | '.' | '(' | ')' => {}
                _ => return Err(refused()),
            }
        }
        // A number with a leading zero is below the smallest number of its length.
        let leading_zero = digits < 10_u64.pow(u32::try_from(count).unwrap_or(0).max(1) - 1);
        if leading_zero {
            return Err(refused());
        }
        WabaNumber::from_digits(digits).ok_or_else(refused)
    }
}

impl fmt::Display for WabaNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for WabaNumber {
    /// The digits as text.
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A number as the host gave it: parsed, or the text that is not a number.
pub(crate) type NumberInput = std::result::Result<WabaNumber, String>;

pub(crate) fn number_input(text: &str) -> NumberInput {
    text.parse().map_err(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_their_usual_forms() {
        for (given, digits) in [
            ("919999999999", "919999999999"),
            ("+919999999999", "919999999999"),
            (" +1 (631) 555-5555 ", "16315555555"),
            ("1234567", "1234567"),
            ("123456789012345", "123456789012345"),
        ] {
            assert_eq!(given.parse::<WabaNumber>().unwrap().to_string(), digits, "{given}");
        }
    }

    #[test]
    fn invalid_numbers_are_refused_with_field_and_value() {
        for given in [
            "",
            "+",
            "91x9999999",
            "123456",
            "1234567890123456",
            "0919999999",
            "+0",
            "९१९९९९९९९९९९",
        ] {
            let error = given.parse::<WabaNumber>().unwrap_err();
            assert_eq!(error.field(), Some("number"), "{given}");
            assert!(error.to_string().contains("15 digits"), "{error}");
        }
    }
}
