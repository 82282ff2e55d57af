//! Finds the subscriptions that an event is owed to. Whether the publisher may use the number is checked
//! before, by `account`. A match is a function of the index and the event alone (I6).
//!
//! Start with `index`. It reads the `posting_lists` of a number; `conditions` and `precedence` then remove subscriptions
//! from the match.

#[cfg(any(test, feature = "testing"))]
mod bench_access;
mod conditions;
mod index;
mod interner;
mod match_cache;
mod posting_lists;
mod precedence;

#[cfg(any(test, feature = "testing"))]
pub use bench_access::Matching;
pub(crate) use conditions::{ConditionMatch, FilterMatch};
pub(crate) use index::{Index, MatchQuery};
