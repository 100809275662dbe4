//! The settings of a device's policies: a plain struct, its text form, and its words in the image.
//!
//! The text is `key=value` pairs separated by commas, later ones over earlier ones; the words `auto`, `default` and
//! `none` set all of them at once, so that `auto,cpu=20` is everything with another budget. What is printed reads back.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::{Error, PAGE_SIZE};

/// What is accepted, for error messages.
const ACCEPTED: &str = "auto, default, none, or any of recompress=AGE, least=BYTES, train=on|off, writeback=AGE, compact=on|off, high=PERCENT, \
     promote=AGE, psi=PERCENT, cpu=PERCENT, io=BYTES, separated by commas (an age is in seconds, or with m, h or d; off is none)";
/// The longest age, some 68 years.
const MAX_AGE: u32 = i32::MAX as u32;
/// What `least` is counted in, so that six bits of the image hold it.
const LEAST_UNIT: u16 = 64;
/// The least rate of writing back, in bytes a second: less than a slice in half a minute is no rate.
const MIN_IO: u64 = 64 << 10;

/// The background work of a device, and its budget. Default: nothing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicySettings {
    /// Pages that were not used for that many seconds are compressed anew with the secondary algorithms.
    pub recompress_seconds: Option<u32>,
    /// Of them only those whose objects have at least so many bytes, a multiple of 64 below 4096; 0: all. Above `high` and
    /// `psi` it does not count.
    pub recompress_least: u16,
    /// Whether a dictionary is trained for the secondary algorithm of priority 1, and taken if it pays.
    pub train: bool,
    /// Pages that were not used for that many seconds go to the backing.
    pub writeback_seconds: Option<u32>,
    /// Pages on the backing that were read within that many seconds come back into memory, while it is not short. Less than
    /// `writeback_seconds`.
    pub promote_seconds: Option<u32>,
    /// Whether objects are moved together where that gives enough memory back.
    pub compact: bool,
    /// Above this part of `mem_limit`, in percent, all this runs on pages of any age, oldest first; 0: never.
    pub high_percent: u8,
    /// The same where there is no `mem_limit` or no `high`, while some of the machine's tasks wait for memory for this
    /// part of the time (`some avg10` of `/proc/pressure/memory`), in percent; 0: never.
    pub psi_percent: u8,
    /// Budget of processor time in percent of one CPU, 1 to 100. Default: 10.
    pub cpu_percent: u8,
    /// Budget for writing to the backing, in bytes a second. Default: 32 MiB.
    pub io_bytes_per_second: u64,
}

impl Default for PolicySettings {
    fn default() -> PolicySettings {
        PolicySettings {
            recompress_seconds: None,
            recompress_least: 0,
            train: false,
            writeback_seconds: None,
            promote_seconds: None,
            compact: false,
            high_percent: 0,
            psi_percent: 0,
            cpu_percent: 10,
            io_bytes_per_second: 32 << 20,
        }
    }
}

impl PolicySettings {
    /// Number of its words in the image.
    pub(crate) const WORDS: usize = 3;

    /// What a device of the program does where nobody said anything: compaction.
    pub fn standard() -> PolicySettings {
        PolicySettings {
            compact: true,
            ..PolicySettings::default()
        }
    }

    /// Everything on: recompression after 5 minutes with a trained dictionary, writeback after an hour and back when it is
    /// read, compaction, and all of it earlier from 90 % of `mem_limit`, or 10 % of memory pressure, on.
    pub fn auto() -> PolicySettings {
        PolicySettings {
            recompress_seconds: Some(300),
            train: true,
            writeback_seconds: Some(3600),
            promote_seconds: Some(60),
            compact: true,
            high_percent: 90,
            psi_percent: 10,
            ..PolicySettings::default()
        }
    }

    /// Whether every policy is off.
    pub fn is_none(&self) -> bool {
        self.recompress_seconds.is_none()
            && self.writeback_seconds.is_none()
            && self.promote_seconds.is_none()
            && !self.compact
    }

    /// Whether a policy needs the ages of pages.
    pub(crate) fn wants_ages(&self) -> bool {
        self.recompress_seconds.is_some()
            || self.writeback_seconds.is_some()
            || self.promote_seconds.is_some()
    }

    pub(crate) fn recompress_age(&self) -> Option<Duration> {
        let seconds = self.recompress_seconds?;
        Some(Duration::from_secs(seconds.into()))
    }

    /// The least bytes of an object to recompress. While memory is short, slower reads are the smaller evil.
    pub(crate) fn least(&self, short: bool) -> usize {
        if short {
            0
        } else {
            self.recompress_least.into()
        }
    }

