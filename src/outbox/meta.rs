//! Decides what a generation says about itself and about the one before it.
//!
//! Leaves to others: reading and writing it (`recovery`, `group`). Invariant: a generation that was
//! sealed is complete if and only if it has as many pages as its successor says, so that pages
//! which the database loses without a word are missed.
//!
//! Layout: the envelope of `store::record`, version 1, then [`Meta`] in bincode 1.3.3 with
//! variable-length integers, under the key `m`.

use serde::{Deserialize, Serialize};

use super::keys;
use crate::error::{Error, Result};
use crate::store::{Operation, record};

const VERSION: u8 = 1;

/// What a generation says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    /// The incarnations of the outbox up to now.
    pub(super) incarnations: Incarnations,
    /// Sequences up to this one may have been given.
    pub(super) reserved: u64,
    /// The first sequence that could be given in it.
    pub(super) first_sequence: u64,
    /// The generation before it, as it was when it was sealed.
    pub(super) previous: Option<Sealed>,
}

/// What a sealed generation must still hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sealed {
    pub(super) number: u64,
    /// Head pages and settle pages.
    pub(super) pages: u64,
}

/// The incarnations of an outbox: the first sequence of each, and its random name. A new one
/// begins when a part of the outbox was set aside, so that no id is given twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Incarnations(Vec<(u64, u64)>);

impl Incarnations {
    /// Begins another one; the first begins at sequence 0.
    pub(super) fn begin(&mut self, first_sequence: u64, name: u64) {
        self.0.push((first_sequence, name));
    }

    /// The incarnation in which a sequence was given.
    pub(super) fn of(&self, sequence: u64) -> u64 {
        let begun = self.0.iter().rev().find(|(first, _)| *first <= sequence);
        begun.map_or(0, |(_, name)| *name)
    }
}

impl Meta {
    pub(super) fn write(&self) -> Result<Operation> {
        let sealed = record::encode(VERSION, self).map_err(damaged)?;
        Ok(Operation::Put(keys::META.to_vec(), sealed))
    }

    pub(super) fn read(sealed: &[u8]) -> Result<Meta> {
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
    fn it_reads_back_and_its_bytes_are_frozen() {
        let mut incarnations = Incarnations::default();
        incarnations.begin(0, 7);
        incarnations.begin(200, 9);
        assert_eq!([incarnations.of(0), incarnations.of(199), incarnations.of(200)], [7, 7, 9]);
        let meta = Meta {
            incarnations,
            reserved: 65_536,
            first_sequence: 300,
            previous: Some(Sealed { number: 1, pages: 2 }),
        };
        let Operation::Put(key, value) = meta.write().unwrap() else { panic!("a write") };
        assert_eq!(key, b"m");
        assert_eq!(Meta::read(&value).unwrap(), meta);
        assert_eq!(value[5..], [2, 0, 7, 200, 9, 252, 0, 0, 1, 0, 251, 44, 1, 1, 1, 2]);
        assert!(Meta::read(&value[..9]).is_err());
    }
}
