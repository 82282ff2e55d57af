//! Decides how a publisher learns that its events are on the device: by waiting, by polling, or as
//! a future of any runtime.
//!
//! Leaves to others: when that is (`outbox::committer`). Invariant: a receipt resolves once, no thread
//! that waits for one misses it, and a waker is called outside of its lock.
//!
//! Receipts that are likely to resolve together share a bell: ringing it wakes all their threads by
//! one call to the system, where a call for each took a fifth of the CPU at 64 of them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::event::Accepted;

/// What `publish` returns at once; it resolves when the event and all deliveries it owes are on
/// the device (I1). Dropping it changes nothing.
///
/// It waits without a runtime ([`wait`](Receipt::wait), [`wait_timeout`](Receipt::wait_timeout)),
/// can be polled ([`is_done`](Receipt::is_done)) and is a [`Future`] for any executor.
///
/// ```
/// # use wabahook::{Config, Engine, Event, Subscription};
/// # let directory = tempfile::tempdir()?;
/// # let engine = Engine::open(Config::new(directory.path()))?;
/// let receipt = engine.publish(Event::new("ADD_TAG", "{}"))?;
/// while receipt.wait_timeout(std::time::Duration::from_millis(100)).is_none() {
///     println!("the device is slow");
/// }
/// assert!(receipt.is_done());
/// let accepted = receipt.wait()?; // at once, because it is done
/// # let _ = accepted;
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    bell: Arc<Bell>,
}

struct Waiting<T> {
    result: Option<Result<T>>,
    waker: Option<Waker>,
}

impl<T> Promise<T> {
    fn is_kept(&self) -> bool {
        self.state.lock().result.is_some()
    }
}

/// Wakes every thread that waits for a receipt with this bell. It is the standard library's condition
/// variable and not the other one, which would wake them one by one, each by the one before.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    /// Held between looking at a promise and going to sleep, so that no ring falls in between.
    listening: std::sync::Mutex<()>,
    rung: std::sync::Condvar,
}

impl Bell {
    /// Wakes those who wait. A promise that was resolved before is found kept by all of them.
    pub(crate) fn ring(&self) {
        drop(self.listening.lock());
        self.rung.notify_all();
    }

    fn wait_until(&self, is_kept: impl Fn() -> bool) {
        // The lock guards nothing that a panic could leave half-changed.
        let listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.rung.wait_while(listening, |()| !is_kept()));
    }

    fn wait_until_or(&self, timeout: Duration, is_kept: impl Fn() -> bool) {
        let listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.rung.wait_timeout_while(listening, timeout, |()| !is_kept()));
    }
}

/// Hands out bells: one to all who publish while a group is gathered, up to a bound, because a ring
/// wakes everyone who shares the bell.
#[derive(Debug)]
pub(crate) struct Bells {
    sharers_max: usize,
    current: Mutex<(Arc<Bell>, usize)>,
}

impl Bells {
    pub(crate) fn new(sharers_max: usize) -> Bells {
        Bells { sharers_max, current: Mutex::default() }
    }

    /// The bell of those who publish now.
    pub(crate) fn bell(&self) -> Arc<Bell> {
        let mut current = self.current.lock();
        if current.1 >= self.sharers_max {
            *current = Default::default();
        }
        current.1 += 1;
        Arc::clone(&current.0)
    }

    /// Begins another bell, because who publishes from now on is in a later group.
    pub(crate) fn change(&self) {
        *self.current.lock() = Default::default();
    }
}

/// Both ends of one promise, with a bell of its own.
pub(crate) fn promise<T: Clone>() -> (Promised<T>, Receipt<T>) {
    promise_with(Arc::default())
}

/// Both ends of one promise, whose bell others may share.
pub(crate) fn promise_with<T: Clone>(bell: Arc<Bell>) -> (Promised<T>, Receipt<T>) {
    let state = Mutex::new(Waiting { result: None, waker: None });
    let promise = Arc::new(Promise { state, bell });
    (Promised { promise: Arc::clone(&promise) }, Receipt { promise })
}

