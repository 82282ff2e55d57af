//! Checks that the code is built as `docs/architecture.md` draws it: modules in ordered floors, no
//! cycle of files, one definition for each type name, each dependency used only by the modules that may use it,
//! and documents that match the code. Each check prints every violation of one run. The length of
//! functions, clocks, threads, leftovers and `unwrap` are left to clippy.

mod documents;
mod graph;
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use graph::Graph;
use source::Source;

/// The modules of the library, lowest floor first. A file may name modules on floors below its own;
/// modules of one floor do not know each other.
const FLOORS: &[&[&str]] = &[
    // Without knowledge of webhooks.
    &["clock"],
    &["text", "process"],
    &["store"],
    // Nouns.
    &["error"],
    &["macros", "secret", "network"],
    &["profile", "signature"],
    &["event"],
    &["subscription"],
    &["account", "payload", "transport"],
    &["attempt", "config", "receipt", "stats"],
    &["notice"],
    // What is kept of subscriptions, and of events that ended.
    &["book", "history"],
    // The four modules of an event's route.
    &["routing", "outbox", "dispatch", "delivery"],
    // What carries values between them, and what stands on it.
    &["engine"],
    &["inbound", "registration", "testing", "fleet"],
];

/// Crates that stay behind an interface of ours, and where they may be named.
const CONFINED: [(&str, &[&str]); 6] = [
    ("sled", &["src/store/"]),
    ("tokio", &["src/store/postgres/", "src/bin/"]),
    ("tokio_postgres", &["src/store/postgres/"]),
    ("ureq", &["src/delivery/", "src/bin/"]),
    ("getrandom", &["src/clock.rs"]),
    ("fastrand", &["src/clock.rs"]),
];

/// Type names that two modules may both define.
const DEFINED_TWICE: &[&str] = &[];

const FILE_LINES_MAX: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below `src` that is not a unit test.
fn sources() -> Vec<Source> {
    let read = |path: &String| Source::new(path, &document(path));
    source::without_tests(files("src").iter().map(read).collect())
}

/// The Rust files below a directory.
fn files(directory: &str) -> Vec<String> {
    let mut paths = Vec::new();
    find(&root().join(directory), &mut paths);
    paths.sort();
    paths
}

fn find(directory: &Path, paths: &mut Vec<String>) {
    for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            find(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

fn check(violations: impl IntoIterator<Item = String>) {
    let all: Vec<_> = violations.into_iter().collect();
    assert!(all.is_empty(), "{} violation(s):\n{}", all.len(), all.join("\n"));
}

#[test]
fn modules_name_only_the_floors_below_them() {
    let sources = sources();
    let is_there = |name: &str| sources.iter().any(|source| graph::module(&source.path) == name);
    let gone = FLOORS.iter().copied().flatten().filter(|name| !is_there(name));
    let gone = gone.map(|name| format!("{name}: is on a floor and does not exist"));
    check(Graph::new(&sources).upward_names(FLOORS).into_iter().chain(gone));
}

#[test]
fn no_files_name_each_other_in_a_cycle() {
    check(Graph::new(&sources()).cycles());
}

#[test]
fn a_type_name_is_defined_in_one_module() {
    let mut defined = BTreeMap::<String, Vec<String>>::new();
    for source in sources() {
        for name in &source.types {
            defined.entry(name.clone()).or_default().push(source.path.clone());
        }
    }
    let twice = defined.into_iter().filter(|(name, paths)| {
        let modules = paths.iter().map(|path| graph::module(path));
        let crosses = modules.clone().any(|module| Some(module) != modules.clone().next());
        crosses && !DEFINED_TWICE.contains(&name.as_str())
    });
    check(twice.map(|(name, paths)| format!("{name}: {}", paths.join(", "))));
}

#[test]
fn foreign_crates_stay_in_their_place() {
    let sources = sources();
    let stray = |source: &Source| {
        let names = source.names.iter().filter_map(|name| {
            let (_, places) = CONFINED.iter().find(|(krate, _)| *krate == name.path[0])?;
            let allowed = places.iter().any(|place| source.path.starts_with(place));
            let at = format!("{}:{}", source.path, name.line);
            (!allowed).then(|| format!("{at}: {} stays in {places:?}", name.path[0]))
        });
        names.collect::<Vec<_>>()
    };
    check(sources.iter().flat_map(stray));
}

#[test]
fn files_keep_their_length() {
    let long = sources().into_iter().filter(|source| source.lines > FILE_LINES_MAX);
    check(long.map(|source| format!("{}: {} lines without tests", source.path, source.lines)));
}

#[test]
fn no_test_and_no_module_sleeps() {
    let paths = ["src", "tests"].iter().flat_map(|directory| files(directory));
    let paths = paths.filter(|path| !path.starts_with("src/bin/"));
    let sleeping = paths.filter(|path| document(path).contains(&["::sle", "ep("].concat()));
    check(sleeping.map(|path| format!("{path}: waits by the clock, not for what is to happen")));
}

#[test]
fn the_documents_match_the_code() {
    let (manifest, decisions) = (document("Cargo.toml"), document("docs/decisions.md"));
    check(documents::unlogged_version(&manifest, &document("CHANGELOG.md")));
    check(documents::unexplained_dependencies(&manifest, &decisions));
    let sources = sources();
    let directories = sources.iter().filter(|source| source.path.matches('/').count() > 1);
    let modules = directories.map(|source| graph::module(&source.path).to_owned());
    check(documents::unmapped_modules(modules, &document("docs/architecture.md")));
}
