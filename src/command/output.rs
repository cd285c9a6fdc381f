//! What a command writes: as much as it may, and of its standard error the end.

use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::cache::check_depth;

/// How much of the end of standard error is kept.
const TAIL: usize = 8 << 10;

/// More than `max_output` came.
#[derive(Debug)]
pub(super) struct TooMuch;

/// Reads all, unless it is more than `most`.
pub(super) async fn read(
    pipe: impl AsyncRead + Unpin,
    most: usize,
    into: &mut Vec<u8>,
) -> Result<(), TooMuch> {
    // One more shows that it is too much. A pipe that cannot be read any more has ended.
    let _ = pipe.take(most as u64 + 1).read_to_end(into).await;
    if into.len() > most {
        Err(TooMuch)
    } else {
        Ok(())
    }
}

/// The end of what was written, in bounded room.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    /// Reads to the end, however long that is.
    pub(super) async fn read(&mut self, mut pipe: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; TAIL];
        while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
            self.push(&chunk[..count]);
        }
    }

    fn push(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
        let excess = self.bytes.len().saturating_sub(TAIL);
        if excess > 0 {
            self.bytes.drain(..excess);
            self.cut = true;
        }
    }

    /// As text, `�` for what is none, and `…` for what went before.
    pub(super) fn text(&self) -> String {
        // A character that the cut went through is left out.
        let start = if self.cut {
            let inside = |byte: &u8| byte & 0b1100_0000 == 0b1000_0000;
            self.bytes
                .iter()
                .take(3)
                .take_while(|byte| inside(byte))
                .count()
        } else {
            0
        };
        let text = String::from_utf8_lossy(&self.bytes[start..]);
        let before = if self.cut { "…" } else { "" };
        format!("{before}{}", text.trim_end())
    }
}

/// The result that standard output says: less one final newline, as JSON where it is JSON, else as a string.
pub(super) fn result(stdout: Vec<u8>) -> Result<Box<RawValue>, String> {
    let mut text = String::from_utf8(stdout).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("wrote to stdout what is not UTF-8, from byte {at} on: a result is text")
    })?;
    if text.ends_with('\n') {
        text.pop();
    }
    if let Ok(json) = serde_json::from_str::<Box<RawValue>>(&text) {
        check_depth("its result", json.get())
            .map_err(|error| format!("wrote to stdout: {error}"))?;
        return Ok(json);
    }
    serde_json::value::to_raw_value(&text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_output_is_json_or_else_a_string_less_one_final_newline() {
        for (stdout, expected) in [
            ("", r#""""#),
            ("\n", r#""""#),
            ("\n\n", r#""\n""#),
            ("{\"a\": 1.0}\n", "{\"a\": 1.0}"),
            (" [1e400,\n 2] \n", "[1e400,\n 2]"),
            ("null\n", "null"),
            (
                "12345678901234567890123456789012345678901",
                "12345678901234567890123456789012345678901",
            ),
            ("well done\n", r#""well done""#),
            ("{\"a\":1}\n{\"a\":2}\n", r#""{\"a\":1}\n{\"a\":2}""#),
            ("a\0b\r\n", r#""a\u0000b\r""#),
        ] {
            let result = result(stdout.as_bytes().to_vec()).unwrap();
            assert_eq!(result.get(), expected, "{stdout:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_result_says_why() {
        let error = result(b"ab\xffc".to_vec()).unwrap_err();
        assert!(error.contains("not UTF-8, from byte 2 on"), "{error}");
        let deep = [vec![b'['; 200], vec![b']'; 200]].concat();
        let error = result(deep).unwrap_err();
        assert!(error.contains("deeper than 128 levels"), "{error}");
    }

    #[test]
    fn a_tail_keeps_the_end_in_bounded_room() {
        let mut tail = Tail::default();
        tail.push(b"short\n");
        assert_eq!(tail.text(), "short");
        for _ in 0..10_000 {
            tail.push("ü".as_bytes());
            assert!(tail.bytes.len() <= TAIL);
        }
        tail.push(b"end \n");
        let text = tail.text();
        assert!(text.starts_with("…ü") && text.ends_with("üend"), "{text}");
        assert!(!text.contains('\u{FFFD}'));
    }
}
