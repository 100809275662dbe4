//! What this crate's errors are to those who ask for something: [`Failure`]s, with the kinds that exit codes come from.

use uzram_spec::{Failure, FailureKind};

use crate::{ControlError, Error};

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let kind = match &error {
            Error::NotFound { .. } => FailureKind::NoDevice,
            Error::BadName { .. } => FailureKind::Usage,
            Error::NotPrivate { .. } => FailureKind::Impossible,
            Error::NotText { .. } => FailureKind::Usage,
            Error::Damaged(_) => FailureKind::Failed,
            Error::Exists { .. } => FailureKind::Busy,
            Error::System { source, .. } => FailureKind::from_io(source),
        };
        let hint = match &error {
            Error::NotPrivate { .. } => {
                "set UZRAM_RUN_DIR to a directory of your own that nobody else may write to"
            }
            Error::NotText { .. } => "set UZRAM_RUN_DIR to another one",
            Error::Damaged(_) => "uzram remove --force takes it down",
            _ => return Failure::new(kind, error),
        };
        Failure::new(kind, error).with_hint(hint)
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
