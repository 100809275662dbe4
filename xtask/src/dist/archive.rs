//! The archive of static programs, for any Linux on this architecture: linked with musl, they need no library of the machine.
//!
//! The archive has the files as they lie below `/usr/local`: who unpacks it there has installed it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::tree::{Place, Tree};
use super::{PROGRAMS, dir, epoch, version};
use crate::sh;

/// What it is compiled for.
const TARGET: &str = "x86_64-unknown-linux-musl";
/// The C compiler for that, of Debian's musl-tools.
const COMPILER: (&str, &str) = ("CC_x86_64_unknown_linux_musl", "musl-gcc");

/// Builds and packs it; the path of the archive.
pub(super) fn archive() -> Result<PathBuf> {
    target()?;
    super::build(&["--target", TARGET], &[COMPILER])?;
    let programs = sh::target().join(TARGET).join("release");
    for (_, name) in PROGRAMS {
        let program = programs.join(name).display().to_string();
        let headers = sh::output(sh::command(
            "readelf",
            &["--wide", "--program-headers", &program],
        ))?;
        ensure!(!headers.contains("INTERP"), "{program} is not static");
    }
    let name = format!("uzram-{}-{TARGET}", version());
    let tree = Tree::lay_out(dir().join("static").join(&name), Place::Local, &programs)?;
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        let text = std::fs::read(sh::root().join(licence))?;
        tree.write(&format!("usr/local/share/doc/uzram/{licence}"), text)?;
    }
    let archive = dir().join(format!("{name}.tar.gz"));
    let mtime = format!("--mtime=@{}", epoch()?);
    let same = [
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        &mtime,
    ];
    let mut tar = sh::command("tar", &same);
    // gzip would note the time.
    tar.args(["--use-compress-program", "gzip -9 -n", "--create"]);
    tar.arg("--file").arg(&archive);
    tar.arg("--directory").arg(tree.root().join("usr/local"));
    tar.args(["bin", "lib", "share"]);
    sh::run(tar)?;
    Ok(archive)
}

/// Rust's own libraries for the target, which rustup brings if they are not there.
fn target() -> Result<()> {
    let libdir = ["--print", "target-libdir", "--target", TARGET];
    let libdir = sh::output(sh::command("rustc", &libdir))?;
    if PathBuf::from(libdir.trim()).is_dir() {
        return Ok(());
    }
    let mut rustup = sh::command("rustup", &["target", "add", TARGET]);
    rustup.stdout(std::io::stderr());
    sh::run(rustup).with_context(|| format!("Rust's libraries for {TARGET}, which rustup brings"))
}
