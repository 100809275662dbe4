//! How the program ends: a failure's words on stderr, and the exit code of its kind, so that scripts need not read the
//! words.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

pub(crate) use uzram_spec::{Failure, FailureKind as Kind, Result};
use uzram_spec::{printable, rlimit};

/// Prints a word to the user on stderr. Others' texts may be in it: a terminal shows them and does not obey them.
pub(crate) fn tell(note: impl Display) {
    let _ = writeln!(std::io::stderr(), "uzram: {}", printable(&note.to_string()));
}

/// The arguments, or the end of the program: with what is wrong with them, or with the help that was asked for.
pub(crate) fn parsed<T>(arguments: std::result::Result<T, clap::Error>) -> T {
    arguments.unwrap_or_else(|error| match uzram_manual::complaint(&error) {
        Some(complaint) => {
            tell(complaint);
            std::process::exit(Kind::Usage.exit_code().into())
        }
        None => error.exit(),
    })
}

/// Prints a failure and gives its exit code.
pub(crate) fn report(failure: &Failure) -> ExitCode {
    match (&failure.hint, rlimit::behind_words(&failure.message)) {
        (None, Some(limits)) => tell(format!("{failure} ({limits})")),
        _ => tell(failure),
    }
    ExitCode::from(failure.kind.exit_code())
}
