//! Decides how one attempt is made: the exact request, the address it may go to, the exchange.
//!
//! Leaves to others: which attempt is next and what its reply means (`dispatch`). Invariant: what
//! is sent is a function of the event, the subscription, the attempt's number and its time.

mod guard;
mod pool;
mod request;
mod resolver;
mod transport;
mod worker;

pub(crate) use guard::Guard;
pub(crate) use request::Template;
pub(crate) use transport::Http;
pub use transport::{Request, Transport};
pub(crate) use worker::{Crew, Source, unwound};

#[cfg(test)]
mod wire_tests;
