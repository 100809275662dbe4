//! What the kernel's log says of the kernel's health, and what that makes of a test.

use std::process::ExitStatus;

use regex_lite::Regex;

use super::spec::TestSpec;

/// Why a test failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TestFailure {
    /// The test's own exit code.
    Exit(String),
    /// The test ran out of time and the guest ended it.
    Timeout(u64),
    /// The test passed, and something of it was still there afterwards.
    Left(String),
    /// The guest stopped answering and QEMU was killed.
    Hang(String),
    /// The guest ended without a word.
    Lost(String),
    /// The kernel's last words.
    Panic(String),
    /// A message of the kernel that no healthy run has.
    Kernel(String),
}

impl TestFailure {
    /// The word for it in a test's `fails` line.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Exit(_) => "exit",
            Self::Timeout(_) => "timeout",
            Self::Left(_) => "left",
            Self::Hang(_) => "hang",
            Self::Lost(_) => "lost",
            Self::Panic(_) => "panic",
            Self::Kernel(_) => "kernel",
        }
    }
}

impl std::fmt::Display for TestFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Timeout(seconds) => write!(f, "not done in {seconds} s"),
            Self::Left(what) => write!(f, "left behind: {what}"),
            Self::Hang(what) => write!(f, "{what}; killed"),
            Self::Lost(what) => write!(f, "{what}"),
            Self::Panic(line) => write!(f, "{line}"),
            Self::Kernel(line) => write!(f, "kernel: {line}"),
        }
    }
}

/// Lines of the kernel's log that a failure shows.
const EXCERPT: usize = 40;

/// What guest/init writes into the kernel's log before a test's name when that begins.
const BEGIN: &str = "guest: begin ";

const PANIC: &str = "Kernel panic";

/// Parts of messages that no healthy run has.
const SICK: &[&str] = &[
    "Oops",
    "BUG: ",
    "WARNING: ",
    "INFO: possible ",
    "possible circular locking",
    "possible recursive locking",
    "general protection fault",
    "blocked for more than",
    "soft lockup",
    "hard LOCKUP",
    "self-detected stall",
    "detected stalls",
    "expedited stalls",
    "I/O error",
    "EXT4-fs error",
    "EXT4-fs warning",
    "Corruption detected",
    "metadata corruption",
    "Internal error xfs",
    "BTRFS error",
    "BTRFS critical",
    "Write-error on swap-device",
    "Read-error on swap-device",
    "Out of memory",
    "invoked oom-killer",
    "segfault at",
    "page allocation failure",
    "Found ordering cycle",
];

/// Whether a line of the log tells of sickness.
fn sick(line: &str, allow: &[Regex]) -> bool {
    line.contains(PANIC)
        || SICK.iter().any(|part| line.contains(part)) && !allow.iter().any(|r| r.is_match(line))
}

/// Judges a kernel log: a panic is all there is to say; else the first sick message, and how many more.
fn judge(log: &str, allow: &[Regex]) -> Option<TestFailure> {
    if let Some(line) = log.lines().find(|line| line.contains(PANIC)) {
        return Some(TestFailure::Panic(message(line).to_owned()));
    }
    let mut lines = log.lines().filter(|line| sick(line, allow));
    let first = message(lines.next()?);
    Some(TestFailure::Kernel(match lines.count() {
        0 => first.to_owned(),
        more => format!("{first} (and {more} more)"),
    }))
}

/// The part of a boot's log that is a test's: from its beginning to that of the next one. What the kernel said before the
/// first test is the first one's, too.
pub(crate) fn part<'a>(log: &'a str, name: &str) -> &'a str {
    let begins = log.match_indices(BEGIN).map(|(at, _)| at);
    let begins: Vec<_> = begins
        .map(|at| log[..at].rfind('\n').map_or(0, |n| n + 1))
        .collect();
    let named = |from: &usize| {
        let line = log[*from..].lines().next().unwrap_or_default();
        line.trim_end().ends_with(&format!("{BEGIN}{name}"))
    };
    let Some(n) = begins.iter().position(named) else {
        return if begins.is_empty() { log } else { "" };
    };
    let from = if n == 0 { 0 } else { begins[n] };
    &log[from..begins.get(n + 1).copied().unwrap_or(log.len())]
}

/// The part of a failed run's log that a reader wants first: from the first sick message, or what came last.
pub(crate) fn excerpt<'a>(log: &'a str, allow: &[Regex]) -> Vec<&'a str> {
    let lines: Vec<_> = log.lines().collect();
    let sick = lines.iter().position(|line| sick(line, allow));
    let from = sick.unwrap_or_else(|| {
        let begin = lines.iter().rposition(|line| line.contains(BEGIN));
        let last = lines.len().saturating_sub(EXCERPT);
        begin.map_or(last, |begin| last.max(begin + 1))
    });
    lines[from..].iter().take(EXCERPT).copied().collect()
}

/// A line of the log without its time stamp.
fn message(line: &str) -> &str {
    let line = line.trim();
    let stamped = line.starts_with('[');
    line.split_once("] ")
        .filter(|_| stamped)
        .map_or(line, |(_, text)| text)
}

/// How the guest's run came to its end, as the host saw it.
#[derive(Debug)]
pub(crate) enum End {
    /// QEMU ended by itself, well.
    Itself,
    /// QEMU ended by itself and said that it failed.
    Broken(ExitStatus),
    /// Killed: the guest did not get to the test.
    NoBoot(u64),
    /// Killed: the guest did not end long after the test's own limit.
    Stuck(u64),
}

