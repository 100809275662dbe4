//! What the program ends with: a message, and an exit code that says which kind of failure it was. The codes are those of
//! `uzram --help`.

use std::fmt::Display;
use std::io;

/// The kinds of failure, by exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Failed = 1,
    Usage = 2,
    Busy = 3,
    NoDevice = 4,
    Impossible = 5,
}

/// A failure to report.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Display) -> Failure {
        let message = message.to_string();
        Failure { kind, message }
    }

    /// Refuses what a command line asks for.
    pub(crate) fn usage(message: impl Display) -> Failure {
        Failure::new(Kind::Usage, message)
    }

    fn from_io(source: &io::Error, message: impl Display) -> Failure {
        let kind = match source.kind() {
            io::ErrorKind::PermissionDenied => Kind::Impossible,
            _ => Kind::Failed,
        };
        Failure::new(kind, message)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::new(Kind::Failed, format!("{error:#}"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::from_io(&error, &error)
    }
}

impl From<uzram_control::Error> for Failure {
    fn from(error: uzram_control::Error) -> Failure {
        use uzram_control::Error;
        let kind = match &error {
            Error::NotFound { .. } => Kind::NoDevice,
            Error::BadName { .. } => Kind::Usage,
            Error::NotPrivate { .. } => Kind::Impossible,
            Error::Exists { .. } => Kind::Busy,
            Error::System { source, .. } => return Failure::from_io(source, &error),
            _ => Kind::Failed,
        };
        Failure::new(kind, error)
    }
}

impl From<uzram_advise::Error> for Failure {
    fn from(error: uzram_advise::Error) -> Failure {
        use uzram_advise::Error;
        match &error {
            Error::Invalid { .. } => Failure::usage(error),
            Error::Read { source, .. } => Failure::from_io(source, &error),
            _ => Failure::new(Kind::Failed, error),
        }
    }
}
