//! Decides how text reaches the person: progress in place on a terminal, line by line elsewhere.
//!
//! Leaves to others: the text (`table`). Invariant: a reader that went away is no failure; the
//! screen then says so and stays silent.

use std::io::{self, IsTerminal, Stdout, Write};

use super::ledger::Sums;
use super::table::{progress, progress_line, seconds};

/// Standard output.
pub(super) struct Screen {
    to: Stdout,
    is_terminal: bool,
    is_closed: bool,
    /// Lines of progress that the next text takes the place of.
    in_place: usize,
    drawn_at_ms: Option<u64>,
    before: Option<(u64, Sums)>,
    rates: [u64; 2],
}

/// How often progress is drawn on a terminal, and how often elsewhere.
const TERMINAL_MS: u64 = 200;
const LINES_MS: u64 = 1_000;

impl Screen {
    pub(super) fn new() -> Screen {
        let to = io::stdout();
        Screen {
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

    /// Writes something that happened, with its moment.
    pub(super) fn tell(&mut self, elapsed_ms: u64, text: &str) {
        self.say(&format!("{:>7}  {text}", seconds(elapsed_ms)));
    }

    /// Shows how far the show is, if it is time to.
    pub(super) fn draw(&mut self, elapsed_ms: u64, show_ms: u64, sums: &Sums) {
        let every_ms = if self.is_terminal { TERMINAL_MS } else { LINES_MS };
        if self.drawn_at_ms.is_some_and(|at_ms| elapsed_ms < at_ms + every_ms) {
            return;
        }
        self.drawn_at_ms = Some(elapsed_ms);
        self.measure(elapsed_ms, sums);
        if self.is_terminal {
            let text = progress(elapsed_ms, show_ms, sums, self.rates);
            let cleared = self.cleared();
            self.in_place = text.lines().count();
            self.put(&format!("{cleared}{text}\n"));
        } else {
            self.put(&format!("{}\n", progress_line(elapsed_ms, sums, self.rates)));
        }
    }

    /// Whether nobody reads any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Rates are of the last second or so: shorter spans jump about too much to be read.
    fn measure(&mut self, elapsed_ms: u64, sums: &Sums) {
        let (at_ms, before) = *self.before.get_or_insert((elapsed_ms, *sums));
        let span_ms = elapsed_ms - at_ms;
        if span_ms >= LINES_MS {
            let per_s = |now: u64, then: u64| now.saturating_sub(then) * 1_000 / span_ms;
            self.rates =
                [per_s(sums.accepted, before.accepted), per_s(sums.delivered, before.delivered)];
            self.before = Some((elapsed_ms, *sums));
        }
    }

    /// What takes the progress off the screen: cursor up to its first line, clear to the end.
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
