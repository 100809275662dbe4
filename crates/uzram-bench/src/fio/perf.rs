//! `perf stat` around fio, for the rows that zram-perf-test's comparison prints, as far as the machine counts them.

use std::path::Path;
use std::process::{Command, Stdio};

/// The events, in the order of the series' table.
const EVENTS: [&str; 5] = [
    "stalled-cycles-frontend",
    "stalled-cycles-backend",
    "instructions",
    "branches",
    "branch-misses",
];

/// The events that this machine counts, and those it does not.
#[derive(Debug, Clone)]
pub(super) struct Perf {
    events: Vec<&'static str>,
    /// The events that are left out, with the reason; empty if none is.
    pub(super) missing: String,
}

impl Perf {
    /// Counts nothing.
    pub(super) const fn nothing() -> Perf {
        Perf {
            events: Vec::new(),
            missing: String::new(),
        }
    }

    /// Probes by running perf.
    pub(super) fn probe() -> Perf {
        let output = Command::new("perf")
            .args(["stat", "-x", ";", "-e", &EVENTS.join(","), "--", "true"])
            .stdin(Stdio::null())
            .output();
        let Ok(output) = output else {
            return Perf {
                events: Vec::new(),
                missing: "perf is not installed".into(),
            };
        };
        let counts = parse(&String::from_utf8_lossy(&output.stderr));
        let counted = |event: &&&str| counts.iter().any(|(name, _)| name == **event);
        let events: Vec<_> = EVENTS.iter().filter(counted).copied().collect();
        let missing: Vec<_> = EVENTS
            .into_iter()
            .filter(|event| !events.contains(event))
            .collect();
        let missing = match missing.is_empty() {
            true => String::new(),
            false => format!("this machine does not count {}", missing.join(", ")),
        };
        Perf { events, missing }
    }

    /// The command-line prefix that makes perf count a command and write the counts to `file`.
    pub(super) fn before(&self, file: &Path) -> Vec<String> {
        if self.events.is_empty() {
            return Vec::new();
        }
        let words = ["perf", "stat", "-x", ";", "-o"].map(String::from);
        let rest = [
            file.display().to_string(),
            "-e".into(),
            self.events.join(","),
            "--".into(),
        ];
        words.into_iter().chain(rest).collect()
    }

    /// Reads the counts from `file`, in the order of the table.
    pub(super) fn counts(&self, file: &Path) -> Vec<(String, f64)> {
        if self.events.is_empty() {
            return Vec::new();
        }
        parse(&std::fs::read_to_string(file).unwrap_or_default())
    }
}

/// Parses lines of `value;unit;event;...`. An event that perf could not count has words in place of a value.
fn parse(text: &str) -> Vec<(String, f64)> {
    let count = |line: &str| {
        let mut fields = line.split(';');
        let value = fields.next()?.parse().ok()?;
        let event = fields.nth(1)?;
        // With a suffix such as :u where only a part may be counted.
        let event = event.split(':').next()?;
        EVENTS.contains(&event).then(|| (event.to_owned(), value))
    };
    text.lines().filter_map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_counted_has_no_row() {
        let text = "# started on Wed\n\n<not supported>;;branches;0;100.00;;\n\
            57055302552;;instructions:u;100;100.00;1.16;insn per cycle\n<not counted>;;branch-misses;0;0.00;;\n";
        assert_eq!(parse(text), [("instructions".to_owned(), 57_055_302_552.0)]);
    }
}
