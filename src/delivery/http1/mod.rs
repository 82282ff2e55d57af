//! HTTP/1.1 as a client speaks it, over bytes and without I/O: what a request looks like, how a response is
//! read, and whether the connection may carry another request afterwards.
//!
//! Everything here is a function of the bytes: how they were cut into pieces on the way changes nothing.

mod chunked;
mod request;
mod response;

pub(crate) use request::OutgoingRequest;
pub(crate) use response::{Progress, ResponseReader, Reuse};
