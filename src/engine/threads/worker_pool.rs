//! The threads that make attempts through a blocking transport, and begin those of one that answers later. A thread
//! takes an attempt, sends it, reports its end and continues with the next. The timekeeper starts threads as they are
//! needed, up to the bound on attempts in flight; a thread that finds nothing to do for a while ends. A panic during an
//! attempt ends that attempt, uncounted, and not the thread.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use parking_lot::MutexGuard;

use crate::attempt::{Attempt, AttemptEnd};
use crate::engine::attempts::CompletedAttempt;
use crate::engine::shared::{DispatchState, Shared};
use crate::process::threads::{self, ThreadScheduling};
use crate::transport::Shortage;

/// How long a worker waits for an attempt before it ends, while other workers are left.
const IDLE: Duration = Duration::from_secs(10);

/// How many idle workers stay, so that the first attempt after a pause starts at once.
pub(in crate::engine) const WORKERS_KEPT: usize = 2;

/// A thousand waiting workers must stay cheap; an attempt needs far less than this.
const STACK_BYTES: usize = 256 * 1024;

pub(in crate::engine) fn start_worker(shared: &Arc<Shared>) -> io::Result<()> {
    let number = shared.workers_started.fetch_add(1, Ordering::Relaxed);
    let name = format!("wabahook-worker-{number}");
    let held = Arc::clone(shared);
    threads::start(&name, Some(STACK_BYTES), move || held.work()).map(drop)
}

impl Shared {
    fn work(self: &Arc<Self>) {
        let mut scheduling = ThreadScheduling::of_this_thread();
        let answers_later = self.transport.answers_later();
        let mut next = self.wait_for_attempt();
        while let Some(attempt) = next {
            scheduling.set_batch(self.yields_cpu.load(Ordering::Relaxed));
            let taken = match answers_later {
                true => {
                    // A panic drops the answer, which ends the attempt.
                    let _ = catch_unwind(AssertUnwindSafe(|| self.begin(attempt)));
                    None
                }
                false => self.attempt_and_take_next(attempt),
            };
            next = taken.or_else(|| self.wait_for_attempt());
        }
    }

    fn attempt_and_take_next(&self, attempt: Attempt) -> Option<Attempt> {
        let ended = catch_unwind(AssertUnwindSafe(|| self.attempt(attempt)));
        let end = AttemptEnd::Uncounted(Shortage::Panic);
        self.complete(ended.unwrap_or(CompletedAttempt { attempt, end, event: None }))
    }

    /// Waits for the next attempt. `None` ends the worker.
    fn wait_for_attempt(&self) -> Option<Attempt> {
        let mut state = self.dispatch_state.lock();
        loop {
            if state.closing {
                return self.end_worker(state);
            }
            if let Some(attempt) = self.take_attempt(&mut state) {
                return Some(attempt);
            }
            state.idle += 1;
            let idled = self.work.wait_for(&mut state, IDLE).timed_out();
            state.idle -= 1;
            if self.yields_cpu.load(Ordering::Relaxed) {
                // The publishers and the committer, which were woken by the same group, form the next one first.
                MutexGuard::unlocked(&mut state, thread::yield_now);
            }
            if idled && state.workers > WORKERS_KEPT && state.workers_wanted() == 0 {
                return self.end_worker(state);
            }
        }
    }

    /// Wakes those who make the attempts that could start, and the timekeeper if it sleeps too long or is
    /// needed for something else.
    pub(in crate::engine) fn wake_workers(&self, state: &mut DispatchState) {
        let is_short_of_workers = match self.http {
            Some(_) => {
                state.wake_io();
                false
            }
            None => {
                let wanted = state.workers_wanted();
                if state.idle > 0 && state.workers - state.idle < wanted {
                    self.work.notify_one();
                }
                state.workers < wanted
            }
        };
        let sooner = match (state.dispatcher.next_timer_ms(), state.timer_due_ms) {
            (Some(due_ms), Some(set_ms)) => due_ms < set_ms,
            (due_ms, None) => due_ms.is_some(),
            (None, Some(_)) => false,
        };
        if sooner || is_short_of_workers || state.bounds.unreported.is_some() {
            self.timer.notify_one();
        }
    }

    fn end_worker(&self, mut state: MutexGuard<'_, DispatchState>) -> Option<Attempt> {
        state.workers -= 1;
        drop(state);
        self.threads_ended.notify_all();
        None
    }
}
