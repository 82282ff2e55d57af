//! Notices: what happened in the engine that no call returned.
//!
//! Each reader has a bounded ring of its own. Sending never blocks the engine: a slow reader loses the oldest
//! notices and is told how many ([`Notice::Lagged`]). Every notice is also an event of `tracing`. No notice
//! contains a payload or a secret (I9).

mod log;
mod text;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

pub(crate) use self::log::FindSubscription;
use self::log::NoticeLog;
use crate::account::{AccountId, AccountState};
use crate::attempt::Reason;
use crate::event::EventId;
use crate::process::HostCalls;
use crate::stats::{Bound, CallbackRefusal};
use crate::subscription::SubscriptionId;
use crate::text::debug_fields;

/// Something that happened and that no call returned.
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
///         Notice::DeadLettered { event, subscription, reason } => {
///             println!("{event} to {subscription}: {reason}");
///         }
///         Notice::Stalled { why } => println!("the device refuses writes: {why}"),
///         Notice::Lagged(lost) => println!("{lost} notices were lost"),
///         other => println!("{other}"),
///     }
/// }
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(tag = "kind", content = "detail", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Notice {
    /// This reader was slow and lost so many notices.
    Lagged(u64),
    /// A delivery became a dead letter. Deliveries that depended on it follow, each with its own notice.
    DeadLettered {
        /// The event.
        event: EventId,
        /// The subscription it was owed to.
        subscription: SubscriptionId,
        /// Why it was given up.
        #[cfg_attr(
            feature = "serde",
            serde(serialize_with = "crate::text::serde_with::display::serialize")
        )]
        reason: Reason,
    },
    /// A subscription was disabled. It gets no deliveries until it is [resumed](crate::Engine::resume) or
    /// subscribed again.
    Disabled {
        /// The subscription.
        subscription: SubscriptionId,
        /// Why: the receiver's status (410), [`Reason::ReceiverDisabled`] if the receiver asked for it, or
        /// [`Reason::Failing`] if every attempt failed for as long as the policy allows.
        #[cfg_attr(
            feature = "serde",
            serde(serialize_with = "crate::text::serde_with::display::serialize")
        )]
        reason: Reason,
    },
    /// Deliveries of a subscription were cancelled by the host, or because it was removed.
    Cancelled {
        /// The subscription.
        subscription: SubscriptionId,
        /// How many deliveries.
        deliveries: u64,
    },
    /// Deliveries are owed to a subscription that is neither known nor removed. They are held.
    Held {
        /// The subscription.
        subscription: SubscriptionId,
        /// How many deliveries.
        deliveries: u64,
    },
    /// A stored subscription that this build cannot serve, because another build wrote it or what was valid
    /// then is no longer. It stays stored and what it is owed is held, until it is subscribed again under its
    /// name, removed, or served by another build.
    NotServed {
        /// The subscription.
        subscription: SubscriptionId,
        /// Its account and name, where they can be read.
        name: Option<(String, String)>,
        /// What this build cannot serve.
        why: String,
    },
    /// Deliveries that are ready wait, because a bound on attempts in flight is reached or something of ours is
    /// short. Sent when that begins, and again only after a minute without it.
    BoundReached {
        /// Which bound.
        bound: Bound,
    },
    /// The device refused a write. Nothing is accepted until [`Notice::Resumed`]; what was accepted before is
    /// safe and is still delivered.
    Stalled {
        /// The error of the device.
        why: String,
    },
    /// The device accepts writes again.
    Resumed,
    /// Dead letters of an account, its oldest, were dropped because they exceeded their limits. Sent at most once a
    /// minute for each account; [`Stats::letters_dropped`](crate::Stats::letters_dropped) counts all.
    DeadLettersDropped {
        /// The account.
        account: String,
        /// How many since the last notice.
        letters: u64,
    },
    /// The host discarded so many dead letters.
    DeadLettersDiscarded(u64),
    /// The host purged what was kept of a contact, a number or an account.
    Purged {
        /// How many events were owed or had dead letters.
        events: u64,
        /// How many deliveries and dead letters ended.
        deliveries: u64,
    },
    /// So many dedup keys, the oldest, were dropped before the end of their window, because an account, or all
    /// together, had more than [`dedup_keys_max`](crate::AccountLimits::dedup_keys_max). Duplicates of their events would be accepted.
    /// Sent once when an account reaches the limit;
    /// [`Stats::keys_dropped`](crate::Stats::keys_dropped) counts all.
    DedupKeysDropped(u64),
    /// Deliveries of an account that is suspended or removed are held: none is attempted and none is lost. Sent
    /// when the engine opens, and when the account is suspended or removed.
    AccountHeld {
        /// The account.
        #[cfg_attr(feature = "serde", serde(with = "crate::text::serde_with::display"))]
        account: AccountId,
        /// Its name.
        name: String,
        /// Its state.
        #[cfg_attr(feature = "serde", serde(with = "crate::text::serde_with::display"))]
        state: AccountState,
        /// How many deliveries are held.
        deliveries: u64,
    },
    /// A part of the data directory was unreadable and was renamed at open; the rest was opened.
    SetAside {
        /// Its new name, or its old one if it is missing.
        name: String,
        /// What was wrong with it, and what is lost.
        why: String,
    },
    /// A callback named a number or WABA that no account owns. Sent once for each, as long as it is
    /// [remembered](crate::Engine::unowned).
    Unowned {
        /// The number as the callback names it; `None` where it names none.
        number: Option<String>,
        /// The id of the WABA; `None` where it names none.
        waba: Option<String>,
    },
    /// Callbacks were refused. Sent at most once a minute for each reason.
    CallbackRefused {
        /// Why.
        reason: CallbackRefusal,
        /// How many since the last notice of this reason.
        count: u64,
        /// The error of the last one.
        detail: String,
    },
    /// An operation failed because of an error of ours.
    InternalError {
        /// What happened.
        why: String,
    },
    /// The server of the store would confirm a write without a replica, although one is required. It was
    /// safe before; the loss of that server now loses what was accepted since.
    Unreplicated {
        /// What the server says.
        why: String,
    },
    /// Another host has taken over the store, and this engine has stopped. What it accepted is safe and is
    /// delivered there.
    NotOwner,
    /// The engine stopped. What it accepted is safe.
    Poisoned {
        /// What failed.
        why: String,
    },
}

