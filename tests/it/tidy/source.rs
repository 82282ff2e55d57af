//! Decides what a source file says: its tokens, the paths it names, its functions, and which of its
//! lines are tests.
//!
//! Leaves to others: what may be said (`layers`, `rules`). It knows as much of Rust as that takes:
//! comments, literals, `use` trees and braces. Invariant: what stands in a comment or a literal is
//! never taken for code.

/// One file of the tree, read.
pub(super) struct Source {
    /// From the crate's root, with `/`.
    pub(super) path: String,
    pub(super) text: String,
    /// Whether the whole file is test code.
    pub(super) is_test: bool,
    pub(super) tokens: Vec<Token>,
    kinds: Vec<Kind>,
}

/// A word, a mark, `::`, or a literal (as `"`), outside of comments.
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
    pub(super) is_test: bool,
}

/// A path as written, with the tree of a `use` taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    pub(super) is_test: bool,
}

/// A function with a body.
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) lines: usize,
}

/// What a piece of text is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Code,
    Comment,
    Literal,
}

/// Words that stand before a path and are no part of one.
const KEYWORDS: [&str; 18] = [
    "as", "break", "const", "dyn", "else", "for", "if", "impl", "in", "let", "match", "move",
    "mut", "pub", "ref", "return", "where", "while",
];

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Source {
        let is_test = path.starts_with("tests/");
        let kinds = kinds(text.as_bytes());
        let tokens = tokens(text, &kinds, is_test);
        Source { path: path.to_owned(), text: text.to_owned(), is_test, tokens, kinds }
    }

    /// Makes the whole file test code: another file declares it under `#[cfg(test)]`.
    pub(super) fn make_test(&mut self) {
        self.is_test = true;
        self.tokens.iter_mut().for_each(|token| token.is_test = true);
    }

    /// Every path named, in order. Paths of one segment are left out of expressions, not of `use`.
    pub(super) fn paths(&self) -> Vec<Named> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            at = match self.word(at) {
                "use" if self.word(at + 1) != "<" => self.use_tree(at + 1, &[], &mut found),
                _ => self.expression_path(at, &mut found),
            };
        }
        found
    }

    /// Every function with a body, the ones within others too.
    pub(super) fn functions(&self) -> Vec<Function> {
        let starts = (0..self.tokens.len())
            .filter(|at| self.word(*at) == "fn" && opens_word(self.word(at + 1)));
        starts.filter_map(|at| self.function(at)).collect()
    }

    /// Lines of the file that are not unit tests, whether these stand in it or it is one of theirs. A
    /// file below `tests/` counts whole: it is what it is there for.
    pub(super) fn lines_without_tests(&self) -> usize {
        let all = self.text.lines().count();
        if self.path.starts_with("tests/") {
            return all;
        }
        if self.is_test {
            return 0;
        }
        let tests: std::collections::BTreeSet<_> = test_items(&self.tokens)
            .flat_map(|(first, last)| self.tokens[first].line..=self.tokens[last].line)
            .collect();
        all - tests.len()
    }

    /// The text of one kind with its lines kept, so that a hit can be named by its line.
    pub(super) fn only(&self, kind: Kind) -> String {
        let bytes = self.text.as_bytes().iter().zip(&self.kinds);
        let kept = bytes.map(|(byte, of)| if *of == kind || *byte == b'\n' { *byte } else { b' ' });
        String::from_utf8_lossy(&kept.collect::<Vec<_>>()).into_owned()
    }

    /// The modules that the file declares under `#[cfg(test)]` and keeps in files of their own.
    pub(super) fn test_modules(&self) -> Vec<String> {
        let declared = self.tokens.windows(3).filter(|three| {
            three[0].is_test && three[0].text == "mod" && three[2].text == ";" && !self.is_test
        });
        declared.map(|three| three[1].text.clone()).collect()
    }

    pub(super) fn word(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text.as_str())
    }

    fn use_tree(&self, mut at: usize, prefix: &[String], found: &mut Vec<Named>) -> usize {
        let start = at;
        let mut segments = prefix.to_vec();
        loop {
            match self.word(at) {
                "::" => at += 1,
                "as" => at += 2,
                "{" => return self.use_group(at + 1, &segments, found),
                "," | ";" | "}" | "" => break,
                word => {
                    segments.push(word.to_owned());
                    at += 1;
                }
            }
        }
        if let Some(token) = self.tokens.get(start) {
            found.push(Named { segments, line: token.line, is_test: token.is_test });
        }
        at.max(start + 1)
    }

    fn use_group(&self, mut at: usize, prefix: &[String], found: &mut Vec<Named>) -> usize {
        while !matches!(self.word(at), "}" | "") {
            at = self.use_tree(at, prefix, found);
            at += usize::from(self.word(at) == ",");
        }
        at + 1
    }

    fn expression_path(&self, mut at: usize, found: &mut Vec<Named>) -> usize {
        let token = &self.tokens[at];
        let starts_path = opens_word(&token.text)
            && !KEYWORDS.contains(&token.text.as_str())
            && !self.continues_path(at);
        if !starts_path {
            return at + 1;
        }
        let mut segments = vec![token.text.clone()];
        while self.word(at + 1) == "::" && opens_word(self.word(at + 2)) {
            segments.push(self.word(at + 2).to_owned());
            at += 2;
        }
        if segments.len() > 1 {
            found.push(Named { segments, line: token.line, is_test: token.is_test });
        }
        at + 1
    }

    /// Whether the word comes after `a::` or `<A>::`; after a leading `::` it does not.
    fn continues_path(&self, at: usize) -> bool {
        if at < 2 || self.word(at - 1) != "::" {
            return false;
        }
        let before = self.word(at - 2);
        before == ">" || (opens_word(before) && !KEYWORDS.contains(&before))
    }

    fn function(&self, at: usize) -> Option<Function> {
        let mut depth = 0;
        for (end, token) in self.tokens.iter().enumerate().skip(at) {
            match token.text.as_str() {
                "(" | "[" => depth += 1,
                ")" | "]" => depth -= 1,
                "{" if depth == 0 => {
                    let last = closing(&self.tokens, end);
                    let line = self.tokens[at].line;
                    let lines = self.tokens[last].line - line + 1;
                    return Some(Function { name: self.word(at + 1).to_owned(), line, lines });
                }
                ";" if depth == 0 => return None,
                _ => {}
            }
        }
        None
    }
}

