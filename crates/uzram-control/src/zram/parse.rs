//! Parses what is written to an attribute, by the rules of the kernel's parsers, exact to the errno.
//!
//! These rules are both laxer and stricter than one would make them today: anything may follow a size, nothing but one
//! newline may follow a number. Tools rely on both, so nothing here is improved.

use super::Errno;

/// The bytes of a `write` as the kernel's functions see them: text that ends at the first NUL.
pub fn c_text(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0);
    &bytes[..end.unwrap_or(bytes.len())]
}

/// Whether the kernel counts it as white space, which includes the Latin-1 no-break space.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0xA0)
}

fn skip_spaces(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|byte| is_space(**byte)).count();
    &text[spaces..]
}

/// The leading digits of a text.
struct Digits {
    /// Their value modulo 2^64.
    value: u64,
    /// How many there are.
    count: usize,
    /// Whether the value did not fit.
    overflow: bool,
}

fn digits(text: &[u8], base: u32) -> Digits {
    let mut found = Digits {
        value: 0,
        count: 0,
        overflow: false,
    };
    for byte in text {
        let Some(digit) = char::from(*byte).to_digit(base) else {
            break;
        };
        let (base, digit) = (u64::from(base), u64::from(digit));
        let exact = found
            .value
            .checked_mul(base)
            .and_then(|v| v.checked_add(digit));
        found.overflow |= exact.is_none();
        found.value = found.value.wrapping_mul(base).wrapping_add(digit);
        found.count += 1;
    }
    found
}

/// Determines the base by the prefix (`0x`: 16, `0`: 8, else 10) if `base` is 0. Returns it and the text after a `0x`.
fn take_base(text: &[u8], base: u32) -> (u32, &[u8]) {
    let hex = match text {
        [b'0', b'x' | b'X', digit, ..] => digit.is_ascii_hexdigit(),
        _ => false,
    };
    let base = match base {
        0 if hex => 16,
        0 if text.first() == Some(&b'0') => 8,
        0 => 10,
        base => base,
    };
    let prefix = if base == 16 && hex { 2 } else { 0 };
    (base, &text[prefix..])
}

fn unsigned(text: &[u8], base: u32) -> Result<u64, Errno> {
    let (base, text) = take_base(text, base);
    let number = digits(text, base);
    if number.overflow {
        return Err(Errno::RANGE);
    }
    let rest = &text[number.count..];
    if number.count == 0 || !matches!(rest, [] | [b'\n']) {
        return Err(Errno::INVAL);
    }
    Ok(number.value)
}

/// Parses an unsigned 64-bit number: an optional `+`, digits of the base (0: by the prefix), at most one newline. EINVAL for
/// anything else, ERANGE for a number that does not fit.
pub fn kstrtoull(text: &[u8], base: u32) -> Result<u64, Errno> {
    let text = c_text(text);
    unsigned(text.strip_prefix(b"+").unwrap_or(text), base)
}

/// Parses 32 bits, as [`kstrtoull`].
pub fn kstrtouint(text: &[u8], base: u32) -> Result<u32, Errno> {
    u32::try_from(kstrtoull(text, base)?).map_err(|_| Errno::RANGE)
}

/// Parses 16 bits, as [`kstrtoull`].
pub fn kstrtou16(text: &[u8], base: u32) -> Result<u16, Errno> {
    u16::try_from(kstrtoull(text, base)?).map_err(|_| Errno::RANGE)
}

/// Parses a signed 32-bit number: as [`kstrtoull`], or with a `-`.
pub fn kstrtoint(text: &[u8], base: u32) -> Result<i32, Errno> {
    let text = c_text(text);
    let number = match text.strip_prefix(b"-") {
        Some(rest) => -i128::from(unsigned(rest, base)?),
        None => i128::from(kstrtoull(text, base)?),
    };
    i32::try_from(number).map_err(|_| Errno::RANGE)
}

/// Parses a size: digits (base by the prefix) and at most one of K, M, G, T, P, E of either case. Ignores whatever follows,
/// and wraps what does not fit. `None` if the text begins with neither; a letter alone is 0.
pub fn memparse(text: &[u8]) -> Option<u64> {
    let text = c_text(text);
    let (base, body) = take_base(text, 0);
    let number = digits(body, base);
    let unit = body.get(number.count).map(u8::to_ascii_uppercase);
    let power = unit.and_then(|unit| b"KMGTPE".iter().position(|u| *u == unit));
    if number.count == 0 && power.is_none() {
        return None;
    }
    let shift = power.map_or(0, |power| 10 * (power as u32 + 1));
    Some(number.value << shift)
}