impl Notice {
    /// The kind as one word, the same in every version.
    pub fn kind(&self) -> &'static str {
        match self {
            Notice::Lagged(_) => "lagged",
            Notice::DeadLettered { .. } => "dead_lettered",
            Notice::Disabled { .. } => "disabled",
            Notice::Cancelled { .. } => "cancelled",
            Notice::Held { .. } => "held",
            Notice::AccountHeld { .. } => "account_held",
            Notice::NotServed { .. } => "not_served",
            Notice::BoundReached { .. } => "bound_reached",
            Notice::Stalled { .. } => "stalled",
            Notice::Resumed => "resumed",
            Notice::DeadLettersDropped { .. } => "dead_letters_dropped",
            Notice::DeadLettersDiscarded(_) => "dead_letters_discarded",
            Notice::Purged { .. } => "purged",
            Notice::DedupKeysDropped(_) => "dedup_keys_dropped",
            Notice::SetAside { .. } => "set_aside",
            Notice::Unowned { .. } => "unowned",
            Notice::CallbackRefused { .. } => "callback_refused",
            Notice::InternalError { .. } => "internal_error",
            Notice::Unreplicated { .. } => "unreplicated",
            Notice::NotOwner => "not_owner",
            Notice::Poisoned { .. } => "poisoned",
        }
    }
}

/// One reader's ring of notices.
///
/// As an iterator it waits for each next notice, and ends when the engine is closed. To wait for a bounded
/// time, or not at all, use [`next_timeout`](Notices::next_timeout) or [`try_next`](Notices::try_next).
///
/// ```
/// # use wabahook::{Config, Engine};
/// # let directory = tempfile::tempdir()?;
/// # let engine = Engine::open(Config::new(directory.path()))?;
/// let notices = engine.notices();
/// let printing = std::thread::spawn(move || notices.for_each(|notice| println!("{notice}")));
/// engine.close(std::time::Duration::from_secs(10))?;
/// printing.join().expect("it ends with the engine");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Notices {
    ring: Arc<NoticeRing>,
}

struct NoticeRing {
    unread: Mutex<Unread>,
    arrived: Condvar,
}

