//! The steps of `cargo xtask test`, in the order in which they run: what fails soonest comes first, and what builds comes
//! before what uses it.
//!
//! The steps share what is built: one profile, one target directory, and [`sh::WORKSPACE`] wherever packages and features
//! are selected. Only ThreadSanitizer, which needs another compiler, has a build of its own.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::{
    acid, binaries, canary, deny, dist, docs, fuzz, guest, packages, python, setup, sh, tidy,
};

/// One step.
pub(crate) struct Step {
    /// What `--only` takes.
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: fn(&Scope) -> StepOutcome,
    pub(crate) when: StepOrder,
}

/// When all steps are run: after one another, but for these.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepOrder {
    /// It needs what a build needs and no more: it runs while other packages are being installed.
    WhileInstalling,
    InTurn,
    /// It computes, makes nothing that the machine sees, and leaves the other steps' programs as they are: it runs beside
    /// those that wait for devices and guests.
    Beside,
}

/// What a step came to.
pub(crate) enum StepOutcome {
    Passed,
    Skipped(String),
    Failed(String),
}

/// How much of each step is asked for.
pub(crate) struct Scope {
    /// The guest's slow tests, too, and [`MACHINE_SECONDS`] for the state machine.
    pub(crate) slow: bool,
    /// A missing peer is a failure, not a skip.
    pub(crate) peers: bool,
    /// Of tests, those inside of the libraries.
    pub(crate) units_only: bool,
    /// Whether steps were chosen by their names.
    pub(crate) named: bool,
}

impl Scope {
    /// Runs what takes long and seldom fails, where that was asked for.
    fn rarely(&self, run: fn() -> StepOutcome) -> StepOutcome {
        match self.slow || self.named {
            true => run(),
            false => StepOutcome::Skipped("it takes long, and seldom fails".into()),
        }
    }
}

/// How long each of the state machines looks for a sequence that fails, of which it has a few seconds otherwise.
const MACHINE_SECONDS: &str = "300";

const fn step(name: &'static str, about: &'static str, run: fn(&Scope) -> StepOutcome) -> Step {
    Step {
        name,
        about,
        run,
        when: StepOrder::InTurn,
    }
}

const fn bare(name: &'static str, about: &'static str, run: fn(&Scope) -> StepOutcome) -> Step {
    Step {
        when: StepOrder::WhileInstalling,
        ..step(name, about, run)
    }
}

const fn beside(name: &'static str, about: &'static str, run: fn(&Scope) -> StepOutcome) -> Step {
    Step {
        when: StepOrder::Beside,
        ..step(name, about, run)
    }
}

/// What the benchmarks' steps say of themselves.
const SMOKE: &str = "the benchmark runs; its figures mean little";

