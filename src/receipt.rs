//! How a publisher learns that its events are durable: by waiting, by polling, or as a future of any runtime.
//!
//! A receipt resolves once, and no waiting thread misses it. Wakers are code of the host: they are called, cloned
//! and dropped outside of every lock, and called on the thread of [`HostCalls`]. Receipts
//! that are likely to resolve together share a [`WakeGroup`]: one system call wakes all their threads, where
//! one call each took a fifth of the CPU at 64 of them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::event::Accepted;
use crate::process::HostCalls;

/// What `publish` returns at once. It resolves when the event and all deliveries it owes are on the device (I1).
/// Dropping it changes nothing.
///
/// It can be waited for without a runtime ([`wait`](Receipt::wait), [`wait_timeout`](Receipt::wait_timeout)),
/// polled ([`is_done`](Receipt::is_done)), and is a [`Future`] for any executor.
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
    shared: Arc<SharedReceipt<T>>,
}

/// The engine's end of a receipt. Dropping it resolves the receipt as closed.
pub(crate) struct ReceiptSender<T = Accepted> {
    shared: Arc<SharedReceipt<T>>,
}

struct SharedReceipt<T> {
    state: Mutex<ReceiptState<T>>,
    wake_group: Arc<WakeGroup>,
}

struct ReceiptState<T> {
    result: Option<Result<T>>,
    waker: Option<Waker>,
}

impl<T> SharedReceipt<T> {
    fn is_done(&self) -> bool {
        self.state.lock().result.is_some()
    }
}

/// Wakes every thread that waits for a receipt of this group. It uses the standard library's condition variable
/// because the one of `parking_lot` wakes threads one by one, each by the one before.
#[derive(Debug, Default)]
pub(crate) struct WakeGroup {
    /// Held between the look at a receipt and the sleep, so that no wake-up is lost in between.
    checking: std::sync::Mutex<()>,
    resolved: std::sync::Condvar,
    /// Calls the wakers; without it they are called by the thread that resolves.
    host_calls: Option<Arc<HostCalls>>,
}

impl WakeGroup {
    /// Wakes the waiting threads. All of them see a receipt that was resolved before this call.
    pub(crate) fn wake_all(&self) {
        drop(self.checking.lock());
        self.resolved.notify_all();
    }

    fn call(&self, waker: Waker) {
        match &self.host_calls {
            Some(host_calls) => host_calls.run(move || waker.wake()),
            None => waker.wake(),
        }
    }

    fn wait_until(&self, is_done: impl Fn() -> bool) {
        // The lock guards no data that a panic could leave half-changed.
        let checking = self.checking.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.resolved.wait_while(checking, |()| !is_done()));
    }

    fn wait_until_timeout(&self, timeout: Duration, is_done: impl Fn() -> bool) {
        let checking = self.checking.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.resolved.wait_timeout_while(checking, timeout, |()| !is_done()));
    }
}

/// Assigns receipts to wake groups: one for all receipts made while a group is gathered, up to a bound, because a
/// wake-up wakes every thread of the group.
#[derive(Debug)]
pub(crate) struct WakeGroups {
    receipts_max: usize,
    host_calls: Arc<HostCalls>,
    current: Mutex<(Arc<WakeGroup>, usize)>,
}

impl WakeGroups {
    pub(crate) fn new(receipts_max: usize, host_calls: Arc<HostCalls>) -> WakeGroups {
        let current = Mutex::new((new_group(&host_calls), 0));
        WakeGroups { receipts_max, host_calls, current }
    }

    /// The group for a receipt made now.
    pub(crate) fn current(&self) -> Arc<WakeGroup> {
        let mut current = self.current.lock();
        if current.1 >= self.receipts_max {
            *current = (new_group(&self.host_calls), 0);
        }
        current.1 += 1;
        Arc::clone(&current.0)
    }

