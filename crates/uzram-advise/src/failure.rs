//! What this crate's errors are to those who ask for something.

use uzram_spec::{Failure, FailureKind};

use crate::Error;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let kind = match &error {
            Error::Invalid { .. } => FailureKind::Usage,
            Error::Read { source, .. } => FailureKind::from_io(source),
            _ => FailureKind::Failed,
        };
        Failure::new(kind, error)
    }
}
