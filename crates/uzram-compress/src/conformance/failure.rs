//! What an algorithm failed: the check, the place, and the error that it returned there, if any.

use std::fmt;

use crate::Error;

/// Which check an algorithm failed, and how. Its text says all; `source` is the algorithm's own error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    text: String,
    source: Option<Box<Error>>,
}

impl Failure {
    /// Says where it happened, in front of what was said so far.
    pub(super) fn within(mut self, place: impl fmt::Display) -> Failure {
        self.text = format!("{place}: {}", self.text);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_deref()
            .map(|error| error as &(dyn std::error::Error + 'static))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure {
            text: error.to_string(),
            source: Some(Box::new(error)),
        }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure { text, source: None }
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Failure {
        text.to_owned().into()
    }
}
