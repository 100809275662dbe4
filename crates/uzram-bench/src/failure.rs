//! What the program ends with: the failures and exit codes of `uzram`.

pub(crate) use uzram_spec::{Failure, FailureKind as Kind, Result};

/// A failure of the laboratory, with its causes in words.
pub(crate) fn failed(error: anyhow::Error) -> Failure {
    Failure::new(Kind::Failed, format!("{error:#}"))
}
