//! Decides what a gateway's API is called with, whatever server it came through.
//!
//! Leaves to others: what is answered. Invariant (I9): a key is looked up in constant time and never
//! shown.

use http::{HeaderMap, Method};

use crate::account::Account;
use crate::engine::Engine;

/// One call of a gateway's API.
pub(super) struct Call<'a> {
    pub(super) engine: &'a Engine,
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

impl<'a> Call<'a> {
    /// The account whose key a header shows, with or without `Bearer` in front.
    pub(super) fn account(&self, header: &str) -> Option<&'a Account> {
        let value = self.headers.get(header)?.as_bytes();
        self.engine.accounts().authenticate_header(value)
    }
}
