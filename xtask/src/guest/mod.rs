//! `cargo xtask guest`: tests in a virtual machine, with the kernel that has what this machine's kernel may lack:
//! ublk, nbd, zram, and the freedom to crash. QEMU emulates the processor, so neither KVM nor root is needed.
//!
//! One boot for each test: a test that hangs or kills its kernel fails alone.
//!
//! | module | its subject |
//! | --- | --- |
//! | `spec` | what a test's file says of the test |
//! | `kernel`, `modules` | Debian's kernel and its modules |
//! | `image`, `cpio` | the guest's file system |
//! | `qemu` | the virtual machine's process |
//! | `health` | what the kernel's log and the run's end make of a test |
//! | `parameters` | what a test is told on its way |

mod cpio;
mod health;
mod image;
mod kernel;
mod modules;
mod parameters;
mod qemu;
mod spec;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{setup, sh};
use health::Failure;
pub(crate) use parameters::Parameters;
use qemu::{Logs, Machine};
use spec::Spec;

pub(crate) fn guest(args: &[&str]) -> Result<ExitCode> {
    let specs = specs()?;
    match args {
        ["--list"] => {
            for spec in &specs {
                let ci = if spec.ci { "ci" } else { "" };
                println!("{:20} {ci:3} {}", spec.name, spec.about);
            }
            Ok(ExitCode::SUCCESS)
        }
        ["--shell"] => {
            let bench = Bench::new(&specs)?;
            bench
                .machine
                .shell(&Spec::parse("shell", "# about: a shell")?)?;
            Ok(ExitCode::SUCCESS)
        }
        ["--selftest"] => selftest(&specs),
        [option, ..] if option.starts_with('-') => {
            bail!("'{option}' is not understood: --list, --shell, --selftest, or names of tests")
        }
        words => {
            let (names, parameters) = Parameters::split(words)?;
            Ok(code(run(&specs, &names, &parameters)?))
        }
    }
}

/// Where tests' results lie, in a directory for each.
pub(crate) fn results() -> PathBuf {
    sh::target().join("guest/results")
}

/// Runs one test, which must pass; the directory with what it saved.
pub(crate) fn measure(name: &str, parameters: &Parameters) -> Result<PathBuf> {
    let specs = specs()?;
    let spec = spec::select(&specs, &[name])?[0];
    let bench = Bench::new(&specs)?;
    let run = bench.run(spec, parameters)?;
    if !run.failures.is_empty() {
        bail!("{}", run.line(spec));
    }
    Ok(results().join(name))
}

/// All tests of CI; whether all passed.
pub(crate) fn ci() -> Result<bool> {
    run(&specs()?, &[], &Parameters::default())
}

/// Reads all tests' headers.
pub(crate) fn specs() -> Result<Vec<Spec>> {
    spec::read_all(&sh::root().join("guest/tests"))
}

/// Runs tests; whether all passed.
fn run(specs: &[Spec], names: &[&str], parameters: &Parameters) -> Result<bool> {
    let chosen = spec::select(specs, names)?;
    let bench = Bench::new(specs)?;
    let (mut lines, mut failed) = (Vec::new(), 0);
    for spec in &chosen {
        let run = bench.run(spec, parameters)?;
        failed += usize::from(!run.failures.is_empty());
        lines.push(run.line(spec));
    }
    println!("\n{}", lines.join("\n"));
    println!("logs and saved files: {}", bench.results.display());
    println!("{} passed, {failed} failed", chosen.len() - failed);
    Ok(failed == 0)
}