pub(crate) const STEPS: &[Step] = &[
    bare("format", "every file is as rustfmt writes it", |_| {
        cargo(&["fmt", "--all", "--check"])
    }),
    bare("lints", "clippy, all targets of the workspace", |_| {
        let deny = ["--all-targets", "--", "-D", "warnings"];
        cargo(&[&["clippy"], sh::WORKSPACE, &deny].concat())
    }),
    bare(
        "lints-alone",
        "clippy, uzram-compress with each algorithm alone",
        |_| outcome(each_algorithm_alone()),
    ),
    bare("docs", "rustdoc without warnings", |_| rustdoc()),
    bare("tidy", "what compilers do not check", |_| {
        outcome(tidy::tidy())
    }),
    step(
        "deny",
        "licences, bans and sources of all dependencies",
        |_| outcome(deny::deny()),
    ),
    step(
        "tests",
        "unit, property, conformance, interop and end-to-end tests",
        tests,
    ),
    step(
        "book",
        "the book's pages are as the program has them",
        |_| outcome(docs::docs(true)),
    ),
    step(
        "acid",
        "one thing more is one file more; with --slow, or where it is named (tidy looks whether its patches fit)",
        |scope| scope.rarely(|| outcome(acid::acid(&[]))),
    ),
    step(
        "packages",
        "each crate builds from its package; with --slow, or where it is named",
        |scope| scope.rarely(|| outcome(packages::packages())),
    ),
    step(
        "deb",
        "the Debian package: lintian, and installed, used, upgraded, removed and purged in a guest; with --slow, or where it is \
         named",
        |scope| scope.rarely(|| outcome(deb())),
    ),
    step(
        "recipes",
        "the RPM spec and the PKGBUILD: linters, and the same files as the Debian package",
        |_| match dist::missing_tools() {
            tools if tools.is_empty() => outcome(recipes()),
            tools => StepOutcome::Skipped(format!("no {}", tools.join(", no "))),
        },
    ),
    step("guest", "tests under a kernel of their own", |scope| {
        outcome(guest::ci(scope.slow))
    }),
    beside("miri", "the pool under Miri", |_| miri()),
    beside(
        "tsan",
        "the pool and the core under ThreadSanitizer; with --slow, or where it is named",
        |scope| scope.rarely(tsan),
    ),
    beside(
        "canaries",
        "the state machines find each rule that the core and the remotes can be told to break",
        |_| outcome(canary::canaries()),
    ),
    beside(
        "fuzz",
        "what uzram reads from others, for seconds; planted faults are found",
        |_| outcome(fuzz::step()),
    ),
    beside("bench-core", SMOKE, |_| bench_smoke("core")),
    beside("bench-codecs", SMOKE, |_| bench_smoke("codecs")),
    beside("bench-rivals", SMOKE, |_| bench_smoke("rivals")),
];

/// Builds the programs of packages as the tests do. With an example, as the guest's programs are built, which is after this.
fn programs() -> Result<()> {
    let build = [&["build", "--quiet"], sh::WORKSPACE].concat();
    let example = vec!["--example", "memhog"];
    sh::run(sh::cargo(&[build, dist::bins(), example].concat()))
}

/// What other packagers build by, with the programs of the tests.
fn recipes() -> Result<()> {
    programs()?;
    dist::recipes()
}

/// The package with the programs of the tests, at a version and a lower one.
fn deb() -> Result<()> {
    programs()?;
    let dir = guest::packages();
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    setup::setup(setup::PackagePurpose::Dist)?;
    dist::Deb::of_tests("0.1.99-1", dir.clone()).build()?;
    let deb = dist::Deb::of_tests("99.0.0-1", dir).build()?;
    dist::lint(&deb)?;
    guest::these(&["package", "package-boot"])
}

fn outcome(result: Result<()>) -> StepOutcome {
    result.map_or_else(
        |error| StepOutcome::Failed(format!("{error:#}")),
        |()| StepOutcome::Passed,
    )
}

fn cargo(args: &[&str]) -> StepOutcome {
    outcome(sh::run(sh::cargo(args)))
}

/// A build with one backend must be as clean as the build with all.
fn each_algorithm_alone() -> Result<()> {
    let manifest = sh::root().join("crates/uzram-compress/Cargo.toml");
    let manifest = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    let features = features(&manifest);
    ensure!(
        !features.is_empty(),
        "uzram-compress has no algorithm's feature"
    );
    for feature in features {
        let clippy = ["clippy", "--quiet", "--package", "uzram-compress"];
        let select = ["--no-default-features", "--features", feature];
        let deny = ["--", "-D", "warnings"];
        sh::run(sh::cargo(&[&clippy[..], &select, &deny].concat()))?;
    }
    Ok(())
}

/// The features of a manifest, but for the default ones' list: each is an algorithm.
fn features(manifest: &str) -> Vec<&str> {
    let section = manifest
        .split_once("[features]\n")
        .map_or("", |(_, rest)| rest);
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| Some(line.split_once(" = ")?.0));
    names
        .filter(|name| !name.starts_with('#') && *name != "default")
        .collect()
}

fn rustdoc() -> StepOutcome {
    let mut command = sh::cargo(&[&["doc", "--no-deps", "--quiet"], sh::WORKSPACE].concat());
    command.env("RUSTDOCFLAGS", "-D warnings");
    outcome(sh::run(command))
}

