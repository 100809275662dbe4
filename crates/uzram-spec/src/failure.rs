//! Failures as values: a kind that decides the exit code and the errno, what happened, and what helps.
//!
//! A server's failure reaches the command that asked for the device, or the daemon's client, as this value. Nobody reads
//! it out of another process's stderr.

use std::fmt::{self, Display};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kinds of failure. Each has an exit code and an errno, so that scripts and clients need not read the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Something that was possible did not work (exit code 1, EIO).
    Failed,
    /// A value or a combination of values that no device can have (2, EINVAL).
    Usage,
    /// The device, its name or its node is in use (3, EBUSY).
    Busy,
    /// There is no such device (4, ENODEV).
    NoDevice,
    /// This machine or this user cannot do it: a driver or a permission is missing (5, EOPNOTSUPP).
    Impossible,
}

impl FailureKind {
    const ALL: [FailureKind; 5] = [
        FailureKind::Failed,
        FailureKind::Usage,
        FailureKind::Busy,
        FailureKind::NoDevice,
        FailureKind::Impossible,
    ];

    /// The exit code of a program that ends with such a failure.
    pub fn exit_code(self) -> u8 {
        match self {
            FailureKind::Failed => 1,
            FailureKind::Usage => 2,
            FailureKind::Busy => 3,
            FailureKind::NoDevice => 4,
            FailureKind::Impossible => 5,
        }
    }

    /// The errno that says it best.
    pub fn errno(self) -> i32 {
        match self {
            FailureKind::Failed => 5,
            FailureKind::Usage => 22,
            FailureKind::Busy => 16,
            FailureKind::NoDevice => 19,
            FailureKind::Impossible => 95,
        }
    }

    /// The kind of an errno; [`FailureKind::Failed`] for one that no kind has.
    pub fn from_errno(errno: i32) -> FailureKind {
        let found = FailureKind::ALL
            .into_iter()
            .find(|kind| kind.errno() == errno);
        found.unwrap_or(FailureKind::Failed)
    }

    /// The kind of a system call's error.
    pub fn from_io(error: &std::io::Error) -> FailureKind {
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => FailureKind::Impossible,
            _ => FailureKind::Failed,
        }
    }
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// What happened, in words.
    pub message: String,
    /// What helps, if anything is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The result of what can end in a [`Failure`].
pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure of that kind.
    pub fn new(kind: FailureKind, message: impl Display) -> Failure {
        Failure {
            kind,
            message: message.to_string(),
            hint: None,
        }
    }

    /// A failure of that kind, with the limits of this process that can be behind it as a hint.
    pub fn from_cause(kind: FailureKind, error: impl std::error::Error + 'static) -> Failure {
        Failure {
            kind,
            message: error.to_string(),
            hint: crate::rlimit::behind(&error),
        }
    }

    /// A failure of what should have worked.
    pub fn failed(message: impl Display) -> Failure {
        Failure::new(FailureKind::Failed, message)
    }

    /// A failure of what was asked for.
    pub fn usage(message: impl Display) -> Failure {
        Failure::new(FailureKind::Usage, message)
    }

    /// A failure because something is in use.
    pub fn busy(message: impl Display) -> Failure {
        Failure::new(FailureKind::Busy, message)
    }

    /// A failure to find a device.
    pub fn no_device(message: impl Display) -> Failure {
        Failure::new(FailureKind::NoDevice, message)
    }

    /// A failure of this machine or this user.
    pub fn impossible(message: impl Display) -> Failure {
        Failure::new(FailureKind::Impossible, message)
    }

    /// The same with a hint at what helps.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// The same with a note on what was done before it.
    pub fn with_note(mut self, note: &str) -> Failure {
        self.message += &format!(" ({note})");
        self
    }

    /// Whether something is in use.
    pub fn is_busy(&self) -> bool {
        self.kind == FailureKind::Busy
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::from_cause(FailureKind::from_io(&error), error)
    }
}

/// The kind of failure of a file or disk that cannot be the backing.
fn kind_of_backing(error: &uzram::BackingError) -> FailureKind {
    use rustix::io::Errno;
    use uzram::BackingError;
    use uzram::uzram_backing::OpenError;
    match error {
        BackingError::InUse | BackingError::Locked => FailureKind::Busy,
        BackingError::FileType
        | BackingError::Foreign
        | BackingError::Empty
        | BackingError::Open(OpenError::Size { .. } | OpenError::Short { .. }) => {
            FailureKind::Usage
        }
        BackingError::Io(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::NAMETOOLONG) => {
            FailureKind::Usage
        }
        BackingError::Io(Errno::ACCESS | Errno::PERM | Errno::ROFS) => FailureKind::Impossible,
        _ => FailureKind::Failed,
    }
}

impl From<uzram::Error> for Failure {
    fn from(error: uzram::Error) -> Failure {
        let kind = match &error {
            uzram::Error::Invalid { .. }
            | uzram::Error::Compress(_)
            | uzram::Error::HasBacking { .. }
            | uzram::Error::HasAgent
            | uzram::Error::NoAges
            | uzram::Error::DedupWithReserve
            | uzram::Error::NoDictionary { .. } => FailureKind::Usage,
            uzram::Error::Backing { source, .. } => kind_of_backing(source),
            _ => FailureKind::Failed,
        };
        Failure::from_cause(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_from_its_errno_and_has_its_own_exit_code() {
        let mut codes: Vec<u8> = FailureKind::ALL.map(FailureKind::exit_code).to_vec();
        codes.dedup();
        assert_eq!(codes, [1, 2, 3, 4, 5]);
        for kind in FailureKind::ALL {
            assert_eq!(FailureKind::from_errno(kind.errno()), kind);
        }
        assert_eq!(FailureKind::from_errno(12), FailureKind::Failed);
    }

    #[test]
    fn a_failure_reads_back_from_json() {
        let failure = Failure::new(FailureKind::Busy, "zram0 is in use").with_hint("umount it");
        let text = serde_json::to_string(&failure).unwrap();
        assert_eq!(
            text,
            r#"{"kind":"busy","message":"zram0 is in use","hint":"umount it"}"#
        );
        assert_eq!(serde_json::from_str::<Failure>(&text).unwrap(), failure);
        assert_eq!(failure.to_string(), "zram0 is in use (umount it)");
    }
}
