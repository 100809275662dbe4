//! Sizes as people write and read them: `4G`, `1.5GiB`, `500MB`, as the tools of util-linux take them. zram's own attributes have
//! the kernel's parser instead, to which `MB` is `M`.

use thiserror::Error;

const UNITS: &[u8] = b"KMGTPE";

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "'{given}' is not a size: {why}; give a whole number of bytes, or a number with K, M, G, T, P or E (such as 512M or 1.5G, or 500MB \
     of 10^6 bytes)"
)]
pub struct SizeError {
    /// The text.
    pub given: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Most percent of the memory that are a size.
const MAX_PERCENT: u64 = 10_000;
/// Digits after a point that are read; further ones make no byte.
const FRACTION_DIGITS: usize = 18;

/// Reads a size in bytes: digits and at most one unit of either case. `K`, `M`, `G`, `T`, `P`, `E`, alone or followed by `iB`, are
/// powers of 1024; followed by `B` they are powers of 1000. `B` alone is bytes. With a unit there may be digits after a point:
/// `1.5G`, cut to whole bytes. Unlike the kernel's `memparse` it refuses anything after that. Zero is a size.
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
    let unit_bytes: u64 = match unit.as_bytes() {
        [] | [b'B' | b'b'] => 1,
        [unit, rest @ ..] => {
            let power = UNITS.iter().position(|u| *u == unit.to_ascii_uppercase());
            let power = power.ok_or_else(|| fail("the unit is unknown"))? as u32 + 1;
            match rest {
                [] | [b'i' | b'I', b'B' | b'b'] => 1024u64.pow(power),
                [b'B' | b'b'] => 1000u64.pow(power),
                _ => return Err(fail("something follows the unit")),
            }
        }
    };
    let part = match fraction {
        None => 0,
        Some(_) if unit_bytes == 1 => return Err(fail("there is no part of a byte")),
        Some(digits) => part_of(digits, unit_bytes),
    };
    whole
        .checked_mul(unit_bytes)
        .and_then(|bytes| bytes.checked_add(part))
        .ok_or_else(|| fail("it is too large"))
}

/// Reads the size of a device, or a limit on its memory: as [`parse`], or as a part of this machine's memory, `50%` or `12.5%`, cut
/// to whole pages. A part may be more than the whole.
pub fn parse_share(text: &str) -> Result<u64, SizeError> {
    parse_share_of(text, memory_bytes)
}

fn parse_share_of(text: &str, memory: impl FnOnce() -> Option<u64>) -> Result<u64, SizeError> {
    let Some(number) = text.trim().strip_suffix('%') else {
        return parse(text);
    };
    let fail = |why| SizeError {
        given: text.into(),
        why,
    };
    let (whole, rest) = split_digits(number);
    let digits = match rest.strip_prefix('.') {
        None if rest.is_empty() => "",
        Some(digits) if !digits.is_empty() && split_digits(digits).1.is_empty() => digits,
        _ => return Err(fail("no number stands before the %")),
    };
    let whole: u64 = whole
        .parse()
        .map_err(|_| fail("no number stands before the %"))?;
    if whole > MAX_PERCENT {
        return Err(fail("more than 10000% of the memory is no size"));
    }
    let memory = memory().ok_or_else(|| fail("how much memory there is is not known"))?;
    // In millionths of a percent, of which there are at most 10^10.
    let part = u128::from(whole) * 1_000_000 + u128::from(part_of(digits, 1_000_000));
    let bytes = u128::from(memory) * part / 100_000_000;
    u64::try_from(bytes)
        .map(|bytes| bytes & !4095)
        .map_err(|_| fail("it is too large"))
}

/// This machine's memory.
fn memory_bytes() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn split_digits(text: &str) -> (&str, &str) {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    text.split_at(text.len() - rest.len())
}

/// What the digits after a point are of a unit: always less than one unit.
fn part_of(digits: &str, unit: u64) -> u64 {
    let read = digits.bytes().take(FRACTION_DIGITS);
    let (value, scale) = read.fold((0u128, 1u128), |(value, scale), digit| {
        (value * 10 + u128::from(digit - b'0'), scale * 10)
    });
    // 10^18 * 2^60 fits, and the quotient is below the unit.
    (value * u128::from(unit) / scale) as u64
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
            ("2mb", 2_000_000),
            ("1GB", 1_000_000_000),
            ("1gib", 1 << 30),
            ("1.5GB", 1_500_000_000),
            ("0.0019KB", 1),
            ("18EB", 18_000_000_000_000_000_000),
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
            ("19EB", "too large"),
            ("1Gi", "follows"),
            ("50%", "unit is unknown"),
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
    fn a_part_of_the_memory_is_a_size() {
        let of = |text: &str, memory| parse_share_of(text, || memory);
        for (text, bytes) in [
            ("50%", 4 << 30),
            (" 12.5% ", 1 << 30),
            ("150%", 12 << 30),
            ("0%", 0),
            // To whole pages.
            ("0.0001%", 8192),
            ("33.333333%", 2_863_308_800),
            ("1G", 1 << 30),
            ("1GB", 1_000_000_000),
        ] {
            assert_eq!(of(text, Some(8 << 30)), Ok(bytes), "{text}");
        }
        for (text, why) in [
            ("%", "no number"),
            ("-1%", "no number"),
            ("50 %", "no number"),
            ("50.%", "no number"),
            ("5.5.5%", "no number"),
            ("1G%", "no number"),
            ("50%%", "no number"),
            ("99999999999999999999%", "no number"),
            ("10001%", "more than"),
            ("4X", "unit is unknown"),
        ] {
            let error = of(text, Some(8 << 30)).unwrap_err().to_string();
            assert!(
                error.contains(why) && error.contains(text),
                "{text}: {error}"
            );
        }
        assert!(
            of("50%", None)
                .unwrap_err()
                .to_string()
                .contains("not known")
        );
        assert!(
            of("10000%", Some(u64::MAX))
                .unwrap_err()
                .to_string()
                .contains("too large")
        );
        let half = parse_share("50%").unwrap();
        assert!(half > 0 && half.is_multiple_of(4096), "{half}");
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
            let _ = (parse(&text), parse_share_of(&text, || Some(n << 40)));
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
