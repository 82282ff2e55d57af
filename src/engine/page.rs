//! One page of a listing.

use crate::history::PAGE_PAYLOAD_BYTES_MAX;

/// How many items are read for one page, so that a filter that few match does not read all of them.
pub(super) const READ_FOR_PAGE_MAX: usize = 2_000;

/// What was read for a page so far.
#[derive(Debug, Default)]
pub(super) struct PageReads {
    items: usize,
    payload_bytes: usize,
}

impl PageReads {
    pub(super) fn add_items(&mut self, count: usize) {
        self.items += count;
    }

    pub(super) fn add_payload(&mut self, bytes: usize) {
        self.payload_bytes += bytes;
    }

    /// Whether the page must end, whatever it has.
    pub(super) fn is_full(&self) -> bool {
        self.items >= READ_FOR_PAGE_MAX || self.payload_bytes >= PAGE_PAYLOAD_BYTES_MAX
    }
}

/// One page of a listing. Pass `next` to the same call to get the following page.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<T, C> {
    /// The items of the page.
    pub items: Vec<T>,
    /// The cursor of the next page; `None` after the last page.
    pub next: Option<C>,
}
