//! What the device allows: bytes appended to a plain file, each time with one `fdatasync`, like a group
//! of the engine.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// A plain file that grows.
pub(crate) struct RawFile {
    file: File,
    bytes: Vec<u8>,
}

impl RawFile {
    /// A new file in `directory`.
    pub(crate) fn new(directory: &Path) -> io::Result<RawFile> {
        let options = OpenOptions::new().create(true).append(true).open(directory.join("raw"));
        Ok(RawFile { file: options?, bytes: Vec::new() })
    }

    /// Appends so many bytes and syncs. Returns how long the sync took.
    pub(crate) fn append(&mut self, bytes: usize) -> io::Result<Duration> {
        while self.bytes.len() < bytes {
            let [byte, ..] = self.bytes.len().wrapping_mul(0x9e37_79b9).to_le_bytes();
            self.bytes.push(byte);
        }
        self.file.write_all(self.bytes.get(..bytes).unwrap_or_default())?;
        let started = Instant::now();
        self.file.sync_data()?;
        Ok(started.elapsed())
    }
}