impl<T: Clone> Receipt<T> {
    /// Waits until the events are on the device.
    ///
    /// # Errors
    /// [`Error::Unknown`] when the write failed half-way: publish again with the same dedup key.
    /// [`Error::Closed`] when the engine was closed before the write.
    pub fn wait(self) -> Result<T> {
        self.promise.bell.wait_until(|| self.promise.is_kept());
        self.promise.state.lock().result.clone().unwrap_or(Err(Error::Closed))
    }

    /// Waits up to `timeout`; `None` when it passed first. Can be called again.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<T>> {
        self.promise.bell.wait_until_or(timeout, || self.promise.is_kept());
        self.promise.state.lock().result.clone()
    }

    /// Whether it has resolved.
    pub fn is_done(&self) -> bool {
        self.promise.is_kept()
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
        let done = self.promise.is_kept();
        f.debug_struct("Receipt").field("done", &done).finish()
    }
}

impl<T> Promised<T> {
    /// Resolves the receipt. A second call changes nothing.
    pub(crate) fn keep(&self, result: Result<T>) {
        if let Some(bell) = self.resolve(result) {
            bell.ring();
        }
    }

    /// Resolves the receipt as [`keep`](Promised::keep) does, but leaves it to the caller to ring the
    /// bell, once for all who share it. `None` where it was resolved before.
    #[must_use = "threads that wait are woken by the bell alone"]
    pub(crate) fn resolve(&self, result: Result<T>) -> Option<&Arc<Bell>> {
        let mut state = self.promise.state.lock();
        if state.result.is_some() {
            return None;
        }
        state.result = Some(result);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Some(&self.promise.bell)
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

    #[test]
    fn one_ring_wakes_all_that_are_kept_and_the_others_wait_on() {
        let bells = Bells::new(3);
        let (kept, waiting): (Vec<_>, Vec<_>) =
            (0..3).map(|_| promise_with::<Accepted>(bells.bell())).unzip();
        let (later, bystander) = promise_with::<Accepted>(bells.bell());
        assert!(!Arc::ptr_eq(&later.promise.bell, &kept[0].promise.bell), "a bell has its bound");
        let mut waiting = waiting.into_iter();
        let unkept = waiting.next().unwrap();
        let threads: Vec<_> =
            waiting.map(|receipt| std::thread::spawn(move || receipt.wait())).collect();
        let slow =
            std::thread::spawn(move || (unkept.wait_timeout(Duration::from_secs(60)), unkept));
        let rung: Vec<_> =
            kept.iter().skip(1).filter_map(|one| one.resolve(Ok(accepted()))).collect();
        assert!(rung.iter().all(|bell| Arc::ptr_eq(bell, rung[0])));
        assert!(kept[1].resolve(Err(Error::Closed)).is_none());
        rung[0].ring();
        for thread in threads {
            assert_eq!(thread.join().unwrap().unwrap(), accepted());
        }
        assert!(!slow.is_finished() && !bystander.is_done(), "who was not kept waits on");
        kept[0].keep(Err(Error::Closed));
        assert!(matches!(slow.join().unwrap().0, Some(Err(Error::Closed))));
    }

    #[test]
    fn after_a_change_those_who_publish_have_another_bell() {
        let bells = Bells::new(10);
        let (first, second) = (bells.bell(), bells.bell());
        bells.change();
        let third = bells.bell();
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&second, &third));
    }

    #[test]
    fn no_ring_is_lost_between_looking_and_sleeping() {
        let bells = Bells::new(4);
        for _ in 0..2_000 {
            let (promised, receipt) = promise_with(bells.bell());
            let (_other, bystander) = promise_with::<Accepted>(bells.bell());
            let waiting = std::thread::spawn(move || receipt.wait());
            promised.keep(Ok(accepted()));
            assert_eq!(waiting.join().unwrap().unwrap(), accepted());
            assert!(!bystander.is_done());
        }
    }
}
