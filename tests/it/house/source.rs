//! Reading Rust sources, as far as the rules of the house need it.

use std::path::{Path, PathBuf};

pub(super) struct Source {
    /// Below the package, `src/cache/purge.rs`.
    pub(super) path: String,
    /// Without comments and tests of its own.
    code: String,
}

impl Source {
    /// `cache` for `src/cache.rs` and all under `src/cache/`.
    pub(super) fn module(&self) -> &str {
        let below = self.path.split_once('/').unwrap().1;
        below.split(['/', '.']).next().unwrap()
    }

    /// Its string literals.
    pub(super) fn literals(&self) -> Vec<String> {
        split(&self.code).1
    }

    /// Its code with the contents of string literals blanked.
    pub(super) fn bare(&self) -> String {
        split(&self.code).0
    }
}

pub(super) fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    walk(&root.join(folder), &mut files);
    // Tests of the module that they stand beside.
    files.retain(|file| !file.ends_with("tests.rs"));
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let text = std::fs::read_to_string(&file).unwrap();
            let path = file.strip_prefix(root).unwrap().display().to_string();
            Source {
                path,
                code: without_tests(&without_comments(&text)),
            }
        })
        .collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// A `//` outside a string ends its line. Good enough for sources that rustfmt has seen.
fn without_comments(text: &str) -> String {
    let mut code = String::new();
    let mut in_string = None;
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let taken = match &in_string {
            None if rest.starts_with("//") => {
                let end = rest.find('\n').unwrap_or(rest.len());
                rest = &rest[end..];
                continue;
            }
            None => match opening(rest) {
                Some((length, end)) => {
                    in_string = Some(end);
                    length
                }
                None => next.len_utf8(),
            },
            Some(_) if rest.starts_with('\\') && in_string.as_deref() == Some("\"") => {
                1 + rest[1..].chars().next().map_or(0, char::len_utf8)
            }
            Some(end) if rest.starts_with(end.as_str()) => {
                let length = end.len();
                in_string = None;
                length
            }
            Some(_) => next.len_utf8(),
        };
        code.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    code
}

/// The length of the opening of a string or of a whole quote character, and what ends it.
fn opening(rest: &str) -> Option<(usize, String)> {
    if rest.starts_with('"') {
        return Some((1, "\"".to_owned()));
    }
    for quote in ["'\"'", "'\\\"'"] {
        if rest.starts_with(quote) {
            return Some((quote.len() - 1, "'".to_owned()));
        }
    }
    let hashes = rest
        .strip_prefix('r')?
        .bytes()
        .take_while(|byte| *byte == b'#')
        .count();
    rest[1 + hashes..]
        .starts_with('"')
        .then(|| (2 + hashes, format!("\"{}", "#".repeat(hashes))))
}

/// The code with empty strings, and the strings. It has no comments.
fn split(code: &str) -> (String, Vec<String>) {
    let (mut bare, mut literals) = (String::new(), Vec::new());
    let mut rest = code;
    while let Some(next) = rest.chars().next() {
        let Some((length, end)) = opening(rest) else {
            bare.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        };
        rest = &rest[length..];
        let mut literal = String::new();
        while let Some(next) = rest
            .chars()
            .next()
            .filter(|_| !rest.starts_with(end.as_str()))
        {
            let taken = if next == '\\' && end == "\"" {
                1 + rest[1..].chars().next().unwrap().len_utf8()
            } else {
                next.len_utf8()
            };
            literal.push_str(&rest[..taken]);
            rest = &rest[taken..];
        }
        rest = &rest[end.len().min(rest.len())..];
        bare.push_str("\"\"");
        literals.push(literal);
    }
    (bare, literals)
}

/// A module of tests stands at the end of its file.
fn without_tests(code: &str) -> String {
    let of_tests = |at: usize| {
        let mut lines = code[at..]
            .trim_start()
            .lines()
            .skip_while(|line| line.starts_with("#["));
        lines.next().is_some_and(|line| line.starts_with("mod "))
    };
    let end = code
        .match_indices("\n#[cfg(test)]")
        .map(|(at, _)| at)
        .find(|at| of_tests(*at));
    code[..end.unwrap_or(code.len())].to_owned()
}

/// The words of a code, in order.
pub(super) fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
}
