//! `cargo xtask guest`: tests in a virtual machine, with the kernel that has what this machine's kernel may lack:
//! ublk, nbd, zram, and the freedom to crash. QEMU emulates the processor, so neither KVM nor root is needed.
//!
//! A test that may hang or kill its kernel has a boot of its own and fails alone; others share one.
//!
//! | module | its subject |
//! | --- | --- |
//! | `spec` | what a test's file says of the test |
//! | `boots` | which tests share a boot, and what that says of each |
//! | `kernel`, `modules` | Debian's kernel and its modules |
//! | `image`, `cpio` | the guest's file system |
//! | `debian` | a whole Debian for the guest, and the packages that are installed there |
//! | `disk` | a disk of the guest that this machine serves |
//! | `qemu` | the virtual machine's process |
//! | `health` | what the kernel's log and the run's end make of a test |
//! | `parameters` | what a test is told on its way |

mod boots;
mod cpio;
mod debian;
mod disk;
mod health;
mod image;
mod kernel;
mod modules;
mod parameters;
mod qemu;
mod spec;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::{setup, sh};
use boots::TestRun;
use debian::Debian;
use health::TestFailure;
use image::Build;
pub(crate) use parameters::Parameters;
use qemu::{Logs, Machine};
use spec::{Ci, TestSpec};

/// Guests at once, where nobody says how many. Each has two processors, but waits as often as it works: one alone leaves half
/// of a machine with two processors idle.
const GUESTS: usize = 2;

/// Lines of a failed test's output that the end of a run repeats.
const LAST_LINES: usize = 15;

#[derive(Debug, clap::Args)]
pub(crate) struct GuestOptions {
    /// Names of tests, and parameters for them; without a name the tests of CI
    #[arg(value_name = "TEST|NAME=VALUE")]
    words: Vec<String>,
    /// List the tests
    #[arg(long, conflicts_with_all = ["words", "shell", "selftest"])]
    list: bool,
    /// A shell in the guest; /guest/run TEST runs a test, exit ends it
    #[arg(long, conflicts_with_all = ["words", "selftest"])]
    shell: bool,
    /// Run the tests that must fail, and demand that each does for its reason
    #[arg(long, conflicts_with = "words")]
    selftest: bool,
    /// With the tests of CI those that take long and seldom fail
    #[arg(long)]
    slow: bool,
    /// A boot of its own for each test
    #[arg(long)]
    own: bool,
    /// Guests at once
    #[arg(long, value_name = "N", default_value_t = GUESTS)]
    guests: usize,
}

