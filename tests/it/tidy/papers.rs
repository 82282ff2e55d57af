//! Decides whether the documents still speak of the code beside them: the version, the reason for
//! each dependency, the map of the files.
//!
//! Leaves to others: what the code holds (`rules`, `layers`). Invariant: a document is read as it
//! is in the tree; nothing here has a list of its own.

/// The version of `Cargo.toml` where `CHANGELOG.md` has no heading for it.
pub(super) fn unlogged_version(manifest: &str, changelog: &str) -> Vec<String> {
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = "));
    let Some(version) = version.map(|quoted| quoted.trim_matches('"')) else {
        return vec!["Cargo.toml: has no version".to_owned()];
    };
    let headings = changelog.lines().filter_map(|line| line.strip_prefix("## "));
    let mut versions = headings.filter_map(|heading| heading.split_whitespace().next());
    let logged = versions.any(|heading| heading.trim_matches(['[', ']']) == version);
    if logged { Vec::new() } else { vec![format!("CHANGELOG.md: no heading for {version}")] }
}

/// Dependencies without their line in the section "Dependencies" of `docs/decisions.md`, and lines
/// there for what is no dependency.
pub(super) fn unexplained_dependencies(manifest: &str, decisions: &str) -> Vec<String> {
    let used = dependencies(manifest);
    let explained = explained(decisions);
    let missing = used.iter().filter(|name| !explained.contains(name));
    let stale = explained.iter().filter(|name| !used.contains(name));
    let missing = missing.map(|name| format!("docs/decisions.md: no line says why {name}"));
    missing.chain(stale.map(|name| format!("docs/decisions.md: {name} is no dependency"))).collect()
}

/// Files of `src` that the map in `docs/architecture.md` does not name.
pub(super) fn unmapped_files<'a>(
    paths: impl IntoIterator<Item = &'a str>,
    architecture: &str,
) -> Vec<String> {
    let files = paths.into_iter().filter(|path| path.starts_with("src/"));
    let unmapped = files.filter(|path| !architecture.contains(&format!("`{path}`")));
    unmapped.map(|path| format!("docs/architecture.md: the code map lacks {path}")).collect()
}

fn dependencies(manifest: &str) -> Vec<&str> {
    let mut within = false;
    let mut names = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            let (parent, name) = section.rsplit_once('.').unwrap_or(("", section));
            within = name.ends_with("dependencies");
            names.extend(parent.ends_with("dependencies").then_some(name));
        } else if within && !line.starts_with('#') {
            names.extend(line.split_once('=').map(|(name, _)| first_part(name)));
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// `name` of `name = ..` and of `name.workspace = ..`.
fn first_part(key: &str) -> &str {
    key.split('.').next().unwrap_or(key).trim()
}

fn explained(decisions: &str) -> Vec<&str> {
    let section = decisions.split("\n## ").find(|section| section.starts_with("Dependencies"));
    let lines = section.unwrap_or_default().lines().filter_map(|line| line.strip_prefix("- `"));
    lines.filter_map(|line| line.split_once("`: ")).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[package]\nversion = \"1.2.3\"\n\n[dependencies]\n# why\na = \"1\"\n\
        b = { version = \"2\" }\n\n[target.'cfg(unix)'.dependencies]\nc = \"1\"\n\n\
        [dev-dependencies.d]\nversion = \"4\"\n\n[features]\ne = []\n";

    #[test]
    fn a_version_without_a_heading_is_found() {
        assert_eq!(unlogged_version(MANIFEST, "# Changes\n\n## [1.2.3] - a day\n").len(), 0);
        assert_eq!(unlogged_version(MANIFEST, "## 1.2.3\n").len(), 0);
        assert_eq!(unlogged_version(MANIFEST, "## [1.2.30]\n\nSince 1.2.3: ...\n").len(), 1);
        assert_eq!(unlogged_version("[package]\n", "## [1.2.3]\n").len(), 1);
    }

    #[test]
    fn a_dependency_without_a_reason_and_a_reason_without_a_dependency_are_found() {
        let check = |lines: &str, says: &[&str]| {
            let decisions =
                format!("# Decisions\n\n## Dependencies\n\n{lines}\n## Others\n- `z`: no\n");
            let found = unexplained_dependencies(MANIFEST, &decisions);
            assert_eq!(found.len(), says.len(), "{found:?}");
            assert!(found.iter().zip(says).all(|(found, says)| found.ends_with(says)), "{found:?}");
        };
        check("- `a`: x\n- `b`: x\n- `c`: x\n- `d`: x\n", &[]);
        check("- `a`: x\n- `b`: x\n- `d`: x\n", &["why c"]);
        check("- `a`: x\n- `b`: x\n- `c`: x\n- `d`: x\n- `e`: x\n", &["e is no dependency"]);
        assert_eq!(unexplained_dependencies(MANIFEST, "").len(), 4);
    }

    #[test]
    fn a_file_that_the_map_lacks_is_found() {
        let map = "- `src/a.rs`: decides a";
        assert_eq!(unmapped_files(["src/a.rs", "tests/it/b.rs"], map).len(), 0);
        assert_eq!(unmapped_files(["src/a.rs", "src/b.rs"], map).len(), 1);
    }
}
