//! Reads a whole page of heads: whom its events belong to, and their keys.

use crate::error::Result;
use crate::event::WabaNumber;
use crate::store::Database;

use super::{HeadV1, page_around};

/// Whom an event belongs to, and what lists show of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeadOwner {
    pub(crate) account: String,
    pub(crate) event_type: String,
    pub(crate) number: Option<WabaNumber>,
    pub(crate) key_hash: u64,
    pub(crate) accepted_at_ms: u64,
}

/// The sequence and the owner of every event in the page that would contain `sequence`.
pub(crate) fn owners(database: &dyn Database, sequence: u64) -> Result<Vec<(u64, HeadOwner)>> {
    let Some(page) = page_around(database, sequence)? else { return Ok(Vec::new()) };
    let owner = |head: &HeadV1| {
        let owner = HeadOwner {
            account: page.texts.get(usize::from(head.account))?.clone(),
            event_type: page.texts.get(usize::from(head.event_type))?.clone(),
            number: WabaNumber::from_digits(head.number),
            key_hash: head.key_hash,
            accepted_at_ms: page.accepted_at_ms + head.accepted_ms,
        };
        Some((page.sequence_of(head), owner))
    };
    Ok(page.heads.iter().filter_map(owner).collect())
}
