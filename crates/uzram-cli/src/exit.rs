//! Exit codes: each kind of failure has one, so that scripts need not read the words.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

/// The kinds of failure, by exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Failed = 1,
    Usage = 2,
    Busy = 3,
    NoDevice = 4,
    Impossible = 5,
}

/// A failure to report: its kind, and what to say.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
}

pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Display) -> Failure {
        Failure {
            kind,
            message: message.to_string(),
        }
    }

    /// With something more to say in parentheses.
    pub(crate) fn with_note(mut self, note: &str) -> Failure {
        self.message += &format!(" ({note})");
        self
    }

    /// Prints the message, if there is one: a server's failure was printed by the server.
    pub(crate) fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            let _ = writeln!(std::io::stderr(), "uzram: {}", self.message);
        }
        ExitCode::from(self.kind as u8)
    }

    /// The failure of a server process that has said why itself.
    pub(crate) fn silent(code: i32) -> Failure {
        let kinds = [Kind::Usage, Kind::Busy, Kind::NoDevice, Kind::Impossible];
        let kind = kinds
            .into_iter()
            .find(|kind| *kind as i32 == code)
            .unwrap_or(Kind::Failed);
        Failure {
            kind,
            message: String::new(),
        }
    }

    /// The errno that says it best.
    pub(crate) fn errno(&self) -> i32 {
        match self.kind {
            Kind::Failed => 5,
            Kind::Usage => 22,
            Kind::Busy => 16,
            Kind::NoDevice => 19,
            Kind::Impossible => 95,
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.kind == Kind::Busy
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

fn kind_of_io(error: &std::io::Error) -> Kind {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => Kind::Impossible,
        _ => Kind::Failed,
    }
}

fn kind_of_node(error: &uzram_blockdev::Error) -> Kind {
    match error {
        uzram_blockdev::Error::Open { source, .. } => kind_of_step(source),
        uzram_blockdev::Error::Read { source, .. } => kind_of_io(source),
        uzram_blockdev::Error::Absent { .. } => Kind::Failed,
        _ => Kind::Busy,
    }
}

/// Where what is missing is a driver or its node.
fn kind_of_step(error: &std::io::Error) -> Kind {
    match error.kind() {
        std::io::ErrorKind::NotFound => Kind::Impossible,
        _ => kind_of_io(error),
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::new(kind_of_io(&error), error)
    }
}

impl From<uzram::Error> for Failure {
    fn from(error: uzram::Error) -> Failure {
        let kind = match &error {
            uzram::Error::Invalid { .. } | uzram::Error::Compress(_) => Kind::Usage,
            _ => Kind::Failed,
        };
        Failure::new(kind, error)
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
            Error::System { source, .. } => kind_of_io(source),
            _ => Kind::Failed,
        };
        Failure::new(kind, error)
    }
}

impl From<uzram_control::ControlError> for Failure {
    fn from(error: uzram_control::ControlError) -> Failure {
        // As [`Failure::errno`].
        let kind = match error.errno {
            16 => Kind::Busy,
            22 => Kind::Usage,
            19 => Kind::NoDevice,
            95 => Kind::Impossible,
            _ => Kind::Failed,
        };
        Failure::new(kind, error)
    }
}

impl From<uzram_fuse::Error> for Failure {
    fn from(error: uzram_fuse::Error) -> Failure {
        let kind = match &error {
            uzram_fuse::Error::Node(error) => kind_of_node(error),
            uzram_fuse::Error::Taken { .. } => Kind::Busy,
            uzram_fuse::Error::Unavailable { .. }
            | uzram_fuse::Error::NeedsRoot
            | uzram_fuse::Error::NoDirectIo { .. } => Kind::Impossible,
            uzram_fuse::Error::System(step) => kind_of_step(&step.source),
            _ => Kind::Failed,
        };
        Failure::new(kind, error)
    }
}

impl From<uzram_advise::Error> for Failure {
    fn from(error: uzram_advise::Error) -> Failure {
        use uzram_advise::Error;
        let kind = match &error {
            Error::Invalid { .. } => Kind::Usage,
            Error::Read { source, .. } => kind_of_io(source),
            _ => Kind::Failed,
        };
        Failure::new(kind, error)
    }
}

impl From<uzram_ublk::Error> for Failure {
    fn from(error: uzram_ublk::Error) -> Failure {
        use uzram_ublk::Error;
        let kind = match &error {
            error if error.is_unavailable() => Kind::Impossible,
            Error::Invalid { .. } | Error::NotANode { .. } => Kind::Usage,
            Error::Taken { .. } => Kind::Busy,
            Error::Node(error) => kind_of_node(error),
            Error::System(step) => kind_of_io(&step.source),
            _ => Kind::Failed,
        };
        Failure::new(kind, error)
    }
}

impl From<uzram_nbd_kernel::Error> for Failure {
    fn from(error: uzram_nbd_kernel::Error) -> Failure {
        use uzram_nbd_kernel::Error;
        let kind = match &error {
            Error::NoClient | Error::NeedsRoot => Kind::Impossible,
            Error::Taken { .. } => Kind::Busy,
            Error::Node(error) => kind_of_node(error),
            Error::System(step) => kind_of_io(&step.source),
            Error::Refused { source, .. } => kind_of_io(&(*source).into()),
            _ => Kind::Failed,
        };
        Failure::new(kind, error)
    }
}

impl From<uzram_nbd::Error> for Failure {
    fn from(error: uzram_nbd::Error) -> Failure {
        use uzram_nbd::Error;
        match &error {
            Error::NotLoopback { .. } => {
                Failure::new(Kind::Usage, format!("{error} (with --allow-remote)"))
            }
            Error::Address { .. } | Error::Resolve { .. } | Error::NotASocket { .. } => {
                Failure::new(Kind::Usage, error)
            }
            Error::InUse { .. } => Failure::new(Kind::Busy, error),
            Error::Bind { source, .. } => Failure::new(kind_of_io(source), error),
            _ => Failure::new(Kind::Failed, error),
        }
    }
}

impl From<uzram_daemon::ClientError> for Failure {
    fn from(error: uzram_daemon::ClientError) -> Failure {
        match error {
            uzram_daemon::ClientError::Refused(error) => error.into(),
            error => Failure::new(Kind::Failed, error),
        }
    }
}

impl From<uzram_sysfs::Error> for Failure {
    fn from(error: uzram_sysfs::Error) -> Failure {
        let kind = match &error {
            uzram_sysfs::Error::NeedsRoot { .. } => Kind::Impossible,
            uzram_sysfs::Error::NoCommand => Kind::Usage,
            _ => Kind::Failed,
        };
        Failure::new(kind, error)
    }
}
