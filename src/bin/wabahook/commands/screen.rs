//! How commands print for a person: columns, and text that cannot control a terminal. No control character of
//! a name, a URL or a response reaches the terminal, and a closed stdout is not an error.

use std::io::{self, Write};

use serde_json::Value;

/// Prints a line to stdout. False when stdout is closed.
pub(crate) fn say(line: &str) -> bool {
    let mut to = io::stdout().lock();
    writeln!(to, "{line}").and_then(|()| to.flush()).is_ok()
}

/// Prints a value as one line of JSON.
pub(crate) fn say_json(value: &Value) -> bool {
    say(&value.to_string())
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

/// Rows below their titles, each column as wide as its widest cell.
pub(crate) fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize, title: &str| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).chain([title.len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> =
        titles.iter().enumerate().map(|(column, title)| width(column, title)).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> =
            cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut titles.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// A number of things in words.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
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
    fn bytes_are_told_in_the_unit_that_fits() {
        for (count, told) in
            [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (2_000_000_000, "2.0 GB")]
        {
            assert_eq!(bytes(count), told);
        }
    }
}
