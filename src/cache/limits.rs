//! What keys and values may be: checked here, before the database sees them, and by its constraints.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// The deepest nesting of a JSON value: an array in an array is two levels.
pub(crate) const MAX_DEPTH: usize = 128;
/// The most digits of a counter.
pub(crate) const MAX_COUNTER: i64 = 999_999_999_999_999_999;

/// Refuses a text that the tables would not hold.
pub(crate) fn check_text(what: &str, text: &str, least: usize, most: usize) -> Result<()> {
    let fault = if text.len() < least {
        "is empty".to_owned()
    } else if text.len() > most {
        format!("has {} bytes", text.len())
    } else if text.contains('\0') {
        "holds a NUL".to_owned()
    } else {
        return Ok(());
    };
    let most = if most == 1024 {
        "1,024".to_owned()
    } else {
        most.to_string()
    };
    Err(Error::invalid(format!(
        "{what} must be {least} to {most} bytes of UTF-8 without NUL; this one {fault}"
    )))
}

pub(crate) fn check_key(key: &str) -> Result<()> {
    check_text("a key", key, 1, 1024)
}

/// Refuses a prefix that no key can have.
pub(crate) fn check_prefix(prefix: &str) -> Result<()> {
    check_text("a prefix", prefix, 0, 1024)
}

/// The JSON text of `value`, without outer white space, within the limits.
pub(crate) fn encode<T: Serialize + ?Sized>(
    key: &str,
    value: &T,
    max_bytes: usize,
) -> Result<String> {
    check_key(key)?;
    let mut text = Limited::default();
    let written = serde_json::to_writer(&mut text, value);
    if text.depth.deepest > MAX_DEPTH {
        return Err(too_deep(&format!("the value of key {key:?}")));
    }
    let mut text = written
        .and_then(|()| String::from_utf8(text.bytes).map_err(serde::ser::Error::custom))
        .map_err(|error| {
            Error::invalid(format!(
                "the value of key {key:?} does not serialise to JSON: {error}; nothing was stored"
            ))
        })?;
    let trimmed = text.trim_matches([' ', '\t', '\n', '\r']);
    if trimmed.len() < text.len() {
        text = trimmed.to_owned();
    }
    if text.len() > max_bytes {
        return Err(Error::invalid(format!(
            "the value of key {key:?} has {} bytes of JSON, over max_value_bytes ({max_bytes}): store less, or raise the limit",
            text.len()
        )));
    }
    Ok(text)
}

/// Refuses JSON that nests so deep that a database would choke on it.
pub(crate) fn check_depth(what: &str, text: &str) -> Result<()> {
    if may_nest(text) && depth(text) > MAX_DEPTH {
        return Err(too_deep(what));
    }
    Ok(())
}

/// Whether there are so many brackets, in strings or out of them, that they could nest too deep. Most values have few, and
/// counting takes a tenth of the time that following them takes.
fn may_nest(text: &str) -> bool {
    // `[` and `{` are one bit apart. A count that fits a byte is made of many bytes at once.
    let openers =
        |piece: &[u8]| -> u8 { piece.iter().map(|byte| u8::from(byte | 0x20 == b'{')).sum() };
    let pieces = text.as_bytes().chunks(usize::from(u8::MAX));
    pieces
        .map(|piece| usize::from(openers(piece)))
        .sum::<usize>()
        > MAX_DEPTH
}

fn too_deep(what: &str) -> Error {
    Error::invalid(format!(
        "{what} nests deeper than {MAX_DEPTH} levels: store a flatter one"
    ))
}

/// The value that `text` holds.
pub(crate) fn decode<T: DeserializeOwned>(key: &str, text: &str) -> Result<T> {
    // It was limited when it was stored, unless somebody wrote past larder: reading it would end the process.
    if let Err(error) = check_depth("it", text) {
        return Err(Error::corrupt(
            format!("the stored value of key {key:?} cannot be read: {error}; delete it"),
            error,
        ));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.disable_recursion_limit();
    T::deserialize(&mut deserializer).map_err(|error| {
        Error::corrupt(
            format!(
                "the stored value of key {key:?} is not a {}: {error}; delete it, or read it as another type",
                std::any::type_name::<T>()
            ),
            error,
        )
    })
}

/// How deep arrays and objects nest in a JSON text.
pub(crate) fn depth(text: &str) -> usize {
    let mut depth = Depth::default();
    depth.read(text.as_bytes());
    depth.deepest
}

/// A count of levels, over a JSON text that comes in pieces.
#[derive(Default)]
struct Depth {
    now: usize,
    deepest: usize,
    in_string: bool,
    escaped: bool,
}

impl Depth {
    fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'[' | b'{' if !self.in_string => {
                    self.now += 1;
                    self.deepest = self.deepest.max(self.now);
                }
                b']' | b'}' if !self.in_string => self.now = self.now.saturating_sub(1),
                _ => {}
            }
        }
    }
}

/// A JSON text that is no longer written where it gets too deep: serialising recurses, and so would end the process.
#[derive(Default)]
struct Limited {
    bytes: Vec<u8>,
    depth: Depth,
}

impl io::Write for Limited {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.depth.read(piece);
        if self.depth.deepest > MAX_DEPTH {
            return Err(io::Error::other("too deep"));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The end of the range of keys that begin with `prefix`: larger than each of them, no larger than any after them.
/// UTF-8 sorts as its code points do, so the last character that has a successor is raised.
pub(crate) fn prefix_end(prefix: &str) -> String {
    let mut end: Vec<char> = prefix.chars().collect();
    while let Some(last) = end.pop() {
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'),
            other => char::from_u32(u32::from(other) + 1),
        };
        if let Some(next) = next {
            end.push(next);
            return end.into_iter().collect();
        }
    }
    // Beyond every key: 1,028 bytes of the last code point.
    "\u{10FFFF}".repeat(257)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(depth("1"), 0);
        assert_eq!(depth(r#"[{"a":[]}]"#), 3);
        assert_eq!(depth(r#"["[[[", "\"[["]"#), 1);
    }

    #[test]
    fn the_end_of_a_prefix_at_the_edges_of_unicode() {
        assert_eq!(prefix_end("a"), "b");
        assert_eq!(prefix_end("a\u{D7FF}"), "a\u{E000}");
        assert_eq!(prefix_end("a\u{10FFFF}"), "b");
        assert!(prefix_end("") > "\u{10FFFF}".repeat(256));
    }

    proptest! {
        #[test]
        fn the_range_of_a_prefix_holds_the_keys_that_begin_with_it(prefix in "\\PC{0,4}", key in "\\PC{1,8}") {
            let inside = key >= prefix && key < prefix_end(&prefix);
            prop_assert_eq!(inside, key.starts_with(&prefix));
            let longer = format!("{prefix}{key}");
            prop_assert!(longer >= prefix && longer < prefix_end(&prefix));
        }
    }
}
