//! What runs the client of PostgreSQL: a thread for work in the background, and for a session the threads that wait
//! for its answers.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;

use super::sql::FENCED_CODE;
use crate::process::threads;
use crate::store::StoreFailure;

/// The client's thread. It ends when this is dropped, and its connections with it.
pub(super) struct ClientThread {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl ClientThread {
    pub(super) fn start() -> Result<ClientThread, StoreFailure> {
        let runtime = new_runtime()?;
        let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel());
        let run = move || drop(runtime.block_on(stopped));
        threads::start("wabahook-postgres", None, run).map_err(StoreFailure::io)?;
        Ok(ClientThread { handle, _stop: stop })
    }

    /// Runs a future on the client's thread and waits for it. After the deadline the future is dropped.
    pub(super) fn run<T: Send + 'static>(
        &self,
        deadline: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, StoreFailure> {
        // A listener of the store runs on the client's thread and may drop the last handle of an engine.
        if Handle::try_current().is_ok_and(|current| current.id() == self.handle.id()) {
            return Err(StoreFailure::Closed);
        }
        let (sender, receiver) = crossbeam_channel::bounded(1);
        self.handle.spawn(async move {
            let _ = sender.send(timeout(deadline, work).await);
        });
        receiver
            .recv()
            .map_err(|_| StoreFailure::Closed)?
            .map_err(|late| unanswered(late, deadline))
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(work);
    }
}

/// Does the work of one call of the store where a session may run: on the calling thread, or where that is one of an
/// async runtime, which must not run another runtime, on a thread that is started for the call. If the system refuses
/// that thread, only this call fails and nothing was sent.
pub(super) fn on_waiting_thread<T: Send>(
    work: impl FnOnce() -> Result<T, StoreFailure> + Send,
) -> Result<T, StoreFailure> {
    if Handle::try_current().is_err() {
        return work();
    }
    threads::run_on_another("wabahook-session", work).map_err(|error| {
        let why =
            "the system refuses the thread for a call from an async runtime, and nothing was sent";
        StoreFailure::io(io::Error::new(error.kind(), format!("{why}: {error}")))
    })?
}

/// Runs the connections of a session on the threads that wait for its answers. To hand each commit to another thread
/// and back costs 0.1 ms of CPU. Nothing moves between two calls. Its calls belong on a waiting thread
/// ([`on_waiting_thread`]).
pub(super) struct SessionRuntime {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl SessionRuntime {
    pub(super) fn new() -> Result<SessionRuntime, StoreFailure> {
        Ok(SessionRuntime { runtime: Some(new_runtime()?) })
    }

    /// Runs a future and waits for it. After the deadline the future is dropped.
    pub(super) fn run<T: Send>(
        &self,
        deadline: Duration,
        work: impl Future<Output = T> + Send,
    ) -> Result<T, StoreFailure> {
        self.block_on(async { timeout(deadline, work).await })?
            .map_err(|late| unanswered(late, deadline))
    }

    /// Lets the connections notice what has come since the last call, such as their end.
    pub(super) fn catch_up(&self) -> Result<(), StoreFailure> {
        // The first turn looks what has come, and before the second one ends the connections have read it.
        self.block_on(async {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        })
    }

    fn block_on<T: Send>(&self, work: impl Future<Output = T> + Send) -> Result<T, StoreFailure> {
        let runtime = self.runtime.as_ref().ok_or(StoreFailure::Closed)?;
        // It panics where the system refuses the thread that looks up the name of a server.
        let done = catch_unwind(AssertUnwindSafe(|| runtime.block_on(work)));
        done.map_err(|_| StoreFailure::io(io::Error::other("the client of PostgreSQL panicked")))
    }
}

impl Drop for SessionRuntime {
    fn drop(&mut self) {
        // On a thread of an async runtime it must not be waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn new_runtime() -> Result<Runtime, StoreFailure> {
    Builder::new_current_thread().enable_all().build().map_err(StoreFailure::io)
}

#[allow(clippy::needless_pass_by_value, reason = "passed to map_err")]
fn unanswered(_: Elapsed, deadline: Duration) -> StoreFailure {
    let seconds = deadline.as_secs();
    let text = format!(
        "the server has not answered within {seconds} s: look at its standby and the network"
    );
    StoreFailure::io(io::Error::new(io::ErrorKind::TimedOut, text))
}

/// What an error of the client means for the store.
pub(super) fn failure_of(error: &tokio_postgres::Error) -> StoreFailure {
    let Some(refusal) = error.as_db_error() else {
        let cause = std::error::Error::source(error);
        let text = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        return StoreFailure::io(io::Error::other(text));
    };
    if refusal.code().code() == FENCED_CODE {
        return StoreFailure::Fenced;
    }
    let kind = match *refusal.code() {
        SqlState::DISK_FULL => io::ErrorKind::StorageFull,
        SqlState::INSUFFICIENT_PRIVILEGE => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    let text = format!("{} ({})", refusal.message(), refusal.code().code());
    StoreFailure::io(io::Error::new(kind, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_client_is_a_failure_and_the_next_call_works() {
        let sessions = SessionRuntime::new().unwrap();
        let run = |panics: bool| {
            let work = async move { assert!(!panics, "no thread") };
            sessions.run(Duration::from_secs(5), work)
        };
        let on_threads = |panics: bool| {
            let runtime = new_runtime().unwrap();
            [run(panics), runtime.block_on(async { on_waiting_thread(|| run(panics)) })]
        };
        for failed in on_threads(true) {
            assert!(matches!(failed, Err(StoreFailure::Io(_))), "{failed:?}");
        }
        for done in on_threads(false) {
            done.unwrap();
        }
    }

    #[test]
    fn a_call_from_an_async_runtime_takes_one_thread() {
        let thread = || Ok(std::thread::current().id());
        let sessions = SessionRuntime::new().unwrap();
        let call = || {
            let outer = thread()?;
            sessions.catch_up()?;
            Ok((outer, on_waiting_thread(thread)?))
        };
        let own = std::thread::current().id();
        assert_eq!(on_waiting_thread(call).unwrap(), (own, own));
        let runtime = new_runtime().unwrap();
        let (outer, inner) = runtime.block_on(async { on_waiting_thread(call) }).unwrap();
        assert_eq!(outer, inner);
        assert_ne!(outer, own);
    }
}
