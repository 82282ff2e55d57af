//! Which file names which: every path is followed through re-exports to the file that it leads to.
//! A module is a file or a directory directly below `src`. A program is a crate of its own: it cannot
//! name the inside of the library, and its files and directories are modules as well.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, stem};

pub(super) struct Graph {
    /// The files that a file names, with the first place and the path that does.
    edges: BTreeMap<String, BTreeMap<String, (usize, String)>>,
}

/// The module of the library that a file belongs to; `bin` for the program.
pub(super) fn module(path: &str) -> &str {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    inner.split('/').next().unwrap_or(inner)
}

/// As [`module`], with the modules of the program told apart.
fn inner_module(path: &str) -> &str {
    path.strip_prefix("src/bin/wabahook/").map_or(module(path), module)
}

/// Where modules are found: files by their stem, and what they re-export by name.
struct Modules<'a> {
    files: BTreeMap<&'a str, &'a Source>,
    exports: BTreeMap<(&'a str, String), String>,
}

impl Graph {
    pub(super) fn new(sources: &[Source]) -> Graph {
        let files = sources.iter().map(|source| (source.stem(), source)).collect();
        let mut modules = Modules { files, exports: BTreeMap::new() };
        for source in sources {
            for name in source.names.iter().filter(|name| name.is_export) {
                let Some(path) = from_root(source, &name.path) else { continue };
                modules.exports.insert((source.stem(), name.alias.clone()), path);
            }
        }
        let mut edges = BTreeMap::new();
        for source in sources {
            edges.insert(source.path.clone(), modules.named_by(source));
        }
        Graph { edges }
    }

    /// Names of a module on the same floor, on a higher one, or on none.
    pub(super) fn upward_names(&self, floors: &[&[&str]]) -> Vec<String> {
        let floor = |path: &str| floors.iter().position(|modules| modules.contains(&module(path)));
        let mut violations = Vec::new();
        for (from, named) in self.edges.iter().filter(|(from, _)| !is_free(from)) {
            if floor(from).is_none() {
                violations.push(format!("{from}: {} is on no floor", module(from)));
            }
            for (to, (line, path)) in named {
                let is_below = floor(to).is_some() && floor(to) < floor(from);
                if module(from) != module(to) && !is_below {
                    violations.push(format!("{from}:{line}: {} names {path} ({to})", module(from)));
                }
            }
        }
        violations
    }

    /// Names through which files lead back to themselves: through another module, or through files beside each other. A
    /// file may name its children and be named by them.
    pub(super) fn cycles(&self) -> Vec<String> {
        let beside = |from: &str, to: &str| !is_kin(from, to);
        let (reach, reach_beside) = (self.reach_of_all(&|_, _| true), self.reach_of_all(&beside));
        let mut violations = Vec::new();
        for (from, named) in &self.edges {
            for (to, (line, path)) in named {
                let leads_back = |reach: &BTreeMap<&str, BTreeSet<&str>>| {
                    reach.get(to.as_str()).is_some_and(|reach| reach.contains(from.as_str()))
                };
                let crosses = inner_module(from) != inner_module(to) && leads_back(&reach);
                if crosses || beside(from, to) && leads_back(&reach_beside) {
                    violations.push(format!("{from}:{line} names {path}, and {to} leads back"));
                }
            }
        }
        violations
    }

    fn reach_of_all(&self, counts: &dyn Fn(&str, &str) -> bool) -> BTreeMap<&str, BTreeSet<&str>> {
        self.edges.keys().map(|path| (path.as_str(), self.reach(path, counts))).collect()
    }

    /// The files that a file leads to over the names that count.
    fn reach<'a>(
        &'a self,
        from: &'a str,
        counts: &dyn Fn(&str, &str) -> bool,
    ) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(path) = open.pop() {
            let named = self.edges.get(path).into_iter().flat_map(BTreeMap::keys);
            let named = named.map(String::as_str).filter(|to| counts(path, to));
            open.extend(named.filter(|to| reached.insert(*to)));
        }
        reached
    }
}

/// Whether one of two files is inside the module of the other.
fn is_kin(one: &str, other: &str) -> bool {
    let (one, other) = (stem(one), stem(other));
    one.starts_with(&format!("{other}/")) || other.starts_with(&format!("{one}/"))
}

/// The front door re-exports from everywhere, and the program sees what is public.
fn is_free(path: &str) -> bool {
    path == "src/lib.rs" || path.starts_with("src/bin/")
}

