//! How commands print for a person: columns, and text that cannot control a terminal. No control character of
//! a name, a URL or a response reaches the terminal, and a closed stdout is not an error.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::command_error::{CommandError, CommandResult};
use crate::timestamp::from_rfc3339;

/// Prints a line to stdout. False when stdout is closed.
pub(crate) fn say(line: &str) -> bool {
    let mut to = io::stdout().lock();
    writeln!(to, "{line}").and_then(|()| to.flush()).is_ok()
}

/// Prints a value as one line of JSON. The types of commands hold what always serializes.
pub(crate) fn say_json(value: &impl Serialize) -> bool {
    say(&serde_json::to_string(value).unwrap_or_default())
}

/// A JSON value for a person, in one line.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(","),
        other => printable(&other.to_string()),
    }
}

/// Text without characters that move the cursor or hide other text.
pub(crate) fn printable(text: &str) -> String {
    let kept = |c: char| if is_hidden(c) { '?' } else { c };
    text.chars().map(kept).collect()
}

/// Control characters, and marks that change the text direction.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Rows below their titles, each column as wide as its widest cell. On a narrower terminal times are shortened
/// and the widest columns are cut. Ids are never cut, because they are copied: where a table cannot fit with them,
/// each row is a block of its own.
pub(crate) fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    match terminal_width() {
        None => grid(titles, rows, &widths(titles, rows)),
        Some(width_max) => fitted(titles, rows, width_max),
    }
}

/// What is between two columns.
const GAP: usize = 2;
/// A column is not cut below this.
const COLUMN_MIN: usize = 8;
/// The columns that are not cut.
const WHOLE: [&str; 5] = ["ID", "EVENT", "KEY", "AT", "ACCEPTED"];

fn fitted(titles: &[&str], rows: &[Vec<String>], width_max: usize) -> String {
    let short = |row: &Vec<String>| row.iter().map(|cell| short_time(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(short).collect();
    let mut widths = widths(titles, &rows);
    let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * (widths.len().max(1) - 1);
    while total(&widths) > width_max {
        let over = total(&widths) - width_max;
        let cuttable = widths.iter_mut().zip(titles);
        let cuttable =
            cuttable.filter(|(width, title)| **width > COLUMN_MIN && !WHOLE.contains(title));
        let Some(widest) = cuttable.map(|(width, _)| width).max() else {
            let blocks: Vec<String> =
                rows.iter().map(|row| block(titles, row, width_max)).collect();
            return blocks.join("\n");
        };
        *widest -= over.min(*widest - COLUMN_MIN).clamp(1, 1 + *widest / 4);
    }
    grid(titles, &rows, &widths)
}

fn widths(titles: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let width = |(column, title): (usize, &&str)| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).chain([title.len()]).max().unwrap_or(0)
    };
    titles.iter().enumerate().map(width).collect()
}