pub(crate) fn guest(options: &GuestOptions) -> Result<ExitCode> {
    let mut specs = specs_of(options.guests)?;
    if options.list {
        for spec in &specs {
            let ci = match spec.ci {
                Ci::Yes => "ci",
                Ci::Slow => "slow",
                Ci::No => "",
            };
            let boot = if spec.shares { "shared" } else { "own" };
            println!("{:20} {ci:4} {boot:6} {}", spec.name, spec.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if options.shell {
        let bench = GuestBench::new(&specs, &[], Build::Tests)?;
        bench
            .machine
            .shell(&TestSpec::parse("shell", "# about: a shell")?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if options.selftest {
        return selftest(&specs);
    }
    if options.own {
        for spec in &mut specs {
            spec.shares = false;
        }
    }
    let words: Vec<_> = options.words.iter().map(String::as_str).collect();
    let (names, parameters) = Parameters::split(&words)?;
    let chosen = spec::select(&specs, &names, options.slow)?;
    let passed = run(&specs, &chosen, &parameters, options.guests);
    if let Err(error) = &passed {
        println!("{error:#}");
    }
    Ok(code(passed.is_ok()))
}

/// Where tests' results lie, in a directory for each.
pub(crate) fn results() -> PathBuf {
    sh::target().join("guest/results")
}

/// Runs one test with programs built for speed; it must pass. The directory with what it saved.
pub(crate) fn measure(name: &str, parameters: &Parameters) -> Result<PathBuf> {
    let specs = specs()?;
    let spec = spec::select(&specs, &[name], false)?[0];
    let bench = GuestBench::new(&specs, &[spec], Build::Release)?;
    let ran = bench.run(&[spec], parameters)?;
    for (spec, run) in &ran.runs {
        if !run.failures.is_empty() {
            bail!("{}", run.line(spec));
        }
    }
    Ok(results().join(name))
}

/// All tests of CI, the slow ones too if asked for; all must pass.
pub(crate) fn ci(slow: bool) -> Result<()> {
    let specs = specs_of(GUESTS)?;
    let chosen = spec::select(&specs, &[], slow)?;
    run(&specs, &chosen, &Parameters::default(), GUESTS)
}

/// Where packages lie that tests install.
pub(crate) fn packages() -> PathBuf {
    debian::packages(&sh::target().join("guest"))
}

/// Tests by their names; fails where one does.
pub(crate) fn these(names: &[&str]) -> Result<()> {
    let specs = specs_of(GUESTS)?;
    let chosen = spec::select(&specs, names, false)?;
    run(&specs, &chosen, &Parameters::default(), GUESTS)
}

/// The tests where so many guests share this machine's processors: each may take that much longer.
fn specs_of(guests: usize) -> Result<Vec<TestSpec>> {
    let mut specs = specs()?;
    for spec in &mut specs {
        spec.timeout *= guests.max(1) as u64;
    }
    Ok(specs)
}

/// Reads all tests' headers.
pub(crate) fn specs() -> Result<Vec<TestSpec>> {
    spec::read_all(&sh::root().join("guest/tests"))
}

/// Runs tests; all must pass. The error has what each failed one said last: of a long run people see the end.
fn run(
    specs: &[TestSpec],
    chosen: &[&TestSpec],
    parameters: &Parameters,
    guests: usize,
) -> Result<()> {
    let bench = GuestBench::new(specs, chosen, Build::Tests)?;
    let begin = Instant::now();
    let todo = Mutex::new(VecDeque::from(boots::plan(chosen, guests)));
    let Ran { runs, boots } = thread::scope(|scope| {
        let work = || bench.work(&todo, parameters);
        let workers: Vec<_> = (0..guests.max(1)).map(|_| scope.spawn(work)).collect();
        let mut ran = Ran::default();
        for worker in workers {
            ran.add(worker.join().map_err(|_| anyhow::anyhow!("a panic"))??);
        }
        anyhow::Ok(ran)
    })?;
    let (mut lines, mut failed) = (Vec::new(), Vec::new());
    for spec in chosen {
        // Each has one: what its boot did not answer was run anew.
        for (_, run) in runs.iter().filter(|(of, _)| of.name == spec.name) {
            if !run.failures.is_empty() {
                let output = bench.results.join(&spec.name).join("output.log");
                failed.push(format!("{}{}", run.line(spec), last_lines(&output)));
            }
            lines.push(run.line(spec));
        }
    }
    println!("\n{}", lines.join("\n"));
    println!("logs and saved files: {}", bench.results.display());
    let seconds = begin.elapsed().as_secs();
    let passed = lines.len() - failed.len();
    println!(
        "{passed} passed, {} failed; {boots} boots, {seconds} s",
        failed.len()
    );
    ensure!(failed.is_empty(), "in the guest:\n{}", failed.join("\n"));
    let count = chosen.len();
    ensure!(
        lines.len() >= count,
        "{} of {count} tests were run",
        lines.len()
    );
    Ok(())
}

/// The end of a test's output, each line on one of its own.
fn last_lines(output: &Path) -> String {
    let text = fs::read(output).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    let from = lines.len().saturating_sub(LAST_LINES);
    lines[from..]
        .iter()
        .map(|line| format!("\n  {line}"))
        .collect()
}

/// Shows that the bench can fail: runs the tests that must, and demands that each is reported for its reason.
fn selftest(specs: &[TestSpec]) -> Result<ExitCode> {
    let bench = GuestBench::new(specs, &[], Build::Tests)?;
    let (mut lines, mut wrong) = (Vec::new(), 0);
    for spec in specs {
        let Some(expected) = &spec.fails else {
            continue;
        };
        for (_, run) in bench.run(&[spec], &Parameters::default())?.runs {
            let kinds: Vec<_> = run.failures.iter().map(TestFailure::kind).collect();
            let right = kinds == [expected.as_str()];
            wrong += usize::from(!right);
            let verdict = if right { "as it must" } else { "WRONG" };
            lines.push(format!(
                "{verdict}: {} (wanted: {expected})",
                run.line(spec)
            ));
        }
    }
    println!("\n{}", lines.join("\n"));
    println!("{} passed, {wrong} failed", lines.len() - wrong);
    Ok(code(wrong == 0 && !lines.is_empty()))
}

fn code(success: bool) -> ExitCode {
    if success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Everything that a run needs, made once.
struct GuestBench {
    machine: Machine,
    work: PathBuf,
    results: PathBuf,
    /// Held while this lives: two runs would overwrite each other's image and results.
    _lock: File,
}

/// What boots came to.
#[derive(Default)]
struct Ran<'a> {
    runs: Vec<(&'a TestSpec, TestRun)>,
    boots: usize,
}

impl<'a> Ran<'a> {
    fn add(&mut self, more: Ran<'a>) {
        self.runs.extend(more.runs);
        self.boots += more.boots;
    }
}

impl GuestBench {
    /// With what all tests need, and what those need that are chosen.
    fn new(specs: &[TestSpec], chosen: &[&TestSpec], build: Build) -> Result<Self> {
        setup::setup(setup::PackagePurpose::Guest)?;
        let work = sh::target().join("guest");
        fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
        let lock = File::create(work.join("lock"))?;
        if lock.try_lock().is_err() {
            eprintln!("guest: waiting for another run to end");
            lock.lock()?;
        }
        let kernel = kernel::fetch(&work)?;
        let initrd = image::build(&work, &kernel, specs, build)?;
        let debian = match chosen.iter().any(|spec| spec.is_debian) {
            true => Some(Debian::new(&work)?),
            false => None,
        };
        let machine = Machine {
            debian,
            kernel: kernel.image,
            initrd,
            program: build.dir().join("uzram"),
        };
        Ok(Self {
            machine,
            work,
            results: results(),
            _lock: lock,
        })
    }

    /// Boots what there is to do, until there is nothing more.
    fn work<'a>(
        &self,
        todo: &Mutex<VecDeque<Vec<&'a TestSpec>>>,
        parameters: &Parameters,
    ) -> Result<Ran<'a>> {
        let mut ran = Ran::default();
        let next = || todo.lock().map_or(None, |mut todo| todo.pop_front());
        while let Some(tests) = next() {
            ran.add(self.run(&tests, parameters)?);
        }
        Ok(ran)
    }

    /// Boots tests together; what stands behind a failure again, each alone. Once more, where the emulator was to blame
    /// and not the test.
    fn run<'a>(&self, tests: &[&'a TestSpec], parameters: &Parameters) -> Result<Ran<'a>> {
        let mut ran = self.boot(tests, parameters)?;
        if let Some((spec, run)) = ran.runs.last()
            && let Some(why) = run.emulator(spec.timeout)
        {
            println!("guest: {why}: {}; once more", run.line(spec));
            let begun = run.begun;
            ran.runs.pop();
            let rest = &tests[ran.runs.len()..];
            let again = if begun { &rest[..1] } else { rest };
            ran.add(self.boot(again, parameters)?);
        }
        let rest = &tests[ran.runs.len()..];
        if !rest.is_empty() {
            println!("guest: the rest of that boot, each in one of its own");
        }
        for spec in rest {
            ran.add(self.run(&[spec], parameters)?);
        }
        Ok(ran)
    }

    fn boot<'a>(&self, tests: &[&'a TestSpec], parameters: &Parameters) -> Result<Ran<'a>> {
        let names: Vec<_> = tests.iter().map(|test| test.name.as_str()).collect();
        println!("\n==== {}", names.join(" "));
        // Two guests at once need two directories.
        let dir = self.work.join("boots").join(names[0]);
        let logs = Logs::new(&dir, &self.results, tests)?;
        let (end, said) = self.machine.run(tests, parameters, &logs)?;
        let log = fs::read(&logs.kernel).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let runs = boots::judge(tests, &said, &log, &end);
        for (spec, run) in tests.iter().zip(&runs) {
            let part = health::part(&log, &spec.name);
            let of_test = self.results.join(&spec.name).join("kernel.log");
            fs::write(&of_test, part).with_context(|| of_test.display().to_string())?;
            // A test that failed by itself has said why.
            if run
                .failures
                .iter()
                .any(|f| !matches!(f, TestFailure::Exit(_)))
            {
                println!(
                    "the kernel's log, in part ({} has it all):\n    {}",
                    logs.kernel.display(),
                    health::excerpt(part, &spec.allow).join("\n    ")
                );
            }
        }
        unpack(&logs.saved, &self.results);
        let runs = tests.iter().copied().zip(runs).collect();
        Ok(Ran { runs, boots: 1 })
    }
}

/// Unpacks what the tests saved, an archive for each. A guest that died has saved nothing, or half of it.
fn unpack(saved: &Path, results: &Path) {
    if fs::metadata(saved).is_ok_and(|about| about.len() > 0) {
        let mut tar = Command::new("tar");
        tar.args(["--ignore-zeros", "-xf"]).arg(saved);
        tar.arg("-C").arg(results);
        if let Err(error) = sh::run(tar) {
            eprintln!("guest: {error:#}");
        }
    }
    let _ = fs::remove_file(saved);
}
