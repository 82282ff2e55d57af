//! Time and chance. [`Clock`] gives time and jitter behind one trait, so that a test can repeat a run exactly.
//!
//! Everything that depends on time or jitter takes them as arguments; the library reads clocks and
//! makes random numbers only here (I6, checked by a test of the source). Scheduling uses the monotonic clock; the wall clock is only stored
//! and shown.
#![allow(
    clippy::disallowed_methods,
    reason = "the only file that reads clocks and asks for randomness"
)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// A source of time and of random numbers.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use wabahook::clock::{Clock, ManualClock};
/// let clock = Arc::new(ManualClock::new(1_700_000_000_000, 7));
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.wall_ms(), 1_700_000_060_000);
/// let config = wabahook::Config::new("outbox").clock(clock);
/// # let _ = config;
/// ```
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since a fixed moment of this process. Never goes back; scheduling uses it.
    fn monotonic_ms(&self) -> u64;

    /// Milliseconds since the Unix epoch. May jump; used for what is stored or shown.
    fn wall_ms(&self) -> u64;

    /// A random number, uniform in all 64 bits, for jitter and tie-breaking. Never used for secrets.
    fn random_u64(&self) -> u64;

    /// Registers a callback for when time jumps, so that waiting threads look again. [`SystemClock`] never
    /// calls it.
    fn on_jump(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        let _ = wake;
    }
}

/// The machine's clocks, and a generator seeded by the operating system.
pub struct SystemClock {
    started: Instant,
    random: Mutex<fastrand::Rng>,
}

impl SystemClock {
    /// Starts the monotonic clock at zero.
    pub fn new() -> SystemClock {
        SystemClock {
            started: Instant::now(),
            random: Mutex::new(fastrand::Rng::with_seed(seed())),
        }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn monotonic_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
    }

    fn random_u64(&self) -> u64 {
        self.random.lock().u64(..)
    }
}

impl fmt::Debug for SystemClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemClock")
    }
}

/// A clock that a test moves by hand, with random numbers from a seed.
///
/// ```
/// use std::time::Duration;
/// use wabahook::clock::{Clock, ManualClock};
/// let clock = ManualClock::new(1_700_000_000_000, 7);
/// clock.advance(Duration::from_millis(1_500));
/// assert_eq!(clock.monotonic_ms(), 1_500);
/// assert_eq!(clock.wall_ms(), 1_700_000_001_500);
/// ```
pub struct ManualClock {
    monotonic_ms: AtomicU64,
    wall_ms: AtomicU64,
    random: Mutex<fastrand::Rng>,
    wakers: Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>,
}

impl ManualClock {
    /// Starts at zero monotonic time and at `wall_ms` milliseconds since the Unix epoch.
    pub fn new(wall_ms: u64, seed: u64) -> ManualClock {
        ManualClock {
            monotonic_ms: AtomicU64::new(0),
            wall_ms: AtomicU64::new(wall_ms),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            wakers: Mutex::new(Vec::new()),
        }
    }

    /// Moves both clocks forward by `span`, in whole milliseconds, and calls the callbacks of
    /// [`on_jump`](Clock::on_jump).
    pub fn advance(&self, span: Duration) {
        let span_ms = millis(span);
        self.monotonic_ms.fetch_add(span_ms, Ordering::SeqCst);
        self.wall_ms.fetch_add(span_ms, Ordering::SeqCst);
        self.wake();
    }

    /// Sets the wall clock alone, as an administrator or a time server would.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        self.wall_ms.store(wall_ms, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        let wakers = self.wakers.lock().clone();
        for wake in wakers {
            wake();
        }
    }
}

impl Clock for ManualClock {
    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::SeqCst)
    }

    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::SeqCst)
    }

    fn random_u64(&self) -> u64 {
        self.random.lock().u64(..)
    }

    fn on_jump(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.wakers.lock().push(wake);
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManualClock({} ms)", self.monotonic_ms())
    }
}

fn seed() -> u64 {
    let mut bytes = [0_u8; 8];
    match fill_random(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        // Jitter becomes predictable then; nothing secret is drawn from this generator.
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis),
    }
}

/// Fills `bytes` with random bytes that nobody can predict, from the operating system's generator: for secrets and
/// identities. Jitter comes from [`Clock`] instead.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    getrandom::fill(bytes)
}

/// A span in whole milliseconds; one that does not fit is the longest that does.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_does_not_go_back() {
        let clock = SystemClock::new();
        let first = clock.monotonic_ms();
        assert!(clock.monotonic_ms() >= first);
        assert!(clock.wall_ms() > 1_700_000_000_000);
    }

    #[test]
    fn a_manual_clock_repeats_its_numbers_from_the_seed() {
        let draw = |seed| {
            let clock = ManualClock::new(0, seed);
            [clock.random_u64(), clock.random_u64(), clock.random_u64()]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn a_jump_calls_back_and_moves_only_the_wall_clock() {
        let clock = ManualClock::new(1_000, 1);
        let woken = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&woken);
        clock.on_jump(Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        clock.set_wall_ms(5);
        clock.advance(Duration::from_millis(10));
        assert_eq!(woken.load(Ordering::SeqCst), 2);
        assert_eq!((clock.monotonic_ms(), clock.wall_ms()), (10, 15));
    }
}
