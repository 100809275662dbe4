//! Errors of the API: an errno, as everywhere in zram, words, and the HTTP status that says it best.

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uzram_control::ControlError;
use uzram_control::zram::{Errno, Refusal};

/// Every errno that an error may name: the number, the name, and the HTTP status that says it best.
pub(crate) const ERRNOS: &[(i32, &str, u16)] = &[
    (1, "EPERM", 403),
    (2, "ENOENT", 404),
    (4, "EINTR", 500),
    (5, "EIO", 500),
    (6, "ENXIO", 404),
    (7, "E2BIG", 400),
    (11, "EAGAIN", 503),
    (12, "ENOMEM", 507),
    (13, "EACCES", 403),
    (15, "ENOTBLK", 400),
    (16, "EBUSY", 409),
    (17, "EEXIST", 409),
    (19, "ENODEV", 404),
    (21, "EISDIR", 400),
    (22, "EINVAL", 400),
    (26, "ETXTBSY", 409),
    (28, "ENOSPC", 507),
    (30, "EROFS", 403),
    (34, "ERANGE", 400),
    (71, "EPROTO", 400),
    (75, "EOVERFLOW", 400),
    (95, "EOPNOTSUPP", 501),
    (110, "ETIMEDOUT", 504),
];

/// The name and the status of an errno; those of `EIO` for one that this program does not use.
fn known(errno: i32) -> (&'static str, u16) {
    let mut known = ERRNOS.iter().filter(|(number, ..)| *number == errno);
    known
        .next()
        .map_or(("EIO", 500), |&(_, name, status)| (name, status))
}

/// The name of an errno, such as `EBUSY`; `EIO` for one that this program does not use.
pub fn errno_name(errno: i32) -> &'static str {
    known(errno).0
}

/// An error as it stands in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

impl From<Refusal> for Body {
    fn from(refusal: Refusal) -> Body {
        match refusal.why {
            Some(why) => Body::new(refusal.errno, why),
            None => refusal.errno.into(),
        }
    }
}

impl From<Errno> for Body {
    fn from(errno: Errno) -> Body {
        let said = std::io::Error::from(errno).to_string();
        // Without "(os error 16)": the number has a field of its own.
        let said = said.split(" (os error").next();
        Body::new(errno, said.unwrap_or_default())
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
        let of_errno = || StatusCode::from_u16(known(self.errno).1);
        let status = self.status.ok_or(()).or_else(|()| of_errno());
        status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_names_words_and_a_status() {
        let busy = Body::from(Errno::BUSY);
        assert_eq!(
            (busy.errno, busy.name.as_str(), busy.status().as_u16()),
            (16, "EBUSY", 409)
        );
        assert_eq!(busy.message, "Device or resource busy");
        assert_eq!(Body::from(Errno::NODEV).status(), StatusCode::NOT_FOUND);
        assert_eq!(errno_name(9999), "EIO");
    }
}
