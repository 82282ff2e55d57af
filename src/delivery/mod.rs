//! Decides how one attempt is made: the exact request, the address it may go to, the exchange.
//!
//! Leaves to others: which attempt is next and what its reply means (`dispatch`). Invariant: what
//! is sent is a function of the event, the subscription, the attempt's number and its time.

mod connection;
mod content;
mod dialer;
mod exchange;
mod form;
mod guard;
#[cfg(not(feature = "tls"))]
mod plain;
mod pool;
mod query;
mod request;
mod resolver;
mod shortcut;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod worker;

#[cfg(not(feature = "tls"))]
use plain as tls;

pub(crate) use guard::Guard;
pub(crate) use request::Template;
pub(crate) use transport::retry_after_ms;
pub use transport::{Http, Request, Transport};
pub(crate) use worker::{Crew, Source, unwound};
