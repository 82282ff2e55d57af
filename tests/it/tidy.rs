//! Promises that the house is as `docs/architecture.md` draws it: who names whom, what stays where,
//! how long anything gets, and that the documents still speak of the code.
//!
//! Each rule stands in a module below, with a test in which it finds something; here they are put
//! to the tree. Reads files and nothing else.

mod layers;
mod papers;
mod rules;
mod source;

use std::fs;
use std::path::Path;

use layers::Exports;
use source::Source;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust file of the crate, in order, each knowing whether it is test code.
fn tree() -> Vec<Source> {
    let mut paths = Vec::new();
    for top in ["src", "tests", "benches", "examples"] {
        walk(&root().join(top), &mut paths);
    }
    paths.sort();
    let read = |path: &String| Source::new(path, &document(path));
    let mut sources: Vec<_> = paths.iter().map(read).collect();
    for place in test_files(&sources) {
        let inside =
            |path: &str| path == format!("{place}.rs") || path.starts_with(&format!("{place}/"));
        sources.iter_mut().filter(|source| inside(&source.path)).for_each(Source::make_test);
    }
    sources
}

fn walk(directory: &Path, paths: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.ends_with("target") {
            // What a crate within the tree was built into.
            continue;
        }
        if path.is_dir() {
            walk(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let parts = path.strip_prefix(root()).unwrap().components();
            let parts: Vec<_> = parts.map(|part| part.as_os_str().to_str().unwrap()).collect();
            paths.push(parts.join("/"));
        }
    }
}

/// Where the files lie that another file declares under `#[cfg(test)]`, without their ending.
fn test_files(sources: &[Source]) -> Vec<String> {
    let places = sources.iter().flat_map(|source| {
        let stem = source.path.strip_suffix(".rs").unwrap_or(&source.path);
        let directory = ["/mod", "/lib", "/main"].iter().find_map(|end| stem.strip_suffix(end));
        let directory = directory.unwrap_or(stem).to_owned();
        source.test_modules().into_iter().map(move |module| format!("{directory}/{module}"))
    });
    places.collect()
}

fn check(findings: impl IntoIterator<Item = String>) {
    let findings: Vec<_> = findings.into_iter().collect();
    assert!(findings.is_empty(), "{} finding(s):\n{}", findings.len(), findings.join("\n"));
}

fn check_each(rule: fn(&Source) -> Vec<String>) {
    check(tree().iter().flat_map(rule));
}

fn exports(sources: &[Source]) -> Exports {
    Exports::new(sources.iter().find(|source| source.path == "src/lib.rs").unwrap())
}

#[test]
fn the_tree_is_read_whole() {
    let sources = tree();
    for path in ["src/lib.rs", "src/store/sled.rs", "src/bin/wabahook/main.rs", "tests/it/tidy.rs"]
    {
        assert!(sources.iter().any(|source| source.path == path), "{path} was not read");
    }
    let is_test = |path: &str| sources.iter().any(|s| s.path == path && s.is_test);
    assert!(is_test("src/store/contract.rs") && !is_test("src/store/mod.rs"));
}

#[test]
fn dependencies_point_one_way() {
    let sources = tree();
    let exports = exports(&sources);
    let code = sources.iter().filter(|source| !source.is_test);
    check(code.flat_map(|source| layers::upward_names(source, &exports)));
    check(layers::idle_exceptions(&sources, &exports));
    check_each(rules::borrowed_files);
}

#[test]
fn sled_ureq_clocks_chance_and_threads_stay_in_their_place() {
    check_each(rules::strays);
}

#[test]
fn every_file_opens_with_what_it_decides() {
    check_each(rules::missing_header);
}

#[test]
fn functions_and_files_keep_their_length() {
    check_each(rules::overlong);
}

#[test]
fn nothing_is_left_over_and_no_test_is_ignored() {
    check_each(rules::leftovers);
}

#[test]
fn every_file_is_named_for_a_decision() {
    check_each(rules::empty_names);
}

#[test]
fn nothing_but_a_host_sleeps() {
    check_each(rules::sleeps);
}

#[test]
fn sources_are_ascii_outside_of_the_literals_of_tests() {
    check_each(rules::beyond_ascii);
}

#[test]
fn functions_are_named_for_what_they_give() {
    check_each(rules::getters);
}

#[test]
fn the_changelog_knows_the_version() {
    check(papers::unlogged_version(&document("Cargo.toml"), &document("CHANGELOG.md")));
}

#[test]
fn every_dependency_has_its_reason() {
    let decisions = document("docs/decisions.md");
    check(papers::unexplained_dependencies(&document("Cargo.toml"), &decisions));
}

#[test]
fn the_code_map_names_every_file() {
    let sources = tree();
    let code = sources.iter().filter(|source| !source.is_test);
    let paths = code.map(|source| source.path.as_str());
    check(papers::unmapped_files(paths, &document("docs/architecture.md")));
}
