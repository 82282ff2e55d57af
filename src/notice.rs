//! Decides how a host learns what happened: a bounded ring for each reader, a wake-up, and an event of
//! `tracing`.
//!
//! Leaves to others: counting (`stats`). Invariants: telling never blocks the engine; a reader that
//! is slow loses the oldest notices and is told how many ([`Notice::Lagged`]); no notice holds a payload
//! or a secret (I9).

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::attempt::Reason;
use crate::event::EventId;
use crate::subscription::SubscriptionId;

/// Something that happened and that nobody's call returned.
///
/// ```
/// # use wabahook::{Config, Engine, Event, Subscription};
/// # let directory = tempfile::tempdir()?;
/// # let engine = Engine::open(Config::new(directory.path()))?;
/// use wabahook::Notice;
///
/// let notices = engine.notices();
/// while let Some(notice) = notices.try_next() {
///     match notice {
///         Notice::Died { event, subscription, reason } => {
///             println!("{event} to {subscription}: {reason}");
///         }
///         Notice::Stalled { why } => println!("the device refuses: {why}"),
///         Notice::Lagged(lost) => println!("{lost} notices were not read in time"),
///         other => println!("{other:?}"),
///     }
/// }
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// This reader was slow: so many notices were dropped here.
    Lagged(u64),
    /// A delivery was given up and lies among the dead letters. Those that were given up with it,
    /// because they waited for it, are told after it, each by itself.
    Died {
        /// Which event.
        event: EventId,
        /// Whom it was owed to.
        subscription: SubscriptionId,
        /// Why.
        reason: Reason,
    },
    /// A subscription is served no more until it is [resumed](crate::Engine::resume) or subscribed again.
    Disabled {
        /// Which subscription.
        subscription: SubscriptionId,
        /// Why: what the receiver answered (410), [`Reason::Asked`] where it asked for no more
        /// deliveries, [`Reason::Failing`] where it did nothing but fail for as long as its terms allow.
        reason: Reason,
    },
    /// Deliveries owed to a subscription that was removed were cancelled.
    Cancelled {
        /// Which subscription.
        subscription: SubscriptionId,
        /// How many.
        deliveries: u64,
    },
    /// Deliveries are owed to a subscription that is neither known nor removed: they are held.
    Held {
        /// Which subscription.
        subscription: SubscriptionId,
        /// How many.
        deliveries: u64,
    },
    /// Every thread for attempts without an answer is in use: such endpoints now delay each other.
    StuckBudgetSpent {
        /// How many attempts wait without an answer.
        stuck: usize,
    },
    /// The device refused a write: nothing is accepted until [`Notice::Resumed`]. What was accepted
    /// before is safe and goes on being delivered.
    Stalled {
        /// What the device said.
        why: String,
    },
    /// The device takes writes again.
    Resumed,
    /// Dead letters were dropped, the oldest, because they were over their bounds.
    LettersDropped(u64),
    /// Dedup keys were dropped, the oldest, before their window ended, because there were more than
    /// `dedup_keys_max`: duplicates of their events would be accepted. Told when it begins and once in
    /// each twenty-fourth of the window while it goes on, with the number dropped at that moment;
    /// [`Stats::keys_dropped`](crate::Stats::keys_dropped) counts all.
    KeysDropped(u64),
    /// A part of the data directory could not be read and was renamed at open; the rest goes on.
    SetAside {
        /// Its new name; its old one where it is missing altogether.
        name: String,
        /// What was wrong with it, and what is lost.
        why: String,
    },
    /// An attempt could not be made for a reason of our own.
    Faulty {
        /// What happened.
        why: String,
    },
    /// The engine stopped; what it accepted is safe.
    Poisoned {
        /// What failed.
        why: String,
    },
}

impl Notice {
    /// One word for what happened, the same in every version.
    pub fn kind(&self) -> &'static str {
        match self {
            Notice::Lagged(_) => "lagged",
            Notice::Died { .. } => "died",
            Notice::Disabled { .. } => "disabled",
            Notice::Cancelled { .. } => "cancelled",
            Notice::Held { .. } => "held",
            Notice::StuckBudgetSpent { .. } => "stuck_budget_spent",
            Notice::Stalled { .. } => "stalled",
            Notice::Resumed => "resumed",
            Notice::LettersDropped(_) => "letters_dropped",
            Notice::KeysDropped(_) => "keys_dropped",
            Notice::SetAside { .. } => "set_aside",
            Notice::Faulty { .. } => "faulty",
            Notice::Poisoned { .. } => "poisoned",
        }
    }

    /// Tells `tracing`: an error where the engine or its directory is at fault, a warning where somebody
    /// should look, and the rest, of which there may be thousands a second, as information. `Resumed` is a
    /// warning so that whoever saw the error sees its end.
    fn trace(&self) {
        let kind = self.kind();
        match self {
            Notice::Stalled { .. }
            | Notice::SetAside { .. }
            | Notice::Faulty { .. }
            | Notice::Poisoned { .. } => tracing::error!(kind, "{self}"),
            Notice::Disabled { .. }
            | Notice::Held { .. }
            | Notice::StuckBudgetSpent { .. }
            | Notice::Resumed
            | Notice::LettersDropped(_)
            | Notice::KeysDropped(_) => tracing::warn!(kind, "{self}"),
            Notice::Died { .. } | Notice::Cancelled { .. } | Notice::Lagged(_) => {
                tracing::info!(kind, "{self}");
            }
        }
    }
}

