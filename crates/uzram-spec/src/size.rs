//! Sizes as people write and read them: `4G`, `512M`. Units are powers of 1024, as everywhere in zram.

use thiserror::Error;

const UNITS: &[u8] = b"KMGTPE";

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "'{given}' is not a size: {why}; give a whole number of bytes, or a number with K, M, G, T, P or E (such as 512M or 1.5G)"
)]
pub struct SizeError {
    /// The text.
    pub given: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Digits after a point that are read; further ones make no byte.
const FRACTION_DIGITS: usize = 18;

/// Reads a size in bytes: digits and at most one unit (`K`, `M`, `G`, `T`, `P`, `E`, of either case, followed by
/// nothing, `B` or `iB`). With a unit there may be digits after a point: `1.5G`, cut to whole bytes. Unlike the kernel's
/// `memparse` it refuses anything after that. Zero is a size.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let fail = |why| SizeError {
        given: text.into(),
        why,
    };
    let body = text.trim();
    let (whole, rest) = split_digits(body);
    match body.chars().next() {
        None => return Err(fail("it is empty")),
        Some('-') => return Err(fail("it is negative")),
        Some(_) if whole.is_empty() => return Err(fail("it does not begin with a number")),
        Some(_) => {}
    }
    let (fraction, unit) = match rest.strip_prefix('.') {
        Some(rest) => {
            let (digits, unit) = split_digits(rest);
            if digits.is_empty() {
                return Err(fail("digits have to follow the point"));
            }
            (Some(digits), unit)
        }
        None => (None, rest),
    };
    let whole: u64 = whole.parse().map_err(|_| fail("it is too large"))?;
    let shift = match unit.as_bytes() {
        [] | [b'B' | b'b'] => 0,
        [unit, rest @ ..] => {
            let power = UNITS.iter().position(|u| *u == unit.to_ascii_uppercase());
            let power = power.ok_or_else(|| fail("the unit is unknown"))? + 1;
            if !matches!(rest, [] | [b'B' | b'b'] | [b'i' | b'I', b'B' | b'b']) {
                return Err(fail("something follows the unit"));
            }
            power * 10
        }
    };
    let part = match fraction {
        None => 0,
        Some(_) if shift == 0 => return Err(fail("there is no part of a byte")),
        Some(digits) => part_of(digits, shift),
    };
    whole
        .checked_mul(1 << shift)
        .and_then(|bytes| bytes.checked_add(part))
        .ok_or_else(|| fail("it is too large"))
}

fn split_digits(text: &str) -> (&str, &str) {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    text.split_at(text.len() - rest.len())
}

/// Bytes of the digits after a point, of a unit of so many bits: always less than one unit.
fn part_of(digits: &str, shift: usize) -> u64 {
    let read = digits.bytes().take(FRACTION_DIGITS);
    let (value, scale) = read.fold((0u128, 1u128), |(value, scale), digit| {
        (value * 10 + u128::from(digit - b'0'), scale * 10)
    });
    // 10^18 * 2^60 fits, and the quotient is below 2^60.
    ((value << shift) / scale) as u64
}

/// Writes a size the way zramctl does: one decimal where needed, the largest unit that leaves at least 1.
pub fn human(bytes: u64) -> String {
    let power = if bytes == 0 {
        0
    } else {
        (63 - bytes.leading_zeros() as usize) / 10
    };
    if power == 0 {
        return format!("{bytes}B");
    }
    let unit = char::from(UNITS[power - 1]);
    let tenths = (u128::from(bytes) * 10 + (1 << (power * 10 - 1))) >> (power * 10);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole}{unit}"),
        (whole, tenth) => format!("{whole}.{tenth}{unit}"),
    }
}

/// Writes a number with a comma before each group of three digits: `1,234`.
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4k", 4096),
            ("1G", 1 << 30),
            ("3GiB", 3 << 30),
            ("2mb", 2 << 20),
            ("16T", 1 << 44),
            (" 7B ", 7),
            ("15E", 15 << 60),
            ("1.5G", 3 << 29),
            ("0.5KiB", 512),
            ("1.30m", 1_363_148),
            ("15.999999999999999999E", u64::MAX - 1),
            ("1.0T", 1 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_says_why() {
        for (text, why) in [
            ("", "empty"),
            ("-1", "negative"),
            ("-4G", "negative"),
            ("G", "number"),
            ("four", "number"),
            ("4X", "unit is unknown"),
            ("4GG", "follows"),
            ("1.5", "part of a byte"),
            ("1.5B", "part of a byte"),
            ("1.G", "follow the point"),
            (".5G", "number"),
            ("1,5G", "unit is unknown"),
            ("1.5.5G", "unit is unknown"),
            ("16.0E", "too large"),
            ("4 G", "unit is unknown"),
            ("16E", "too large"),
            ("99999999999999999999", "too large"),
            ("0x10", "unit is unknown"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(
                error.contains(why) && error.contains(text),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn sizes_are_written_like_zramctl() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (4096, "4K"),
            (1536, "1.5K"),
            (1 << 30, "1G"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn prop_parse_never_panics_and_reads_whole_units(text in ".{0,12}", n in 0u64..1 << 14, unit in 0usize..6) {
            let _ = parse(&text);
            let text = format!("{n}{}", char::from(UNITS[unit]));
            let expected = n.checked_mul(1 << (10 * (unit + 1)));
            prop_assert_eq!(parse(&text).ok(), expected);
        }

        #[test]
        fn prop_human_is_within_five_percent(bytes in 1024u64..1 << 60) {
            let text = human(bytes);
            let (number, unit) = text.split_at(text.len() - 1);
            let value: f64 = number.parse().unwrap();
            let power = UNITS.iter().position(|u| char::from(*u).to_string() == unit).unwrap() + 1;
            let back = value * 1024f64.powi(power as i32);
            prop_assert!((back / bytes as f64 - 1.0).abs() < 0.05, "{} {}", text, bytes);
        }
    }

    #[test]
    fn thousands_are_parted() {
        let texts = [0, 999, 1000, 57_055_302_552].map(thousands);
        assert_eq!(texts, ["0", "999", "1,000", "57,055,302,552"]);
    }
}
