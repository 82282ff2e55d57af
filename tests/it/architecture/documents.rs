//! Checks that the documents match the code: the version, the reason for each dependency, the map
//! of the modules. A document is read as it is in the tree; nothing here has a list of its own.

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

/// Dependencies without a line in the section "Dependencies" of `docs/decisions.md`, and lines
/// there for what is no longer a dependency.
pub(super) fn unexplained_dependencies(manifest: &str, decisions: &str) -> Vec<String> {
    let used = dependencies(manifest);
    let explained = explained(decisions);
    let missing = used.iter().filter(|name| !explained.contains(name));
    let stale = explained.iter().filter(|name| !used.contains(name));
    let missing = missing.map(|name| format!("docs/decisions.md: no line says why {name}"));
    missing.chain(stale.map(|name| format!("docs/decisions.md: {name} is no dependency"))).collect()
}

/// Directories of modules that `docs/architecture.md` does not name.
pub(super) fn unmapped_modules(
    modules: impl IntoIterator<Item = String>,
    architecture: &str,
) -> Vec<String> {
    let modules: std::collections::BTreeSet<_> = modules.into_iter().collect();
    let is_named = |module: &String| {
        let starts = [format!("`{module}"), format!("`src/{module}")];
        let ends = ["`", ".rs", "/"];
        starts.iter().any(|start| {
            let found = architecture.match_indices(start).map(|(at, _)| at + start.len());
            found
                .into_iter()
                .any(|end| ends.iter().any(|mark| architecture[end..].starts_with(mark)))
        })
    };
    let unmapped = modules.iter().filter(|module| !is_named(module));
    unmapped.map(|module| format!("docs/architecture.md: does not name {module}")).collect()
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
    fn missing_and_stale_reasons_are_found() {
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
    fn a_module_that_the_map_lacks_is_found() {
        let modules = ["event", "store"].map(str::to_owned);
        assert_eq!(unmapped_modules(modules.clone(), "`event` and `src/store/sled.rs`").len(), 0);
        assert_eq!(unmapped_modules(modules, "`event.rs` and `stores`").len(), 1);
    }
}
