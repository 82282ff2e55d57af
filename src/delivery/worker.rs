//! Decides how the threads that make attempts live: named, with small stacks, one loop.
//!
//! Leaves to others: which attempt is next and how many threads there are (`engine`). Invariant: a
//! panic while an attempt is made ends that attempt as a failure and not the thread's duty.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::attempt::{Attempt, Failure, Made};
use crate::threads::{self, Scheduling};

/// Where workers take attempts from and bring their replies to.
pub(crate) trait Source: Send + Sync + 'static {
    /// The next attempt, waiting for one. `None` ends the worker.
    fn next(&self) -> Option<Attempt>;

    /// Makes the attempt.
    fn attempt(&self, attempt: Attempt) -> Made;

    /// Whether workers step back for those that run.
    fn steps_back(&self) -> bool;

    /// Takes the reply, and gives the next attempt if one is ready.
    fn complete(&self, attempt: Attempt, made: Made) -> Option<Attempt>;
}

/// Starts workers.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    started: AtomicU64,
}

/// A thousand stuck workers must stay cheap; an attempt needs far less than this.
const STACK_BYTES: usize = 256 * 1024;

impl Crew {
    /// Starts one worker.
    pub(crate) fn start(&self, source: Arc<dyn Source>) -> io::Result<()> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let name = format!("wabahook-worker-{number}");
        threads::start(&name, Some(STACK_BYTES), move || work(&*source)).map(drop)
    }
}

fn work(source: &dyn Source) {
    let mut scheduling = Scheduling::of_this_thread();
    let mut next = source.next();
    while let Some(attempt) = next {
        scheduling.step_back(source.steps_back());
        let made = unwound(|| source.attempt(attempt));
        next = source.complete(attempt, made).or_else(|| source.next());
    }
}

/// What an attempt came to; a panic while it is made is a failure of ours.
pub(crate) fn unwound(attempt: impl FnOnce() -> Made) -> Made {
    catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|_| Failure::Internal.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::{DeliveryId, Reply};
    use crate::subscription::SubscriptionId;
    use parking_lot::Mutex;
    use std::time::Duration;

    /// Three attempts, of which the second panics.
    struct Scripted {
        left: Mutex<Vec<Attempt>>,
        replies: crossbeam_channel::Sender<(u64, Reply)>,
    }

    impl Source for Scripted {
        fn next(&self) -> Option<Attempt> {
            self.left.lock().pop()
        }

        fn steps_back(&self) -> bool {
            false
        }

        fn attempt(&self, attempt: Attempt) -> Made {
            assert!(attempt.delivery.sequence != 2, "a bug of ours");
            Made { reply: Reply::status(200), event_type: None }
        }

        fn complete(&self, attempt: Attempt, made: Made) -> Option<Attempt> {
            self.replies.send((attempt.delivery.sequence, made.reply)).unwrap();
            None
        }
    }

    #[test]
    fn a_panic_is_a_failed_attempt_and_the_worker_goes_on() {
        let attempt = |sequence| Attempt {
            delivery: DeliveryId { sequence, subscription: SubscriptionId(1) },
            number: 1,
        };
        let (replies, received) = crossbeam_channel::unbounded();
        let left = Mutex::new(vec![attempt(3), attempt(2), attempt(1)]);
        Crew::default().start(Arc::new(Scripted { left, replies })).unwrap();
        let answered = Reply::status(200);
        let expected =
            [(1, answered.clone()), (2, Reply::Failed(Failure::Internal)), (3, answered)];
        for expected in expected {
            assert_eq!(received.recv_timeout(Duration::from_secs(10)).unwrap(), expected);
        }
    }
}
