//! `cargo xtask fuzz`: builds the targets of `fuzz/` for libFuzzer, runs them, and says what came of it.
//!
//! The build is the tests' own but for the workspace's crates, which a wrapper around the compiler instruments. The step of
//! `cargo xtask test` first plants faults: an engine that is not guided, or a target that refuses every input, must not pass
//! for a clean one.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::sh;

/// The target that has a fault, which only a guided engine finds.
const PLANTED: &str = "planted_fault";
/// Longest that the engine may look for it: it takes seconds, but other steps have the processors as well.
const PLANTED_SECONDS: u64 = 180;
/// As in `fuzz/src/lib.rs`: plants a fault in every target, behind all that refuses.
const PLANT: &str = "UZRAM_FUZZ_PLANTED";
/// What a planted fault says.
const SAID: &str = "the planted fault";
/// How long the step of `cargo xtask test` fuzzes each target.
const STEP_SECONDS: u64 = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct FuzzOptions {
    /// Targets, by the beginning of their names; 'all', or none, means every one
    targets: Vec<String>,
    /// How long to fuzz each
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many to fuzz at once [default: one for each CPU]
    #[arg(long)]
    jobs: Option<usize>,
    /// List the targets
    #[arg(long)]
    list: bool,
}

pub(crate) fn fuzz(options: &FuzzOptions) -> Result<()> {
    let all = targets()?;
    if options.list {
        println!("{}", all.join("\n"));
        return Ok(());
    }
    let chosen = choose(&all, &options.targets)?;
    build(&all)?;
    run_all(&chosen, options.seconds, options.jobs)
}

