//! `cargo xtask acid`: is an algorithm still one file and one line? `xtask/acid/eighth-algorithm.patch` adds one in a copy
//! of this tree, and nothing else; then the conformance suite must run on it (and fail when it is broken) and the
//! program and its manual must list it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::sh;
use crate::test::Outcome;

const FILE: &str = "crates/uzram-compress/src/backends/eighth.rs";
/// The test that the line in the backends' list expands to.
const TEST: &str = "backends::conformance::eighth";
const DRIVER: &str = "eighth-inverted";

pub(crate) fn acid() -> Result<ExitCode> {
    run()?;
    println!("an algorithm is one file and one line");
    Ok(ExitCode::SUCCESS)
}

/// The same as a step of `cargo xtask test`.
pub(crate) fn eighth_algorithm() -> Outcome {
    run().map_or_else(|e| Outcome::Failed(format!("{e:#}")), |()| Outcome::Passed)
}

fn run() -> Result<()> {
    ensure!(
        !sh::root().join(FILE).exists(),
        "{FILE} is in the tree already"
    );
    let tree = copy("acid")?;
    apply(&tree, &sh::root().join("xtask/acid/eighth-algorithm.patch"))?;

    let test = [
        "test",
        "--package",
        "uzram-compress",
        "--lib",
        "--",
        "--exact",
        TEST,
    ];
    let (passed, text) = cargo(&tree, &test)?;
    ensure!(
        passed && text.contains("1 passed"),
        "the new algorithm's test did not pass:\n{text}"
    );
    for command in ["algorithms", "man"] {
        let list = [
            "run",
            "--quiet",
            "--package",
            "uzram-cli",
            "--bin",
            "uzram",
            "--",
            command,
        ];
        let (listed, text) = cargo(&tree, &list)?;
        // A manual page's hyphens have a backslash.
        ensure!(
            listed && text.replace('\\', "").contains(DRIVER),
            "'uzram {command}' does not list it:\n{text}"
        );
    }

    let file = tree.join(FILE);
    let source = fs::read_to_string(&file)?;
    let broken = source.replace("*to = !from", "*to = !from & 0x7F");
    ensure!(broken != source, "{FILE} cannot be broken as this expects");
    fs::write(&file, broken)?;
    let (passed, text) = cargo(&tree, &test)?;
    ensure!(
        !passed && text.contains("FAILED"),
        "a broken algorithm passes:\n{text}"
    );
    Ok(())
}

/// This tree's files as they are, in `target/NAME`, which later runs use again: what has not changed keeps its time, and
/// cargo what it built. What an earlier run's patch added is removed.
pub(crate) fn copy(name: &str) -> Result<PathBuf> {
    let tree = sh::target().join(name);
    let list = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(sh::root())
        .output()
        .context("cannot run git")?;
    ensure!(
        list.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&list.stderr)
    );
    let names = String::from_utf8(list.stdout)?;
    for name in names.split_terminator('\0') {
        let (from, to) = (sh::root().join(name), tree.join(name));
        // Deleted here, but not yet in the index.
        if from.is_file() {
            copy_changed(&from, &to).with_context(|| name.to_owned())?;
        }
    }
    remove_others(
        &tree,
        &tree,
        &names.split_terminator('\0').collect::<Vec<_>>(),
    )?;
    Ok(tree)
}

/// Removes the files of a copy that are not of these names.
fn remove_others(tree: &Path, dir: &Path, names: &[&str]) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(tree, &path, names)?;
            // Only where it has become empty.
            let _ = fs::remove_dir(&path);
        } else if !names.iter().any(|name| tree.join(name) == path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Applies a patch to a copy.
pub(crate) fn apply(tree: &Path, patch: &Path) -> Result<()> {
    let mut apply = Command::new("git");
    // Not as a part of the repository that the copy lies in, which would skip every file.
    apply.args(["apply", "-C1"]).arg(patch).current_dir(tree);
    apply.env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree));
    sh::run(apply).with_context(|| format!("{} no longer fits", patch.display()))
}

fn copy_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from)?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let Some(folder) = to.parent() else {
        bail!("no folder")
    };
    fs::create_dir_all(folder)?;
    Ok(fs::write(to, bytes)?)
}

/// Runs cargo in the copy, with the target directory of this tree; whether it succeeded, and all it said.
fn cargo(tree: &Path, args: &[&str]) -> Result<(bool, String)> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(args)
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", sh::target())
        .output()
        .context("cannot run cargo")?;
    let text = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}