/// Parses yes or no by the first letters: `y`, `t`, `1`, `on`; `n`, `f`, `0`, `off`, of either case. EINVAL for others.
pub fn kstrtobool(text: &[u8]) -> Result<bool, Errno> {
    match c_text(text) {
        [b'y' | b'Y' | b't' | b'T' | b'1', ..] | [b'o' | b'O', b'n' | b'N', ..] => Ok(true),
        [b'n' | b'N' | b'f' | b'F' | b'0', ..] | [b'o' | b'O', b'f' | b'F', ..] => Ok(false),
        _ => Err(Errno::INVAL),
    }
}

/// Whether two texts are equal, ignoring one newline at the end of either.
pub fn sysfs_streq(a: &[u8], b: &[u8]) -> bool {
    without_newline(c_text(a)) == without_newline(c_text(b))
}

/// Strips one newline from the end of a text.
pub fn without_newline(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\n").unwrap_or(text)
}

/// One word of `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The text before the `=`, or the whole word.
    pub key: Vec<u8>,
    /// The text after it, without surrounding double quotes. `None` where there is no `=`.
    pub value: Option<Vec<u8>>,
}

impl KeyValue {
    /// The value. EINVAL if it is missing or empty.
    pub fn value(&self) -> Result<&[u8], Errno> {
        let value = self.value.as_deref();
        value.filter(|value| !value.is_empty()).ok_or(Errno::INVAL)
    }
}

/// Splits a text into words of `key=value`. White space inside double quotes belongs to the word.
#[derive(Debug, Clone)]
pub struct KeyValues<'a> {
    rest: &'a [u8],
}

impl<'a> KeyValues<'a> {
    /// Splits the bytes of a `write`.
    pub fn new(text: &'a [u8]) -> KeyValues<'a> {
        KeyValues {
            rest: skip_spaces(c_text(text)),
        }
    }
}

impl Iterator for KeyValues<'_> {
    type Item = KeyValue;

