//! The threads that carry attempts: each waits for the readiness of all its sockets at once, so an attempt in
//! flight costs a connection and a few kilobytes, and no thread.
//!
//! Attempts come from an [`AttemptSource`], or one by one from callers of the transport ([`IoLoops::begin`]). A loop
//! owns its connections, deadlines and buffers, so nothing here is locked while bytes pass. It looks no name
//! up, reads no certificate and asks no device: what may wait is done by [`LookupThreads`].

mod connections;
mod deadlines;
mod dialing;
mod event_loop;
mod exchange;
mod hosts;
mod loop_attempt;
#[cfg(any(test, feature = "testing"))]
mod scripted_wire;
mod steps;
mod stream;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{SendError, Sender, unbounded};
use mio::Waker;
use parking_lot::Mutex;

pub(in crate::delivery) use self::exchange::failure;
#[cfg(any(test, feature = "testing"))]
pub use self::scripted_wire::check_exchange;
use super::attempt_source::{AttemptSource, LoopId, Shortage, WakeLoop, destination_number};
use super::guard::Guard;
use super::http1::OutgoingRequest;
use super::name_lookup::{Addresses, LookupThreads};
use super::tls::{Identities, Identity};
use crate::clock::Clock;
use crate::process::threads;
use crate::subscription::Tls;
use crate::transport::{Answer, Failure, Reply};

/// What all loops of a transport share.
pub(super) struct LoopShared {
    pub(super) guard: Arc<Guard>,
    pub(super) lookups: LookupThreads,
    pub(super) identities: Identities,
    pub(super) clock: Arc<dyn Clock>,
    /// No attempt is made any more.
    pub(super) is_interrupted: AtomicBool,
}

/// The bounds of one loop.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoopLimits {
    /// Idle connections of one place.
    pub(super) idle_per_host_max: usize,
    /// Idle connections in all while as many attempts as allowed are in flight; for each one less, one more.
    pub(super) idle_max: usize,
    /// Attempts in flight in all, which their source bounds; 0 where it sets no bound.
    pub(super) in_flight_max: usize,
    /// Connections in use to one host and port.
    pub(super) host_in_flight_max: usize,
}

/// A command to a loop from another thread.
enum Command {
    /// Make this attempt for a caller of the transport.
    Begin(Box<OutgoingRequest>, Answer),
    /// Take attempts from here.
    Serve(Arc<dyn AttemptSource>),
    /// A name was looked up; `None` if no file could be opened for that.
    Resolved(String, Option<Addresses>),
    /// The certificates of these settings were read, or could not be.
    IdentityRead(Option<Arc<Tls>>, Option<Arc<Identity>>),
    /// End every attempt.
    Interrupt,
    /// End the thread.
    Stop,
}

/// Sends commands to one loop.
#[derive(Clone)]
struct LoopHandle {
    commands: Sender<Command>,
    wake: WakeLoop,
}

impl LoopHandle {
    /// Returns whether the loop still runs.
    fn tell(&self, command: Command) -> bool {
        let is_told = self.commands.send(command).is_ok();
        (self.wake)();
        is_told
    }
}

/// The I/O threads of a transport, started when they are first needed. Their number and limits are set before.
pub(super) struct IoLoops {
    shared: Arc<LoopShared>,
    pub(super) threads: usize,
    pub(super) limits: LoopLimits,
    started: Mutex<Vec<LoopHandle>>,
}

impl IoLoops {
    pub(super) fn new(shared: Arc<LoopShared>, limits: LoopLimits) -> IoLoops {
        IoLoops { shared, threads: 1, limits, started: Mutex::default() }
    }

    /// Makes one attempt. A loop that ended drops the answer.
    pub(super) fn begin(&self, request: OutgoingRequest, answer: Answer) {
        if self.is_interrupted() {
            return answer.reply(Reply::Failed(Failure::Interrupted));
        }
        match self.loop_for(&request) {
            Ok(handle) => match handle.commands.send(Command::Begin(Box::new(request), answer)) {
                Ok(()) => (handle.wake)(),
                Err(SendError(Command::Begin(_, answer))) => {
                    answer.reply(Reply::Failed(Failure::Interrupted));
                }
                Err(_) => {}
            },
            Err(_) => answer.reply(Reply::Failed(Failure::Shortage(Shortage::Threads))),
        }
    }

    /// Has every loop take attempts from this source, too.
    pub(super) fn serve(&self, source: &Arc<dyn AttemptSource>) -> io::Result<()> {
        for handle in self.handles()? {
            handle.tell(Command::Serve(Arc::clone(source)));
        }
        Ok(())
    }

    /// Ends the attempts in flight, and every later one.
    pub(super) fn interrupt(&self) {
        self.shared.is_interrupted.store(true, Ordering::SeqCst);
        for handle in &*self.started.lock() {
            handle.tell(Command::Interrupt);
        }
    }

    fn is_interrupted(&self) -> bool {
        self.shared.is_interrupted.load(Ordering::SeqCst)
    }

    fn loop_for(&self, request: &OutgoingRequest) -> io::Result<LoopHandle> {
        let handles = self.handles()?;
        let number = destination_number(request.authority().as_str());
        let chosen = handles.get(number % handles.len().max(1)).cloned();
        chosen.ok_or_else(|| io::ErrorKind::Other.into())
    }

    fn handles(&self) -> io::Result<Vec<LoopHandle>> {
        let mut started = self.started.lock();
        // Each loop has its share of all connections.
        let share = |all: usize| all.div_ceil(self.threads);
        let LoopLimits { idle_max, in_flight_max, .. } = self.limits;
        let (idle_max, in_flight_max) = (share(idle_max), share(in_flight_max));
        while started.len() < self.threads {
            let limits = LoopLimits { idle_max, in_flight_max, ..self.limits };
            let handle = start(LoopId(started.len()), &self.shared, limits)?;
            started.push(handle);
        }
        Ok(started.clone())
    }
}

impl Drop for IoLoops {
    fn drop(&mut self) {
        for handle in &*self.started.lock() {
            handle.tell(Command::Stop);
        }
    }
}

impl fmt::Debug for IoLoops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoLoops").field("threads", &self.threads).finish_non_exhaustive()
    }
}

fn start(number: LoopId, shared: &Arc<LoopShared>, limits: LoopLimits) -> io::Result<LoopHandle> {
    let poll = mio::Poll::new()?;
    let waker = Waker::new(poll.registry(), event_loop::WAKE)?;
    let wake: WakeLoop = Arc::new(move || {
        // Fails if a wake-up is already pending.
        let _ = waker.wake();
    });
    let (tell, commands) = unbounded();
    let handle = LoopHandle { commands: tell, wake };
    let carried =
        event_loop::EventLoop::new(number, poll, handle.clone(), commands, shared, limits);
    threads::start(&format!("wabahook-io-{}", number.0), None, move || carried.run())?;
    shared.clock.on_jump(Arc::clone(&handle.wake));
    Ok(handle)
}

#[cfg(test)]
mod tests;
