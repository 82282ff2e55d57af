//! One attempt on the wire: the exact request, the address it may go to, the exchange.
//!
//! `request` builds what is sent, a function of the event, the subscription, the attempt's number and its time; `guard`
//! decides which addresses may be reached; `http1` is the protocol over buffers; and the threads of `io_loop` carry
//! thousands of attempts at once. Start with `request`, then `io_loop/exchange`. Which attempt is next and what its
//! reply means is decided by `dispatch`.

mod attempt_source;
mod content;
mod form;
mod guard;
mod http1;
mod http_transport;
mod io_loop;
mod name_lookup;
#[cfg(not(feature = "tls"))]
mod plain;
mod proxy_transport;
mod query;
mod request;
mod response_headers;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_session;

#[cfg(not(feature = "tls"))]
use plain as tls;

pub(crate) use attempt_source::{
    AttemptSource, AttemptToken, Demand, EndedAttempt, LoopId, NextAttempt, WakeLoop,
    destination_number,
};
pub(crate) use guard::Guard;
pub use http_transport::Http;
pub(crate) use http1::OutgoingRequest;
#[cfg(any(test, feature = "testing"))]
pub use http1::check_response;
#[cfg(any(test, feature = "testing"))]
pub use io_loop::check_exchange;
pub(crate) use proxy_transport::ProxyTransport;
pub(crate) use request::Template;
#[cfg(any(test, feature = "testing"))]
pub(crate) use response_headers::retry_after_ms;
