//! Receivers without a network, for what is measured before the wire. They keep nothing of a request.

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

/// Acknowledges everything at once, on the thread that begins the attempt. A blocking transport would add a change of
/// threads to most attempts, which the built-in one does not.
pub(crate) struct Acknowledging;

impl Transport for Acknowledging {
    fn send(&self, _: &Request<'_>) -> Reply {
        Reply::status(200)
    }

    fn answers_later(&self) -> bool {
        true
    }

    fn interrupt(&self) {}
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
