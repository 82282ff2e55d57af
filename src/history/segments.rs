//! The segments of a history, oldest first, and the look-ups over all of them. A reader holds their lock for the
//! index of the open segment only, and never over a read of a file.

use std::collections::VecDeque;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::entry::{self, AcceptedEntry, HistoryEntry};
use super::query::HistoryQuery;
use super::segment::{self, EntryPosition, OpenSegment, SealedSegment, SegmentFile};
use crate::event::EventId;
use crate::store::private;

/// The size at which a segment is completed and the next one begins.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// The history is kept within its bounds by removing whole segments, of which it has about this many.
const SEGMENTS: u64 = 16;

/// How many bytes of payloads are read for one page of a search, so that a page of large events takes a bounded part of
/// the memory. The last event may go over it.
pub(crate) const PAGE_PAYLOAD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What is kept at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HistoryBounds {
    pub(crate) bytes_max: u64,
    pub(crate) age_max_ms: u64,
}

#[derive(Debug)]
pub(super) struct Segments {
    directory: PathBuf,
    bounds: HistoryBounds,
    kept: Mutex<KeptSegments>,
}

#[derive(Debug)]
struct KeptSegments {
    sealed: VecDeque<Arc<SealedSegment>>,
    open: OpenSegment,
}

pub(crate) struct FoundEntries {
    pub(crate) entries: Vec<(EntryPosition, AcceptedEntry)>,
    /// Where the search goes on.
    pub(crate) next: Option<EntryPosition>,
}

impl KeptSegments {
    /// Completes the open segment and begins the next one.
    fn seal(&mut self, directory: &Path) -> io::Result<()> {
        let next = OpenSegment::create(directory, self.open.number + 1)?;
        let full = std::mem::replace(&mut self.open, next).seal()?;
        self.sealed.push_back(Arc::new(full));
        Ok(())
    }
}

impl Segments {
    /// Opens the history in a directory, which is created if it is missing. A segment that cannot be read is
    /// left out.
    pub(super) fn open(directory: &Path, bounds: HistoryBounds) -> io::Result<Segments> {
        private::create_directories(directory)?;
        let numbers = segment::used_numbers(directory)?;
        let next = numbers.last().map_or(1, |last| last + 1);
        let read = numbers.iter().filter_map(|number| SealedSegment::open(directory, *number).ok());
        let sealed = read.map(Arc::new).collect();
        let open = OpenSegment::create(directory, next)?;
        let kept = Mutex::new(KeptSegments { sealed, open });
        Ok(Segments { directory: directory.to_owned(), bounds, kept })
    }

    /// Appends entries, and ends what is over the bounds.
    pub(super) fn append(&self, entries: &[HistoryEntry], wall_ms: u64) -> io::Result<()> {
        self.kept.lock().open.append(entries)?;
        self.trim(wall_ms)
    }

    /// Completes the open segment where it is large or old enough, and removes the oldest segments that are over
    /// the bounds. A file that cannot be removed is found at the next open.
    pub(super) fn trim(&self, wall_ms: u64) -> io::Result<()> {
        let HistoryBounds { bytes_max, age_max_ms } = self.bounds;
        let mut kept = self.kept.lock();
        let first_ms = kept.open.times.first_ms;
        let is_old = first_ms != 0 && wall_ms.saturating_sub(first_ms) > age_max_ms / SEGMENTS;
        if kept.open.bytes >= SEGMENT_BYTES.min(bytes_max / SEGMENTS) || is_old {
            kept.seal(&self.directory)?;
        }
        let oldest_ms = wall_ms.saturating_sub(age_max_ms);
        let mut bytes = kept.open.bytes + kept.sealed.iter().map(|one| one.bytes).sum::<u64>();
        while let Some(oldest) = kept.sealed.front()
            && (bytes > bytes_max || oldest.times.last_ms < oldest_ms)
        {
            bytes -= oldest.bytes;
            let _ = oldest.remove();
            kept.sealed.pop_front();
        }
        Ok(())
    }

