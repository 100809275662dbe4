//! The rules for what may differ. Each has its reason in `docs/differences-from-linux.md`.

use std::fmt;

use super::sides::{Facts, Outcome};
use super::steps::Step;

const DOCUMENT: &str = include_str!("../../../../docs/differences-from-linux.md");

/// A step with different outcomes.
#[derive(Debug)]
pub(crate) struct Mismatch {
    pub(crate) step: Step,
    pub(crate) kernel: Outcome,
    pub(crate) ours: Outcome,
}

fn text(outcome: &Outcome) -> String {
    match outcome {
        Ok(bytes) if bytes.len() > 400 => format!("{} bytes", bytes.len()),
        Ok(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        Err(errno) => format!("{:?}", rustix::io::Errno::from_raw_os_error(*errno)),
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kernel, ours) = (text(&self.kernel), text(&self.ours));
        write!(f, "{:?}: the kernel {kernel}, uzram {ours}", self.step)
    }
}

impl Mismatch {
    /// The attribute.
    fn name(&self) -> &'static str {
        match &self.step {
            Step::Show(name) | Step::Store(name, _) => name,
            Step::Blocks => "block_state",
            _ => "",
        }
    }

    fn stored(&self) -> Option<&str> {
        match &self.step {
            Step::Store(_, text) => Some(text),
            _ => None,
        }
    }

    fn errnos(&self) -> (i32, i32) {
        let errno = |outcome: &Outcome| outcome.as_ref().err().copied().unwrap_or(0);
        (errno(&self.kernel), errno(&self.ours))
    }

    /// What both sides read.
    fn texts(&self) -> Option<(String, String)> {
        let text = |outcome: &Outcome| String::from_utf8(outcome.clone().ok()?).ok();
        Some((text(&self.kernel)?, text(&self.ours)?)).filter(|_| self.stored().is_none())
    }
}

/// Parses the numbers of a line in zram's form: each in at least eight columns, with a space between them.
fn numbers(line: &str) -> Option<Vec<u64>> {
    let numbers: Option<Vec<u64>> = line.split_whitespace().map(|n| n.parse().ok()).collect();
    let numbers = numbers?;
    let again: Vec<String> = numbers.iter().map(|n| format!("{n:8}")).collect();
    (again.join(" ") + "\n" == line).then_some(numbers)
}

/// Whether two lines of `mm_stat` differ only in figures of memory.
fn same_but_for_memory(kernel: &str, ours: &str) -> bool {
    let (Some(kernel), Some(ours)) = (numbers(kernel), numbers(ours)) else {
        return false;
    };
    let exact = [0, 3, 5, 7, 8];
    kernel.len() == 9
        && ours.len() == 9
        && exact.iter().all(|at| kernel[*at] == ours[*at])
        && (kernel[1] == 0) == (ours[1] == 0)
        // Freed memory may stay with our device; the data must be the same on both.
        && (kernel[2] == 0 || ours[2] > 0)
        && (kernel[4] == 0 || ours[4] > 0)
        && ours[2] % 4096 == 0
        && ours[2] <= ours[4]
}

/// The list of algorithms without those that the kernel lacks.
fn as_built(line: &str, facts: &Facts) -> String {
    let known = |word: &&str| {
        let name = word.trim_matches(['[', ']']);
        name.is_empty()
            || name.starts_with(['#', '\n'])
            || facts.algorithms.iter().any(|a| a == name)
    };
    line.split(' ').filter(known).collect::<Vec<_>>().join(" ")
}

type Rule = fn(&Mismatch, &Facts) -> bool;

const EIO: i32 = 5;
const EINVAL: i32 = 22;

