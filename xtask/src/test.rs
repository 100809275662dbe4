//! `cargo xtask test` and `check`: runs steps of [`STEPS`], the first ones while packages are being installed. Stops for no
//! failure: each step is run, and the end says which failed, and what each one took.
//!
//! Devices and guests wait for much, and leave half a processor idle. So where all steps are run, another process of this
//! program runs those that compute ([`StepOrder::Beside`]), one after the other, when the packages are there. What it prints is
//! shown when the others have ended.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

pub(crate) use crate::steps::StepOutcome;
use crate::steps::{STEPS, Scope, Step, StepOrder};
use crate::{setup, sh};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct TestOptions {
    /// Run this step only; may be repeated
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Run what takes long and seldom fails, too: before a release
    #[arg(long)]
    slow: bool,
    /// The steps are those of a run that runs them beside others: nobody named them
    #[arg(long, hide = true)]
    beside: bool,
    /// Install no packages; what needs a missing one fails
    #[arg(long)]
    no_setup: bool,
    /// List the steps
    #[arg(long)]
    list: bool,
}

pub(crate) fn test(options: &TestOptions) -> Result<ExitCode> {
    if options.list {
        for step in STEPS {
            println!("{:14} {}", step.name, step.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let steps = select(&options.only)?;
    let mut installing = None;
    if !options.no_setup {
        setup::setup(setup::PackagePurpose::Build)?;
        // Waits for the network and the disk more than it works: the first steps run meanwhile.
        installing = Some(thread::spawn(|| setup::setup(setup::PackagePurpose::Guest)));
    }
    let scope = Scope {
        slow: options.slow,
        peers: true,
        units_only: false,
        named: !options.only.is_empty() && !options.beside,
    };
    run(&steps, &scope, installing)
}

/// What a change should pass before anything else is tried: no root, no packages, minutes.
pub(crate) fn check() -> Result<ExitCode> {
    let names = ["format", "lints", "tidy", "tests"].map(str::to_owned);
    let scope = Scope {
        slow: false,
        peers: false,
        units_only: true,
        named: true,
    };
    run(&select(&names)?, &scope, None)
}

/// The steps of these names, or all, in the table's order.
fn select(names: &[String]) -> Result<Vec<&'static Step>> {
    for name in names {
        if !STEPS.iter().any(|step| step.name == name) {
            let known: Vec<_> = STEPS.iter().map(|step| step.name).collect();
            bail!("no step '{name}'; there are: {}", known.join(" "));
        }
    }
    let wanted = |step: &&Step| names.is_empty() || names.iter().any(|name| step.name == name);
    Ok(STEPS.iter().filter(wanted).collect())
}

/// A set-up that goes on by itself.
type Installing = Option<JoinHandle<Result<()>>>;

fn run(steps: &[&'static Step], scope: &Scope, mut installing: Installing) -> Result<ExitCode> {
    let all = steps.len() == STEPS.len();
    let (beside, steps): (Vec<&'static Step>, Vec<&'static Step>) = steps
        .iter()
        .partition(|step| all && step.when == StepOrder::Beside);
    let mut other = None;
    let mut lines = Vec::new();
    for step in steps {
        if step.when != StepOrder::WhileInstalling {
            if let Some(installing) = installing.take() {
                wait_for(installing)?;
            }
            if other.is_none() && !beside.is_empty() {
                other = Some(Beside::start(&beside, scope)?);
            }
        }
        eprintln!("\n==== {}: {}", step.name, step.about);
        let (begin, cpu) = (Instant::now(), cpu_seconds());
        let outcome = (step.run)(scope);
        let (seconds, cpu) = (begin.elapsed().as_secs(), cpu_seconds() - cpu);
        let took = format!("{} ({seconds} s, {cpu} s of CPU)", step.name);
        lines.push(match outcome {
            StepOutcome::Passed => format!("{OK}{took}"),
            StepOutcome::Skipped(why) => format!("{SKIP}{took}: {why}"),
            StepOutcome::Failed(why) => format!("{FAILED}{took}: {why}"),
        });
    }
    if let Some(installing) = installing {
        wait_for(installing)?;
    }
    if let Some(other) = other {
        lines.extend(other.end()?);
    }
    let count = |word| lines.iter().filter(|line| line.starts_with(word)).count();
    let (passed, failed, skipped) = (count(OK), count(FAILED), count(SKIP));
    println!("\n{}", lines.join("\n"));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// What the lines at the end begin with.
const OK: &str = "ok      ";
const SKIP: &str = "SKIP    ";
const FAILED: &str = "FAILED  ";

/// The process that runs steps beside the others.
struct Beside {
    child: Child,
    names: Vec<&'static str>,
}

impl Beside {
    fn start(steps: &[&'static Step], scope: &Scope) -> Result<Beside> {
        let names: Vec<_> = steps.iter().map(|step| step.name).collect();
        eprintln!("\n==== beside what follows: {}", names.join(" "));
        let log = File::create(Self::log()).with_context(|| Self::log().display().to_string())?;
        // What waits for guests and devices has deadlines, and goes first.
        let mut command = Command::new("nice");
        command.args(["-n", "5"]).arg(std::env::current_exe()?);
        command.args(["test", "--no-setup", "--beside"]);
        command.args(scope.slow.then_some("--slow"));
        command.args(names.iter().flat_map(|name| ["--only", name]));
        command.stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("cannot run nice")?;
        Ok(Beside { child, names })
    }

    /// Waits for its end, shows what it printed, and returns the lines of its steps.
    fn end(mut self) -> Result<Vec<String>> {
        eprintln!("\n==== {}", self.names.join(" "));
        let status = self.child.wait()?;
        // Programs under test may print any bytes.
        let log = fs::read(Self::log()).context("what the steps beside printed")?;
        let log = String::from_utf8_lossy(&log);
        print!("{log}");
        let mut lines = Vec::new();
        for name in &self.names {
            let is_of = |line: &&str| {
                let rest = [OK, SKIP, FAILED]
                    .iter()
                    .find_map(|word| line.strip_prefix(word));
                rest.is_some_and(|rest| rest.starts_with(&format!("{name} (")))
            };
            let line = log.lines().rev().find(is_of).map(str::to_owned);
            lines.push(line.unwrap_or_else(|| format!("{FAILED}{name}: it did not end: {status}")));
        }
        Ok(lines)
    }

    fn log() -> PathBuf {
        sh::target().join("beside.log")
    }
}

fn wait_for(installing: JoinHandle<Result<()>>) -> Result<()> {
    let begin = Instant::now();
    let done = installing.join();
    let seconds = begin.elapsed().as_secs();
    eprintln!("setup: waited {seconds} s for the rest");
    done.map_err(|_| anyhow!("the set-up panicked"))?
}

/// What this process's ended children have taken of all CPUs: on a busy machine a better measure than the time that passed.
fn cpu_seconds() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    children_ticks(&stat).unwrap_or_default() / 100
}

/// `cutime` and `cstime` of proc_pid_stat(5), in hundredths of a second.
fn children_ticks(stat: &str) -> Option<u64> {
    // The name, the second field, may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(13);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(ticks()? + ticks()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_selected() {
        let names = |words: &[&str]| -> Result<Vec<&str>> {
            let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
            Ok(select(&words)?.iter().map(|step| step.name).collect())
        };
        assert_eq!(names(&[]).unwrap().len(), STEPS.len());
        assert_eq!(names(&["tidy", "format"]).unwrap(), ["format", "tidy"]);
        let error = names(&["format", "nonsense"]).unwrap_err().to_string();
        assert!(error.starts_with("no step 'nonsense'; there are: format "));
        assert!(error.contains(" guest "), "{error}");
    }

    #[test]
    fn the_children_of_a_process_are_counted() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 130 14 0";
        assert_eq!(children_ticks(stat), Some(144));
        assert_eq!(children_ticks("7 (a) S"), None);
    }
}
