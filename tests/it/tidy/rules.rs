//! Decides what no file may hold, whichever room it is in: foreign crates and clocks out of their
//! place, length, leftovers, sleep in tests.
//!
//! Leaves to others: the direction of dependencies (`layers`), the documents (`papers`). Invariant:
//! every rule has a test here that shows it finding what it is for.

use super::source::{Kind, Source};

/// What one crate or one ability is confined to. Programs and benches are hosts, so what a host may
/// do of itself (read a clock, start a thread, send a request) is confined inside the library alone.
struct Confined {
    what: &'static str,
    places: &'static [&'static str],
    free_for_hosts: bool,
    found_in: fn(&[String]) -> bool,
}

const CONFINED: [Confined; 5] = [
    Confined {
        what: "sled",
        places: &["src/store/sled.rs", "src/store/waking.rs"],
        free_for_hosts: false,
        found_in: |path| path[0] == "sled",
    },
    Confined {
        what: "ureq",
        places: &["src/delivery/"],
        free_for_hosts: true,
        found_in: |path| path[0] == "ureq",
    },
    Confined {
        what: "a clock",
        places: &["src/clock.rs"],
        free_for_hosts: true,
        found_in: |path| path.iter().any(|s| ["now", "Instant", "SystemTime"].contains(&&**s)),
    },
    Confined {
        what: "chance",
        places: &["src/clock.rs"],
        free_for_hosts: true,
        found_in: |path| ["fastrand", "getrandom", "rand"].contains(&path[0].as_str()),
    },
    Confined {
        what: "starting a thread",
        places: &[
            "src/threads.rs",
            // Which borrow, and end before the call does that needs them.
            "src/outbox/recovery.rs",
        ],
        free_for_hosts: true,
        found_in: |path| {
            let starters = ["spawn", "Builder", "scope"];
            path.windows(2).any(|two| two[0] == "thread" && starters.contains(&two[1].as_str()))
        },
    },
];

/// Files whose code outside of tests may hold more than ASCII, with the reason.
const BEYOND_ASCII: [(&str, &str); 0] = [];

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 500;
const LEFTOVER_WORDS: [&str; 3] = ["TODO", "FIXME", "XXX"];
const LEFTOVER_MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];
const EMPTY_NAMES: [&str; 8] =
    ["util", "utils", "common", "helper", "helpers", "manager", "managers", "supervisor"];

/// Crates and abilities used outside of their place, in code that is not a test.
pub(super) fn strays(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let is_host = source.path.starts_with("src/bin/");
    let mut findings = Vec::new();
    for named in source.paths().iter().filter(|named| !named.is_test) {
        for confined in &CONFINED {
            let at_home = confined.places.iter().any(|place| source.path.starts_with(place));
            let free = is_host && confined.free_for_hosts;
            if !at_home && !free && (confined.found_in)(&named.segments) {
                let path = named.segments.join("::");
                let (file, line, what) = (&source.path, named.line, confined.what);
                findings
                    .push(format!("{file}:{line}: {path}: {what} stays in {:?}", confined.places));
            }
        }
    }
    findings
}

/// Files taken in from elsewhere, around the direction of dependencies. Tests may: nothing that is
/// built into the library or a program comes of it.
pub(super) fn borrowed_files(source: &Source) -> Vec<String> {
    const PATH: [&str; 3] = ["#", "[", "path"];
    found(source, |at| {
        let attribute = PATH.iter().enumerate().all(|(i, word)| source.word(at + i) == *word);
        let inclusion = source.word(at) == "include" && source.word(at + 1) == "!";
        let borrowed = (attribute || inclusion) && !source.tokens[at].is_test;
        borrowed.then(|| "a file is taken in around the modules".to_owned())
    })
}

/// A file that does not open by saying what it decides.
pub(super) fn missing_header(source: &Source) -> Vec<String> {
    let headed = source.text.starts_with("//! ");
    if headed { Vec::new() } else { vec![format!("{}: does not open with //!", source.path)] }
}

/// Functions and files over their length.
pub(super) fn overlong(source: &Source) -> Vec<String> {
    let path = &source.path;
    let long = source.functions().into_iter().filter(|f| f.lines > FUNCTION_LINES_MAX);
    let long = long.map(|f| format!("{path}:{}: fn {} has {} lines", f.line, f.name, f.lines));
    let lines = source.lines_without_tests();
    let file = (lines > FILE_LINES_MAX).then(|| format!("{path}: {lines} lines without tests"));
    long.chain(file).collect()
}

