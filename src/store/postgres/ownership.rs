//! What this process knows of its ownership. It may act until the lease ends by its own monotonic clock, counted from
//! before the renewal was sent, so that it never acts longer than the server lets it. Writes need no clock: the epoch
//! decides.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::store::{StoreEvent, StoreFailure, StoreListener};

/// The ownership of one shard, from before it is taken until it is lost or given up.
pub(super) struct Ownership {
    /// Names this ownership in the lease, whatever its epoch.
    pub(super) token: String,
    pub(super) ttl: Duration,
    began: Instant,
    state: AtomicU8,
    /// When the lease ends, in milliseconds since `began`.
    ends_ms: AtomicU64,
    has_lapsed: AtomicBool,
    told: Mutex<ToldEvents>,
}

/// The listener, and what happened before there was one.
#[derive(Default)]
struct ToldEvents {
    listener: Option<StoreListener>,
    untold: Vec<StoreEvent>,
}

const WAITING: u8 = 0;
const HELD: u8 = 1;
const LOST: u8 = 2;
const RELEASED: u8 = 3;

impl Ownership {
    pub(super) fn new(token: String, ttl: Duration) -> Ownership {
        Ownership {
            token,
            ttl,
            began: Instant::now(),
            state: AtomicU8::new(WAITING),
            ends_ms: AtomicU64::new(0),
            has_lapsed: AtomicBool::new(false),
            told: Mutex::default(),
        }
    }

    /// The lease was taken or extended by a request that was sent at `sent`.
    pub(super) fn extend(&self, sent: Instant) {
        let _ = self.state.compare_exchange(WAITING, HELD, Ordering::AcqRel, Ordering::Acquire);
        let ends = sent.saturating_duration_since(self.began) + self.ttl;
        let ends_ms = u64::try_from(ends.as_millis()).unwrap_or(u64::MAX);
        self.ends_ms.fetch_max(ends_ms, Ordering::AcqRel);
        if self.has_lapsed.swap(false, Ordering::AcqRel) && self.is_held() {
            self.tell(StoreEvent::OwnerAgain);
        }
    }

    /// Notes whether the lease has ended and was not extended since.
    pub(super) fn note_lapse(&self) {
        if self.is_current() && !self.is_held() {
            self.has_lapsed.store(true, Ordering::Release);
        }
    }

    /// Whether this process may act now.
    pub(super) fn is_held(&self) -> bool {
        let passed = self.began.elapsed().as_millis();
        self.is_current() && passed < u128::from(self.ends_ms.load(Ordering::Acquire))
    }

    /// Whether it was taken, and neither lost nor given up.
    pub(super) fn is_current(&self) -> bool {
        self.state.load(Ordering::Acquire) == HELD
    }

    pub(super) fn was_acquired(&self) -> bool {
        self.state.load(Ordering::Acquire) != WAITING
    }

    /// Refuses what only an owner may do. The lease may have ended: the epoch says whether it was taken.
    pub(super) fn check(&self) -> Result<(), StoreFailure> {
        match self.state.load(Ordering::Acquire) {
            HELD => Ok(()),
            LOST => Err(StoreFailure::Fenced),
            RELEASED => Err(StoreFailure::Closed),
            _ => Err(StoreFailure::InUse),
        }
    }

    /// Another owner has taken over.
    pub(super) fn lose(&self) {
        let lost = self.state.compare_exchange(HELD, LOST, Ordering::AcqRel, Ordering::Acquire);
        if lost.is_ok() {
            self.tell(StoreEvent::Lost);
        }
    }

    /// Gives it up. Returns whether it was held.
    pub(super) fn release(&self) -> bool {
        let released =
            self.state.compare_exchange(HELD, RELEASED, Ordering::AcqRel, Ordering::Acquire);
        released.is_ok()
    }

    pub(super) fn listen(&self, listener: StoreListener) {
        let mut told = self.told.lock();
        told.untold.drain(..).for_each(&listener);
        told.listener = Some(listener);
    }

    pub(super) fn tell(&self, event: StoreEvent) {
        let mut told = self.told.lock();
        match &told.listener {
            Some(listener) => listener(event),
            None => told.untold.push(event),
        }
    }
}
