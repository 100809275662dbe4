//! How far a request has come: by that it is known whose turn it is, and so which deadline counts.

use tokio::time::Instant;

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestPhase {
    /// Its head is not whole.
    Head,
    /// Its body is read, which has a deadline where that is done.
    Body,
    /// It is carried out.
    Work,
    /// It was answered then.
    Answered(Instant),
}
