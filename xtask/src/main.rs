//! `cargo xtask`: the project's own automation. One file for each task.
#![forbid(unsafe_code)]

mod acid;
mod bench;
mod binaries;
mod canary;
mod deny;
mod dist;
mod docs;
mod fuzz;
mod guest;
mod packages;
mod python;
mod run;
mod setup;
mod sh;
mod steps;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's own automation.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install the Debian packages that building, running and testing need
    Setup {
        /// Without those that only testing needs
        #[arg(long)]
        run: bool,
    },
    /// Set up what running needs, build, and run uzram with ARGS
    #[command(disable_help_flag = true)]
    Run(Rest),
    /// Format, lints, tidy and unit tests: needs neither root nor packages
    Check,
    /// Run all that CI runs: set-up, format, lints, docs, tidy, every test with every peer
    Test(test::TestOptions),
    /// Run a benchmark; without a name it lists them
    #[command(disable_help_flag = true)]
    Bench(Rest),
    /// Make corpora of pages in target/corpus from processes and files; --megabytes N of each
    #[command(disable_help_flag = true)]
    Corpus(Rest),
    /// Train the collection that lzhs has built in, with the corpora in target/corpus; makes those where there are none
    Collection,
    /// Fuzz what uzram reads from others, guided by coverage
    Fuzz(fuzz::FuzzOptions),
    /// Check licences, bans and sources of all dependencies
    Deny,
    /// Make what users install, in target/dist: a Debian package, an SBOM, static programs, checksums
    Dist(dist::DistOptions),
    /// Add one algorithm and the like in a copy of the tree, and see it taken everywhere
    Acid {
        /// What to add; all when none is named
        names: Vec<String>,
    },
    /// Run tests in a virtual machine with a kernel of its own
    Guest(guest::GuestOptions),
    /// Write the book's pages that are made of the program
    Docs {
        /// Write nothing; fail where a page is not what would be written
        #[arg(long)]
        check: bool,
    },
    /// Check what compilers do not: headers, formatting of every file, documents, links
    Tidy,
}

/// What another program's own options are.
#[derive(Debug, clap::Args)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Rest {
    fn words(&self) -> Vec<&str> {
        self.args.iter().map(String::as_str).collect()
    }
}

fn main() -> ExitCode {
    dispatch(Cli::parse().task).unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn dispatch(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup { run: true } => setup::setup(setup::PackagePurpose::Run)?,
        Task::Setup { run: false } => setup::setup(setup::PackagePurpose::Guest)?,
        Task::Run(rest) => return run::run(&rest.args),
        Task::Check => return test::check(),
        Task::Test(options) => return test::test(&options),
        Task::Bench(rest) => bench::bench(&rest.words())?,
        Task::Corpus(rest) => corpus(&rest.words())?,
        Task::Collection => collection()?,
        Task::Fuzz(options) => fuzz::fuzz(&options)?,
        Task::Deny => deny::deny()?,
        Task::Dist(options) => dist::dist(&options)?,
        Task::Acid { names } => acid::acid(&names)?,
        Task::Guest(options) => return guest::guest(&options),
        Task::Docs { check } => docs::docs(check)?,
        Task::Tidy => tidy::tidy()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Lets the program make corpora, in a folder that git does not see.
fn corpus(args: &[&str]) -> Result<()> {
    setup::setup(setup::PackagePurpose::Test)?;
    let dir = sh::target().join("corpus").display().to_string();
    let make = ["corpus", "--dir", &dir];
    bench::program(&[&make, args].concat())?;
    println!("in {dir}");
    Ok(())
}

/// Where the collection is that lzhs includes.
const COLLECTION: &str = "crates/uzram-compress/src/backends/lzhs/collection.bin";

/// Trains lzhs's built-in collection. The mix is all corpora of processes and files, each with the same weight.
fn collection() -> Result<()> {
    let dir = sh::target().join("corpus");
    if !dir.join("manifest.json").exists() {
        corpus(&[])?;
    }
    let out = sh::root().join(COLLECTION).display().to_string();
    let example = [
        "run",
        "--release",
        "--package",
        "uzram-compress",
        "--example",
        "collection",
    ];
    let args = ["--", &out, &dir.display().to_string()];
    sh::run(sh::cargo(&[&example[..], &args].concat()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_anothers_is_passed_on() {
        let cli = Cli::parse_from(["xtask", "bench", "nbd", "--quick", "--help"]);
        let Task::Bench(rest) = cli.task else {
            panic!("{:?}", cli.task)
        };
        assert_eq!(rest.words(), ["nbd", "--quick", "--help"]);
    }
}
