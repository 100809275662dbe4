//! `cargo xtask test`: everything that CI runs. Stops for nothing: each step is run, and the end says which
//! failed.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Result;

use crate::{acid, bench, canary, guest, setup, sh, tidy};

/// What a step came to.
pub(crate) enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

pub(crate) fn test() -> Result<ExitCode> {
    setup::setup(setup::Purpose::Guest)?;
    let steps: [(&str, fn() -> Outcome); 14] = [
        ("format", || cargo(&["fmt", "--all", "--check"])),
        ("lints", || {
            cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ])
        }),
        ("lints, each algorithm alone", each_algorithm_alone),
        ("docs", docs),
        ("tidy", || {
            tidy::tidy().map_or_else(|e| Outcome::Failed(format!("{e:#}")), |()| Outcome::Passed)
        }),
        ("tests", tests),
        ("the state machine's canaries", canary::canaries),
        ("an algorithm more", acid::eighth_algorithm),
        ("guest", || match guest::ci() {
            Ok(true) => Outcome::Passed,
            Ok(false) => Outcome::Failed("tests in the guest failed".into()),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        }),
        ("pool under Miri", miri),
        ("pool and core under ThreadSanitizer", tsan),
        ("bench smoke", || bench_smoke("core")),
        ("bench smoke, codecs", || bench_smoke("codecs")),
        ("bench smoke, rivals", || bench_smoke("rivals")),
    ];
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut lines = Vec::new();
    for (name, step) in steps {
        eprintln!("\n==== {name}");
        let begin = Instant::now();
        let outcome = step();
        let seconds = begin.elapsed().as_secs();
        lines.push(match outcome {
            Outcome::Passed => {
                passed += 1;
                format!("ok      {name} ({seconds} s)")
            }
            Outcome::Skipped(why) => {
                skipped += 1;
                format!("SKIP    {name}: {why}")
            }
            Outcome::Failed(why) => {
                failed += 1;
                format!("FAILED  {name}: {why}")
            }
        });
    }
    println!("\n{}", lines.join("\n"));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub(crate) fn outcome(command: Command) -> Outcome {
    sh::run(command).map_or_else(
        |error| Outcome::Failed(format!("{error:#}")),
        |()| Outcome::Passed,
    )
}

fn cargo(args: &[&str]) -> Outcome {
    outcome(sh::cargo(args))
}

/// A benchmark of the library runs; its figures mean little.
fn bench_smoke(name: &str) -> Outcome {
    cargo(&[bench::LIBRARY, &[name, "--quick"]].concat())
}

/// A build with one backend must be as clean as the build with all.
fn each_algorithm_alone() -> Outcome {
    let manifest = sh::root().join("crates/uzram-compress/Cargo.toml");
    let manifest = match std::fs::read_to_string(&manifest) {
        Ok(text) => text,
        Err(error) => return Outcome::Failed(format!("{}: {error}", manifest.display())),
    };
    let features = features(&manifest);
    if features.is_empty() {
        return Outcome::Failed("uzram-compress has no algorithm's feature".into());
    }
    for feature in features {
        let args = [
            "clippy",
            "--quiet",
            "--package",
            "uzram-compress",
            "--no-default-features",
        ];
        let command =
            sh::cargo(&[&args[..], &["--features", feature, "--", "-D", "warnings"]].concat());
        if let Outcome::Failed(why) = outcome(command) {
            return Outcome::Failed(why);
        }
    }
    Outcome::Passed
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

fn docs() -> Outcome {
    let mut command = sh::cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    outcome(command)
}

/// Unit, property, conformance, interop and end-to-end tests; a missing peer is a failure here.
fn tests() -> Outcome {
    let mut command = sh::cargo(&["test", "--workspace", "--no-fail-fast"]);
    command.env("UZRAM_REQUIRE_PEERS", "1");
    outcome(command)
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
    outcome(command)
}

/// The lock protocol and the pool under ThreadSanitizer, where there is a nightly toolchain.
fn tsan() -> Outcome {
    let probe = sh::command("cargo", &["+nightly", "--version"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return Outcome::Skipped("no nightly toolchain on this machine".into());
    }
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tsan");
    let tests = ["--lib", "--test", "stress", "--test", "model"];
    let packages = ["--package", "uzram-pool", "--package", "uzram"];
    let to = [
        "--target",
        "x86_64-unknown-linux-gnu",
        "--target-dir",
        target,
    ];
    let args = [&["+nightly", "test", "--quiet"][..], &packages, &to, &tests].concat();
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
    outcome(command)
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