    pub(crate) fn writeback_age(&self) -> Option<Duration> {
        let seconds = self.writeback_seconds?;
        Some(Duration::from_secs(seconds.into()))
    }

    pub(crate) fn promote_age(&self) -> Option<Duration> {
        let seconds = self.promote_seconds?;
        Some(Duration::from_secs(seconds.into()))
    }

    /// Checks the fields.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let percent = |key, value: u8, least: u8| match (least..=100).contains(&value) {
            true => Ok(()),
            false => Err(invalid(
                format!("{key}={value}"),
                format!("{least} to 100 percent"),
            )),
        };
        percent("high", self.high_percent, 0)?;
        percent("psi", self.psi_percent, 0)?;
        percent("cpu", self.cpu_percent, 1)?;
        for age in [
            self.recompress_seconds,
            self.writeback_seconds,
            self.promote_seconds,
        ] {
            if let Some(age) = age.filter(|age| *age > MAX_AGE) {
                return Err(invalid(
                    format!("an age of {age} s"),
                    format!("at most {MAX_AGE} s"),
                ));
            }
        }
        if let (Some(promote), Some(writeback)) = (self.promote_seconds, self.writeback_seconds)
            && promote >= writeback
        {
            let accepted = format!("fewer seconds than writeback={writeback}");
            return Err(invalid(format!("promote={promote}"), accepted));
        }
        if self.io_bytes_per_second < MIN_IO {
            let given = format!("io={}", self.io_bytes_per_second);
            return Err(invalid(given, format!("at least {MIN_IO} bytes a second")));
        }
        if self.train && self.recompress_seconds.is_none() {
            let accepted = "train only with recompress=AGE, which the dictionary is for".to_owned();
            return Err(invalid("train=on".into(), accepted));
        }
        let least = self.recompress_least;
        if least >= PAGE_SIZE as u16 || !least.is_multiple_of(LEAST_UNIT) {
            let accepted = format!("a multiple of {LEAST_UNIT} bytes below {PAGE_SIZE}");
            return Err(invalid(format!("least={least}"), accepted));
        }
        if least > 0 && self.recompress_seconds.is_none() {
            let accepted = "least only with recompress=AGE, which it limits".to_owned();
            return Err(invalid(format!("least={least}"), accepted));
        }
        if self.is_none() && (self.high_percent > 0 || self.psi_percent > 0) {
            let accepted =
                "high and psi only with something to do then: recompress, writeback or compact";
            return Err(invalid(self.to_string(), accepted.into()));
        }
        Ok(())
    }

    /// Encodes the settings for the image. Three zero words are the default.
    pub(crate) fn to_words(self) -> [u64; PolicySettings::WORDS] {
        let least = u64::from(self.recompress_least / LEAST_UNIT);
        let switches = u64::from(self.compact) | u64::from(self.train) << 1 | least << 2;
        let percents = [self.high_percent, self.psi_percent, self.cpu_percent];
        let [high, psi, cpu] = percents.map(u64::from);
        let age = |seconds: Option<u32>| seconds.map_or(0, |seconds| u64::from(seconds) + 1);
        [
            switches | high << 8 | psi << 16 | cpu << 24 | age(self.promote_seconds) << 32,
            age(self.recompress_seconds) | age(self.writeback_seconds) << 32,
            self.io_bytes_per_second,
        ]
    }

    /// Decodes the words of an image; `None`: no version so far wrote those.
    pub(crate) fn from_words(words: [u64; PolicySettings::WORDS]) -> Option<PolicySettings> {
        if words == [0; PolicySettings::WORDS] {
            return Some(PolicySettings::default());
        }
        let [switches, ages, io_bytes_per_second] = words;
        let [_, high_percent, psi_percent, cpu_percent, ..] = switches.to_le_bytes();
        let settings = PolicySettings {
            compact: switches & 1 != 0,
            train: switches & 2 != 0,
            recompress_least: (switches as u16 >> 2 & 63) * LEAST_UNIT,
            recompress_seconds: (ages as u32).checked_sub(1),
            writeback_seconds: ((ages >> 32) as u32).checked_sub(1),
            promote_seconds: ((switches >> 32) as u32).checked_sub(1),
            high_percent,
            psi_percent,
            cpu_percent,
            io_bytes_per_second,
        };
        (settings.check().is_ok() && settings.to_words() == words).then_some(settings)
    }
}

fn invalid(given: String, accepted: String) -> Error {
    Error::Invalid {
        what: "the policy",
        given,
        accepted,
    }
}

