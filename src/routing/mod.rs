//! Decides which subscriptions asked for an event.
//!
//! Leaves to others: whether the publisher may use the number (`account`), and what a match costs
//! the device (`outbox`). Invariant (I6): a match is a function of the index and the event alone.

mod answers;
mod door;
mod index;
mod lists;
mod names;
mod precedence;

pub use door::Matching;
pub(crate) use index::{Index, Sought};
