//! Reads as much of a Rust file as the checks need: the paths it names, the types it defines and
//! the modules it declares. Comments, literals and items under `#[cfg(test)]` are blanked first, so
//! what stands in them is never taken for code.

/// One file below `src`.
pub(super) struct Source {
    pub(super) path: String,
    /// Lines that are not part of a unit test.
    pub(super) lines: usize,
    /// Every path of more than one segment, in order.
    pub(super) names: Vec<Name>,
    /// The names of the types and traits that it defines.
    pub(super) types: Vec<String>,
    /// The modules that it declares, but for tests.
    pub(super) modules: Vec<String>,
    test_modules: Vec<String>,
}

/// A path that a file names, with the tree of a `use` taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) path: Vec<String>,
    /// What a `use` calls it here.
    pub(super) alias: String,
    pub(super) line: usize,
    /// Whether it is named by a `pub use`.
    pub(super) is_export: bool,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Source {
        let (code, test_modules) = blank_tests(&blank_comments_and_literals(text));
        let is_test = |(before, after): &(&str, &str)| {
            after.trim().is_empty() && !before.trim().is_empty() && !before.trim().starts_with("//")
        };
        let tests = text.lines().zip(code.lines()).filter(is_test).count();
        let lines = text.lines().count() - tests;
        let tokens = tokens(&code);
        let (names, types) = (names(&tokens), types(&tokens));
        let declared = tokens.windows(2).filter(|two| two[0].text == "mod");
        let modules = declared.map(|two| two[1].text.to_owned()).collect();
        Source { path: path.to_owned(), lines, names, types, modules, test_modules }
    }

    /// The file's module from the crate's root, without the ending of its name.
    pub(super) fn stem(&self) -> &str {
        stem(&self.path)
    }
}

/// The path of a file as a module.
pub(super) fn stem(path: &str) -> &str {
    let stem = path.trim_end_matches(".rs");
    ["/mod", "/lib", "/main"].iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(stem)
}

