//! Which tests share a boot, and what a boot says of each of its tests.
//!
//! Tests that share stand on their own lines all the same. The guest ends after the first one that fails or leaves something
//! behind; what stood behind that one, also where only the kernel's log speaks against it, is run anew, each in a boot of
//! its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::health::{self, End, TestFailure};
use super::spec::TestSpec;

/// Divides tests among boots, the longest boot first. Tests share where their headers allow it and the machine is the same; what
/// shares is divided among `guests` boots, since as many run at once.
pub(crate) fn plan<'a>(tests: &[&'a TestSpec], guests: usize) -> Vec<Vec<&'a TestSpec>> {
    let mut boots = Vec::new();
    let mut shared: BTreeMap<_, Vec<&TestSpec>> = BTreeMap::new();
    for test in tests {
        if test.shares {
            let machine = (&test.memory, test.cpus);
            shared.entry(machine).or_default().push(test);
        } else {
            boots.push(vec![*test]);
        }
    }
    for mut tests in shared.into_values() {
        tests.sort_by_key(|test| std::cmp::Reverse(test.timeout));
        let mut parts = vec![Vec::new(); guests.clamp(1, tests.len())];
        for test in tests {
            if let Some(part) = parts.iter_mut().min_by_key(|part| seconds(part)) {
                part.push(test);
            }
        }
        boots.extend(parts);
    }
    boots.sort_by_key(|boot| std::cmp::Reverse(seconds(boot)));
    boots
}

/// How long the tests of a boot may take.
fn seconds(tests: &[&TestSpec]) -> u64 {
    tests.iter().map(|test| test.timeout).sum()
}

/// A line that the guest wrote of its tests: `begin TEST`, then `exit TEST CODE` or `timeout TEST`, then perhaps
/// `left TEST WHAT`.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) line: String,
    pub(crate) at: Instant,
}

impl Said {
    /// The line without the test's name, if it is of that test.
    fn of(&self, name: &str) -> Option<String> {
        let (word, rest) = self.line.split_once(' ')?;
        let (test, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        (test == name).then(|| format!("{word} {rest}").trim_end().to_owned())
    }

    /// The test that this says the beginning of.
    pub(crate) fn begun(&self) -> Option<&str> {
        self.line.strip_prefix("begin ")
    }
}

/// What became of a test.
pub(crate) struct TestRun {
    pub(crate) failures: Vec<TestFailure>,
    /// Whether the guest came as far as the test.
    pub(crate) begun: bool,
    pub(crate) took: Duration,
}

impl TestRun {
    /// What QEMU's emulation did to a run, both rarely and on a busy machine: while the kernel patches its own code at boot,
    /// a processor may step into a half of it; and a clock that was compared with another one while a virtual
    /// processor stood still is fast, so that the time is up too soon.
    pub(crate) fn emulator(&self, timeout: u64) -> Option<&'static str> {
        let timed_out = self
            .failures
            .iter()
            .any(|f| matches!(f, TestFailure::Timeout(_)));
        if !self.failures.is_empty() && !self.begun {
            return Some("it did not come as far as the test");
        }
        (timed_out && self.took.as_secs() < timeout).then_some("its clock is fast")
    }

    pub(crate) fn line(&self, spec: &TestSpec) -> String {
        let (name, seconds) = (&spec.name, self.took.as_secs());
        if self.failures.is_empty() {
            return format!("ok      {name} ({seconds} s)");
        }
        let why: Vec<_> = self.failures.iter().map(TestFailure::to_string).collect();
        format!("FAILED  {name} ({seconds} s): {}", why.join("; "))
    }
}

