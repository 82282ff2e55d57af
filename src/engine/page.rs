//! One page of a listing.

/// One page of a listing. Pass `next` to the same call to get the following page.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<T, C> {
    /// The items of the page.
    pub items: Vec<T>,
    /// The cursor of the next page; `None` after the last page.
    pub next: Option<C>,
}

impl<T, C> Page<T, C> {
    pub(super) fn new(items: Vec<T>, next: Option<C>) -> Page<T, C> {
        Page { items, next }
    }
}
