//! Decides what time it is and what chance brings: the only place that reads either.
//!
//! Leaves to others: what to do at a time. Everything that depends on time or chance takes them as
//! arguments, so a run repeats exactly under [`Manual`]. Invariant (I6): no other file of the
//! library reads a clock or a source of randomness (kept by `tests/it/tidy.rs`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// Time and chance, one seam because either alone makes a run unrepeatable.
///
/// ```
/// use std::sync::Arc;
/// use wabahook::clock::{Clock, Manual};
/// let clock = Arc::new(Manual::new(1_700_000_000_000, 7));
/// clock.advance_ms(60_000);
/// assert_eq!(clock.wall_ms(), 1_700_000_060_000);
/// let config = wabahook::Config::new("outbox").clock(clock);
/// # let _ = config;
/// ```
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since some fixed moment of this process. Never goes back. Scheduling uses it.
    fn monotonic_ms(&self) -> u64;

    /// Milliseconds since the Unix epoch. May jump. Used for what is stored or shown to people.
    fn wall_ms(&self) -> u64;

    /// A number that nobody can foretell; all of its 64 bits are uniform.
    fn chance(&self) -> u64;

    /// Asks to be woken whenever time jumps other than by passing. [`System`] never calls back.
    fn on_jump(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        let _ = wake;
    }
}

/// The machine's clocks, and a generator seeded by the operating system.
pub struct System {
    started: Instant,
    random: Mutex<fastrand::Rng>,
}

impl System {
    /// Starts the monotonic clock at zero.
    pub fn new() -> System {
        System { started: Instant::now(), random: Mutex::new(fastrand::Rng::with_seed(seed())) }
    }
}

impl Default for System {
    fn default() -> System {
        System::new()
    }
}

impl Clock for System {
    fn monotonic_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
    }

    fn chance(&self) -> u64 {
        self.random.lock().u64(..)
    }
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("System")
    }
}

/// A clock that a test moves by hand, with chance from a seed.
///
/// ```
/// use wabahook::clock::{Clock, Manual};
/// let clock = Manual::new(1_700_000_000_000, 7);
/// clock.advance_ms(1_500);
/// assert_eq!(clock.monotonic_ms(), 1_500);
/// assert_eq!(clock.wall_ms(), 1_700_000_001_500);
/// ```
pub struct Manual {
    monotonic_ms: AtomicU64,
    wall_ms: AtomicU64,
    random: Mutex<fastrand::Rng>,
    wakers: Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>,
}

impl Manual {
    /// Starts at zero monotonic time and the given wall time, in milliseconds since the epoch.
    pub fn new(wall_ms: u64, seed: u64) -> Manual {
        Manual {
            monotonic_ms: AtomicU64::new(0),
            wall_ms: AtomicU64::new(wall_ms),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            wakers: Mutex::new(Vec::new()),
        }
    }

    /// Lets both clocks pass by `span_ms` and wakes whoever asked for it.
    pub fn advance_ms(&self, span_ms: u64) {
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

impl Clock for Manual {
    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::SeqCst)
    }

    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::SeqCst)
    }

    fn chance(&self) -> u64 {
        self.random.lock().u64(..)
    }

    fn on_jump(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.wakers.lock().push(wake);
    }
}

impl fmt::Debug for Manual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Manual({} ms)", self.monotonic_ms())
    }
}

/// Milliseconds since the Unix epoch as a date and time of RFC 3339, to the millisecond. A moment after
/// the year 9999, which only a clock that is wrong can give, is the last one before.
pub(crate) fn rfc3339(wall_ms: u64) -> String {
    let wall_ms = wall_ms.min(LAST_WALL_MS);
    let (day, time_ms) = (wall_ms / DAY_MS, wall_ms % DAY_MS);
    // Counted from March 1st, a year's days before a month are a linear function of the month, and a
    // leap day is its last one.
    let days = day + DAYS_BEFORE_1970;
    let era = days / DAYS_OF_ERA;
    let of_era = days % DAYS_OF_ERA;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (second, ms) = (time_ms / 1_000, time_ms % 1_000);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

const DAY_MS: u64 = 86_400_000;
/// The days of 400 years, after which the calendar repeats.
const DAYS_OF_ERA: u64 = 146_097;
/// From March 1st of the year 0.
const DAYS_BEFORE_1970: u64 = 719_468;
const LAST_WALL_MS: u64 = 253_402_300_799_999;

/// Bytes for secrets and identities, from the operating system's generator and no other.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    getrandom::fill(bytes)
}

fn seed() -> u64 {
    let mut bytes = [0_u8; 8];
    match fill_random(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        // Jitter may be foretold then; nothing that must be secret is drawn from this generator.
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis),
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_does_not_go_back() {
        let clock = System::new();
        let first = clock.monotonic_ms();
        assert!(clock.monotonic_ms() >= first);
        assert!(clock.wall_ms() > 1_700_000_000_000);
    }

    #[test]
    fn manual_chance_repeats_from_its_seed() {
        let draw = |seed| {
            let clock = Manual::new(0, seed);
            [clock.chance(), clock.chance(), clock.chance()]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn moments_are_written_as_rfc_3339() {
        for (wall_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (LAST_WALL_MS, "9999-12-31T23:59:59.999Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(wall_ms), text);
        }
    }

    #[test]
    fn a_jump_wakes_whoever_asked_and_leaves_the_other_clock_alone() {
        let clock = Manual::new(1_000, 1);
        let woken = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&woken);
        clock.on_jump(Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        clock.set_wall_ms(5);
        clock.advance_ms(10);
        assert_eq!(woken.load(Ordering::SeqCst), 2);
        assert_eq!((clock.monotonic_ms(), clock.wall_ms()), (10, 15));
    }
}
