//! What the program ends with: the failures and exit codes of `uzram`.

pub(crate) use uzram_spec::{Failure, Result};

/// A failure of the laboratory, with its causes in words, and the limits of this process that can be behind it.
pub(crate) fn failed(error: anyhow::Error) -> Failure {
    let failure = Failure::failed(format!("{error:#}"));
    match uzram_spec::rlimit::behind(&*error) {
        Some(limits) => failure.with_hint(limits),
        None => failure,
    }
}