#[derive(Default)]
struct Unread {
    notices: VecDeque<Notice>,
    lost: u64,
    is_closed: bool,
}

impl Notices {
    /// The oldest unread notice, if there is one. Does not wait.
    pub fn try_next(&self) -> Option<Notice> {
        self.ring.unread.lock().take()
    }

    /// The oldest unread notice; waits up to `timeout` for one. `None` at once when the engine is closed and
    /// every notice was read.
    pub fn next_timeout(&self, timeout: Duration) -> Option<Notice> {
        let mut unread = self.ring.unread.lock();
        self.ring.arrived.wait_while_for(&mut unread, |unread| unread.must_wait(), timeout);
        unread.take()
    }
}

impl Iterator for Notices {
    type Item = Notice;

    /// Waits for the next notice; `None` when the engine is closed and every notice was read.
    fn next(&mut self) -> Option<Notice> {
        let mut unread = self.ring.unread.lock();
        self.ring.arrived.wait_while(&mut unread, |unread| unread.must_wait());
        unread.take()
    }
}

impl Unread {
    fn must_wait(&self) -> bool {
        self.notices.is_empty() && self.lost == 0 && !self.is_closed
    }

    fn take(&mut self) -> Option<Notice> {
        match std::mem::take(&mut self.lost) {
            0 => self.notices.pop_front(),
            lost => Some(Notice::Lagged(lost)),
        }
    }
}

debug_fields!(NoticeRing);

/// Sends notices to every reader.
pub(crate) struct NoticeBroadcaster {
    readers: Mutex<Vec<Weak<NoticeRing>>>,
    callbacks: Mutex<Vec<Arc<NoticeCallback>>>,
    host_calls: HostCalls,
    notices_max: usize,
    /// What open found, before there could be a reader. Each reader starts with it.
    initial: Vec<Notice>,
    is_closed: AtomicBool,
    log: NoticeLog,
}

/// A callback of the host.
struct NoticeCallback {
    wake: Box<dyn Fn() + Send + Sync>,
    /// Whether a call is queued that did not begin yet. That call covers every notice until it begins, so a callback
    /// that hangs has at most one call waiting.
    is_queued: AtomicBool,
}

impl NoticeBroadcaster {
    pub(crate) fn new(notices_max: usize, initial: Vec<Notice>) -> Arc<NoticeBroadcaster> {
        let log = NoticeLog::default();
        initial.iter().for_each(|notice| log.log(notice));
        Arc::new_cyclic(|weak: &Weak<NoticeBroadcaster>| NoticeBroadcaster {
            readers: Mutex::default(),
            callbacks: Mutex::default(),
            host_calls: report_panics(
                weak.clone(),
                "wabahook-notices",
                "a callback of on_notice panicked",
            ),
            notices_max,
            initial,
            is_closed: AtomicBool::new(false),
            log,
        })
    }

    /// Calls of the host's code on a thread of this name. The first panic is sent as a notice that says `why`.
    pub(crate) fn host_calls(
        self: &Arc<Self>,
        thread: &'static str,
        why: &'static str,
    ) -> HostCalls {
        report_panics(Arc::downgrade(self), thread, why)
    }

    /// Lets the log name the subscriptions that notices are about.
    pub(crate) fn find_subscriptions_with(&self, find: FindSubscription) {
        let _ = self.log.find.set(find);
    }

    /// A new reader. It gets what open found and everything from now on.
    pub(crate) fn reader(&self) -> Notices {
        let notices = self.initial.iter().cloned().collect();
        let mut readers = self.readers.lock();
        let is_closed = self.is_closed.load(Ordering::Relaxed);
        let unread = Mutex::new(Unread { notices, lost: 0, is_closed });
        let ring = Arc::new(NoticeRing { unread, arrived: Condvar::new() });
        readers.push(Arc::downgrade(&ring));
        drop(readers);
        Notices { ring }
    }

    /// Calls `wake` after notices, on a thread for the host's code.
    pub(crate) fn wake_with(&self, wake: Box<dyn Fn() + Send + Sync>) {
        let is_queued = AtomicBool::new(false);
        self.callbacks.lock().push(Arc::new(NoticeCallback { wake, is_queued }));
    }

