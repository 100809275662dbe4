//! Licences of what the programs link: most of them want their text beside each copy.
//!
//! The texts are those in the packages' own files, C libraries' included. A text that several packages have stands there once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::PROGRAMS;
use crate::sh;

/// What a file's name begins with that has a licence, in capitals.
const NAMES: &[&str] = &[
    "LICENSE",
    "LICENCE",
    "COPYING",
    "COPYRIGHT",
    "NOTICE",
    "UNLICENSE",
];
/// What such a file's name ends with if it has one of the names, but is none.
const CODE: &[&str] = &[".rs", ".c", ".h", ".toml", ".py", ".sh"];
/// So deep below a package licences of C libraries lie.
const DEPTH: u32 = 3;

/// What `cargo metadata` says.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
    /// None of what is in this tree.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// None: what is linked.
    kind: Option<String>,
}

/// One text for a file.
pub(super) fn notices() -> Result<String> {
    let args = ["metadata", "--locked", "--format-version=1"];
    let mut cargo = sh::cargo(&args);
    cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let metadata: Metadata = serde_json::from_str(&sh::output(cargo)?)?;
    let mut packages = linked(&metadata);
    packages.sort_by_key(|package| (&package.name, &package.version));
    let mut list = String::from(
        "The programs of uzram contain these packages. The numbers are those of the texts below.\n\n",
    );
    let mut texts: Vec<String> = Vec::new();
    for package in packages {
        let dir = package.manifest_path.parent();
        let mut found = BTreeSet::new();
        collect(
            dir.context("a manifest without a directory")?,
            DEPTH,
            &mut found,
        )?;
        let mut numbers = BTreeSet::new();
        for text in found {
            let at = texts.iter().position(|known| *known == text);
            numbers.insert(
                1 + at.unwrap_or_else(|| {
                    texts.push(text);
                    texts.len() - 1
                }),
            );
        }
        let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
        let licence = package.license.as_deref().unwrap_or("see its text");
        let (name, version) = (&package.name, &package.version);
        list += format!("{name} {version}: {licence} [{}]\n", numbers.join(", "))
            .replace(" []", "")
            .as_str();
    }
    for (at, text) in texts.iter().enumerate() {
        list += &format!("\n==== {}\n\n{text}\n", at + 1);
    }
    Ok(list)
}

/// Packages of others that the programs link.
fn linked(metadata: &Metadata) -> Vec<&Package> {
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|p| (&*p.id, p)).collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|n| (&*n.id, n)).collect();
    let is_ours = |p: &&Package| p.source.is_none() && PROGRAMS.iter().any(|(of, _)| *of == p.name);
    let mut todo: Vec<&str> = metadata
        .packages
        .iter()
        .filter(is_ours)
        .map(|p| &*p.id)
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if !seen.insert(id) {
            continue;
        }
        for dependency in nodes.get(id).into_iter().flat_map(|node| &node.deps) {
            if dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()) {
                todo.push(&dependency.pkg);
            }
        }
    }
    let of_others = |p: &&Package| p.source.is_some();
    seen.iter()
        .filter_map(|id| packages.get(id).copied())
        .filter(of_others)
        .collect()
}

/// The texts of licences in a directory and below.
fn collect(dir: &Path, depth: u32, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 0 {
            collect(&entry.path(), depth - 1, found)?;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_file() && is_licence(&name) {
            let text = fs::read(entry.path())?;
            found.insert(String::from_utf8_lossy(&text).trim().to_owned());
        }
    }
    Ok(())
}

fn is_licence(name: &str) -> bool {
    let capitals = name.to_uppercase();
    NAMES.iter().any(|known| capitals.starts_with(known))
        && !CODE.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_found_and_what_tests_need_is_not() {
        let package = |name: &str, source: &str| {
            format!(
                r#"{{"id":"{name}","name":"{name}","version":"1.0.0","license":"MIT","manifest_path":"/x/{name}/Cargo.toml",
                 "source":{source}}}"#
            )
        };
        let others = ["a", "b", "c", "d"].map(|name| package(name, "\"registry\""));
        let ours = package("uzram-cli", "null");
        let text = format!(
            r#"{{"packages":[{ours},{}],"resolve":{{"nodes":[
               {{"id":"uzram-cli","deps":[{{"pkg":"a","dep_kinds":[{{"kind":null}}]}},{{"pkg":"c","dep_kinds":[{{"kind":"dev"}}]}}]}},
               {{"id":"a","deps":[{{"pkg":"b","dep_kinds":[{{"kind":"build"}},{{"kind":null}}]}},
                                  {{"pkg":"d","dep_kinds":[{{"kind":"build"}}]}}]}}]}}}}"#,
            others.join(",")
        );
        let metadata: Metadata = serde_json::from_str(&text).unwrap();
        let names: Vec<&str> = linked(&metadata).iter().map(|p| &*p.name).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn licences_are_told_from_code() {
        assert!(is_licence("LICENSE-MIT") && is_licence("COPYING") && is_licence("license.md"));
        assert!(!is_licence("license.rs") && !is_licence("lib.rs") && !is_licence("Cargo.toml"));
    }
}