fn tokens(text: &str, kinds: &[Kind], is_test: bool) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        let run = |same: &dyn Fn(usize) -> bool| {
            (at..bytes.len()).find(|next| !same(*next)).unwrap_or(bytes.len())
        };
        let (end, word) = match kinds[at] {
            Kind::Comment => (at + 1, None),
            Kind::Literal => (run(&|i| kinds[i] == Kind::Literal), Some("\"")),
            Kind::Code if is_word(bytes[at]) => {
                let end = run(&|i| kinds[i] == Kind::Code && is_word(bytes[i]));
                (end, text.get(at..end))
            }
            Kind::Code if bytes[at..].starts_with(b"::") => (at + 2, Some("::")),
            Kind::Code if bytes[at].is_ascii_whitespace() => (at + 1, None),
            Kind::Code => (at + 1, text.get(at..=at)),
        };
        tokens.extend(word.map(|word| Token { text: word.to_owned(), line, is_test }));
        line += bytes[at..end].iter().filter(|byte| **byte == b'\n').count();
        at = end;
    }
    let items: Vec<_> = test_items(&tokens).collect();
    for (first, last) in items {
        tokens[first..=last].iter_mut().for_each(|token| token.is_test = true);
    }
    tokens
}

/// First and last token of each item that stands under `#[cfg(test)]`.
fn test_items(tokens: &[Token]) -> impl Iterator<Item = (usize, usize)> {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let is_start = |at: &usize| {
        let words = tokens[*at..].iter().map(|token| token.text.as_str());
        words.take(ATTRIBUTE.len()).eq(ATTRIBUTE)
    };
    let starts = (0..tokens.len()).filter(is_start);
    starts.map(|first| (first, item_end(tokens, first + ATTRIBUTE.len())))
}

/// Where an item ends: at its `;`, or at the brace that closes its body.
fn item_end(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token.text.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            ";" if depth == 0 => return at,
            "{" if depth == 0 => {
                let last = closing(tokens, at);
                let ends_later = tokens.get(last + 1).is_some_and(|token| token.text == ";");
                return if ends_later { last + 1 } else { last };
            }
            _ => {}
        }
    }
    tokens.len() - 1
}

/// The brace that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len() - 1
}

fn kinds(bytes: &[u8]) -> Vec<Kind> {
    let mut kinds = Vec::with_capacity(bytes.len());
    while kinds.len() < bytes.len() {
        let at = kinds.len();
        let (kind, len) = piece(&bytes[at..], at > 0 && is_word(bytes[at - 1]));
        kinds.resize((at + len).min(bytes.len()), kind);
    }
    kinds
}