/// Marks of unfinished work, in code and in comments, and tests that do not run.
pub(super) fn leftovers(source: &Source) -> Vec<String> {
    let mut findings = found(source, |at| {
        let word = source.word(at);
        let ignored = word == "ignore" && ["[", ","].contains(&source.word(at.wrapping_sub(1)));
        let unfinished = LEFTOVER_MACROS.contains(&word) && source.word(at + 1) == "!";
        let marked = LEFTOVER_WORDS.contains(&word);
        (ignored || unfinished || marked).then(|| format!("{word} is left over"))
    });
    for (line, text) in source.only(Kind::Comment).lines().enumerate() {
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let marked = words.any(|word| LEFTOVER_WORDS.contains(&word));
        let fence = text.split_once("```").is_some_and(|(_, info)| info.contains("ignore"));
        if marked || fence {
            findings.push(format!("{}:{}: {} is left over", source.path, line + 1, text.trim()));
        }
    }
    findings
}

/// Names that say nothing of what a file decides.
pub(super) fn empty_names(source: &Source) -> Vec<String> {
    let parts = source.path.strip_suffix(".rs").unwrap_or(&source.path).split(['/', '_']);
    let empty = parts.filter(|part| EMPTY_NAMES.contains(part));
    empty.map(|part| format!("{}: {part:?} names no decision", source.path)).collect()
}

/// Sleep, in tests and in the library: both wait on a signal or move the clock.
pub(super) fn sleeps(source: &Source) -> Vec<String> {
    let is_host = source.path.starts_with("src/bin/") || source.path.starts_with("benches/");
    found(source, |at| {
        let token = &source.tokens[at];
        let sleeps = ["sleep", "sleep_ms", "sleep_until"].contains(&token.text.as_str());
        (sleeps && (token.is_test || !is_host)).then(|| "sleeps".to_owned())
    })
}

/// Characters beyond ASCII, except in the literals of tests.
pub(super) fn beyond_ascii(source: &Source) -> Vec<String> {
    if BEYOND_ASCII.iter().any(|(path, _)| *path == source.path) {
        return Vec::new();
    }
    let lines = source.text.lines().enumerate().map(|(at, text)| (at + 1, text));
    let code_and_comments = [source.only(Kind::Code), source.only(Kind::Comment)];
    let in_test = |line| source.tokens.iter().any(|token| token.is_test && token.line == line);
    let beyond = lines.filter(|(line, text)| {
        let outside = code_and_comments.iter().filter_map(|text| text.lines().nth(line - 1));
        !text.is_ascii() && (!in_test(*line) || outside.into_iter().any(|text| !text.is_ascii()))
    });
    beyond.map(|(line, _)| format!("{}:{line}: beyond ASCII", source.path)).collect()
}

/// Functions named for being read instead of for what they give.
pub(super) fn getters(source: &Source) -> Vec<String> {
    let named = source.path.starts_with("src/");
    found(source, |at| {
        let name = source.word(at + 1);
        let getter = source.word(at) == "fn" && name.starts_with("get_");
        (named && getter).then(|| format!("{name}: name what it gives, without get_"))
    })
}

