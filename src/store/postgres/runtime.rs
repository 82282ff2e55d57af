//! The thread that runs the client of PostgreSQL, and how other threads wait for it.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_postgres::error::SqlState;

use super::sql::FENCED_CODE;
use crate::process::threads;
use crate::store::StoreFailure;

/// The client's thread. It ends when this is dropped, and its connections with it.
pub(super) struct ClientRuntime {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl ClientRuntime {
    pub(super) fn start() -> Result<ClientRuntime, StoreFailure> {
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(StoreFailure::io)?;
        let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel());
        let run = move || drop(runtime.block_on(stopped));
        threads::start("wabahook-postgres", None, run).map_err(StoreFailure::io)?;
        Ok(ClientRuntime { handle, _stop: stop })
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
            let _ = sender.send(tokio::time::timeout(deadline, work).await);
        });
        match receiver.recv() {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(StoreFailure::io(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the server has not answered within {} s", deadline.as_secs()),
            ))),
            Err(_) => Err(StoreFailure::Closed),
        }
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(work);
    }
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
