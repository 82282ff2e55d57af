//! Payload pages. The payloads of a group form one stream of bytes that is cut into pages of
//! [`PAGE_BYTES`], so a page holds several payloads or a part of one. Pages are written once and never
//! changed, and a [`PayloadLocation`] reads back exactly the bytes that were appended.
//!
//! Layout of a page: the envelope of `store::record`, version 1, then bytes of the stream.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::record::{ENVELOPE_BYTES, put_envelope, unseal};
use crate::store::{Database, KeyValue, VALUE_BYTES_MAX};

use super::keys;

pub(crate) const PAGE_BYTES: usize = VALUE_BYTES_MAX - ENVELOPE_BYTES;

const VERSION: u8 = 1;

/// Bytes that start at `offset` in page `page` and may continue in the pages after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PayloadLocation {
    pub(crate) page: u64,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

impl PayloadLocation {
    pub(crate) fn last_page(&self) -> u64 {
        let end = u64::from(self.offset) + u64::from(self.length);
        self.page + end.saturating_sub(1) / PAGE_BYTES as u64
    }
}

/// Packs the payloads of one group into pages.
#[derive(Debug)]
pub(crate) struct PayloadWriter {
    first_page: u64,
    /// Each begins with room for its envelope, and all but the last are full.
    pages: Vec<Vec<u8>>,
}

impl PayloadWriter {
    /// Starts at a page number that was never used before.
    pub(crate) fn new(first_page: u64) -> PayloadWriter {
        PayloadWriter { first_page, pages: Vec::new() }
    }

    /// Appends bytes and returns their location. The limit on payloads bounds the length.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> PayloadLocation {
        let (page, offset) = match self.pages.last().filter(|_| self.room() > 0) {
            Some(last) => (self.pages.len() - 1, last.len() - ENVELOPE_BYTES),
            None => (self.pages.len(), 0),
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.room() == 0 {
                let mut page = Vec::with_capacity(VALUE_BYTES_MAX);
                page.resize(ENVELOPE_BYTES, 0);
                self.pages.push(page);
            }
            let (part, after) = rest.split_at(rest.len().min(self.room()));
            if let Some(page) = self.pages.last_mut() {
                page.extend_from_slice(part);
            }
            rest = after;
        }
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        PayloadLocation {
            page: self.first_page + page as u64,
            offset: narrow(offset),
            length: narrow(bytes.len()),
        }
    }

    /// How many bytes the last page still takes.
    fn room(&self) -> usize {
        self.pages.last().map_or(0, |page| VALUE_BYTES_MAX - page.len())
    }

    /// The pages with their keys, and the next unused page number.
    pub(crate) fn into_pages(self) -> (Vec<KeyValue>, u64) {
        let next = self.first_page + self.pages.len() as u64;
        let sealed = self.pages.into_iter().map(|mut page| {
            put_envelope(VERSION, &mut page);
            page.shrink_to_fit();
            page
        });
        let numbers = (self.first_page..).map(|number| keys::numbered(keys::PAYLOAD, number));
        (numbers.zip(sealed).collect(), next)
    }
}

pub(crate) fn read(database: &dyn Database, location: PayloadLocation) -> Result<Vec<u8>> {
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

    fn stored(payloads: &[Vec<u8>]) -> (Arc<dyn Database>, Vec<PayloadLocation>) {
        let database = Memory::default().open("one").unwrap();
        let mut stream = PayloadWriter::new(40);
        let locations = payloads.iter().map(|payload| stream.append(payload)).collect();
        for (key, page) in stream.into_pages().0 {
            let mut batch = Batch::default();
            batch.put(key, page);
            database.write(vec![batch]).unwrap();
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
    fn a_damaged_page_is_named_and_its_neighbor_still_reads() {
        let (database, locations) = stored(&[vec![1; PAGE_BYTES], vec![2; PAGE_BYTES]]);
        let mut batch = Batch::default();
        batch.put(keys::numbered(keys::PAYLOAD, 41), vec![1, 2, 3, 4, 5, 6]);
        database.write(vec![batch]).unwrap();
        let error = read(&*database, locations[1]).unwrap_err().to_string();
        assert!(error.contains("payload page 41"), "{error}");
        assert_eq!(read(&*database, locations[0]).unwrap(), vec![1; PAGE_BYTES]);
    }

    #[test]
    fn the_bytes_of_a_page_are_pinned() {
        let mut stream = PayloadWriter::new(1);
        stream.append(b"golden");
        let (pages, next) = stream.into_pages();
        assert_eq!(next, 2);
        let golden = b"\x01\x4e\xf3\x26\xb9golden";
        assert_eq!(pages, [(b"p\0\0\0\0\0\0\0\x01".to_vec(), golden.to_vec())]);
    }
}
