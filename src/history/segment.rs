//! One file of the history, and its index file. A segment that is complete is never appended to again; its index is a
//! sorted file, of which one key in 256 is in memory. An index that is missing or damaged is built again from the
//! segment.
//!
//! Layout of a segment: 8 bytes of magic, then entries: length (4 bytes, little-endian) and the sealed entry. Layout
//! of an index: 8 bytes of magic, the times of the first and the last entry (8 bytes each), then pairs of a key (8
//! bytes) and an offset (4 bytes) in ascending order, then the CRC-32 of all that.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::entry::{HistoryEntry, erased};
use crate::store::private;

const SEGMENT_MAGIC: &[u8; 8] = b"wbhist01";
const INDEX_MAGIC: &[u8; 8] = b"wbhidx02";
const HEADER_BYTES: usize = 24;
const PAIR_BYTES: usize = 12;

/// How many pairs there are for each key in memory.
const FENCE: usize = 256;

/// A longer entry is taken for damage.
const ENTRY_BYTES_MAX: u32 = 1 << 20;

/// The position of an entry. Positions are ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EntryPosition {
    pub(crate) segment: u64,
    pub(crate) offset: u32,
}

/// The times of a segment's entries.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SegmentTimes {
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
}

impl SegmentTimes {
    fn note(&mut self, at_ms: u64) {
        self.first_ms = if self.first_ms == 0 { at_ms } else { self.first_ms.min(at_ms) };
        self.last_ms = self.last_ms.max(at_ms);
    }
}

/// The segment that is appended to.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) number: u64,
    path: PathBuf,
    file: File,
    pub(super) bytes: u64,
    pub(super) times: SegmentTimes,
    pairs: BTreeSet<(u64, u32)>,
}

/// A segment that is complete.
#[derive(Debug)]
pub(super) struct SealedSegment {
    pub(super) number: u64,
    path: PathBuf,
    /// Of both files.
    pub(super) bytes: u64,
    pub(super) times: SegmentTimes,
    pair_count: usize,
    /// The first key of each block of pairs.
    fences: Vec<u64>,
}

fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:012}.log"))
}

/// The numbers of the segments in a directory, ascending. Those without an entry are removed.
pub(super) fn used_numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_segment = path.extension().is_some_and(|extension| extension == "log");
        let number: Option<u64> = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        let Some(number) = number.filter(|_| is_segment) else { continue };
        match fs::metadata(&path)?.len() <= SEGMENT_MAGIC.len() as u64 {
            true => fs::remove_file(&path)?,
            false => numbers.push(number),
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

impl OpenSegment {
    pub(super) fn create(directory: &Path, number: u64) -> io::Result<OpenSegment> {
        let path = segment_path(directory, number);
        let mut file = private::options().create_new(true).append(true).open(&path)?;
        file.write_all(SEGMENT_MAGIC)?;
        let (bytes, times) = (SEGMENT_MAGIC.len() as u64, SegmentTimes::default());
        Ok(OpenSegment { number, path, file, bytes, times, pairs: BTreeSet::new() })
    }

    /// Appends entries with one write.
    pub(super) fn append(&mut self, entries: &[HistoryEntry]) -> io::Result<()> {
        let mut written = Vec::new();
        let mut pairs = Vec::new();
        for entry in entries {
            let Some(sealed) = entry.encode() else { continue };
            let offset = self.bytes + written.len() as u64;
            let length: Result<u32, _> = sealed.len().try_into();
            let (Ok(offset), Ok(length)) = (u32::try_from(offset), length) else { continue };
            written.extend_from_slice(&length.to_le_bytes());
            written.extend_from_slice(&sealed);
            pairs.extend(entry.keys().into_iter().map(|key| (key, offset)));
            self.times.note(entry.at_ms());
        }
        self.file.write_all(&written)?;
        self.bytes += written.len() as u64;
        self.pairs.extend(pairs);
        Ok(())
    }

    /// The offsets of some keys, ascending.
    pub(super) fn offsets(&self, keys: &RangeInclusive<u64>) -> Vec<u32> {
        let pairs = self.pairs.range((*keys.start(), 0)..=(*keys.end(), u32::MAX));
        ascending(pairs.map(|(_, offset)| *offset).collect())
    }

    /// Writes the index, after which the segment is complete.
    pub(super) fn seal(self) -> io::Result<SealedSegment> {
        write_index(&self.path, self.times, &self.pairs)?;
        SealedSegment::load(self.path, self.number)
    }
}

impl SealedSegment {
    /// Its file, and that of its index.
    pub(super) fn files(&self) -> [PathBuf; 2] {
        [self.path.clone(), self.path.with_extension("idx")]
    }

    /// Opens a segment of an earlier run. Builds its index if it has none.
    pub(super) fn open(directory: &Path, number: u64) -> io::Result<SealedSegment> {
        let path = segment_path(directory, number);
        if let Ok(loaded) = SealedSegment::load(path.clone(), number) {
            return Ok(loaded);
        }
        let (mut times, mut pairs) = (SegmentTimes::default(), BTreeSet::new());
        for (offset, entry) in scan(&path)? {
            let Some(entry) = HistoryEntry::decode(&entry) else { continue };
            times.note(entry.at_ms());
            pairs.extend(entry.keys().into_iter().map(|key| (key, offset)));
        }
        write_index(&path, times, &pairs)?;
        SealedSegment::load(path, number)
    }

    fn load(path: PathBuf, number: u64) -> io::Result<SealedSegment> {
        let index = fs::read(path.with_extension("idx"))?;
        let damaged = || io::Error::from(io::ErrorKind::InvalidData);
        let (body, crc) = index.split_last_chunk::<4>().ok_or_else(damaged)?;
        let (header, pairs) = body.split_at_checked(HEADER_BYTES).ok_or_else(damaged)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) || !header.starts_with(INDEX_MAGIC) {
            return Err(damaged());
        }
        let times = SegmentTimes { first_ms: number_at(header, 8), last_ms: number_at(header, 16) };
        let fences = pairs.chunks(FENCE * PAIR_BYTES).map(|some| number_at(some, 0)).collect();
        let bytes = fs::metadata(&path)?.len() + index.len() as u64;
        let pair_count = pairs.len() / PAIR_BYTES;
        Ok(SealedSegment { number, path, bytes, times, pair_count, fences })
    }

    /// The offsets of some keys, ascending.
    pub(super) fn offsets(&self, keys: &RangeInclusive<u64>) -> io::Result<Vec<u32>> {
        // The first key may begin in the block before the first fence that is not less.
        let first = self.fences.partition_point(|fence| fence < keys.start()).saturating_sub(1);
        let last = self.fences.partition_point(|fence| fence <= keys.end());
        let pairs = first * FENCE..self.pair_count.min(last * FENCE);
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let mut file = File::open(self.path.with_extension("idx"))?;
        file.seek(SeekFrom::Start((HEADER_BYTES + pairs.start * PAIR_BYTES) as u64))?;
        let mut bytes = vec![0; pairs.len() * PAIR_BYTES];
        file.read_exact(&mut bytes)?;
        let own = bytes.chunks_exact(PAIR_BYTES).filter(|pair| keys.contains(&number_at(pair, 0)));
        let offsets = own.filter_map(|pair| Some(u32::from_le_bytes(*pair.last_chunk::<4>()?)));
        Ok(ascending(offsets.collect()))
    }

    /// Deletes both files.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        fs::remove_file(self.path.with_extension("idx"))
    }
}

