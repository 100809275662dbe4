//! `cargo xtask setup`: the Debian packages that the project needs, each with its reason. Says what it installs;
//! installs only what is missing.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{python, sh};

/// What a package is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PackagePurpose {
    /// Building and running.
    Run,
    /// Building all of the workspace.
    Build,
    /// Testing and benchmarking.
    Test,
    /// Testing in a virtual machine as well.
    Guest,
    /// Making packages for users, and testing these. Needs nothing of what tests need.
    Dist,
}

impl PackagePurpose {
    /// Whether what that purpose needs is needed for this one, too.
    fn covers(self, needed: Self) -> bool {
        match (self, needed) {
            (Self::Dist, Self::Test | Self::Guest) => false,
            _ => needed <= self,
        }
    }
}

/// What is needed, for which purpose, and why.
const PACKAGES: &str = include_str!("../packages.txt");

/// The packages for a purpose, with what each is for.
fn needed(purpose: PackagePurpose) -> impl Iterator<Item = (&'static str, &'static str)> {
    PACKAGES.lines().filter_map(move |line| {
        let (name, rest) = line.split_once(' ')?;
        let (needed, why) = rest.trim_start().split_once(' ')?;
        let needed = match needed {
            "run" => PackagePurpose::Run,
            "build" => PackagePurpose::Build,
            "test" => PackagePurpose::Test,
            "dist" => PackagePurpose::Dist,
            _ => PackagePurpose::Guest,
        };
        purpose.covers(needed).then_some((name, why.trim_start()))
    })
}

/// Installs what is missing for `purpose`.
pub(crate) fn setup(purpose: PackagePurpose) -> Result<()> {
    debian(purpose)?;
    match purpose {
        PackagePurpose::Run
        | PackagePurpose::Build
        | PackagePurpose::Test
        | PackagePurpose::Dist => Ok(()),
        PackagePurpose::Guest => python::install(),
    }
}

fn debian(purpose: PackagePurpose) -> Result<()> {
    let missing = needed(purpose).filter(|(name, _)| !installed(name));
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        eprintln!("setup: all Debian packages are there");
        return Ok(());
    }
    if Command::new("apt-get").arg("--version").output().is_err() {
        let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
        bail!(
            "this is no Debian: install what these packages hold: {}",
            names.join(" ")
        );
    }
    eprintln!("setup: installing from Debian:");
    for (name, why) in &missing {
        eprintln!("  {name:15} {why}");
    }
    apt(&["update", "-q"])?;
    // A set-up that removes what someone installed is worse than one that fails.
    let options = "install -y -q --no-install-recommends --no-remove";
    let mut install: Vec<&str> = options.split(' ').collect();
    install.extend(missing.iter().map(|(name, _)| *name));
    let Err(error) = apt(&install) else {
        return keep_off(&missing);
    };
    let strays = strays(purpose);
    if strays.is_empty() {
        return Err(error);
    }
    eprintln!("setup: {error:#}");
    eprintln!(
        "setup: these are newer than the package sources have, which keeps their siblings from"
    );
    eprintln!("setup: being installed; trying again with the sources' versions, a downgrade:");
    let mut pins = Vec::new();
    for (name, from, to) in &strays {
        eprintln!("  {name:15} {from} becomes {to}");
        pins.push(format!("{name}={to}"));
    }
    install.push("--allow-downgrades");
    install.extend(pins.iter().map(String::as_str));
    apt(&install)?;
    keep_off(&missing)
}

/// Packages whose program we want, and that bring a server for the network which systemd starts.
const SERVERS: &[&str] = &["prometheus"];

/// Stops the servers that were installed just now, and has none of them start again.
fn keep_off(installed: &[(&str, &str)]) -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    for server in SERVERS {
        if installed.iter().any(|(name, _)| name == server) {
            eprintln!("setup: the server {server} was started by its package: disabling it");
            sh::run(as_root("systemctl", &["disable", "--now", server])?)?;
        }
    }
    Ok(())
}

/// Our packages that are installed at a version beyond what the package sources have (in an image that was made with
/// sources that it does not keep, such as backports): name, that version, and the sources' newest.
fn strays(purpose: PackagePurpose) -> Vec<(&'static str, String, String)> {
    let stray = |(name, _)| {
        let version = query("dpkg-query", &["-W", "-f", "${Version}", name])?;
        let newest = newest(&query("apt-cache", &["madison", name])?)?;
        let newer = ["--compare-versions", &version, "gt", &newest];
        let newer = Command::new("dpkg").args(newer).status();
        let is_newer = newer.is_ok_and(|status| status.success());
        is_newer.then_some((name, version, newest))
    };
    needed(purpose).filter_map(stray).collect()
}

/// The first, which is the newest, version in a table of `apt-cache madison`: lines of `name | version | source`.
fn newest(table: &str) -> Option<String> {
    Some(table.lines().next()?.split('|').nth(1)?.trim().to_owned())
}

fn query(program: &str, args: &[&str]) -> Option<String> {
    let text = sh::output(sh::command(program, args)).ok()?;
    (!text.is_empty()).then_some(text)
}

fn installed(package: &str) -> bool {
    let args = ["-W", "-f", "${db:Status-Status}", package];
    query("dpkg-query", &args).is_some_and(|status| status == "installed")
}

/// A command as root, by sudo where this user is not.
fn as_root(program: &str, args: &[&str]) -> Result<Command> {
    let sudo = ["DEBIAN_FRONTEND=noninteractive", program];
    let mut command = match sh::output(sh::command("id", &["-u"]))?.as_str() {
        "0\n" => sh::command(program, args),
        _ => sh::command("sudo", &[&sudo, args].concat()),
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    // What it says is not the output of whatever this set-up is for.
    command.stdout(std::io::stderr());
    Ok(command)
}

pub(crate) fn apt(args: &[&str]) -> Result<()> {
    sh::run(as_root("apt-get", args)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_has_a_purpose_and_a_reason() {
        let count = |purpose| needed(purpose).count();
        let of_dist = PACKAGES.lines().filter(|line| line.contains(" dist "));
        let others = PACKAGES.lines().count() - of_dist.count();
        assert_eq!(count(PackagePurpose::Guest), others);
        assert!(count(PackagePurpose::Build) < count(PackagePurpose::Dist));
        assert!(
            0 < count(PackagePurpose::Run)
                && count(PackagePurpose::Run) < count(PackagePurpose::Test)
        );
        for purpose in [PackagePurpose::Guest, PackagePurpose::Dist] {
            assert!(needed(purpose).all(|(name, why)| !name.is_empty() && !why.is_empty()));
        }
    }

    #[test]
    fn madison_is_read() {
        let table = " a | 1:7.2+x | http://host bookworm/main amd64 Packages\n a | 1:7.1 | y\n";
        assert_eq!(newest(table).as_deref(), Some("1:7.2+x"));
        assert_eq!(newest(""), None);
    }
}