    /// Starts another group, because receipts made from now on resolve later.
    pub(crate) fn start_next(&self) {
        *self.current.lock() = (new_group(&self.host_calls), 0);
    }
}

fn new_group(host_calls: &Arc<HostCalls>) -> Arc<WakeGroup> {
    Arc::new(WakeGroup { host_calls: Some(Arc::clone(host_calls)), ..WakeGroup::default() })
}

/// Both ends of a receipt with a wake group of its own.
pub(crate) fn receipt_pair<T: Clone>() -> (ReceiptSender<T>, Receipt<T>) {
    receipt_pair_in(Arc::default())
}

/// Both ends of a receipt in a wake group.
pub(crate) fn receipt_pair_in<T: Clone>(
    wake_group: Arc<WakeGroup>,
) -> (ReceiptSender<T>, Receipt<T>) {
    let state = Mutex::new(ReceiptState { result: None, waker: None });
    let shared = Arc::new(SharedReceipt { state, wake_group });
    (ReceiptSender { shared: Arc::clone(&shared) }, Receipt { shared })
}

impl<T: Clone> Receipt<T> {
    /// Waits until the events are on the device.
    ///
    /// # Errors
    /// - [`Error::Unknown`] if the write failed half-way: publish again with the same dedup key.
    /// - [`Error::Refused`] if the device refused the write: nothing was stored, publish again later.
    /// - [`Error::Closed`] if the engine was closed before the write.
    pub fn wait(self) -> Result<T> {
        self.shared.wake_group.wait_until(|| self.shared.is_done());
        self.shared.state.lock().result.clone().unwrap_or(Err(Error::Closed))
    }

    /// Waits up to `timeout`; `None` if it passes first. Can be called again.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<T>> {
        self.shared.wake_group.wait_until_timeout(timeout, || self.shared.is_done());
        self.shared.state.lock().result.clone()
    }

    /// Whether it has resolved.
    pub fn is_done(&self) -> bool {
        self.shared.is_done()
    }
}

impl<T: Clone> Future for Receipt<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        if let Some(result) = &self.shared.state.lock().result {
            return Poll::Ready(result.clone());
        }
        let waker = context.waker().clone();
        let mut state = self.shared.state.lock();
        let replaced = state.waker.replace(waker);
        // It may have resolved meanwhile, without this waker.
        let result = state.result.clone();
        drop(state);
        drop(replaced);
        result.map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T> fmt::Debug for Receipt<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = self.shared.is_done();
        f.debug_struct("Receipt").field("done", &done).finish()
    }
}

impl<T> ReceiptSender<T> {
    /// Resolves the receipt and wakes its thread. A second call changes nothing.
    pub(crate) fn send(&self, result: Result<T>) {
        if let Some(wake_group) = self.resolve(result) {
            wake_group.wake_all();
        }
    }

    /// Resolves the receipt and returns its wake group, which the caller wakes once for all its receipts.
    /// `None` if it was resolved before.
    #[must_use = "waiting threads sleep until their group is woken"]
    pub(crate) fn resolve(&self, result: Result<T>) -> Option<&Arc<WakeGroup>> {
        let mut state = self.shared.state.lock();
        if state.result.is_some() {
            return None;
        }
        state.result = Some(result);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            self.shared.wake_group.call(waker);
        }
        Some(&self.shared.wake_group)
    }
}

impl<T> Drop for ReceiptSender<T> {
    fn drop(&mut self) {
        self.send(Err(Error::Closed));
    }
}

