//! The errors of the compress API. Lookup and parameter errors name what was given and what would be accepted; the two
//! that a tfm can return on the hot path ([`Error::OutputTooSmall`], [`Error::Corrupt`]) carry no heap data.

use std::borrow::Cow;

use thiserror::Error as ThisError;

use crate::DictionarySpec;
use crate::conformance::ConformanceFailure;

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
    #[error("driver '{driver}' failed its self-test: {source}")]
    SelfTest {
        /// The driver name.
        driver: String,
        /// Which check failed, and how.
        source: ConformanceFailure,
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
    /// The algorithm takes no dictionary.
    #[error("a dictionary is not possible for '{algorithm}': it takes none")]
    NoDictionary {
        /// The algorithm's name.
        algorithm: String,
    },
    /// The algorithm takes no dictionary of that length.
    #[error(
        "a dictionary of {given_bytes} bytes is not possible for '{algorithm}': it takes {accepted}"
    )]
    DictionaryLength {
        /// The algorithm's name.
        algorithm: String,
        /// Length of the dictionary.
        given_bytes: usize,
        /// The dictionaries that it takes.
        accepted: DictionarySpec,
    },
    /// The dictionary begins like one of the algorithm's own format, and the rest is not valid.
    #[error("the dictionary for '{algorithm}' is damaged: {reason}; train another")]
    DamagedDictionary {
        /// The algorithm's name.
        algorithm: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No dictionary came of the samples.
    #[error("{}", no_dictionary(*.samples, source))]
    Training {
        /// Number of samples.
        samples: usize,
        /// What is wrong with them, or with the length asked for.
        source: TrainingError,
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
    /// The library behind the algorithm got no memory for its state.
    #[error("'{algorithm}' could not be set up: out of memory")]
    OutOfMemory {
        /// The algorithm's name.
        algorithm: &'static str,
    },
    /// The library behind the algorithm refused to set up its state.
    #[error("'{algorithm}' could not be set up: {source}")]
    Setup {
        /// The algorithm's name.
        algorithm: &'static str,
        /// The library's answer.
        source: LibraryError,
    },
}

/// Why no dictionary could be made of samples.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum TrainingError {
    /// The algorithm takes no dictionary of the length asked for.
    #[error("a dictionary of {given_bytes} bytes is not possible, but one of {accepted}")]
    Length {
        /// The length asked for.
        given_bytes: usize,
        /// The dictionaries that the algorithm takes.
        accepted: DictionarySpec,
    },
    /// A trainer needs more samples.
    #[error("it takes {needed} or more")]
    TooFewSamples {
        /// The fewest samples.
        needed: usize,
    },
    /// The samples repeat too little of each other.
    #[error("they have next to nothing in common")]
    NothingInCommon,
    /// The trainer's own answer.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The build lacks the feature that has the trainer.
    #[error("this build has no trainer: it is in the feature zstd, for lzhs in the feature lzhs")]
    NoTrainer,
}

/// A length that is not possible has nothing to do with the samples.
fn no_dictionary(samples: usize, source: &TrainingError) -> String {
    match source {
        TrainingError::Length { .. } => source.to_string(),
        _ => format!("no dictionary can be made of {samples} samples: {source}"),
    }
}

/// What a C library answered.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[error("{call}: {answer}")]
pub struct LibraryError {
    call: &'static str,
    answer: Cow<'static, str>,
}

impl LibraryError {
    /// An error of a library or of one of its calls, in the library's words.
    pub fn new(call: &'static str, answer: impl Into<Cow<'static, str>>) -> LibraryError {
        LibraryError {
            call,
            answer: answer.into(),
        }
    }
}
