//! Finds the subscriptions that an event is owed to. Whether the publisher may use the number is checked
//! before, by `account`. A match is a function of the index and the event alone (I6).

mod conditions;
#[cfg(any(test, feature = "testing"))]
mod door;
mod index;
mod interner;
mod match_cache;
mod posting_lists;
mod precedence;

pub(crate) use conditions::{ConditionMatch, FilterMatch};
#[cfg(any(test, feature = "testing"))]
pub use door::Matching;
pub(crate) use index::{Index, MatchQuery};
