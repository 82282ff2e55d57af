//! Decides what receivers answer: scripted transports without a network.
//!
//! Leaves to others: when an attempt is made. Invariant: an answer is a function of the request.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};
use wabahook::{Failure, Reply, Request, Transport};

const fn answered(status: u16) -> Reply {
    Reply::status(status)
}

/// Acknowledges everything at once.
pub(crate) struct Instant200;

impl Transport for Instant200 {
    fn send(&self, _: &Request<'_>) -> Reply {
        answered(200)
    }

    fn interrupt(&self) {}
}

/// Answers nothing until it is interrupted.
#[derive(Default)]
pub(crate) struct Silent {
    interrupted: Mutex<bool>,
    woken: Condvar,
}

impl Transport for Silent {
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

/// Fails one event in a hundred and acknowledges the others.
#[derive(Default)]
pub(crate) struct LeavesOneInAHundred {
    /// Whether a delivery that failed is acknowledged when it comes again.
    pub(crate) relents: AtomicBool,
}

impl Transport for LeavesOneInAHundred {
    fn send(&self, request: &Request<'_>) -> Reply {
        let header = |wanted: &str| {
            let found = request.headers.iter().find(|(name, _)| name.as_str() == wanted);
            found.and_then(|(_, value)| value.to_str().ok()).unwrap_or_default()
        };
        // An event's id ends with its sequence in 16 hexadecimal digits.
        let id = header("webhook-id");
        let digits = id.get(id.len().saturating_sub(16)..).unwrap_or_default();
        let sequence = u64::from_str_radix(digits, 16).unwrap_or(1);
        let again = header("x-webhook-attempt") != "1";
        if sequence % 100 == 0 && !(again && self.relents.load(Ordering::Relaxed)) {
            return answered(503);
        }
        answered(200)
    }

    fn interrupt(&self) {}
}