    /// Completes the open segment, unless it is empty. Returns the files of all segments, the oldest first.
    pub(super) fn seal(&self) -> io::Result<Vec<PathBuf>> {
        let mut kept = self.kept.lock();
        if kept.open.times.first_ms != 0 {
            kept.seal(&self.directory)?;
        }
        Ok(kept.sealed.iter().flat_map(|sealed| sealed.files()).collect())
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The bytes on the device.
    pub(super) fn bytes(&self) -> u64 {
        let kept = self.kept.lock();
        kept.open.bytes + kept.sealed.iter().map(|one| one.bytes).sum::<u64>()
    }

    /// Everything that is kept of an event, oldest first.
    pub(super) fn entries_of(&self, event: EventId) -> io::Result<Vec<HistoryEntry>> {
        let mut entries = Vec::new();
        for place in self.places_of_event(event)?.into_iter().rev() {
            entries.extend(self.read(place, |entry| entry.event() == event)?);
        }
        Ok(entries)
    }

    /// Whether an event is kept as it was accepted at this time. Reads no entry.
    pub(super) fn has_accepted(&self, event: EventId, accepted_at_ms: u64) -> io::Result<bool> {
        let key = entry::accepted_key(event);
        let key = key..=key;
        let kept = self.kept.lock();
        let is_open = !kept.open.offsets(&key).is_empty();
        let of_then = |one: &&Arc<SealedSegment>| {
            (one.times.first_ms..=one.times.last_ms).contains(&accepted_at_ms)
        };
        let sealed: Vec<_> = kept.sealed.iter().filter(of_then).map(Arc::clone).collect();
        drop(kept);
        if is_open {
            return Ok(true);
        }
        for one in sealed {
            if !opened(one.offsets(&key))?.unwrap_or_default().is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The accepted events that match, newest first, from before a position on. Reads at most `read_max` entries, and
    /// returns about `PAGE_PAYLOAD_BYTES_MAX` of payloads.
    pub(super) fn find(
        &self,
        query: &HistoryQuery,
        before: Option<EntryPosition>,
        count_max: usize,
        read_max: usize,
    ) -> io::Result<FoundEntries> {
        let (mut entries, mut read, mut payload_bytes) = (Vec::new(), 0, 0);
        for SegmentPlaces { number, offsets } in self.places(&query.keys(), query.since_ms())? {
            // A segment that is over the bounds may have been removed meanwhile.
            let Some(mut file) = opened(SegmentFile::open(&self.directory, number))? else {
                continue;
            };
            for offset in offsets.into_iter().rev() {
                let position = EntryPosition { segment: number, offset };
                if before.is_some_and(|before| position >= before) {
                    continue;
                }
                if entries.len() >= count_max
                    || read >= read_max
                    || payload_bytes >= PAGE_PAYLOAD_BYTES_MAX
                {
                    // Positions are passed from the newest on, so this one is still to be read.
                    let next = EntryPosition { offset: offset + 1, ..position };
                    return Ok(FoundEntries { entries, next: Some(next) });
                }
                read += 1;
                if let Some(HistoryEntry::Accepted(accepted)) = file.entry(offset)?
                    && query.admits(&accepted)
                {
                    payload_bytes += accepted.payload.len();
                    entries.push((position, accepted));
                }
            }
        }
        Ok(FoundEntries { entries, next: None })
    }

    /// Erases everything of the events that match. Returns how many events.
    pub(super) fn purge(&self, query: &HistoryQuery) -> io::Result<u64> {
        let (mut before, mut purged) = (None, 0);
        loop {
            let found = self.find(query, before, usize::MAX, 10_000)?;
            for (_, accepted) in &found.entries {
                purged += 1;
                for place in self.places_of_event(accepted.id())? {
                    self.erase(place, accepted.id())?;
                }
            }
            match found.next {
                Some(next) => before = Some(next),
                None => return Ok(purged),
            }
        }
    }

    fn erase(&self, place: SegmentPlaces, event: EventId) -> io::Result<()> {
        let file = opened(SegmentFile::open_for_change(&self.directory, place.number))?;
        let Some(mut file) = file else { return Ok(()) };
        for offset in place.offsets {
            if file.entry(offset)?.is_some_and(|entry| entry.event() == event) {
                file.erase(offset)?;
            }
        }
        file.sync()
    }

    fn places_of_event(&self, event: EventId) -> io::Result<Vec<SegmentPlaces>> {
        let key = entry::event_key(event);
        self.places(&(key..=key), 0)
    }

    /// Where some keys occur, newest segment first, in segments with entries since a time.
    fn places(&self, keys: &RangeInclusive<u64>, since_ms: u64) -> io::Result<Vec<SegmentPlaces>> {
        let kept = self.kept.lock();
        let open = SegmentPlaces { number: kept.open.number, offsets: kept.open.offsets(keys) };
        let sealed: Vec<_> = kept.sealed.iter().rev().map(Arc::clone).collect();
        drop(kept);
        let mut places = vec![open];
        for one in sealed.iter().filter(|one| one.times.last_ms >= since_ms) {
            let offsets = opened(one.offsets(keys))?.unwrap_or_default();
            places.push(SegmentPlaces { number: one.number, offsets });
        }
        places.retain(|place| !place.offsets.is_empty());
        Ok(places)
    }

    fn read(
        &self,
        place: SegmentPlaces,
        is_meant: impl Fn(&HistoryEntry) -> bool,
    ) -> io::Result<Vec<HistoryEntry>> {
        let file = opened(SegmentFile::open(&self.directory, place.number))?;
        let Some(mut file) = file else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        for offset in place.offsets {
            entries.extend(file.entry(offset)?.filter(&is_meant));
        }
        Ok(entries)
    }
}

/// The offsets of a key in a segment, ascending.
struct SegmentPlaces {
    number: u64,
    offsets: Vec<u32>,
}

/// `None` for a file that was removed.
fn opened<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}
