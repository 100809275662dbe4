//! `cargo xtask tidy`: rules that no compiler checks, and what is said twice.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{format, guest, sh};

/// Longest ARCHITECTURE.md, in lines.
const ARCHITECTURE_LINES: usize = 150;
/// Files beyond this many lines hold a second subject.
const FILE_LINES: usize = 500;

pub(crate) fn tidy() -> Result<()> {
    let root = sh::root();
    let mut wrong = Vec::new();
    let read = |name: &str| fs::read_to_string(root.join(name)).with_context(|| name.to_owned());

    let architecture = read("ARCHITECTURE.md")?;
    if architecture.lines().count() > ARCHITECTURE_LINES {
        wrong.push(format!(
            "ARCHITECTURE.md is longer than {ARCHITECTURE_LINES} lines"
        ));
    }
    for entry in fs::read_dir(root.join("crates"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !architecture.contains(&format!("`{name}`")) {
            wrong.push(format!("ARCHITECTURE.md has no word on the crate {name}"));
        }
    }
    if let Err(error) = guest::specs() {
        wrong.push(format!("{error:#}"));
    }
    for name in format::unformatted()? {
        wrong.push(format!("{name} is not formatted (`rustfmt {name}`)"));
    }
    walk(&root.join("crates"), &mut |path, text| {
        check_source(path, text, &mut wrong)
    })?;
    walk(&root.join("xtask"), &mut |path, text| {
        check_source(path, text, &mut wrong)
    })?;
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("\n  {}", wrong.join("\n  "))
}

fn check_source(path: &Path, text: &str, wrong: &mut Vec<String>) {
    let name = path.display();
    if !text.starts_with("//!") {
        wrong.push(format!("{name} does not begin with its purpose (//!)"));
    }
    let test = path.components().any(|part| part.as_os_str() == "tests");
    if !test && text.lines().count() > FILE_LINES {
        wrong.push(format!("{name} is longer than {FILE_LINES} lines"));
    }
}

fn walk(dir: &Path, check: &mut impl FnMut(&Path, &str)) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, check)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            check(&path, &fs::read_to_string(&path)?);
        }
    }
    Ok(())
}
