//! Counts lines that come again and again instead of writing them.
//!
//! A line that is the same as one within [`WINDOW`] is counted at once. Lines that differ only in values (numbers, quoted
//! text, what follows an `=`) are written [`BURST`] times within it, then counted. The count is written when the window ends,
//! and before the process ends. Only the first rule holds for debug and trace. So whoever makes a process log the same thing for ever gets a line each [`WINDOW`].

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use uzram_spec::size::thousands;

/// How long lines are compared with each other.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Lines of one kind that are written within a window.
const BURST: u32 = 16;
/// Kinds of lines that are remembered.
const KINDS: usize = 32;

/// Lines that differ only in values.
struct RepeatedLine {
    key: u64,
    begin: Instant,
    /// The last one that was written.
    line: String,
    written: u32,
    /// How often that came again.
    same: u64,
    /// How often others came.
    alike: u64,
}

#[derive(Default)]
pub(super) struct Repeats {
    kinds: Vec<RepeatedLine>,
}

impl Repeats {
    /// Takes a line. `write` gets what is to be written now.
    pub(super) fn take(&mut self, line: &str, now: Instant, write: &mut dyn FnMut(&str)) {
        self.end_windows(now, write);
        let key = kind(line);
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.key == key) {
            if kind.line == line {
                kind.same += 1;
            } else if kind.written == BURST && !is_wanted(line) {
                kind.alike += 1;
            } else {
                kind.tell(write);
                kind.written = BURST.min(kind.written + 1);
                kind.line = line.into();
                write(line);
            }
            return;
        }
        if self.kinds.len() == KINDS {
            self.kinds.remove(0).tell(write);
        }
        self.kinds.push(RepeatedLine {
            key,
            begin: now,
            line: line.into(),
            written: 1,
            same: 0,
            alike: 0,
        });
        write(line);
    }

    /// Whether anything was counted that is not written.
    pub(super) fn owes(&self) -> bool {
        self.kinds.iter().any(|kind| kind.same + kind.alike > 0)
    }

    /// Writes the counts of windows that have ended.
    pub(super) fn end_windows(&mut self, now: Instant, write: &mut dyn FnMut(&str)) {
        self.kinds.retain_mut(|kind| {
            let goes_on = now.saturating_duration_since(kind.begin) < WINDOW;
            if !goes_on {
                kind.tell(write);
            }
            goes_on
        });
    }

    /// Writes all counts.
    pub(super) fn tell_all(&mut self, write: &mut dyn FnMut(&str)) {
        self.kinds.iter_mut().for_each(|kind| kind.tell(write));
    }
}

impl RepeatedLine {
    /// Writes how often it came, if that is not written yet.
    fn tell(&mut self, write: &mut dyn FnMut(&str)) {
        let line = &self.line;
        if self.same > 0 {
            write(&format!("repeated {} times: {line}", thousands(self.same)));
        }
        if self.alike > 0 {
            let alike = thousands(self.alike);
            write(&format!("{alike} more that differ in values from: {line}"));
        }
        (self.same, self.alike) = (0, 0);
    }
}

/// Whether each line is wanted although others differ from it in values only: whoever asks for these asks for all.
fn is_wanted(line: &str) -> bool {
    line.starts_with("DEBUG") || line.starts_with("TRACE")
}

/// What a line is without its values.
fn kind(line: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '0'..='9' => {
                while chars
                    .next_if(|c| c.is_ascii_hexdigit() || ".:".contains(*c))
                    .is_some()
                {}
                '0'.hash(&mut hasher);
            }
            '=' => {
                let end = chars.next_if(|c| "\"'".contains(*c)).unwrap_or(' ');
                while chars.next_if(|c| *c != end).is_some() {}
                '='.hash(&mut hasher);
            }
            '"' | '\'' => {
                while chars.next_if(|inner| *inner != c).is_some() {}
                chars.next();
                '"'.hash(&mut hasher);
            }
            c => c.hash(&mut hasher),
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lines: impl IntoIterator<Item = String>, seconds_later: u64) -> Vec<String> {
        let mut written = Vec::new();
        let mut write = |line: &str| written.push(line.to_owned());
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        for line in lines {
            repeats.take(&line, now, &mut write);
        }
        repeats.end_windows(now + Duration::from_secs(seconds_later), &mut write);
        written
    }

    #[test]
    fn repeated_lines_are_counted() {
        let same = std::iter::repeat_n("INFO a client came".to_owned(), 1235);
        let written = run(same, 10);
        assert_eq!(written.len(), 2);
        assert_eq!(written[1], "repeated 1,234 times: INFO a client came");
        assert!(run(["a".into(), "b".into()], 10).len() == 2);
    }

    #[test]
    fn two_that_take_turns_are_counted_each() {
        let turns = (0..1000).map(|n| ["connected", "gone"][n % 2].to_owned());
        let written = run(turns, 10);
        assert_eq!(written.len(), 4, "{written:?}");
        assert!(
            written[3].contains("repeated 499 times: gone"),
            "{written:?}"
        );
    }

    #[test]
    fn lines_that_differ_in_values_are_written_a_few_times() {
        let peers = (0..1000).map(|n| format!("refused peer=127.0.0.1:{n} name=\"x{n}\" 'y{n}'"));
        let written = run(peers, 10);
        assert_eq!(written.len(), 17, "{written:?}");
        assert!(written[16].starts_with("984 more"), "{written:?}");
        let kinds = (0..26u8).map(|n| format!("line {}", char::from(b'a' + n)));
        assert_eq!(run(kinds, 10).len(), 26, "words are no values");
        let debug = (0..100).map(|n| format!("DEBUG request={n}"));
        assert_eq!(run(debug, 10).len(), 100);
        assert_eq!(
            [0, 999, 1000, 1234567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
    }

    #[test]
    fn what_comes_again_later_is_written_again() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let mut written = 0;
        for n in 0..5 {
            let at = now + WINDOW * n;
            repeats.take("the server died", at, &mut |_| written += 1);
        }
        assert_eq!(written, 5);
        assert!(!repeats.owes());
    }
}
