//! Sizes as people write them: `16MiB`, `500kB`, `4096`.

use super::value::quote;
use crate::Error;

/// What a size looks like, for every message that has to say so.
pub(super) const SHAPE: &str = "a size such as 16MiB, 512KiB, 1.5GiB, 500kB or 4096 (bytes)";

/// Longest first, since `B` ends all of them.
const UNITS: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
    ("", 1),
];

/// Reads a size in bytes: `KiB`, `MiB`, `GiB` count by 1,024, `kB`, `MB`, `GB` by 1,000, and a number alone is bytes.
///
/// ```
/// use larder::settings::parse_bytes;
///
/// assert_eq!(parse_bytes("16MiB")?, 16 * 1_024 * 1_024);
/// assert_eq!(parse_bytes("1.5kB")?, 1_500);
/// assert_eq!(parse_bytes("4096")?, 4_096);
/// assert!(parse_bytes("16 megs").is_err());
/// # Ok::<(), larder::Error>(())
/// ```
///
/// # Errors
///
/// If the text is anything else, is not a whole number of bytes, or does not fit in 64 bits.
pub fn parse_bytes(text: &str) -> Result<u64, Error> {
    parse(text).map_err(|reason| Error::invalid(format!("invalid size {}: {reason}", quote(text))))
}

/// Writes a size so that [`parse_bytes`] reads the same one back.
///
/// ```
/// use larder::settings::format_bytes;
///
/// assert_eq!(format_bytes(16 << 20), "16MiB");
/// assert_eq!(format_bytes(1_000), "1000B");
/// ```
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes != 0 && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

/// [`parse_bytes`], with only the reason for an error.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let junk = || format!("expected {SHAPE}");
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, size)| Some((text.strip_suffix(name)?, *size)))
        .ok_or_else(junk)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let plain = |digits: &str| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
    if !plain(whole) || !plain(fraction) {
        return Err(junk());
    }
    let fraction = fraction.trim_end_matches('0');
    let too_large = || "it does not fit in 64 bits".to_owned();
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    // Binary units have at most 30 decimals: a longer fraction cannot be a whole number of bytes.
    if fraction.len() > 30 {
        return Err("it is not a whole number of bytes".into());
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| too_large())?);
    let fraction = format!("0{fraction}").parse::<u128>().map_err(|_| junk())?;
    let part = fraction
        .checked_mul(u128::from(unit))
        .ok_or_else(too_large)?;
    if !part.is_multiple_of(scale) {
        return Err("it is not a whole number of bytes".into());
    }
    u64::try_from(u128::from(whole) * u128::from(unit) + part / scale).map_err(|_| too_large())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_binary_or_decimal_as_they_say() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4_096),
            ("10B", 10),
            ("1KiB", 1_024),
            ("1kB", 1_000),
            ("1KB", 1_000),
            ("16MiB", 16_777_216),
            ("16MB", 16_000_000),
            ("1.5GiB", 1_610_612_736),
            ("1GB", 1_000_000_000),
            ("2.50kB", 2_500),
        ] {
            assert_eq!(parse_bytes(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn junk_is_one_clear_line_that_names_the_text() {
        for text in [
            "",
            "MiB",
            "-1",
            "+1",
            "1.",
            ".5MiB",
            "1e3",
            "16 MiB",
            "16Mib",
            "16M",
            "0.3B",
            "0.1KiB",
            "99999999999999999999",
            "18446744073709551615KiB",
            "1.2.3",
            "NaN",
            "\n",
            "١",
        ] {
            let message = parse_bytes(text).unwrap_err().to_string();
            assert!(message.starts_with("invalid size \""), "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_size_parses_back_to_itself(bytes: u64, shift in 0..40u32) {
            for bytes in [bytes, (bytes >> 40) << shift] {
                prop_assert_eq!(parse_bytes(&format_bytes(bytes)).unwrap(), bytes);
            }
        }

        #[test]
        fn any_text_gives_a_size_or_one_line(text in "(?s).{0,20}|[0-9.]{0,40}(KiB|MB|B)?") {
            if let Err(error) = parse_bytes(&text) {
                prop_assert_eq!(error.to_string().lines().count(), 1);
            }
        }
    }
}