fn tests(scope: &Scope) -> StepOutcome {
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = python::programs();
    let mut variables = vec![("PATH", format!("{path}:{}", programs.display()))];
    if scope.slow {
        variables.push(("UZRAM_MACHINE_SECONDS", MACHINE_SECONDS.into()));
    }
    if scope.peers {
        variables.push(("UZRAM_REQUIRE_PEERS", "1".into()));
    }
    let mut done = binaries::run(scope.units_only, &variables);
    if scope.slow && done.is_ok() {
        let vanished = [
            "test",
            "-p",
            "uzram-nbd",
            "--test",
            "vanished",
            "--",
            "--ignored",
        ];
        done = sh::run(sh::cargo(&vanished));
    }
    if scope.slow && done.is_ok() {
        // A store of ten processes.
        let cluster = ["test", "-p", "uzram-s3", "--test", "cluster", "--"];
        let mut cluster = sh::cargo(&[&cluster[..], &["--ignored", "--nocapture"]].concat());
        cluster.envs(variables.iter().map(|(name, value)| (name, value)));
        done = sh::run(cluster);
    }
    if scope.slow && done.is_ok() {
        // Loop devices by the other transport.
        let mut programs = sh::cargo(&["test", "--no-fail-fast", "-p", "uzram-cli"]);
        programs.env("UZRAM_TEST_FUSE_URING", "off");
        done = sh::run(programs);
    }
    outcome(done)
}

/// The pool's unsafe code under Miri, where the toolchain has it.
fn miri() -> StepOutcome {
    let probe = sh::command("cargo", &["+nightly", "miri", "--version"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return StepOutcome::Skipped("no nightly toolchain with Miri on this machine".into());
    }
    let args = ["+nightly", "miri", "test", "--package", "uzram-pool"];
    let mut command = sh::command("cargo", &args);
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation");
    outcome(sh::run(command))
}

/// The lock protocol and the pool under ThreadSanitizer, where there is a nightly toolchain.
fn tsan() -> StepOutcome {
    let probe = sh::command("cargo", &["+nightly", "--version"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return StepOutcome::Skipped("no nightly toolchain on this machine".into());
    }
    let target = sh::target().join("tsan").display().to_string();
    let tests = ["--lib", "--test", "stress", "--test", "model"];
    let packages = ["--package", "uzram-pool", "--package", "uzram"];
    let triple = "x86_64-unknown-linux-gnu";
    let to = ["--target", triple, "--target-dir", &target];
    // Dependencies are built again for this; the C libraries, of which it sees nothing, would take most of the time.
    let fast: Vec<String> = ["libdeflate-sys", "lz4-sys", "zstd-sys"]
        .map(|name| format!("--config=profile.dev.package.{name}.opt-level=1"))
        .into();
    let fast: Vec<&str> = fast.iter().map(String::as_str).collect();
    let build = ["+nightly", "test", "--quiet"];
    let args = [&build[..], &fast, &packages, &to, &tests].concat();
    let mut command = sh::command("cargo", &args);
    // The cargo that runs this pins its own toolchain by these.
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    let flags = "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer";
    command.env("RUSTFLAGS", flags);
    let known = sh::root().join(".ci/tsan.supp");
    command.env("TSAN_OPTIONS", format!("suppressions={}", known.display()));
    outcome(sh::run(command))
}

/// A benchmark of the library runs, in the build that the tests had.
fn bench_smoke(name: &str) -> StepOutcome {
    let program = ["build", "--quiet", "--bin", "uzram-bench", "--examples"];
    if let failed @ StepOutcome::Failed(_) = cargo(&[&program, sh::WORKSPACE].concat()) {
        return failed;
    }
    let program = sh::target().join("debug/uzram-bench");
    let program = program.display().to_string();
    outcome(sh::run(sh::command(&program, &["lab", name, "--quick"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_is_an_algorithm() {
        let text = "[x]\na = 1\n[features]\ndefault = [\"b\"]\n# One = each\nb = []\nc-d = [\"dep:e\"]\n\n[y]\nz = 1\n";
        assert_eq!(features(text), ["b", "c-d"]);
    }
}