/// Those of several keys are in no order.
fn ascending(mut offsets: Vec<u32>) -> Vec<u32> {
    offsets.sort_unstable();
    offsets
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    let read = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>());
    read.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn write_index(path: &Path, times: SegmentTimes, pairs: &BTreeSet<(u64, u32)>) -> io::Result<()> {
    let mut body = Vec::with_capacity(HEADER_BYTES + pairs.len() * PAIR_BYTES + 4);
    body.extend_from_slice(INDEX_MAGIC);
    body.extend_from_slice(&times.first_ms.to_le_bytes());
    body.extend_from_slice(&times.last_ms.to_le_bytes());
    for (key, offset) in pairs {
        body.extend_from_slice(&key.to_le_bytes());
        body.extend_from_slice(&offset.to_le_bytes());
    }
    let crc = crc32fast::hash(&body);
    body.extend_from_slice(&crc.to_le_bytes());
    let mut options = private::options();
    let mut file =
        options.write(true).create(true).truncate(true).open(path.with_extension("idx"))?;
    file.write_all(&body)
}

/// The sealed entries of a segment and their offsets, up to one that is cut off.
fn scan(path: &Path) -> io::Result<Vec<(u32, Vec<u8>)>> {
    let bytes = fs::read(path)?;
    let (mut entries, mut at) = (Vec::new(), SEGMENT_MAGIC.len());
    while let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        let length = u32::from_le_bytes(*length);
        let from = at + 4;
        let Some(sealed) = bytes.get(from..from + length as usize) else { break };
        let Some(offset) = u32::try_from(at).ok().filter(|_| length <= ENTRY_BYTES_MAX) else {
            break;
        };
        entries.push((offset, sealed.to_vec()));
        at = from + sealed.len();
    }
    Ok(entries)
}

/// Reads the entries of one segment.
pub(super) struct SegmentFile(File);

impl SegmentFile {
    pub(super) fn open(directory: &Path, number: u64) -> io::Result<SegmentFile> {
        File::open(segment_path(directory, number)).map(SegmentFile)
    }

    /// For [`erase`](SegmentFile::erase).
    pub(super) fn open_for_change(directory: &Path, number: u64) -> io::Result<SegmentFile> {
        let path = segment_path(directory, number);
        OpenOptions::new().read(true).write(true).open(path).map(SegmentFile)
    }

    /// An entry; `None` if it was erased or cannot be read.
    pub(super) fn entry(&mut self, offset: u32) -> io::Result<Option<HistoryEntry>> {
        Ok(self.sealed(offset)?.and_then(|sealed| HistoryEntry::decode(&sealed)))
    }

    /// Overwrites an entry.
    pub(super) fn erase(&mut self, offset: u32) -> io::Result<()> {
        let Some(sealed) = self.sealed(offset)? else { return Ok(()) };
        self.0.seek(SeekFrom::Start(u64::from(offset) + 4))?;
        self.0.write_all(&erased(sealed.len()))
    }

    /// Makes what was erased durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sealed(&mut self, offset: u32) -> io::Result<Option<Vec<u8>>> {
        self.0.seek(SeekFrom::Start(u64::from(offset)))?;
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > ENTRY_BYTES_MAX {
            return Ok(None);
        }
        let mut sealed = vec![0; length as usize];
        self.0.read_exact(&mut sealed)?;
        Ok(Some(sealed))
    }
}
