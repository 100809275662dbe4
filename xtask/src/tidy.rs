//! `cargo xtask tidy`: rules that no compiler checks, and what is said twice.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{guest, sh};

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
    let readme = read("README.md")?;
    for entry in fs::read_dir(root.join("crates"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !architecture.contains(&format!("`{name}`")) {
            wrong.push(format!("ARCHITECTURE.md has no word on the crate {name}"));
        }
    }
    // The backends' list is the source; README's table must name every one of them.
    for backend in backends(&read("crates/uzram-compress/src/backends/mod.rs")?) {
        let text = read(&format!("crates/uzram-compress/src/backends/{backend}.rs"))?;
        let driver = driver_name(&text);
        let driver = driver.with_context(|| format!("backends/{backend}.rs names no driver"))?;
        if !readme.contains(&format!("`{driver}`")) {
            wrong.push(format!("README.md does not list the driver {driver}"));
        }
    }
    if let Err(error) = guest::specs() {
        wrong.push(format!("{error:#}"));
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

/// The module names in the backends' list: lines such as `"lz4-flex" lz4_flex;`.
fn backends(text: &str) -> Vec<String> {
    let list = text.rsplit_once("backends! {").map_or("", |(_, list)| list);
    let module = |line: &str| {
        Some(
            line.trim()
                .strip_suffix(';')?
                .rsplit_once(' ')?
                .1
                .to_owned(),
        )
    };
    list.lines().filter_map(module).collect()
}

/// What `fn driver_name` returns.
fn driver_name(text: &str) -> Option<&str> {
    text.split_once("fn driver_name")?.1.split('"').nth(1)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_read() {
        let text = "macro!{} backends! {\n    \"lz4\" lz4;\n    \"lz4-flex\" lz4_flex;\n}\n";
        assert_eq!(backends(text), ["lz4", "lz4_flex"]);
        assert_eq!(
            driver_name("fn driver_name(&self) { \"a-b\" }"),
            Some("a-b")
        );
        assert_eq!(driver_name("nothing"), None);
    }
}