/// The rules by their ids in the document.
pub(crate) const RULES: &[(&str, Rule)] = &[
    ("attributes-of-other-kernels", |m, facts| {
        !facts.has(m.name()) && m.errnos().0 == 2
    }),
    ("algorithms-that-are-built", |m, facts| {
        let list = matches!(m.name(), "comp_algorithm" | "recomp_algorithm");
        let same = |(kernel, ours): (String, String)| as_built(&ours, facts) == kernel;
        list && m.texts().is_some_and(same)
    }),
    ("two-newlines", |m, facts| {
        let same = |(kernel, ours): (String, String)| {
            let ours = as_built(&ours, facts);
            ours != kernel && ours.replace(['[', ']'], "") == kernel
        };
        m.name() == "comp_algorithm" && m.texts().is_some_and(same)
    }),
    ("memory-figures", |m, _| {
        let same = |(kernel, ours): (String, String)| same_but_for_memory(&kernel, &ours);
        m.name() == "mm_stat" && m.texts().is_some_and(same)
    }),
    ("debug-stat-stall", |m, _| {
        let same = |(kernel, ours): (String, String)| {
            let stalls = kernel.strip_prefix("version: 1\n").and_then(numbers);
            stalls.is_some_and(|n| n.len() == 2) && ours == "version: 1\n0        0\n"
        };
        m.name() == "debug_stat" && m.texts().is_some_and(same)
    }),
    ("params-after-init", |m, _| {
        // The kernel does not check the state; both find everything else that is wrong.
        m.name() == "algorithm_params" && m.errnos().1 == 16 && matches!(m.errnos().0, 0 | EINVAL)
    }),
    ("no-multi-comp", |m, facts| {
        let about = m.name() == "algorithm_params" && !facts.has("recomp_algorithm");
        about
            && m.stored().is_some_and(|text| text.contains("priority="))
            && m.errnos() == (EINVAL, 0)
    }),
    ("addressed-directly", |m, facts| {
        let both = |text: &str| text.contains("priority=0") || text.contains("algo=");
        let addressed = |text: &str| text.contains("priority=") && both(text);
        facts.release < (7, 1)
            && matches!(m.name(), "recompress" | "algorithm_params")
            && m.stored().is_some_and(addressed)
            && matches!(m.errnos(), (0, EINVAL))
    }),
    ("idle-by-age", |m, _| {
        let age = m.stored().is_some_and(|text| !text.contains("all"));
        m.name() == "idle" && age && m.errnos() == (EINVAL, 0)
    }),
    ("huge-threshold", |m, _| {
        let threshold = m.stored().is_some_and(|text| text.contains("threshold="));
        m.name() == "recompress" && threshold && m.errnos() == (EINVAL, 0)
    }),
    ("writeback-state-first", |m, _| {
        m.name() == "writeback" && m.errnos() == (EINVAL, 19)
    }),
    ("written-back-huge", |m, _| {
        let same = |(kernel, ours): (String, String)| ours.replace(".wh", ".w.") == kernel;
        m.name() == "block_state" && m.texts().is_some_and(same)
    }),
    ("writeback-limit-met", |m, _| {
        m.name() == "writeback" && m.errnos() == (EIO, 0)
    }),
    ("writeback-pairs", |m, _| {
        m.name() == "writeback" && m.errnos().0 == EINVAL && matches!(m.errnos().1, 0 | 34)
    }),
];

/// A line of the document's table.
struct Listed {
    id: &'static str,
    /// The versions of Linux: `all`, `up to X.Y`, `from X.Y`.
    linux: &'static str,
}

fn listed() -> impl Iterator<Item = Listed> {
    DOCUMENT.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let id = cells.next()?.strip_suffix('`')?;
        let linux = cells.nth(1)?;
        Some(Listed { id, linux })
    })
}

fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

impl Listed {
    fn covers(&self, release: (u32, u32)) -> bool {
        let word = self.linux;
        let up_to = word.strip_prefix("up to ").and_then(version);
        let from = word.strip_prefix("from ").and_then(version);
        word == "all"
            || up_to.is_some_and(|last| release <= last)
            || from.is_some_and(|first| release >= first)
    }
}

/// Finds the number of the listed difference that explains this one.
pub(crate) fn explain(mismatch: &Mismatch, facts: &Facts) -> Option<&'static str> {
    let fits = |(id, rule): &&(&'static str, Rule)| {
        let covered = listed().any(|listed| listed.id == *id && listed.covers(facts.release));
        covered && rule(mismatch, facts)
    };
    RULES.iter().find(fits).map(|(id, _)| *id)
}

/// Checks document, rules and cases against each other. Returns what is wrong.
pub(crate) fn check_document() -> Vec<String> {
    let listed: Vec<Listed> = listed().collect();
    let mut wrong = Vec::new();
    for Listed { id, linux } in &listed {
        let bound = linux.split_once("up to ").or(linux.split_once("from "));
        if *linux != "all" && bound.and_then(|(_, text)| version(text)).is_none() {
            wrong.push(format!(
                "{id}: versions '{linux}': all, up to X.Y, from X.Y"
            ));
        }
        if !RULES.iter().any(|(rule, _)| rule == id) {
            wrong.push(format!("{id} is listed and has no rule"));
        }
        if !super::steps::cases()
            .iter()
            .any(|case| case.differs == Some(id))
        {
            wrong.push(format!("{id} is listed and has no case"));
        }
        if listed.iter().filter(|other| other.id == *id).count() > 1 {
            wrong.push(format!("{id} is listed twice"));
        }
    }
    for (id, _) in RULES {
        if !listed.iter().any(|listed| listed.id == *id) {
            wrong.push(format!("{id} has a rule and is not listed"));
        }
    }
    wrong
}