/// `none`, or `recompress=300,train=on,writeback=3600,promote=60,compact=on,high=90,psi=10,cpu=10,io=32M` without what is off.
impl fmt::Display for PolicySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        let age = |key, seconds: Option<u32>| seconds.map(|seconds| format!("{key}={seconds}"));
        words.extend(age("recompress", self.recompress_seconds));
        let least = self.recompress_least;
        words.extend((least > 0).then(|| format!("least={least}")));
        words.extend(self.train.then(|| "train=on".into()));
        words.extend(age("writeback", self.writeback_seconds));
        words.extend(age("promote", self.promote_seconds));
        words.extend(self.compact.then(|| "compact=on".into()));
        let percent = |key, value: u8| (value > 0).then(|| format!("{key}={value}"));
        words.extend(percent("high", self.high_percent));
        words.extend(percent("psi", self.psi_percent));
        if words.is_empty() {
            return f.write_str("none");
        }
        words.push(format!("cpu={}", self.cpu_percent));
        words.push(format!("io={}", size(self.io_bytes_per_second)));
        f.write_str(&words.join(","))
    }
}

/// A number of bytes with the largest unit that leaves it whole.
fn size(bytes: u64) -> String {
    let shift = [30, 20, 10, 0]
        .into_iter()
        .find(|shift| bytes.is_multiple_of(1 << shift));
    let shift = shift.unwrap_or(0);
    let unit = [(30, "G"), (20, "M"), (10, "K")]
        .iter()
        .find(|(s, _)| *s == shift);
    format!("{}{}", bytes >> shift, unit.map_or("", |(_, unit)| unit))
}

impl FromStr for PolicySettings {
    type Err = Error;

    fn from_str(text: &str) -> Result<PolicySettings, Error> {
        let mut settings = PolicySettings::default();
        for word in text.split(',').map(str::trim) {
            match word {
                "auto" => settings = PolicySettings::auto(),
                "default" => settings = PolicySettings::standard(),
                "none" | "off" => settings = PolicySettings::default(),
                _ => settings
                    .set(word)
                    .ok_or_else(|| invalid(format!("'{word}'"), ACCEPTED.into()))?,
            }
        }
        settings.check()?;
        Ok(settings)
    }
}

