//! What an algorithm failed: the check, the place, and the error that it returned there, if any.

use std::fmt;

use crate::Error;

/// Which check an algorithm failed, and how. Its text says all; `source` is the algorithm's own error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConformanceFailure {
    text: String,
    source: Option<Box<Error>>,
}

impl ConformanceFailure {
    /// Says where it happened, in front of what was said so far.
    pub(super) fn within(mut self, place: impl fmt::Display) -> ConformanceFailure {
        self.text = format!("{place}: {}", self.text);
        self
    }
}

impl fmt::Display for ConformanceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ConformanceFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_deref()
            .map(|error| error as &(dyn std::error::Error + 'static))
    }
}

impl From<Error> for ConformanceFailure {
    fn from(error: Error) -> ConformanceFailure {
        ConformanceFailure {
            text: error.to_string(),
            source: Some(Box::new(error)),
        }
    }
}

impl From<String> for ConformanceFailure {
    fn from(text: String) -> ConformanceFailure {
        ConformanceFailure { text, source: None }
    }
}

impl From<&str> for ConformanceFailure {
    fn from(text: &str) -> ConformanceFailure {
        text.to_owned().into()
    }
}
