//! What the library crates show is deliberate: `tests/public/CRATE.txt` lists every name that a crate exports and every
//! call of its types. Whoever adds one on purpose writes the list anew: `UZRAM_WRITE_PUBLIC=1 cargo test -p uzram --test
//! public`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The names of `pub use` statements and of public constants of a crate's root.
fn exports(root: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for statement in root.split(';') {
        let Some((_, paths)) = statement.split_once("\npub use ") else {
            let constant = statement.rsplit_once("\npub const ");
            names.extend(constant.and_then(|(_, rest)| Some(rest.split_once(':')?.0.to_owned())));
            continue;
        };
        let last = paths.rsplit_once("::").map_or(paths, |(_, last)| last);
        let list = last.trim_matches(['{', '}', '\n', ' ']).split(',');
        let renamed = |name: &str| name.rsplit(" as ").next().unwrap_or(name).trim().to_owned();
        names.extend(list.map(renamed).filter(|name| !name.is_empty()));
    }
    names
}

fn sources(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// The type of a line such as `impl<'a> Iterator for Objects<'b> {`.
fn implemented(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("impl")?.strip_suffix('{')?;
    let rest = rest.rsplit_once(" for ").map_or(rest, |(_, name)| name);
    let rest = match rest.strip_prefix('<') {
        Some(generic) => generic.split_once("> ")?.1,
        None => rest,
    };
    rest.trim().split('<').next()
}

fn listing(folder: &Path) -> String {
    let root = fs::read_to_string(folder.join("src/lib.rs")).unwrap();
    let mut names = exports(&root);
    let types = names.clone();
    let mut files = Vec::new();
    sources(&folder.join("src"), &mut files);
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        let mut holder = None;
        for line in text.lines() {
            if line.starts_with("impl") {
                holder = implemented(line).filter(|name| types.contains(*name));
            } else if line == "}" {
                holder = None;
            }
            let rest = line.strip_prefix("    pub ").unwrap_or_default();
            let rest = rest
                .trim_start_matches("unsafe ")
                .trim_start_matches("const ");
            if let (Some(holder), Some(call)) = (holder, rest.strip_prefix("fn ")) {
                let end = call.find(['(', '<']).unwrap_or(call.len());
                names.insert(format!("{holder}::{}", &call[..end]));
            }
        }
    }
    names.into_iter().map(|name| name + "\n").collect()
}

#[test]
fn only_what_is_listed_is_public() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["uzram", "uzram-pool", "uzram-backing"] {
        let folder = here.with_file_name(name);
        if !folder.exists() {
            // The crate alone, as it is packaged.
            continue;
        }
        let list = here.join("tests/public").join(name).with_extension("txt");
        let now = listing(&folder);
        if std::env::var_os("UZRAM_WRITE_PUBLIC").is_some() {
            fs::create_dir_all(list.parent().unwrap()).unwrap();
            fs::write(&list, &now).unwrap();
        }
        let listed = fs::read_to_string(&list).unwrap();
        let (now, listed): (BTreeSet<_>, BTreeSet<_>) =
            (now.lines().collect(), listed.lines().collect());
        let new: Vec<_> = now.difference(&listed).collect();
        let gone: Vec<_> = listed.difference(&now).collect();
        assert!(
            new.is_empty() && gone.is_empty(),
            "{name}: public and not listed: {new:?}; listed and not public: {gone:?}"
        );
    }
}
