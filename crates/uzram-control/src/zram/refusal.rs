//! Why zram's interface refuses a value.

use std::fmt;

use super::Errno;
use crate::protocol::ControlError;

/// What the interface answers, and in words what the device said, where it said more: who uses it, for example. The kernel's
/// interface has room for the number alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the kernel's interface would answer.
    pub errno: Errno,
    /// What is known besides, for a reader.
    pub why: Option<String>,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        Refusal { errno, why: None }
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Refusal {
        let errno = match error.errno {
            errno @ 1..4096 => Errno::from_raw_os_error(errno),
            _ => Errno::IO,
        };
        Refusal {
            errno,
            why: Some(error.message).filter(|why| !why.is_empty()),
        }
    }
}

impl From<Refusal> for Errno {
    fn from(refusal: Refusal) -> Errno {
        refusal.errno
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Some(why) => f.write_str(why),
            None => self.errno.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}