/// A sentence for whoever runs the host.
impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Lagged(dropped) => write!(f, "{dropped} notices were dropped unread"),
            Notice::Died { event, subscription, reason } => {
                write!(f, "{event} was given up for subscription {subscription} ({reason})")
            }
            Notice::Disabled { subscription, reason } => {
                write!(f, "subscription {subscription} was disabled by its receiver ({reason})")
            }
            Notice::Cancelled { subscription, deliveries } => {
                write!(f, "{deliveries} deliveries of subscription {subscription} were cancelled")
            }
            Notice::Held { subscription, deliveries } => {
                write!(
                    f,
                    "{deliveries} deliveries are held: subscription {subscription} is not known"
                )
            }
            Notice::StuckBudgetSpent { stuck } => write!(
                f,
                "{stuck} attempts wait without an answer: such endpoints now delay each other"
            ),
            Notice::Stalled { why } => write!(
                f,
                "the device refuses ({why}): nothing is accepted until it takes writes again"
            ),
            Notice::Resumed => f.write_str("the device takes writes again"),
            Notice::LettersDropped(letters) => write!(
                f,
                "{letters} dead letters were dropped, the oldest, because they were too many"
            ),
            Notice::KeysDropped(keys) => write!(
                f,
                "dedup keys are dropped before their window ends, the oldest, because they are too \
                 many ({keys} just now; the stats count them)"
            ),
            Notice::SetAside { name, why } => {
                write!(f, "a part of the data directory was set aside as {name}: {why}")
            }
            Notice::Faulty { why } => write!(f, "something could not be done: {why}"),
            Notice::Poisoned { why } => write!(
                f,
                "the engine stopped ({why}); what it accepted is safe: restart this process"
            ),
        }
    }
}

/// One reader's ring of notices. Dropping it ends the reading.
#[derive(Debug)]
pub struct Notices {
    ring: Arc<Ring>,
}

struct Ring {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    notices: VecDeque<Notice>,
    dropped: u64,
}

impl Notices {
    /// The oldest unread notice, if there is one.
    pub fn try_next(&self) -> Option<Notice> {
        self.ring.waiting.lock().take()
    }

    /// The oldest unread notice, waiting up to `timeout` for one.
    pub fn next_timeout(&self, timeout: Duration) -> Option<Notice> {
        let mut waiting = self.ring.waiting.lock();
        if waiting.is_empty() {
            self.ring.arrived.wait_while_for(&mut waiting, |waiting| waiting.is_empty(), timeout);
        }
        waiting.take()
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.notices.is_empty() && self.dropped == 0
    }

    fn take(&mut self) -> Option<Notice> {
        match std::mem::take(&mut self.dropped) {
            0 => self.notices.pop_front(),
            dropped => Some(Notice::Lagged(dropped)),
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

/// Where the engine tells what happened.
pub(crate) struct Board {
    readers: Mutex<Vec<Weak<Ring>>>,
    wakers: Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>,
    notices_max: usize,
    /// What was found at open, before there could be a reader: each reader begins with it.
    standing: Vec<Notice>,
}

impl Board {
    pub(crate) fn new(notices_max: usize, standing: Vec<Notice>) -> Board {
        standing.iter().for_each(Notice::trace);
        let (readers, wakers) = (Mutex::default(), Mutex::default());
        Board { readers, wakers, notices_max, standing }
    }

    /// A new reader, which sees what was found at open and what happens from now on.
    pub(crate) fn reader(&self) -> Notices {
        let notices = self.standing.iter().cloned().collect();
        let waiting = Mutex::new(Waiting { notices, dropped: 0 });
        let ring = Arc::new(Ring { waiting, arrived: Condvar::new() });
        self.readers.lock().push(Arc::downgrade(&ring));
        Notices { ring }
    }

    /// Calls `wake` after each notice, on the engine's threads, outside of its locks.
    pub(crate) fn wake_with(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.wakers.lock().push(wake);
    }

    /// Tells every reader.
    pub(crate) fn tell(&self, notice: &Notice) {
        notice.trace();
        self.readers.lock().retain(|reader| {
            let Some(ring) = reader.upgrade() else { return false };
            let mut waiting = ring.waiting.lock();
            if waiting.notices.len() >= self.notices_max {
                waiting.notices.pop_front();
                waiting.dropped += 1;
            }
            waiting.notices.push_back(notice.clone());
            drop(waiting);
            ring.arrived.notify_one();
            true
        });
        let wakers = self.wakers.lock().clone();
        wakers.iter().for_each(|wake| wake());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn notice(n: u64) -> Notice {
        Notice::Cancelled { subscription: SubscriptionId(1), deliveries: n }
    }

    #[test]
    fn a_slow_reader_is_told_how_much_it_lost_and_a_quick_one_loses_nothing() {
        let board = Board::new(2, Vec::new());
        let (slow, quick) = (board.reader(), board.reader());
        for n in 0..5 {
            board.tell(&notice(n));
            assert_eq!(quick.try_next(), Some(notice(n)));
        }
        assert_eq!(slow.try_next(), Some(Notice::Lagged(3)));
        assert_eq!(slow.try_next(), Some(notice(3)));
        assert_eq!(slow.next_timeout(Duration::ZERO), Some(notice(4)));
        assert_eq!(slow.next_timeout(Duration::ZERO), None);
    }

    #[test]
    fn a_reader_that_is_gone_costs_nothing_and_wakers_are_called() {
        let board = Board::new(2, Vec::new());
        drop(board.reader());
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        board.wake_with(Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        board.tell(&notice(1));
        assert_eq!(board.readers.lock().len(), 0);
        assert_eq!(woken.load(Ordering::SeqCst), 1);
    }
}
