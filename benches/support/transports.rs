//! Receivers without a network, for what is measured before the wire. They keep nothing of a request,
//! so that they cost next to nothing.

use parking_lot::{Condvar, Mutex};
use wabahook::{Failure, Reply, Request, Transport};

/// Replies by a function of the request.
pub(crate) struct Replying<F>(pub(crate) F);

impl<F: Fn(&Request<'_>) -> Reply + Send + Sync + 'static> Transport for Replying<F> {
    fn send(&self, request: &Request<'_>) -> Reply {
        (self.0)(request)
    }

    fn interrupt(&self) {}
}

/// Acknowledges everything at once.
pub(crate) fn acknowledging() -> impl Transport {
    Replying(|_: &Request<'_>| Reply::status(200))
}

/// Does not answer until it is interrupted.
#[derive(Default)]
pub(crate) struct Hanging {
    interrupted: Mutex<bool>,
    woken: Condvar,
}

impl Transport for Hanging {
    fn send(&self, _: &Request<'_>) -> Reply {
        let mut interrupted = self.interrupted.lock();
        self.woken.wait_while(&mut interrupted, |interrupted| !*interrupted);
        Reply::Failed(Failure::Interrupted)
    }

    fn interrupt(&self) {
        *self.interrupted.lock() = true;
        self.woken.notify_all();
    }
}
