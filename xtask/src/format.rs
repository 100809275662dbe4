//! Files that are not as rustfmt would have them, `cargo fmt` sees them or not.
//!
//! `cargo fmt` follows `mod` items from each target's root. It never reaches a file whose `mod` item only a macro makes,
//! and says nothing of that. Here every source file of the repository is given by name.

use anyhow::{Context, Result, ensure};

use crate::sh;

/// The unformatted source files, as paths.
pub(crate) fn unformatted() -> Result<Vec<String>> {
    let sources = lines(&[
        "git",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.rs",
    ])?;
    let there: Vec<&str> = sources
        .iter()
        .map(String::as_str)
        .filter(|name| sh::root().join(name).is_file())
        .collect();
    ensure!(!there.is_empty(), "git lists no source file");
    // A file is named once for each of its parents, too.
    let mut wrong = lines(&[&["rustfmt", "--check", "-l"], &there[..]].concat())?;
    wrong.sort();
    wrong.dedup();
    Ok(wrong)
}

/// What a program outputs, by the line.
fn lines(command: &[&str]) -> Result<Vec<String>> {
    let output = sh::command(command[0], &command[1..])
        .output()
        .with_context(|| format!("cannot run {}", command[0]))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(errors.is_empty(), "{}: {errors}", command[0]);
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(str::to_owned).collect())
}
