//! The output of the demo: progress in place on a terminal, and line by line elsewhere. A closed stdout is not
//! an error; the screen then stays silent.

use std::io::{self, IsTerminal, Stdout, Write};

use super::ledger::ProgressTotals;
use super::table::{progress, progress_line, seconds};

/// Standard output.
pub(super) struct DemoScreen {
    to: Stdout,
    is_terminal: bool,
    is_closed: bool,
    /// How many lines of progress the next text replaces.
    in_place: usize,
    drawn_at_ms: Option<u64>,
    before: Option<(u64, ProgressTotals)>,
    rates: [u64; 2],
}

/// How often to draw progress, on a terminal and elsewhere.
const TERMINAL_MS: u64 = 200;
const LINES_MS: u64 = 1_000;

impl DemoScreen {
    pub(super) fn new() -> DemoScreen {
        let to = io::stdout();
        DemoScreen {
            is_terminal: to.is_terminal(),
            to,
            is_closed: false,
            in_place: 0,
            drawn_at_ms: None,
            before: None,
            rates: [0, 0],
        }
    }

    /// Writes text that stays.
    pub(super) fn say(&mut self, text: &str) {
        let cleared = self.cleared();
        self.put(&format!("{cleared}{text}\n"));
    }

    /// Writes something that happened, with its time.
    pub(super) fn tell(&mut self, elapsed_ms: u64, text: &str) {
        self.say(&format!("{:>7}  {text}", seconds(elapsed_ms)));
    }

    /// Shows the progress, if it is due.
    pub(super) fn draw(&mut self, elapsed_ms: u64, show_ms: u64, totals: &ProgressTotals) {
        let every_ms = if self.is_terminal { TERMINAL_MS } else { LINES_MS };
        if self.drawn_at_ms.is_some_and(|at_ms| elapsed_ms < at_ms + every_ms) {
            return;
        }
        self.drawn_at_ms = Some(elapsed_ms);
        self.measure(elapsed_ms, totals);
        if self.is_terminal {
            let text = progress(elapsed_ms, show_ms, totals, self.rates);
            let cleared = self.cleared();
            self.in_place = text.lines().count();
            self.put(&format!("{cleared}{text}\n"));
        } else {
            self.put(&format!("{}\n", progress_line(elapsed_ms, totals, self.rates)));
        }
    }

    /// Whether stdout is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Rates are of the last second: over shorter spans they change too fast to read.
    fn measure(&mut self, elapsed_ms: u64, totals: &ProgressTotals) {
        let (at_ms, before) = *self.before.get_or_insert((elapsed_ms, *totals));
        let span_ms = elapsed_ms - at_ms;
        if span_ms >= LINES_MS {
            let per_s = |now: u64, then: u64| now.saturating_sub(then) * 1_000 / span_ms;
            self.rates = [
                per_s(totals.accepted, before.accepted),
                per_s(totals.delivered, before.delivered),
            ];
            self.before = Some((elapsed_ms, *totals));
        }
    }

    /// The codes that erase the progress: cursor up to its first line, clear to the end.
    fn cleared(&mut self) -> String {
        match std::mem::take(&mut self.in_place) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    fn put(&mut self, text: &str) {
        if self.is_closed {
            return;
        }
        let mut to = self.to.lock();
        let written = to.write_all(text.as_bytes()).and_then(|()| to.flush());
        self.is_closed = written.is_err();
    }
}