fn grid(titles: &[&str], rows: &[Vec<String>], widths: &[usize]) -> String {
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(widths)
            .map(|(cell, width)| format!("{:width$}", cut(cell, *width)))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut titles.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// A row as lines: its id, then the names and values of the other columns, as many on a line as fit.
fn block(titles: &[&str], row: &[String], width_max: usize) -> String {
    let is_id = |title: &str| ["ID", "EVENT"].contains(&title);
    let cells = || titles.iter().zip(row).filter(|(_, cell)| !cell.is_empty());
    let first = cells().find(|(title, _)| is_id(title)).map_or("", |(_, cell)| cell.as_str());
    let (mut lines, mut line) = (vec![first.to_owned()], String::new());
    for (title, cell) in cells().filter(|(title, _)| !is_id(title)) {
        let part = format!("  {} {cell}", title.to_ascii_lowercase());
        if !line.is_empty() && line.chars().count() + part.chars().count() > width_max {
            lines.push(std::mem::take(&mut line));
        }
        line.push_str(&part);
    }
    lines.push(line);
    lines.iter().map(|line| cut(line, width_max)).collect::<Vec<_>>().join("\n")
}

/// A time without its milliseconds: `2026-01-31T12:00:00.000Z` as `2026-01-31 12:00:00`. Other text stays.
fn short_time(cell: &str) -> String {
    let is_time =
        cell.len() == 24 && cell.is_ascii() && cell.ends_with('Z') && from_rfc3339(cell).is_some();
    match cell.split_once('T').zip(cell.get(11..19)) {
        Some(((date, _), time)) if is_time => format!("{date} {time}"),
        _ => cell.to_owned(),
    }
}

/// A cell of at most so many characters.
fn cut(cell: &str, width: usize) -> String {
    match cell.chars().count() > width {
        true => cell.chars().take(width.saturating_sub(1)).chain(['\u{2026}']).collect(),
        false => cell.to_owned(),
    }
}

/// The columns of the terminal; `None` if stdout is not a terminal.
fn terminal_width() -> Option<usize> {
    #[cfg(unix)]
    {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        Some(usize::from(size.ws_col)).filter(|width| *width > 0)
    }
    #[cfg(not(unix))]
    None
}

/// Shows something once, or again and again.
#[derive(Args)]
pub(crate) struct WatchOptions {
    /// Show it again every two seconds until interrupted
    #[arg(long)]
    watch: bool,
}

/// How often it is shown again.
const WATCH_EVERY: Duration = Duration::from_secs(2);

impl WatchOptions {
    /// Calls `show`, once or until stdout is closed or it fails.
    pub(crate) fn run(&self, mut show: impl FnMut() -> CommandResult) -> CommandResult {
        let clears = self.watch && io::stdout().is_terminal();
        loop {
            // Clears the screen and goes to its first line.
            if clears && !say("\x1b[2J\x1b[H") {
                return Ok(());
            }
            match show() {
                // It may exist the next time.
                Err(CommandError::NotFound(message)) if self.watch => _ = say(&message),
                shown => shown?,
            }
            if !self.watch {
                return Ok(());
            }
            std::thread::sleep(WATCH_EVERY);
        }
    }
}

/// The option of commands that ask before they end something.
#[derive(Args)]
pub(crate) struct ConfirmOptions {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl ConfirmOptions {
    /// Asks on the terminal, unless `--yes` is given. Without a terminal, the answer is no.
    pub(crate) fn ask(&self, question: impl FnOnce() -> CommandResult<String>) -> CommandResult {
        if self.yes {
            return Ok(());
        }
        let question = question()?;
        if !io::stdin().is_terminal() {
            let message = format!("{question} There is no terminal to ask on; confirm with --yes");
            return Err(CommandError::Usage(message));
        }
        eprint!("{question} [y/N] ");
        let mut answer = String::new();
        let read = io::stderr().flush().and_then(|()| io::stdin().lock().read_line(&mut answer));
        match read {
            Ok(_) if ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) => Ok(()),
            _ => Err(CommandError::Run("nothing was changed".to_owned())),
        }
    }
}

/// A number of things in words.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Seconds in the two largest units that they fill.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Bytes as people say them.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB"].into_iter().peekable();
    while value >= 1000.0 && units.len() > 1 {
        value /= 1000.0;
        units.next();
    }
    let unit = units.next().unwrap_or_default();
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_they_hold() {
        let rows = [vec!["1".to_owned(), "crm".to_owned()], vec!["10".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["id", "name"], &rows), "id  name\n1   crm\n10  x");
    }

    #[test]
    fn a_table_fits_a_narrow_terminal() {
        let rows = [vec!["1".to_owned(), "https://crm.example/".repeat(5), "active".to_owned()]];
        let titles = ["ID", "URL", "STATE"];
        let shown = fitted(&titles, &rows, 40);
        assert!(shown.lines().all(|line| line.chars().count() <= 40), "{shown}");
        assert!(shown.contains("https://crm.ex") && shown.contains("\u{2026}  active"), "{shown}");
        assert!(grid(&titles, &rows, &widths(&titles, &rows)).contains(&rows[0][1]));
    }

    #[test]
    fn an_id_is_never_cut() {
        let (id, at) = (format!("evt_{}", "7".repeat(32)), "2026-01-31T12:00:00.123Z".to_owned());
        let rows = [vec![at, "warehouse of the shop".to_owned(), String::new(), id.clone()]];
        let titles = ["ACCEPTED", "WEBHOOK", "REASON", "EVENT"];
        let wide = fitted(&titles, &rows, 80);
        assert!(wide.contains("2026-01-31 12:00:00  warehou") && wide.contains(&id), "{wide}");
        let narrow = "  accepted 2026-01-31 12:00:00  webhook warehouse of the shop";
        assert_eq!(fitted(&titles, &rows, 62), format!("{id}\n{narrow}"));
        assert_eq!(fitted(&titles, &rows, 50).lines().count(), 3);
        assert!(fitted(&titles, &rows, 30).contains("  webhook warehouse of the sh\u{2026}"));
        assert_eq!(short_time("2026-01-31 a text of 24 Z"), "2026-01-31 a text of 24 Z");
    }

    #[test]
    fn what_could_command_a_terminal_is_not_printed() {
        for hostile in ["\x1b[2J", "a\rb", "a\nb", "\u{202e}gnp", "\u{9b}2J"] {
            let shown = printable(hostile);
            assert!(shown.contains('?') && !shown.chars().any(is_hidden), "{shown:?}");
        }
        assert_eq!(printable("plain 2 text"), "plain 2 text");
    }

    #[test]
    fn one_thing_is_told_as_one() {
        let told = [0, 1, 2].map(|count| counted(count, "dead letter", "dead letters"));
        assert_eq!(told, ["0 dead letters", "1 dead letter", "2 dead letters"]);
    }

    #[test]
    fn spans_have_the_units_they_fill() {
        for (seconds, told) in [(5, "5s"), (65, "1m5s"), (3_660, "1h1m"), (90_000, "1d1h")] {
            assert_eq!(span(seconds), told);
        }
    }

    #[test]
    fn bytes_are_told_in_the_unit_that_fits() {
        for (count, told) in
            [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (2_000_000_000, "2.0 GB")]
        {
            assert_eq!(bytes(count), told);
        }
    }
}
