//! Finds the data in a chunked body, and its end.

use std::ops::Range;

/// Where in a chunked body the next byte is.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    at: At,
    /// The size of the chunk, as far as it was read, or what is left of its data.
    left: u64,
    digits: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    /// After the size: an extension, which means nothing here.
    Extension,
    Data,
    /// The line end after the data.
    DataEnd,
    /// The start of a line of the trailer.
    Trailer,
    TrailerLine,
    /// After the return of the empty line.
    LastLineEnd,
}

/// What one step found in its input.
pub(super) struct Step {
    /// How many bytes were used, at least one.
    pub(super) used: usize,
    /// Which of them are data.
    pub(super) data: Range<usize>,
    /// Whether the body ended with them.
    pub(super) is_over: bool,
}

/// The body is not what its head says.
#[derive(Debug)]
pub(super) struct Broken;

/// Longer sizes overflow.
const DIGITS_MAX: u32 = 15;

impl Chunked {
    /// Reads a run of data, or one byte of what is between; the input must not be empty.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<Step, Broken> {
        if self.at == At::Data {
            let used = usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()));
            self.left -= used as u64;
            if self.left == 0 {
                self.at = At::DataEnd;
            }
            return Ok(Step { used, data: 0..used, is_over: false });
        }
        let byte = *input.first().ok_or(Broken)?;
        let is_over = self.pass(byte)?;
        Ok(Step { used: 1, data: 0..0, is_over })
    }

    /// Reads a byte outside of the data; whether it is the last one.
    fn pass(&mut self, byte: u8) -> Result<bool, Broken> {
        self.at = match (self.at, byte) {
            (At::Size, byte) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).ok_or(Broken)?;
                self.digits += 1;
                self.left = self.left * 16 + u64::from(digit);
                if self.digits > DIGITS_MAX {
                    return Err(Broken);
                }
                At::Size
            }
            (At::Size, _) if self.digits == 0 => return Err(Broken),
            (At::Size | At::Extension, b'\n') => {
                self.digits = 0;
                if self.left == 0 { At::Trailer } else { At::Data }
            }
            (At::Size, b';' | b' ' | b'\t' | b'\r') | (At::Extension, _) => At::Extension,
            (At::DataEnd, b'\r') => At::DataEnd,
            (At::DataEnd, b'\n') => At::Size,
            (At::Trailer | At::LastLineEnd, b'\n') => return Ok(true),
            (At::Trailer, b'\r') => At::LastLineEnd,
            (At::TrailerLine, b'\n') => At::Trailer,
            (At::Trailer | At::TrailerLine, _) => At::TrailerLine,
            (At::Size | At::DataEnd | At::LastLineEnd | At::Data, _) => return Err(Broken),
        };
        Ok(false)
    }
}
