//! Keeps a flood of equal lines out of the log. The first line is written at once. Others from the same place in
//! the code, about the same kind of notice, reason and subscription, are counted for a minute, and then the last
//! of them is written with their number.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use tracing::callsite::Identifier;

use super::line::Line;

/// For how long lines are counted.
const WINDOW_MS: u64 = 60_000;
/// How many different lines are remembered. Beyond it a new one shares the count of its place in the code.
const DIFFERENT_MAX: usize = 1_024;

/// What makes two lines equal: the place in the code, and what it is about.
type LineKey = (Identifier, String);

/// The lines of the last minute.
#[derive(Default)]
pub(super) struct FloodGate(HashMap<LineKey, Counted>);

struct Counted {
    since_ms: u64,
    /// The newest line that was not written.
    last: Option<Line>,
    count: u64,
}

impl FloodGate {
    /// Whether to write a line now; otherwise it is counted.
    pub(super) fn admits(&mut self, callsite: Identifier, line: &Line) -> bool {
        let mut about = ["kind", "reason", "subscription"].map(|name| line.field(name)).join(" ");
        if self.0.len() >= DIFFERENT_MAX && !self.0.contains_key(&(callsite.clone(), about.clone()))
        {
            about = String::new();
        }
        let new = Counted { since_ms: line.wall_ms, last: None, count: 0 };
        match self.0.entry((callsite, about)) {
            Entry::Vacant(vacant) => {
                vacant.insert(new);
                true
            }
            Entry::Occupied(mut counted) => {
                let counted = counted.get_mut();
                // No such line for a minute: this one is logged again.
                if counted.count == 0 && is_over(counted, line.wall_ms) {
                    *counted = new;
                    return true;
                }
                counted.count += 1;
                counted.last = Some(line.clone());
                false
            }
        }
    }

    /// The lines whose minute is over, each with its count. A line that keeps coming is counted for another minute.
    pub(super) fn due(&mut self, now_ms: u64) -> Vec<Line> {
        let mut lines = Vec::new();
        self.0.retain(|_, counted| {
            if !is_over(counted, now_ms) {
                return true;
            }
            let Some(mut line) = counted.last.take() else { return false };
            line.repeated = counted.count;
            lines.push(line);
            (counted.since_ms, counted.count) = (now_ms, 0);
            true
        });
        lines
    }
}

fn is_over(counted: &Counted, now_ms: u64) -> bool {
    now_ms.saturating_sub(counted.since_ms) >= WINDOW_MS
}

#[cfg(test)]
mod tests {
    use tracing::{Level, Metadata, callsite::Callsite, subscriber::Interest};

    use super::super::line::Fields;
    use super::*;

    struct Place;

    impl Callsite for Place {
        fn set_interest(&self, _: Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("the gate looks at the identity alone")
        }
    }

    static DROPPED: Place = Place;
    static REFUSED: Place = Place;

    fn line(wall_ms: u64, subscription: &str) -> Line {
        let mut fields = Fields::default();
        fields.set("subscription", subscription);
        Line::new(wall_ms, Level::WARN, fields)
    }

    fn repeated(lines: &[Line]) -> Vec<u64> {
        lines.iter().map(|line| line.repeated).collect()
    }

    #[test]
    fn a_flood_is_one_line_a_minute_with_a_count() {
        let (dropped, mut gate) = (Identifier(&DROPPED), FloodGate::default());
        let written = (0..174).filter(|n| gate.admits(dropped.clone(), &line(n * 34, "1"))).count();
        assert_eq!(written, 1);
        assert!(gate.admits(dropped.clone(), &line(6_000, "2")), "of another subscription");
        assert!(gate.due(59_999).is_empty());
        assert_eq!(repeated(&gate.due(60_000)), [173]);
        assert!(!gate.admits(dropped.clone(), &line(61_000, "1")), "it goes on");
        assert_eq!(repeated(&gate.due(120_000)), [1]);
        assert!(gate.due(180_000).is_empty());
        assert!(gate.admits(dropped, &line(180_001, "1")), "a quiet minute later");
    }

    #[test]
    fn the_number_of_different_lines_is_bounded() {
        let (refused, mut gate) = (Identifier(&REFUSED), FloodGate::default());
        for number in 0..10_000 {
            gate.admits(refused.clone(), &line(0, &number.to_string()));
        }
        assert!(gate.0.len() <= DIFFERENT_MAX + 1);
    }
}
