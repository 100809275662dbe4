//! Errors of the API: an errno, as everywhere in zram, words, and the HTTP status that says it best.

use serde::{Deserialize, Serialize};
use uzram_control::ControlError;
use uzram_control::zram::Errno;

const NAMES: &[(i32, &str)] = &[
    (1, "EPERM"),
    (2, "ENOENT"),
    (4, "EINTR"),
    (5, "EIO"),
    (6, "ENXIO"),
    (7, "E2BIG"),
    (11, "EAGAIN"),
    (12, "ENOMEM"),
    (13, "EACCES"),
    (15, "ENOTBLK"),
    (16, "EBUSY"),
    (17, "EEXIST"),
    (19, "ENODEV"),
    (21, "EISDIR"),
    (22, "EINVAL"),
    (26, "ETXTBSY"),
    (28, "ENOSPC"),
    (30, "EROFS"),
    (34, "ERANGE"),
    (71, "EPROTO"),
    (75, "EOVERFLOW"),
    (95, "EOPNOTSUPP"),
];

/// The name of an errno, such as `EBUSY`; `EIO` for one that this program does not use.
pub fn errno_name(errno: i32) -> &'static str {
    let known = NAMES.iter().find(|(number, _)| *number == errno);
    known.map_or("EIO", |(_, name)| name)
}

/// An error as it stands in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Body {
    /// The number.
    pub(crate) errno: i32,
    /// Its name.
    #[serde(default)]
    pub(crate) name: String,
    /// In words.
    pub(crate) message: String,
}

impl From<ControlError> for Body {
    fn from(error: ControlError) -> Body {
        Body {
            errno: error.errno,
            name: errno_name(error.errno).into(),
            message: error.message,
        }
    }
}

impl Body {
    pub(crate) fn new(errno: Errno, message: impl Into<String>) -> Body {
        ControlError {
            errno: errno.raw_os_error(),
            message: message.into(),
        }
        .into()
    }

    pub(crate) fn of(errno: Errno) -> Body {
        let said = std::io::Error::from(errno).to_string();
        // Without "(os error 16)": the number has a field of its own.
        let said = said
            .split(" (os error")
            .next()
            .unwrap_or_default()
            .to_owned();
        Body::new(errno, said)
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> u16 {
        match self.name.as_str() {
            "EINVAL" | "ERANGE" | "E2BIG" | "ENOTBLK" | "EPROTO" | "EOVERFLOW" | "EISDIR" => 400,
            "EACCES" | "EPERM" | "EROFS" => 403,
            "ENOENT" | "ENODEV" | "ENXIO" => 404,
            "EBUSY" | "EEXIST" | "EAGAIN" | "ETXTBSY" => 409,
            "EOPNOTSUPP" => 405,
            "ENOMEM" | "ENOSPC" => 507,
            _ => 500,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_names_words_and_a_status() {
        let busy = Body::of(Errno::BUSY);
        assert_eq!(
            (busy.errno, busy.name.as_str(), busy.status()),
            (16, "EBUSY", 409)
        );
        assert_eq!(busy.message, "Device or resource busy");
        assert_eq!(Body::of(Errno::NODEV).status(), 404);
        assert_eq!(errno_name(9999), "EIO");
    }
}
