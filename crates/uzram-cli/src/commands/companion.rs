//! `uzram bench` and `uzram advise`: this process becomes `uzram-bench`, which serves both.
//!
//! A program of its own, so that no server, keeper or standby links plotting and fio's harness and locks them in memory.
//! It is looked for beside this program and then on `PATH`. A program of one's own, `NAME`, prefers `NAME-bench`.

pub(crate) mod check;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::exit::{Failure, Result};

/// The commands that `uzram-bench` serves.
pub(crate) const COMMANDS: [&str; 2] = ["advise", "bench"];
/// The program.
const PROGRAM: &str = "uzram-bench";
/// Names the program that the benchmarks make devices with.
const STARTED_BY: &str = "UZRAM_PROGRAM";

/// Measure devices beside others, the compress API, the library
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct BenchArgs {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Say which algorithms fit given memory, and why
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct AdviseArgs {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

impl BenchArgs {
    pub(crate) fn run(self) -> Result {
        exec(self.words)
    }
}

impl AdviseArgs {
    pub(crate) fn run(self) -> Result {
        let advise = std::iter::once("advise".into());
        exec(advise.chain(self.words))
    }
}

/// Shows the help of one of [`COMMANDS`].
pub(crate) fn help(command: &str) -> Result {
    let advise = (command == "advise").then_some("advise");
    exec(advise.into_iter().chain(["--help"]).map(OsString::from))
}

/// Lets the program write its pages of the manual to a directory.
pub(crate) fn man(dir: &Path) -> Result {
    let mut command = command();
    let status = match command.arg("man").arg(dir).status() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pages = COMMANDS.join(" and ");
            eprintln!(
                "uzram: no pages on {pages}: {PROGRAM}, which writes them, is neither beside uzram nor on PATH"
            );
            return Ok(());
        }
        status => status.map_err(|error| missing(&command, &error))?,
    };
    match status.success() {
        true => Ok(()),
        false => Err(Failure::failed(format!("{PROGRAM} man: {status}"))),
    }
}

/// Becomes the program; returns where that fails.
fn exec(words: impl IntoIterator<Item = OsString>) -> Result {
    let mut command = command();
    let error = command.args(words).exec();
    Err(missing(&command, &error))
}

fn command() -> Command {
    let own = std::env::current_exe().unwrap_or_default();
    let mut command = Command::new(find(&own).unwrap_or_else(|| PROGRAM.into()));
    command.env(STARTED_BY, own);
    command
}

/// The program beside this one.
fn find(own: &Path) -> Option<PathBuf> {
    let mut name = own.file_name()?.to_owned();
    name.push("-bench");
    let beside = [name, PROGRAM.into()].map(|name| own.with_file_name(name));
    beside.into_iter().find(|path| path.is_file())
}

fn missing(command: &Command, error: &io::Error) -> Failure {
    let program = command.get_program().display();
    let message = match error.kind() {
        io::ErrorKind::NotFound => format!(
            "benchmarks and advice need the program {PROGRAM}, which is neither beside uzram nor on PATH: in uzram's \
             sources, cargo build --release makes both in target/release, and cargo install --path crates/uzram-bench \
             installs it"
        ),
        _ => format!("cannot execute {program}: {error}"),
    };
    Failure::impossible(message)
}
