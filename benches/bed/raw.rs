//! Decides what the device could do: the same bytes appended to a plain file and synced.
//!
//! Leaves to others: how much is appended at a time. Invariant: every append is followed by one
//! `fdatasync`, as every group of the engine is.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// A plain file that grows.
pub(crate) struct Raw {
    file: File,
    bytes: Vec<u8>,
}

impl Raw {
    /// A new file in `directory`.
    pub(crate) fn new(directory: &Path) -> io::Result<Raw> {
        let options = OpenOptions::new().create(true).append(true).open(directory.join("raw"));
        Ok(Raw { file: options?, bytes: Vec::new() })
    }

    /// Appends so many bytes and syncs; says how long the sync alone took.
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