/// A step of `cargo xtask test`.
pub(crate) fn step() -> Result<()> {
    let all = targets()?;
    build(&all)?;
    let found = FuzzRun::new(PLANTED).fuzz(PLANTED_SECONDS)?;
    ensure!(
        found.failed && found.log.contains(SAID),
        "the engine did not find the planted fault within {PLANTED_SECONDS} s: it is not guided"
    );
    let chosen = choose(&all, &[])?;
    for name in &chosen {
        let found = FuzzRun::new(name).seeds_with_planted_fault()?;
        ensure!(
            found.failed && found.log.contains(SAID),
            "{name}: no seed gets as far as the planted fault: it would find nothing there\n{}",
            found.tail()
        );
    }
    eprintln!("fuzz: every planted fault was found");
    run_all(&chosen, STEP_SECONDS, None)
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let dir = sh::root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|s| s.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Those that were asked for; all but the one with a fault where none was.
fn choose(all: &[String], asked: &[String]) -> Result<Vec<String>> {
    if asked.iter().all(|name| name == "all") {
        let sound = all.iter().filter(|name| *name != PLANTED);
        return Ok(sound.cloned().collect());
    }
    let mut chosen = Vec::new();
    for word in asked {
        let found: Vec<_> = all.iter().filter(|name| name.starts_with(word)).collect();
        if found.is_empty() {
            bail!("no target '{word}'; there are: {}", all.join(" "));
        }
        chosen.extend(found.into_iter().cloned());
    }
    Ok(chosen)
}

fn build(all: &[String]) -> Result<()> {
    let bins = all.iter().flat_map(|name| ["--bin", name.as_str()]);
    let args: Vec<&str> = ["build", "--quiet"].into_iter().chain(bins).collect();
    let mut command = sh::cargo(&[&args, sh::WORKSPACE].concat());
    let wrapper = sh::root().join("fuzz/instrument.sh");
    command.env("RUSTC_WORKSPACE_WRAPPER", wrapper);
    sh::run(command)
}

/// Fuzzes several targets at once, and prints a line for each.
fn run_all(names: &[String], seconds: u64, jobs: Option<usize>) -> Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(names.iter().collect::<VecDeque<_>>());
    let failed = Mutex::new(Vec::new());
    let next = || {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    };
    let work = || {
        while let Some(name) = next() {
            let said = match FuzzRun::new(name).fuzz(seconds) {
                Ok(outcome) if !outcome.failed => {
                    println!("{name:42} {}", outcome.summary());
                    continue;
                }
                Ok(outcome) => outcome.tail(),
                Err(error) => format!("{error:#}"),
            };
            let program = FuzzRun::new(name).program();
            eprintln!("{said}\nto repeat: {} FILE", program.display());
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.push(name.as_str());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.unwrap_or(cpus).clamp(1, names.len().max(1)) {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failed.is_empty(), "faults: {}", failed.join(" "));
    Ok(())
}

/// A target and where its files are.
struct FuzzRun<'a> {
    name: &'a str,
}

/// What came of a run.
struct FuzzOutcome {
    failed: bool,
    /// What the engine wrote.
    log: String,
    seconds: f64,
}

impl<'a> FuzzRun<'a> {
    fn new(name: &'a str) -> FuzzRun<'a> {
        FuzzRun { name }
    }

    fn program(&self) -> PathBuf {
        sh::target().join("debug").join(self.name)
    }

    fn dir(&self, kind: &str) -> Result<PathBuf> {
        let dir = sh::target().join("fuzz").join(kind).join(self.name);
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(dir)
    }

    fn seeds(&self) -> PathBuf {
        sh::root().join("fuzz/seeds").join(self.name)
    }

    /// Goes on with the corpus that earlier runs left, and adds to it.
    fn fuzz(&self, seconds: u64) -> Result<FuzzOutcome> {
        let mut command = self.engine()?;
        command.arg(format!("-max_total_time={seconds}"));
        command.arg(self.dir("corpus")?);
        self.run(command)
    }

    /// Runs the seeds alone.
    fn seeds_with_planted_fault(&self) -> Result<FuzzOutcome> {
        let mut command = self.engine()?;
        command.arg("-runs=0").env(PLANT, "1");
        self.run(command)
    }

    fn engine(&self) -> Result<Command> {
        let artifacts = self.dir("faults")?;
        let mut command = Command::new(self.program());
        // Some targets have other threads, whose faults are not the input's that the engine is at by then: hence the timeout
        // is generous and the memory is.
        command.args([
            "-print_final_stats=1",
            "-timeout=30",
            "-rss_limit_mb=4096",
            "-max_len=4096",
        ]);
        command.arg(format!("-artifact_prefix={}/", artifacts.display()));
        command.current_dir(&artifacts);
        Ok(command)
    }

    fn run(&self, mut command: Command) -> Result<FuzzOutcome> {
        let seeds = self.seeds();
        if seeds.exists() {
            command.arg(seeds);
        }
        let begin = Instant::now();
        let output = command.output();
        let output = output.with_context(|| format!("cannot run {command:?}"))?;
        Ok(FuzzOutcome {
            failed: !output.status.success(),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
            seconds: begin.elapsed().as_secs_f64(),
        })
    }
}

impl FuzzOutcome {
    /// Inputs, branches, kept inputs and time.
    fn summary(&self) -> String {
        let executed = self.stat("stat::number_of_executed_units:");
        let seconds = self.seconds;
        // The last line of progress: `#N DONE cov: X ft: Y corp: Z/...`.
        let progress = self.log.lines().rev().find(|line| line.contains(" cov: "));
        let number = |key: &str| progress.and_then(|line| after(line, key)).unwrap_or("?");
        format!(
            "{executed:>9} inputs in {seconds:.0} s, {} branches, {} features, {} inputs kept",
            number(" cov: "),
            number(" ft: "),
            number(" corp: ").split('/').next().unwrap_or("?"),
        )
    }

    fn stat(&self, key: &str) -> &str {
        let line = self.log.lines().find(|line| line.starts_with(key));
        line.and_then(|line| after(line, key)).unwrap_or("?")
    }

    /// The end of the log: the fault.
    fn tail(&self) -> String {
        let lines: Vec<_> = self.log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

/// The word after a key.
fn after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_once(key)?.1.split_whitespace().next()
}

/// Whether each target has seeds, and each folder of seeds a target, for tidy.
pub(crate) fn check_seeds(root: &Path, wrong: &mut Vec<String>) -> Result<()> {
    let targets = targets()?;
    let mut with_seeds = Vec::new();
    let dir = root.join("fuzz/seeds");
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        with_seeds.push(entry?.file_name().to_string_lossy().into_owned());
    }
    let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml"))?;
    for name in &targets {
        if name != PLANTED && !with_seeds.contains(name) {
            wrong.push(format!("fuzz/seeds has nothing for {name}"));
        }
        if !manifest.contains(&format!("name = \"{name}\"")) {
            wrong.push(format!("fuzz/Cargo.toml does not name {name}"));
        }
    }
    for name in with_seeds.iter().filter(|name| !targets.contains(name)) {
        wrong.push(format!("fuzz/seeds/{name} is for no target"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_chosen_by_the_beginning_of_their_names() {
        let all = ["nbd_a", "nbd_b", "other", PLANTED].map(str::to_owned);
        let chosen = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
            choose(&all, &words)
        };
        assert_eq!(chosen(&["nbd"]).unwrap(), ["nbd_a", "nbd_b"]);
        assert_eq!(chosen(&["all"]).unwrap(), ["nbd_a", "nbd_b", "other"]);
        assert_eq!(chosen(&[]).unwrap().len(), 3);
        assert_eq!(chosen(&[PLANTED]).unwrap(), [PLANTED]);
        assert!(chosen(&["x"]).unwrap_err().to_string().contains("nbd_a"));
    }

    #[test]
    fn the_engines_figures_are_read() {
        let outcome = FuzzOutcome {
            failed: false,
            log: "#8 NEW    cov: 1 ft: 2 corp: 3/40b\n#99 DONE   cov: 812 ft: 1803 corp: 77/9Kb lim: 9\n\
                  stat::number_of_executed_units: 4711\n"
                .into(),
            seconds: 10.2,
        };
        let expected = "     4711 inputs in 10 s, 812 branches, 1803 features, 77 inputs kept";
        assert_eq!(outcome.summary(), expected);
    }
}
