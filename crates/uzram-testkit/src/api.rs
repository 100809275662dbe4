//! The public API of a library crate as a listing under test: what is public is deliberate.
//!
//! The workspace warns of `pub` items that nobody outside can reach (`unreachable_pub`), so every `pub` in the source is a
//! part of the API. The listing is read from the source, as rustfmt lays it out: no nightly toolchain is needed.
//! `UZRAM_BLESS=1` writes the listing anew; the review of its difference is the point.

use std::fs;
use std::path::{Path, PathBuf};

/// Compares the crate's public items with `tests/public_api.txt`.
///
/// # Panics
///
/// Where they differ, unless `UZRAM_BLESS` is set: then the file is written.
#[track_caller]
pub fn assert_listed(manifest_dir: &str) {
    let root = Path::new(manifest_dir);
    let wanted = listing(&root.join("src"));
    let path = root.join("tests/public_api.txt");
    if std::env::var_os("UZRAM_BLESS").is_some() {
        fs::write(&path, wanted).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        return;
    }
    let listed = fs::read_to_string(&path).unwrap_or_default();
    let missing = lines_without(&wanted, &listed);
    let gone = lines_without(&listed, &wanted);
    assert!(
        missing.is_empty() && gone.is_empty(),
        "{} is not the public API (UZRAM_BLESS=1 writes it).\nNot listed:\n{missing}\nListed, but gone:\n{gone}",
        path.display()
    );
    assert!(listed == wanted, "{}: another order", path.display());
}

/// The lines of `of` that `other` lacks.
fn lines_without(of: &str, other: &str) -> String {
    let there: Vec<&str> = other.lines().collect();
    let missing: Vec<&str> = of.lines().filter(|line| !there.contains(line)).collect();
    missing.join("\n")
}

/// The public items of all files under a folder.
pub fn listing(folder: &Path) -> String {
    let mut files = Vec::new();
    walk(folder, &mut files);
    files.sort();
    let mut text = String::new();
    for file in files {
        let source = fs::read_to_string(&file).unwrap_or_default();
        let items = items(&source);
        if !items.is_empty() {
            let name = file.strip_prefix(folder).unwrap_or(&file);
            text += &format!("# {}\n{}\n", name.display(), items.join("\n"));
        }
    }
    text
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// What the members of a block are, where they are public with it.
#[derive(Clone, Copy, PartialEq)]
enum Members {
    /// Methods and types of a trait.
    Trait,
    /// Variants of an enum.
    Enum,
    /// Those that say `pub`.
    Marked,
}

/// The public items of one file.
fn items(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    // The block around the line: its indentation, header and members.
    let mut block: Option<(usize, String, Members)> = None;
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if text == "#[cfg(test)]" && indent == 0 {
            // Tests are the last in a file.
            break;
        }
        if block
            .as_ref()
            .is_some_and(|(at, ..)| indent <= *at && text.starts_with('}'))
        {
            block = None;
            continue;
        }
        let member = block.as_ref().filter(|(at, ..)| indent == at + 4);
        let members = member.map(|(_, _, members)| *members);
        let header = match member {
            Some((_, header, _)) => format!("{header}: "),
            None => String::new(),
        };
        let public = match members {
            Some(Members::Trait) => text.starts_with("fn ") || text.starts_with("type "),
            Some(Members::Enum) => text.starts_with(|c: char| c.is_ascii_uppercase()),
            _ => (member.is_some() || indent == 0) && text.starts_with("pub "),
        };
        let opens = |what: &str| text.starts_with(what) && indent == 0;
        if public {
            let item = signature(text, &mut lines);
            let opened = match &item {
                item if item.starts_with("pub trait ") => Some(Members::Trait),
                item if item.starts_with("pub enum ") => Some(Members::Enum),
                item if item.starts_with("pub struct ") => Some(Members::Marked),
                _ => None,
            };
            if let Some(members) = opened
                && !line.trim_end().ends_with([';', '}'])
            {
                let name = item.split_whitespace().nth(2).unwrap_or("");
                let name: String = name
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                block = Some((indent, name, members));
            }
            found.push(header + &item);
        } else if opens("impl") && !line.trim_end().ends_with('}') {
            let header = signature(text, &mut lines);
            // What a trait demands is no item of this type.
            if !header.contains(" for ") {
                block = Some((indent, header, Members::Marked));
            }
        }
    }
    found
}

/// An item without its body, on one line.
fn signature<'a>(first: &str, lines: &mut impl Iterator<Item = &'a str>) -> String {
    let mut text = first.trim().to_owned();
    let use_list = text.starts_with("pub use ");
    let ends = |text: &str| match use_list {
        true => text.ends_with(';'),
        false => text.ends_with(['{', ';', ',', '}']) && !open_parenthesis(text),
    };
    while !ends(&text) {
        let Some(line) = lines.next() else { break };
        text = format!("{text} {}", line.trim());
    }
    let text = match text.split_once(" = ") {
        Some((head, _)) if head.starts_with("pub const ") => head.to_owned(),
        _ => text,
    };
    let end = if use_list {
        text.len()
    } else {
        text.find(" {").unwrap_or(text.len())
    };
    let text = text[..end].trim_end_matches([';', ',', '{', ' ']);
    text.replace("( ", "(").replace(", )", ")")
}

fn open_parenthesis(text: &str) -> bool {
    text.matches('(').count() > text.matches(')').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_items_are_found_and_others_are_not() {
        let source = "\
pub use a::{
    B, C,
};
pub const SIZE: usize = 3;
pub(crate) struct Hidden {
    pub field: u8,
}
/// Doc.
pub struct Shown {
    /// Doc.
    pub field: u8,
    private: u8,
}
pub struct Unit;
pub enum Kind {
    One,
    Two {
        field: u8,
    },
}
pub trait Trait: Send {
    fn method(&self) -> u8 {
        self.private_call(
            1,
        )
    }
    fn required(&self);
}
impl<T> Shown<T> {
    pub fn long(
        &self,
        number: usize,
    ) -> Result<(), Error> {
        pub_call();
    }
    fn private(&self) {}
    pub fn short() -> u8 {
        0
    }
}
impl Trait for Shown {
    fn method(&self) -> u8 {
        1
    }
}
#[cfg(test)]
pub fn never() {}
";
        assert_eq!(
            items(source),
            [
                "pub use a::{ B, C, }",
                "pub const SIZE: usize",
                "pub struct Shown",
                "Shown: pub field: u8",
                "pub struct Unit",
                "pub enum Kind",
                "Kind: One",
                "Kind: Two",
                "pub trait Trait: Send",
                "Trait: fn method(&self) -> u8",
                "Trait: fn required(&self)",
                "impl<T> Shown<T>: pub fn long(&self, number: usize) -> Result<(), Error>",
                "impl<T> Shown<T>: pub fn short() -> u8",
            ]
        );
    }
}
