//! This crate's README lists every feature with what its driver says of itself. `UZRAM_BLESS=1` writes the table anew.

use std::path::Path;

use uzram_compress::Registry;

const HEAD: &str = "| feature | name | priority | |\n| --- | --- | --- | --- |\n";

#[test]
fn the_readme_lists_every_feature() {
    let manifest = include_str!("../Cargo.toml");
    let (_, defaults) = manifest.split_once("default = [\n").unwrap();
    let features: Vec<&str> = defaults
        .lines()
        .take_while(|line| *line != "]")
        .map(|line| line.trim_matches([' ', '"', ',']))
        .collect();
    let registry = Registry::builtin();
    if registry.iter().count() != features.len() {
        eprintln!("SKIP the table of features: this build lacks some");
        return;
    }
    // The manifest lists them in the order of the backends.
    let rows: Vec<String> = features
        .iter()
        .zip(registry.iter())
        .map(|(feature, a)| {
            let (name, priority) = (a.name(), a.priority());
            assert!(
                a.driver_name().starts_with(feature) || name == *feature,
                "feature {feature} stands where driver {} does",
                a.driver_name()
            );
            format!(
                "| `{feature}` | `{name}` | {priority} | {} |\n",
                a.summary()
            )
        })
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(HEAD).unwrap();
    let end = rest.find("\n\n").map_or(0, |at| at + 1);
    let end = if rest.starts_with('\n') { 0 } else { end };
    if std::env::var_os("UZRAM_BLESS").is_some() {
        let table = rows.concat();
        std::fs::write(&path, format!("{before}{HEAD}{table}{}", &rest[end..])).unwrap();
        return;
    }
    assert!(
        rest[..end] == rows.concat(),
        "README.md should have (UZRAM_BLESS=1 writes it):\n{HEAD}{}",
        rows.concat()
    );
}
