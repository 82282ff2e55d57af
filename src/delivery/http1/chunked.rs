//! Finds the data in a chunked body, and its end.

use std::ops::Range;

/// Where in a chunked body the next byte is.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    at: ChunkPosition,
    /// The size of the chunk, as far as it was read, or what is left of its data.
    left: u64,
    digits: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ChunkPosition {
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
pub(super) struct ChunkStep {
    /// How many bytes were used, at least one.
    pub(super) used: usize,
    /// Which of them are data.
    pub(super) data: Range<usize>,
    pub(super) is_over: bool,
}

/// The body is not what its head says.
#[derive(Debug)]
pub(super) struct BrokenBody;

/// Longer sizes overflow.
const DIGITS_MAX: u32 = 15;

impl Chunked {
    /// Reads a run of data, or one byte of what is between; the input must not be empty.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<ChunkStep, BrokenBody> {
        if self.at == ChunkPosition::Data {
            let used = usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()));
            self.left -= used as u64;
            if self.left == 0 {
                self.at = ChunkPosition::DataEnd;
            }
            return Ok(ChunkStep { used, data: 0..used, is_over: false });
        }
        let byte = *input.first().ok_or(BrokenBody)?;
        let is_over = self.pass(byte)?;
        Ok(ChunkStep { used: 1, data: 0..0, is_over })
    }

    /// Reads a byte outside of the data; whether it is the last one.
    fn pass(&mut self, byte: u8) -> Result<bool, BrokenBody> {
        self.at = match (self.at, byte) {
            (ChunkPosition::Size, byte) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).ok_or(BrokenBody)?;
                self.digits += 1;
                self.left = self.left * 16 + u64::from(digit);
                if self.digits > DIGITS_MAX {
                    return Err(BrokenBody);
                }
                ChunkPosition::Size
            }
            (ChunkPosition::Size, _) if self.digits == 0 => return Err(BrokenBody),
            (ChunkPosition::Size | ChunkPosition::Extension, b'\n') => {
                self.digits = 0;
                if self.left == 0 { ChunkPosition::Trailer } else { ChunkPosition::Data }
            }
            (ChunkPosition::Size, b';' | b' ' | b'\t' | b'\r') | (ChunkPosition::Extension, _) => {
                ChunkPosition::Extension
            }
            (ChunkPosition::DataEnd, b'\r') => ChunkPosition::DataEnd,
            (ChunkPosition::DataEnd, b'\n') => ChunkPosition::Size,
            (ChunkPosition::Trailer | ChunkPosition::LastLineEnd, b'\n') => return Ok(true),
            (ChunkPosition::Trailer, b'\r') => ChunkPosition::LastLineEnd,
            (ChunkPosition::TrailerLine, b'\n') => ChunkPosition::Trailer,
            (ChunkPosition::Trailer | ChunkPosition::TrailerLine, _) => ChunkPosition::TrailerLine,
            (
                ChunkPosition::Size
                | ChunkPosition::DataEnd
                | ChunkPosition::LastLineEnd
                | ChunkPosition::Data,
                _,
            ) => return Err(BrokenBody),
        };
        Ok(false)
    }
}
