//! `cargo xtask test` and `check`: runs steps of [`STEPS`], one after the other, the first ones while packages are being
//! installed. Stops for no failure: each step is run, and the end says which failed, and what each one took.

use std::fs;
use std::process::ExitCode;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Result, anyhow, bail};

use crate::setup;
pub(crate) use crate::steps::StepOutcome;
use crate::steps::{STEPS, Scope, Step};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct TestOptions {
    /// Run this step only; may be repeated
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Run what takes long and seldom fails, too: before a release
    #[arg(long)]
    slow: bool,
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
        setup::setup(setup::Purpose::Build)?;
        // Waits for the network and the disk more than it works: the first steps run meanwhile.
        installing = Some(thread::spawn(|| setup::setup(setup::Purpose::Guest)));
    }
    let scope = Scope {
        slow: options.slow,
        peers: true,
        units_only: false,
        named: !options.only.is_empty(),
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

fn run(steps: &[&Step], scope: &Scope, mut installing: Installing) -> Result<ExitCode> {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut lines = Vec::new();
    for step in steps {
        if !step.bare
            && let Some(installing) = installing.take()
        {
            wait_for(installing)?;
        }
        eprintln!("\n==== {}: {}", step.name, step.about);
        let (begin, cpu) = (Instant::now(), cpu_seconds());
        let outcome = (step.run)(scope);
        let (seconds, cpu) = (begin.elapsed().as_secs(), cpu_seconds() - cpu);
        let took = format!("{} ({seconds} s, {cpu} s of CPU)", step.name);
        lines.push(match outcome {
            StepOutcome::Passed => {
                passed += 1;
                format!("ok      {took}")
            }
            StepOutcome::Skipped(why) => {
                skipped += 1;
                format!("SKIP    {took}: {why}")
            }
            StepOutcome::Failed(why) => {
                failed += 1;
                format!("FAILED  {took}: {why}")
            }
        });
    }
    if let Some(installing) = installing {
        wait_for(installing)?;
    }
    println!("\n{}", lines.join("\n"));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
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
