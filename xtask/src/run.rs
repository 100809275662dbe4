//! `cargo xtask run`: from a clean checkout to a running program in one command. Only the program's own output
//! goes to stdout.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{setup, sh};

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    setup::setup(setup::PackagePurpose::Run)?;
    sh::run(sh::cargo(&["build", "--release"]))?;
    let program = sh::target().join("release/uzram");
    let mut command = std::process::Command::new(&program);
    let status = command
        .args(args)
        .status()
        .with_context(|| format!("{}", program.display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
