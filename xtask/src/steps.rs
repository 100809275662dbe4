//! The steps of `cargo xtask test`, in the order in which they run: what fails soonest comes first, and what builds comes
//! before what uses it.
//!
//! The steps share what is built: one profile, one target directory, and [`sh::WORKSPACE`] wherever packages and features
//! are selected. Only ThreadSanitizer, which needs another compiler, has a build of its own.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::{acid, canary, docs, guest, sh, tidy};

/// One step.
pub(crate) struct Step {
    /// What `--only` takes.
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: fn(&Scope) -> Outcome,
}

/// What a step came to.
pub(crate) enum Outcome {
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
}

/// How long each of the core's state machines looks for a sequence that fails, of which it has a few seconds otherwise.
const MACHINE_SECONDS: &str = "300";

pub(crate) const STEPS: &[Step] = &[
    Step {
        name: "format",
        about: "every file is as rustfmt writes it",
        run: |_| cargo(&["fmt", "--all", "--check"]),
    },
    Step {
        name: "lints",
        about: "clippy, all targets of the workspace",
        run: |_| {
            cargo(
                &[
                    &["clippy"],
                    sh::WORKSPACE,
                    &["--all-targets", "--", "-D", "warnings"],
                ]
                .concat(),
            )
        },
    },
    Step {
        name: "lints-alone",
        about: "clippy, uzram-compress with each algorithm alone",
        run: |_| outcome(each_algorithm_alone()),
    },
    Step {
        name: "docs",
        about: "rustdoc without warnings",
        run: |_| rustdoc(),
    },
    Step {
        name: "tidy",
        about: "what compilers do not check",
        run: |_| outcome(tidy::tidy()),
    },
    Step {
        name: "tests",
        about: "unit, property, conformance, interop and end-to-end tests",
        run: tests,
    },
    Step {
        name: "book",
        about: "the book's pages are as the program has them",
        run: |_| outcome(docs::docs(true)),
    },
    Step {
        name: "canaries",
        about: "the state machine finds each rule that the core can be told to break",
        run: |_| outcome(canary::canaries()),
    },
    Step {
        name: "acid",
        about: "one thing more is one file more",
        run: |_| outcome(acid::acid(&[])),
    },
    Step {
        name: "guest",
        about: "tests under a kernel of their own",
        run: |scope| match guest::ci(scope.slow) {
            Ok(true) => Outcome::Passed,
            Ok(false) => Outcome::Failed("tests in the guest failed".into()),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        },
    },
    Step {
        name: "miri",
        about: "the pool under Miri",
        run: |_| miri(),
    },
    Step {
        name: "tsan",
        about: "the pool and the core under ThreadSanitizer",
        run: |_| tsan(),
    },
    Step {
        name: "bench-core",
        about: "the benchmark runs; its figures mean little",
        run: |_| bench_smoke("core"),
    },
    Step {
        name: "bench-codecs",
        about: "the benchmark runs; its figures mean little",
        run: |_| bench_smoke("codecs"),
    },
    Step {
        name: "bench-rivals",
        about: "the benchmark runs; its figures mean little",
        run: |_| bench_smoke("rivals"),
    },
];

fn outcome(result: Result<()>) -> Outcome {
    result.map_or_else(
        |error| Outcome::Failed(format!("{error:#}")),
        |()| Outcome::Passed,
    )
}

fn cargo(args: &[&str]) -> Outcome {
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

fn rustdoc() -> Outcome {
    let mut command = sh::cargo(&[&["doc", "--no-deps", "--quiet"], sh::WORKSPACE].concat());
    command.env("RUSTDOCFLAGS", "-D warnings");
    outcome(sh::run(command))
}

/// Where only what is inside of the libraries is asked for, cargo builds no more than that.
fn tests(scope: &Scope) -> Outcome {
    let mut args = [&["test", "--no-fail-fast"], sh::WORKSPACE].concat();
    if scope.units_only {
        args.push("--lib");
    }
    let mut command = sh::cargo(&args);
    if scope.slow {
        command.env("UZRAM_MACHINE_SECONDS", MACHINE_SECONDS);
    }
    if scope.peers {
        command.env("UZRAM_REQUIRE_PEERS", "1");
    }
    let mut done = sh::run(command);
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
    outcome(done)
}

/// The pool's unsafe code under Miri, where the toolchain has it.
fn miri() -> Outcome {
    let probe = sh::command("cargo", &["+nightly", "miri", "--version"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return Outcome::Skipped("no nightly toolchain with Miri on this machine".into());
    }
    let mut command = sh::command(
        "cargo",
        &["+nightly", "miri", "test", "--package", "uzram-pool"],
    );
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation");
    outcome(sh::run(command))
}

/// The lock protocol and the pool under ThreadSanitizer, where there is a nightly toolchain.
fn tsan() -> Outcome {
    let probe = sh::command("cargo", &["+nightly", "--version"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return Outcome::Skipped("no nightly toolchain on this machine".into());
    }
    let target = sh::target().join("tsan").display().to_string();
    let tests = ["--lib", "--test", "stress", "--test", "model"];
    let packages = ["--package", "uzram-pool", "--package", "uzram"];
    let to = [
        "--target",
        "x86_64-unknown-linux-gnu",
        "--target-dir",
        &target,
    ];
    // Dependencies are built again for this; the C libraries would take most of the time.
    let build = ["+nightly", "test", "--quiet", "--config"];
    let build = [&build[..], &["profile.dev.package.'*'.opt-level=1"]].concat();
    let args = [&build[..], &packages, &to, &tests].concat();
    let mut command = sh::command("cargo", &args);
    // The cargo that runs this pins its own toolchain by these.
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    command.env(
        "RUSTFLAGS",
        "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer",
    );
    command.env(
        "TSAN_OPTIONS",
        format!(
            "suppressions={}",
            sh::root().join(".ci/tsan.supp").display()
        ),
    );
    outcome(sh::run(command))
}

/// A benchmark of the library runs, in the build that the tests had.
fn bench_smoke(name: &str) -> Outcome {
    let program = ["build", "--quiet", "--bin", "uzram-bench", "--examples"];
    if let failed @ Outcome::Failed(_) = cargo(&[&program, sh::WORKSPACE].concat()) {
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