/// Everything that speaks against a test's run. `status` is what the guest wrote of it: `begin`, then `exit CODE` or
/// `timeout`, then perhaps `left WHAT`. `log` is its part of the kernel's.
pub(crate) fn verdict(spec: &TestSpec, status: &str, log: &str, end: &End) -> Vec<TestFailure> {
    let kernel = judge(log, &spec.allow);
    if matches!(kernel, Some(TestFailure::Panic(_))) {
        return kernel.into_iter().collect();
    }
    let status = status.lines().last().unwrap_or_default();
    let own = match (end, status) {
        (_, "timeout") => Some(TestFailure::Timeout(spec.timeout)),
        (_, line) if line.starts_with("exit ") && line != "exit 0" => {
            Some(TestFailure::Exit(line[5..].into()))
        }
        (_, line) if line.starts_with("left ") => Some(TestFailure::Left(line[5..].into())),
        (End::NoBoot(seconds), _) => {
            Some(TestFailure::Hang(format!("no test begun in {seconds} s")))
        }
        // Also after the test, if the guest then could not be switched off.
        (End::Stuck(seconds), _) => Some(TestFailure::Hang(format!("no end in {seconds} s"))),
        (End::Broken(status), _) => Some(TestFailure::Lost(format!("QEMU: {status}"))),
        (End::Itself, "exit 0") => None,
        (End::Itself, "begin") => Some(TestFailure::Lost("the guest went away in the test".into())),
        (End::Itself, _) => Some(TestFailure::Lost(
            "the guest went away before the test".into(),
        )),
    };
    own.into_iter().chain(kernel).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn spec(header: &str) -> TestSpec {
        TestSpec::parse("x", &format!("# about: x\n# timeout: 7\n{header}")).unwrap()
    }

    fn kinds(status: &str, log: &str, end: &End) -> Vec<&'static str> {
        let failures = verdict(&spec("# allow-dmesg: dev loop0"), status, log, end);
        failures.iter().map(TestFailure::kind).collect()
    }

    #[test]
    fn every_end_has_its_reason() {
        let end = End::Itself;
        assert!(kinds("begin\nexit 0\n", "[ 1.0] fine", &end).is_empty());
        assert_eq!(kinds("begin\nexit 3\n", "", &end), ["exit"]);
        assert_eq!(kinds("begin\ntimeout\n", "", &end), ["timeout"]);
        assert_eq!(kinds("begin\n", "", &end), ["lost"]);
        assert_eq!(kinds("", "", &end), ["lost"]);
        assert_eq!(kinds("begin\nexit 0\nleft a mount\n", "", &end), ["left"]);
        assert_eq!(kinds("", "", &End::NoBoot(60)), ["hang"]);
        assert_eq!(kinds("begin\n", "", &End::Stuck(9)), ["hang"]);
        assert_eq!(kinds("begin\nexit 0\n", "", &End::Stuck(9)), ["hang"]);
        assert_eq!(kinds("begin\nexit 1\n", "", &End::Stuck(9)), ["exit"]);
        let broken = End::Broken(ExitStatus::from_raw(256));
        assert_eq!(kinds("", "", &broken), ["lost"]);
    }

    #[test]
    fn each_test_has_its_part_of_the_log() {
        let log = "[0.1] boot\r\n[1.0] guest: begin a\r\n[1.1] x\r\n[2.0] guest: begin a-b\r\n[2.1] y\r\n";
        assert_eq!(
            part(log, "a"),
            "[0.1] boot\r\n[1.0] guest: begin a\r\n[1.1] x\r\n"
        );
        assert_eq!(part(log, "a-b"), "[2.0] guest: begin a-b\r\n[2.1] y\r\n");
        assert_eq!(part(log, "b"), "");
        assert_eq!(part("[0.1] boot", "a"), "[0.1] boot");
    }

    #[test]
    fn the_kernels_messages_count() {
        let end = End::Itself;
        let log = "[    1.000000] Buffer I/O error on dev loop1, logical block 0\r\n";
        assert_eq!(kinds("begin\nexit 0\n", log, &end), ["kernel"]);
        assert_eq!(kinds("begin\nexit 2\n", log, &end), ["exit", "kernel"]);
        let log = "[    1.0] Buffer I/O error on dev loop0\n";
        assert!(kinds("begin\nexit 0\n", log, &end).is_empty());
        let log = "[    1.0] BUG: x\n[    1.0] Kernel panic - not syncing: y\n";
        let failures = verdict(&spec(""), "begin\n", log, &end);
        assert_eq!(
            failures,
            [TestFailure::Panic("Kernel panic - not syncing: y".into())]
        );
        let log = "[ 0.9] x\n[    1.0] WARNING: a\n[    1.0] WARNING: b\n";
        assert_eq!(
            judge(log, &[]),
            Some(TestFailure::Kernel("WARNING: a (and 1 more)".into()))
        );
        assert_eq!(excerpt(log, &[]).len(), 2);
        let log = "x\n".repeat(100);
        assert_eq!(excerpt(&log, &[]).len(), EXCERPT);
        assert_eq!(excerpt(&format!("{log}{BEGIN}a\ny\n"), &[]), ["y"]);
    }
}
