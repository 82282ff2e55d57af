//! The seam between the engine's dispatcher and the I/O threads that carry its attempts.
//!
//! An I/O thread calls [`AttemptSource::exchange`]: it hands back the attempts that ended and takes the next
//! ones, at most [`EXCHANGE_MAX`] of each, so that the source locks its dispatcher once for all of them. The
//! thread does no I/O but on its sockets, so the source never waits for a device, a name or another thread
//! inside of `exchange`: it reads an event that is not in memory on a thread of its own, and gives the attempt
//! out at a later exchange.
//!
//! Every attempt that was given out comes back exactly once, as an [`EndedAttempt`] with the same token.

use std::sync::Arc;

pub(crate) use crate::attempt::{AttemptEnd, LoopId};
pub(crate) use crate::transport::Shortage;

use super::http1::OutgoingRequest;

/// How many attempts one exchange hands back at most, and how many it takes.
pub(crate) const EXCHANGE_MAX: usize = 64;

/// Names an attempt in flight to the source that gave it out. Means nothing to the I/O thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AttemptToken(pub(crate) u64);

/// The number of a destination. Modulo the number of I/O threads it is the thread that makes all attempts there, because
/// that one has the open connections.
pub(crate) fn destination_number(authority: &str) -> usize {
    let bytes = authority.bytes().map(|byte| usize::from(byte.to_ascii_lowercase()));
    bytes.fold(0, |number: usize, byte| number.wrapping_mul(31).wrapping_add(byte))
}

#[derive(Debug)]
pub(crate) struct NextAttempt {
    pub(crate) token: AttemptToken,
    /// What is sent, and where. Its timeout starts with the first packet to the receiver; waiting for a name
    /// or for a free connection to a busy host is bounded by the same time and ends uncounted.
    pub(crate) request: OutgoingRequest,
    /// Whose turn a name look-up takes: the same number for all attempts of one account.
    pub(crate) account: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndedAttempt {
    pub(crate) token: AttemptToken,
    pub(crate) end: AttemptEnd,
}

/// Whether an I/O thread is still needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    /// More attempts may come.
    Open,
    /// No attempt will ever come again: the thread ends as soon as none of its attempts is in flight.
    Over,
}

/// Wakes one I/O thread. Cheap to call, callable from any thread and under a lock, and lasting: a call before
/// the thread sleeps is not lost.
pub(crate) type WakeLoop = Arc<dyn Fn() + Send + Sync>;

/// Where the I/O threads take attempts from and bring their ends to: the engine's dispatcher.
pub(crate) trait AttemptSource: Send + Sync + 'static {
    /// Called once by each I/O thread before its first exchange.
    fn attach(&self, from: LoopId, wake: WakeLoop);

    /// Takes all of `ended`, which holds at most [`EXCHANGE_MAX`], and pushes up to `room` attempts to `next`,
    /// which is empty.
    ///
    /// A source that pushes fewer than `room` marks this thread as idle, under the lock that it looked for
    /// attempts under, and calls its [`WakeLoop`] once as soon as an attempt is ready or the demand is over:
    /// the thread goes to sleep and does not ask again by itself until an attempt of its own ends.
    fn exchange(
        &self,
        from: LoopId,
        ended: &mut Vec<EndedAttempt>,
        room: usize,
        next: &mut Vec<NextAttempt>,
    ) -> Demand;

    /// The thread ended: after [`Demand::Over`], or because of a panic outside of an attempt, in which case
    /// what it had in flight does not come back.
    fn detach(&self, from: LoopId, has_panicked: bool);
}