    /// Sends a notice to every reader.
    pub(crate) fn send(&self, notice: &Notice) {
        self.log.log(notice);
        self.update_readers(|unread| {
            if unread.notices.len() >= self.notices_max {
                unread.notices.pop_front();
                unread.lost += 1;
            }
            unread.notices.push_back(notice.clone());
        });
        let callbacks = self.callbacks.lock().clone();
        for callback in callbacks {
            if !callback.is_queued.swap(true, Ordering::AcqRel) {
                self.host_calls.run(move || {
                    callback.is_queued.store(false, Ordering::Release);
                    (callback.wake)();
                });
            }
        }
    }

    /// Ends every reader once it has read what was sent before.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.update_readers(|unread| unread.is_closed = true);
        // A callback may hold a handle of the engine, which would keep it alive.
        let callbacks = std::mem::take(&mut *self.callbacks.lock());
        drop(callbacks);
    }

    fn update_readers(&self, update: impl Fn(&mut Unread)) {
        self.readers.lock().retain(|reader| {
            let Some(ring) = reader.upgrade() else { return false };
            update(&mut ring.unread.lock());
            ring.arrived.notify_one();
            true
        });
    }
}

fn report_panics(
    broadcaster: Weak<NoticeBroadcaster>,
    thread: &'static str,
    why: &'static str,
) -> HostCalls {
    HostCalls::new(thread, move || {
        if let Some(broadcaster) = broadcaster.upgrade() {
            broadcaster.send(&Notice::InternalError { why: why.to_owned() });
        }
    })
}

impl Drop for NoticeBroadcaster {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(n: u64) -> Notice {
        Notice::Cancelled { subscription: SubscriptionId(1), deliveries: n }
    }

    #[test]
    fn a_slow_reader_loses_the_oldest_and_is_told_how_many() {
        let broadcaster = NoticeBroadcaster::new(2, Vec::new());
        let (slow, quick) = (broadcaster.reader(), broadcaster.reader());
        for n in 0..5 {
            broadcaster.send(&notice(n));
            assert_eq!(quick.try_next(), Some(notice(n)));
        }
        assert_eq!(slow.try_next(), Some(Notice::Lagged(3)));
        assert_eq!(slow.try_next(), Some(notice(3)));
        assert_eq!(slow.next_timeout(Duration::ZERO), Some(notice(4)));
        assert_eq!(slow.next_timeout(Duration::ZERO), None);
    }

    #[test]
    fn a_dropped_reader_is_removed_and_callbacks_are_called() {
        let broadcaster = NoticeBroadcaster::new(2, Vec::new());
        drop(broadcaster.reader());
        let (sender, woken) = std::sync::mpsc::channel();
        broadcaster.wake_with(Box::new(move || sender.send(()).unwrap()));
        broadcaster.send(&notice(1));
        assert_eq!(broadcaster.readers.lock().len(), 0);
        woken.recv_timeout(Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn an_iterator_ends_after_the_last_notice_of_a_closed_engine() {
        let broadcaster = NoticeBroadcaster::new(2, vec![notice(1)]);
        let reader = broadcaster.reader();
        broadcaster.send(&notice(2));
        broadcaster.close();
        assert_eq!(reader.collect::<Vec<_>>(), [notice(1), notice(2)]);
        let waiting = broadcaster.reader();
        let waiting = std::thread::spawn(move || waiting.last());
        drop(broadcaster);
        assert_eq!(waiting.join().unwrap(), Some(notice(1)));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn a_notice_is_serialized_with_its_kind_and_texts() {
        let (event, subscription) = (EventId::new(1, 2), SubscriptionId(3));
        let dead = Notice::DeadLettered { event, subscription, reason: Reason::Status(404) };
        let detail = serde_json::json!({
            "event": event.to_string(), "subscription": 3, "reason": "status:404",
        });
        for (notice, expected) in [
            (dead, serde_json::json!({"kind": "dead_lettered", "detail": detail})),
            (Notice::Lagged(5), serde_json::json!({"kind": "lagged", "detail": 5})),
            (Notice::Resumed, serde_json::json!({"kind": "resumed"})),
        ] {
            assert_eq!(expected["kind"], notice.kind());
            assert_eq!(serde_json::to_value(&notice).unwrap(), expected);
        }
    }
}
