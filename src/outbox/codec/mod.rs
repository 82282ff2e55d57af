//! The bytes of a generation: the key of each record and the layout of its value.
//!
//! Nothing here knows when a record is written or what it means for a delivery. Every value is in the
//! envelope of `store::record`. Each layout has a test that pins its bytes: a layout that changes gets a new
//! version number.

pub(super) mod dedup_page;
pub(super) mod heads;
pub(super) mod keys;
pub(super) mod meta;
pub(super) mod payload;
pub(super) mod settles;
pub(super) mod tombstones;

use std::ops::ControlFlow;

use crate::error::{Error, Result};
use crate::store::record;
use crate::store::{Database, StoreFailure, Visit};

/// The version of settle pages, tombstone pages, retry states, dead letters, revivals, failed attempts and lane
/// health.
pub(super) const VERSION: u8 = 1;

/// Encodes a record that is one bincode value.
pub(super) fn encoded<T: serde::Serialize>(what: &str, value: &T) -> Result<Vec<u8>> {
    record::encode(VERSION, value).map_err(|why| damaged(what, why))
}

pub(super) fn decoded<T: serde::de::DeserializeOwned>(
    sealed: &[u8],
    what: impl Fn() -> String,
) -> Result<T> {
    record::decode(VERSION, sealed).map_err(|why| damaged(what(), why))
}

/// Calls `visit` with each record of a kind, in key order. The first error ends the scan.
pub(super) fn scan(
    database: &dyn Database,
    kind: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let mut outcome = Ok(());
    let visit: &mut Visit<'_> = &mut |key, value| match visit(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            outcome = Err(error);
            ControlFlow::Break(())
        }
    };
    database.scan(kind, b"", visit).map_err(scan_failed)?;
    outcome
}

/// How many head pages and settle pages a generation has.
pub(super) fn count_pages(database: &dyn Database) -> Result<u64> {
    let mut pages = 0;
    for kind in [keys::HEADS, keys::SETTLED] {
        scan(database, kind, |_, _| {
            pages += 1;
            Ok(())
        })?;
    }
    Ok(pages)
}

pub(super) fn damaged(record: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Damaged { record: record.into(), why: why.into() }
}

pub(super) fn scan_failed(failure: StoreFailure) -> Error {
    Error::store("reading a generation", failure)
}
