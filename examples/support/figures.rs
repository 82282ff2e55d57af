//! Measures and prints the time inside `publish`. After each call an empty interval is measured on the
//! same thread, which shows what the clock and the machine take.

use std::time::Instant;

/// Times of calls, in nanoseconds, and what an example counted.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    publish_ns: Vec<u64>,
    nothing_ns: Vec<u64>,
    pub(crate) published: u64,
    /// The most receipts that were open at once; 1 for a host that waits for each.
    pub(crate) ahead_max: usize,
    /// How often the loop's thread slept where it should not, as counted by the system.
    pub(crate) slept_elsewhere: Option<u64>,
}

impl Figures {
    /// Times one call.
    pub(crate) fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let answer = call();
        self.publish_ns.push(nanoseconds_since(started));
        self.nothing_ns.push(nanoseconds_since(Instant::now()));
        answer
    }

    pub(crate) fn is_ahead_by(&mut self, open: usize) {
        self.ahead_max = self.ahead_max.max(open);
    }

    /// Adds the figures of another loop.
    pub(crate) fn join(&mut self, other: Figures) {
        self.publish_ns.extend(other.publish_ns);
        self.nothing_ns.extend(other.nothing_ns);
        self.published += other.published;
        self.ahead_max = self.ahead_max.max(other.ahead_max);
        self.slept_elsewhere = match (self.slept_elsewhere, other.slept_elsewhere) {
            (Some(one), Some(another)) => Some(one + another),
            (one, another) => one.or(another),
        };
    }

    /// Prints the counts, and a RESULT line for each of three quantiles.
    pub(crate) fn print(mut self, example: &str, delivered: usize) {
        let Figures { published, ahead_max, .. } = self;
        print!("{example}: published={published} delivered={delivered} ahead_max={ahead_max}");
        match self.slept_elsewhere {
            Some(slept) => println!(" slept_elsewhere={slept}"),
            None => println!(),
        }
        self.publish_ns.sort_unstable();
        self.nothing_ns.sort_unstable();
        for (share, permille) in [("p50", 500), ("p99", 990), ("p99.9", 999)] {
            let figure = share_us(&self.publish_ns, permille);
            let limit = share_us(&self.nothing_ns, permille);
            let ratio = figure / limit;
            println!(
                "RESULT bench={example} what=publish_{share} figure={figure:.3} unit=us \
                 limit={limit:.3} limit_is=empty_interval ratio={ratio:.3}"
            );
        }
    }
}

fn nanoseconds_since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The quantile in thousandths, in microseconds.
fn share_us(sorted_ns: &[u64], permille: usize) -> f64 {
    let place = sorted_ns.len().saturating_sub(1) * permille / 1_000;
    sorted_ns.get(place).map_or(f64::NAN, |ns| *ns as f64 / 1_000.0)
}

/// How often this thread has slept voluntarily; `None` where the system does not show it in `/proc`.
pub(crate) fn sleeps_of_this_thread() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}