/// Shows that the bench can fail: runs the tests that must, and demands that each is reported for its reason.
fn selftest(specs: &[Spec]) -> Result<ExitCode> {
    let bench = Bench::new(specs)?;
    let (mut lines, mut wrong) = (Vec::new(), 0);
    for spec in specs {
        let Some(expected) = &spec.fails else {
            continue;
        };
        let run = bench.run(spec, &Parameters::default())?;
        let kinds: Vec<_> = run.failures.iter().map(Failure::kind).collect();
        let right = kinds == [expected.as_str()];
        wrong += usize::from(!right);
        let verdict = if right { "as it must" } else { "WRONG" };
        lines.push(format!(
            "{verdict}: {} (wanted: {expected})",
            run.line(spec)
        ));
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
struct Bench {
    machine: Machine,
    results: PathBuf,
    /// Held while this lives: two runs would overwrite each other's image and results.
    _lock: File,
}

impl Bench {
    fn new(specs: &[Spec]) -> Result<Self> {
        setup::setup(setup::Purpose::Guest)?;
        let work = sh::target().join("guest");
        fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
        let lock = File::create(work.join("lock"))?;
        if lock.try_lock().is_err() {
            eprintln!("guest: waiting for another run to end");
            lock.lock()?;
        }
        let kernel = kernel::fetch(&work)?;
        let initrd = image::build(&work, &kernel, specs)?;
        let machine = Machine {
            kernel: kernel.image,
            initrd,
        };
        Ok(Self {
            machine,
            results: results(),
            _lock: lock,
        })
    }

    /// Runs a test; once more, where the emulator was to blame and not the test.
    fn run(&self, spec: &Spec, parameters: &Parameters) -> Result<Run> {
        println!("\n==== {}: {}", spec.name, spec.about);
        let run = self.boot(spec, parameters)?;
        match run.emulator(spec.timeout) {
            None => Ok(run),
            Some(why) => {
                println!("guest: {why}: {}; once more", run.line(spec));
                self.boot(spec, parameters)
            }
        }
    }

    fn boot(&self, spec: &Spec, parameters: &Parameters) -> Result<Run> {
        let begin = Instant::now();
        let dir = self.results.join(&spec.name);
        let logs = Logs::new(&dir)?;
        let end = self.machine.run(spec, parameters, &logs)?;
        let status = fs::read_to_string(&logs.status).unwrap_or_default();
        let log = fs::read(&logs.kernel).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let failures = health::verdict(spec, &status, &log, &end);
        // A test that failed by itself has said why.
        if failures.iter().any(|f| !matches!(f, Failure::Exit(_))) {
            println!(
                "the kernel's log, in part ({} has it all):",
                logs.kernel.display()
            );
            for line in health::excerpt(&log, &spec.allow) {
                println!("    {line}");
            }
        }
        unpack(&logs.saved, &dir);
        Ok(Run {
            failures,
            begun: status.contains("begin"),
            seconds: begin.elapsed().as_secs(),
        })
    }
}

/// What became of a test.
struct Run {
    failures: Vec<Failure>,
    /// Whether the guest came as far as the test.
    begun: bool,
    seconds: u64,
}

impl Run {
    /// What QEMU's emulation did to a run, both rarely and on a busy machine: while the kernel patches its own code at boot,
    /// a processor may step into a half of it; and a clock that was compared with another one while a virtual
    /// processor stood still is fast, so that the time is up too soon.
    fn emulator(&self, timeout: u64) -> Option<&'static str> {
        let timed_out = self
            .failures
            .iter()
            .any(|f| matches!(f, Failure::Timeout(_)));
        if !self.failures.is_empty() && !self.begun {
            return Some("it did not come as far as the test");
        }
        (timed_out && self.seconds < timeout).then_some("its clock is fast")
    }

    fn line(&self, spec: &Spec) -> String {
        let (name, seconds) = (&spec.name, self.seconds);
        if self.failures.is_empty() {
            return format!("ok      {name} ({seconds} s)");
        }
        let why: Vec<_> = self.failures.iter().map(Failure::to_string).collect();
        format!("FAILED  {name} ({seconds} s): {}", why.join("; "))
    }
}

/// Unpacks what the test saved. A guest that died has saved nothing, or half of it.
fn unpack(saved: &Path, dir: &Path) {
    if fs::metadata(saved).is_ok_and(|about| about.len() > 0) {
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(saved).arg("-C").arg(dir);
        if let Err(error) = sh::run(tar) {
            eprintln!("guest: {error:#}");
        }
    }
    let _ = fs::remove_file(saved);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_emulator_did_is_run_again() {
        let run = |failures, begun, seconds| Run {
            failures,
            begun,
            seconds,
        };
        let panic = || vec![Failure::Panic("Kernel panic".into())];
        let timeout = || vec![Failure::Timeout(120)];
        assert!(run(panic(), false, 3).emulator(120).is_some());
        assert!(run(timeout(), true, 5).emulator(120).is_some());
        for run in [
            run(vec![], true, 5),
            run(panic(), true, 3),
            run(timeout(), true, 125),
            run(vec![Failure::Exit("1".into())], true, 5),
        ] {
            assert_eq!(run.emulator(120), None);
        }
    }
}