fn found(source: &Source, says: impl Fn(usize) -> Option<String>) -> Vec<String> {
    let hits = (0..source.tokens.len()).filter_map(|at| Some((at, says(at)?)));
    let place = |at: usize| format!("{}:{}", source.path, source.tokens[at].line);
    hits.map(|(at, what)| format!("{}: {what}", place(at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule finds something in each of `wrong` and nothing in any of `right`.
    fn check(rule: fn(&Source) -> Vec<String>, wrong: &[(&str, &str)], right: &[(&str, &str)]) {
        for (path, text) in wrong {
            assert_ne!(rule(&Source::new(path, text)).len(), 0, "nothing found in {path}: {text}");
        }
        for (path, text) in right {
            assert_eq!(rule(&Source::new(path, text)), Vec::<String>::new(), "{path}: {text}");
        }
    }

    #[test]
    fn crates_and_abilities_outside_of_their_place_are_found() {
        check(
            strays,
            &[
                ("src/outbox/mod.rs", "use sled::Db;"),
                ("src/bin/wabahook/demo.rs", "fn f() { ::sled::open() }"),
                ("src/engine/mod.rs", "fn f() { ureq::get(1) }"),
                ("src/dispatch/lane.rs", "use std::time::{Duration, Instant};"),
                ("src/dispatch/lane.rs", "fn f() { Clock::now() }"),
                ("src/dispatch/lane.rs", "fn f() { std::time::SystemTime::UNIX_EPOCH; }"),
                ("src/delivery/worker.rs", "fn f() { fastrand::u64(..) }"),
                ("src/outbox/mod.rs", "use getrandom::fill;"),
                ("src/outbox/mod.rs", "fn f() { std::thread::spawn(g) }"),
                ("src/dispatch/mod.rs", "use std::thread::{self, Builder};"),
            ],
            &[
                ("src/store/sled.rs", "fn f() { ::sled::open() }"),
                ("src/store/mod.rs", "mod sled; pub use self::sled::Sled;"),
                ("src/delivery/transport.rs", "use ureq::Agent;"),
                ("src/clock.rs", "fn f() { Instant::now(); fastrand::u64(..) }"),
                ("src/threads.rs", "fn f() { std::thread::Builder::new() }"),
                ("src/bin/wabahook/demo.rs", "fn f() { std::thread::spawn(g); Instant::now() }"),
                ("src/dispatch/lane.rs", "#[cfg(test)] mod tests { use std::time::Instant; }"),
                (
                    "src/dispatch/lane.rs",
                    "// sled::Db\nfn now() { self.now(); std::thread::park() }",
                ),
                ("tests/it/a.rs", "use std::time::Instant;"),
            ],
        );
    }

    #[test]
    fn files_taken_in_around_the_modules_are_found() {
        check(
            borrowed_files,
            &[
                ("src/bin/wabahook/main.rs", "#[path = \"../../engine/mod.rs\"] mod engine;"),
                ("src/event.rs", "include!(\"outbox/mod.rs\");"),
            ],
            &[
                ("src/lib.rs", "#![doc = include_str!(\"../README.md\")]"),
                ("src/a.rs", "#[cfg(test)]\n#[path = \"a_tests.rs\"]\nmod tests;"),
            ],
        );
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        check(
            missing_header,
            &[("src/a.rs", "use std::fmt;\n"), ("src/b.rs", "")],
            &[("src/a.rs", "//! Decides.\n")],
        );
    }

    #[test]
    fn what_is_too_long_is_found_at_every_length() {
        let function = |lines: usize| format!("fn f() {{{}}}\n", "\n".repeat(lines - 1));
        let file = |lines: usize| "\n".repeat(lines);
        for lines in [71, 72, 73, 74, 400] {
            check(overlong, &[("tests/it/a.rs", &function(lines))], &[]);
        }
        for lines in [501, 502, 9_000] {
            check(overlong, &[("src/a.rs", &file(lines))], &[]);
        }
        let tested = format!("{}#[cfg(test)]\nmod tests {{{}}}", file(500), file(300));
        check(overlong, &[], &[("src/a.rs", &function(70)), ("src/b.rs", &tested)]);
    }

    #[test]
    fn leftovers_are_found_in_code_and_comments() {
        check(
            leftovers,
            &[
                ("src/a.rs", "// TODO later"),
                ("src/a.rs", "/// FIXME: wrong"),
                ("src/a.rs", "fn f() { todo!() }"),
                ("src/a.rs", "fn f() { unimplemented!() }"),
                ("src/a.rs", "fn f() { dbg!(1); }"),
                ("src/a.rs", "/// ```ignore\n/// ```"),
                ("tests/it/a.rs", "#[test]\n#[ignore]\nfn f() {}"),
                ("tests/it/a.rs", "#[ignore = \"slow\"]\nfn f() {}"),
                ("tests/it/a.rs", "#[cfg_attr(unix, ignore)]\nfn f() {}"),
                ("tests/it/a.rs", "// XXX"),
            ],
            &[("src/a.rs", "// Others ignore it.\nfn f() { ignore(\"TODO\") }\n/// ```\n/// ```")],
        );
    }

    #[test]
    fn empty_names_are_found() {
        check(
            empty_names,
            &[("src/util.rs", ""), ("src/helpers/mod.rs", ""), ("src/lane_manager.rs", "")],
            &[("src/utility_bill.rs", ""), ("tests/it/main.rs", "")],
        );
    }

    #[test]
    fn sleep_is_found() {
        check(
            sleeps,
            &[
                ("tests/it/a.rs", "fn f() { std::thread::sleep(x) }"),
                ("tests/it/a.rs", "use tokio::time::sleep;"),
                ("src/bin/wabahook/a.rs", "#[cfg(test)] mod tests { fn f() { thread::sleep(x) } }"),
                ("src/engine/mod.rs", "fn f() { thread::sleep(x) }"),
            ],
            &[
                ("src/bin/wabahook/demo.rs", "fn f() { tokio::time::sleep(x) }"),
                ("tests/it/a.rs", "// no sleep\nfn f() { wait_timeout(x) }"),
            ],
        );
    }

    #[test]
    fn characters_beyond_ascii_are_found() {
        check(
            beyond_ascii,
            &[
                ("src/a.rs", "// na\u{ef}ve"),
                ("src/a.rs", "const A: &str = \"\u{e4}\";"),
                ("tests/it/a.rs", "// \u{e4}"),
                ("tests/it/a.rs", "fn f() { g(\"a\") } // \u{e4}"),
            ],
            &[
                ("tests/it/a.rs", "const A: &str = \"\u{e4}\";"),
                ("src/a.rs", "#[cfg(test)] mod tests { const A: &str = \"\u{e4}\"; }"),
                ("src/a.rs", "const A: &str = \"\\u{e4}\";"),
            ],
        );
    }

    #[test]
    fn getters_are_found() {
        check(
            getters,
            &[("src/a.rs", "impl A { pub fn get_name(&self) {} }")],
            &[("src/a.rs", "fn get(&self) {} fn widget_id() { get_name() }")],
        );
    }
}