impl Modules<'_> {
    fn named_by(&self, source: &Source) -> BTreeMap<String, (usize, String)> {
        let mut named = BTreeMap::new();
        for name in &source.names {
            let Some(path) = from_root(source, &name.path) else { continue };
            let Some(file) = self.file(&path, 0) else { continue };
            let is_own_child = file.stem().starts_with(&format!("{}/", source.stem()));
            let is_front_door = source.path == "src/lib.rs";
            if file.path != source.path && !(name.is_export && is_own_child) && !is_front_door {
                let place = (name.line, name.path.join("::"));
                named.entry(file.path.clone()).or_insert(place);
            }
        }
        named
    }

    /// The file that a path from the root leads to: the deepest module, through its re-exports.
    fn file(&self, path: &str, depth: usize) -> Option<&Source> {
        let ends = path.rmatch_indices('/').map(|(at, _)| at);
        let (stem, file) = std::iter::once(path.len())
            .chain(ends)
            .find_map(|end| self.files.get_key_value(&path[..end]))?;
        let mut rest = path[stem.len()..].split('/').skip(1);
        let Some(first) = rest.next() else { return Some(file) };
        match self.exports.get(&(*stem, first.to_owned())).filter(|_| depth < 8) {
            Some(origin) => {
                let rest: String = rest.map(|segment| format!("/{segment}")).collect();
                self.file(&format!("{origin}{rest}"), depth + 1)
            }
            None => Some(file),
        }
    }
}

/// A path with `/` from the crate's root on; `None` for one into another crate.
fn from_root(source: &Source, path: &[String]) -> Option<String> {
    let krate =
        if source.path.starts_with("src/bin/wabahook/") { "src/bin/wabahook" } else { "src" };
    let ups = path.iter().take_while(|segment| *segment == "super").count();
    let base = match path.first()?.as_str() {
        "crate" => krate.to_owned(),
        "self" => source.stem().to_owned(),
        "super" => {
            let segments: Vec<_> = source.stem().split('/').collect();
            segments[..segments.len().checked_sub(ups)?].join("/")
        }
        first if source.modules.iter().any(|module| module == first) => {
            return Some(format!("{}/{}", source.stem(), path.join("/")));
        }
        _ => return None,
    };
    let rest = path[ups.max(1)..].iter().map(|segment| format!("/{segment}"));
    Some(base + &rest.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOORS: &[&[&str]] = &[&["noun"], &["left", "right"], &["top"]];

    /// The lower modules, and one file more.
    fn graph(path: &str, text: &str) -> Graph {
        let files = [
            ("src/lib.rs", "mod noun; mod left; mod right; mod top; pub use top::Top;"),
            ("src/noun.rs", "pub struct Noun;"),
            ("src/left/mod.rs", "mod inner; pub(crate) use inner::Inner;"),
            ("src/left/inner.rs", "use crate::noun::Noun; use super::other; pub struct Inner;"),
            ("src/right.rs", ""),
            ("src/top.rs", "use crate::left::Inner; use crate::right; pub struct Top;"),
        ];
        let files = files.into_iter().filter(|(own, _)| *own != path).chain([(path, text)]);
        Graph::new(&files.map(|(path, text)| Source::new(path, text)).collect::<Vec<_>>())
    }

    fn upward(path: &str, text: &str) -> usize {
        graph(path, text).upward_names(FLOORS).len()
    }

    #[test]
    fn what_points_down_or_stays_inside_is_right() {
        assert_eq!(upward("src/left/other.rs", "use crate::noun::Noun; use super::Inner;"), 0);
        assert_eq!(upward("src/bin/wabahook/main.rs", "use wabahook::Top; mod a; use a::B;"), 0);
        assert_eq!(upward("src/noun.rs", "#[cfg(test)]\nmod tests { use crate::top::Top; }"), 0);
    }

    #[test]
    fn what_points_up_or_aside_is_found_in_every_spelling() {
        for text in [
            "use crate::top::Top;",
            "use crate::{noun::Noun, top};",
            "use crate::Top as T;",
            "use crate::right::Anything;",
            "fn f() { super::super::top::start() }",
        ] {
            assert_eq!(upward("src/left/other.rs", text), 1, "{text}");
        }
        assert_eq!(upward("src/attic.rs", ""), 1);
    }

    #[test]
    fn cycles_are_found_across_modules_and_beside_each_other() {
        let cycles = |path, text| graph(path, text).cycles().len();
        assert_eq!(cycles("src/left/other.rs", "use super::Left;"), 0);
        assert_eq!(cycles("src/left/inner.rs", "use super::Left; pub struct Inner;"), 0);
        assert_eq!(cycles("src/left/other.rs", "use super::inner::Inner;"), 2);
        assert_eq!(cycles("src/noun.rs", "use crate::left::Inner;"), 2);
    }
}