    fn next(&mut self) -> Option<KeyValue> {
        if self.rest.is_empty() {
            return None;
        }
        let quoted = self.rest[0] == b'"';
        let text = &self.rest[usize::from(quoted)..];
        let mut in_quotes = quoted;
        let mut end = text.len();
        for (at, byte) in text.iter().enumerate() {
            if is_space(*byte) && !in_quotes {
                end = at;
                break;
            }
            in_quotes ^= *byte == b'"';
        }
        self.rest = skip_spaces(&text[(end + 1).min(text.len())..]);
        let mut word = &text[..end];
        // An `=` at the beginning does not count as one.
        let equals = word.iter().skip(1).position(|byte| *byte == b'=');
        let Some(equals) = equals.map(|at| at + 1) else {
            if quoted {
                word = word.strip_suffix(b"\"").unwrap_or(word);
            }
            return Some(KeyValue {
                key: word.into(),
                value: None,
            });
        };
        let (key, mut value) = (&word[..equals], &word[equals + 1..]);
        if let Some(inner) = value.strip_prefix(b"\"") {
            value = inner.strip_suffix(b"\"").unwrap_or(inner);
        } else if quoted {
            value = value.strip_suffix(b"\"").unwrap_or(value);
        }
        Some(KeyValue {
            key: key.into(),
            value: Some(value.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        for (text, value) in [
            ("0", Ok(0)),
            ("+7\n", Ok(7)),
            ("00012", Ok(12)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(Errno::RANGE)),
            ("99999999999999999999x", Err(Errno::RANGE)),
            ("", Err(Errno::INVAL)),
            ("+", Err(Errno::INVAL)),
            ("-1", Err(Errno::INVAL)),
            ("++1", Err(Errno::INVAL)),
            ("1\n\n", Err(Errno::INVAL)),
            (" 1", Err(Errno::INVAL)),
            ("1 ", Err(Errno::INVAL)),
            ("0x10", Err(Errno::INVAL)),
            ("1K", Err(Errno::INVAL)),
            ("5\0garbage", Ok(5)),
        ] {
            assert_eq!(kstrtoull(text.as_bytes(), 10), value, "{text:?}");
        }
        for (text, value) in [
            ("0x1F", Ok(31)),
            ("017", Ok(15)),
            ("09", Err(Errno::INVAL)),
            ("0x", Err(Errno::INVAL)),
            ("0", Ok(0)),
            ("4294967296", Err(Errno::RANGE)),
        ] {
            assert_eq!(kstrtouint(text.as_bytes(), 0), value, "{text:?}");
        }
        assert_eq!(kstrtou16(b"65535\n", 10), Ok(65535));
        assert_eq!(kstrtou16(b"65536", 10), Err(Errno::RANGE));
        assert_eq!(kstrtoint(b"-2147483648", 10), Ok(i32::MIN));
        assert_eq!(kstrtoint(b"2147483648", 10), Err(Errno::RANGE));
        assert_eq!(kstrtoint(b"-+1", 10), Err(Errno::INVAL));
        assert_eq!(kstrtoint(b"+3", 10), Ok(3));
    }

    #[test]
    fn sizes_are_the_kernels() {
        for (text, value) in [
            ("4096", Some(4096)),
            ("1k", Some(1 << 10)),
            ("2M\n", Some(2 << 20)),
            ("1Gigabyte", Some(1 << 30)),
            ("0x10K", Some(16 << 10)),
            ("010", Some(8)),
            ("08", Some(0)),
            ("1E", Some(1 << 60)),
            ("16E", Some(0)),
            // What util-linux reads as 10^6 bytes: the kernel looks at one letter.
            ("1MB", Some(1 << 20)),
            ("1.5G", Some(1)),
            ("50%", Some(50)),
            ("K", Some(0)),
            ("18446744073709551617", Some(1)),
            ("12 34", Some(12)),
            ("", None),
            ("-1", None),
            ("+1", None),
            (" 1", None),
            ("none", None),
        ] {
            assert_eq!(memparse(text.as_bytes()), value, "{text:?}");
        }
    }

    #[test]
    fn booleans_are_the_kernels() {
        for text in ["y", "Yes\n", "true", "1", "12", "on", "ONE"] {
            assert_eq!(kstrtobool(text.as_bytes()), Ok(true), "{text}");
        }
        for text in ["n", "No", "false", "0", "01", "off", "OF"] {
            assert_eq!(kstrtobool(text.as_bytes()), Ok(false), "{text}");
        }
        for text in ["", "o", "2", " 1", "x", "\n"] {
            assert_eq!(kstrtobool(text.as_bytes()), Err(Errno::INVAL), "{text:?}");
        }
    }

    #[test]
    fn one_newline_is_ignored() {
        assert!(sysfs_streq(b"all\n", b"all") && sysfs_streq(b"all", b"all"));
        assert!(!sysfs_streq(b"all\n\n", b"all") && !sysfs_streq(b" all", b"all"));
    }

    fn args(text: &str) -> Vec<(String, Option<String>)> {
        let text_of = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        KeyValues::new(text.as_bytes())
            .map(|arg| (text_of(arg.key), arg.value.map(text_of)))
            .collect()
    }

    #[test]
    fn words_are_the_kernels() {
        let some = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
        let none = |key: &str| (key.to_owned(), None);
        for (text, expected) in [
            (
                " algo=zstd  level=3\n",
                vec![some("algo", "zstd"), some("level", "3")],
            ),
            ("huge", vec![none("huge")]),
            ("a=\"b c\" d", vec![some("a", "b c"), none("d")]),
            ("\"a=b c\" d=1", vec![some("a", "b c"), some("d", "1")]),
            ("\"a b\"", vec![none("a b")]),
            ("=x", vec![none("=x")]),
            ("=x=y", vec![some("=x", "y")]),
            ("a=", vec![some("a", "")]),
            ("a=b=c", vec![some("a", "b=c")]),
            ("a=\"open end", vec![some("a", "open end")]),
            ("a=\"", vec![some("a", "")]),
            ("\n\t ", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(args(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn prop_numbers_read_back(n in any::<u64>(), i in any::<i32>()) {
            prop_assert_eq!(kstrtoull(n.to_string().as_bytes(), 10), Ok(n));
            prop_assert_eq!(kstrtoull(format!("{n:#x}\n").as_bytes(), 0), Ok(n));
            prop_assert_eq!(memparse(format!("{n}").as_bytes()), Some(n));
            prop_assert_eq!(kstrtoint(i.to_string().as_bytes(), 10), Ok(i));
        }

        #[test]
        fn prop_no_bytes_make_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (kstrtoull(&bytes, 0), kstrtoull(&bytes, 10), kstrtoint(&bytes, 10));
            let _ = (memparse(&bytes), kstrtobool(&bytes));
            // Each word takes something off the text.
            prop_assert!(KeyValues::new(&bytes).count() <= bytes.len());
        }

        #[test]
        fn prop_words_read_back(words in proptest::collection::vec(("[a-z.]{1,8}", "[a-z0-9/]{1,8}"), 0..6)) {
            let text: Vec<String> = words.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let read = args(&text.join(" "));
            prop_assert_eq!(read, words.into_iter().map(|(k, v)| (k, Some(v))).collect::<Vec<_>>());
        }
    }
}
