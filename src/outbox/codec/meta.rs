//! The meta record: what a generation says about itself and about the generation before it. A sealed
//! generation is complete if it has as many pages as its successor says, so pages that the database loses
//! silently are noticed.
//!
//! Layout: the envelope of `store::record`, version 1, then [`GenerationMeta`] in bincode 1.3.3 with
//! variable-length integers, under the key `m`.

use serde::{Deserialize, Serialize};

use super::keys;
use crate::error::{Error, Result};
use crate::store::{Operation, record};

const VERSION: u8 = 1;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GenerationMeta {
    pub(crate) incarnations: Incarnations,
    /// Sequences up to this one may have been assigned.
    pub(crate) reserved: u64,
    /// The first sequence that could be assigned in this generation.
    pub(crate) first_sequence: u64,
    /// The generation before this one, as it was when it was sealed.
    pub(crate) previous: Option<SealedGeneration>,
}

/// What a sealed generation must still contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SealedGeneration {
    pub(crate) number: u64,
    /// Head pages and settle pages.
    pub(crate) pages: u64,
}

/// The incarnations of an outbox: the first sequence and the random name of each. A new one begins when
/// a part of the outbox was set aside, so that no event id is used twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Incarnations(Vec<(u64, u64)>);

impl Incarnations {
    /// Begins another incarnation; the first begins at sequence 0.
    pub(crate) fn begin(&mut self, first_sequence: u64, name: u64) {
        self.0.push((first_sequence, name));
    }

    /// The incarnation in which a sequence was assigned.
    pub(crate) fn of(&self, sequence: u64) -> u64 {
        let begun = self.0.iter().rev().find(|(first, _)| *first <= sequence);
        begun.map_or(0, |(_, name)| *name)
    }
}

impl GenerationMeta {
    /// That of a new outbox, before its first incarnation.
    pub(crate) fn first() -> GenerationMeta {
        GenerationMeta { first_sequence: 1, ..GenerationMeta::default() }
    }

    pub(crate) fn write(&self) -> Result<Operation> {
        let sealed = record::encode(VERSION, self).map_err(damaged)?;
        Ok(Operation::Put(keys::META.to_vec(), sealed))
    }

    pub(crate) fn read(sealed: &[u8]) -> Result<GenerationMeta> {
        record::decode(VERSION, sealed).map_err(damaged)
    }
}

fn damaged(why: String) -> Error {
    Error::Damaged { record: "meta record".to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_its_bytes_are_pinned() {
        let mut incarnations = Incarnations::default();
        incarnations.begin(0, 7);
        incarnations.begin(200, 9);
        assert_eq!([incarnations.of(0), incarnations.of(199), incarnations.of(200)], [7, 7, 9]);
        let meta = GenerationMeta {
            incarnations,
            reserved: 65_536,
            first_sequence: 300,
            previous: Some(SealedGeneration { number: 1, pages: 2 }),
        };
        let Operation::Put(key, value) = meta.write().unwrap() else { panic!("a write") };
        assert_eq!(key, b"m");
        assert_eq!(GenerationMeta::read(&value).unwrap(), meta);
        assert_eq!(value[5..], [2, 0, 7, 200, 9, 252, 0, 0, 1, 0, 251, 44, 1, 1, 1, 2]);
        assert!(GenerationMeta::read(&value[..9]).is_err());
    }
}