impl PolicySettings {
    /// Applies one pair; `None` if it is invalid.
    fn set(&mut self, word: &str) -> Option<()> {
        let (key, value) = word.split_once('=')?;
        match key.trim() {
            "recompress" => self.recompress_seconds = age(value)?,
            "least" if value == "off" => self.recompress_least = 0,
            "least" => self.recompress_least = number(value, &[])?.try_into().ok()?,
            "writeback" => self.writeback_seconds = age(value)?,
            "promote" => self.promote_seconds = age(value)?,
            "train" => self.train = switch(value)?,
            "compact" => self.compact = switch(value)?,
            "high" => self.high_percent = percent(value)?,
            "psi" => self.psi_percent = percent(value)?,
            "cpu" => self.cpu_percent = percent(value)?,
            "io" => {
                self.io_bytes_per_second =
                    number(value, &[("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30)])?
            }
            _ => return None,
        }
        Some(())
    }
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "on" | "yes" | "1" => Some(true),
        "off" | "no" | "0" => Some(false),
        _ => None,
    }
}

fn percent(value: &str) -> Option<u8> {
    match value {
        "off" => Some(0),
        _ => value.trim_end_matches('%').parse().ok(),
    }
}

fn age(value: &str) -> Option<Option<u32>> {
    if value == "off" {
        return Some(None);
    }
    let seconds = number(value, &[("s", 1), ("m", 60), ("h", 3600), ("d", 86400)])?;
    Some(Some(u32::try_from(seconds).ok()?))
}

/// Digits, and one of the units or none.
fn number(value: &str, units: &[(&str, u64)]) -> Option<u64> {
    let unit = units.iter().find(|(unit, _)| value.ends_with(unit));
    let (unit, times) = unit.unwrap_or(&("", 1));
    let digits = value.strip_suffix(unit)?;
    // `parse` takes a plus sign, too.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse::<u64>().ok()?.checked_mul(*times))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_read_and_printed() {
        for (text, printed) in [
            ("none", "none"),
            ("auto,none", "none"),
            ("default", "compact=on,cpu=10,io=32M"),
            ("cpu=50", "none"),
            ("compact=on", "compact=on,cpu=10,io=32M"),
            (
                "auto",
                "recompress=300,train=on,writeback=3600,promote=60,compact=on,high=90,psi=10,cpu=10,io=32M",
            ),
            (
                "auto,train=off,psi=off,recompress=2m,cpu=25%",
                "recompress=120,writeback=3600,promote=60,compact=on,high=90,cpu=25,io=32M",
            ),
            (
                "writeback=1d, high=80, io=100000",
                "writeback=86400,high=80,cpu=10,io=100000",
            ),
            ("recompress=0,io=1G", "recompress=0,cpu=10,io=1G"),
            (
                "recompress=60,least=1024",
                "recompress=60,least=1024,cpu=10,io=32M",
            ),
            (
                "recompress=60,least=64,least=off",
                "recompress=60,cpu=10,io=32M",
            ),
        ] {
            let settings: PolicySettings = text.parse().unwrap();
            assert_eq!(settings.to_string(), printed, "{text}");
            let again: PolicySettings = printed.parse().unwrap();
            assert_eq!(again.to_string(), printed);
        }
        assert_eq!("auto".parse(), Ok(PolicySettings::auto()));
    }

    #[test]
    fn nonsense_is_refused_with_what_is_accepted() {
        for (text, words) in [
            ("", "recompress=AGE"),
            (
                "fast",
                "'fast' is not possible: auto, default, none, or any of recompress=AGE",
            ),
            ("recompress", "recompress=AGE"),
            ("recompress=soon", "'recompress=soon'"),
            ("recompress=-1", "recompress=AGE"),
            ("recompress=5000000000", "recompress=AGE"),
            ("recompress=4000000000", "at most 2147483647 s"),
            ("compact=maybe", "on|off"),
            ("auto,high=101", "0 to 100 percent"),
            ("auto,cpu=0", "1 to 100 percent"),
            ("auto,cpu=300", "cpu=PERCENT"),
            ("auto,io=1K", "at least 65536 bytes"),
            ("auto,io=+1M", "io=BYTES"),
            ("train=on", "train only with recompress"),
            ("compact=on,least=64", "least only with recompress"),
            (
                "auto,least=1000",
                "least=1000 is not possible: a multiple of 64 bytes below 4096",
            ),
            ("auto,least=4096", "a multiple of 64"),
            ("auto,least=70000", "least=BYTES"),
            ("auto,least=1K", "least=BYTES"),
            ("high=90", "something to do"),
            ("auto;cpu=5", "separated by commas"),
        ] {
            let error = text.parse::<PolicySettings>().unwrap_err();
            assert_eq!(error.errno(), 22);
            assert!(error.to_string().contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn words_that_nobody_wrote_are_refused() {
        assert_eq!(
            PolicySettings::from_words([0; 3]),
            Some(PolicySettings::default())
        );
        let good = PolicySettings::auto().to_words();
        for (at, bits) in [
            // promote >= writeback
            (0, 1 << 45),
            (0, 0xFF << 8),
            (0, 10 << 24),
            (1, 0xFFFF_FFFF),
            (2, 32 << 20),
        ] {
            let mut words = good;
            words[at] ^= bits;
            assert_eq!(PolicySettings::from_words(words), None, "{at} {bits:#x}");
        }
        let least_of_nothing = [1 | 1 << 2 | 10 << 24, 0, 32 << 20];
        assert_eq!(PolicySettings::from_words(least_of_nothing), None);
    }

    proptest! {
        #[test]
        fn prop_settings_survive_words_and_text(
            ages in (
                proptest::option::of(0..MAX_AGE),
                proptest::option::of(0..MAX_AGE),
                proptest::option::of(0..MAX_AGE / 8),
            ),
            switches in (any::<bool>(), any::<bool>()),
            least in 0..64u16,
            percents in (0u8..=100, 0u8..=100, 1u8..=100),
            io in MIN_IO..u64::MAX,
        ) {
            let settings = PolicySettings {
                recompress_seconds: ages.0,
                recompress_least: least * LEAST_UNIT,
                writeback_seconds: ages.1,
                promote_seconds: ages.2,
                train: switches.0,
                compact: switches.1,
                high_percent: percents.0,
                psi_percent: percents.1,
                cpu_percent: percents.2,
                io_bytes_per_second: io,
            };
            prop_assume!(settings.check().is_ok());
            prop_assert_eq!(PolicySettings::from_words(settings.to_words()), Some(settings));
            if !settings.is_none() {
                prop_assert_eq!(settings.to_string().parse::<PolicySettings>().unwrap(), settings);
            }
        }

        #[test]
        fn prop_no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<PolicySettings>();
        }
    }
}
