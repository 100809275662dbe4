//! Errors of the API: an errno, as everywhere in zram, words, and the HTTP status that says it best.

use hyper::StatusCode;
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
    (110, "ETIMEDOUT"),
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
    /// The HTTP status, where it is not the errno's.
    #[serde(skip)]
    status: Option<StatusCode>,
    /// The methods that a path knows.
    #[serde(skip)]
    pub(crate) allow: Option<String>,
}

impl From<ControlError> for Body {
    fn from(error: ControlError) -> Body {
        Body {
            errno: error.errno,
            name: errno_name(error.errno).into(),
            message: error.message,
            status: None,
            allow: None,
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

    /// The same with that HTTP status.
    pub(crate) fn with_status(mut self, status: StatusCode) -> Body {
        self.status = Some(status);
        self
    }

    /// The same with a list of the methods that would have been understood.
    pub(crate) fn allowing(mut self, methods: String) -> Body {
        self.allow = Some(methods);
        self
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| status_of(&self.name))
    }
}

/// The HTTP status of an errno.
pub(crate) fn status_of(name: &str) -> StatusCode {
    match name {
        "EINVAL" | "ERANGE" | "E2BIG" | "ENOTBLK" | "EPROTO" | "EOVERFLOW" | "EISDIR" => {
            StatusCode::BAD_REQUEST
        }
        "EACCES" | "EPERM" | "EROFS" => StatusCode::FORBIDDEN,
        "ENOENT" | "ENODEV" | "ENXIO" => StatusCode::NOT_FOUND,
        "EBUSY" | "EEXIST" | "ETXTBSY" => StatusCode::CONFLICT,
        "EOPNOTSUPP" => StatusCode::NOT_IMPLEMENTED,
        "EAGAIN" => StatusCode::SERVICE_UNAVAILABLE,
        "ETIMEDOUT" => StatusCode::GATEWAY_TIMEOUT,
        "ENOMEM" | "ENOSPC" => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Every errno that an error may name.
pub(crate) fn names() -> Vec<&'static str> {
    NAMES.iter().map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_names_words_and_a_status() {
        let busy = Body::of(Errno::BUSY);
        assert_eq!(
            (busy.errno, busy.name.as_str(), busy.status().as_u16()),
            (16, "EBUSY", 409)
        );
        assert_eq!(busy.message, "Device or resource busy");
        assert_eq!(Body::of(Errno::NODEV).status(), StatusCode::NOT_FOUND);
        assert_eq!(errno_name(9999), "EIO");
    }
}
