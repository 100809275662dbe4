//! The public API of a library crate as a listing under test: what is public is deliberate.
//!
//! The workspace warns of `pub` items that nobody outside can reach (`unreachable_pub`), so every `pub` in the source is a
//! part of the API. The listing is read from the source, as rustfmt lays it out: no nightly toolchain is needed. Where a
//! macro makes public items, the source is what the macro expands to.
//! `UZRAM_BLESS=1` writes the listing anew; the review of its difference is the point.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proc_macro2::TokenStream;

use crate::expand::Macros;

/// Compares the crate's public items with `tests/public_api.txt`. Says how they differ, unless `UZRAM_BLESS` is set: then the file
/// is written.
pub fn check_listed(manifest_dir: &str) -> Result<(), String> {
    let root = Path::new(manifest_dir);
    let wanted = listing(&root.join("src"));
    let path = root.join("tests/public_api.txt");
    if std::env::var_os("UZRAM_BLESS").is_some() {
        return fs::write(&path, wanted).map_err(|error| format!("{}: {error}", path.display()));
    }
    let listed = fs::read_to_string(&path).unwrap_or_default();
    let missing = lines_without(&wanted, &listed);
    let gone = lines_without(&listed, &wanted);
    if !missing.is_empty() || !gone.is_empty() {
        return Err(format!(
            "{} is not the public API (UZRAM_BLESS=1 writes it).\nNot listed:\n{missing}\nListed, but gone:\n{gone}",
            path.display()
        ));
    }
    match listed == wanted {
        true => Ok(()),
        false => Err(format!("{}: another order", path.display())),
    }
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
    let read = |file: PathBuf| {
        let source = fs::read_to_string(&file).unwrap_or_default();
        (file, source)
    };
    let files: Vec<(PathBuf, String)> = files.into_iter().map(read).collect();
    let mut macros = Macros::default();
    for (file, source) in &files {
        macros.define(&tokens(file, source));
    }
    let mut text = String::new();
    for (file, source) in files {
        let items = match macros.expand(tokens(&file, &source)) {
            Some(expanded) => items(&laid_out(&expanded.to_string())),
            None => items(&source),
        };
        if !items.is_empty() {
            let name = file.strip_prefix(folder).unwrap_or(&file);
            text += &format!("# {}\n{}\n", name.display(), items.join("\n"));
        }
    }
    text
}

fn tokens(file: &Path, source: &str) -> TokenStream {
    let parsed = source.parse();
    parsed.unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// Code as rustfmt lays it out.
fn laid_out(code: &str) -> String {
    let child = Command::new("rustfmt")
        .args(["--edition", "2024"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|e| panic!("rustfmt, which the listing needs: {e}"));
    let written = child
        .stdin
        .take()
        .map(|mut to| to.write_all(code.as_bytes()));
    let output = child.wait_with_output();
    match (written, output) {
        (Some(Ok(())), Ok(output)) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        (written, output) => panic!("rustfmt: {written:?}, {output:?}"),
    }
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

    /// The listing of a crate with two files: macros, and where they are invoked.
    fn listed(macros: &str, source: &str) -> String {
        let folder =
            std::env::temp_dir().join(format!("uzram-api-{}-{}", std::process::id(), source.len()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.rs"), macros).unwrap();
        fs::write(folder.join("b.rs"), source).unwrap();
        let text = std::panic::catch_unwind(|| listing(&folder));
        fs::remove_dir_all(&folder).unwrap();
        text.unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    }

    const TABLE: &str = "\
macro_rules! table {
    ($(#[$meta:meta])* $vis:vis $of:ident { $($name:ident: $type:ty = $value:literal;)* } $(also $more:expr),*) => {
        $(#[$meta])* $vis struct $of { $(#[doc = $value] $vis $name: $type,)* hidden: u8 }
        impl $of {
            $vis const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];
            pub fn all(&self) -> usize { [$($more),*].len() }
            method! { }
        }
    };
}
macro_rules! method {
    () => { pub fn made(&self, long: u8) {} };
}
";

    #[test]
    fn what_macros_make_is_found_too() {
        let source = "\
thread_local! { static X: u8 = 0; }
table! {
    #[derive(Debug)]
    pub Made { one: Map<u8, u8> = \"One.\"; two: u8 = \"Two.\"; } also 1 + 2, also 3
}
table! { pub(crate) Inner { three: u8 = \"x\"; } }
fn private() {
    table!(nothing that it knows);
}
";
        assert_eq!(
            listed(TABLE, source),
            "\
# b.rs
pub struct Made
Made: pub one: Map<u8, u8>
Made: pub two: u8
impl Made: pub const NAMES: &'static [&'static str]
impl Made: pub fn all(&self) -> usize
impl Made: pub fn made(&self, long: u8)
impl Inner: pub fn all(&self) -> usize
impl Inner: pub fn made(&self, long: u8)
"
        );
    }

    #[test]
    #[should_panic(expected = "others! is not this crate's")]
    fn what_another_crates_macro_may_make_is_no_secret() {
        listed("", "others! { pub struct X; }");
    }
}
