//! Decides how payloads are packed into pages, and where each is found again.
//!
//! Leaves to others: what the bytes are, and when they are durable. Invariant: pages are written
//! once and never changed, and a [`Location`] reads back exactly the bytes that were appended.
//!
//! The payloads of a group form one stream of bytes, cut into pages of [`PAGE_BYTES`]. A page holds
//! several payloads or a part of one. Layout of a page: the envelope of `store::record`, version 1,
//! then bytes of the stream.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::record::{ENVELOPE_BYTES, seal, unseal};
use crate::store::{Database, Pair, VALUE_BYTES_MAX};

use super::keys;

/// How many bytes of the stream one page holds.
pub(super) const PAGE_BYTES: usize = VALUE_BYTES_MAX - ENVELOPE_BYTES;

const VERSION: u8 = 1;

/// Where bytes lie: from `offset` in page `page`, on through the pages that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Location {
    pub(super) page: u64,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// Packs the payloads of one group.
#[derive(Debug)]
pub(super) struct Stream {
    first_page: u64,
    bytes: Vec<u8>,
}

impl Stream {
    /// Starts at a page number that was never used.
    pub(super) fn new(first_page: u64) -> Stream {
        Stream { first_page, bytes: Vec::new() }
    }

    /// Appends bytes and says where they will lie. Lengths are bounded by the limits on payloads.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Location {
        let place = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Location {
            page: self.first_page + (place / PAGE_BYTES) as u64,
            offset: narrow(place % PAGE_BYTES),
            length: narrow(bytes.len()),
        }
    }

    /// The pages with their keys, and the number of the page after them.
    pub(super) fn into_pages(self) -> (Vec<Pair>, u64) {
        let pages: Vec<_> = (self.first_page..)
            .zip(self.bytes.chunks(PAGE_BYTES))
            .map(|(number, bytes)| (keys::numbered(keys::PAYLOAD, number), seal(VERSION, bytes)))
            .collect();
        let next = self.first_page + pages.len() as u64;
        (pages, next)
    }
}

/// Reads the bytes at a location.
pub(super) fn read(database: &dyn Database, location: Location) -> Result<Vec<u8>> {
    let length = location.length as usize;
    let mut bytes = Vec::with_capacity(length);
    let mut offset = location.offset as usize;
    let mut number = location.page;
    while bytes.len() < length {
        let damaged =
            |why: String| Error::Damaged { record: format!("payload page {number}"), why };
        let sealed = database
            .get(&keys::numbered(keys::PAYLOAD, number))
            .map_err(|failure| Error::store("reading a payload page", failure))?
            .ok_or_else(|| damaged("it is missing".to_owned()))?;
        let (version, body) = unseal(&sealed).map_err(damaged)?;
        if version != VERSION {
            return Err(damaged(format!("it has version {version}, this build reads {VERSION}")));
        }
        let end = body.len().min(offset + length - bytes.len());
        let part = body.get(offset..end).filter(|part| !part.is_empty());
        bytes.extend_from_slice(part.ok_or_else(|| damaged("it is too short".to_owned()))?);
        offset = 0;
        number += 1;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, Memory, Store};
    use std::sync::Arc;

    fn stored(payloads: &[Vec<u8>]) -> (Arc<dyn Database>, Vec<Location>) {
        let database = Memory::default().open("one").unwrap();
        let mut stream = Stream::new(40);
        let locations = payloads.iter().map(|payload| stream.append(payload)).collect();
        for (key, page) in stream.into_pages().0 {
            let mut batch = Batch::default();
            batch.put(key, page);
            database.apply(batch).unwrap();
        }
        (database, locations)
    }

    #[test]
    fn payloads_of_every_length_read_back_byte_for_byte() {
        let lengths = [0, 1, PAGE_BYTES - 2, PAGE_BYTES, PAGE_BYTES + 1, 100, 5 * PAGE_BYTES, 1];
        let payloads: Vec<Vec<u8>> = lengths
            .iter()
            .enumerate()
            .map(|(n, length)| (0..*length).map(|i| (i * 7 + n * 13).to_le_bytes()[0]).collect())
            .collect();
        let (database, locations) = stored(&payloads);
        for (payload, location) in payloads.iter().zip(locations) {
            assert_eq!(&read(&*database, location).unwrap(), payload);
        }
    }

    #[test]
    fn a_missing_or_damaged_page_is_named_and_its_neighbour_still_reads() {
        let (database, locations) = stored(&[vec![1; PAGE_BYTES], vec![2; PAGE_BYTES]]);
        let mut batch = Batch::default();
        batch.put(keys::numbered(keys::PAYLOAD, 41), vec![1, 2, 3, 4, 5, 6]);
        database.apply(batch).unwrap();
        let error = read(&*database, locations[1]).unwrap_err().to_string();
        assert!(error.contains("payload page 41"), "{error}");
        assert_eq!(read(&*database, locations[0]).unwrap(), vec![1; PAGE_BYTES]);
    }

    #[test]
    fn the_bytes_of_a_page_are_frozen() {
        let mut stream = Stream::new(1);
        stream.append(b"golden");
        let (pages, next) = stream.into_pages();
        assert_eq!(next, 2);
        let golden = b"\x01\x4e\xf3\x26\xb9golden";
        assert_eq!(pages, [(b"p\0\0\0\0\0\0\0\x01".to_vec(), golden.to_vec())]);
    }
}
