//! What this crate's errors are to those who ask for something.

use uzram_spec::{Failure, FailureKind};

use crate::Error;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let kind = match &error {
            Error::NeedsRoot { .. } => FailureKind::Impossible,
            Error::NoCommand => FailureKind::Usage,
            _ => FailureKind::Failed,
        };
        Failure::new(kind, error)
    }
}
