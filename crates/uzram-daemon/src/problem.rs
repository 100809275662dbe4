//! What is wrong with one entry of a configuration, told with the file and the section in which it stands.
//!
//! A problem keeps its entry from being used, and nothing else.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use uzram_spec::{Failure, FailureKind};

/// Where an entry stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The section's header, and what tells it from others; empty for the file as a whole.
    pub section: String,
}

impl Origin {
    /// A section of a file.
    pub fn new(file: &Path, section: impl Into<String>) -> Origin {
        Origin {
            file: file.into(),
            section: section.into(),
        }
    }

    /// What is wrong with a value there.
    pub fn usage(&self, message: impl Display) -> Problem {
        self.problem(Failure::usage(message))
    }

    /// What cannot be done with what stands there.
    pub fn problem(&self, failure: Failure) -> Problem {
        Problem {
            origin: self.clone(),
            failure,
        }
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match self.section.as_str() {
            "" => Ok(()),
            section => write!(f, ": {section}"),
        }
    }
}

/// Why an entry is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub origin: Origin,
    /// Why.
    pub failure: Failure,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.failure)
    }
}

/// The failure that stands for several: a value that cannot be outweighs what this machine lacks.
pub(crate) fn summary(problems: &[Problem]) -> Option<Failure> {
    let first = problems.first()?;
    let usage = |problem: &&Problem| problem.failure.kind == FailureKind::Usage;
    let weightiest = problems.iter().find(usage).unwrap_or(first);
    let message = match problems.len() {
        1 => "the configuration has a problem".into(),
        many => format!("the configuration has {many} problems"),
    };
    Some(Failure::new(weightiest.failure.kind, message))
}
