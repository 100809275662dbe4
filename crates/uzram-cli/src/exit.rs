//! How the program ends: a failure's words on stderr, and the exit code of its kind, so that scripts need not read the
//! words.

use std::io::Write;
use std::process::ExitCode;

use uzram_spec::rlimit;

pub(crate) use uzram_spec::{Failure, FailureKind as Kind, Result};

/// Prints a failure and gives its exit code.
pub(crate) fn report(failure: &Failure) -> ExitCode {
    let _ = match (&failure.hint, rlimit::behind_words(&failure.message)) {
        (None, Some(limits)) => writeln!(std::io::stderr(), "uzram: {failure} ({limits})"),
        _ => writeln!(std::io::stderr(), "uzram: {failure}"),
    };
    ExitCode::from(failure.kind.exit_code())
}
