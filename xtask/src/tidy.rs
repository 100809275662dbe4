//! `cargo xtask tidy`: rules that no compiler checks, and what is said twice.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::{acid, deny, fuzz, guest, sh};

/// Longest README.md, in lines: a first page. What is beyond it belongs to `docs/`.
const README_LINES: usize = 150;

pub(crate) fn tidy() -> Result<()> {
    let root = sh::root();
    let mut wrong = Vec::new();
    let read = |name: &str| fs::read_to_string(root.join(name)).with_context(|| name.to_owned());

    let lines = read("README.md")?.lines().count();
    if lines > README_LINES {
        wrong.push(format!("README.md has {lines} lines, not {README_LINES}"));
    }
    let architecture = read("ARCHITECTURE.md")?;
    for entry in fs::read_dir(root.join("crates"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !has_paragraph(&architecture, &name) {
            wrong.push(format!("ARCHITECTURE.md has no paragraph on {name}"));
        }
        let manifest = read(&format!("crates/{name}/Cargo.toml"))?;
        let mut examples = false;
        for file in files(&format!("crates/{name}/src/*.rs"))? {
            examples |= has_example(&read(&file)?);
        }
        if examples == manifest.contains("doctest = false") {
            wrong.push(format!(
                "crates/{name}/Cargo.toml: `doctest = false` stands where no example is in the docs, and nowhere else"
            ));
        }
    }
    if let Err(error) = guest::specs() {
        wrong.push(format!("{error:#}"));
    }
    deny::check_reasons(&read("deny.toml")?, &mut wrong)?;
    fuzz::check_seeds(&root, &mut wrong)?;
    acid::check_patches(&mut wrong);
    let sources = files("*.rs")?;
    for name in &sources {
        if !read(name)?.starts_with("//!") {
            wrong.push(format!("{name} does not begin with its purpose (//!)"));
        }
    }
    let seen = seen_by_rustfmt()?;
    for name in &sources {
        if !seen.contains(&root.join(name)) {
            wrong.push(format!(
                "{name} is in no target that rustfmt follows: a macro hides its `mod`, or nothing uses it"
            ));
        }
    }
    for name in files("*.md")? {
        for link in links(&read(&name)?) {
            let from = root.join(&name);
            if !from.parent().unwrap_or(&root).join(&link).exists() {
                wrong.push(format!("{name} leads to {link}, which does not exist"));
            }
        }
    }
    ensure!(wrong.is_empty(), "\n  {}", wrong.join("\n  "));
    Ok(())
}

/// Whether a paragraph, heading, list item or row of a table begins with a name: `**name**, ...`, without its bold and with
/// backticks.
fn has_paragraph(text: &str, name: &str) -> bool {
    let name = format!("`{name}`");
    let starts = text.lines().map(|line| line.trim_start_matches(MARKUP));
    let mut starts = starts.filter(|line| line.starts_with(&name));
    starts.next().is_some()
}

/// What stands before the first word of a paragraph.
const MARKUP: [char; 5] = ['#', '*', '|', '-', ' '];

/// Whether a source file's docs have a code block, or are a page that may have one.
fn has_example(source: &str) -> bool {
    let docs = |line: &str| {
        let text = line.trim_start();
        let text = text.strip_prefix("///").or(text.strip_prefix("//!"));
        text.is_some_and(|text| text.trim_start().starts_with("```"))
    };
    source.lines().any(docs) || source.contains("#[doc = include_str!")
}

/// The files of this work tree that git knows or would, and that are there.
fn files(pattern: &str) -> Result<Vec<String>> {
    let options = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let names = sh::output(sh::command("git", &[&options[..], &[pattern]].concat()))?;
    let there = |name: &&str| sh::root().join(name).is_file();
    Ok(names.lines().filter(there).map(str::to_owned).collect())
}

/// The source files that `cargo fmt` comes by. It follows `mod` from each target's root, and looks into no macro.
fn seen_by_rustfmt() -> Result<BTreeSet<PathBuf>> {
    let args = ["fmt", "--all", "--", "--check", "--verbose"];
    let output = sh::cargo(&args).output();
    // It fails where a file is not formatted, which is not asked here.
    let text = output.context("cannot run cargo fmt")?.stdout;
    let text = String::from_utf8(text)?;
    let seen = text
        .lines()
        .filter_map(|line| line.strip_prefix("Formatting "));
    let seen: BTreeSet<_> = seen.map(PathBuf::from).collect();
    ensure!(!seen.is_empty(), "cargo fmt names no file: {text}");
    Ok(seen)
}

/// The files that a Markdown text links to: targets in `](...)` that are no address and no place in the text itself.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = false;
    for line in text.lines() {
        code ^= line.trim_start().starts_with("```");
        if code {
            continue;
        }
        for part in line.split("](").skip(1) {
            let target = part.split([')', ' ', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains(':') {
                found.push(target.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_found() {
        let text = "# X\n\n**`a-b`**, it. Of `c`.\n\n- `d` is\n\n## `e`\n| `f` | job |\n";
        for name in ["a-b", "d", "e", "f"] {
            assert!(has_paragraph(text, name), "{name}");
        }
        for name in ["a", "c", "X"] {
            assert!(!has_paragraph(text, name), "{name}");
        }
    }

    #[test]
    fn examples_are_found() {
        for source in [
            "//! ```\n//! x();\n",
            "mod x {\n    /// ```text\n",
            "#[doc = include_str!(\"../README.md\")]",
        ] {
            assert!(has_example(source), "{source}");
        }
        for source in ["/// `x`\n", "// ```\n", "let text = \"```\";"] {
            assert!(!has_example(source), "{source}");
        }
    }

    #[test]
    fn links_to_files_are_found() {
        let text = "[a](b.md), ![p](c/d.svg \"t\") [e](https://x.y/z) [f](#g) [h](i.md#j)\n\
                    ```\n[k](l)\n```\n[m](n)";
        assert_eq!(links(text), ["b.md", "c/d.svg", "i.md", "n"]);
    }
}