impl<T> fmt::Debug for ReceiptSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiptSender").finish_non_exhaustive()
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
        let (sender, receipt) = receipt_pair();
        let (_bystander_sender, bystander) = receipt_pair::<Accepted>();
        assert!(!receipt.is_done());
        assert!(receipt.wait_timeout(Duration::ZERO).is_none());
        sender.send(Ok(accepted()));
        sender.send(Err(Error::Closed));
        assert!(receipt.is_done());
        assert_eq!(receipt.wait_timeout(Duration::ZERO).unwrap().unwrap(), accepted());
        assert_eq!(receipt.wait().unwrap(), accepted());
        assert!(!bystander.is_done());
    }

    #[test]
    fn a_task_is_woken_by_the_waker_it_gave_last() {
        let (sender, mut receipt) = receipt_pair();
        let (first, last) = (Arc::new(Count::default()), Arc::new(Count::default()));
        for count in [&first, &last] {
            let waker = Waker::from(Arc::clone(count));
            assert!(Pin::new(&mut receipt).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        sender.send(Ok(accepted()));
        assert_eq!((first.0.load(Ordering::SeqCst), last.0.load(Ordering::SeqCst)), (0, 1));
        let waker = Waker::from(first);
        let polled = Pin::new(&mut receipt).poll(&mut Context::from_waker(&waker));
        assert!(matches!(polled, Poll::Ready(Ok(a)) if a == accepted()));
    }

    #[test]
    fn a_dropped_sender_resolves_its_receipt_as_closed() {
        let (sender, receipt) = receipt_pair::<Accepted>();
        drop(sender);
        assert!(matches!(receipt.wait(), Err(Error::Closed)));
    }

    #[test]
    fn another_thread_is_woken() {
        let (sender, receipt) = receipt_pair();
        let waiting = std::thread::spawn(move || receipt.wait());
        sender.send(Ok(accepted()));
        assert_eq!(waiting.join().unwrap().unwrap(), accepted());
    }

    #[test]
    fn one_wake_up_ends_the_wait_of_resolved_receipts_only() {
        let groups = WakeGroups::new(3, Arc::default());
        let (senders, receipts): (Vec<_>, Vec<_>) =
            (0..3).map(|_| receipt_pair_in::<Accepted>(groups.current())).unzip();
        let (later, bystander) = receipt_pair_in::<Accepted>(groups.current());
        let is_full = !Arc::ptr_eq(&later.shared.wake_group, &senders[0].shared.wake_group);
        assert!(is_full, "a group is bounded");
        let mut receipts = receipts.into_iter();
        let unresolved = receipts.next().unwrap();
        let threads: Vec<_> =
            receipts.map(|receipt| std::thread::spawn(move || receipt.wait())).collect();
        let slow = std::thread::spawn(move || {
            (unresolved.wait_timeout(Duration::from_secs(60)), unresolved)
        });
        let woken: Vec<_> =
            senders.iter().skip(1).filter_map(|one| one.resolve(Ok(accepted()))).collect();
        assert!(woken.iter().all(|group| Arc::ptr_eq(group, woken[0])));
        assert!(senders[1].resolve(Err(Error::Closed)).is_none());
        woken[0].wake_all();
        for thread in threads {
            assert_eq!(thread.join().unwrap().unwrap(), accepted());
        }
        assert!(!slow.is_finished() && !bystander.is_done(), "an unresolved receipt waits on");
        senders[0].send(Err(Error::Closed));
        assert!(matches!(slow.join().unwrap().0, Some(Err(Error::Closed))));
    }

    #[test]
    fn receipts_of_the_next_group_share_no_wake_up() {
        let groups = WakeGroups::new(10, Arc::default());
        let (first, second) = (groups.current(), groups.current());
        groups.start_next();
        let third = groups.current();
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&second, &third));
    }

    #[test]
    fn no_wake_up_is_lost_between_the_look_and_the_sleep() {
        let groups = WakeGroups::new(4, Arc::default());
        for _ in 0..2_000 {
            let (sender, receipt) = receipt_pair_in(groups.current());
            let (_other, bystander) = receipt_pair_in::<Accepted>(groups.current());
            let waiting = std::thread::spawn(move || receipt.wait());
            sender.send(Ok(accepted()));
            assert_eq!(waiting.join().unwrap().unwrap(), accepted());
            assert!(!bystander.is_done());
        }
    }
}