/// The kind of what comes next, and how many bytes of it there are.
fn piece(rest: &[u8], within_word: bool) -> (Kind, usize) {
    match rest[0] {
        b'/' if rest.starts_with(b"//") => {
            (Kind::Comment, rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()))
        }
        b'/' if rest.starts_with(b"/*") => (Kind::Comment, block_comment_len(rest)),
        b'"' => (Kind::Literal, quoted_len(rest, b'"')),
        b'\'' => char_len(rest).map_or((Kind::Code, 1), |len| (Kind::Literal, len)),
        b'r' | b'b' | b'c' if !within_word => {
            raw_len(rest).map_or((Kind::Code, 1), |len| (Kind::Literal, len))
        }
        _ => (Kind::Code, 1),
    }
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if rest[at..].starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
        } else {
            at += 1;
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// The length of a character literal; `None` for a lifetime.
fn char_len(rest: &[u8]) -> Option<usize> {
    let first = *rest.get(1)?;
    if first == b'\\' {
        return Some(quoted_len(rest, b'\''));
    }
    let width = match first {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

/// The length of a raw string with its prefix, where one starts here.
fn raw_len(rest: &[u8]) -> Option<usize> {
    let prefix = if rest[0] == b'r' { 1 } else { 2 };
    if rest.get(prefix - 1) != Some(&b'r') {
        return None;
    }
    let marks = rest[prefix..].iter().take_while(|b| **b == b'#').count();
    let body = prefix + marks + 1;
    if rest.get(body - 1) != Some(&b'"') {
        return None;
    }
    let end = [&b"\""[..], &b"#".repeat(marks)].concat();
    let len = rest[body..].windows(end.len()).position(|window| window == end)?;
    Some(body + len + end.len())
}

fn opens_word(text: &str) -> bool {
    text.bytes().next().is_some_and(is_word)
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_paths(text: &str, expected: &[&str]) {
        let paths = Source::new("src/a.rs", text).paths();
        let paths: Vec<_> = paths.iter().map(|path| path.segments.join("::")).collect();
        assert_eq!(paths, expected, "{text}");
    }

    #[test]
    fn a_use_tree_is_taken_apart() {
        check_paths(
            "use a::{b::C, d as e, f::{self, *}};",
            &["a::b::C", "a::d", "a::f::self", "a::f::*"],
        );
        check_paths("pub(crate) use ::sled::Db;", &["sled::Db"]);
        check_paths("fn f<'a>(x: &'a u8) -> impl Sized + use<'a> { x }", &[]);
    }

    #[test]
    fn paths_are_found_in_expressions_and_types() {
        check_paths(
            "fn f(x: crate::a::B) { Vec::<std::a::C>::new(); self::d::e() }",
            &["crate::a::B", "std::a::C", "self::d::e"],
        );
        check_paths("fn f() { <A as b::C>::d(); return ::e::f(); }", &["b::C", "e::f"]);
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        for text in [
            "// a::b",
            "/* a /* b */ a::b */",
            r#"const X: &str = "a::b \" a::b";"#,
            r##"const X: &str = r#"a::b " a::b"#;"##,
            r#"const X: &[u8] = br"a::b\";"#,
            "const X: char = '\"'; // a::b \"",
            "const X: (char, char) = ('\\'', '\u{e4}'); // a::b",
        ] {
            check_paths(text, &[]);
        }
        check_paths("fn f<'a>(x: &'a str) { a::b(\"'\") }", &["a::b"]);
    }

    #[test]
    fn a_function_is_measured_from_its_name_to_its_brace() {
        let text =
            "fn a(x: [u8; 2]) -> u8 {\n  \"}\";\n  1\n}\ntrait T { fn b(); }\ntype F = fn();";
        let source = Source::new("src/a.rs", text);
        let found: Vec<_> =
            source.functions().iter().map(|f| (f.name.clone(), f.line, f.lines)).collect();
        assert_eq!(found, [("a".to_owned(), 1, 4)]);
    }

    #[test]
    fn tests_are_told_from_code() {
        let text = "mod a;\n#[cfg(test)]\nmod b;\n#[cfg(test)]\nuse x::{y};\nfn c() {}\n\
                    #[cfg(test)]\nmod tests {\n fn d() {}\n}\n";
        let source = Source::new("src/a.rs", text);
        let code: Vec<_> = source.tokens.iter().filter(|t| !t.is_test).map(|t| &*t.text).collect();
        assert_eq!(code.join(" "), "mod a ; fn c ( ) { }");
        assert_eq!(source.test_modules(), ["b"]);
        assert_eq!(source.lines_without_tests(), 2);
    }

    #[test]
    fn a_file_below_tests_is_test_code_and_counts_whole() {
        let source = Source::new("tests/it/a.rs", "fn a() {}\n\nfn b() {}\n");
        assert!(source.tokens.iter().all(|token| token.is_test));
        assert_eq!(source.lines_without_tests(), 3);
        let mut unit_tests = Source::new("src/a_tests.rs", "fn a() {}\n");
        unit_tests.make_test();
        assert_eq!(unit_tests.lines_without_tests(), 0);
    }
}
