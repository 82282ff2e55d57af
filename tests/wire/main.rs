//! The whole transport over real sockets, with receivers as they exist in practice. No test sleeps:
//! every wait is for a signal and has a deadline.
mod answers;
#[cfg(feature = "tls")]
#[path = "../support/authority.rs"]
mod authority;
mod client;
mod connections;
mod cuts;
mod deadlines;
mod early;
mod guard;
mod io_threads;
mod nginx;
mod proxy;
mod store_panics;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
#[path = "../support/tls_receiver.rs"]
mod tls_receiver;
mod unsolicited;
