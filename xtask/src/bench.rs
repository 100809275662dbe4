//! `cargo xtask bench NAME`: each benchmark by one short command. [`recipes`] are runs of `uzram bench`; the library's own
//! are in `uzram-bench`, built for speed and with all rivals; `guest` measures ublk beside the kernel's zram in a virtual
//! machine.

mod guest;
mod machine;
mod recipes;
mod record;
mod runs;
mod table;
mod variants;

use anyhow::{Result, bail};

use crate::{setup, sh};
use recipes::RECIPES;

/// The subcommands of `uzram-bench`.
const OF_LIBRARY: &[(&str, &str)] = &[
    ("core", "the library against its codecs"),
    (
        "codecs",
        "every algorithm and its rivals on several kinds of pages; --only NAME",
    ),
    ("attach", "how fast a new process takes a device over"),
    (
        "churn",
        "what random overwrites make of memory, with and without compaction",
    ),
    ("dictionary", "what a trained dictionary gains and costs"),
    (
        "policy",
        "density with background recompression, and what requests lose meanwhile",
    ),
    ("dedup", "what sharing identical pages costs and gains"),
    (
        "units",
        "what it would gain and cost to compress neighbouring pages together",
    ),
    (
        "rivals",
        "the library beside kernel zram, trueno-zram-core and bare codecs; --corpus DIR",
    ),
    (
        "model",
        "what a served disk should cost, from what its parts cost",
    ),
];

const GUEST: (&str, &str) = (
    "guest",
    "ublk beside the kernel's zram, in a virtual machine; --variants, --rounds N",
);

pub(crate) fn bench(args: &[&str]) -> Result<()> {
    let Some((name, rest)) = args.split_first() else {
        bail!("which benchmark?\n{}", list());
    };
    if matches!(*name, "--help" | "-h" | "help") {
        println!("{}", list());
        return Ok(());
    }
    if *name == GUEST.0 {
        return guest::bench(rest);
    }
    let recipe = RECIPES.iter().find(|recipe| recipe.name == *name);
    if recipe.is_none() && !OF_LIBRARY.iter().any(|(known, _)| known == name) {
        bail!("there is no benchmark '{name}'\n{}", list());
    }
    setup::setup(setup::Purpose::Test)?;
    match recipe {
        Some(recipe) => recipe.run(rest),
        None => sh::run(sh::cargo(&[LIBRARY, args].concat())),
    }
}

/// All there are.
fn list() -> String {
    let mut list = String::from("usage: cargo xtask bench NAME [OPTIONS]\n\n");
    let recipes = RECIPES.iter().map(|recipe| (recipe.name, recipe.about));
    let all = recipes.chain(OF_LIBRARY.iter().copied()).chain([GUEST]);
    for (name, about) in all {
        list += &format!("  {name:10}  {about}\n");
    }
    list + "\nAll take --quick, --record FILE, and, but for churn, --rounds N; NAME --help has the rest."
}

/// Builds the library's benchmarks for speed, with all rivals, and runs one.
pub(crate) const LIBRARY: &[&str] = &[
    "run",
    "--release",
    "--quiet",
    "--package",
    "uzram-bench",
    "--features",
    "rivals",
    "--",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_benchmark_of_the_library_is_listed() {
        let program = include_str!("../../crates/uzram-bench/src/main.rs");
        let (_, program) = program.split_once("enum Benchmark {\n").unwrap();
        let (variants, _) = program.split_once("\n}\n").unwrap();
        // One level in, and no comment.
        let lines = variants
            .lines()
            .filter_map(|line| line.strip_prefix("    "));
        let names = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
        let names = names.map(|line| line.split(['(', ' ']).next().unwrap().to_lowercase());
        let listed = OF_LIBRARY.iter().map(|(name, _)| name.to_string());
        assert_eq!(names.collect::<Vec<_>>(), listed.collect::<Vec<_>>());
    }

    #[test]
    fn without_a_name_or_with_a_wrong_one_all_are_listed() {
        for args in [&[][..], &["nonsense"]] {
            let error = bench(args).unwrap_err().to_string();
            for name in ["nbd ", "nbd-fill", "loop", "series", "api", "core", "guest"] {
                assert!(error.contains(&format!("\n  {name}")), "{name}: {error}");
            }
        }
    }
}