/// Leaves out the files that another one declares under `#[cfg(test)]`.
pub(super) fn without_tests(mut sources: Vec<Source>) -> Vec<Source> {
    let declared = |source: &Source| {
        let stem = source.stem().to_owned();
        let modules = source.test_modules.clone().into_iter();
        modules.map(|module| format!("{stem}/{module}")).collect::<Vec<_>>()
    };
    let tests: Vec<_> = sources.iter().flat_map(declared).collect();
    sources.retain(|source| {
        let inside = |test: &String| source.stem().strip_prefix(test.as_str());
        !tests.iter().filter_map(inside).any(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    sources
}

fn blank_comments_and_literals(text: &str) -> String {
    let mut code = text.as_bytes().to_vec();
    let mut at = 0;
    while at < code.len() {
        let length = skipped(&text.as_bytes()[at..]);
        for byte in code[at..at + length].iter_mut().filter(|byte| **byte != b'\n') {
            *byte = b' ';
        }
        at += length.max(1);
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// How many bytes a comment or a literal takes that starts here; 0 for code.
fn skipped(text: &[u8]) -> usize {
    let until = |end: &[u8], from: usize| {
        let found = text[from..].windows(end.len()).position(|window| window == end);
        found.map_or(text.len(), |found| from + found + end.len())
    };
    match text {
        [b'/', b'/', ..] => until(b"\n", 2) - 1,
        [b'/', b'*', ..] => until(b"*/", 2),
        [b'"', ..] => quoted(text, b'"'),
        [b'r', b'"', ..] => until(b"\"", 2),
        [b'r', b'#', rest @ ..] => {
            let hashes = 1 + rest.iter().take_while(|byte| **byte == b'#').count();
            let is_string = text.get(1 + hashes) == Some(&b'"');
            let end = [b"\"".as_slice(), &text[1..1 + hashes]].concat();
            if is_string { until(&end, 2 + hashes) } else { 0 }
        }
        [b'\'', b'\\', ..] => quoted(text, b'\''),
        // A lifetime has no second mark.
        [b'\'', rest @ ..] => {
            let mark = rest.iter().skip(1).take(4).position(|byte| *byte == b'\'');
            mark.filter(|mark| *mark == 0 || !rest[0].is_ascii()).map_or(0, |mark| mark + 3)
        }
        _ => 0,
    }
}

fn quoted(text: &[u8], mark: u8) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != mark {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// Blanks the items under `#[cfg(test)]` and returns the modules among them that are files.
fn blank_tests(code: &str) -> (String, Vec<String>) {
    let (mut rest, mut kept, mut modules) = (code, String::new(), Vec::new());
    while let Some(start) = rest.find("#[cfg(test)]") {
        let item = &rest[start..start + item_length(&rest[start..])];
        let mut words = item.split_whitespace().skip_while(|word| *word != "mod").skip(1);
        modules.extend(words.next().and_then(|name| name.strip_suffix(';')).map(str::to_owned));
        kept.push_str(&rest[..start]);
        kept.extend(item.chars().map(|c| if c == '\n' { c } else { ' ' }));
        rest = &rest[start + item.len()..];
    }
    kept.push_str(rest);
    (kept, modules)
}

/// To the end of its braces, or to its semicolon.
fn item_length(item: &str) -> usize {
    let mut depth = 0;
    for (at, c) in item.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 && (c == ';' || c == '}') {
            return at + 1;
        }
    }
    item.len()
}

struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Words, `::`, and every other mark.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = match end {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                end => end,
            };
            tokens.push(Token { text: &rest[..length], line: line + 1 });
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn names(tokens: &[Token<'_>]) -> Vec<Name> {
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut names = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if word(at) == "use" {
            let is_export = at > 0 && ["pub", ")"].contains(&word(at - 1));
            at = use_tree(tokens, at + 1, &[], is_export, &mut names);
        } else if is_word(word(at)) && word(at + 1) == "::" && word(at.wrapping_sub(1)) != "in" {
            let mut path = vec![word(at).to_owned()];
            while word(at + 1) == "::" && is_word(word(at + 2)) {
                path.push(word(at + 2).to_owned());
                at += 2;
            }
            let (alias, line) = (String::new(), tokens[at].line);
            names.push(Name { path, alias, line, is_export: false });
        }
        at += 1;
    }
    names
}

fn types(tokens: &[Token<'_>]) -> Vec<String> {
    let mut depth = 0;
    let mut types = Vec::new();
    for two in tokens.windows(2) {
        match two[0].text {
            "{" => depth += 1,
            "}" => depth -= 1,
            "struct" | "enum" | "union" | "trait" if is_word(two[1].text) => {
                types.push(two[1].text.to_owned());
            }
            // Within braces it is an associated type.
            "type" if depth == 0 => types.push(two[1].text.to_owned()),
            _ => {}
        }
    }
    types
}

/// Adds the leaves of the tree at `at` to `names` and returns where it ends: at `;`, `,` or `}`.
fn use_tree(
    tokens: &[Token<'_>],
    mut at: usize,
    before: &[String],
    is_export: bool,
    names: &mut Vec<Name>,
) -> usize {
    let mut path = before.to_vec();
    let line = tokens[at].line;
    loop {
        match tokens[at].text {
            "::" => {}
            "{" => {
                while !["}", ";"].contains(&tokens[at].text) {
                    at = use_tree(tokens, at + 1, &path, is_export, names);
                }
                // Nothing but the end of this tree follows.
                return at + 1;
            }
            "," | ";" | "}" => break,
            "as" => at += 1,
            word => path.push(word.to_owned()),
        }
        at += 1;
    }
    let alias = if tokens[at - 2].text == "as" { tokens[at - 1].text } else { "" };
    if path.len() > before.len() {
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let alias = [alias, path.last().map_or("", String::as_str)];
        let alias = alias.into_iter().find(|name| !name.is_empty()).unwrap_or_default().to_owned();
        names.push(Name { path, alias, line, is_export });
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let names = Source::new("src/a.rs", text).names;
        names.into_iter().map(|name| name.path.join("::")).collect()
    }

    #[test]
    fn paths_are_found_in_every_spelling() {
        for (text, paths) in [
            ("use crate::a::B;", vec!["crate::a::B"]),
            (
                "use crate::{a::{B, c::D}, E as F};",
                vec!["crate::a::B", "crate::a::c::D", "crate::E"],
            ),
            ("use super::a::{self, B};", vec!["super::a", "super::a::B"]),
            ("pub(crate) use self::a::*;", vec!["self::a::*"]),
            ("fn f(a: &crate::A) -> b::C { d::e::<F>() }", vec!["crate::A", "b::C", "d::e"]),
            ("fn f() { ::sled::open() } fn g() { h() }", vec!["sled::open"]),
        ] {
            let found = names(text);
            assert!(
                paths.iter().all(|path| found.contains(&path.to_string())),
                "{text}: {found:?}"
            );
        }
    }

    #[test]
    fn comments_literals_and_tests_are_no_code() {
        let text = "// use crate::a::B;\n/* c::D */ fn f<'a>() { g(\"e::F\\\"\", r#\"g\"::H\"#, '\"', '\\'') }\n\
            #[cfg(test)]\nmod tests { use crate::i::J; }\n#[cfg(test)]\nmod more;\nuse crate::k::L;";
        assert_eq!(names(text), ["crate::k::L"]);
        let source = Source::new("src/a.rs", text);
        assert_eq!((source.lines, &source.test_modules[..]), (3, &["more".to_owned()][..]));
    }

    #[test]
    fn types_are_found_and_associated_ones_are_not() {
        let text =
            "pub struct A; enum B {} trait C { type D; } type E = A; impl C for A { type D = B; }";
        assert_eq!(Source::new("src/a.rs", text).types, ["A", "B", "C", "E"]);
    }
}
