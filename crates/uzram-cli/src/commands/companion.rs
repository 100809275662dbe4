//! Commands that another program serves: this process becomes that one.
//!
//! Programs of their own, so that no server, keeper or standby links plotting, fio's harness or a terminal's library, and locks
//! them in memory. Each is looked for beside this program and then on `PATH`. A program of one's own, `NAME`, prefers
//! `NAME-bench` and `NAME-top`.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::exit::{Failure, Result};

/// A program that serves some of the commands.
struct Companion {
    program: &'static str,
    /// What a program of one's own adds to its name.
    suffix: &'static str,
    commands: &'static [&'static str],
}

const COMPANIONS: &[Companion] = &[
    Companion {
        program: "uzram-bench",
        suffix: "-bench",
        commands: &["advise", "bench"],
    },
    Companion {
        program: "uzram-top",
        suffix: "-top",
        commands: &["report", "top"],
    },
];

/// Names the program that these start.
const STARTED_BY: &str = "UZRAM_PROGRAM";

/// What such a command is given. The other program knows its options.
#[derive(clap::Args)]
pub(crate) struct Words {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

impl Words {
    pub(crate) fn run(self, command: &str) -> Result {
        match of(command) {
            Some(companion) => companion.exec(command, self.words),
            None => Err(Failure::usage(format!("no program serves '{command}'"))),
        }
    }
}

fn of(command: &str) -> Option<&'static Companion> {
    COMPANIONS
        .iter()
        .find(|companion| companion.commands.contains(&command))
}

/// Whether another program serves a command.
pub(crate) fn serves(command: &str) -> bool {
    of(command).is_some()
}

/// Shows the help of such a command.
pub(crate) fn help(command: &str) -> Result {
    let words = vec!["--help".into()];
    Words { words }.run(command)
}

/// Lets the programs write their pages of the manual to a directory.
pub(crate) fn man(dir: &Path) -> Result {
    COMPANIONS
        .iter()
        .try_for_each(|companion| companion.man(dir))
}

impl Companion {
    /// Becomes the program; returns where that fails.
    fn exec(&self, name: &str, words: Vec<OsString>) -> Result {
        let mut command = self.command();
        // Most of what uzram-bench serves is below `bench`, which goes without saying.
        command.args((name != "bench").then_some(name));
        let error = command.args(words).exec();
        Err(self.missing(name, &command, &error))
    }

    fn man(&self, dir: &Path) -> Result {
        let mut command = self.command();
        let program = self.program;
        let status = match command.arg("man").arg(dir).status() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pages = self.commands.join(" and ");
                eprintln!(
                    "uzram: no pages on {pages}: {program}, which writes them, is neither beside uzram nor on PATH"
                );
                return Ok(());
            }
            status => status.map_err(|error| self.missing("man", &command, &error))?,
        };
        match status.success() {
            true => Ok(()),
            false => Err(Failure::failed(format!("{program} man: {status}"))),
        }
    }

    fn command(&self) -> Command {
        let own = std::env::current_exe().unwrap_or_default();
        let mut command = Command::new(self.find(&own).unwrap_or_else(|| self.program.into()));
        command.env(STARTED_BY, own);
        command
    }

    /// The program beside this one.
    fn find(&self, own: &Path) -> Option<PathBuf> {
        let mut name = own.file_name()?.to_owned();
        name.push(self.suffix);
        let beside = [name, self.program.into()].map(|name| own.with_file_name(name));
        beside.into_iter().find(|path| path.is_file())
    }

    fn missing(&self, name: &str, command: &Command, error: &io::Error) -> Failure {
        let (path, program) = (command.get_program().display(), self.program);
        let message = match error.kind() {
            io::ErrorKind::NotFound => format!(
                "uzram {name} needs the program {program}, which is neither beside uzram nor on PATH: in uzram's sources, cargo \
                 build --release makes both in target/release, and cargo install --path crates/{program} installs it"
            ),
            _ => format!("cannot execute {path}: {error}"),
        };
        Failure::impossible(message)
    }
}
