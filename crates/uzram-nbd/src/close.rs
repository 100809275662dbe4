//! Why a connection ended. Each connection ends with exactly one of these, and it is logged once.

use crate::limits::AdmissionRefusal;
use std::{io, time::Duration};
use thiserror::Error;

/// The reason. [`Close::is_clean`] tells ordinary ends from faults of the client or the system.
#[derive(Debug, Error)]
pub(crate) enum Close {
    #[error("the client disconnected")]
    Disconnected,
    #[error("the client ended the negotiation")]
    Aborted,
    #[error("the server is stopping")]
    Stopping,
    #[error("the negotiation took longer than the server allows")]
    HandshakeTimeout,
    #[error("unknown client flags {0:#x}")]
    ClientFlags(u32),
    #[error("bad option magic {0:#018x}")]
    OptionMagic(u64),
    #[error("NBD_OPT_EXPORT_NAME after NBD_OPT_EXTENDED_HEADERS, which the protocol forbids")]
    ExportNameExtended,
    #[error("option {option} has {len} bytes of data, more than the server takes")]
    OptionTooBig { option: u32, len: u32 },
    /// The name is cut: see [`Close::unknown_export`].
    #[error("no export is named {0:?}")]
    UnknownExport(String),
    #[error("the export cannot be had: {0}")]
    Unavailable(String),
    #[error("another process serves the client now")]
    GivenAway,
    #[error("refused: {0}")]
    Refused(AdmissionRefusal),
    #[error("there was no request for {} seconds, the limit", .0.as_secs_f64())]
    Idle(Duration),
    #[error("its peer had more than half of the places, and another peer wanted one")]
    Replaced,
    #[error("the client took nothing of a reply for {} seconds, the limit", .0.as_secs_f64())]
    SendTimeout(Duration),
    #[error("the client vanished: it acknowledges nothing any more")]
    Vanished,
    #[error("bad request magic {0:#010x}")]
    RequestMagic(u32),
    #[error("a payload of {0} bytes is too large even to be skipped")]
    Oversized(u64),
    #[error("the client went away in the middle of a message")]
    Truncated,
    #[error("cannot receive: {0}")]
    Receive(#[source] io::Error),
    #[error("cannot send: {0}")]
    Send(#[source] io::Error),
    #[error("a read failed after the start of its reply was sent: {0}")]
    ReadFailed(#[source] uzram::Error),
    #[error("it has no TLS, which this server requires")]
    TlsRequired,
    #[error("{0}")]
    Tls(#[source] io::Error),
    #[error("a worker panicked")]
    Panicked,
}

/// Most characters of a name that a log shows.
const MAX_NAME: usize = 64;

impl Close {
    /// A client may ask for a name of any bytes and of 64 KiB.
    pub(crate) fn unknown_export(name: &[u8]) -> Self {
        let name = String::from_utf8_lossy(name);
        let mut shown: String = name.chars().take(MAX_NAME).collect();
        if shown.len() < name.len() {
            shown.push('…');
        }
        Close::UnknownExport(shown)
    }

    pub(crate) fn receive(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Close::Vanished,
            _ => Close::Receive(error),
        }
    }

    pub(crate) fn send(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Close::Vanished,
            _ => Close::Send(error),
        }
    }

    /// Whether this is an ordinary end that needs no attention.
    pub(crate) fn is_clean(&self) -> bool {
        matches!(
            self,
            Close::Disconnected
                | Close::Aborted
                | Close::Stopping
                | Close::GivenAway
                | Close::Idle(_)
                | Close::Replaced
        )
    }
}
