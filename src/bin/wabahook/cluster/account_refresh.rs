//! Reads the accounts again from the server for requests whose key or account is not known here. One read serves all
//! requests that wait for it and goes on without them, and a failed one is not repeated for a moment. So while the
//! server is away a request waits for one read at most, and no longer than its own deadline.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use wabahook::Error;

use crate::host::off_thread;
use crate::http_error::{HttpError, NOT_OWNER};

/// How often unknown keys may have the accounts read.
const READ_EVERY: Duration = Duration::from_millis(200);
/// How long after a failed read requests are refused without another one.
const FAILURE_KEPT: Duration = Duration::from_secs(1);

type ReadAccounts = dyn Fn() -> Result<(), Error> + Send + Sync;

/// A read that runs or has ended.
#[derive(Clone)]
struct AccountRead {
    /// How many reads began before it.
    number: u64,
    /// When it ended, and whether the accounts were read; `None` while it runs.
    end: watch::Receiver<Option<(Instant, bool)>>,
}

/// The reads of the accounts that requests cause.
pub(super) struct AccountRefresh {
    read: Arc<ReadAccounts>,
    latest: Mutex<Option<AccountRead>>,
}

impl AccountRefresh {
    /// `read` may block.
    pub(super) fn new(
        read: impl Fn() -> Result<(), Error> + Send + Sync + 'static,
    ) -> AccountRefresh {
        AccountRefresh { read: Arc::new(read), latest: Mutex::default() }
    }

    /// Waits until the accounts were read, or were read a moment ago.
    pub(super) async fn recent(&self, deadline: Instant) -> Result<(), HttpError> {
        let read = self.read_unless(|latest| latest.counts_until(READ_EVERY));
        read.ended(deadline).await
    }

    /// Waits until the accounts were read by a read that begins after this call.
    pub(super) async fn renewed(&self, deadline: Instant) -> Result<(), HttpError> {
        let before = self.latest.lock().clone();
        if let Some(running) = before.clone().filter(AccountRead::is_running) {
            running.ended(deadline).await?;
        }
        let begun = before.map_or(0, |read| read.number + 1);
        let read = self
            .read_unless(|latest| latest.number >= begun || latest.counts_until(Duration::ZERO));
        read.ended(deadline).await
    }

    /// The latest read where that counts, and a new one otherwise.
    fn read_unless(&self, counts: impl FnOnce(&AccountRead) -> bool) -> AccountRead {
        let mut latest = self.latest.lock();
        if let Some(read) = latest.as_ref().filter(|read| counts(read)) {
            return read.clone();
        }
        let number = latest.as_ref().map_or(0, |read| read.number + 1);
        let (sender, end) = watch::channel(None);
        let read = Arc::clone(&self.read);
        // On a task of its own, because a request may end before it, and takes no turn of the request's account.
        tokio::spawn(async move {
            let done = off_thread(move || read()).await;
            if let Ok(Err(error)) = &done {
                tracing::warn!(%error, "the accounts could not be read");
            }
            sender.send_replace(Some((Instant::now(), matches!(done, Ok(Ok(()))))));
        });
        latest.insert(AccountRead { number, end }).clone()
    }
}

impl AccountRead {
    fn is_running(&self) -> bool {
        self.end.borrow().is_none()
    }

    /// Whether it runs, failed a moment ago, or read the accounts less than so long ago.
    fn counts_until(&self, kept: Duration) -> bool {
        self.end
            .borrow()
            .is_none_or(|(at, is_read)| at.elapsed() < if is_read { kept } else { FAILURE_KEPT })
    }

    async fn ended(mut self, deadline: Instant) -> Result<(), HttpError> {
        let end = timeout_at(deadline, self.end.wait_for(Option::is_some)).await;
        match end.ok().and_then(Result::ok).and_then(|end| *end) {
            Some((_, true)) => Ok(()),
            _ => Err(unreadable()),
        }
    }
}

/// Nothing was done with the request, as where a shard has no owner.
fn unreadable() -> HttpError {
    let message = "the key or account is not known here, and the accounts cannot be read from the server at the \
                   moment; try again";
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, NOT_OWNER, message)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Sender, channel};

    use axum::http::header;
    use axum::response::IntoResponse;
    use tokio::task::JoinSet;

    use super::*;

    /// Reads that each end as they are told, and how many began.
    fn refresh() -> (Arc<AccountRefresh>, Sender<Result<(), Error>>, Arc<AtomicUsize>) {
        let (tell, told) = channel();
        let (told, begun) = (Mutex::new(told), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&begun);
        let read = move || {
            count.fetch_add(1, Ordering::SeqCst);
            told.lock().recv_timeout(Duration::from_secs(60)).unwrap()
        };
        (Arc::new(AccountRefresh::new(read)), tell, begun)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn one_failed_read_refuses_all_who_wait_and_who_come_next() {
        let (refresh, tell, begun) = refresh();
        let mut waiting = JoinSet::new();
        for _ in 0..20 {
            let refresh = Arc::clone(&refresh);
            waiting.spawn(async move { refresh.recent(later()).await });
        }
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        tell.send(Err(Error::Closed)).unwrap();
        for refused in waiting.join_all().await {
            let response = refused.unwrap_err().into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        }
        assert!(refresh.recent(later()).await.is_err());
        assert!(refresh.renewed(later()).await.is_err());
        assert_eq!(begun.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_request_waits_for_a_silent_server_until_its_deadline() {
        let (refresh, tell, _) = refresh();
        assert!(refresh.recent(Instant::now()).await.is_err());
        tell.send(Ok(())).unwrap();
        refresh.recent(later()).await.unwrap();
    }

    // A read that began before an account was changed may not have seen the change.
    #[tokio::test]
    async fn a_renewed_read_begins_after_the_call() {
        let (refresh, tell, begun) = refresh();
        (0..2).for_each(|_| tell.send(Ok(())).unwrap());
        refresh.recent(later()).await.unwrap();
        refresh.recent(later()).await.unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        refresh.renewed(later()).await.unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }
}
