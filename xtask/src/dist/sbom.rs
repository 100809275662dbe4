//! The lists of components that the programs are made of, in CycloneDX's form, by cargo-cyclonedx: one for each package that
//! has programs.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::tools::Tool;
use super::{PROGRAMS, dir, epoch, version};
use crate::{acid, sh};

const CARGO_CYCLONEDX: Tool = Tool {
    name: "cargo-cyclonedx",
    version: "0.5.9",
};
/// What the programs are for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Writes them; their paths. cargo-cyclonedx writes into the sources, so it gets a copy of them.
pub(super) fn sbom() -> Result<Vec<PathBuf>> {
    let tree = acid::copy("sbom")?;
    let mut cyclonedx = sh::command(&CARGO_CYCLONEDX.program()?.display().to_string(), &[]);
    cyclonedx.args([
        "cyclonedx",
        "--quiet",
        "--format",
        "json",
        "--spec-version",
        "1.5",
    ]);
    cyclonedx.args(["--target", TARGET, "--no-build-deps"]);
    cyclonedx
        .current_dir(&tree)
        .env("SOURCE_DATE_EPOCH", epoch()?);
    sh::run(cyclonedx)?;
    let packages: BTreeSet<&str> = PROGRAMS.iter().map(|(package, _)| *package).collect();
    let mut made = Vec::new();
    for package in packages {
        let from = tree.join(format!("crates/{package}/{package}.cdx.json"));
        let to = dir().join(format!("{package}-{}.cdx.json", version()));
        let text = fs::read_to_string(&from).with_context(|| from.display().to_string())?;
        // Where it was made is nobody's affair.
        let text = text.replace(&tree.display().to_string(), "/uzram");
        fs::write(&to, text).with_context(|| to.display().to_string())?;
        made.push(to);
    }
    Ok(made)
}
