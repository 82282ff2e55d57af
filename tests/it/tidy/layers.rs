//! Decides which room of the house may name which: dependencies point one way.
//!
//! Leaves to others: what a file says (`source`). Invariant: a path that cannot be followed to a
//! room is a finding, so no spelling gets around the direction.

use super::source::Source;

/// The floors of the house, lowest first. A room may name what lies below it, and itself.
const FLOORS: [&[&str]; 4] = [
    &[
        "error",
        "clock",
        "event",
        "account",
        "attempt",
        "receipt",
        "threads",
        "notice",
        "stats",
        "metrics",
        "config",
        "signature",
        "subscription",
        "store",
    ],
    &["routing", "outbox", "dispatch", "delivery"],
    &["engine", "inbound"],
    &["registration"],
];

/// Upward names that are accepted: from where, what, and why.
const EXCEPTIONS: [(&str, &str, &str); 1] = [(
    "config",
    "delivery::Transport",
    "the seam that a host plugs: the setting holds it, the room that uses it defines it",
)];

/// What `lib.rs` re-exports: the public name, then the path from the crate's root.
pub(super) struct Exports(Vec<(String, Vec<String>)>);

impl Exports {
    pub(super) fn new(front_door: &Source) -> Exports {
        let named = front_door.paths().into_iter().map(|path| path.segments);
        let named = named.filter(|segments| segments.len() > 1);
        Exports(named.filter_map(|s| Some((s.last()?.clone(), s))).collect())
    }

    fn origin(&self, name: &str) -> Option<&[String]> {
        self.0.iter().find(|(exported, _)| exported == name).map(|(_, path)| path.as_slice())
    }
}

/// Names against the direction, in the code of one file of the library.
pub(super) fn upward_names(source: &Source, exports: &Exports) -> Vec<String> {
    let Some(module) = module_of(&source.path) else { return Vec::new() };
    let from = module[0].as_str();
    if floor(from).is_none() {
        return vec![format!("{}: {from} is no room of the house", source.path)];
    }
    let mut findings = Vec::new();
    for named in source.paths().iter().filter(|named| !named.is_test) {
        let Some(path) = from_root(&named.segments, &module) else { continue };
        let place = format!("{}:{}", source.path, named.line);
        let known = path.first().filter(|first| floor(first).is_some()).map(|_| path.as_slice());
        match known.or_else(|| exports.origin(path.first()?)) {
            Some(path) if may_name(from, path) => {}
            Some(path) => findings.push(format!("{place}: {from} names {}", path.join("::"))),
            None => findings.push(format!("{place}: {} leads to no room", path.join("::"))),
        }
    }
    findings
}

/// The exceptions that no file needs any more.
pub(super) fn idle_exceptions(sources: &[Source], exports: &Exports) -> Vec<String> {
    let used = |from: &str, what: &str| {
        sources.iter().any(|source| {
            let Some(module) = module_of(&source.path).filter(|module| module[0] == from) else {
                return false;
            };
            let paths = source.paths();
            paths.iter().filter_map(|named| from_root(&named.segments, &module)).any(|path| {
                let origin = path.first().and_then(|first| exports.origin(first));
                path.join("::") == what || origin.is_some_and(|origin| origin.join("::") == what)
            })
        })
    };
    let idle = EXCEPTIONS.iter().filter(|(from, what, _)| !used(from, what));
    idle.map(|(from, what, why)| format!("{from} names {what} no more ({why})")).collect()
}

fn may_name(from: &str, path: &[String]) -> bool {
    let to = path[0].as_str();
    let (Some(lower), Some(upper)) = (floor(to), floor(from)) else { return false };
    let excepted = EXCEPTIONS.iter().any(|(who, what, _)| *who == from && path.join("::") == *what);
    from == to || lower < upper || (lower == 0 && upper == 0) || excepted
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The module that a file of the library is; `None` for the front door and for programs, which are
/// crates of their own and see only what is public.
fn module_of(path: &str) -> Option<Vec<String>> {
    let inner = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    if inner == "lib" || inner.starts_with("bin/") {
        return None;
    }
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    Some(inner.split('/').map(str::to_owned).collect())
}

/// The path from the crate's root; `None` for one that starts elsewhere.
fn from_root(segments: &[String], module: &[String]) -> Option<Vec<String>> {
    let ups = segments.iter().take_while(|s| *s == "super" || *s == "self").collect::<Vec<_>>();
    let rest = &segments[ups.len()..];
    match segments.first()?.as_str() {
        "crate" => Some(segments[1..].to_vec()),
        "super" | "self" => {
            let height = ups.iter().filter(|up| **up == "super").count();
            let base = &module[..module.len().checked_sub(height)?];
            Some([base, rest].concat())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exports() -> Exports {
        let text = "mod engine; pub use engine::Engine; pub use error::{Error, Result};";
        Exports::new(&Source::new("src/lib.rs", text))
    }

    fn check(path: &str, text: &str, findings: usize) {
        let found = upward_names(&Source::new(path, text), &exports());
        assert_eq!(found.len(), findings, "{path}: {text}: {found:?}");
    }

    #[test]
    fn what_points_down_or_stays_inside_is_right() {
        check("src/engine/drain.rs", "use crate::outbox::Outbox; use super::Engine;", 0);
        check("src/routing/index.rs", "use crate::event::Event; use super::Index;", 0);
        check("src/event.rs", "use crate::subscription::SubscriptionId;", 0);
        check("src/registration/mod.rs", "use crate::engine::Engine; use crate::Error;", 0);
        check("src/bin/wabahook/main.rs", "use crate::serve::run; use wabahook::Engine;", 0);
    }

    #[test]
    fn what_points_up_is_found_in_every_spelling() {
        for text in [
            "use crate::outbox::Outbox;",
            "use crate::{error::Error, outbox::Outbox};",
            "fn f() { crate::outbox::open() }",
            "fn f(engine: crate::Engine) {}",
            "use crate::Engine as E;",
            "use super::super::outbox;",
            "use super::super::*;",
            "use crate::nowhere::X;",
        ] {
            check("src/routing/index.rs", text, 1);
        }
        check("src/event.rs", "use crate::dispatch::Dispatcher;", 1);
        check("src/event.rs", "use super::dispatch::Dispatcher;", 1);
        check("src/inbound/mod.rs", "use crate::engine::Engine;", 1);
    }

    #[test]
    fn tests_may_name_any_room() {
        check("src/event.rs", "#[cfg(test)]\nmod tests { use crate::engine::Engine; }", 0);
    }

    #[test]
    fn a_file_outside_of_the_house_is_found() {
        check("src/attic/mod.rs", "", 1);
    }

    #[test]
    fn an_exception_covers_one_name_of_one_room() {
        check("src/config.rs", "use crate::delivery::Transport;", 0);
        check("src/config.rs", "use crate::delivery::Pool;", 1);
        check("src/account.rs", "use crate::delivery::Transport;", 1);
    }

    #[test]
    fn an_exception_that_nobody_needs_is_found() {
        let needs = |text| idle_exceptions(&[Source::new("src/config.rs", text)], &exports());
        assert_eq!(needs("use crate::delivery::Transport;").len(), 0);
        assert_eq!(needs("use crate::error::Error;").len(), 1);
    }
}
