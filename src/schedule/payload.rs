//! Payloads that name their tick.

use std::borrow::Cow;
use std::fmt::Write;

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, SecondsFormat, Timelike, Utc};
use chrono_tz::Tz;

const TICK: &str = "{tick";

/// `payload` with each `{tick}` and `{tick:FORMAT}` in its strings replaced. All else, keys among it, stays byte for byte.
pub(crate) fn name_tick(
    payload: &str,
    instant: DateTime<Utc>,
    timezone: Tz,
) -> Result<String, String> {
    // Ticks are whole seconds, and what is run by hand looks like them.
    let instant = instant.with_nanosecond(0).unwrap_or(instant);
    let mut named = String::with_capacity(payload.len());
    let mut rest = payload;
    while let Some(start) = rest.find('"') {
        let (before, from_quote) = rest.split_at(start);
        named.push_str(before);
        let (literal, after) = from_quote.split_at(end_of_string(from_quote));
        let is_key = after.trim_start().starts_with(':');
        let text: Option<String> = if is_key {
            None
        } else {
            // Half a surrogate is JSON, and no text.
            serde_json::from_str(literal).ok()
        };
        match text.as_deref().map(|text| replace(text, instant, timezone)) {
            Some(Ok(Cow::Owned(text))) => {
                named.push_str(&serde_json::Value::from(text).to_string())
            }
            Some(Err(reason)) => return Err(reason),
            Some(Ok(Cow::Borrowed(_))) | None => named.push_str(literal),
        }
        rest = after;
    }
    named.push_str(rest);
    Ok(named)
}

/// Where the JSON string ends that `text` begins with, its quotes included.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn replace(text: &str, instant: DateTime<Utc>, timezone: Tz) -> Result<Cow<'_, str>, String> {
    let mut replaced = String::new();
    let mut rest = text;
    let mut any = false;
    while let Some(start) = rest.find(TICK) {
        let (before, token) = rest.split_at(start);
        replaced.push_str(before);
        let after = &token[TICK.len()..];
        rest = if let Some(after) = after.strip_prefix('}') {
            replaced.push_str(&instant.to_rfc3339_opts(SecondsFormat::Secs, true));
            any = true;
            after
        } else if let Some(after) = after.strip_prefix(':') {
            let (format, after) = after.split_once('}').ok_or_else(|| {
                format!("{TICK}:{after:?} in its payload has no end: write it as {{tick:%Y-%m-%d}}")
            })?;
            write_as(&mut replaced, format, instant, timezone)?;
            any = true;
            after
        } else {
            // `{ticket}` is somebody else's.
            replaced.push_str(TICK);
            after
        };
    }
    if !any {
        return Ok(Cow::Borrowed(text));
    }
    replaced.push_str(rest);
    Ok(Cow::Owned(replaced))
}

fn write_as(
    text: &mut String,
    format: &str,
    instant: DateTime<Utc>,
    timezone: Tz,
) -> Result<(), String> {
    let refused = || {
        format!(
            "{{tick:{format}}} in its payload is no format of a date and time: write it as {{tick:%Y-%m-%d}} or {{tick:%H:%M}}"
        )
    };
    let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
    if items.is_empty() || items.contains(&Item::Error) {
        return Err(refused());
    }
    let local = instant.with_timezone(&timezone);
    write!(text, "{}", local.format_with_items(items.iter())).map_err(|_| refused())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(payload: &str) -> Result<String, String> {
        let instant = "2026-11-22T23:30:00.75Z".parse().unwrap();
        name_tick(payload, instant, chrono_tz::Europe::Berlin)
    }

    #[test]
    fn strings_name_the_tick_wherever_they_stand() {
        for (payload, expected) in [
            (r#"{"at": "{tick}"}"#, r#"{"at": "2026-11-22T23:30:00Z"}"#),
            (
                r#"{"a":{"b":[1,"x-{tick:%Y-%m-%d %H:%M %Z}-{tick:%j}"]}}"#,
                r#"{"a":{"b":[1,"x-2026-11-23 00:30 CET-327"]}}"#,
            ),
            (r#""\u007btick:%y\"%d\\}""#, r#""26\"23\\""#),
            (r#"["{tick:{tick}}"]"#, r#"["{tick}"]"#),
            (r#"["{{tick:%d}}"]"#, r#"["{23}"]"#),
        ] {
            assert_eq!(named(payload).as_deref(), Ok(expected), "{payload}");
        }
    }

    #[test]
    fn everything_else_stays_byte_for_byte() {
        for payload in [
            r#"{"{tick}" : 1.0, "{tick:%Q}":1e400, "b": "{ticket} {} {{}} {tic} {Tick} tick} {tick", "a":1,"a": 2}"#,
            r#"  {"\ud800 {tick}": "\ud800 {tick}", "n": 123456789012345678901234567890} "#,
            r#""\\\"{""#,
            "null",
        ] {
            assert_eq!(named(payload).as_deref(), Ok(payload));
        }
    }

    #[test]
    fn a_format_that_means_nothing_is_refused() {
        for (payload, part) in [
            (
                r#"{"a": "{tick:%Q}"}"#,
                "{tick:%Q} in its payload is no format",
            ),
            (r#"{"a": "{tick:}"}"#, "{tick:} in its payload"),
            (r#"{"a": "{tick:%Y"}"#, "has no end"),
            (r#"{"a": "{tick:%"}"#, "has no end"),
            (r#"{"a": "{tick:%}"}"#, "{tick:%} in its payload"),
        ] {
            let reason = named(payload).unwrap_err();
            assert!(reason.contains(part), "{payload}: {reason}");
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let text = "[a-z{}:%\"\\\\é]{0,8}".prop_map(serde_json::Value::from);
        let leaf = prop_oneof![text, any::<i64>().prop_map(serde_json::Value::from)].boxed();
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::btree_map("[a-z{}:\"]{0,6}", inner, 0..4)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_payload_without_a_tick_stays_and_any_other_stays_json(payload in json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&payload).unwrap() } else { payload.to_string() };
            prop_assert_eq!(named(&text), Ok(text.clone()));
            let text = text.replace("\"a", "\"{tick}a");
            if let Ok(named) = named(&text) {
                let value: serde_json::Value = serde_json::from_str(&named).unwrap();
                prop_assert!(value.to_string().len() >= text.len() / 4);
            }
        }
    }
}
