//! README's table of algorithms is the registry's. `UZRAM_BLESS=1 cargo test -p uzram-compress --test readme` writes
//! it anew.

use std::path::Path;

use uzram_compress::{Algorithm, ParamKind, Registry};

const HEAD: &str = "| name | driver | priority | parameters | |\n| --- | --- | --- | --- | --- |\n";

fn row(algorithm: &dyn Algorithm) -> String {
    let param = |spec: &uzram_compress::ParamSpec| match spec.kind {
        ParamKind::Int { min, max, default } => {
            format!("{} {min}..{max}, default {default}", spec.name)
        }
        other => format!("{} {other}", spec.name),
    };
    let mut params: Vec<_> = algorithm.params().iter().map(param).collect();
    params.extend(algorithm.dictionary().map(|_| "dict".to_owned()));
    let (name, driver) = (algorithm.name(), algorithm.driver_name());
    let (priority, summary) = (algorithm.priority(), algorithm.summary());
    let params = params.join("; ");
    format!("| {name} | `{driver}` | {priority} | {params} | {summary} |\n")
}

#[test]
fn readme_has_the_registrys_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let defaults = include_str!("../Cargo.toml")
        .split_once("default = [")
        .unwrap()
        .1;
    let all = defaults
        .lines()
        .skip(1)
        .take_while(|line| *line != "]")
        .count();
    let registry = Registry::builtin();
    if registry.iter().count() != all {
        eprintln!("SKIP README's table: this build lacks algorithms of the default one");
        return;
    }
    let wanted: String = registry.iter().map(|algorithm| row(&**algorithm)).collect();
    let path = root.join("../../README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme
        .split_once(HEAD)
        .expect("README.md has no table of algorithms");
    let end = rest.find("\n\n").unwrap() + 1;
    if std::env::var_os("UZRAM_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{HEAD}{wanted}{}", &rest[end..])).unwrap();
        return;
    }
    assert!(
        rest[..end] == wanted,
        "README.md should have (UZRAM_BLESS=1 writes it):\n{HEAD}{wanted}"
    );
}
