//! The one error of the compress API. Lookup and parameter errors name what was given and what would be
//! accepted; the two that a tfm can return on the hot path carry no heap data.

use thiserror::Error as ThisError;

/// Why a lookup, a preparation or a transform failed.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// No algorithm or driver has that name (the kernel's ENOENT).
    #[error("unknown algorithm '{name}' (known: {known})")]
    UnknownAlgorithm {
        /// What was asked for.
        name: String,
        /// The names that are registered, in listing order.
        known: String,
    },
    /// A driver of that name is registered already (the kernel's EEXIST).
    #[error("a driver named '{driver}' is registered already")]
    DuplicateDriver {
        /// The driver name.
        driver: String,
    },
    /// The algorithm gave a wrong answer in its self-test and was not registered.
    #[error("driver '{driver}' failed its self-test: {reason}")]
    SelfTest {
        /// The driver name.
        driver: String,
        /// Which check failed, and how.
        reason: String,
    },
    /// The algorithm has no such parameter.
    #[error("'{algorithm}' has no parameter '{param}' (it takes: {known})")]
    UnknownParam {
        /// The algorithm's name.
        algorithm: String,
        /// What was given.
        param: String,
        /// The parameters that it has.
        known: String,
    },
    /// The parameter exists, but not with that value.
    #[error("parameter {param}={given} of '{algorithm}' is not possible: it takes {accepted}")]
    BadParam {
        /// The algorithm's name.
        algorithm: String,
        /// The parameter.
        param: String,
        /// The value given.
        given: String,
        /// The values accepted.
        accepted: String,
    },
    /// A word in a list of parameters is not of the form key=value.
    #[error("'{given}' is no parameter: give key=value pairs such as level=3")]
    NotAPair {
        /// The word.
        given: String,
    },
    /// A name with parameters is not of the form `name` or `name(key=value,...)`.
    #[error(
        "'{given}' is no algorithm: give its name, or name(key=value,...) such as zstd(level=1)"
    )]
    BadSpec {
        /// What was given.
        given: String,
    },
    /// The algorithm does not take this dictionary.
    #[error(
        "a dictionary of {given_bytes} bytes is not possible for '{algorithm}': it takes {accepted}"
    )]
    BadDictionary {
        /// The algorithm's name.
        algorithm: String,
        /// Length of the dictionary.
        given_bytes: usize,
        /// What it takes.
        accepted: String,
    },
    /// No dictionary came of the samples.
    #[error("no dictionary can be made of {samples} samples: {reason}")]
    Training {
        /// How many samples there were.
        samples: usize,
        /// What is wrong with them, or with the size asked for.
        reason: String,
    },
    /// The result does not fit the output buffer.
    #[error("the result does not fit {got} bytes of output")]
    OutputTooSmall {
        /// The output buffer's size in bytes.
        got: usize,
    },
    /// The bytes are not this algorithm's output, or are damaged.
    #[error("not valid {algorithm} data")]
    Corrupt {
        /// The algorithm's name.
        algorithm: &'static str,
    },
    /// The library behind the algorithm could not set up its state.
    #[error("'{algorithm}' could not be set up: {reason}")]
    Setup {
        /// The algorithm's name.
        algorithm: &'static str,
        /// The library's own words.
        reason: String,
    },
}
