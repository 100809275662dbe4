//! What this crate's errors are to those who ask for something: [`Failure`]s, with the kinds that exit codes come from.

use uzram_spec::{Failure, FailureKind};

use crate::{ControlError, Error};

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let kind = match &error {
            Error::NotFound { .. } => FailureKind::NoDevice,
            Error::BadName { .. } => FailureKind::Usage,
            Error::NotPrivate { .. } => FailureKind::Impossible,
            Error::Exists { .. } => FailureKind::Busy,
            Error::System { source, .. } => FailureKind::from_io(source),
        };
        Failure::new(kind, error)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Failure {
        Failure::new(FailureKind::from_errno(error.errno), error)
    }
}

impl From<Failure> for ControlError {
    fn from(failure: Failure) -> ControlError {
        ControlError {
            errno: failure.kind.errno(),
            message: failure.to_string(),
        }
    }
}
