//! Why a connection ended. Each connection ends with exactly one of these, and it is logged once.

use std::io;
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
    #[error("option {option} has {len} bytes of data, more than the server takes")]
    OptionTooBig { option: u32, len: u32 },
    #[error("no export is named {0:?}")]
    UnknownExport(String),
    #[error("bad request magic {0:#010x}")]
    RequestMagic(u32),
    #[error("a write of {0} bytes is too large even to be skipped")]
    Oversized(u32),
    #[error("the client went away in the middle of a message")]
    Truncated,
    #[error("cannot receive: {0}")]
    Receive(#[source] io::Error),
    #[error("cannot send: {0}")]
    Send(#[source] io::Error),
    #[error("a read failed after the start of its reply was sent: {0}")]
    ReadFailed(#[source] uzram::Error),
    #[error("a worker panicked")]
    Panicked,
}

impl Close {
    /// Whether this is an ordinary end that needs no attention.
    pub(crate) fn is_clean(&self) -> bool {
        matches!(self, Close::Disconnected | Close::Aborted | Close::Stopping)
    }
}
