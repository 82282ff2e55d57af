//! Runs code of the host, such as wakers of receipts and callbacks of notices, on a thread of its own. So it may
//! call the engine, block or panic, and neither a thread nor a lock of the engine waits for it. The thread starts
//! with the first call and ends when everything that can queue calls is dropped.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Sender, unbounded};

use super::threads;

type HostCall = Box<dyn FnOnce() + Send>;

/// A queue of calls, and the thread that makes them in order.
#[derive(Default)]
pub(crate) struct HostCalls {
    thread_name: &'static str,
    queue: OnceLock<Sender<HostCall>>,
    panics: Arc<PanicReport>,
}

/// Reports the first panic.
#[derive(Default)]
struct PanicReport {
    tell: Option<Box<dyn Fn() + Send + Sync>>,
    has_told: AtomicBool,
}

impl PanicReport {
    fn catch(&self, call: HostCall) {
        if catch_unwind(AssertUnwindSafe(call)).is_err()
            && !self.has_told.swap(true, Ordering::Relaxed)
            && let Some(tell) = &self.tell
        {
            tell();
        }
    }
}

impl HostCalls {
    /// Calls on a thread of this name. `on_first_panic` runs once, after the first call that panics.
    pub(crate) fn new(
        thread_name: &'static str,
        on_first_panic: impl Fn() + Send + Sync + 'static,
    ) -> HostCalls {
        let tell: Box<dyn Fn() + Send + Sync> = Box::new(on_first_panic);
        let panics = Arc::new(PanicReport { tell: Some(tell), ..PanicReport::default() });
        HostCalls { thread_name, queue: OnceLock::new(), panics }
    }

    /// Queues a call and does not wait for it. If the system refuses the thread, the call is made here.
    pub(crate) fn run(&self, call: impl FnOnce() + Send + 'static) {
        let call: HostCall = Box::new(call);
        let refused = match self.sender() {
            Some(sender) => sender.send(call).map_err(|refused| refused.0).err(),
            None => Some(call),
        };
        if let Some(call) = refused {
            self.panics.catch(call);
        }
    }

    fn sender(&self) -> Option<&Sender<HostCall>> {
        if self.queue.get().is_none() {
            let (sender, calls) = unbounded::<HostCall>();
            let panics = Arc::clone(&self.panics);
            let run = move || calls.iter().for_each(|call| panics.catch(call));
            threads::start(self.thread_name, None, run).ok()?;
            // Another caller may have been first; then this thread ends, because its sender is dropped.
            let _ = self.queue.set(sender);
        }
        self.queue.get()
    }
}

impl fmt::Debug for HostCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostCalls").field("thread_name", &self.thread_name).finish_non_exhaustive()
    }
}
