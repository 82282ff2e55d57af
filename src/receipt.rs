//! Decides how a publisher learns that its events are on the device: by waiting, by polling, or as
//! a future of any runtime.
//!
//! Leaves to others: when that is (`outbox::committer`). Invariant: a receipt resolves once, and a
//! waker is called outside of its lock.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::event::Accepted;

/// What `publish` returns at once; it resolves when the event and all deliveries it owes are on
/// the device (I1). Dropping it changes nothing.
///
/// It waits without a runtime ([`wait`](Receipt::wait), [`wait_timeout`](Receipt::wait_timeout)),
/// can be polled ([`is_done`](Receipt::is_done)) and is a [`Future`] for any executor.
#[must_use = "an event is durable only once its receipt resolves"]
pub struct Receipt<T = Accepted> {
    promise: Arc<Promise<T>>,
}

/// The engine's side of a receipt. Dropping it unkept resolves the receipt as closed.
pub(crate) struct Promised<T = Accepted> {
    promise: Arc<Promise<T>>,
}

struct Promise<T> {
    state: Mutex<Waiting<T>>,
    kept: Condvar,
}

struct Waiting<T> {
    result: Option<Result<T>>,
    waker: Option<Waker>,
}

/// Both ends of one promise.
pub(crate) fn promise<T: Clone>() -> (Promised<T>, Receipt<T>) {
    let state = Mutex::new(Waiting { result: None, waker: None });
    let promise = Arc::new(Promise { state, kept: Condvar::new() });
    (Promised { promise: Arc::clone(&promise) }, Receipt { promise })
}

impl<T: Clone> Receipt<T> {
    /// Waits until the events are on the device.
    ///
    /// # Errors
    /// [`Error::Unknown`] when the write failed half-way: publish again with the same dedup key.
    /// [`Error::Closed`] when the engine was closed before the write.
    pub fn wait(self) -> Result<T> {
        let mut state = self.promise.state.lock();
        self.promise.kept.wait_while(&mut state, |state| state.result.is_none());
        state.result.clone().unwrap_or(Err(Error::Closed))
    }

    /// Waits up to `timeout`; `None` when it passed first. Can be called again.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<T>> {
        let mut state = self.promise.state.lock();
        self.promise.kept.wait_while_for(&mut state, |state| state.result.is_none(), timeout);
        state.result.clone()
    }

    /// Whether it has resolved.
    pub fn is_done(&self) -> bool {
        self.promise.state.lock().result.is_some()
    }
}

impl<T: Clone> Future for Receipt<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let mut state = self.promise.state.lock();
        if let Some(result) = &state.result {
            return Poll::Ready(result.clone());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl<T> fmt::Debug for Receipt<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = self.promise.state.lock().result.is_some();
        f.debug_struct("Receipt").field("done", &done).finish()
    }
}

impl<T> Promised<T> {
    /// Resolves the receipt. A second call changes nothing.
    pub(crate) fn keep(&self, result: Result<T>) {
        let mut state = self.promise.state.lock();
        if state.result.is_some() {
            return;
        }
        state.result = Some(result);
        let waker = state.waker.take();
        drop(state);
        self.promise.kept.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Promised<T> {
    fn drop(&mut self) {
        self.keep(Err(Error::Closed));
    }
}

impl<T> fmt::Debug for Promised<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promised").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    fn accepted() -> Accepted {
        Accepted { id: EventId::new(1, 2), owed: 3, duplicate: false }
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn it_resolves_once_for_every_way_of_waiting() {
        let (promised, receipt) = promise();
        let (_bystander_promised, bystander) = promise::<Accepted>();
        assert!(!receipt.is_done());
        assert!(receipt.wait_timeout(Duration::ZERO).is_none());
        promised.keep(Ok(accepted()));
        promised.keep(Err(Error::Closed));
        assert!(receipt.is_done());
        assert_eq!(receipt.wait_timeout(Duration::ZERO).unwrap().unwrap(), accepted());
        assert_eq!(receipt.wait().unwrap(), accepted());
        assert!(!bystander.is_done());
    }

    #[test]
    fn a_task_is_woken_by_the_waker_it_gave_last() {
        let (promised, mut receipt) = promise();
        let (first, last) = (Arc::new(Count::default()), Arc::new(Count::default()));
        for count in [&first, &last] {
            let waker = Waker::from(Arc::clone(count));
            assert!(Pin::new(&mut receipt).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        promised.keep(Ok(accepted()));
        assert_eq!((first.0.load(Ordering::SeqCst), last.0.load(Ordering::SeqCst)), (0, 1));
        let waker = Waker::from(first);
        let polled = Pin::new(&mut receipt).poll(&mut Context::from_waker(&waker));
        assert!(matches!(polled, Poll::Ready(Ok(a)) if a == accepted()));
    }

    #[test]
    fn an_engine_that_goes_away_resolves_what_it_had_promised() {
        let (promised, receipt) = promise::<Accepted>();
        drop(promised);
        assert!(matches!(receipt.wait(), Err(Error::Closed)));
    }

    #[test]
    fn another_thread_is_woken() {
        let (promised, receipt) = promise();
        let waiting = std::thread::spawn(move || receipt.wait());
        promised.keep(Ok(accepted()));
        assert_eq!(waiting.join().unwrap().unwrap(), accepted());
    }
}
