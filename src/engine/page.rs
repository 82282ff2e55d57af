//! One page of a listing.

/// How many items are read for one page, so that a filter that few match does not read all of them.
pub(super) const READ_FOR_PAGE_MAX: usize = 2_000;

/// One page of a listing. Pass `next` to the same call to get the following page.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<T, C> {
    /// The items of the page.
    pub items: Vec<T>,
    /// The cursor of the next page; `None` after the last page.
    pub next: Option<C>,
}