/// The tests of a boot that have their answer: those up to the first that failed. The others are to be run anew.
pub(crate) fn judge(tests: &[&TestSpec], said: &[Said], log: &str, end: &End) -> Vec<TestRun> {
    let begun = |test: &TestSpec| said.iter().any(|said| said.begun() == Some(&test.name));
    let last = tests.iter().rposition(|test| begun(test)).unwrap_or(0);
    let mut runs = Vec::new();
    for (n, test) in tests.iter().enumerate().take(last + 1) {
        let of_it = said
            .iter()
            .filter_map(|said| Some((said.of(&test.name)?, said.at)));
        let (lines, times): (Vec<_>, Vec<_>) = of_it.unzip();
        // The guest's end is that of the test that it was at.
        let end = if n == last { end } else { &End::Itself };
        let part = health::part(log, &test.name);
        let failures = health::verdict(test, &lines.join("\n"), part, end);
        let failed = !failures.is_empty();
        let took = times.first().zip(times.get(1));
        runs.push(TestRun {
            failures,
            begun: begun(test),
            took: took.map_or(Duration::ZERO, |(begin, end)| *end - *begin),
        });
        if failed {
            break;
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, header: &str) -> TestSpec {
        TestSpec::parse(name, &format!("# about: x\n{header}")).unwrap()
    }

    #[test]
    fn tests_share_where_they_may() {
        let shared = "# boot: shared\n";
        let specs = [
            spec("a", shared),
            spec("b", ""),
            spec("c", &format!("{shared}# timeout: 100\n")),
            spec("d", &format!("{shared}# memory: 2G\n")),
            spec("e", shared),
        ];
        let specs: Vec<_> = specs.iter().collect();
        let names = |guests| -> Vec<String> {
            let names = |boot: &Vec<&TestSpec>| {
                let names: Vec<_> = boot.iter().map(|test| test.name.as_str()).collect();
                names.join(" ")
            };
            plan(&specs, guests).iter().map(names).collect()
        };
        assert_eq!(names(1), ["c a e", "b", "d"]);
        assert_eq!(names(2), ["a e", "c", "b", "d"]);
        assert_eq!(names(9), ["c", "b", "a", "e", "d"]);
    }

    /// Lines with a second from each to the next.
    fn said(lines: &[&str]) -> Vec<Said> {
        let begin = Instant::now();
        let at = |n| begin + Duration::from_secs(n);
        let lines = lines.iter().zip(0..);
        lines
            .map(|(line, n)| Said {
                line: line.to_string(),
                at: at(n),
            })
            .collect()
    }

    fn lines(lines: &[&str], log: &str, end: &End) -> Vec<String> {
        let specs = ["a", "a-b", "c"].map(|name| spec(name, ""));
        let specs: Vec<_> = specs.iter().collect();
        let runs = judge(&specs, &said(lines), log, end);
        let runs = runs.iter().zip(&specs);
        runs.map(|(run, spec)| run.line(spec)).collect()
    }

    #[test]
    fn each_test_has_its_answer() {
        let all = [
            "begin a",
            "exit a 0",
            "begin a-b",
            "exit a-b 0",
            "begin c",
            "exit c 0",
        ];
        let fine = ["ok      a (1 s)", "ok      a-b (1 s)", "ok      c (1 s)"];
        assert_eq!(lines(&all, "", &End::Itself), fine);
        // What hangs after the last test is that one's.
        let got = lines(&all, "", &End::Stuck(9));
        assert_eq!(got[..2], fine[..2]);
        assert_eq!(got[2], "FAILED  c (1 s): no end in 9 s; killed");
        // The guest ends after a failure.
        let got = lines(
            &["begin a", "exit a 0", "begin a-b", "exit a-b 3"],
            "",
            &End::Itself,
        );
        assert_eq!(got, [fine[0], "FAILED  a-b (1 s): exit code 3"]);
        let got = lines(&["begin a", "exit a 0", "left a a mount"], "", &End::Itself);
        assert_eq!(got, ["FAILED  a (1 s): left behind: a mount"]);
        let got = lines(&["begin a", "exit a 0", "begin a-b"], "", &End::Stuck(9));
        assert_eq!(got, [fine[0], "FAILED  a-b (0 s): no end in 9 s; killed"]);
        // No boot: the first test has failed, and nothing is said of the others.
        let got = lines(&[], "", &End::NoBoot(60));
        assert_eq!(got, ["FAILED  a (0 s): no test begun in 60 s; killed"]);
        // A log that speaks against a test that passed: the others ran on a sick kernel.
        let log = "guest: begin a\nguest: begin a-b\nBUG: x\nguest: begin c\n";
        let got = lines(&all, log, &End::Itself);
        assert_eq!(got, [fine[0], "FAILED  a-b (1 s): kernel: BUG: x"]);
    }

    #[test]
    fn only_what_the_emulator_did_is_run_again() {
        let run = |failures, begun, seconds| TestRun {
            failures,
            begun,
            took: Duration::from_secs(seconds),
        };
        let panic = || vec![TestFailure::Panic("Kernel panic".into())];
        let timeout = || vec![TestFailure::Timeout(120)];
        assert!(run(panic(), false, 3).emulator(120).is_some());
        assert!(run(timeout(), true, 5).emulator(120).is_some());
        for run in [
            run(vec![], true, 5),
            run(panic(), true, 3),
            run(timeout(), true, 125),
            run(vec![TestFailure::Exit("1".into())], true, 5),
        ] {
            assert_eq!(run.emulator(120), None);
        }
    }
}
