//! `cargo xtask`: the project's own automation. One file for each task.
#![forbid(unsafe_code)]

mod acid;
mod bench;
mod canary;
mod docs;
mod format;
mod guest;
mod run;
mod setup;
mod sh;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask TASK

  setup [--run]      install the Debian packages that building, running and testing need (--run: without testing)
  run [ARGS...]      set up what running needs, build, and run uzram with ARGS
  test               all that CI runs: set-up, format, lints, docs, tidy, every test with every peer
  bench NAME [...]   run a benchmark; without a name it lists them; --quick, --record FILE
  corpus [...]       make corpora of pages in target/corpus from processes and files; --megabytes N of each
  fuzz [...]         fuzz the algorithms: --minutes N (1 for each), --seed N, names (all)
  acid               add an algorithm as one file and one line, in a copy, and see it taken everywhere
  guest [TEST...]    tests in a virtual machine with a kernel of its own; --list, --shell, --selftest
  docs [--check]     write the book's pages that are made of the program, or check that they are as it has them
  tidy               check what compilers do not: sizes, files, documents";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["setup"] => setup::setup(setup::Purpose::Guest)?,
        ["setup", "--run"] => setup::setup(setup::Purpose::Run)?,
        ["run", ..] => return run::run(&args[1..]),
        ["test"] => return test::test(),
        ["bench", rest @ ..] => bench::bench(rest)?,
        ["guest", rest @ ..] => return guest::guest(rest),
        ["corpus", rest @ ..] => corpus(rest)?,
        ["fuzz", rest @ ..] => fuzz(rest)?,
        ["acid"] => return acid::acid(),
        ["tidy"] => tidy::tidy()?,
        ["docs"] => docs::docs(false)?,
        ["docs", "--check"] => docs::docs(true)?,
        ["--help" | "-h" | "help"] => println!("{USAGE}"),
        [] => bail!("which task?\n{USAGE}"),
        other => bail!("'{}' is not understood\n{USAGE}", other.join(" ")),
    }
    Ok(ExitCode::SUCCESS)
}

/// Lets the program make corpora, in a folder that git does not see.
fn corpus(args: &[&str]) -> Result<()> {
    setup::setup(setup::Purpose::Test)?;
    let dir = sh::target().join("corpus").display().to_string();
    let make = ["corpus", "--dir", &dir];
    sh::run(sh::cargo(&[bench::PROGRAM, &make, args].concat()))?;
    println!("in {dir}");
    Ok(())
}

/// Runs the compress crate's fuzzer, optimised.
fn fuzz(args: &[&str]) -> Result<()> {
    let cargo = [
        "run",
        "--release",
        "--quiet",
        "--package",
        "uzram-compress",
        "--example",
        "fuzz",
        "--",
    ];
    sh::run(sh::cargo(&[&cargo, args].concat()))
}
