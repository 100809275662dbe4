//! Subcommands of cargo that packages are made with. Each is installed below `target`, at one version, with the dependencies
//! that its authors locked: another version is another program, and what it makes may be other files.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::sh;

/// A package of crates.io that brings a program of the same name.
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
}

impl Tool {
    /// The program, which is installed if it is not there.
    pub(super) fn program(&self) -> Result<PathBuf> {
        let tools = sh::target().join("tools");
        let root = tools.join(format!("{}-{}", self.name, self.version));
        let program = root.join("bin").join(self.name);
        if program.is_file() {
            return Ok(program);
        }
        let package = format!("{}@{}", self.name, self.version);
        eprintln!("dist: installing {package} below target, which takes minutes");
        let mut install = sh::cargo(&["install", "--locked", "--quiet", &package]);
        install.arg("--root").arg(&root);
        install.arg("--target-dir").arg(tools.join("build"));
        // Its output is not this command's.
        install.stdout(std::io::stderr());
        sh::run(install).with_context(|| format!("installing {package}"))?;
        Ok(program)
    }
}
